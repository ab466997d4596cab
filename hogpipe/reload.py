"""SIGHUP: files are reopened, and the configuration is read again (docs/service.md).

In: requests, and a function that reads the settings; without one, only files are reopened. Out:
calls of the pipeline, lines of the log, and states for the service manager. A configuration that is
refused, for whatever reason, leaves the run as it is.

The configuration is read in a thread, as it may take long: plugins are imported, and names in a
filter are resolved.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from hogpipe.config.settings import Settings
from hogpipe.errors import ConfigurationError
from hogpipe.linux.service_manager import ServiceManager
from hogpipe.pipeline import Pipeline
from hogpipe.sinks.plugin_errors import describe_bug
from hogpipe.text import NOTICE, printable

log = logging.getLogger(__name__)


class Reloader:
    """Reloads for a pipeline; `run` must be running while that runs."""

    def __init__(
        self,
        pipeline: Pipeline,
        manager: ServiceManager,
        read_settings: Callable[[], Settings] | None,
    ) -> None:
        self._pipeline = pipeline
        self._manager = manager
        self._read_settings = read_settings
        self._requested = asyncio.Event()
        self._note = ""
        """What the service manager shows of the last reload."""

    def request(self) -> None:
        """Ask for a reload; those that come while one is under way are one more."""
        self._requested.set()

    def describe(self, progress: str) -> str:
        """Return a status: what is to be known of the last reload, and `progress`."""
        return printable(f"{self._note}; {progress}" if self._note else progress)

    async def run(self, describe_progress: Callable[[], str]) -> None:
        """Reload when that is asked for, until cancelled."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            if self._pipeline.is_stopping:
                return
            self._manager.report_reloading()
            self._pipeline.reopen()
            if self._read_settings is not None:
                await self._take_over(self._read_settings)
            if not self._pipeline.is_stopping:
                self._manager.report_ready(self.describe(describe_progress()))

    async def _take_over(self, read_settings: Callable[[], Settings]) -> None:
        try:
            wanted = await asyncio.to_thread(read_settings)
            done = await self._pipeline.reconfigure(wanted)
        except ConfigurationError as error:
            self._refuse(error.problems)
            return
        except Exception as error:
            log.debug("where the reload failed", exc_info=error)
            self._refuse([f"configuration: {describe_bug(error)}"])
            return
        self._note = ""
        if done.taken_over:
            log.log(NOTICE, "configuration reloaded: %s", ", ".join(done.taken_over))
        elif not done.at_next_start:
            log.info("configuration reloaded: nothing has changed")
        if done.at_next_start:
            keys = ", ".join(done.at_next_start)
            verb = "takes" if len(done.at_next_start) == 1 else "take"
            log.warning("%s: %s effect at the next start", keys, verb)
            self._note = f"a restart is needed for {keys}"

    def _refuse(self, problems: Sequence[str]) -> None:
        for problem in problems:
            log.error("%s", problem)
        log.error("the configuration is refused, and the run goes on with the former one")
        self._note = f"the last configuration is refused: {problems[0]}"
