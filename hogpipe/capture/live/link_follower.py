"""Following links: opens a handle on each selected interface, and closes it when it goes.

In: rtnetlink notifications, failed reads, the time. Out: interfaces added to and closed in a
`CaptureSet`; the packets read meanwhile are added to the `CapturedPackets` that each call gets.

Links change in bursts, and reading them costs more the more there are. So a notification only
schedules a reading of all links and addresses; after each one there is a pause, a multiple of the
CPU time that it took.

What may fail
    An interface that cannot be opened is logged once and retried, and the others are captured. If
    links cannot be listed, the open interfaces are captured on and listing is retried. An interface
    that fails is closed; links are read again, since it may be up again before its error is seen.
"""

import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable
from functools import partial

from hogpipe.capture.decode.wire_packets import CapturedPackets
from hogpipe.capture.frame_tap import FrameTap
from hogpipe.capture.live.interface_capture import CaptureSet, InterfaceCapture
from hogpipe.capture.live.interface_views import InterfaceView, InterfaceViews
from hogpipe.capture.live.link_selection import find_unmatched
from hogpipe.capture.live.open_handles import HandleOpener, LiveOptions
from hogpipe.capture.wire_interfaces import WireInterfaces
from hogpipe.errors import ConfigurationError, HogpipeError
from hogpipe.linux.limits import explain_os_error
from hogpipe.linux.rtnetlink import LinkMonitor, LinkTable

log = logging.getLogger(__name__)

# Pause after links were read, as a multiple of the CPU time it took. Opening and closing handles is
# not part of that: it is not done again.
_PAUSE_FACTOR = 4
_MAX_PAUSE = 0.5
_RETRY_SECONDS = 5.0


