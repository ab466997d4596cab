"""Sockets of many kinds on the loopback interface, and flows that match them or none."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from hogpipe.model import FlowKey

TCP, UDP, UDPLITE = socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_UDPLITE
IPV4, IPV6 = socket.AF_INET, socket.AF_INET6

End = tuple[str, int]


def packed(address: str) -> bytes:
    """Return an address in network byte order."""
    return socket.inet_pton(IPV6 if ":" in address else IPV4, address)


def make_flow(protocol: int, local: End, remote: End, interface: str = "lo") -> FlowKey:
    """Return the flow between two addresses in the form of Python's sockets."""
    (local_host, local_port), (remote_host, remote_port) = local[:2], remote[:2]
    return FlowKey(
        protocol, packed(local_host), local_port, packed(remote_host), remote_port, interface
    )


@contextmanager
def all_kinds_of_sockets() -> Iterator[list[FlowKey]]:
    """Open sockets of many kinds; yield flows that match them, and flows without a socket."""
    with ExitStack() as stack:
        flows: list[FlowKey] = []
        for family, host, address in (
            (IPV4, "127.0.0.1", "127.0.0.1"),
            (IPV4, "", "127.0.0.1"),
            (IPV6, "::1", "::1"),
            (IPV6, "", "::1"),
            (IPV6, "", "127.0.0.1"),
        ):
            server = stack.enter_context(
                socket.create_server((host, 0), family=family, dualstack_ipv6=family == IPV6)
            )
            flows += connect(stack, server, address)
        for protocol in (UDP, UDPLITE):
            for family, host in ((IPV4, "127.0.0.1"), (IPV4, ""), (IPV6, "::1"), (IPV6, "")):
                with suppress(OSError):  # the kernel may have no UDP-Lite
                    flows += exchange(stack, protocol, family, host)
        yield flows


def connect(stack: ExitStack, server: socket.socket, address: str) -> list[FlowKey]:
    """Make connections that are accepted, half-closed, closed by either side, or not accepted."""
    port = server.getsockname()[1]
    flows = [make_flow(TCP, (address, port), (address, 9))]
    for kind in ("accepted", "half-closed", "client first", "server first", "waiting"):
        client = stack.enter_context(socket.create_connection((address, port)))
        peer = client.getsockname()[:2]
        flows += [make_flow(TCP, (address, port), peer), make_flow(TCP, peer, (address, port))]
        if kind == "waiting":
            continue
        accepted = stack.enter_context(server.accept()[0])
        if kind == "half-closed":
            client.shutdown(socket.SHUT_WR)
        elif kind == "client first":
            close(client, accepted)
        elif kind == "server first":
            close(accepted, client)
    return flows


def close(one: socket.socket, other: socket.socket) -> None:
    """Close both sockets so that the first one ends in TIME_WAIT."""
    one.close()
    assert other.recv(1) == b""
    other.close()


def exchange(stack: ExitStack, protocol: int, family: int, host: str) -> list[FlowKey]:
    """Open an unconnected socket and one that is connected to it."""
    address = host or ("127.0.0.1" if family == IPV4 else "::1")
    server = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM, protocol))
    server.bind((host, 0))
    port = server.getsockname()[1]
    client = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM, protocol))
    client.connect((address, port))
    peer = client.getsockname()[:2]
    flows = [make_flow(protocol, peer, (address, port)), make_flow(protocol, (address, port), peer)]
    if family == IPV6 and not host:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        flows.append(make_flow(protocol, ("127.0.0.1", port), ("127.0.0.1", 9)))
    return flows


@contextmanager
def connections(number: int, *, device: str = "") -> Iterator[list[FlowKey]]:
    """Open connections, with both sockets bound to `device`; yield the flows of the clients."""
    with ExitStack() as stack:
        server = stack.enter_context(_make_socket(device))
        server.bind(("127.0.0.1", 0))
        server.listen(number)
        address = server.getsockname()
        flows = []
        for _ in range(number):
            client = stack.enter_context(_make_socket(device))
            client.connect(address)
            stack.enter_context(server.accept()[0])
            flows.append(make_flow(TCP, client.getsockname(), address))
        yield flows


def make_time_wait(number: int) -> list[FlowKey]:
    """Make connections that their clients have closed, and return the flows of the clients.

    No socket listens on their remote port afterwards.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        flows = []
        for _ in range(number):
            client = socket.create_connection(address)
            flows.append(make_flow(TCP, client.getsockname(), address))
            accepted, _ = server.accept()
            close(client, accepted)
        return flows


def reversed_flow(flow: FlowKey) -> FlowKey:
    """Return the flow of the other endpoint."""
    return FlowKey(
        flow.protocol,
        flow.remote_address,
        flow.remote_port,
        flow.local_address,
        flow.local_port,
        flow.interface,
    )


def _make_socket(device: str) -> socket.socket:
    made = socket.socket()
    if device:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    return made
