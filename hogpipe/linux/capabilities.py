"""The capabilities of this process, and whether they apply to the host.

Sources: capabilities(7), capget(2), user_namespaces(7), proc(5).
"""

import ctypes
import os
import struct
from collections.abc import Collection, Mapping
from enum import IntEnum
from pathlib import Path

from hogpipe.errors import HogpipeError

_STATUS = Path("/proc/thread-self/status")
_USER_NAMESPACE = Path("/proc/thread-self/ns/user")
# PROC_USER_INIT_INO of include/linux/proc_ns.h
_INITIAL_USER_NAMESPACE = 0xEFFFFFFD
# include/uapi/linux/capability.h: version 3, this thread; effective, permitted and inheritable, of
# the lower 32 capabilities and then of the others
_HEADER = struct.pack("=Ii", 0x20080522, 0)
_SETS = struct.Struct("=6I")
_LAST = Path("/proc/sys/kernel/cap_last_cap")


class Capability(IntEnum):
    """Capabilities that hogpipe uses: include/uapi/linux/capability.h."""

    CAP_DAC_OVERRIDE = 1
    CAP_DAC_READ_SEARCH = 2
    CAP_SETPCAP = 8
    CAP_NET_ADMIN = 12
    CAP_NET_RAW = 13
    CAP_SYS_PTRACE = 19
    CAP_SYS_ADMIN = 21
    CAP_SYS_NICE = 23
    CAP_PERFMON = 38
    CAP_BPF = 39


def read_thread_status() -> bytes:
    """Return the status file of this thread. Raises HogpipeError if no /proc is mounted."""
    try:
        return _STATUS.read_bytes()
    except FileNotFoundError:
        raise HogpipeError(f"{_STATUS} does not exist; mount /proc") from None


def parse_effective(status: bytes) -> int | None:
    """Return the effective capabilities in a /proc/PID/status as a bit set; None if absent."""
    for line in status.splitlines():
        if line.startswith(b"CapEff:"):
            return int(line.split()[1], 16)
    return None


def name_missing(effective: int, wanted: Mapping[str, int]) -> list[str]:
    """Return the names of those `wanted` capabilities (bit numbers by name) that are not set."""
    return [name for name, bit in wanted.items() if not effective >> bit & 1]


def parse_missing(status: bytes, wanted: Mapping[str, int]) -> list[str]:
    """Return the names of those `wanted` capabilities that a /proc/PID/status does not have."""
    return name_missing(parse_effective(status) or 0, wanted)


def use_permitted() -> None:
    """Make all permitted capabilities effective, for this thread and those that it starts.

    The kernel does so by itself, except where a program file has capabilities that are only
    permitted. Such a program starts even if some are withheld from it, as in a container.
    """
    low, permitted, inheritable, high, permitted_high, inheritable_high = _read_sets()
    if (low, high) != (permitted, permitted_high):
        _write_sets(
            permitted, permitted, inheritable, permitted_high, permitted_high, inheritable_high
        )


def read_permitted() -> set[int]:
    """Return the numbers of the capabilities that this thread may use."""
    _low, low, _inherited, _high, high, _high_inherited = _read_sets()
    return {number for number in range(64) if (low | high << 32) >> number & 1}


def write_permitted(numbers: Collection[int]) -> None:
    """Permit this thread these capabilities only, all effective and none inheritable.

    Raises OSError if one was not permitted before.
    """
    bits = sum(1 << number for number in numbers)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    if ctypes.CDLL(None, use_errno=True).capset(_HEADER, _SETS.pack(low, low, 0, high, high, 0)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def list_known() -> range:
    """Return the numbers of all capabilities of this kernel."""
    try:
        return range(int(_LAST.read_bytes()) + 1)
    except OSError:
        return range(0)  # no /proc is mounted


def _read_sets() -> tuple[int, ...]:
    sets = ctypes.create_string_buffer(_SETS.size)
    if ctypes.CDLL(None).capget(_HEADER, sets) < 0:
        return (0,) * 6  # a seccomp filter forbids it
    return _SETS.unpack(sets.raw)


def _write_sets(*sets: int) -> None:
    # Without success, what needs a capability reports that it is missing.
    ctypes.CDLL(None).capset(_HEADER, _SETS.pack(*sets))


def in_initial_user_namespace() -> bool:
    """Return whether this thread is in the initial user namespace, the one of the host.

    In any other one, capabilities do not apply to the resources of the host.
    """
    try:
        return _USER_NAMESPACE.stat().st_ino == _INITIAL_USER_NAMESPACE
    except OSError:
        return True  # a kernel without user namespaces, or no /proc