class LinkFollower:
    """Keeps `captures` in step with the links that `options` select.

    For one thread, in the network namespace that is captured in.
    """

    def __init__(
        self,
        options: LiveOptions,
        captures: CaptureSet,
        interfaces: WireInterfaces,
        tap: FrameTap | None = None,
    ) -> None:
        self._patterns = options.interfaces
        self._captures = captures
        self._interfaces = interfaces
        self._tap = tap
        self._views = InterfaceViews(options.interfaces, options.procfs)
        self._opener = HandleOpener(options, cuts_frames=tap is None)
        self._monitor: LinkMonitor | None = None
        self._due_at: float | None = None
        """When links are to be read again; None as long as nothing has changed."""
        self._pause_ends = 0.0
        self._listing_fails = False
        """Whether links could not be listed the last time, which has been logged."""
        self._refused: set[int] = set()
        """Interfaces that could not be opened, which has been logged."""

    def open(self, captured: CapturedPackets) -> list[HogpipeError]:
        """Open all selected interfaces; return why some could not be opened.

        Raises OSError if links cannot be listed, ConfigurationError if patterns match none.
        """
        self._monitor = LinkMonitor()
        self._captures.watch(self._monitor)
        table = self._monitor.read_table()
        self._check_patterns(table)
        self._views.update_links(table)
        return self._open_and_close(captured)

    def close(self, captured: CapturedPackets) -> None:
        """Close all interfaces and the monitor; the interfaces' last counts are in `captured`."""
        for index in list(self._captures.indices()):
            self._close_one(index, captured)
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None

    def seconds_until_due(self) -> float | None:
        """Return for how long nothing is due; None for as long as nothing changes."""
        return None if self._due_at is None else max(self._due_at - time.monotonic(), 0.0)

    def follow(self, ready: Collection[int], captured: CapturedPackets) -> None:
        """Take in notifications if the monitor is `ready`, and read links if that is due."""
        assert self._monitor is not None
        if self._monitor.fileno() in ready:
            self._monitor.drain()
            self._schedule()
        if self._due_at is not None and time.monotonic() >= self._due_at:
            self._due_at = None
            self._read_links(self._monitor, captured)
        self._refresh_containers()

    def close_failed(self, indices: Collection[int], captured: CapturedPackets) -> None:
        """Close interfaces whose reads failed, once all their packets are in `captured`."""
        if indices:
            self._close(indices, captured)
            self._schedule()

    def _schedule(self, delay: float = 0.0) -> None:
        """Have links read as soon as the pause allows, or after `delay` seconds."""
        at = max(time.monotonic() + delay, self._pause_ends)
        self._due_at = at if self._due_at is None else min(at, self._due_at)

    def _read_links(self, monitor: LinkMonitor, captured: CapturedPackets) -> None:
        started = time.thread_time()
        try:
            table = monitor.read_table()
        except OSError as error:
            if not self._listing_fails:
                log.warning(
                    "changes of interfaces cannot be read now: %s; capture continues, and reading "
                    "is retried",
                    explain_os_error(error),
                )
            self._listing_fails = True
            self._schedule(_RETRY_SECONDS)
            return
        self._listing_fails = False
        self._views.update_links(table)
        pause = min(_PAUSE_FACTOR * (time.thread_time() - started), _MAX_PAUSE)
        self._pause_ends = time.monotonic() + pause
        log_failures(self._open_and_close(captured))

    def _check_patterns(self, table: LinkTable) -> None:
        unmatched = find_unmatched(self._patterns, table.links)
        names = ", ".join(link.name for link in table.links)
        missing = [pattern for pattern in unmatched if not set(pattern) & set("*?[")]
        if missing or len(unmatched) == len(self._patterns):
            raise ConfigurationError(
                [
                    f'capture.interfaces: no interface "{pattern}"; there are: {names}'
                    for pattern in missing or unmatched
                ]
            )
        for pattern in unmatched:
            log.warning(
                'capture.interfaces: nothing matches "%s" yet; there are: %s', pattern, names
            )

    def _open_and_close(self, captured: CapturedPackets) -> list[HogpipeError]:
        """Open what is newly selected, close what no longer is, and update the rest.

        Returns why interfaces could not be opened, for each once.
        """
        self._views.refresh_containers(time.monotonic())
        wanted = self._views.current()
        self._captures.update(wanted)
        if gone := self._captures.indices() - wanted.keys():
            self._close(gone, captured)
        failures: list[HogpipeError] = []
        sharers = Counter(view.is_container_veth for view in wanted.values())
        # Veths to containers come last: they share what the others leave of the ring budget.
        for index, view in sorted(wanted.items(), key=lambda item: item[1].is_container_veth):
            if index in self._captures.indices():
                continue
            try:
                self._open_one(index, view, sharers[view.is_container_veth])
                self._refused.discard(index)
            except HogpipeError as error:  # the other interfaces are unaffected
                if index not in self._refused:
                    failures.append(error)
                self._refused.add(index)
            self._read_overdue(captured)
        self._captures.update(self._views.current())
        self._refused &= wanted.keys()
        if self._refused:
            self._schedule(_RETRY_SECONDS)
        return failures

    def _open_one(self, index: int, view: InterfaceView, sharers: int) -> None:
        handle = self._opener.open(index, view, sharers)
        on_unknown = partial(self._report_unknown_endpoint, index)
        self._captures.add(
            index, InterfaceCapture(handle, view, self._interfaces, on_unknown, self._tap)
        )
        log.info("capturing on %s", view.name)

    def _close(self, indices: Collection[int], captured: CapturedPackets) -> None:
        """Close interfaces that failed or are no longer selected, after their last frames."""
        self._captures.wait_for_last_frames(indices)
        for index in indices:
            name = self._captures.name_of(index)
            log.info("%s: the interface is down, gone or no longer selected", name)
            self._captures.read_rest(index, captured)
            self._close_one(index, captured)
            self._read_overdue(captured)

    def _close_one(self, index: int, captured: CapturedPackets) -> None:
        self._captures.close(index, captured)
        self._opener.release(index)

    def _read_overdue(self, captured: CapturedPackets) -> None:
        """Read the other interfaces between two slow steps, before their rings overflow."""
        if self._captures.read_overdue(captured):
            self._schedule()

    def _refresh_containers(self) -> None:
        """Read the containers and their addresses if due."""
        if self._views.refresh_containers(time.monotonic()):
            self._captures.update(self._views.current())

    def _report_unknown_endpoint(self, index: int) -> None:
        self._views.report_unknown_endpoint(index)
        self._refresh_containers()


def log_failures(failures: Iterable[HogpipeError]) -> None:
    """Log why interfaces could not be opened."""
    for failure in failures:
        log.warning("%s", failure)
