"""PURE: decodes the events of processes that use a socket for the first time.

In: samples of the ring buffer `new_processes`. Out: `ProcessEvent`s. The format is PROCESS_EVENT of
shapes.py.
"""

import struct

import msgspec

from hogpipe.linux.bpf.shapes import PROCESS_EVENT, format_of

_PROCESS_EVENT = struct.Struct(format_of(PROCESS_EVENT))
PROCESS_EVENT_BYTES = _PROCESS_EVENT.size


class ProcessEvent(msgspec.Struct, frozen=True, gc=False):
    """A process used a socket for the first time in ten seconds."""

    boot_ns: int
    pid: int


def decode_process_events(samples: bytes) -> list[ProcessEvent]:
    """Return the events in samples of the ring buffer; an incomplete one at the end is dropped."""
    whole = len(samples) - len(samples) % _PROCESS_EVENT.size
    return [ProcessEvent(*one) for one in _PROCESS_EVENT.iter_unpack(memoryview(samples)[:whole])]
