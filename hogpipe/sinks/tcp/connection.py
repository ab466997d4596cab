"""A TCP connection that carries lines one way and counts those that the peer's TCP acknowledged.

In: whole lines. Out: the number of lines that the peer's TCP has, during the connection and after
it broke. `open_connection` and the methods that wait raise OSError, of which ssl.SSLError is one.

# Acknowledgement

The kernel counts the bytes that the peer has acknowledged (tcpi_bytes_acked in struct tcp_info,
linux/tcp.h), and returns the count even after the connection broke. An asyncio transport closes its
socket then, so the count is read from a duplicate, the probe. `AcknowledgedLines` converts bytes to
lines.

# Known limits

With TLS the bytes of the connection are not those of the lines: about 256 lines are acknowledged at
a time. Acknowledged means received by the peer's kernel, not read by its process.
"""

import asyncio
import fcntl
import os
import select
import socket
import ssl
import struct
import termios
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

_FIRST_POLL = 0.001  # seconds between reads of the acknowledged bytes, doubling
_LAST_POLL = 0.05
_TLS_REFUSAL_SECONDS = 1.0  # that a TLS 1.3 server has to refuse this host after the handshake
_CLOSE_SECONDS = 0.2  # for the close_notify of TLS: a sink has 0.4 to close
_KEEP_IDLE, _KEEP_INTERVAL, _KEEP_COUNT = 15, 5, 3  # seconds, seconds, probes: tcp(7)
_MAX_INT = (1 << 31) - 1

_INT = struct.Struct("i")
_BYTES_ACKED = struct.Struct("120xQ")

SocketAddress = tuple[
    socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
]
"""An address family, and an address as `connect` takes it."""


@dataclass(frozen=True, slots=True)
class Tls:
    """The TLS context, and the name that the peer's certificate must have."""

    context: ssl.SSLContext
    server_name: str


class AcknowledgedLines:
    """PURE: converts acknowledged bytes to lines, in the order in which they were transmitted.

    Offsets count the bytes of the connection as TCP does. `exact`: whether a byte of the lines is a
    byte of the connection. With TLS it is not, and a slice is acknowledged as a whole.
    """

    def __init__(self, *, exact: bool) -> None:
        self._exact = exact
        self._done = 0
        self._slices: deque[tuple[bytes, int]] = deque()
        """Slices that are not wholly acknowledged, each with the offset of its end."""

    def add(self, lines: bytes, end: int) -> None:
        """Add lines that were transmitted and end at the offset `end`."""
        self._slices.append((lines, end))

    def acknowledged(self, offset: int) -> int:
        """Return how many lines are wholly among the first `offset` bytes; it never decreases."""
        while self._slices and self._slices[0][1] <= offset:
            lines, _end = self._slices.popleft()
            self._done += lines.count(b"\n")
        if not (self._exact and self._slices):
            return self._done
        lines, end = self._slices[0]
        return self._done + lines.count(b"\n", 0, max(0, len(lines) - (end - offset)))


class Connection:
    """Owns a socket and its duplicate until `close` or `abort`."""

    def __init__(
        self,
        raw: asyncio.Transport,
        transport: asyncio.Transport,
        peer: "_Peer",
        probe: socket.socket,
    ) -> None:
        self._raw = raw
        self._transport = transport
        self._peer = peer
        self._probe = probe
        self._plain = transport is raw
        self._lines = AcknowledgedLines(exact=self._plain)
        self._end = self._acknowledged_bytes()
        """The offset of the end of the transmitted bytes, counted as in `tcpi_bytes_acked`."""

    @property
    def lost(self) -> bool:
        """Whether the peer has closed its side or the connection is broken, at this moment.

        Asks the kernel: the event loop may not have read the event yet.
        """
        poll = select.poll()
        poll.register(self._probe, select.POLLRDHUP)  # POLLERR and POLLHUP are always reported
        return bool(poll.poll(0)) or self._transport.is_closing()

    @property
    def acknowledged_lines(self) -> int:
        """How many of all lines the peer's TCP has, also after the connection broke."""
        return self._lines.acknowledged(self._acknowledged_bytes())

    @property
    def peer_address(self) -> str | None:
        """The address that it is connected to; None if it is broken."""
        name = self._transport.get_extra_info("peername")
        return name[0] if name else None

    @property
    def tls_version(self) -> str | None:
        """The version of TLS, such as "TLSv1.3"; None without TLS."""
        secured = self._transport.get_extra_info("ssl_object")
        return secured.version() if secured else None

    def send(self, lines: bytes) -> None:
        """Transmit whole lines; raises OSError if the connection is known to be broken."""
        self._raise_if_broken()
        self._transport.write(lines)
        self._raise_if_broken()
        self._end = self._end + len(lines) if self._plain else self._count_transmitted()
        self._lines.add(lines, self._end)
        self._lines.acknowledged(self._acknowledged_bytes())  # frees the acknowledged ones

    async def wait_for_room(self) -> None:
        """Wait until more may be transmitted, and let other tasks run; raises OSError if broken."""
        await asyncio.sleep(0)
        await self._peer.writable.wait()
        self._raise_if_broken()

    async def all_acknowledged(self) -> None:
        """Wait until the peer's TCP has all lines; raises OSError if the connection breaks."""
        pause = _FIRST_POLL
        while self._acknowledged_bytes() < self._end:
            self._raise_if_broken()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_POLL)

    async def close(self) -> None:
        """Close the connection in order, within a fifth of a second."""
        try:
            self._transport.close()
            with suppress(TimeoutError):  # a peer without close_notify
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._peer.closed.wait()
        finally:
            await self.abort()

    async def abort(self) -> None:
        """Close the connection at once, without a reset.

        The kernel goes on transmitting its buffer. A reset would discard it, and could discard
        bytes that the peer has acknowledged but not read.
        """
        self._raw.abort()
        self._probe.close()
        await self._peer.closed.wait()

    def _acknowledged_bytes(self) -> int:
        info = self._probe.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.size)
        return int(_BYTES_ACKED.unpack(info)[0])

    def _count_transmitted(self) -> int:
        """Return the offset of the end of the transmitted bytes; TLS adds an unknown number."""
        while True:
            before = self._acknowledged_bytes()
            pending = self._pending_bytes()
            if self._acknowledged_bytes() == before:  # otherwise a byte may be counted in both
                return before + pending

    def _pending_bytes(self) -> int:
        """Return how many bytes are not acknowledged: in the transport, and in the kernel."""
        (queued,) = _INT.unpack(fcntl.ioctl(self._probe, termios.TIOCOUTQ, bytes(_INT.size)))
        buffered = self._transport.get_write_buffer_size() + self._raw.get_write_buffer_size()
        return int(queued) + buffered

    def _raise_if_broken(self) -> None:
        # After the peer's FIN the event loop reads no more, and gets no event for a reset.
        code = self._probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        if self._transport.is_closing():
            raise self._peer.error or ConnectionResetError("it closed the connection")


