"""Checks what this host permits, with a remedy for each failed check (`hogpipe doctor`).

Each precondition is tried where that has no lasting effect: a packet socket is opened and closed,
the ledger is attached and detached. Out: one `Finding` for each check; no check raises.
Capabilities: capabilities(7), proc(5).
"""

import os
import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from hogpipe.attribution.ledger.socket_ledger import open_ledger
from hogpipe.capture.dns.dns_capture import can_decode
from hogpipe.config.settings import Settings
from hogpipe.enrichment.container_names import probe_state_folders
from hogpipe.errors import HogpipeError
from hogpipe.linux import ctnetlink, landlock, seccomp
from hogpipe.linux.bpf import object_path
from hogpipe.linux.bpf.libbpf import LIBRARY, load_library
from hogpipe.linux.bpf.loader import check_object, read_missing_capabilities
from hogpipe.linux.bpf.obstacles import KERNEL_NEEDED, OLDEST_KERNEL, BpfUnavailableError
from hogpipe.linux.bpf.programs import attach_ledger_programs, attach_traffic_programs
from hogpipe.linux.capabilities import (
    in_initial_user_namespace,
    parse_missing,
    read_permitted,
    read_thread_status,
)
from hogpipe.linux.cgroups import CgroupTree, covers_host
from hogpipe.linux.ctnetlink_messages import ConnectionTuple
from hogpipe.linux.process_starts import shows_host_pids
from hogpipe.protocols import UDP
from hogpipe.security.confinement import describe_rights, read_host_facts
from hogpipe.security.rights import list_needs
from hogpipe.text import describe_error

_PROCFS, _ROOT = Path("/proc"), Path("/")
_LOOPBACK = "lo"
_NOT_PERMITTED, _FAILURE = 77, 1
# include/uapi/linux/capability.h
_PROCESS_CAPABILITIES = {"CAP_SYS_PTRACE": 19, "CAP_DAC_READ_SEARCH": 2}
_ALTERNATIVES = {"CAP_DAC_READ_SEARCH": {"CAP_DAC_OVERRIDE": 1}}
_NAMESPACE_CAPABILITIES = {"CAP_SYS_ADMIN": 21}
_FEW_FLOWS, _FEW_PROCESSES = 64, 16  # the maps of a check are small
_ANNOTATION = "packets"
_ANNOTATION_LACKS = {
    "processes": "those of other users have no process",
    "ledger": "those of short connections have no owner",
}
"""What packets lack if a check fails."""
_NO_CONNECTION = ConnectionTuple(UDP, bytes(4), 0, bytes(4), 0)


class Finding(msgspec.Struct, frozen=True):
    """The result of one check."""

    subject: str
    good: bool
    text: str
    """What was found, or what is missing and the remedy."""
    exit_code: int = 0
    """Not 0 if hogpipe cannot capture because of this."""


def examine() -> list[Finding]:
    """Run all checks; the one that every capture needs comes first."""
    checks: dict[str, Callable[[], str]] = {
        "processes": _check_processes,
        "conntrack": _check_conntrack,
        "kernel": _check_kernel,
        "cgroup v2": _check_cgroups,
        "libbpf": _check_library,
        "object": _check_object,
        "eBPF": _check_bpf_rights,
        "ledger": _check_ledger,
        "senders": _check_senders,
        "health": _check_health,
        "containers": _check_container_names,
        "names": _check_peer_names,
        "privileges": _check_privileges,
    }
    found = [_check_capture(), *(_run_check(subject, check) for subject, check in checks.items())]
    return [*found[:-1], _describe_annotation(found), found[-1]]


def encode_findings(findings: Sequence[Finding]) -> str:
    """Return findings as a JSON array of objects with `subject`, `good` and `text`."""
    objects = [{"subject": one.subject, "good": one.good, "text": one.text} for one in findings]
    return msgspec.json.encode(objects).decode()


def _describe_grant(capabilities: Sequence[str]) -> str:
    """Return the remedy for missing capabilities."""
    if in_initial_user_namespace():
        return f"grant {', '.join(capabilities)}, or run as root"
    return "run outside of this user namespace: its capabilities do not apply to the host"


def _run_check(subject: str, check: Callable[[], str]) -> Finding:
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
        text = f"not permitted; {_describe_grant(['CAP_NET_RAW'])}"
        return Finding("capture", False, text, _NOT_PERMITTED)
    except OSError as error:
        text = f"the kernel has no packet sockets ({error.strerror}); load af_packet"
        return Finding("capture", False, text, _FAILURE)
    return Finding("capture", True, "packets can be captured")


def _check_processes() -> str:
    missing = [
        name
        for name in parse_missing(read_thread_status(), _PROCESS_CAPABILITIES)
        if name not in _ALTERNATIVES or parse_missing(read_thread_status(), _ALTERNATIVES[name])
    ]
    if missing or not in_initial_user_namespace():
        raise HogpipeError(
            f"for processes of other users, only the user is known; {_describe_grant(missing)}"
        )
    if not shows_host_pids(_PROCFS):
        return (
            "processes of this container are visible; for those of the host, set "
            "attribution.procfs to the mount point of its /proc"
        )
    return "processes of all users are visible"


