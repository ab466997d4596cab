"""`check_sink`: whether a sink keeps the promises of the contract, one after the other."""

import gc
from collections.abc import Iterable

from hogpipe.testing import promises as contract
from hogpipe.testing.case import BrokenPromiseError, Findings, SinkCase
from hogpipe.testing.harness import SinkHarness
from hogpipe.testing.leaks import ResourceMonitor, checking_log, tracking_tasks
from hogpipe.testing.sink_calls import CALL_SECONDS

PROMISES = tuple(contract.PROMISES)
"""The names of all promises, to check them one by one."""


async def check_sink(case: SinkCase, promises: Iterable[str] = PROMISES) -> Findings:
    """Check that a sink keeps `promises`; BrokenPromiseError has a line for each broken one.

    Promises that the case has no means to check are left out, and named in the findings. Any other
    error comes from the case itself: from its receiver, or from making a sink of its keys.
    """
    kept, left_out, broken = [], [], []
    longest_block = 0.0
    for name in promises:
        if not contract.applies(name, case):
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
    """Check one promise, and that nothing leaks; return the longest block of the event loop."""
    await _warm_up(case)
    gc.collect()  # garbage of earlier tests may hold descriptors
    monitor = ResourceMonitor()
    with tracking_tasks(monitor), checking_log(case.secrets):
        await contract.PROMISES[name](case, monitor)
        await monitor.expect_no_leaks(case.patience)
    return monitor.longest_block


async def _warm_up(case: SinkCase) -> None:
    """Open and close a sink once: what a library sets up for good is no leak of the sink."""
    harness = await SinkHarness.make(case, ResourceMonitor())
    await harness.call_open(CALL_SECONDS)
    await harness.close_in_trouble(CALL_SECONDS)
