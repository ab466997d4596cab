"""Who moved bytes, and how that is known."""

from enum import StrEnum

import msgspec


class Process(msgspec.Struct, frozen=True):
    """A process, identified by (pid, start). Strings are valid UTF-8; absent is None."""

    pid: int
    start: int | None
    """Start time in clock ticks since boot (/proc/PID/stat, field 22); None where the process was
    gone before it could be looked at, so that only its pid tells it apart."""
    parent_pid: int | None = None
    created_ns: int | None = None
    command: str | None = None
    """The kernel's short name of it (comm)."""
    executable: str | None = None
    command_line: tuple[str, ...] | None = None
    user_id: int | None = None
    """The real user: what a program that is set-uid was started by."""
    owner: str | None = None
    cgroup: str | None = None
    unit: str | None = None
    container: str | None = None
    pod: str | None = None
    """The uid of the Kubernetes pod."""


class User(msgspec.Struct, frozen=True):
    """Who owns a socket whose process is not known."""

    id: int
    name: str | None = None


class Quality(StrEnum):
    """How bytes came to their process."""

    EXACT = "exact"
    """The flow's own socket was seen with its owner."""
    LISTENER = "listener"
    """By the listening or unconnected socket on the local port."""
    INFERRED = "inferred"
    """By a documented rule."""
    NONE = "none"
    """No owner, or more than one possible."""


class Attribution(msgspec.Struct, frozen=True):
    """Who moved the bytes of a flow, and how that is known.

    With quality NONE `process` is None; `user` may be known all the same.
    """

    quality: Quality
    process: Process | None = None
    user: User | None = None


UNATTRIBUTED = Attribution(Quality.NONE)