def _check_conntrack() -> str:
    try:
        ctnetlink.read_connections([_NO_CONNECTION])
    except PermissionError:
        raise HogpipeError(
            "not permitted: traffic that this host translates (NAT) counts twice; "
            f"{_describe_grant(['CAP_NET_ADMIN'])}"
        ) from None
    except OSError as error:
        raise HogpipeError(
            f"the kernel has no ctnetlink ({error.strerror}): traffic that this host translates "
            "(NAT) counts twice; load nf_conntrack_netlink"
        ) from error
    missing = parse_missing(read_thread_status(), _NAMESPACE_CAPABILITIES)
    remedy = f"; for containers that translate, grant {', '.join(missing)}" if missing else ""
    tracks = "" if ctnetlink.has_connections() else "; the kernel tracks no connection now"
    return f"traffic that is translated (NAT) can be recognised{tracks}{remedy}"


def _check_kernel() -> str:
    release = os.uname().release
    version = re.match(r"(\d+)\.(\d+)", release)
    if version and (int(version[1]), int(version[2])) < OLDEST_KERNEL:
        raise HogpipeError(f"Linux {release} is too old for the ledger; {KERNEL_NEEDED}")
    return f"Linux {release}"


def _check_cgroups() -> str:
    tree = CgroupTree()
    tree.close()
    mount_point = tree.mount_point or "no mount is visible; hogpipe makes a private one"
    scope = (
        ""
        if covers_host()
        else ", of this container only: the ledger does not see the rest of the host"
    )
    return f"{mount_point}{scope}"


def _check_library() -> str:
    load_library()
    return LIBRARY


def _check_object() -> str:
    path = object_path()
    check_object(path)
    return str(path)


def _check_bpf_rights() -> str:
    missing = read_missing_capabilities()
    if missing or not in_initial_user_namespace():
        raise HogpipeError(f"not permitted; {_describe_grant(missing)}")
    return "programs may be loaded"


def _check_privileges() -> str:
    permitted = read_permitted()
    if not permitted:
        return "a run has no capability that it could give up"
    needs = list_needs(Settings(), read_host_facts(_PROCFS))
    kept = describe_rights(needs, permitted) or "no capability"
    text = f"once it captures, a run by default keeps {kept}; its sinks have none of these"
    if not landlock.read_version():
        text += "; sinks may write wherever their user may, as the kernel has no Landlock"
    if not seccomp.is_available():
        text += "; system calls are not filtered: install libseccomp (libseccomp2)"
    return text


def _check_senders() -> str:
    programs = attach_ledger_programs()
    try:
        if not programs.has_interface_program:
            raise HogpipeError(
                "this kernel does not name the senders of packet sockets, nor to the ledger "
                "those of raw sockets; Linux 6.10 is needed"
            )
        os.close(programs.attach_to_interface(socket.if_nametoindex(_LOOPBACK)))
    except OSError as error:
        raise HogpipeError(
            f"no program can be attached to an interface ({error.strerror}): the senders of packet "
            "sockets are not known; a kernel with CONFIG_NET_XGRESS is needed"
        ) from error
    finally:
        programs.close()
    return "what is sent through packet and raw sockets gets its sender"


def _check_health() -> str:
    try:
        attach_traffic_programs(max_flows=_FEW_FLOWS, max_processes=_FEW_PROCESSES).close()
    except BpfUnavailableError as error:
        raise HogpipeError(
            f"records have little health of TCP connections, and only once they end ({error})"
        ) from error
    return 'records have the health of TCP connections, with source = "ebpf" and with the ledger'


def _check_container_names() -> str:
    found = probe_state_folders(_ROOT)
    problems = {one.runtime: one.problem for one in found if one.problem is not None}
    if problems:
        text = f"names of containers of {', '.join(problems)} cannot be read"
        problem = next(iter(problems.values()))
        if isinstance(problem, PermissionError):
            raise HogpipeError(f"{text}; {_describe_grant(['CAP_DAC_READ_SEARCH'])}")
        raise HogpipeError(f"{text}: {describe_error(problem)}") from problem
    if not found:
        return "no runtime has left names of containers on this host"
    return f"names of containers are read from {', '.join(one.runtime for one in found)}"


def _check_peer_names() -> str:
    if can_decode():
        return "DNS answers can be decoded, for the dimension `domain`"
    return 'without names of peers; for the dimension `domain`, pip install "hogpipe[names]"'


def _describe_annotation(found: Sequence[Finding]) -> Finding:
    """Return what `hogpipe capture` can write beside packets, by what other checks found."""
    failed = [one.subject for one in found if not one.good]
    if "capture" in failed:
        return Finding(_ANNOTATION, False, "hogpipe capture cannot capture packets: see capture")
    lacks = {subject: text for subject, text in _ANNOTATION_LACKS.items() if subject in failed}
    if lacks:
        text = f"hogpipe capture writes packets, but {'; '.join(lacks.values())}"
        return Finding(_ANNOTATION, False, f"{text}: see {', '.join(lacks)}")
    text = "hogpipe capture writes the process of each packet, of short connections too"
    return Finding(_ANNOTATION, True, text)


def _check_ledger() -> str:
    try:
        open_ledger(_PROCFS).ledger.close()
    except BpfUnavailableError as error:
        raise HogpipeError(f"owners come from /proc alone ({error})") from error
    missing = parse_missing(read_thread_status(), _NAMESPACE_CAPABILITIES)
    remedy = f"; for connections of containers, grant {', '.join(missing)}" if missing else ""
    return f"can be loaded: short connections get their owners, too{remedy}"
