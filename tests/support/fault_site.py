"""A run of hogpipe that has to withstand faults, with traffic whose packets are counted.

Datagrams pass from `left` to `right`, and nothing else that the capture lets through. Each one ends
in a record of this process, in a record without an owner, or in a drop of the kernel.
"""

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from support.namespaces import Namespace
from support.running import (
    Running,
    imbalances,
    running,
    stats_of,
    traffic_of,
    wait_until,
    write_config,
)

PORT = 9009
SIZE = 100
_CONFIG = """
[capture]
{capture}
[attribution]
{attribution}
[aggregation]
interval = 0.2
[[sinks]]
type = "jsonl"
path = "{path}"
retry_initial = 0.05
retry_max = 0.1
{more}
"""


def configure(
    folder: Path,
    path: Path | str = "records.jsonl",
    *,
    capture: str = f'interfaces = ["left"]\nfilter = "udp port {PORT}"',
    attribution: str = "",
    more: str = "",
) -> Path:
    """Write a configuration; `more` follows the sink that writes `path`."""
    text = _CONFIG.format(capture=capture, attribution=attribution, path=path, more=more)
    return write_config(folder, text)


class Recorded:
    """What a run has recorded so far in a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read_records(self) -> list[dict[str, Any]]:
        """Return the records of whole lines, in the order of their sequence."""
        text = self.path.read_text() if self.path.exists() else ""
        lines = text.splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def count_owned(self) -> int:
        """Return the packets that are recorded for this process."""
        return _count_transmitted(self.read_records(), os.getpid())

    def count_all(self) -> int:
        """Return the packets that are recorded or were dropped by the kernel."""
        records = self.read_records()
        dropped = sum(one["capture"]["dropped"]["kernel"] for one in stats_of(records))
        return _count_transmitted(records) + dropped


class Site(Recorded):
    """Datagrams from `left` to `right`, and what hogpipe on the left has recorded in `path`."""

    def __init__(self, left: Namespace, right: Namespace, path: Path) -> None:
        super().__init__(path)
        self.left = left
        self.right = right
        self.sent = 0
        self.run: Running
        self._sockets = ExitStack()
        receiver = right.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._sockets.enter_context(receiver)
        receiver.bind(("10.77.0.2", PORT))

    def open_socket(self) -> socket.socket:
        """Return a new socket to transmit from."""
        made = self.left.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        return self._sockets.enter_context(made)

    def send(self, packets: int = 20, sender: socket.socket | None = None) -> None:
        """Transmit datagrams, from a new socket if there is none."""
        sender = sender or self.open_socket()
        for _number in range(packets):
            sender.sendto(bytes(SIZE), ("10.77.0.2", PORT))
        self.sent += packets

    def settle(self) -> None:
        """Wait until each packet is recorded, or counted as dropped."""
        with suppress(AssertionError):  # the numbers say more
            wait_until(lambda: self.count_all() >= self.sent)
        assert self.count_all() == self.sent, self.read_records()[-1]

    def deliver(self, packets: int = 20, sender: socket.socket | None = None) -> None:
        """Transmit datagrams until such are recorded for this process.

        A busy host may look up the first ones too late for an owner; none of them is lost.
        """
        wait_until(lambda: self._is_owned(packets, sender))

    def _is_owned(self, packets: int, sender: socket.socket | None) -> bool:
        before = self.count_owned()
        self.send(packets, sender)
        self.settle()
        return self.count_owned() == before + packets

    def assert_whole(self) -> None:
        """Assert that records add up with their counters, in order, and no packet is missing."""
        records = self.read_records()
        assert imbalances(records) == [0] * len(stats_of(records))
        assert [one["sequence"] for one in records] == [*range(1, len(records) + 1)]
        assert self.count_all() == self.sent

    def end(self) -> None:
        """End the run in order."""
        assert self.run.end() == 0, self.run.errors
        self.assert_whole()

    def close(self) -> None:
        self._sockets.close()


@contextmanager
def site(
    veth: tuple[Namespace, Namespace],
    config: Path,
    path: Path,
    **options: Any,
) -> Iterator[Site]:
    """Run hogpipe with `config`, which writes `path`, on the left of two namespaces.

    It has the mounts of this process, so that it sees what becomes of them.
    """
    made = Site(*veth, path)
    words = veth[0].enter(sys.executable, "-m", "hogpipe", "-v", "run", config)
    try:
        with running(None, *words, **options) as made.run:
            made.run.wait_for("capturing on left|counting at all sockets")
            yield made
    finally:
        made.close()


def _count_transmitted(records: list[dict[str, Any]], pid: int | None = None) -> int:
    return sum(
        one["network"]["io"]["transmit"]["packets"]
        for one in traffic_of(records)
        if pid is None or one.get("process", {}).get("pid") == pid
    )
