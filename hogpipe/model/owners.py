"""PURE: owners of traffic, and attributions, which name the owner of a flow's bytes."""

import math
from enum import StrEnum

import msgspec

from hogpipe.protocols import NANOSECONDS

_NAMELESS = "(unknown)"


class Ancestor(msgspec.Struct, frozen=True):
    """The parent of a process, or a parent of that: identified by (pid, start)."""

    pid: int
    start: int
    command: str
    """The kernel's short name; of a script, mostly that of its file."""
    executable: str | None = None
    """The path of the program file; of a script, that of its interpreter."""

    @property
    def name(self) -> str:
        """Return the name of the program: the executable's, or the command. Never empty."""
        known = self.executable.rpartition("/")[2] if self.executable else None
        return known or self.command or _NAMELESS


class ContainerNames(msgspec.Struct, frozen=True):
    """What a container and its pod are called; None is unknown."""

    name: str | None = None
    image: str | None = None
    runtime: str | None = None
    pod_name: str | None = None
    pod_namespace: str | None = None
    pod_container: str | None = None
    """The name of the container within its pod."""


class Process(msgspec.Struct, frozen=True):
    """A process, identified by (pid, start). Strings are valid UTF-8; None is unknown."""

    pid: int
    start: int | None
    """Start time in clock ticks since boot (/proc/PID/stat, field 22). None if the process exited
    before it could be read: then the pid alone identifies the process."""
    parent_pid: int | None = None
    created_ns: int | None = None
    """The start time, nanoseconds since the epoch."""
    command: str | None = None
    """The kernel's short name of the process (comm)."""
    executable: str | None = None
    """The path of the program file."""
    command_line: tuple[str, ...] | None = None
    usual_name: str | None = None
    """The name of the executable of other processes with this command, where that of this process
    is unknown; None if none is known, or several are."""
    user_id: int | None = None
    """The real user id: of a set-uid program, the user who started it."""
    user_name: str | None = None
    cgroup: str | None = None
    """The path of the control group."""
    unit: str | None = None
    container: str | None = None
    pod: str | None = None
    """The uid of the Kubernetes pod."""
    container_names: ContainerNames | None = None
    ancestors: tuple[Ancestor, ...] = ()
    """The parent, its parent, and so on, as far as they were read and are known."""

    @property
    def parent(self) -> Ancestor | None:
        """Return the parent; None if it is unknown."""
        return self.ancestors[0] if self.ancestors else None

    @property
    def name(self) -> str:
        """Return the name of the program: the executable's, the usual one, or the command.

        Processes of one program have one name, however much is known of each. Never empty.
        """
        known = self.executable.rpartition("/")[2] if self.executable else None
        return known or self.usual_name or self.command or _NAMELESS


class User(msgspec.Struct, frozen=True):
    """The owner of a socket whose process is unknown."""

    id: int
    name: str | None = None


class Quality(StrEnum):
    """How the owner of bytes was found; docs/record.md defines each."""

    EXACT = "exact"
    """The flow's own socket was seen with its owner."""
    LISTENER = "listener"
    """By the listening or unconnected socket on the local port."""
    INFERRED = "inferred"
    """By a rule: the endpoint heuristic, or that of packet sockets."""
    NONE = "none"
    """There is no owner, or more than one is possible."""


class Attribution(msgspec.Struct, frozen=True):
    """The owner of a flow's bytes, and how that owner was found.

    With quality NONE, `process` and `kernel` are None, but `user` may be known.
    """

    quality: Quality
    process: Process | None = None
    user: User | None = None
    kernel: str | None = None
    """The part of the kernel that transmits and receives them, such as `vxlan`, where no process
    does; then there is neither `process` nor `user`."""
    is_translated: bool = False
    """Whether the bytes are a translated copy (NAT) of those at another captured interface, where
    they are recorded; the quality is NONE. Such bytes are counted, and are in no record."""


UNATTRIBUTED = Attribution(Quality.NONE)
TRANSLATED = Attribution(Quality.NONE, is_translated=True)


def owner_at(attribution: Attribution, now: float) -> tuple[Attribution, float]:
    """Return the attribution of packets of `now` in a replay, and until when it holds.

    Times are packet times. A process that is younger than the packets is not their owner.
    """
    process = attribution.process
    if process is not None and process.created_ns is not None:
        created_at = process.created_ns / NANOSECONDS
        if created_at > now:
            return UNATTRIBUTED, created_at
    return attribution, math.inf
