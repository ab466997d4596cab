"""Windows of a made-up host: some programs with their units and peers, the same each time."""

import math
import random
from datetime import UTC, datetime
from typing import Any

from hogpipe import Record
from hogpipe.testing import RecordMaker

RUN = "01KAN9ARZ8X4T5W6Y7Z8A9B0CD"
CREATED = "2026-11-22T06:58:01.220Z"

# program, user, unit, mean transmit and receive in kB/s, period in seconds, quality, peers
PROGRAMS: tuple[tuple[str, str, str | None, float, float, float, str, int], ...] = (
    ("nginx", "www-data", "nginx.service", 2600, 240, 190, "exact", 14),
    ("postgres", "postgres", "postgresql.service", 900, 410, 90, "exact", 4),
    ("restic", "root", "backup.service", 1500, 40, 420, "exact", 1),
    ("firefox", "anna", "app-firefox.scope", 60, 1900, 140, "exact", 9),
    ("prometheus", "prometheus", "prometheus.service", 30, 320, 15, "listener", 6),
    ("apt-get", "root", None, 12, 700, 300, "exact", 2),
    ("ssh", "anna", "session-3.scope", 45, 60, 55, "exact", 2),
    ("python3", "ci", "runner.service", 80, 260, 70, "inferred", 5),
    ("chronyd", "_chrony", "chrony.service", 0.2, 0.2, 64, "exact", 3),
    ("systemd-resolved", "systemd-resolve", "systemd-resolved.service", 2, 6, 33, "listener", 2),
    ("redis-server", "redis", "redis.service", 130, 90, 25, "exact", 3),
)
NONE_KB = (18, 26)


def stamp(kind: str, sequence: int, start: float, end: float) -> dict[str, Any]:
    """Return the keys of every record."""
    texts = [
        datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds") for at in (start, end)
    ]
    return {
        "type": kind,
        "schema": 1,
        "timestamp": texts[1],
        "window": {"start": texts[0], "end": texts[1], "start_unix": start, "end_unix": end},
        "run": RUN,
        "sequence": sequence,
        "host": {"name": "web1"},
    }


def traffic(body: dict[str, Any], transmit: int, receive: int, quality: str) -> dict[str, Any]:
    """Return `body` with the counters of a traffic record."""
    network = {
        **body.get("network", {}),
        "flows": 1,
        "io": {
            "transmit": {"bytes": transmit, "packets": 1 + transmit // 1400},
            "receive": {"bytes": receive, "packets": 1 + receive // 1400},
        },
    }
    return {**body, "network": network, "attribution": {quality: transmit + receive}}


def process(
    name: str, pid: int = 1000, user: str = "root", unit: str | None = None
) -> dict[str, Any]:
    """Return the description of a process."""
    body: dict[str, Any] = {
        "process": {
            "pid": pid, "name": name, "parent_pid": 1, "creation": {"time": CREATED},
            "executable": {"name": name, "path": f"/usr/bin/{name}"}, "command": name,
            "user": {"id": pid}, "owner": user,
        },
    }  # fmt: skip
    return {**body, "systemd": {"unit": unit}} if unit else body


def stats(packets: int = 10_000, dropped: int = 0) -> dict[str, Any]:
    """Return the body of a stats record."""
    (record,) = RecordMaker().window(1)
    keys = ("capture", "attribution", "aggregation", "self")
    body: dict[str, Any] = {key: value for key, value in record.items() if key in keys}
    body["capture"] |= {"packets": packets, "dropped": {"kernel": dropped, "interface": 0}}
    body["attribution"]["pending"] = {"flows": 1, "bytes": 180}
    body["sinks"] = []
    body["self"] |= {"cpu": {"seconds": 0.006}, "memory": {"bytes": 61 << 20}}
    return body


class MadeUpHost:
    """Makes the windows of the host, one after another."""

    def __init__(self, *, peers: bool = True) -> None:
        self._random = random.Random(7)
        self._sequence = 0
        self._peers = peers

    def window(self, start: float, seconds: float = 1.0, more: int = 0) -> list[Record]:
        """Return the window from `start` on, with `more` small groups."""
        bodies = [
            one
            for number, program in enumerate(PROGRAMS)
            for one in self._program(number, program, start)
        ]
        bodies.append(self._unattributed())
        bodies += [
            traffic(process(f"worker-{number}", 20_000 + number), 100 + number, 50, "exact")
            for number in range(more)
        ]
        bodies.append(stats())
        return self.stamped(bodies, start, seconds)

    def stamped(
        self, bodies: list[dict[str, Any]], start: float, seconds: float = 1.0
    ) -> list[Record]:
        """Return records with these bodies."""
        records: list[Any] = []
        for body in bodies:
            self._sequence += 1
            kind = "stats" if "capture" in body else "traffic"
            records.append({**stamp(kind, self._sequence, start, start + seconds), **body})
        return records

    def _program(self, number: int, program: Any, at: float) -> list[dict[str, Any]]:
        name, user, unit, transmit, receive, period, quality, peers = program
        phase = 2 * math.pi * (at / period + number / 3)
        level = max(0.04, 0.62 + 0.38 * math.sin(phase) + 0.16 * math.sin(phase * 2.7 + number))
        body = process(name, 900 + 37 * number, user, unit)
        found = []
        shares = [1 / (1 + peer) for peer in range(peers)]
        for peer, share in enumerate(shares):
            part = level * share / sum(shares) * self._random.uniform(0.75, 1.25)
            address = f"{'10.0.4' if number % 3 else '203.0.113'}.{10 + 7 * peer + number}"
            network = {"peer": {"address": address}} if self._peers else {}
            counts = (round(1000 * transmit * part), round(1000 * receive * part))
            found.append(traffic({**body, "network": network}, *counts, quality))
        return found

    def _unattributed(self) -> dict[str, Any]:
        network = {"peer": {"address": "198.51.100.7"}} if self._peers else {}
        counts = (round(1000 * self._random.uniform(0, side)) for side in NONE_KB)
        return traffic({"network": network}, *counts, "none")
