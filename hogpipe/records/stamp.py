"""PURE: what makes records identifiable: when, on which host, in which run and as which of it."""

import secrets
from datetime import UTC, datetime

from hogpipe.protocols import NANOSECONDS
from hogpipe.records.schema import Stamp, StatsBody, StatsRecord, TrafficBody, TrafficRecord

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class RecordStamper:
    """Gives each record of a run its identity: `run` with a `sequence` that has no gaps."""

    def __init__(self, run: str, host: str) -> None:
        self.run = run
        self._host = host
        self._sequence = 0
        self._span: tuple[int, int] = (0, 0)
        self._common = self._describe(0, 0)

    def traffic(self, body: TrafficBody, start_ns: int, end_ns: int) -> TrafficRecord:
        """Return `body` as a record of the window from `start_ns` to `end_ns`."""
        return {"type": "traffic", **self._stamp(start_ns, end_ns), **body}

    def stats(self, body: StatsBody, start_ns: int, end_ns: int) -> StatsRecord:
        """Return `body` as a record of the window from `start_ns` to `end_ns`."""
        return {"type": "stats", **self._stamp(start_ns, end_ns), **body}

    def _stamp(self, start_ns: int, end_ns: int) -> Stamp:
        self._sequence += 1
        if self._span != (start_ns, end_ns):
            self._span = (start_ns, end_ns)
            self._common = self._describe(start_ns, end_ns)
        return {**self._common, "sequence": self._sequence}

    def _describe(self, start_ns: int, end_ns: int) -> Stamp:
        """Return what all records of a window say, the same objects in each of them."""
        start, end = format_time(start_ns), format_time(end_ns)
        return {
            "timestamp": end,
            "window": {"start": start, "end": end},
            "run": self.run,
            "sequence": 0,
            "host": {"name": self._host},
        }


def format_time(time_ns: int) -> str:
    """Return nanoseconds since the epoch as RFC 3339 in UTC, to the millisecond below."""
    seconds, rest = divmod(time_ns, NANOSECONDS)
    whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{rest // 1_000_000:03d}Z"


def make_run_id(time_ns: int, entropy: bytes | None = None) -> str:
    """Return a ULID: 26 characters that sort by time (https://github.com/ulid/spec).

    `entropy` is 10 bytes; random where absent.
    """
    milliseconds = (time_ns // 1_000_000) & (1 << 48) - 1
    value = milliseconds << 80 | int.from_bytes(entropy or secrets.token_bytes(10), "big")
    return "".join(_CROCKFORD[value >> shift & 31] for shift in range(125, -1, -5))
