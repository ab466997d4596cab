"""The ports on which TCP sockets listen, and the range from which the kernel chooses ports.

In: a procfs. Out: `ServicePorts`. Without sock_diag /proc/net is read, and what cannot be read is
unknown, so that the range alone decides (model/service_ports.py). Raises OSError only if
descriptors or memory are exhausted.

The kernel keeps listening sockets in a table of their own. A dump of it over sock_diag costs the
same however many connections there are. In /proc/net/tcp listening sockets come first
(tcp_get_idx, net/ipv4/tcp_ipv4.c), so that reading stops at the first row of another state.
"""

from pathlib import Path

from hogpipe.linux.limits import SHORTAGES
from hogpipe.linux.netns.namespace_processes import shows_own_namespace
from hogpipe.linux.sock_diag import read_listeners
from hogpipe.linux.socket_table import READ_BYTES, TCP_LISTEN, parse_table
from hogpipe.model import EPHEMERAL, ServicePorts

_LAST_PORT = 0xFFFF


def read_service_ports(procfs: Path) -> ServicePorts:
    """Return what the network namespace of `procfs` has now."""
    return ServicePorts(_read_listening(procfs), _read_ephemeral(procfs))


def _read_listening(procfs: Path) -> frozenset[int] | None:
    if shows_own_namespace(procfs):
        try:
            return frozenset(row.local_port for row in read_listeners().rows)
        except OSError as error:
            # A kernel may be without sock_diag, and a sandbox may forbid netlink.
            if error.errno in SHORTAGES:
                raise
    tables = [_read_first_rows(procfs / "net" / name) for name in ("tcp", "tcp6")]
    if tables == [None, None]:
        return None
    rows = [row for table in tables for row in parse_table(table or b"")[0]]
    return frozenset(row.local_port for row in rows if row.state == TCP_LISTEN)


def _read_first_rows(path: Path) -> bytes | None:
    """Return a table up to the read with the first row that does not listen, None if unreadable."""
    data = b""
    try:
        with path.open("rb", buffering=0) as file:
            while read := file.read(READ_BYTES):
                data += read
                rows, _ = parse_table(b"\n" + read)  # whole rows, after the heading
                if any(row.state != TCP_LISTEN for row in rows):
                    break
    except OSError as error:  # a host without IPv6, or a recording without tables
        if error.errno in SHORTAGES:
            raise
        return data or None
    return data


def _read_ephemeral(procfs: Path) -> tuple[int, int]:
    try:
        text = (procfs / "sys/net/ipv4/ip_local_port_range").read_text("ascii", "replace")
    except OSError as error:  # a recording has none
        if error.errno in SHORTAGES:
            raise
        return EPHEMERAL
    match text.split():
        case [first, last] if first.isdecimal() and last.isdecimal():
            return int(first), min(int(last), _LAST_PORT)
    return EPHEMERAL
