"""The ports on which TCP sockets listen, over sock_diag and from the tables of a procfs."""

import errno
import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.fake_proc import ESTABLISHED, LISTEN, format_row, format_table
from support.sockets import IPV6

from hogpipe.linux import listening_ports
from hogpipe.linux.listening_ports import read_service_ports
from hogpipe.model import EPHEMERAL, ServicePorts

PROC = Path("/proc")
V4, V6 = bytes([127, 0, 0, 1]), bytes(16)


def make_procfs(root: Path, **files: bytes) -> Path:
    (root / "net").mkdir(parents=True)
    for name, content in files.items():
        (root / "net" / name).write_bytes(content)
    return root


def refuse_sock_diag(patch: pytest.MonkeyPatch, number: int = errno.ENOENT) -> None:
    def refuse() -> None:
        raise OSError(number, os.strerror(number))

    patch.setattr(listening_ports, "read_listeners", refuse)


@pytest.mark.parametrize("has_sock_diag", [True, False])
def test_the_ports_of_listening_sockets_of_both_families_are_read(
    monkeypatch: pytest.MonkeyPatch, has_sock_diag: bool
) -> None:
    if not has_sock_diag:
        refuse_sock_diag(monkeypatch)
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0)))]
        if socket.has_dualstack_ipv6():
            servers.append(stack.enter_context(socket.create_server(("::1", 0), family=IPV6)))
        ports = {server.getsockname()[1] for server in servers}
        client = stack.enter_context(socket.create_connection(servers[0].getsockname()))
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            listening = read_service_ports(PROC).listening
            assert listening is not None
            assert ports <= listening
            assert not {client.getsockname()[1], bound.getsockname()[1]} & listening


def test_the_range_of_ephemeral_ports_is_the_kernels() -> None:
    text = (PROC / "sys/net/ipv4/ip_local_port_range").read_text()
    assert read_service_ports(PROC).ephemeral == tuple(map(int, text.split()))


@pytest.mark.parametrize("text", ["", "1", "a b", "-1 2", "1 2 3"])
def test_a_malformed_range_is_the_default(tmp_path: Path, text: str) -> None:
    file = make_procfs(tmp_path) / "sys/net/ipv4/ip_local_port_range"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert read_service_ports(tmp_path).ephemeral == EPHEMERAL


def test_a_recording_has_the_listening_sockets_of_its_tables(tmp_path: Path) -> None:
    v4 = [
        format_row((V4, 22), (bytes(4), 0), inode=1, state=LISTEN),
        format_row((V4, 22), (V4, 40_000), inode=2, state=ESTABLISHED),
    ]
    v6 = [format_row((V6, 8080), (V6, 0), inode=3, state=LISTEN)]
    procfs = make_procfs(tmp_path, tcp=format_table(v4), tcp6=format_table(v6))
    assert read_service_ports(procfs) == ServicePorts(frozenset({22, 8080}))


def test_a_recording_without_tables_has_unknown_listeners(tmp_path: Path) -> None:
    assert read_service_ports(make_procfs(tmp_path)) == ServicePorts(None)
    assert read_service_ports(tmp_path / "missing") == ServicePorts(None)
    assert read_service_ports(make_procfs(tmp_path / "one", tcp=b"")) == ServicePorts(frozenset())


def test_malformed_rows_are_left_out(tmp_path: Path) -> None:
    rows = [b"\xff", b"0: x", format_row((V4, 22), (bytes(4), 0), inode=1, state=LISTEN)]
    procfs = make_procfs(tmp_path, tcp=format_table(rows))
    assert read_service_ports(procfs).listening == {22}


def test_a_table_is_read_only_as_far_as_it_has_listening_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening_ports, "READ_BYTES", 1500)
    listening = [
        format_row((V4, port), (bytes(4), 0), inode=port, state=LISTEN) for port in range(1, 31)
    ]
    open_ones = [format_row((V4, 9), (V4, port), inode=port) for port in range(1000, 3000)]
    path = make_procfs(tmp_path, tcp=format_table([*listening, *open_ones])) / "net/tcp"
    assert read_service_ports(tmp_path).listening == {*range(1, 31)}
    data = listening_ports._read_first_rows(path)
    assert data is not None
    assert len(data) <= 150 * 31 + 1500


def test_a_shortage_of_descriptors_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_sock_diag(monkeypatch, errno.EMFILE)
    with pytest.raises(OSError, match="Too many open files"):
        read_service_ports(PROC)
