"""What a host has that takes rights to follow: containers, and translation of addresses (NAT).

In: a /proc. Out: answers for this moment. Nothing here raises: what cannot be read counts as there,
since a right that is kept without need does less harm than one that is missing.
"""

import os
import re
from pathlib import Path

from hogpipe.linux import ctnetlink
from hogpipe.linux.netns.namespace_processes import NamespaceProcesses, read_own_namespace
from hogpipe.linux.rtnetlink import VETH_KINDS, read_link_table

_MODULES = Path("/proc/modules")
_CONTAINER_KINDS = VETH_KINDS | {"bridge"}
_LOOPBACK = b"lo"


def has_containers(procfs: Path) -> bool:
    """Return whether this host has, or is made to have, network namespaces that pass traffic.

    That is, a link of a kind that leads to them, or a process in another namespace which has more
    than a loopback interface.
    """
    try:
        if any(link.kind in _CONTAINER_KINDS for link in read_link_table().links):
            return True
        processes = NamespaceProcesses(procfs, read_own_namespace())
        processes.refresh(0.0)
    except OSError:
        return True
    others = processes.by_namespace()
    return any(_has_links(procfs, namespace, processes) for namespace in others)


def _has_links(procfs: Path, namespace: int, processes: NamespaceProcesses) -> bool:
    pid = processes.find_process(namespace)
    if pid is None:
        return False  # its processes have ended
    try:
        lines = (procfs / str(pid) / "net" / "dev").read_bytes().splitlines()[2:]
    except OSError:
        return True
    return any(line.partition(b":")[0].strip() != _LOOPBACK for line in lines)


def may_translate() -> bool:
    """Return whether the kernel may translate addresses of connections in this namespace.

    That is, if its module for NAT is loaded. Where NAT may be a part of the kernel, if connections
    are tracked now.
    """
    try:
        names = {line.split(maxsplit=1)[0] for line in _MODULES.read_bytes().splitlines()}
    except FileNotFoundError:  # a kernel without modules
        names = set()
    except OSError:
        return True
    if b"nf_nat" in names or b"nf_conntrack" in names:
        return b"nf_nat" in names
    return ctnetlink.has_connections()


def read_kernel_version() -> tuple[int, int]:
    """Return the major and minor version of the kernel; zeros if its release has none."""
    match = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(match[1]), int(match[2])) if match else (0, 0)
