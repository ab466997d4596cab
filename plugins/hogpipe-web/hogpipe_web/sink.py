"""Windows -> the page.

A window counts as delivered once it is in the ring; without readers nothing else is made of it.
"""

import asyncio
from collections.abc import Sequence

from hogpipe import Record, explain_listen_error, parse_listen
from hogpipe_web.access import Access
from hogpipe_web.app import StatusAnswer, WebApp, make_status
from hogpipe_web.assets import read_assets
from hogpipe_web.dimensions import read_values
from hogpipe_web.history import Archive
from hogpipe_web.hub import Hub
from hogpipe_web.ring import Ring, WindowSums
from hogpipe_web.server import WebServer
from hogpipe_web.settings import PORT, WebSettings

_SLICE = 500  # records before other tasks run


class WebSink:
    """Adds windows to the ring, and serves the page."""

    def __init__(self, settings: WebSettings) -> None:
        self._settings = settings
        self._access = Access(*parse_listen(settings.listen, PORT), settings.token, settings.hosts)
        self._hub = Hub(Ring(settings.live, settings.max_groups), settings.max_readers)
        self._archive = Archive(settings.history, settings.max_groups) if settings.history else None
        self._app = WebApp(
            access=self._access,
            hub=self._hub,
            archive=self._archive,
            assets=read_assets(),
            status=self.status,
        )
        self._server = WebServer(self._app)
        self._host: str | None = None
        self._windows = 0
        self._bytes = 0

    async def open(self) -> None:
        """Listen.

        Raises InUseError for a port in use, DeliveryError for an address that may appear later, and
        ConfigurationError.
        """
        listen = self._settings.listen
        try:
            await self._server.start(*parse_listen(listen, PORT))
        except OSError as error:
            raise explain_listen_error(error, listen) from error

    async def probe(self) -> str:
        """Listen; raises what `open` raises."""
        await self.open()
        return f"http://{self._settings.listen}/: can listen there"

    async def write(self, records: Sequence[Record]) -> None:
        """Add a window to the ring; a cancelled call adds nothing."""
        window = records[0]["window"]
        sums = WindowSums(window["start_unix"], window["end_unix"])
        for start in range(0, len(records), _SLICE):
            for record in records[start : start + _SLICE]:
                _add_record(sums, record)
            await asyncio.sleep(0)
        self._hub.publish(sums)
        self._host = records[0]["host"]["name"]
        self._windows += 1
        self._bytes += sum(row[0] + row[1] for row in (*sums.rows.values(), sums.remainder))

    async def close(self) -> None:
        """Stop serving."""
        self._hub.close()
        if self._archive is not None:
            self._archive.close()
        await self._server.stop()

    def status(self) -> StatusAnswer:
        """Return what was counted."""
        return make_status(
            access=self._access,
            hub=self._hub,
            archive=self._archive,
            host=self._host,
            live=self._settings.live,
            counters={
                "windows": self._windows,
                "bytes": self._bytes,
                "requests_refused": self._app.refused,
                "requests_failed": self._app.failed,
                "connections_refused": self._server.refused,
            },
        )


def _add_record(sums: WindowSums, record: Record) -> None:
    if record["type"] == "stats":
        sums.stats.append(record)
        return
    io, qualities = record["network"]["io"], record["attribution"]
    counts = (
        io["transmit"]["bytes"],
        io["receive"]["bytes"],
        qualities.get("listener", 0),
        qualities.get("inferred", 0),
        qualities.get("none", 0),
    )
    if not counts[0] and not counts[1]:  # only the health of connections
        return
    if "remainder" in record:
        row = sums.remainder
    else:
        values = read_values(record)
        known = sums.rows.get(values)
        if known is None:
            sums.rows[values] = list(counts)
            return
        row = known
    for column, count in enumerate(counts):
        row[column] += count
