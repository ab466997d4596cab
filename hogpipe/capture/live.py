"""Live capture: a handle for each interface, all under one poll in one thread.

Handles never block, so that a stop, a change of addresses and an interface that comes or goes are
noticed at once on an idle link; only this thread reads or closes them.
"""

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from hogpipe.capture.addresses import find_local
from hogpipe.capture.interfaces import ANY, find_unknown, select_links
from hogpipe.capture.netlink import LinkMonitor, LinkTable, read_link_table
from hogpipe.capture.pcap import BATCH_FRAMES, READ_TIMEOUT_MS, open_live
from hogpipe.capture.tap import Tap, View
from hogpipe.errors import CaptureError, ConfigurationError, HogpipeError
from hogpipe.model import FlowBatch

log = logging.getLogger(__name__)

# Between two reads that found little: many interfaces that wake us one by one cost more.
_PACE_SECONDS = 0.002
_LAST_FRAMES_SECONDS = 2 * READ_TIMEOUT_MS / 1000
_ANY_INDEX = 0  # of the pseudo-interface; the kernel counts from 1


class LiveOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to capture; see `[capture]` in docs/configuration.md."""

    interfaces: Sequence[str] = ("auto",)
    filter: str = ""
    snaplen: int = 128
    buffer_mib: int = 16
    promiscuous: bool = False


class LiveSource:
    """The frames of this host's interfaces, as they pass."""

    live = True

    def __init__(self, options: LiveOptions) -> None:
        self._options = options
        self._taps: dict[int, Tap] = {}
        self._refused: set[int] = set()  # interfaces that could not be opened, and are told of
        self._monitor: LinkMonitor | None = None
        self._poll = select.poll()
        self._stopping = threading.Event()
        # One thread stops what another may just be closing.
        self._guard = threading.Lock()
        self._stop: int | None = None

    def open(self) -> None:
        """Open all that is selected now; see PacketSource."""
        self._monitor = LinkMonitor()
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._stop, select.POLLIN)
        self._poll.register(self._monitor, select.POLLIN)
        try:
            table = read_link_table()
            self._check_names(table)
            failures = self._follow(table, FlowBatch())
        except BaseException:
            self.close()
            raise
        if not self._taps and failures:
            self.close()
            raise failures[-1]
        _warn(failures)
        if not self._taps:
            log.warning("no chosen interface is up; capture starts when one comes up")

    def run(self, offer: Callable[[FlowBatch], None]) -> None:
        """Capture until stopped; see PacketSource."""
        last = FlowBatch()
        try:
            while not self._stopping.is_set():
                self._turn(offer)
            # The kernel still has to hand up the block that it was filling.
            time.sleep(_LAST_FRAMES_SECONDS)
            for tap in self._taps.values():
                self._read(tap, last)
        finally:
            self._release(last)
            _offer(last, offer)

    def close(self) -> None:
        """Close all handles; see PacketSource."""
        self._release(FlowBatch())

    def stop(self) -> None:
        """Make `run` return."""
        with self._guard:
            self._stopping.set()
            if self._stop is not None:
                os.eventfd_write(self._stop, 1)

    def _turn(self, offer: Callable[[FlowBatch], None]) -> None:
        """Wait for frames, a change or a stop, and deal with the first two."""
        assert self._monitor is not None
        ready = {descriptor for descriptor, _events in self._poll.poll()}
        batch = FlowBatch()
        if self._monitor.fileno() in ready:
            self._monitor.drain()
            _warn(self._follow(read_link_table(), batch))
        ready_taps = [(i, tap) for i, tap in self._taps.items() if tap.fileno() in ready]
        failed = [index for index, tap in ready_taps if not self._read(tap, batch)]
        for index in failed:
            self._drop(index, batch)
        if failed:  # one may be up again already, and word of that may have come before its error
            _warn(self._follow(read_link_table(), batch))
        _offer(batch, offer)
        if batch.counts.captured.packets < BATCH_FRAMES:
            self._stopping.wait(_PACE_SECONDS)

    def _read(self, tap: Tap, batch: FlowBatch) -> bool:
        """Read one tap into `batch`; return whether it can be read again."""
        try:
            tap.read(batch, time.monotonic())
        except CaptureError as error:
            # An interface that went down or away; the others go on, and it may come back.
            log.warning("%s; capture on it goes on when it comes up again", error)
            return False
        return True

    def _check_names(self, table: LinkTable) -> None:
        patterns = self._options.interfaces
        unknown = find_unknown(patterns, table.links)
        names = ", ".join(link.name for link in table.links)
        missing = [pattern for pattern in unknown if not set(pattern) & set("*?[")]
        if missing or len(unknown) == len(patterns):
            raise ConfigurationError(
                [
                    f'capture.interfaces: no interface "{pattern}"; there are: {names}'
                    for pattern in missing or unknown
                ]
            )
        for pattern in unknown:
            log.warning(
                'capture.interfaces: nothing matches "%s" yet; there are: %s', pattern, names
            )

    def _follow(self, table: LinkTable, batch: FlowBatch) -> list[HogpipeError]:
        """Open what is newly selected, close what no longer is, take new addresses into account.

        Returns why some could not be opened, once for each.
        """
        wanted = self._view(table)
        for index in self._taps.keys() - wanted.keys():
            log.info("%s: the interface is down or gone", self._taps[index].name)
            self._drop(index, batch)
        failures: list[HogpipeError] = []
        for index, view in wanted.items():
            if index in self._taps:
                self._taps[index].update(view)
                continue
            try:
                self._add(index, view)
                self._refused.discard(index)
            except HogpipeError as error:  # the others are none the worse for it
                if index not in self._refused:
                    failures.append(error)
                self._refused.add(index)
        self._refused &= wanted.keys()
        return failures

    def _view(self, table: LinkTable) -> dict[int, View]:
        """Return what is to be captured now, by interface index."""
        patterns = self._options.interfaces
        views = {
            link.index: View(link.name, find_local(table, link), link.big_tcp)
            for link in select_links(patterns, table.links)
        }
        if ANY in patterns:
            big_tcp = any(link.big_tcp for link in table.links)
            views[_ANY_INDEX] = View(ANY, find_local(table, None), big_tcp)
        return views

    def _add(self, index: int, view: View) -> None:
        options = self._options
        handle = open_live(
            view.name,
            snaplen=options.snaplen,
            buffer_mib=options.buffer_mib,
            promiscuous=options.promiscuous,
            expression=options.filter,
        )
        tap = self._taps[index] = Tap(handle, view)
        self._poll.register(tap, select.POLLIN)
        log.info("capturing on %s", view.name)

    def _drop(self, index: int, batch: FlowBatch) -> None:
        tap = self._taps.pop(index)
        self._poll.unregister(tap)
        tap.close(batch)

    def _release(self, batch: FlowBatch) -> None:
        for index in list(self._taps):
            self._drop(index, batch)
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        with self._guard:
            if self._stop is not None:
                os.close(self._stop)
                self._stop = None


def _warn(failures: Iterable[HogpipeError]) -> None:
    for failure in failures:
        log.warning("%s", failure)


def _offer(batch: FlowBatch, offer: Callable[[FlowBatch], None]) -> None:
    if batch != FlowBatch():
        batch.time_ns = time.time_ns()
        offer(batch)
