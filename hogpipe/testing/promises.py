"""What the contract of sinks promises, one conversation for each (docs/plugins.md).

Each makes sinks of its own, drives them and raises BrokenPromiseError. What is left behind is
looked at by check.py, after each one.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from hogpipe.delivery.isolation import CLOSE_SECONDS, OPEN_SECONDS
from hogpipe.sinks.contract import Reopenable
from hogpipe.testing.case import BrokenPromiseError, SinkCase
from hogpipe.testing.configuring import make_sink
from hogpipe.testing.harness import Driver
from hogpipe.testing.invalid_settings import refuse_nonsense
from hogpipe.testing.leaks import Traces

_SIZES = (1, 2, 8, 1000)
"""Records of a window; one is the window of a quiet host, of which only its stats are told."""
_UNDER_WAY = 2000  # records of a window whose writing is to be met half-way
_TURNS = 5  # of the event loop, until a write has begun
_MOST_STEPS = 40  # awaits of a call that are tried for a cancellation
_IN_TROUBLE = {"write_timeout": 2.0}
"""Defaults where each write waits for its time-out."""


async def delivery(case: SinkCase, traces: Traces) -> None:
    """Check that windows of any size arrive, unchanged, in order and once.

    They are of two runs, as after a start with a spool, which hands over the earlier run's first.
    """
    async with _opened(case, traces) as driver:
        for _run in range(2):
            for size in _SIZES:
                await driver.write(driver.window(size))
            driver.begin_run()
        await driver.expect_all()


async def large_window(case: SinkCase, traces: Traces) -> None:
    """Check that a window of the largest size arrives, and the one after it."""
    async with _opened(case, traces) as driver:
        records = driver.window(case.largest_window)
        async with traces.watching_the_loop():
            await driver.write(records)
        await driver.write(driver.window())
        await driver.expect_all()


async def outage(case: SinkCase, traces: Traces) -> None:
    """Check that what is written while the receiver is down arrives when it is back."""
    assert case.outage is not None
    async with _opened(case, traces, _IN_TROUBLE | {**case.keys}) as driver:
        await driver.write(driver.window())
        left = driver.window()
        async with case.outage():
            left = await driver.attempt(left, driver.write_timeout)
            if left:  # it goes on as long as nobody answers
                left = await driver.attempt(left, driver.write_timeout)
        await driver.deliver(left)
        await driver.deliver(driver.window())
        await driver.expect_all()


async def outage_in_a_write(case: SinkCase, traces: Traces) -> None:
    """Check that a window that is being written when the receiver goes down is not lost."""
    assert case.outage is not None
    async with _opened(case, traces, _IN_TROUBLE | {**case.keys}) as driver:
        for seconds in (0, 0.01):
            writing = asyncio.create_task(
                driver.attempt(driver.window(_UNDER_WAY), driver.write_timeout)
            )
            for _turn in range(_TURNS):
                await asyncio.sleep(seconds)
            async with case.outage():
                left = await writing
            await driver.deliver(left)
        await driver.deliver(driver.window())
        await driver.expect_all()


async def late_receiver(case: SinkCase, traces: Traces) -> None:
    """Check that a sink that cannot be opened for now can be, once the receiver is there."""
    assert case.outage is not None
    driver = await Driver.make(case, traces)
    async with _closing(driver):
        async with case.outage():
            opened = await driver.try_open(OPEN_SECONDS) is None
        if not opened:
            await driver.open_at_last()
        await driver.deliver(driver.window())
        await driver.expect_all()


async def stall(case: SinkCase, traces: Traces) -> None:
    """Check that a write that the receiver holds up can be cancelled, and nothing is lost."""
    assert case.stall is not None
    async with _opened(case, traces, _IN_TROUBLE | {**case.keys}) as driver:
        await driver.write(driver.window())
        async with case.stall():
            left = await driver.attempt(driver.window(_UNDER_WAY), driver.write_timeout)
        await driver.deliver(left)
        await driver.deliver(driver.window())
        await driver.expect_all()


async def refusal(case: SinkCase, traces: Traces) -> None:
    """Check that one record that the receiver refuses is told, and holds up no other."""
    assert case.refusal is not None
    async with _opened(case, traces) as driver:
        window = driver.window()
        refused = window[len(window) // 2]
        async with case.refusal(refused):
            await driver.deliver(window)
            await driver.deliver(driver.window())
            await driver.expect_all([refused])


async def cancellation(case: SinkCase, traces: Traces) -> None:
    """Check that open, write and close may be cancelled wherever they wait."""
    for step in range(1, _MOST_STEPS):
        driver = await Driver.make(case, traces)
        async with _closing(driver):
            reached = await driver.open_cancelled(step)
        await traces.expect_nothing_left(case.patience)
        if not reached:
            break
    async with _opened(case, traces) as driver:
        for step in range(1, _MOST_STEPS):
            window = driver.window()
            if not await driver.attempt_cancelled(window, step):
                break
            await driver.deliver(window)
        await driver.deliver(driver.window())
        await driver.expect_all()
    for step in range(1, _MOST_STEPS):
        driver = await Driver.make(case, traces)
        await driver.open()
        await driver.write(driver.window())
        reached = await driver.close_cancelled(step)
        await traces.expect_nothing_left(case.patience)
        if not reached:
            break


async def reopening(case: SinkCase, traces: Traces) -> None:
    """Check that it goes on as before after a reopen."""
    async with _opened(case, traces) as driver:
        for _turn in range(3):
            await driver.write(driver.window())
            await driver.reopen()
        await driver.write(driver.window())
        await driver.expect_all()


async def closing(case: SinkCase, traces: Traces) -> None:
    """Check that it can be closed soon in any trouble, also without having been opened.

    Whatever a write has told as delivered arrives all the same.
    """
    driver = await Driver.make(case, traces)
    await driver.close()
    for trouble in (case.outage, case.stall):
        if trouble is None:
            continue
        driver = await Driver.make(case, traces)
        async with trouble():
            await driver.try_open(CLOSE_SECONDS)
            await driver.close_in_trouble(CLOSE_SECONDS)
        driver = await Driver.make(case, traces)
        await driver.open()
        async with trouble():
            await driver.close_in_trouble(CLOSE_SECONDS)
    if case.arrived is not None:  # a sink of sums may have them itself, to be fetched
        await _close_after_writing(case, traces)


async def _close_after_writing(case: SinkCase, traces: Traces) -> None:
    """Close as soon as a write is over: a sink that only keeps records for later loses them."""
    driver = await Driver.make(case, traces)
    await driver.open()
    await driver.write(driver.window(_UNDER_WAY))
    await driver.close()
    await driver.expect_all()
    if case.outage is not None:
        driver = await Driver.make(case, traces, _IN_TROUBLE | {**case.keys})
        await driver.open()
        async with case.outage():
            driver.give_up(await driver.attempt(driver.window(), driver.write_timeout))
            await driver.close_in_trouble(CLOSE_SECONDS)
        await driver.expect_all()


PROMISES = {
    "delivery": delivery,
    "outage": outage,
    "outage in a write": outage_in_a_write,
    "late receiver": late_receiver,
    "stall": stall,
    "refusal": refusal,
    "cancellation": cancellation,
    "reopening": reopening,
    "closing": closing,
    "settings": refuse_nonsense,
    "large window": large_window,  # the last: whoever reads its records after it, reads a lot
}
"""Every promise by its name, in the order in which they are looked at."""


def applies(name: str, case: SinkCase) -> bool:
    """Return whether the case has what it takes to check the promise `name`."""
    match name:
        case "outage" | "outage in a write" | "late receiver":
            return case.outage is not None
        case "stall":
            return case.stall is not None
        case "refusal":
            return case.refusal is not None
        case "reopening":
            return isinstance(make_sink(case.sink_type, case.keys), Reopenable)
        case _:
            return True


@asynccontextmanager
async def _opened(
    case: SinkCase, traces: Traces, keys: Mapping[str, object] | None = None
) -> AsyncIterator[Driver]:
    driver = await Driver.make(case, traces, keys)
    async with _closing(driver):
        await driver.open()
        yield driver


@asynccontextmanager
async def _closing(driver: Driver) -> AsyncIterator[None]:
    """Close the sink in the end; what went wrong before tells more than what goes wrong then."""
    try:
        yield
    except BaseException:
        with suppress(BrokenPromiseError):
            await driver.close()
        raise
    await driver.close()
