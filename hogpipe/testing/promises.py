"""The promises of the contract of sinks, one function for each (docs/plugin-reference.md).

In: a case. Out: nothing, or BrokenPromiseError. Each function makes sinks of its own and closes
them; check.py looks for leaks after each one. `PROMISES` lists them in order.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from msgspec.structs import fields

from hogpipe.delivery.isolation import CLOSE_SECONDS, OPEN_SECONDS
from hogpipe.errors import ConfigurationError, InUseError
from hogpipe.sinks.contract import Probeable, Reopenable, SinkSettings
from hogpipe.testing.case import BrokenPromiseError, SinkCase
from hogpipe.testing.configuring import make_sink, read_settings
from hogpipe.testing.harness import SinkHarness
from hogpipe.testing.leaks import ResourceMonitor
from hogpipe.testing.sink_calls import CALL_SECONDS
from hogpipe.text import describe_error

_SIZES = (1, 2, 8, 1000)
"""Records of a window; a quiet host has only its stats record."""
_LONG_WRITE = 2000  # records of a window whose write is to be interrupted
_TURNS = 5  # of the event loop, until a write has begun
_MAX_STEPS = 40  # awaits of a call at which a cancellation is tried
_IN_TROUBLE = {"write_timeout": 2.0}
"""Defaults where writes run into their time limit."""
_ANYTHING = ({"no": "such"}, [["no", "such"]], True, "no such", 0.5)
"""Values of every type, of which each key must refuse some."""


async def delivery(case: SinkCase, monitor: ResourceMonitor) -> None:
    """Check that windows of any size arrive unchanged, in order, once.

    They are of two runs, as after a start with a spool that holds windows of an earlier run.
    """
    async with _opened(case, monitor) as harness:
        for _run in range(2):
            for size in _SIZES:
                await harness.write(harness.window(size))
            harness.begin_run()
        await harness.expect_all()


async def large_window(case: SinkCase, monitor: ResourceMonitor) -> None:
    """Check that a window of the largest size arrives, and the next one."""
    async with _opened(case, monitor) as harness:
        records = harness.window(case.largest_window)
        async with monitor.measure_blocking():
            await harness.write(records)
        await harness.write(harness.window())
        await harness.expect_all()


async def outage(case: SinkCase, monitor: ResourceMonitor) -> None:
    """Check that a window written while the receiver is down arrives when it is up again."""
    assert case.outage is not None
    async with _opened(case, monitor, _IN_TROUBLE | {**case.keys}) as harness:
        await harness.write(harness.window())
        left = harness.window()
        async with case.outage():
            left = await harness.attempt(left, harness.write_timeout)
            if left:  # the outage continues
                left = await harness.attempt(left, harness.write_timeout)
        await harness.deliver(left)
        await harness.deliver(harness.window())
        await harness.expect_all()


async def outage_in_a_write(case: SinkCase, monitor: ResourceMonitor) -> None:
    """Check that an outage during a write loses nothing of the window."""
    assert case.outage is not None
    async with _opened(case, monitor, _IN_TROUBLE | {**case.keys}) as harness:
        for seconds in (0, 0.01):
            writing = asyncio.create_task(
                harness.attempt(harness.window(_LONG_WRITE), harness.write_timeout)
            )
            for _turn in range(_TURNS):
                await asyncio.sleep(seconds)
            async with case.outage():
                left = await writing
            await harness.deliver(left)
        await harness.deliver(harness.window())
        await harness.expect_all()


async def late_receiver(case: SinkCase, monitor: ResourceMonitor) -> None:
    """Check that a sink that cannot be opened for now can be opened once the receiver is up."""
    assert case.outage is not None
    harness = await SinkHarness.make(case, monitor)
    async with _closing(harness):
        async with case.outage():
            opened = await harness.try_open(OPEN_SECONDS) is None
        if not opened:
            await harness.open_at_last()
        await harness.deliver(harness.window())
        await harness.expect_all()


async def stall(case: SinkCase, monitor: ResourceMonitor) -> None:
    """Check that a write to a stalled receiver can be cancelled, and loses nothing."""
    assert case.stall is not None
    async with _opened(case, monitor, _IN_TROUBLE | {**case.keys}) as harness:
        await harness.write(harness.window())
        async with case.stall():
            left = await harness.attempt(harness.window(_LONG_WRITE), harness.write_timeout)
        await harness.deliver(left)
        await harness.deliver(harness.window())
        await harness.expect_all()


async def refusal(case: SinkCase, monitor: ResourceMonitor) -> None:
    """Check that a refused record is reported, and no other record is lost with it."""
    assert case.refusal is not None
    async with _opened(case, monitor) as harness:
        window = harness.window()
        refused = window[len(window) // 2]
        async with case.refusal(refused):
            await harness.deliver(window)
            await harness.deliver(harness.window())
            await harness.expect_all([refused])


async def cancellation(case: SinkCase, monitor: ResourceMonitor) -> None:
    """Check that open, write and close can be cancelled at each await."""
    for step in range(1, _MAX_STEPS):
        harness = await SinkHarness.make(case, monitor)
        async with _closing(harness):
            reached = await harness.open_cancelled(step)
        await monitor.expect_no_leaks(case.patience)
        if not reached:
            break
    async with _opened(case, monitor) as harness:
        for step in range(1, _MAX_STEPS):
            window = harness.window()
            if not await harness.attempt_cancelled(window, step):
                break
            await harness.deliver(window)
        await harness.deliver(harness.window())
        await harness.expect_all()
    for step in range(1, _MAX_STEPS):
        harness = await SinkHarness.make(case, monitor)
        await harness.open()
        await harness.write(harness.window())
        # Otherwise these records would count as those of the next promise.
        await harness.expect_all()
        reached = await harness.close_cancelled(step)
        await monitor.expect_no_leaks(case.patience)
        if not reached:
            break


async def reopening(case: SinkCase, monitor: ResourceMonitor) -> None:
    """Check that a sink with `reopen` works after it."""
    async with _opened(case, monitor) as harness:
        for _turn in range(3):
            await harness.write(harness.window())
            await harness.reopen()
        await harness.write(harness.window())
        await harness.expect_all()


async def replacement(case: SinkCase, monitor: ResourceMonitor) -> None:
    """Check that a sink can take the place of one with the same keys, as at a reload.

    It is opened while the other one is open, which may fail because of that, and again afterwards.
    """
    former, later = await SinkHarness.make(case, monitor), await SinkHarness.make(case, monitor)
    async with _closing(later):
        async with _closing(former):
            await former.open()
            error = await later.call_open(CALL_SECONDS)
        if isinstance(error, ConfigurationError) and not isinstance(error, InUseError):
            raise BrokenPromiseError(
                f"open raised {describe_error(error)} while another sink was open; the error for "
                "what that one uses is an InUseError"
            )
        if error is not None:
            await later.open()
        await later.write(later.window())
        await later.expect_all()


async def probing(case: SinkCase, monitor: ResourceMonitor) -> None:
    """Check that a sink with `probe` reports what it finds, and can be closed then."""
    harness = await SinkHarness.make(case, monitor)
    async with _closing(harness):
        if error := await harness.probe():
            raise BrokenPromiseError(
                f"probe raised {describe_error(error)} though the receiver is up"
            )
    if case.outage is not None:
        harness = await SinkHarness.make(case, monitor)
        async with _closing(harness), case.outage():
            await harness.probe()


async def closing(case: SinkCase, monitor: ResourceMonitor) -> None:
    """Check that close returns in time in any trouble, and without open.

    Records of writes that succeeded before must arrive.
    """
    harness = await SinkHarness.make(case, monitor)
    await harness.close()
    for trouble in (case.outage, case.stall):
        if trouble is None:
            continue
        harness = await SinkHarness.make(case, monitor)
        async with trouble():
            await harness.try_open(CLOSE_SECONDS)
            await harness.close_in_trouble(CLOSE_SECONDS)
        harness = await SinkHarness.make(case, monitor)
        await harness.open()
        async with trouble():
            await harness.close_in_trouble(CLOSE_SECONDS)
    if case.arrived is not None:  # a sink of sums may hold them itself, to be scraped
        await _close_after_writing(case, monitor)


async def _close_after_writing(case: SinkCase, monitor: ResourceMonitor) -> None:
    """Close right after a write: a sink that only buffers records would lose them."""
    harness = await SinkHarness.make(case, monitor)
    await harness.open()
    await harness.write(harness.window(_LONG_WRITE))
    await harness.close()
    await harness.expect_all()
    if case.outage is not None:
        harness = await SinkHarness.make(case, monitor, _IN_TROUBLE | {**case.keys})
        await harness.open()
        async with case.outage():
            harness.abandon(await harness.attempt(harness.window(), harness.write_timeout))
            await harness.close_in_trouble(CLOSE_SECONDS)
        await harness.expect_all()


async def refuse_invalid_settings(case: SinkCase, monitor: ResourceMonitor) -> None:
    """Check that invalid settings are refused by a ConfigurationError, at the latest by open.

    Unknown and missing keys are not checked: hogpipe refuses them for every sink.
    """
    common = {field.name for field in fields(SinkSettings)}
    for field in fields(case.sink_type.settings):
        key = field.encode_name
        if field.name in common:
            continue
        if all(_is_readable(case, {**case.keys, key: value}) for value in _ANYTHING):
            raise BrokenPromiseError(f"{key} accepts any value of any type")
    for change in case.wrong_keys:
        keys = {key: value for key, value in {**case.keys, **change}.items() if value is not None}
        await _expect_refusal(case, keys, monitor, f"{dict(change)}")


def _is_readable(case: SinkCase, keys: Mapping[str, object]) -> bool:
    try:
        read_settings(case.sink_type, keys)
    except ConfigurationError:
        return False
    except Exception as error:  # settings of a plugin may raise any error
        raise BrokenPromiseError(
            f"its settings raise {describe_error(error)} for {dict(keys)}; the error for a wrong "
            "value is a ValueError"
        ) from error
    return True


async def _expect_refusal(
    case: SinkCase, keys: Mapping[str, object], monitor: ResourceMonitor, what: str
) -> None:
    """Expect `keys` to be refused when they are read, or when the sink is made or opened."""
    if not _is_readable(case, keys):
        return
    try:
        harness = await SinkHarness.make(case, monitor, keys)
    except ConfigurationError:
        return
    error = await harness.call_open(OPEN_SECONDS)
    await harness.close()
    if not isinstance(error, ConfigurationError):
        outcome = f"open raised {describe_error(error)}" if error else "the sink was opened"
        raise BrokenPromiseError(f"{what} was not refused by a ConfigurationError: {outcome}")


PROMISES = {
    "delivery": delivery,
    "outage": outage,
    "outage in a write": outage_in_a_write,
    "late receiver": late_receiver,
    "stall": stall,
    "refusal": refusal,
    "cancellation": cancellation,
    "reopening": reopening,
    "replacement": replacement,
    "probing": probing,
    "closing": closing,
    "settings": refuse_invalid_settings,
    "large window": large_window,  # the last: the receiver's records are read after each promise
}
"""Every promise by its name, in the order of the checks."""


def applies(name: str, case: SinkCase) -> bool:
    """Return whether the case has the means to check the promise `name`."""
    match name:
        case "outage" | "outage in a write" | "late receiver":
            return case.outage is not None
        case "stall":
            return case.stall is not None
        case "refusal":
            return case.refusal is not None
        case "reopening":
            return isinstance(make_sink(case.sink_type, case.keys), Reopenable)
        case "probing":
            return isinstance(make_sink(case.sink_type, case.keys), Probeable)
        case _:
            return True


@asynccontextmanager
async def _opened(
    case: SinkCase, monitor: ResourceMonitor, keys: Mapping[str, object] | None = None
) -> AsyncIterator[SinkHarness]:
    harness = await SinkHarness.make(case, monitor, keys)
    async with _closing(harness):
        await harness.open()
        yield harness


@asynccontextmanager
async def _closing(harness: SinkHarness) -> AsyncIterator[None]:
    """Close the sink at the end; an earlier error is more useful than one of close."""
    try:
        yield
    except BaseException:
        with suppress(BrokenPromiseError):
            await harness.close()
        raise
    await harness.close()
