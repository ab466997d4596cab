"""PURE: the system calls that the threads of a run never need, and that an intruder would.

Calls that make namespaces are not listed: they are denied with any (linux/seccomp.py).
"""

from collections.abc import Collection

from hogpipe.linux.capabilities import Capability

_EVERYWHERE = (
    # other processes
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd"),
    # the kernel
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot"),
    *("perf_event_open", "userfaultfd", "io_uring_setup", "iopl", "ioperm", "modify_ldt"),
    *("acct", "quotactl", "quotactl_fd", "swapon", "swapoff", "syslog", "personality"),
    # mounts
    *("mount", "umount2", "move_mount", "open_tree", "mount_setattr", "pivot_root", "chroot"),
    *("fsopen", "fsconfig", "fsmount", "fspick"),
    # clocks and names
    *("settimeofday", "clock_settime", "clock_settime64", "clock_adjtime", "clock_adjtime64"),
    *("adjtimex", "sethostname", "setdomainname"),
)

DENIED_TO_SINKS = (*_EVERYWHERE, "bpf", "setns", "open_by_handle_at")
"""What threads of sinks and plugins may not call; they may start programs, which may not either."""


def list_denied(kept: Collection[Capability]) -> list[str]:
    """Return what threads with these capabilities may not call; they read packets or /proc."""
    enters = () if Capability.CAP_SYS_ADMIN in kept else ("setns",)
    return [*_EVERYWHERE, "execve", "execveat", *enters]
