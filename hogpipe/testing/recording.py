"""A sink that keeps its records, to compare with another one, and that fails on demand."""

from collections import deque
from collections.abc import Sequence

from hogpipe.config.settings import ConfiguredSink
from hogpipe.records.schema import Record
from hogpipe.sinks.contract import SinkSettings, SinkType
from hogpipe.testing.configuring import read_settings


class RecordingSink:
    """Keeps every window. Each of `failures` is raised by one of the next writes."""

    def __init__(self, failures: Sequence[Exception] = ()) -> None:
        self.windows: list[list[Record]] = []
        self.calls: list[str] = []
        """`open`, `write`, `reopen` and `close`, in order; failed calls included."""
        self.failures = deque(failures)

    @property
    def records(self) -> list[Record]:
        """All records, in order."""
        return [record for window in self.windows for record in window]

    @property
    def sink_type(self) -> SinkType[SinkSettings]:
        """The sink type `recording`, whose sink is this one."""
        return SinkType("recording", SinkSettings, lambda _settings: self)

    def choice(self, **keys: object) -> ConfiguredSink:
        """Return this sink as an entry of `Settings.sinks`; `keys` are those of every sink."""
        return ConfiguredSink(self.sink_type, read_settings(self.sink_type, keys))

    async def open(self) -> None:
        """Do nothing."""
        self.calls.append("open")

    async def write(self, records: Sequence[Record]) -> None:
        """Keep a window, or raise the next failure."""
        self.calls.append("write")
        if self.failures:
            raise self.failures.popleft()
        self.windows.append(list(records))

    async def reopen(self) -> None:
        """Do nothing."""
        self.calls.append("reopen")

    async def close(self) -> None:
        """Do nothing; the records stay."""
        self.calls.append("close")
