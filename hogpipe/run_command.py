"""The command `run`: a pipeline from its start to its last line.

In: settings, and the signals of the process. Out: what a run reports on the standard error output
and to the service manager, and the exit code.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine

import msgspec

from hogpipe.config.settings import Settings
from hogpipe.errors import HogpipeError
from hogpipe.interrupter import Interrupter
from hogpipe.linux.service_manager import ServiceManager
from hogpipe.logs import report_error
from hogpipe.pipeline import Pipeline
from hogpipe.records.summary import Summary
from hogpipe.reload import Reloader
from hogpipe.security.run_threads import RunThreads
from hogpipe.signals import StopSignals
from hogpipe.sinks.plugin_errors import describe_bug
from hogpipe.text import NOTICE

log = logging.getLogger("hogpipe")


async def run_pipeline(
    settings: Settings,
    threads: RunThreads,
    read_again: Callable[[], Settings] | None,
    duration: float | None,
    signals: StopSignals,
) -> int:
    """Run until the source ends, the time is over, or a signal stops it; return the exit code.

    `read_again` returns the settings after SIGHUP, if they come from a file. Raises HogpipeError
    where the pipeline cannot be made; later errors are reported.
    """
    interrupter = Interrupter()
    interrupter.install()
    pipeline = Pipeline(settings, threads=threads, interrupter=interrupter)
    is_live = settings.capture.source != "savefile"
    manager = ServiceManager(os.environ)
    reloader = Reloader(pipeline, manager, read_again)
    opening = asyncio.create_task(pipeline.open())

    def stop() -> None:
        manager.report_stopping()
        if not opening.cancel():  # opening is complete
            signals.answer()
            pipeline.stop(urgent=pipeline.is_stopping)

    def describe_progress() -> str:
        return str(msgspec.structs.replace(pipeline.summary, seconds=loop.time() - started))

    loop = asyncio.get_running_loop()
    started = loop.time()
    signals.set_stop_action(lambda _number: loop.call_soon_threadsafe(stop))
    signals.set_hangup_action(lambda: loop.call_soon_threadsafe(reloader.request))
    code = 0
    try:
        await opening
        if is_live:
            log.log(NOTICE, "%s", pipeline.describe_owners())
        if duration is not None:
            loop.call_later(duration, pipeline.stop)
        manager.report_ready()
        reporting = loop.create_task(
            manager.report_status(lambda: reloader.describe(describe_progress()))
        )
        reloading = loop.create_task(reloader.run(describe_progress))
        try:
            await pipeline.run()
        finally:
            reporting.cancel()
            reloading.cancel()
    except asyncio.CancelledError:
        log.log(NOTICE, "stopped before the capture started")
    except HogpipeError as error:
        code = report_error(error)
    if opening.done() and not opening.cancelled() and not opening.exception():
        code = _print_summary(pipeline.summary, is_live=is_live) or code
    return code


def run_in_event_loop(main: Coroutine[None, None, None]) -> None:
    """Run `main` to its end in an event loop, whatever tasks and callbacks of plugins raise.

    asyncio ends a loop when any task raises SystemExit or KeyboardInterrupt; this one goes on.
    """
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = loop.create_task(main)
        while not task.done():
            try:
                loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt) as error:
                if task.done():
                    raise
                log.error("a task or callback of a plugin raised %s", describe_bug(error))  # noqa: TRY400


def _print_summary(summary: Summary, *, is_live: bool) -> int:
    """Print what is undelivered and the totals; return the exit code, 1 if records are lost."""
    for left in summary.undelivered:
        log.log(logging.ERROR if left.lost else logging.WARNING, "%s", left.text)
    log.log(NOTICE, "%s", summary)
    if is_live and (unowned := summary.describe_unowned()):
        log.log(NOTICE, "%s", unowned)
    return 1 if any(left.lost for left in summary.undelivered) else 0
