"""PURE: the stamp of records: schema, window, run, sequence, host. Times are Unix nanoseconds.

`run` and `sequence` identify a record, so that a receiver can drop repeats and count losses.
"""

import secrets
from datetime import UTC, datetime

from hogpipe.protocols import NANOSECONDS
from hogpipe.records.schema import (
    SCHEMA_VERSION,
    Stamp,
    StatsBody,
    StatsRecord,
    TrafficBody,
    TrafficRecord,
    Window,
)

_MILLISECOND = NANOSECONDS // 1000
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class RecordStamper:
    """Stamps the records of one run; `sequence` has no gaps."""

    def __init__(self, run: str, host: str) -> None:
        self.run = run
        self._host = host
        self._sequence = 0
        self._window: tuple[int, int] = (0, 0)
        self._common = self._describe_window(0, 0)

    def traffic(self, body: TrafficBody, start_ns: int, end_ns: int) -> TrafficRecord:
        """Return a traffic record of the window from `start_ns` to `end_ns`."""
        return {"type": "traffic", **self._stamp(start_ns, end_ns), **body}

    def stats(self, body: StatsBody, start_ns: int, end_ns: int) -> StatsRecord:
        """Return a stats record of the window from `start_ns` to `end_ns`."""
        return {"type": "stats", **self._stamp(start_ns, end_ns), **body}

    def _stamp(self, start_ns: int, end_ns: int) -> Stamp:
        self._sequence += 1
        if self._window != (start_ns, end_ns):
            self._window = (start_ns, end_ns)
            self._common = self._describe_window(start_ns, end_ns)
        return {**self._common, "sequence": self._sequence}

    def _describe_window(self, start_ns: int, end_ns: int) -> Stamp:
        """Return the stamp of a window, whose objects all records of the window share."""
        window = make_window(start_ns, end_ns)
        return {
            "schema": SCHEMA_VERSION,
            "timestamp": window["end"],
            "window": window,
            "run": self.run,
            "sequence": 0,
            "host": {"name": self._host},
        }


def make_window(start_ns: int, end_ns: int) -> Window:
    """Return the window of a record; all its times are rounded down to the millisecond."""
    return {
        "start": format_time(start_ns),
        "end": format_time(end_ns),
        "start_unix": start_ns // _MILLISECOND / 1000,
        "end_unix": end_ns // _MILLISECOND / 1000,
    }


def format_time(time_ns: int) -> str:
    """Return a time as RFC 3339 in UTC, rounded down to the millisecond."""
    seconds, rest = divmod(time_ns, NANOSECONDS)
    whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{rest // _MILLISECOND:03d}Z"


def make_run_id(time_ns: int, entropy: bytes | None = None) -> str:
    """Return a ULID: 26 characters that sort by time (https://github.com/ulid/spec).

    `entropy` has 10 bytes, random ones by default.
    """
    milliseconds = (time_ns // _MILLISECOND) & (1 << 48) - 1
    value = milliseconds << 80 | int.from_bytes(entropy or secrets.token_bytes(10), "big")
    return "".join(_CROCKFORD[value >> shift & 31] for shift in range(125, -1, -5))
