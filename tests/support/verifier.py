"""What the kernel's verifier did with programs: reads bpf_prog_info of those that a process holds.

It needs hogpipe and the standard library only, since it also runs inside a virtual machine.
"""

import ctypes
import os
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from hogpipe.linux.bpf.libbpf import load_library
from hogpipe.linux.bpf.loader import AttachedPrograms
from hogpipe.linux.bpf.programs import (
    attach_health_programs,
    attach_ledger_programs,
    attach_traffic_programs,
)

SETS: dict[str, Callable[[], AttachedPrograms]] = {
    "ledger": attach_ledger_programs,
    "traffic": attach_traffic_programs,
    "payload": partial(attach_traffic_programs, payload=True),
    "health": attach_health_programs,
}
LARGEST = {"ledger": 5_000, "traffic": 40_000, "payload": 40_000, "health": 40_000}
"""The instructions that the verifier may process for one program; the kernel allows a million."""
# struct bpf_prog_info of include/uapi/linux/bpf.h
_INFO = struct.Struct("64x16s136xI12x")  # name, verified_insns


def read_verified(attach: Callable[[], AttachedPrograms]) -> dict[str, int]:
    """Return the instructions that the verifier processed, by program; 0 before Linux 5.16."""
    before = _list_attached()
    with ExitStack() as stack:
        programs = attach()
        stack.callback(programs.close)
        if programs.has_interface_program:
            stack.callback(os.close, programs.attach_to_interface(socket.if_nametoindex("lo")))
        infos = [_read_info(one) for one in _list_attached() - before]
    return {name.rstrip(b"\0").decode(): verified for name, verified in infos}


def _list_attached() -> set[int]:
    """Return the ids of the programs that this process holds attached (proc(5), fdinfo)."""
    found = set()
    for info in Path("/proc/self/fdinfo").iterdir():
        try:
            text = info.read_text()
        except FileNotFoundError:  # that of the listing itself
            continue
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        if "link_id" in fields:
            found.add(int(fields["prog_id"]))
    return found


def _read_info(program: int) -> tuple[bytes, int]:
    library = load_library()
    descriptor = library.bpf_prog_get_fd_by_id(program)
    assert descriptor >= 0, os.strerror(-descriptor)
    try:
        info, size = ctypes.create_string_buffer(_INFO.size), ctypes.c_uint32(_INFO.size)
        code = library.bpf_obj_get_info_by_fd(descriptor, info, ctypes.byref(size))
        assert code == 0, os.strerror(-code)
        name, verified = _INFO.unpack(info.raw)
        return name, verified
    finally:
        os.close(descriptor)
