"""Live capture: a handle for each interface, all under one poll in one thread.

Handles never block, so that a stop, a change of addresses and an interface that comes or goes are
noticed at once on an idle link; only this thread reads or closes them.
"""

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from hogpipe.capture.addresses import find_local
from hogpipe.capture.guests import Guests
from hogpipe.capture.interfaces import ANY, find_unknown, select_links
from hogpipe.capture.netlink import LinkMonitor, LinkTable, read_link_table
from hogpipe.capture.pcap import BATCH_FRAMES, READ_TIMEOUT_MS, open_live
from hogpipe.capture.tap import Tap, View
from hogpipe.errors import CaptureError, ConfigurationError, HogpipeError
from hogpipe.model import FlowBatch

log = logging.getLogger(__name__)

# A batch costs a lot before its first frame, so a busy link is left to fill up: for a multiple of
# the CPU time that it took last. The longest rest is short beside the ring's patience (`pcap`).
_REST_FACTOR = 16
_SHORTEST_REST, _EARLY_REST, _LONGEST_REST = 0.002, 0.004, 0.01
_LAST_FRAMES_SECONDS = 2 * READ_TIMEOUT_MS / 1000
_ANY_INDEX = 0  # of the pseudo-interface; the kernel counts from 1


class LiveOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to capture; see `[capture]` in docs/configuration.md."""

    interfaces: Sequence[str] = ("auto",)
    filter: str = ""
    snaplen: int = 128
    buffer_mib: int = 16
    promiscuous: bool = False
    procfs: Path = Path("/proc")
    """Where the processes of other network namespaces are seen."""


class LiveSource:
    """The frames of this host's interfaces, as they pass."""

    live = True

    def __init__(self, options: LiveOptions) -> None:
        self._options = options
        self._taps: dict[int, Tap] = {}
        self._table = LinkTable()
        self._guests = Guests(options.procfs)
        self._refused: set[int] = set()  # interfaces that could not be opened, and are told of
        self._monitor: LinkMonitor | None = None
        self._poll = select.poll()
        self._longest_rest = _LONGEST_REST
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

    def be_early(self, early: bool) -> None:
        """Rest for less long between batches, or not; see PacketSource."""
        self._longest_rest = _EARLY_REST if early else _LONGEST_REST

    def stop(self) -> None:
        """Make `run` return."""
        with self._guard:
            self._stopping.set()
            if self._stop is not None:
                os.eventfd_write(self._stop, 1)

    def _turn(self, offer: Callable[[FlowBatch], None]) -> None:
        """Wait for frames, a change or a stop, and deal with the first two."""
        assert self._monitor is not None
        ready = dict(self._poll.poll())
        before = time.thread_time()
        batch = FlowBatch()
        if self._monitor.fileno() in ready:
            self._monitor.drain()
            _warn(self._follow(read_link_table(), batch))
        self._look_for_guests()
        ready_taps = [(i, tap) for i, tap in self._taps.items() if tap.fileno() in ready]
        failed = [
            index
            for index, tap in ready_taps
            if ready[tap.fileno()] & select.POLLERR or not self._read(tap, batch)
        ]
        self._lose(failed, batch)
        if failed:  # one may be up again already, and word of that may have come before its error
            _warn(self._follow(read_link_table(), batch))
        _offer(batch, offer)
        if batch.counts.captured.packets < BATCH_FRAMES:
            rest = _REST_FACTOR * (time.thread_time() - before)
            time.sleep(min(max(rest, _SHORTEST_REST), self._longest_rest))

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
        self._table = table
        self._guests.follow(table.links, select_links(self._options.interfaces, table.links))
        self._look_for_guests()
        wanted = self._view(table)
        self._lose(self._taps.keys() - wanted.keys(), batch)
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
        views = {}
        for found in select_links(patterns, table.links):
            link, elsewhere = found
            local = find_local(table.without_addresses_of(elsewhere), link)
            local = self._guests.add_to(local, link.index, guests_only=found.is_door)
            guests = self._guests.faces_any(link.index)
            views[link.index] = View(link.name, local, link.big_tcp, guests)
        if ANY in patterns:
            big_tcp = any(link.big_tcp for link in table.links)
            views[_ANY_INDEX] = View(ANY, find_local(table, None), big_tcp)
        return views

    def _look_for_guests(self) -> None:
        """Take guests and their addresses into account if it is time to look for them."""
        now = time.monotonic()
        if self._guests.is_due(now) and self._guests.refresh(now):
            for index, view in self._view(self._table).items():
                if index in self._taps:
                    self._taps[index].update(view)

    def _meet_strangers(self, index: int) -> None:
        self._guests.want(index)
        self._look_for_guests()

    def _add(self, index: int, view: View) -> None:
        options = self._options
        handle = open_live(
            view.name,
            snaplen=options.snaplen,
            buffer_mib=options.buffer_mib,
            promiscuous=options.promiscuous,
            expression=options.filter,
        )
        tap = self._taps[index] = Tap(handle, view, partial(self._meet_strangers, index))
        self._poll.register(tap, select.POLLIN)
        log.info("capturing on %s", view.name)

    def _lose(self, indices: Collection[int], batch: FlowBatch) -> None:
        """Let go of interfaces that went down or away, once all that they got is in `batch`."""
        if indices:
            time.sleep(_LAST_FRAMES_SECONDS)
        for index in indices:
            log.info(
                "%s: the interface is down, gone or not chosen any more", self._taps[index].name
            )
            self._taps[index].read_rest(batch, time.time())
            self._drop(index, batch)

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
