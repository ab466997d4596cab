"""What can stand in the way of loading BPF programs, each with its remedy."""

from enum import StrEnum

from hogpipe.errors import HogpipeError


class Obstacle(StrEnum):
    """Why no BPF program could be loaded."""

    LIBRARY = "libbpf"
    """There is no libbpf.so.1, or it is too old."""
    OBJECT = "object"
    """The package was built without the BPF object, or that is damaged."""
    PRIVILEGES = "privileges"
    """The kernel refused for want of capabilities."""
    CGROUP = "cgroup"
    """There is no control group tree (v2) to attach to."""
    KERNEL = "kernel"
    """The kernel has no such hook or helper, or its verifier refused."""
    LIMITS = "limits"
    """The kernel has no room for the tables."""


# What the programs need came one by one: storage of sockets (5.2), links to control groups (5.7),
# the ring buffer (5.8), the hook of release (5.9), and last the cookie of a network namespace where
# connections are told (bpf_get_netns_cookie for sock_ops, 5.15). Programs that count have atomic
# operations that return what was there, which came later to machines other than x86 (arm64: 5.18).
OLDEST_KERNEL = (5, 15)
KERNEL_NEEDED = "Linux {}.{} is needed, on arm64 5.18 to count".format(*OLDEST_KERNEL)

_NOT_PERMITTED = 77
_NOT_POSSIBLE = 78


class BpfUnavailableError(HogpipeError):
    """The BPF programs cannot be used here; nothing was left attached.

    The text is one line that names the thing and the remedy.
    """

    def __init__(self, obstacle: Obstacle, text: str) -> None:
        super().__init__(text)
        self.obstacle = obstacle

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        """What the command line ends with where the programs were asked for."""
        return _NOT_PERMITTED if self.obstacle is Obstacle.PRIVILEGES else _NOT_POSSIBLE