async def open_connection(
    address: SocketAddress, tls: Tls | None, user_timeout: float
) -> Connection:
    """Connect to one address; raises OSError, of which ssl.SSLError is one.

    The connection breaks once data or a keep-alive probe is unacknowledged for `user_timeout`
    seconds; there is no other time limit here. With TLS 1.3 a server may refuse the certificate of
    a client that has completed the handshake: this waits up to a second for the server's answer.
    """
    loop = asyncio.get_running_loop()
    sock = _make_socket(address[0], user_timeout)
    try:
        await loop.sock_connect(sock, address[1])
        probe = sock.dup()
    except BaseException:
        sock.close()
        raise
    raw = None
    try:
        peer = _Peer(half_close=tls is None)
        raw, _peer = await loop.create_connection(lambda: peer, sock=sock)
        transport = raw if tls is None else await _secure(raw, peer, tls)
        return Connection(raw, transport, peer, probe)
    except BaseException:
        if raw is not None:
            raw.abort()
        probe.close()
        raise


def _make_socket(family: socket.AddressFamily, user_timeout: float) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, _KEEP_IDLE),
        (socket.TCP_KEEPINTVL, _KEEP_INTERVAL),
        (socket.TCP_KEEPCNT, _KEEP_COUNT),
        (socket.TCP_USER_TIMEOUT, max(1, int(min(user_timeout * 1000, _MAX_INT)))),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock


async def _secure(raw: asyncio.Transport, peer: "_Peer", tls: Tls) -> asyncio.Transport:
    transport = await asyncio.get_running_loop().start_tls(
        raw, peer, tls.context, server_hostname=tls.server_name
    )
    if transport is None:  # the connection broke during the handshake
        raise ConnectionResetError("it closed the connection")
    await _await_acceptance(transport, peer)
    return transport


async def _await_acceptance(transport: asyncio.Transport, peer: "_Peer") -> None:
    """Wait until the server has accepted the handshake, or for a second; raises OSError if not.

    The server's session tickets show it (RFC 8446, 4.6.1); a server may send none.
    """
    secured = transport.get_extra_info("ssl_object")
    if secured.version() != "TLSv1.3":
        return
    loop = asyncio.get_running_loop()
    latest = loop.time() + _TLS_REFUSAL_SECONDS
    pause = _FIRST_POLL
    while not peer.closed.is_set() and not transport.is_closing():
        session = secured.session
        if (session is not None and session.has_ticket) or loop.time() >= latest:
            return
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LAST_POLL)
    await peer.closed.wait()
    raise peer.error or ConnectionResetError("it closed the connection after the TLS handshake")


class _Peer(asyncio.Protocol):
    """The events of the peer. Data of the peer is read, so that it is not blocked, and ignored.

    `half_close`: whether the connection continues one way once the peer has closed its side.
    """

    def __init__(self, *, half_close: bool) -> None:
        self._half_close = half_close
        self.error: Exception | None = None
        """Why the connection broke; None if it was closed in order."""
        self.closed = asyncio.Event()
        """Set once the connection is closed."""
        self.writable = asyncio.Event()
        """Set while the transport accepts more, and once the connection is closed."""
        self.writable.set()

    def eof_received(self) -> bool:
        return self._half_close

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self.closed.set()
        self.writable.set()
