"""Another configuration for a pipeline that runs (`Pipeline.reconfigure`).

In: settings. Out: what of them was taken over, and what takes effect at the next start
(config/changes.py). Errors: ConfigurationError, with nothing changed.

Order of a change
    1. New sinks are made and opened. If one can never be opened, the configuration is refused.
    2. If windows change, the open one is closed at once. Between it and the next one other rules of
       aggregation and enrichment apply, so each record follows from one configuration.
    3. Once the windows up to there are published, sinks change. So every window goes to the sinks
       of its time, and `sequence` has no gap over all of them.

One change is made at a time; further ones wait. The end of the run ends all of them.
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from hogpipe.aggregation.selectors import parse_selector
from hogpipe.aggregation.window_aggregator import WindowAggregator
from hogpipe.config.changes import Change, compare_settings
from hogpipe.config.settings import Settings
from hogpipe.delivery.dispatch import Dispatcher, SinkChange
from hogpipe.enrichment.processes import ProcessReader
from hogpipe.factory import list_source_fields, make_sink
from hogpipe.model import make_networks
from hogpipe.processing import Processing, WindowPublisher
from hogpipe.protocols import NANOSECONDS


class Reconfiguration(msgspec.Struct, frozen=True):
    """What became of a configuration, in words for the user; empty if the run has ended before."""

    taken_over: tuple[str, ...] = ()
    """Keys and sinks that have changed."""
    at_next_start: tuple[str, ...] = ()
    """Keys that differ from those of the run, and take effect at the next start."""


class Reconfigurer:
    """Changes the parts of a pipeline, which has the settings `present`, while it runs."""

    def __init__(
        self,
        present: Settings,
        *,
        processing: Processing,
        publisher: WindowPublisher,
        dispatcher: Dispatcher,
        aggregator: WindowAggregator,
        processes: ProcessReader,
        refresh_ports: Callable[[], Awaitable[None]],
    ) -> None:
        self._present = present
        self._processing = processing
        self._publisher = publisher
        self._dispatcher = dispatcher
        self._aggregator = aggregator
        self._processes = processes
        self._refresh_ports = refresh_ports
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Reconfiguration]] = set()
        self._closed = False

    async def take_over(self, wanted: Settings) -> Reconfiguration:
        """Take over what `wanted` changes; raises ConfigurationError, with nothing changed.

        If the caller is cancelled, the change is made all the same.
        """
        if self._closed:
            return Reconfiguration()
        task = asyncio.create_task(self._take_over(wanted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait({task})
        return Reconfiguration() if task.cancelled() else task.result()

    async def close(self) -> None:
        """End the changes under way; the run is about to end."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _take_over(self, wanted: Settings) -> Reconfiguration:
        async with self._lock:
            change = compare_settings(self._present, wanted)
            same_sinks = change.kept_sinks == tuple(range(len(self._present.sinks)))
            if change.keys or not same_sinks:
                await self._make(change)
            self._present = change.settings
            return Reconfiguration((*change.keys, *change.sinks), change.at_next_start)

    async def _make(self, change: Change) -> None:
        settings = change.settings
        rules = settings.aggregation
        networks = make_networks(settings.networks)
        only = [parse_selector(text, networks) for text in rules.only]
        sinks = await self._prepare_sinks(change)
        switched = asyncio.Event()

        def switch() -> None:
            self._dispatcher.switch(sinks)
            switched.set()

        def change_rules() -> None:
            self._aggregator.regroup(rules.group_by, only, rules.max_records, networks)
            details = settings.enrichment
            self._processes.set_details(
                command_line=details.command_line,
                ancestors=details.ancestors,
                container_names=details.container_names,
            )
            self._publisher.call_next(switch)

        try:
            if change.keys:
                await self._refresh_ports()  # the rules may need what was not read so far
                interval_ns = round(rules.interval * NANOSECONDS)
                fields = list_source_fields(settings)
                self._processing.change_rules(interval_ns, fields, networks, change_rules)
            else:
                self._publisher.call_next(switch)
            await switched.wait()
        finally:
            if not switched.is_set():
                await self._dispatcher.discard(sinks)

    async def _prepare_sinks(self, change: Change) -> SinkChange:
        live = change.settings.capture.source != "savefile"
        choices = zip(change.settings.sinks, change.kept_sinks, strict=True)
        return await self._dispatcher.prepare(
            [
                make_sink(choice, live=live) if number is None else number
                for choice, number in choices
            ]
        )
