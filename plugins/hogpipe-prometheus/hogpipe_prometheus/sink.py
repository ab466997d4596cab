"""Windows -> totals, to be scraped.

A window counts as delivered when it is in the totals; without scrapes nothing accumulates but
these.
"""

import asyncio
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, make_wsgi_app

from hogpipe import Record, StatsRecord, explain_listen_error, parse_listen, parse_tcp
from hogpipe_prometheus.collector import WindowCollector
from hogpipe_prometheus.labels import Labelling, Labels
from hogpipe_prometheus.series import SeriesTable, Traffic
from hogpipe_prometheus.server import ScrapeServer
from hogpipe_prometheus.settings import PORT, PrometheusSettings

_SLICE = 500  # records before other tasks run


class PrometheusSink:
    """Adds windows up and serves the totals."""

    def __init__(self, settings: PrometheusSettings) -> None:
        self._listen = settings.listen
        self._labelling = Labelling(settings.labels)
        self._collector = WindowCollector(
            self._labelling.names,
            SeriesTable(self._labelling.other, settings.max_series, settings.stale_after),
        )
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self._collector)
        self._server = ScrapeServer(make_wsgi_app(registry))

    async def open(self) -> None:
        """Listen.

        Raises InUseError for a port in use, DeliveryError for an address that may appear later, and
        ConfigurationError.
        """
        host, port = parse_listen(self._listen, PORT)
        try:
            await self._server.start(host, port)
        except OSError as error:
            raise explain_listen_error(error, self._listen) from error

    async def probe(self) -> str:
        """Listen; raises what `open` raises."""
        await self.open()
        return f"{self._listen}: can listen there"

    async def write(self, records: Sequence[Record]) -> None:
        """Add a window to the totals; a cancelled call adds nothing."""
        traffic: dict[Labels, Traffic] = {}
        stats: list[StatsRecord] = []
        for start in range(0, len(records), _SLICE):
            self._sum_up(records[start : start + _SLICE], traffic, stats)
            await asyncio.sleep(0)
        self._collector.add(traffic, stats, records[-1]["window"]["end_unix"])

    async def close(self) -> None:
        """Stop serving."""
        await self._server.stop()

    def _sum_up(
        self,
        records: Sequence[Record],
        traffic: dict[Labels, Traffic],
        stats: list[StatsRecord],
    ) -> None:
        for record in records:
            if record["type"] == "stats":
                stats.append(record)
                continue
            labels = self._labelling.of(record)
            if labels not in traffic:
                traffic[labels] = Traffic()
            io = record["network"]["io"]
            transmit, receive = io["transmit"], io["receive"]
            moved = Traffic(
                transmit_bytes=transmit["bytes"],
                transmit_packets=transmit["packets"],
                receive_bytes=receive["bytes"],
                receive_packets=receive["packets"],
                records=1,
                health=parse_tcp(record["network"]),
            )
            traffic[labels].add(moved)
