"""What the screen shows windows of: types only.

The sources are a pipeline in this process (pipeline_source.py), a file of records (record_file.py)
and a history (history_source.py).
"""

from collections.abc import AsyncIterator
from typing import Protocol

from hogpipe.top.traffic_table import TrafficTable, WindowTraffic


class WindowSource(Protocol):
    """What the screen shows."""

    is_live: bool
    """Whether windows come by the clock, and once only."""
    is_at_end: bool
    """Whether all windows that there are have been read."""

    @property
    def title(self) -> str:
        """Return what is read, in a few words."""

    async def prepare(self) -> None:
        """Open what is read."""

    def read(self, table: TrafficTable) -> AsyncIterator[WindowTraffic]:
        """Yield the windows, each to be appended to the table at once."""
