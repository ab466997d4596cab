"""A sink that writes one line for each window: its end, and the bytes of its traffic."""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

from hogpipe import Record, SinkSettings, SinkType, hookimpl


class TotalSettings(SinkSettings, frozen=True, kw_only=True):
    """`type = "total"`."""

    path: Path


class TotalSink:
    """Appends the total of each window to a file."""

    def __init__(self, settings: TotalSettings) -> None:
        self._path = settings.path

    async def open(self) -> None:
        """Find out whether the file can be written to."""
        await asyncio.to_thread(self._append, "")

    async def write(self, records: Sequence[Record]) -> None:
        """Add a line; an OSError, such as a full disk, is retried."""
        flows = [record["network"]["io"] for record in records if record["type"] == "traffic"]
        total = sum(io["transmit"]["bytes"] + io["receive"]["bytes"] for io in flows)
        await asyncio.to_thread(self._append, f"{records[-1]['window']['end']} {total}\n")

    def _append(self, text: str) -> None:
        with self._path.open("a") as file:
            file.write(text)

    async def close(self) -> None:
        """Do nothing: no file stays open."""


@hookimpl
def hogpipe_sinks() -> Iterable[SinkType[SinkSettings]]:
    """Offer the sink type `total`."""
    return [SinkType("total", TotalSettings, TotalSink)]
