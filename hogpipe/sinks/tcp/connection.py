"""A TCP connection that carries lines one way and knows which of them the peer's TCP has.

The kernel counts the bytes that the peer has acknowledged (tcpi_bytes_acked in struct tcp_info,
linux/tcp.h), and still tells the count once the connection is broken. What an asyncio transport
does with its socket then is out of our hands, so the count is read from a duplicate.
"""

import asyncio
import fcntl
import os
import select
import socket
import ssl
import struct
import termios
from contextlib import suppress
from dataclasses import dataclass

from hogpipe.sinks.tcp.sent import SentLines

_FIRST_LOOK = 0.001  # seconds between looks whether all is acknowledged, doubling
_LAST_LOOK = 0.05
_SETTLE = 1.0  # seconds that a TLS 1.3 server has to refuse this host after the handshake
_GOODBYE = 0.2  # seconds for the end of TLS: a sink has 0.4 to close
_KEEP_IDLE, _KEEP_INTERVAL, _KEEP_COUNT = 15, 5, 3  # seconds, seconds, probes: tcp(7)
_LONGEST = (1 << 31) - 1

_INT = struct.Struct("i")
_BYTES_ACKED = struct.Struct("120xQ")

SocketAddress = tuple[
    socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
]
"""A family and what `connect` takes for it."""


@dataclass(frozen=True, slots=True)
class Tls:
    """How a connection is secured, and the name that the peer's certificate must be for."""

    context: ssl.SSLContext
    server_name: str


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
        self._sent = SentLines(exact=self._plain)
        self._end = self._acknowledged_bytes()
        """The offset of the end of what was sent; of the same count as `tcpi_bytes_acked`."""

    @property
    def lost(self) -> bool:
        """Whether the peer has closed its side, or the connection is broken, as of now.

        The kernel is asked: the event loop may not have come to it yet.
        """
        poll = select.poll()
        poll.register(self._probe, select.POLLRDHUP)  # POLLERR and POLLHUP are always told
        return bool(poll.poll(0)) or self._transport.is_closing()

    @property
    def acknowledged_lines(self) -> int:
        """How many of all lines the peer's TCP has, whatever became of the connection."""
        return self._sent.acknowledged(self._acknowledged_bytes())

    def send(self, lines: bytes) -> None:
        """Hand over whole lines; raises OSError if the connection is known to be broken."""
        self._raise_if_broken()
        self._transport.write(lines)
        self._raise_if_broken()
        self._end = self._end + len(lines) if self._plain else self._count_sent()
        self._sent.add(lines, self._end)
        self._sent.acknowledged(self._acknowledged_bytes())  # lets go of what is done

    async def room(self) -> None:
        """Wait until more may be sent, and let others run; raises OSError if it is broken."""
        await asyncio.sleep(0)
        await self._peer.writable.wait()
        self._raise_if_broken()

    async def all_acknowledged(self) -> None:
        """Wait until the peer's TCP has all; raises OSError once that cannot be any more."""
        pause = _FIRST_LOOK
        while self._acknowledged_bytes() < self._end:
            self._raise_if_broken()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_LOOK)

    async def close(self) -> None:
        """End the connection in order, within a fifth of a second."""
        try:
            self._transport.close()
            with suppress(TimeoutError):  # a peer that does not say good-bye is left without
                async with asyncio.timeout(_GOODBYE):
                    await self._peer.closed.wait()
        finally:
            await self.abort()

    async def abort(self) -> None:
        """Let go of the connection at once.

        What the kernel has taken it goes on sending. A reset would keep that back, and more: what
        a peer has acknowledged but not read yet may be lost to it by a reset.
        """
        self._raw.abort()
        self._probe.close()
        await self._peer.closed.wait()

    def _acknowledged_bytes(self) -> int:
        info = self._probe.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.size)
        return int(_BYTES_ACKED.unpack(info)[0])

    def _count_sent(self) -> int:
        """Return the offset of the end of what was sent: how much TLS adds, nobody tells."""
        while True:
            before = self._acknowledged_bytes()
            pending = self._pending_bytes()
            if self._acknowledged_bytes() == before:  # else it may be among what was pending, too
                return before + pending

    def _pending_bytes(self) -> int:
        """Return what was sent and is not acknowledged: here, and in the kernel (SIOCOUTQ)."""
        (queued,) = _INT.unpack(fcntl.ioctl(self._probe, termios.TIOCOUTQ, bytes(_INT.size)))
        here = self._transport.get_write_buffer_size() + self._raw.get_write_buffer_size()
        return int(queued) + here

    def _raise_if_broken(self) -> None:
        # After the peer's FIN the loop reads no more, and so is not told of a reset.
        code = self._probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        if self._transport.is_closing():
            raise self._peer.error or ConnectionResetError("it closed the connection")


async def open_connection(
    address: SocketAddress, tls: Tls | None, user_timeout: float
) -> Connection:
    """Connect to one address; raises OSError, of which ssl.SSLError is one.

    It is given up once data or a keep-alive probe is unanswered for `user_timeout` seconds. There
    is no other time limit here. With TLS 1.3 a server may refuse a client's certificate after the
    handshake is over for the client, so its first word is waited for then, at most a second.
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
        (socket.TCP_USER_TIMEOUT, max(1, int(min(user_timeout * 1000, _LONGEST)))),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock


async def _secure(raw: asyncio.Transport, peer: "_Peer", tls: Tls) -> asyncio.Transport:
    transport = await asyncio.get_running_loop().start_tls(
        raw, peer, tls.context, server_hostname=tls.server_name
    )
    if transport is None:  # lost as soon as it was there
        raise ConnectionResetError("it closed the connection")
    await _settle(transport, peer)
    return transport


async def _settle(transport: asyncio.Transport, peer: "_Peer") -> None:
    """Wait until the server has taken the handshake, or for a second; raises OSError if not.

    Its session tickets say so (RFC 8446, 4.6.1). A server that sends none says nothing.
    """
    secured = transport.get_extra_info("ssl_object")
    if secured.version() != "TLSv1.3":
        return
    loop = asyncio.get_running_loop()
    latest = loop.time() + _SETTLE
    pause = _FIRST_LOOK
    while not peer.closed.is_set() and not transport.is_closing():
        session = secured.session
        if (session is not None and session.has_ticket) or loop.time() >= latest:
            return
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LAST_LOOK)
    await peer.closed.wait()
    raise peer.error or ConnectionResetError("it closed the connection after the TLS handshake")


class _Peer(asyncio.Protocol):
    """What the other end does. Whatever it says is read, as it must not have to wait, and ignored.

    `half_close`: whether the connection can go on one way once the peer has closed its side.
    """

    def __init__(self, *, half_close: bool) -> None:
        self._half_close = half_close
        self.error: Exception | None = None
        """Why the connection was lost, if it was not in order."""
        self.closed = asyncio.Event()
        """Set once the connection is lost."""
        self.writable = asyncio.Event()
        """Set while there is room for more, and once the connection is lost."""
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
