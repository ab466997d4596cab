"""The `tcp` sink: JSON lines to a collector over TCP, with or without TLS (docs/collectors.md).

A line counts as delivered when the collector's kernel has acknowledged it. When a connection
breaks, those that it had not are sent again on the next one, and no others. With TLS that is told
of some 256 lines at a time, so a few may come twice; so may those that were on their way: `run`
with `sequence` tells which. A connection begins with a whole line; half a line at the end of a
broken one is the collector's to discard. What it had received but not yet read when it died is
lost, and shows as a gap in `sequence`.
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
from hogpipe.sinks.contract import SettingProblem, raise_problems
from hogpipe.sinks.encoding import JsonEncoder, JsonSettings
from hogpipe.sinks.tcp.connection import Connection
from hogpipe.sinks.tcp.connector import Connector
from hogpipe.sinks.tcp.endpoints import Endpoint, EndpointOrder, make_endpoint, parse_endpoint
from hogpipe.sinks.tls import TlsSettings, find_tls_problems

log = logging.getLogger(__name__)

RETURN_SECONDS = 300.0
"""How long a sink stays with an endpoint that is not its first choice until it tries that again."""

BRIEF_ONES = 3
"""After how many connections in a row that the peer closed after one window this is told."""


class TcpSettings(JsonSettings, frozen=True, kw_only=True):
    """`type = "tcp"`; either `host` and `port`, or `endpoints`."""

    host: Annotated[str, Meta(min_length=1)] | None = None
    """A name, an IPv4 or an IPv6 address (with or without brackets)."""
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    endpoints: tuple[str, ...] = ()
    """`host:port` or `[IPv6]:port`, in the order of preference."""
    tls: TlsSettings | None = None
    """TLS, where present."""
    connect_timeout: Annotated[float, Meta(gt=0)] = 4.0
    """Seconds in which an endpoint must have been found that works, look-ups of names and TLS
    included."""


def find_problems(settings: TcpSettings) -> list[SettingProblem]:
    """Return what can be found wrong without the network: endpoints, and the files of TLS."""
    return [*_find_endpoint_problems(settings), *find_tls_problems(settings.tls)]


@dataclass(frozen=True, slots=True)
class _Link:
    """A connection with the index of its endpoint."""

    index: int
    connection: Connection


class TcpSink:
    """Sends windows over one connection at a time, which was alive when the window began.

    Raises ConfigurationError if the settings name no endpoint.
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
        """The endpoint that was connected last."""
        self._return_at = 0.0
        """When an endpoint that is preferred is tried again."""
        self._cut_off: tuple[Sequence[Record], int] = ((), 0)
        """The window whose write was cancelled, and how many of its lines were acknowledged."""
        self._windows = 0
        """How many windows went over the present connection."""
        self._brief = 0
        """How many connections in a row the peer has closed after one window."""

    async def open(self) -> None:
        """Connect; raises DeliveryError, or ConfigurationError if files for TLS are unusable."""
        if self._link is None:
            self._use(*await self._connector.connect(self._order.all()))

    async def write(self, records: Sequence[Record]) -> None:
        """Send a window and wait until it is acknowledged; raises DeliveryError.

        That names the records that were not acknowledged. One whose write was cancelled goes on
        where it was, if it comes again.
        """
        window, start = self._cut_off
        if window is not records:
            start = 0
        link = await self._get_ready()
        sent_before = link.connection.acknowledged_lines
        try:
            for lines in self._encoder.portions(records[start:]):
                link.connection.send(lines)
                await link.connection.room()
            await link.connection.all_acknowledged()
        except BaseException as error:
            # Part of a line may be out: whatever comes next needs a new connection.
            done = start + link.connection.acknowledged_lines - sent_before
            self._cut_off = (records, done)
            self._order.note_broken(link.index)
            await self._abandon()
            if not isinstance(error, OSError):
                raise
            if done < len(records):
                raise self._lose(link.index, error, records[done:]) from error
        self._cut_off = ((), 0)
        self._windows += 1
        self._order.note_delivered()

    async def close(self) -> None:
        """Close the connection; nothing is on its way any more."""
        self._connector.close()
        link, self._link = self._link, None
        if link is not None:
            await link.connection.close()

    async def _get_ready(self) -> _Link:
        """Return a connection that was alive a moment ago, on the best endpoint that works."""
        if self._link is not None and self._link.connection.lost:
            self._note_leaving(self._link)
            await self._abandon()
        if self._link is None:
            try:
                return self._use(*await self._connector.connect(self._order.all()))
            except ConfigurationError as error:
                # While certificates are renewed, a file may be missing for a moment.
                raise DeliveryError(str(error)) from error
        if self._link.index > 0 and self._clock() >= self._return_at:
            await self._return(self._link)
        return self._link

    async def _return(self, link: _Link) -> None:
        """Change to an endpoint that is preferred, if one can be reached again."""
        self._return_at = self._clock() + RETURN_SECONDS
        # The connection that is there is good: no failure here is one of delivery.
        with suppress(DeliveryError, ConfigurationError):
            better = await self._connector.connect(self._order.better_than(link.index))
            self._use(*better)
            await link.connection.close()

    def _use(self, index: int, connection: Connection) -> _Link:
        if index != self._latest:
            log.warning("sink %s: sends to %s now", self._name, self._endpoints[index])
        self._latest = index
        self._windows = 0
        self._return_at = self._clock() + RETURN_SECONDS
        self._link = _Link(index, connection)
        return self._link

    def _note_leaving(self, link: _Link) -> None:
        """Warn once of a peer that may take no lines: its TCP acknowledges whatever it thinks."""
        self._brief = self._brief + 1 if self._windows == 1 else 0
        if self._brief == BRIEF_ONES:
            log.warning(
                "sink %s: %s closes each connection after one window, and may have read nothing of "
                "it; see whether it takes lines on this port, and whether it wants TLS",
                self._name,
                self._endpoints[link.index],
            )

    def _lose(self, index: int, error: OSError, undelivered: Sequence[Record]) -> DeliveryError:
        text = f"connection to {self._endpoints[index]} broke: {describe_connection_error(error)}"
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
