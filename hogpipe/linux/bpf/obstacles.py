"""What can prevent BPF programs from being loaded and attached, and the error that says so."""

import errno
from enum import StrEnum

from hogpipe.errors import HogpipeError


class Obstacle(StrEnum):
    """Why no BPF program could be attached."""

    LIBRARY = "libbpf"
    """libbpf.so.1 is missing or too old."""
    OBJECT = "object"
    """The BPF object is missing, damaged, or of another version of hogpipe."""
    PRIVILEGES = "privileges"
    """The process lacks capabilities, or a security policy forbids bpf(2)."""
    CGROUP = "cgroup"
    """There is no control group tree (v2) to attach to."""
    KERNEL = "kernel"
    """The kernel lacks a hook or a helper, or its verifier rejected a program."""
    LIMITS = "limits"
    """The kernel has no memory for the maps, or a resource limit is reached."""


# Features of the kernel by the version that added them: socket storage (5.2), bpf_links to control
# groups (5.7), the ring buffer (5.8), the hook of socket release (5.9), bpf_get_netns_cookie for
# sock_ops (5.15). The traffic programs also use atomic operations that return the old value (x86:
# 5.12, arm64: 5.18).
OLDEST_KERNEL = (5, 15)
KERNEL_NEEDED = "Linux {}.{} is needed, on arm64 5.18 to count".format(*OLDEST_KERNEL)

_NOT_PERMITTED = 77
_NOT_POSSIBLE = 78


class BpfUnavailableError(HogpipeError):
    """The BPF programs cannot be used on this host; none is left attached.

    The text is one line that names what is missing and the remedy.
    """

    def __init__(self, obstacle: Obstacle, text: str) -> None:
        super().__init__(text)
        self.obstacle = obstacle

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        """The exit code of a command that requires the programs."""
        return _NOT_PERMITTED if self.obstacle is Obstacle.PRIVILEGES else _NOT_POSSIBLE


def explain_failed_open(error: OSError, what: str) -> BpfUnavailableError:
    """Return why `what`, which uses programs that are attached, could not be opened.

    A kernel before 5.14 has no SO_NETNS_COOKIE, the only socket option that is read.
    """
    if error.errno == errno.ENOPROTOOPT:
        text = f"the kernel does not name network namespaces ({error.strerror}); {KERNEL_NEEDED}"
        return BpfUnavailableError(Obstacle.KERNEL, f"eBPF: {text}")
    text = f"no memory or descriptors for {what} ({error.strerror}); raise the limits"
    return BpfUnavailableError(Obstacle.LIMITS, f"eBPF: {text}")
