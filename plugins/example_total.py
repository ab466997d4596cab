"""A sink that keeps one line for each window: when it ended, and the bytes that passed in it."""

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
        """Find out now whether the file can be written to."""
        await asyncio.to_thread(self._append, "")

    async def write(self, records: Sequence[Record]) -> None:
        """Add a line; if the disk is full, the same records come again."""
        flows = [record["network"]["io"] for record in records if record["type"] == "traffic"]
        total = sum(io["transmit"]["bytes"] + io["receive"]["bytes"] for io in flows)
        await asyncio.to_thread(self._append, f"{records[-1]['window']['end']} {total}\n")

    def _append(self, text: str) -> None:
        with self._path.open("a") as file:
            file.write(text)

    async def close(self) -> None:
        """Nothing is left open."""


@hookimpl
def hogpipe_sinks() -> Iterable[SinkType[SinkSettings]]:
    """Offer the sink type `total`."""
    return [SinkType("total", TotalSettings, TotalSink)]
