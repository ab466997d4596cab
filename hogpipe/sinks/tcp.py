"""The `tcp` sink: JSON lines to a collector over TCP.

A window counts as delivered when the collector's kernel has acknowledged all of it. If the
connection breaks before, the whole window is sent again on a new one, so the collector may see
records twice: `run` with `sequence` tells it which. A new connection begins with a whole line; half
a line at the end of a broken one is the collector's to discard. What it had received but not yet
read when it died is lost, and shows as a gap in `sequence`.
"""

import asyncio
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

from msgspec import Meta

from hogpipe.errors import ConfigurationError, DeliveryError
from hogpipe.record import Record
from hogpipe.sinks.encoding import encode_lines
from hogpipe.sinks.protocol import SinkSettings

_FIRST_LOOK = 0.001  # seconds between looks whether all is acknowledged, doubling
_LAST_LOOK = 0.05
_INT = struct.Struct("i")


class TcpSettings(SinkSettings, frozen=True, kw_only=True):
    """`type = "tcp"`."""

    host: Annotated[str, Meta(min_length=1)]
    """A name, an IPv4 or an IPv6 address (with or without brackets)."""
    port: Annotated[int, Meta(ge=1, le=65535)]
    connect_timeout: Annotated[float, Meta(gt=0)] = 4.0
    """Seconds that a connection attempt may take, look-up of the name included."""


class TcpSink:
    """Sends whole windows, each on a connection that was alive when it began."""

    def __init__(self, settings: TcpSettings) -> None:
        self._settings = settings
        self._connection: _Connection | None = None

    async def open(self) -> None:
        """Connect; raises DeliveryError, or ConfigurationError if `host` can be no host."""
        settings = self._settings
        host = settings.host.removeprefix("[").removesuffix("]")
        target = f"{settings.host} port {settings.port}"
        try:
            async with asyncio.timeout(settings.connect_timeout):
                streams = await asyncio.open_connection(
                    host, settings.port, happy_eyeballs_delay=0.25
                )
        except TimeoutError as error:
            seconds = settings.connect_timeout
            raise DeliveryError(f"no connection to {target} within {seconds:g} s") from error
        except OSError as error:
            # asyncio's own text repeats the address; a look-up's error codes are negative.
            code = error.errno or 0
            reason = os.strerror(code) if code > 0 else error.strerror or error
            raise DeliveryError(f"no connection to {target}: {reason}") from error
        except UnicodeError as error:
            raise ConfigurationError(f"host {settings.host}: no name or address") from error
        self._connection = _Connection(*streams)

    async def write(self, records: Sequence[Record]) -> None:
        """Send a window and wait until it is acknowledged; raises OSError, DeliveryError."""
        if self._connection is not None and self._connection.lost:
            await self._abandon()
        if self._connection is None:
            await self.open()
        assert self._connection is not None
        try:
            await self._connection.send(encode_lines(records))
        except BaseException:
            # Part of a line may be out: whatever comes next needs a new connection.
            await self._abandon()
            raise

    async def close(self) -> None:
        """Close the connection; nothing is on its way any more."""
        await self._abandon()

    async def _abandon(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.abort()


class _Connection:
    """A connection and the task that watches its other end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._watch = asyncio.create_task(_read_to_end(reader))
        # `drain` then waits until all is with the kernel, which knows what is acknowledged.
        writer.transport.set_write_buffer_limits(high=0)

    @property
    def lost(self) -> bool:
        """Whether the peer has closed its side, or the connection is broken."""
        return self._watch.done() or self._writer.transport.is_closing()

    async def send(self, data: bytes) -> None:
        """Send `data` and wait until it is acknowledged; OSError if it cannot be any more."""
        self._writer.write(data)
        await self._writer.drain()
        pause = _FIRST_LOOK
        while self._unacknowledged():
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_LOOK)

    async def abort(self) -> None:
        """Let go of the connection without waiting for the peer."""
        self._watch.cancel()
        await asyncio.wait({self._watch})
        self._writer.transport.abort()
        with suppress(OSError):  # how a broken connection ends is known already
            await self._writer.wait_closed()

    def _unacknowledged(self) -> int:
        """Return how many bytes the kernel still keeps in the send queue (SIOCOUTQ, tcp(7)).

        Those on their way are among them (tcp_ioctl in net/ipv4/tcp.c: write_seq - snd_una).
        """
        if self._writer.transport.is_closing():
            raise ConnectionResetError("the collector broke the connection")
        sock = self._writer.get_extra_info("socket")
        # After the peer's FIN the loop reads no more, and so is not told of a reset.
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code))
        (count,) = _INT.unpack(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(_INT.size)))
        return int(count)


async def _read_to_end(reader: asyncio.StreamReader) -> None:
    """Discard whatever the peer sends, until it has no more to say."""
    with suppress(OSError):  # a broken connection is an end as well
        while await reader.read(1 << 16):
            pass
