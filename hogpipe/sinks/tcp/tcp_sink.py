"""The `tcp` sink: JSON lines to a collector over TCP, with or without TLS (docs/collectors.md).

In: windows. Out: lines on one connection at a time. `write` raises DeliveryError, naming the
records whose lines were not acknowledged.

# Delivery

A line counts as delivered when the collector's kernel has acknowledged it. After a connection
broke, the lines that were not acknowledged are sent on the next one. A connection begins with a
whole line.

# Known limits

- Lines may arrive twice: those whose acknowledgement was under way when the connection broke, and
  with TLS, which acknowledges about 256 lines at a time, some more. `run` with `sequence` identify
  them.
- The end of a broken connection may be half a line, which the collector discards.
- Lines that the collector's kernel had received but its process had not read when it died are lost.
  They are a gap in `sequence`.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from hogpipe.errors import ConfigurationError, DeliveryError
from hogpipe.records.schema import Record
from hogpipe.sinks.connections import describe_connection_error
from hogpipe.sinks.contract import Seconds, SettingProblem, raise_problems
from hogpipe.sinks.encoding import JsonEncoder, JsonSettings
from hogpipe.sinks.tcp.connection import Connection
from hogpipe.sinks.tcp.connector import Connector
from hogpipe.sinks.tcp.endpoints import Endpoint, EndpointOrder, make_endpoint, parse_endpoint
from hogpipe.sinks.tls import TlsSettings, find_tls_problems

log = logging.getLogger(__name__)

RETURN_SECONDS = 300.0
"""How long a sink stays with a less preferred endpoint before it tries the preferred ones again."""

SHORT_CONNECTIONS = 3
"""So many connections in a row that the peer closed after one window cause a warning."""


class TcpSettings(JsonSettings, frozen=True, kw_only=True):
    """`type = "tcp"`; either `host` and `port`, or `endpoints`."""

    host: Annotated[str, Meta(min_length=1)] | None = None
    """A name, an IPv4 or an IPv6 address (with or without brackets)."""
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    endpoints: tuple[str, ...] = ()
    """`host:port` or `[IPv6]:port`, in the order of preference."""
    tls: TlsSettings | None = None
    """TLS, where present."""
    connect_timeout: Annotated[Seconds, Meta(gt=0)] = 4.0
    """Seconds until one endpoint must be connected, name lookups and TLS included."""


def find_problems(settings: TcpSettings) -> list[SettingProblem]:
    """Return what is wrong with the endpoints and the files for TLS; no use of the network."""
    return [*_find_endpoint_problems(settings), *find_tls_problems(settings.tls)]


@dataclass(frozen=True, slots=True)
class _Link:
    """A connection and the index of its endpoint."""

    index: int
    connection: Connection


class TcpSink:
    """Sends windows over one connection, replaced if it is no longer alive when a window begins.

    The constructor raises ConfigurationError if the settings name no endpoint.
    """

    def __init__(self, settings: TcpSettings, clock: Callable[[], float] = time.monotonic) -> None:
        raise_problems(_find_endpoint_problems(settings))
        self._name = settings.name or settings.type
        self._clock = clock
        self._encoder = JsonEncoder(settings)
        self._endpoints = _list_endpoints(settings)
        self._order = EndpointOrder(len(self._endpoints))
        self._connector = Connector(
            self._endpoints, settings.tls, settings.connect_timeout, settings.write_timeout
        )
        self._link: _Link | None = None
        self._latest = 0
        """The endpoint of the last connection."""
        self._return_at = 0.0
        """When the preferred endpoints are tried again."""
        self._interrupted: tuple[Sequence[Record], int] = ((), 0)
        """The window whose write failed or was cancelled, and how many lines were acknowledged."""
        self._windows = 0
        """Windows delivered on this connection."""
        self._short_connections = 0
        """Connections in a row that the peer closed after one window."""

    async def open(self) -> None:
        """Connect; raises DeliveryError, or ConfigurationError if files for TLS are unusable."""
        if self._link is None:
            self._use(*await self._connector.connect(self._order.all()))

    async def probe(self) -> str:
        """Connect to each endpoint; raises DeliveryError if none works."""
        return await self._connector.probe()

    async def write(self, records: Sequence[Record]) -> None:
        """Send a window and wait until it is acknowledged.

        Raises DeliveryError with the records that were not acknowledged. The retry of a cancelled
        write continues after the acknowledged records.
        """
        window, start = self._interrupted
        if window is not records:
            start = 0
        link = await self._find_link()
        acknowledged_before = link.connection.acknowledged_lines
        try:
            for lines in self._encoder.batches(records[start:]):
                link.connection.send(lines)
                await link.connection.wait_for_room()
            await link.connection.all_acknowledged()
        except BaseException as error:
            # Part of a line may be transmitted: the next window needs a new connection.
            done = start + link.connection.acknowledged_lines - acknowledged_before
            self._interrupted = (records, done)
            self._order.mark_broken(link.index)
            await self._abandon()
            if not isinstance(error, OSError):
                raise
            if done < len(records):
                raise self._describe_break(link.index, error, records[done:]) from error
        self._interrupted = ((), 0)
        self._windows += 1
        self._order.mark_delivered()

    async def close(self) -> None:
        """Close the connection."""
        self._connector.close()
        link, self._link = self._link, None
        if link is not None:
            await link.connection.close()

    async def _find_link(self) -> _Link:
        """Return a connection that is alive, to the most preferred endpoint that works."""
        if self._link is not None and self._link.connection.lost:
            self._warn_of_short_connections(self._link)
            await self._abandon()
        if self._link is None:
            try:
                return self._use(*await self._connector.connect(self._order.all()))
            except ConfigurationError as error:
                # A file may be missing for a moment while certificates are renewed.
                raise DeliveryError(str(error)) from error
        if self._link.index > 0 and self._clock() >= self._return_at:
            await self._try_preferred(self._link)
        return self._link

    async def _try_preferred(self, link: _Link) -> None:
        """Switch to a preferred endpoint if one can be connected."""
        self._return_at = self._clock() + RETURN_SECONDS
        # The present connection works: this failure is no failure of delivery.
        with suppress(DeliveryError, ConfigurationError):
            self._use(*await self._connector.connect(self._order.better_than(link.index)))
            await link.connection.close()

    def _use(self, index: int, connection: Connection) -> _Link:
        if index != self._latest:
            log.warning("sink %s: sends to %s now", self._name, self._endpoints[index])
        self._latest = index
        self._windows = 0
        self._return_at = self._clock() + RETURN_SECONDS
        self._link = _Link(index, connection)
        return self._link

    def _warn_of_short_connections(self, link: _Link) -> None:
        """Warn once of a peer that may not read lines: its TCP acknowledges them all the same."""
        self._short_connections = self._short_connections + 1 if self._windows == 1 else 0
        if self._short_connections == SHORT_CONNECTIONS:
            log.warning(
                "sink %s: %s closes each connection after one window, and may have read nothing of "
                "it; see whether it takes lines on this port, and whether it wants TLS",
                self._name,
                self._endpoints[link.index],
            )

    def _describe_break(
        self, index: int, error: OSError, undelivered: Sequence[Record]
    ) -> DeliveryError:
        reason = describe_connection_error(error)
        text = f"connection to {self._endpoints[index]} broke: {reason}"
        return DeliveryError(text, undelivered=undelivered)

    async def _abandon(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.connection.abort()


def _find_endpoint_problems(settings: TcpSettings) -> Iterable[SettingProblem]:
    if settings.endpoints:
        for key in ("host", "port"):
            if getattr(settings, key) is not None:
                yield _problem((key,), "not beside endpoints")
        for index, text in enumerate(settings.endpoints):
            try:
                parse_endpoint(text)
            except ValueError as error:
                yield _problem(("endpoints", index), str(error), text)
        return
    if settings.host is None:
        yield _problem(("host",), "required, or endpoints")
    elif settings.port is None:
        yield _problem(("port",), "required")
    else:
        try:
            make_endpoint(settings.host, settings.port)
        except ValueError as error:
            yield _problem(("host",), str(error), settings.host)


def _problem(place: tuple[str | int, ...], text: str, value: str | None = None) -> SettingProblem:
    return SettingProblem(place, text if value is None else f"{value}: {text}", text)


def _list_endpoints(settings: TcpSettings) -> list[Endpoint]:
    if settings.host is not None and settings.port is not None:
        return [make_endpoint(settings.host, settings.port)]
    return [parse_endpoint(text) for text in settings.endpoints]
