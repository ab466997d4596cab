"""Whether a sink keeps what sinks promise."""

import gc
from collections.abc import Iterable

from hogpipe.testing import promises as conversations
from hogpipe.testing.case import BrokenPromiseError, Findings, SinkCase
from hogpipe.testing.harness import Driver
from hogpipe.testing.leaks import Traces, noting_tasks
from hogpipe.testing.secret_leaks import listening
from hogpipe.testing.sink_calls import HUNG

PROMISES = tuple(conversations.PROMISES)
"""The names of all promises, to check them one by one."""


async def check_sink(case: SinkCase, promises: Iterable[str] = PROMISES) -> Findings:
    """Hold a sink to `promises`; raises BrokenPromiseError with a line for each broken one.

    What the case has no means to check is left out, and told. Whatever else is raised comes from
    the case itself: from its receiver, or from making a sink of its keys.
    """
    kept, left_out, broken = [], [], []
    longest_block = 0.0
    for name in promises:
        if not conversations.applies(name, case):
            left_out.append(name)
            continue
        try:
            longest_block = max(longest_block, await _check(name, case))
            kept.append(name)
        except BrokenPromiseError as error:
            broken.append(f"{name}: {error}")
    if broken:
        raise BrokenPromiseError("\n".join(broken))
    return Findings(tuple(kept), tuple(left_out), longest_block)


async def _check(name: str, case: SinkCase) -> float:
    """Check one promise, and that nothing is left behind or betrayed; return the longest block."""
    await _warm_up(case)
    gc.collect()  # what only waits for that is gone, too
    traces = Traces()
    with noting_tasks(traces), listening(case.secrets):
        await conversations.PROMISES[name](case, traces)
        await traces.expect_nothing_left(case.patience)
    return traces.longest_block


async def _warm_up(case: SinkCase) -> None:
    """Open and close a sink once: what a library sets up for good is no trace of the sinks."""
    driver = await Driver.make(case, Traces())
    await driver.call_open(HUNG)
    await driver.close_in_trouble(HUNG)
