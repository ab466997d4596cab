"""The capabilities of this process, and whether they count on the host.

Sources: capabilities(7), user_namespaces(7), proc(5).
"""

from collections.abc import Mapping
from pathlib import Path

from hogpipe.errors import HogpipeError

_STATUS = Path("/proc/thread-self/status")
_USERS = Path("/proc/thread-self/ns/user")
# PROC_USER_INIT_INO of include/linux/proc_ns.h: the host's own namespace of users.
_HOST_USERS = 0xEFFFFFFD


def read_status() -> bytes:
    """Return the status of this thread. Raises HogpipeError where no /proc is mounted."""
    try:
        return _STATUS.read_bytes()
    except FileNotFoundError:
        raise HogpipeError(f"there is no {_STATUS}; mount /proc") from None


def parse_effective(status: bytes) -> int | None:
    """Return the set of effective capabilities in a /proc/PID/status (proc(5)), None without it."""
    for line in status.splitlines():
        if line.startswith(b"CapEff:"):
            return int(line.split()[1], 16)
    return None


def name_missing(effective: int, wanted: Mapping[str, int]) -> list[str]:
    """Return the names of the capabilities `wanted`, given with their bits, that are not set."""
    return [name for name, bit in wanted.items() if not effective >> bit & 1]


def parse_missing(status: bytes, wanted: Mapping[str, int]) -> list[str]:
    """Return which of the capabilities `wanted` a process has not, by its /proc/PID/status."""
    return name_missing(parse_effective(status) or 0, wanted)


def is_root_of_host() -> bool:
    """Return whether capabilities are those of the host, and not of a namespace of users."""
    try:
        return _USERS.stat().st_ino == _HOST_USERS
    except OSError:
        return True  # a kernel without such namespaces, or no /proc to tell
