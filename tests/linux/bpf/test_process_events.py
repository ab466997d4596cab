"""Events of processes that use a socket for the first time, from both sets of programs."""

import sys
from collections.abc import Callable

import pytest
from support.bpf import require_bpf
from support.namespaces import Namespace

from hogpipe.linux.bpf.loader import AttachedPrograms
from hogpipe.linux.bpf.process_events import (
    PROCESS_EVENT_BYTES,
    ProcessEvent,
    decode_process_events,
)
from hogpipe.linux.bpf.programs import attach_ledger_programs, attach_traffic_programs
from hogpipe.linux.bpf.ring_buffer import RingBuffer

SOCKETS = "import socket; [socket.socket() for _ in range(50)]"


@pytest.mark.parametrize("attach", [attach_ledger_programs, attach_traffic_programs])
def test_a_process_has_one_event_when_it_first_uses_a_socket(
    netns: Namespace, attach: Callable[[], AttachedPrograms]
) -> None:
    require_bpf()
    programs = attach()
    size = programs.max_entries("new_processes")
    ring = RingBuffer(programs.map_fd("new_processes"), size, PROCESS_EVENT_BYTES)
    try:
        done = netns.popen(sys.executable, "-c", SOCKETS)
        assert done.wait() == 0
        events = decode_process_events(ring.drain())
    finally:
        ring.close()
        programs.close()
    assert [event.pid for event in events].count(done.pid) == 1


def test_an_incomplete_event_is_dropped() -> None:
    whole = (7).to_bytes(8, sys.byteorder) + (42).to_bytes(4, sys.byteorder) + bytes(4)
    assert decode_process_events(whole + whole[:9]) == [ProcessEvent(7, 42)]
