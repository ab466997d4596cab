"""Measures by captured packets (source `pcap`), where the kernel may not count at sockets.

In: a scope. Out: what the records of a pipeline have of its processes since `restart`. The pipeline
runs in an event loop of its own, in a thread.

Borders in time are those of windows, `_INTERVAL` long: a reading waits for the end of one, and
until what passed before is not pending any more. What passes meanwhile is in the reading.

What may fail: opening raises NotPermittedError, ConfigurationError, CaptureError; reading raises
CaptureError.

Known limits: payload is not known. Without the ledger, connections that last less than some ten
milliseconds are mostly unattributed (`Traffic.unattributed_bytes`). A pid that is reused within a
measurement counts for both processes.
"""

import asyncio
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from hogpipe.aggregation.dimensions import parse_transport
from hogpipe.config.settings import (
    AggregationSettings,
    AttributionSettings,
    CaptureSettings,
    Settings,
)
from hogpipe.errors import CaptureError
from hogpipe.linux.listening_ports import read_service_ports
from hogpipe.measuring.results import Losses, Totals, Traffic
from hogpipe.measuring.scope import Scope
from hogpipe.measuring.tally import PeerKey, Tally, make_peer_key
from hogpipe.model import FlowKey, Quality, ServicePorts
from hogpipe.records.schema import Record, StatsRecord, TrafficRecord, parse_io
from hogpipe.stream import stream_records
from hogpipe.text import describe_error

_INTERVAL = 0.1
_HOLD = 0.5
_LATEST = 3.0  # seconds after which a reading takes what is there
_PROCFS = Path("/proc")
_NOTHING = Totals(transmit_payload_bytes=None, receive_payload_bytes=None)
_SETTINGS = Settings(
    # "auto" leaves loopback out.
    capture=CaptureSettings(source="pcap", interfaces=("auto", "lo")),
    attribution=AttributionSettings(hold=_HOLD),
    aggregation=AggregationSettings(interval=_INTERVAL, group_by=("process", "flow")),
)


class PacketMeter:
    """Counts the traffic of a scope, which it takes over, until `close`. Safe in any thread."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._changed = threading.Condition()
        self._windows_end = 0.0
        """Until when all that passed is in the tally, seconds since the epoch."""
        self._failure: Exception | None = None
        self._dropped = self._dropped_before = 0
        self._is_refreshed = False
        """Whether the scope knows the processes of the window."""
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        opened: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(opened,), name="measuring", daemon=True
        )
        self._ports = ServicePorts()
        self._begin()
        self._thread.start()
        try:
            opened.result()
        except BaseException:
            self.close()
            raise

    def restart(self) -> None:
        """Count from now on. Raises CaptureError."""
        with self._changed:
            self._wait_for_windows()
            self._begin()

    def read(self) -> Traffic:
        """Return what was moved until now. Raises CaptureError."""
        with self._changed:
            self._wait_for_windows()
            state = Traffic(
                source="pcap",
                losses=Losses(self._dropped - self._dropped_before, 0, self._scope.lost_forks),
                follows_children=self._scope.follows_children,
                is_running=self._scope.is_running(),
            )
            return self._tally.read(time.monotonic(), state)

    def close(self) -> None:
        """End the capture, also one that is being opened. May be called again."""
        self._is_closed = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread.is_alive():
            self._thread.join()
        self._scope.close()

    def _begin(self) -> None:
        self._tally = Tally(time.monotonic(), nothing=_NOTHING)
        self._dropped_before = self._dropped

    def _wait_for_windows(self) -> None:
        """Wait until what passed before is in the tally; the lock is free meanwhile."""
        wanted = time.time() + _INTERVAL
        self._changed.wait_for(
            lambda: self._windows_end >= wanted or self._failure is not None, _LATEST
        )
        if self._failure is not None:
            text = f"the measurement broke off: {describe_error(self._failure)}"
            raise CaptureError(text) from self._failure

    def _run(self, opened: "Future[None]") -> None:
        try:
            asyncio.run(self._follow(opened))
        except Exception as error:  # noqa: BLE001 - it is raised where the traffic is read
            with self._changed:
                self._failure = error
                self._changed.notify_all()
            if not opened.done():
                opened.set_exception(error)

    async def _follow(self, opened: "Future[None]") -> None:
        """Add the records of a pipeline until `close`."""
        async with stream_records(_SETTINGS) as records:

            async def add_all() -> None:
                async for record in records:
                    self._add(record)

            following = asyncio.create_task(add_all())
            stopping = asyncio.create_task(self._stop.wait())
            self._loop = asyncio.get_running_loop()
            if self._is_closed:  # before there was a loop
                self._stop.set()
            opened.set_result(None)
            await asyncio.wait([following, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in (following, stopping):
                task.cancel()
            await asyncio.wait([following, stopping])
            if not following.cancelled():
                following.result()

    def _add(self, record: Record) -> None:
        with self._changed:
            if record["type"] == "traffic":
                self._add_traffic(record)
            else:
                self._add_stats(record)

    def _add_traffic(self, record: TrafficRecord) -> None:
        process = record.get("process", {})
        pid, network = process.get("pid"), record["network"]
        counts = parse_io(network["io"])
        if pid is None:
            self._tally.unattributed_bytes += counts.total_bytes
            return
        if not self._is_refreshed:
            self._is_refreshed = True
            self._scope.refresh()
        cgroup = process["linux"]["cgroup"] if "linux" in process else None
        if not self._scope.includes_path(pid, process.get("parent_pid"), cgroup):
            return
        totals = Totals(
            counts.transmit_bytes,
            counts.transmit_packets,
            counts.receive_bytes,
            counts.receive_packets,
            None,
            None,
        )
        qualities = {Quality(name): size for name, size in record["attribution"].items()}
        self._tally.add(self._find_peer(record), totals, qualities)

    def _find_peer(self, record: TrafficRecord) -> PeerKey:
        network = record["network"]
        local, peer = network.get("local", {}), network.get("peer", {})
        if "address" not in peer:
            return PeerKey(b"", 0, None, None)
        remote_address = ip_address(peer["address"]).packed
        flow = FlowKey(
            parse_transport(network.get("transport", "")),
            ip_address(local["address"]).packed,
            local.get("port", 0),
            remote_address,
            peer.get("port", 0),
            "",
        )
        return make_peer_key(
            remote_address, flow.protocol, flow.local_port, flow.remote_port, self._ports.find(flow)
        )

    def _add_stats(self, record: StatsRecord) -> None:
        """Record that a window has ended; it lacks what is pending, which is as old as `_HOLD`."""
        self._is_refreshed = False
        self._dropped += record["capture"]["dropped"]["kernel"]
        end = record["window"]["end_unix"]
        if record["attribution"]["pending"]["flows"]:
            end -= _HOLD + _INTERVAL
        self._windows_end = max(self._windows_end, end)
        self._ports = read_service_ports(_PROCFS)
        self._changed.notify_all()
