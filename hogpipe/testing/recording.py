"""A sink that keeps what it gets, to compare another with, and that fails as it is told to."""

from collections import deque
from collections.abc import Sequence

from hogpipe.config.settings import ConfiguredSink
from hogpipe.records.schema import Record
from hogpipe.sinks.contract import SinkSettings, SinkType
from hogpipe.testing.configuring import read_settings


class RecordingSink:
    """Keeps every window it gets. `failures` are raised by the next writes, one by each."""

    def __init__(self, failures: Sequence[Exception] = ()) -> None:
        self.windows: list[list[Record]] = []
        self.calls: list[str] = []
        """`open`, `write`, `reopen` and `close`, as they came; also those that failed."""
        self.failures = deque(failures)

    @property
    def records(self) -> list[Record]:
        """All records that it took, in order."""
        return [record for window in self.windows for record in window]

    @property
    def sink_type(self) -> SinkType[SinkSettings]:
        """A sink type `recording`, whose sink is this one."""
        return SinkType("recording", SinkSettings, lambda _settings: self)

    def choice(self, **keys: object) -> ConfiguredSink:
        """Return it as one of `Settings.sinks`; `keys` are those that every sink takes."""
        return ConfiguredSink(self.sink_type, read_settings(self.sink_type, keys))

    async def open(self) -> None:
        """Be ready."""
        self.calls.append("open")

    async def write(self, records: Sequence[Record]) -> None:
        """Keep a window, or fail."""
        self.calls.append("write")
        if self.failures:
            raise self.failures.popleft()
        self.windows.append(list(records))

    async def reopen(self) -> None:
        """Only note it."""
        self.calls.append("reopen")

    async def close(self) -> None:
        """Keep what was recorded."""
        self.calls.append("close")
