"""`check_sink` passes a sink that keeps its promises, and finds each broken one."""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.memory_receiver import MemorySettings, MemorySink, Receiver, memory_case

from hogpipe import (
    ConfigurationError,
    DeliveryError,
    InUseError,
    OutputClosedError,
    Record,
    RefusedError,
    SinkSettings,
    SinkType,
)
from hogpipe.testing import (
    PROMISES,
    BrokenPromiseError,
    SinkCase,
    check_sink,
    sink_calls,
    total_bytes,
)

LEAKED: list[int] = []
"""File descriptors that a sink leaked."""
OVER = threading.Event()
"""Set at the end of a test."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    OVER.clear()
    yield Receiver()
    OVER.set()
    while LEAKED:
        os.close(LEAKED.pop())


async def test_a_correct_sink_keeps_every_promise(receiver: Receiver) -> None:
    class Reopening(MemorySink):
        async def reopen(self) -> None:
            pass

        async def probe(self) -> str:
            await self.open()
            return "it is up"

    findings = await check_sink(
        memory_case(
            Reopening, receiver, wrong_keys=[{"address": "nowhere"}, {"stamps": None} | {"x": 1}]
        )
    )
    assert findings.kept == PROMISES
    assert findings.left_out == ()
    assert findings.longest_block >= 0


async def test_promises_without_means_to_check_are_named(
    receiver: Receiver,
) -> None:
    findings = await check_sink(
        memory_case(MemorySink, receiver, outage=None, stall=None, refusal=None)
    )
    assert findings.left_out == (
        "outage", "outage in a write", "late receiver", "stall", "refusal", "reopening",
        "probing",
    )  # fmt: skip


async def test_a_sink_that_uses_its_receiver_alone_can_be_replaced(receiver: Receiver) -> None:
    case = memory_case(UsesTheReceiverAlone, receiver)
    assert (await check_sink(case, ["replacement"])).kept == ("replacement",)


async def test_promises_can_be_checked_one_by_one(receiver: Receiver) -> None:
    assert (await check_sink(memory_case(MemorySink, receiver), ["stall"])).kept == ("stall",)


async def test_every_broken_promise_has_a_line_of_its_own(receiver: Receiver) -> None:
    case = memory_case(LosesTheLast, receiver, patience=0.3)
    with pytest.raises(BrokenPromiseError) as caught:
        await check_sink(case, ["delivery", "settings", "large window"])
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "delivery", "large window",
    ]  # fmt: skip


def test_a_case_needs_a_way_to_read_the_receiver() -> None:
    with pytest.raises(TypeError, match="either arrived or total_bytes"):
        SinkCase(sink_type=SinkType("memory", MemorySettings, MemorySink), keys={})


class LosesTheLast(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        await super().write(records[:-1])


class Doubles(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        await super().write([*records, records[0]])


class Reverses(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        await super().write(records[::-1])


class OmitsAKey(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        less: Any = [{k: v for k, v in record.items() if k != "window"} for record in records]
        await super().write(less)


class IgnoresTheRun(MemorySink):
    latest = 0

    async def write(self, records: Sequence[Record]) -> None:
        await super().write([one for one in records if one["sequence"] > self.latest])
        self.latest = records[-1]["sequence"]


class OmitsLargeCounts(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        await super().write([one for one in records if total_bytes(one) < 1 << 32])


class OmitsTheRemainder(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        await super().write([one for one in records if "remainder" not in one])


class ChangesRecords(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        await super().write(records)
        records[0]["host"]["name"] = "mine"


class ClearsTheWindow(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        await super().write(records)
        assert isinstance(records, list)
        records.clear()


class RaisesAnything(MemorySink):
    async def write(self, _records: Sequence[Record]) -> None:
        raise ValueError("a bug")


class Exits(MemorySink):
    async def write(self, _records: Sequence[Record]) -> None:
        raise SystemExit(3)


class ClosesTheOutput(MemorySink):
    async def write(self, _records: Sequence[Record]) -> None:
        raise OutputClosedError("enough")


class HasNoErrorText(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        with contextlib.suppress(DeliveryError):
            return await super().write(records)
        raise DeliveryError


class HasTwoLinesOfText(MemorySink):
    async def open(self) -> None:
        try:
            await super().open()
        except OSError as error:
            raise DeliveryError(f"first\nsecond: {error}") from error


class DisclosesTheAddress(MemorySink):
    async def open(self) -> None:
        try:
            await super().open()
        except OSError as error:
            raise OSError(f"nothing at {self.settings.address}") from error


class LogsTheAddress(MemorySink):
    async def open(self) -> None:
        logging.getLogger("memory").debug("connecting to %s", self.settings.address)
        await super().open()


class BuffersRecords(MemorySink):
    """Accepts every record, and delivers it in a task while it is open."""

    task: asyncio.Task[None] | None = None

    def __init__(self, settings: MemorySettings) -> None:
        super().__init__(settings)
        self.kept: list[Record] = []

    async def write(self, records: Sequence[Record]) -> None:
        self.kept += records
        self.task = self.task or asyncio.create_task(self.deliver())

    async def deliver(self) -> None:
        while True:
            await asyncio.sleep(0.01)
            with contextlib.suppress(OSError):
                while self.kept:
                    await self.receiver.take(self.kept[0])
                    del self.kept[0]

    async def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})


class DeliversAtClose(BuffersRecords):
    async def write(self, records: Sequence[Record]) -> None:
        self.kept += records

    async def close(self) -> None:
        with contextlib.suppress(DeliveryError):
            await MemorySink.write(self, self.kept)


class FailsAlways(MemorySink):
    async def write(self, _records: Sequence[Record]) -> None:
        raise OSError("not today")


class NeverOpens(MemorySink):
    async def open(self) -> None:
        raise OSError("not today")


class RefusesAll(MemorySink):
    async def write(self, _records: Sequence[Record]) -> None:
        raise RefusedError("I do not like them")


class NamesUnknownRecords(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        raise DeliveryError("no", undelivered=[{**records[0], "sequence": 10_000}])  # type: ignore[list-item]


class ContradictsItself(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        raise DeliveryError("no", undelivered=records, refused=records)


class LeavesATask(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        await super().write(records)
        self.task = asyncio.create_task(asyncio.sleep(60))


class LeavesATaskOfATask(MemorySink):
    async def open(self) -> None:
        async def begin() -> None:
            self.task = asyncio.create_task(asyncio.sleep(60))

        await asyncio.create_task(begin())


class LeavesADescriptor(MemorySink):
    async def open(self) -> None:
        LEAKED.append(os.open(os.devnull, os.O_RDONLY))


class LeavesAThread(MemorySink):
    async def open(self) -> None:
        threading.Thread(target=OVER.wait, args=(20,), name="mine").start()


class TakesOnlySmallWindows(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        await super().write(records[:2000])


class SwallowsErrors(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        with contextlib.suppress(DeliveryError):
            await super().write(records)


class RefusesInAnOutage(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        try:
            await super().write(records)
        except DeliveryError:
            raise RefusedError("too hard") from None


class RaisesABugInAnOutage(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        try:
            await super().write(records)
        except DeliveryError:
            raise KeyError("connection") from None


class NeverRecovers(MemorySink):
    broken = False

    async def write(self, records: Sequence[Record]) -> None:
        if self.broken:
            raise DeliveryError("the connection is gone")
        try:
            await super().write(records)
        except DeliveryError:
            self.broken = True
            raise


class OmitsOne(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        try:
            await super().write(records)
        except DeliveryError as error:
            left = list(error.undelivered or ())
            raise DeliveryError("no receiver", undelivered=left[1:]) from None


class DoesNotReportWhatArrived(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        try:
            await super().write(records)
        except DeliveryError as error:
            raise OSError(str(error)) from None


class SendsTwice(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        if len(records) == 8:
            await self.receiver.take(records[0])
            await self.receiver.take(records[0])
        await super().write(records)


class NeedsTheReceiver(MemorySink):
    async def open(self) -> None:
        if self.receiver.down:
            raise ConfigurationError("no receiver there")


class OpensOnlyOnce(MemorySink):
    tried = False

    async def open(self) -> None:
        if self.tried:
            raise OSError("already open")
        self.tried = True
        await super().open()


class SwallowsCancellation(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await super().write(records)


class RefusesCancellation(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        inner = asyncio.ensure_future(super().write(records))
        while not inner.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(inner)


class CancelsItself(MemorySink):
    async def write(self, _records: Sequence[Record]) -> None:
        raise asyncio.CancelledError


class CountsBeforeSending(MemorySink):
    """Counts a record as sent before it is sent."""

    sent = 0

    async def write(self, records: Sequence[Record]) -> None:
        for record in records:
            if record["sequence"] > self.sent:
                self.sent = record["sequence"]
                await self.receiver.take(record)


class IgnoresRefusals(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        with contextlib.suppress(RefusedError):
            await super().write(records)


class RefusesTheWholeWindow(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        try:
            await super().write(records)
        except RefusedError as error:
            raise RefusedError(str(error)) from None


class RetriesRefusals(MemorySink):
    async def write(self, records: Sequence[Record]) -> None:
        try:
            await super().write(records)
        except RefusedError as error:
            raise DeliveryError("again", undelivered=error.refused) from None


class BreaksWhenCancelled(MemorySink):
    broken = False

    async def write(self, records: Sequence[Record]) -> None:
        if self.broken:
            raise OSError("in the middle of something")
        self.broken = True
        await super().write(records)
        self.broken = False


class LeaksWhenOpenIsCancelled(MemorySink):
    async def open(self) -> None:
        LEAKED.append(os.open(os.devnull, os.O_RDONLY))
        await asyncio.sleep(0)
        os.close(LEAKED.pop())


class LeaksWhenCloseIsCancelled(MemorySink):
    async def open(self) -> None:
        self.task = asyncio.create_task(asyncio.sleep(60))

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.task.cancel()


class CannotReopen(MemorySink):
    async def reopen(self) -> None:
        raise OSError("no such file")


class LosesAtReopen(MemorySink):
    def __init__(self, settings: MemorySettings) -> None:
        super().__init__(settings)
        self.kept: list[Record] = []

    async def write(self, records: Sequence[Record]) -> None:
        await super().write(self.kept)
        self.kept = list(records)

    async def reopen(self) -> None:
        self.kept = []


class UsesTheReceiverAlone(MemorySink):
    """Keeps every promise."""

    error: type[ConfigurationError] = InUseError

    async def open(self) -> None:
        if vars(self.receiver).setdefault("user", self) is not self:
            raise self.error("in use")
        await super().open()

    async def close(self) -> None:
        if vars(self.receiver).get("user") is self:
            del self.receiver.user  # type: ignore[attr-defined]
        await super().close()


class BlamesTheConfiguration(UsesTheReceiverAlone):
    error = ConfigurationError


class CannotProbe(MemorySink):
    async def probe(self) -> str:
        raise ValueError("a bug")


class SaysNothing(MemorySink):
    async def probe(self) -> str:
        return ""


class NeedsToBeOpen(MemorySink):
    async def open(self) -> None:
        self.connection = "open"

    async def close(self) -> None:
        self.connection.strip()


class ClosesTooSlowly(MemorySink):
    async def close(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self.receiver.open.wait()
        await self.receiver.open.wait()


class LooseSettings(MemorySettings, frozen=True, kw_only=True):
    anything: object = None


class AcceptsAnyAddress(MemorySettings, frozen=True, kw_only=True):
    def __post_init__(self) -> None:
        pass


class FailsOnStamps(MemorySettings, frozen=True, kw_only=True):
    def __post_init__(self) -> None:
        {1: "one"}[self.stamps]


@pytest.mark.parametrize(
    ("sink", "promise", "message"),
    [
        (LosesTheLast, "delivery", "lost: sequence 1, 1, 3, 3, 11 and 3 more never arrived"),
        (Doubles, "delivery", "sequence 1, 1, 2, 2, 4 and 3 more arrived more than once"),
        (IgnoresTheRun, "delivery", "lost: sequence 1 never"),
        (OmitsLargeCounts, "delivery", "lost: sequence 5, 5, 13, 13 never arrived"),
        (OmitsTheRemainder, "delivery", "lost: sequence 10, 10, 1010, 1010 never arrived"),
        (Reverses, "delivery", "out of order: sequence 2 arrived after 3"),
        (OmitsAKey, "delivery", "sequence 1 arrived changed: window is None and was"),
        (ChangesRecords, "delivery", "write changed the records"),
        (ClearsTheWindow, "delivery", "write changed the records"),
        (RaisesAnything, "delivery", "write raised ValueError: a bug; an error that may"),
        (Exits, "delivery", "write raised SystemExit: 3"),
        (ClosesTheOutput, "delivery", "write raised OutputClosedError: enough"),
        (FailsAlways, "delivery", "write raised OSError: not today though the receiver is up"),
        (NeverOpens, "delivery", "open raised OSError: not today though the receiver is up"),
        (RefusesAll, "delivery", "reported as refused though the receiver takes them"),
        (NamesUnknownRecords, "delivery", "names sequence 10000, which it was not given"),
        (ContradictsItself, "delivery", "names sequence 1 as undelivered and as refused"),
        (CancelsItself, "delivery", "write raised CancelledError though it was not cancelled"),
        (LeavesATask, "delivery", "there is still a task"),
        (LeavesATaskOfATask, "delivery", "there is still a task"),
        (LeavesADescriptor, "delivery", r"there is still 1 more of the file descriptor /dev/null"),
        (LeavesAThread, "delivery", r"there is still a thread \(mine\)"),
        (TakesOnlySmallWindows, "large window", "lost: sequence 2001, .* and 995 more"),
        (SwallowsErrors, "outage", "lost: sequence 9, .* never arrived, and no error reported"),
        (RefusesInAnOutage, "outage", "reported as refused though the receiver takes them"),
        (RaisesABugInAnOutage, "outage", "write raised KeyError: 'connection'; an error"),
        (NeverRecovers, "outage", "write raises DeliveryError: .* though the receiver is up"),
        (OmitsOne, "outage in a write", "lost: sequence"),
        (SendsTwice, "outage", "arrived more than once"),
        (NeedsTheReceiver, "late receiver", "open raised ConfigurationError: no receiver there"),
        (OpensOnlyOnce, "late receiver", "open raises OSError: already open though the receiver"),
        (SwallowsCancellation, "stall", "write swallowed a cancellation"),
        (RefusesCancellation, "stall", r"write goes on 0\.1 s after it was cancelled"),
        (CountsBeforeSending, "stall", "lost: sequence"),
        (IgnoresRefusals, "refusal", "the receiver refused sequence 5, and no error reported"),
        (RefusesTheWholeWindow, "refusal", "reported as refused though the receiver takes them"),
        (RetriesRefusals, "refusal", "write raises DeliveryError: again though"),
        (BreaksWhenCancelled, "cancellation", "write raises OSError: in the middle of something"),
        (SwallowsCancellation, "cancellation", "write swallowed a cancellation"),
        (CountsBeforeSending, "cancellation", "lost: sequence"),
        (LeaksWhenOpenIsCancelled, "cancellation", "more of the file descriptor /dev/null"),
        (LeaksWhenCloseIsCancelled, "cancellation", "there is still a task"),
        (CannotReopen, "reopening", "reopen raised OSError: no such file"),
        (LosesAtReopen, "reopening", "lost: sequence"),
        (BlamesTheConfiguration, "replacement", "open raised ConfigurationError: in use while"),
        (CannotProbe, "probing", "probe raised ValueError: a bug"),
        (SaysNothing, "probing", "probe returned a text that is not one line: ''"),
        (
            HasNoErrorText,
            "outage",
            "write raised DeliveryError with a text that is not one line: ''",
        ),
        (
            HasTwoLinesOfText,
            "late receiver",
            "open raised DeliveryError with a text that is not one line",
        ),
        (BuffersRecords, "closing", "lost: sequence 1, 2"),
        (DeliversAtClose, "closing", "lost: sequence 1, 2"),
        (NeedsToBeOpen, "closing", "close raised AttributeError"),
        (ClosesTooSlowly, "closing", r"close goes on 0\.1 s after it was cancelled"),
    ],
)
async def test_a_broken_promise_is_found(
    receiver: Receiver,
    sink: type[MemorySink],
    promise: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sink_calls, "CANCEL_SECONDS", 0.1)
    case = memory_case(sink, receiver, patience=0.3)
    with pytest.raises(BrokenPromiseError, match=f"^{promise}: .*{message}"):
        await check_sink(case, [promise])


async def test_a_repeat_after_a_failure_is_allowed_unless_exactly_once(
    receiver: Receiver,
) -> None:
    case = memory_case(DoesNotReportWhatArrived, receiver)
    await check_sink(case, ["outage in a write"])
    strict = memory_case(DoesNotReportWhatArrived, receiver, exactly_once=True)
    with pytest.raises(BrokenPromiseError, match="arrived more than once"):
        await check_sink(strict, ["outage in a write"])


@pytest.mark.parametrize(
    ("sink", "message"),
    [
        (
            DisclosesTheAddress,
            "OSError of open discloses a secret, after 'nothing at '",
        ),
        (
            LogsTheAddress,
            "the log of memory discloses a secret, after 'connecting to '",
        ),
    ],
)
async def test_a_disclosed_secret_is_found(
    receiver: Receiver, sink: type[MemorySink], message: str
) -> None:
    await check_sink(memory_case(sink, receiver), ["late receiver"])
    level, handlers = logging.root.level, logging.root.handlers[:]
    with pytest.raises(BrokenPromiseError, match=f"^late receiver: {message}$"):
        await check_sink(memory_case(sink, receiver, secrets=["here"]), ["late receiver"])
    assert (logging.root.level, logging.root.handlers) == (level, handlers)


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (LooseSettings, {}, "anything accepts any value of any type"),
        (AcceptsAnyAddress, {"address": "nowhere"}, "was not refused .*: the sink was opened"),
        (FailsOnStamps, {"stamps": 2}, "its settings raise KeyError: 2"),
    ],
)
async def test_settings_that_accept_invalid_values_are_found(
    receiver: Receiver, settings: type[SinkSettings], changes: dict[str, object], message: str
) -> None:
    sound = memory_case(MemorySink, receiver)
    sink_type = SinkType("memory", settings, sound.sink_type.create)
    case = memory_case(
        MemorySink, receiver, sink_type=sink_type, wrong_keys=[changes] if changes else []
    )
    with pytest.raises(BrokenPromiseError, match=f"^settings: .*{message}"):
        await check_sink(case, ["settings"])


async def test_invalid_settings_may_be_refused_by_the_sink(
    receiver: Receiver,
) -> None:
    class RefusesStamps(MemorySink):
        def __init__(self, settings: MemorySettings) -> None:
            super().__init__(settings)
            if settings.stamps == 2:
                raise ConfigurationError("two stamps are too many")

        async def open(self) -> None:
            if self.settings.stamps == 3:
                raise ConfigurationError("three even more")

    case = memory_case(
        RefusesStamps, receiver, wrong_keys=[{"stamps": 2}, {"stamps": 3}, {"address": None}]
    )
    assert (await check_sink(case, ["settings"])).kept == ("settings",)


class Meter(MemorySink):
    """Sends sums of bytes."""

    async def write(self, records: Sequence[Record]) -> None:
        await super().write(records)
        self.receiver.bytes += sum(map(total_bytes, records))


class MeterThatLoses(Meter):
    async def write(self, records: Sequence[Record]) -> None:
        await super().write(records)
        self.receiver.bytes -= 1


class MeterThatDoubles(Meter):
    async def write(self, records: Sequence[Record]) -> None:
        await super().write(records)
        self.receiver.bytes += 1


def _meter_case(sink: type[MemorySink], receiver: Receiver) -> SinkCase:
    async def total() -> int:
        return receiver.bytes

    return memory_case(sink, receiver, arrived=None, total_bytes=total, patience=1)


async def test_a_sink_of_sums_is_checked_by_the_bytes_added(receiver: Receiver) -> None:
    receiver.bytes = 10**9
    await check_sink(_meter_case(Meter, receiver), ["delivery", "cancellation", "large window"])
    with pytest.raises(BrokenPromiseError, match=r"lost: \d+ of \d+ bytes arrived"):
        await check_sink(_meter_case(MeterThatLoses, receiver), ["delivery"])
    with pytest.raises(BrokenPromiseError, match=r"\d+ bytes arrived of \d+ that were given"):
        await check_sink(_meter_case(MeterThatDoubles, receiver), ["delivery"])


async def test_a_sink_may_omit_records_by_design(receiver: Receiver) -> None:
    class OnlyTraffic(MemorySink):
        async def write(self, records: Sequence[Record]) -> None:
            await super().write([record for record in records if record["type"] == "traffic"])

    def traffic(record: Record) -> bool:
        return record["type"] == "traffic"

    case = memory_case(OnlyTraffic, receiver, wanted=traffic)
    await check_sink(case)
    with pytest.raises(BrokenPromiseError, match="arrived, though refused or not wanted"):
        await check_sink(memory_case(MemorySink, receiver, wanted=traffic), ["delivery"])


async def test_other_documents_are_identified_by_run_and_sequence(receiver: Receiver) -> None:
    async def stamps() -> list[dict[str, object]]:
        return [{"run": one["run"], "sequence": one["sequence"]} for one in receiver.documents]

    await check_sink(memory_case(MemorySink, receiver, arrived=stamps, whole=False), ["delivery"])
    with pytest.raises(BrokenPromiseError, match="arrived changed"):
        await check_sink(memory_case(MemorySink, receiver, arrived=stamps), ["delivery"])


async def test_the_longest_block_of_the_event_loop_is_measured(receiver: Receiver) -> None:
    class Blocks(MemorySink):
        async def write(self, records: Sequence[Record]) -> None:
            if len(records) > 1000:
                threading.Event().wait(0.2)
            await super().write(records)

    findings = await check_sink(memory_case(Blocks, receiver), ["large window"])
    assert findings.longest_block > 0.1


@pytest.mark.parametrize("method", ["open", "write", "close"])
async def test_a_call_that_blocks_the_event_loop_is_found(receiver: Receiver, method: str) -> None:
    class Blocks(MemorySink):
        async def open(self) -> None:
            self._block("open")
            await super().open()

        async def write(self, records: Sequence[Record]) -> None:
            self._block("write")
            await super().write(records)

        async def close(self) -> None:
            self._block("close")
            await super().close()

        def _block(self, called: str) -> None:
            if called == method:
                threading.Event().wait(1.1)

    with pytest.raises(
        BrokenPromiseError, match=rf"delivery: {method} blocked the event loop for 1"
    ):
        await check_sink(memory_case(Blocks, receiver), ["delivery"])


async def test_a_call_that_computes_for_long_is_not_one_that_blocks(receiver: Receiver) -> None:
    class Computes(MemorySink):
        async def write(self, records: Sequence[Record]) -> None:
            end = time.thread_time() + 1.2
            while len(records) == 1 and time.thread_time() < end:
                pass
            await super().write(records)

    await check_sink(memory_case(Computes, receiver), ["delivery"])


async def test_an_error_of_the_receiver_is_not_one_of_the_sink(receiver: Receiver) -> None:
    async def broken() -> list[dict[str, object]]:
        raise LookupError("the test's own")

    with pytest.raises(LookupError, match="the test's own"):
        await check_sink(memory_case(MemorySink, receiver, arrived=broken), ["delivery"])


async def test_tasks_of_the_receiver_are_not_leaks_of_the_sink(receiver: Receiver) -> None:
    tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def outage() -> AsyncIterator[None]:
        tasks.append(asyncio.create_task(asyncio.sleep(60)))
        async with receiver.outage():
            yield

    await check_sink(memory_case(MemorySink, receiver, outage=outage), ["outage"])
    for task in tasks:
        task.cancel()
