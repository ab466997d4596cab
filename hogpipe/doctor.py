"""What this host allows, and the remedy for each thing that it does not.

Each precondition is tried, not guessed, where that leaves nothing behind: a packet socket is opened
and closed, the ledger is attached and detached. Capabilities: capabilities(7), proc(5).
"""

import os
import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from hogpipe.attribution.ledger.socket_ledger import open_ledger
from hogpipe.errors import HogpipeError
from hogpipe.linux.bpf import object_path
from hogpipe.linux.bpf.libbpf import LIBRARY, load_library
from hogpipe.linux.bpf.loader import read_missing_capabilities
from hogpipe.linux.bpf.obstacles import KERNEL_NEEDED, OLDEST_KERNEL, BpfUnavailableError
from hogpipe.linux.capabilities import in_initial_user_namespace, parse_missing, read_thread_status
from hogpipe.linux.cgroups import CgroupTree, in_initial_cgroup_namespace
from hogpipe.linux.process_starts import shows_host_pids
from hogpipe.text import describe_error

_PROCFS = Path("/proc")
_NOT_PERMITTED, _FAILURE = 77, 1
# include/uapi/linux/capability.h
_TO_SEE_PROCESSES = {"CAP_SYS_PTRACE": 19, "CAP_DAC_READ_SEARCH": 2}
_INSTEAD = {"CAP_DAC_READ_SEARCH": {"CAP_DAC_OVERRIDE": 1}}
_TO_ENTER_NAMESPACES = {"CAP_SYS_ADMIN": 21}


class Finding(msgspec.Struct, frozen=True):
    """How one precondition stands."""

    subject: str
    good: bool
    text: str
    """What is there; or what is not, and the remedy."""
    exit_code: int = 0
    """Not 0 where no run can capture because of this."""


def examine() -> list[Finding]:
    """Return how all preconditions stand here, those of every capture first."""
    checks: dict[str, Callable[[], str]] = {
        "processes": _check_processes,
        "kernel": _check_kernel,
        "cgroup v2": _check_cgroups,
        "libbpf": _check_library,
        "object": _check_object,
        "eBPF": _check_bpf_rights,
        "ledger": _check_ledger,
    }
    return [_check_capture(), *(_find(subject, check) for subject, check in checks.items())]


def encode_findings(findings: Sequence[Finding]) -> str:
    """Return findings as a JSON array, an object with `subject`, `good` and `text` for each."""
    told = [{"subject": one.subject, "good": one.good, "text": one.text} for one in findings]
    return msgspec.json.encode(told).decode()


def _grant(capabilities: Sequence[str]) -> str:
    """Return the remedy for what is not permitted."""
    if in_initial_user_namespace():
        return f"grant {', '.join(capabilities)}, or run as root"
    return "run outside of this user namespace, whose capabilities do not count for it"


def _find(subject: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, True, check())
    except HogpipeError as error:
        return Finding(subject, False, str(error))
    except OSError as error:
        return Finding(subject, False, describe_error(error))


def _check_capture() -> Finding:
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    except PermissionError:
        text = f"not permitted; {_grant(['CAP_NET_RAW'])}"
        return Finding("capture", False, text, _NOT_PERMITTED)
    except OSError as error:
        text = f"the kernel has no packet sockets ({error.strerror}); load af_packet"
        return Finding("capture", False, text, _FAILURE)
    return Finding("capture", True, "packets can be captured")


def _check_processes() -> str:
    missing = [
        name
        for name in parse_missing(read_thread_status(), _TO_SEE_PROCESSES)
        if name not in _INSTEAD or parse_missing(read_thread_status(), _INSTEAD[name])
    ]
    if missing or not in_initial_user_namespace():
        raise HogpipeError(f"of the processes of others only the user is told; {_grant(missing)}")
    if not shows_host_pids(_PROCFS):
        return (
            "those of this container can be told; for those of the host set attribution.procfs to "
            "where its /proc is mounted"
        )
    return "those of all users can be told"


def _check_kernel() -> str:
    release = os.uname().release
    found = re.match(r"(\d+)\.(\d+)", release)
    if found and (int(found[1]), int(found[2])) < OLDEST_KERNEL:
        raise HogpipeError(f"Linux {release} is too old for the ledger; {KERNEL_NEEDED}")
    return f"Linux {release}"


def _check_cgroups() -> str:
    tree = CgroupTree()
    tree.close()
    mount_point = tree.mount_point or "mounted nowhere in sight; hogpipe mounts it for itself"
    seen = (
        ""
        if in_initial_cgroup_namespace()
        else ", that of this container: the ledger sees no other"
    )
    return f"{mount_point}{seen}"


def _check_library() -> str:
    load_library()
    return LIBRARY


def _check_object() -> str:
    path = object_path()
    if path is None:
        raise HogpipeError(
            "this hogpipe was built without clang; install clang and the kernel's headers for "
            "programs (Debian: clang, linux-libc-dev), then hogpipe anew"
        )
    return str(path)


def _check_bpf_rights() -> str:
    missing = read_missing_capabilities()
    if missing or not in_initial_user_namespace():
        raise HogpipeError(f"not permitted; {_grant(missing)}")
    return "programs may be loaded"


def _check_ledger() -> str:
    try:
        open_ledger(_PROCFS).ledger.close()
    except BpfUnavailableError as error:
        raise HogpipeError(f"owners come from /proc alone ({error})") from error
    missing = parse_missing(read_thread_status(), _TO_ENTER_NAMESPACES)
    guests = f"; for those of containers grant {', '.join(missing)}" if missing else ""
    return f"loads here: short connections get their owners, too{guests}"
