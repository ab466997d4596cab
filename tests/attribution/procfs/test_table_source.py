"""Links into other network namespaces, and the reading of tables through them."""

import errno
import json
import logging
import math
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.namespaces import namespace, require
from support.sockets import make_flow

from hogpipe.attribution.procfs.container_tables import ContainerTables
from hogpipe.attribution.procfs.endpoint_heuristic import Endpoint
from hogpipe.attribution.procfs.matching import Match
from hogpipe.attribution.procfs.reader_choice import Reader
from hogpipe.attribution.procfs.table_reader import TableReader
from hogpipe.linux.netns.namespace_links import NamespaceLinks, make_open_inside
from hogpipe.linux.netns.namespace_processes import NamespaceProcesses, read_own_namespace
from hogpipe.linux.procfs import Procfs
from hogpipe.linux.sock_diag import open_link
from hogpipe.linux.socket_table import TableText
from hogpipe.model import FlowKey, Quality

TCP, UDP = 6, 17
PROC = Path("/proc")
RED = 2
# Connects to itself, prints (local port, remote port) of TCP and of UDP, and waits.
PROGRAM = """
import json, socket, sys
server = socket.create_server(("127.0.0.1", 0))
clients = [socket.create_connection(server.getsockname()) for _ in range(3)]
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.connect(("127.0.0.1", 9))
tcp = [(client.getsockname()[1], client.getpeername()[1]) for client in clients]
udp = [(datagrams.getsockname()[1], 9)]
print(json.dumps([tcp, udp]), flush=True)
sys.stdin.read()
"""


class Container:
    """A process in a network namespace of its own, and the flows of its sockets."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        tcp, udp = json.loads(process.stdout.readline())
        self.namespace = (PROC / str(process.pid) / "ns" / "net").stat().st_ino
        self.tcp = [self._flow(TCP, *ports) for ports in tcp]
        self.udp = [self._flow(UDP, *ports) for ports in udp]

    def _flow(self, protocol: int, local: int, remote: int) -> FlowKey:
        ends = ("127.0.0.1", local), ("127.0.0.1", remote)
        made = make_flow(protocol, *ends)
        return FlowKey(
            made.protocol,
            *(made.local_address, made.local_port, made.remote_address, made.remote_port),
            "lo",
            self.namespace,
        )


@contextmanager
def container() -> Iterator[Container]:
    require("ip")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with namespace() as room, room.popen(sys.executable, "-c", PROGRAM, **pipes) as process:
        try:
            yield Container(process)
        finally:
            process.stdin.close()


class Reading(ContainerTables):
    """Tables of containers on this host, with the links that they use."""

    def __init__(self, reader: Reader) -> None:
        processes = NamespaceProcesses(PROC, read_own_namespace())
        self.links = NamespaceLinks(processes, make_open_inside(PROC, open_link))
        super().__init__(
            Procfs(PROC), processes, lambda: 0.0, self.links, fixed=reader, walk_budget=1.0
        )


def inodes(matches: dict[FlowKey, Match]) -> dict[FlowKey, list[int]]:
    assert {match.quality for match in matches.values()} == {Quality.EXACT}
    return {flow: [row.inode for row in match.rows] for flow, match in matches.items()}


def test_sock_diag_and_proc_find_the_same_sockets_of_a_container() -> None:
    with container() as made:
        flows = [*made.tcp, *made.udp]
        text, netlink = Reading(Reader.PROCFS), Reading(Reader.SOCK_DIAG)
        expected = inodes(text.match(flows, math.inf))
        assert expected.keys() == set(flows)
        for _ in range(2):
            assert inodes(netlink.match(flows, math.inf)) == expected
        to = Endpoint(made.namespace, TCP, made.tcp[0].remote_address, made.tcp[0].remote_port)
        by_text = text.read_endpoint_sockets(made.namespace, [to])
        by_netlink = netlink.read_endpoint_sockets(made.namespace, [to])
        assert by_text is not None
        assert by_netlink is not None
        assert {row.local_port for row in by_text[to]} == {flow.local_port for flow in made.tcp}
        assert {row.inode for row in by_netlink[to]} == {row.inode for row in by_text[to]}
        assert (netlink.counts.lookups, len(netlink.links)) == (2 * len(made.tcp), 1)
        netlink.links.close()
        assert (netlink.counts.procfs, netlink.counts.refused, text.counts.sock_diag) == (0, 0, 0)


class ExitedSource:
    """A container whose process has exited: no link, but a table that was read before."""

    namespace = RED
    error: OSError = ProcessLookupError(errno.ESRCH, "gone")

    def read_text(self, _name: str, _deadline: float) -> TableText | None:
        return TableText(b"header\n")

    def open_link(self) -> socket.socket:
        raise self.error

    def find_device(self, _interface: str) -> int:
        return 0

    def may_walk(self) -> bool:
        return True


@pytest.mark.parametrize("is_refused", [False, True])
def test_the_exit_of_a_process_is_no_refusal_of_sock_diag(
    caplog: pytest.LogCaptureFixture, is_refused: bool
) -> None:
    source = ExitedSource()
    if is_refused:
        source.error = PermissionError(errno.EPERM, "no")
    reader = TableReader(source, Reader.SOCK_DIAG)
    flow = make_flow(TCP, ("127.0.0.1", 1), ("127.0.0.1", 2))
    to = Endpoint(RED, TCP, flow.remote_address, flow.remote_port)
    with caplog.at_level(logging.INFO):
        assert reader.read([flow], 0.0, math.inf).tables == {"tcp": []}
        assert reader.read_endpoint_sockets([to]) == {to: []}
    assert reader.counts.refused == is_refused
    assert len(caplog.records) == is_refused
    assert reader.rereads_cheaply([to]) == (not is_refused)
