"""Sockets of many kinds on the loopback interface, and the flows that they may have."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from hogpipe.model import FlowKey

TCP, UDP, UDPLITE = socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_UDPLITE
IPV4, IPV6 = socket.AF_INET, socket.AF_INET6

End = tuple[str, int]


def packed(address: str) -> bytes:
    """Return an address as the kernel has it."""
    return socket.inet_pton(IPV6 if ":" in address else IPV4, address)


def make_flow(protocol: int, local: End, remote: End, interface: str = "lo") -> FlowKey:
    """Return the flow between two ends as Python's sockets name them."""
    (ours, port), (theirs, their_port) = local[:2], remote[:2]
    return FlowKey(protocol, packed(ours), port, packed(theirs), their_port, interface)


@contextmanager
def all_kinds_of_sockets() -> Iterator[list[FlowKey]]:
    """Open sockets of many kinds, and give the flows that they and nobody may have."""
    with ExitStack() as stack:
        flows: list[FlowKey] = []
        for family, host, place in (
            (IPV4, "127.0.0.1", "127.0.0.1"),
            (IPV4, "", "127.0.0.1"),
            (IPV6, "::1", "::1"),
            (IPV6, "", "::1"),
            (IPV6, "", "127.0.0.1"),
        ):
            server = stack.enter_context(
                socket.create_server((host, 0), family=family, dualstack_ipv6=family == IPV6)
            )
            flows += connect(stack, server, place)
        for protocol in (UDP, UDPLITE):
            for family, host in ((IPV4, "127.0.0.1"), (IPV4, ""), (IPV6, "::1"), (IPV6, "")):
                with suppress(OSError):  # the kernel may have no UDP-Lite
                    flows += exchange(stack, protocol, family, host)
        yield flows


def connect(stack: ExitStack, server: socket.socket, place: str) -> list[FlowKey]:
    """Make connections that are accepted, half-closed, closed by either side, and waiting."""
    port = server.getsockname()[1]
    flows = [make_flow(TCP, (place, port), (place, 9))]
    for kind in ("accepted", "half-closed", "client first", "server first", "waiting"):
        client = stack.enter_context(socket.create_connection((place, port)))
        peer = client.getsockname()[:2]
        flows += [make_flow(TCP, (place, port), peer), make_flow(TCP, peer, (place, port))]
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
    """Close both ends, so that the first is left in TIME_WAIT."""
    one.close()
    assert other.recv(1) == b""
    other.close()


def exchange(stack: ExitStack, protocol: int, family: int, host: str) -> list[FlowKey]:
    """Open an unconnected socket and one that is connected to it."""
    place = host or ("127.0.0.1" if family == IPV4 else "::1")
    server = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM, protocol))
    server.bind((host, 0))
    port = server.getsockname()[1]
    client = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM, protocol))
    client.connect((place, port))
    peer = client.getsockname()[:2]
    flows = [make_flow(protocol, peer, (place, port)), make_flow(protocol, (place, port), peer)]
    if family == IPV6 and not host:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        flows.append(make_flow(protocol, ("127.0.0.1", port), ("127.0.0.1", 9)))
    return flows


@contextmanager
def connections(number: int, *, device: str = "") -> Iterator[list[FlowKey]]:
    """Open so many connections, maybe with both ends bound to a device; give the clients' flows."""
    with ExitStack() as stack:
        server = stack.enter_context(_make_socket(device))
        server.bind(("127.0.0.1", 0))
        server.listen(number)
        place = server.getsockname()
        flows = []
        for _ in range(number):
            client = stack.enter_context(_make_socket(device))
            client.connect(place)
            stack.enter_context(server.accept()[0])
            flows.append(make_flow(TCP, client.getsockname(), place))
        yield flows


def make_time_wait(number: int) -> list[FlowKey]:
    """Make so many connections that their clients have closed, and return their flows.

    Nothing listens at their remote port any more.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = server.getsockname()
        flows = []
        for _ in range(number):
            client = socket.create_connection(place)
            flows.append(make_flow(TCP, client.getsockname(), place))
            accepted, _ = server.accept()
            close(client, accepted)
        return flows


def turned(flow: FlowKey) -> FlowKey:
    """Return a flow as its other end has it."""
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
