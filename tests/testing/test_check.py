"""The contract checker passes a sink that keeps its promises, and finds each one that is broken."""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.post import Post, PostSettings, PostSink, post_case

from hogpipe import (
    ConfigurationError,
    DeliveryError,
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

LEFT: list[int] = []
"""File descriptors that a sink has left behind."""
OVER = threading.Event()
"""Set when a test is over."""


@pytest.fixture
def post() -> Iterator[Post]:
    OVER.clear()
    yield Post()
    OVER.set()
    while LEFT:
        os.close(LEFT.pop())


async def test_a_sound_sink_keeps_every_promise(post: Post) -> None:
    class Reopening(PostSink):
        async def reopen(self) -> None:
            pass

    findings = await check_sink(
        post_case(Reopening, post, wrong_keys=[{"address": "nowhere"}, {"stamps": None} | {"x": 1}])
    )
    assert findings.kept == PROMISES
    assert findings.left_out == ()
    assert findings.longest_block >= 0


async def test_what_a_case_has_no_means_for_is_left_out_and_told(post: Post) -> None:
    findings = await check_sink(post_case(PostSink, post, outage=None, stall=None, refusal=None))
    assert findings.left_out == (
        "outage", "outage in a write", "late receiver", "stall", "refusal", "reopening",
    )  # fmt: skip


async def test_promises_can_be_looked_at_one_by_one(post: Post) -> None:
    assert (await check_sink(post_case(PostSink, post), ["stall"])).kept == ("stall",)


async def test_every_broken_promise_is_told_in_a_line_of_its_own(post: Post) -> None:
    case = post_case(LosesTheLast, post, patience=0.3)
    with pytest.raises(BrokenPromiseError) as caught:
        await check_sink(case, ["delivery", "settings", "large window"])
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "delivery", "large window",
    ]  # fmt: skip


def test_a_case_says_how_to_read_what_arrived() -> None:
    with pytest.raises(TypeError, match="either arrived or total_bytes"):
        SinkCase(sink_type=SinkType("post", PostSettings, PostSink), keys={})


class LosesTheLast(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        await super().write(records[:-1])


class Doubles(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        await super().write([*records, records[0]])


class Reverses(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        await super().write(records[::-1])


class SendsLess(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        less: Any = [{k: v for k, v in record.items() if k != "window"} for record in records]
        await super().write(less)


class GoesByTheSequenceAlone(PostSink):
    latest = 0

    async def write(self, records: Sequence[Record]) -> None:
        await super().write([one for one in records if one["sequence"] > self.latest])
        self.latest = records[-1]["sequence"]


class CountsIn32Bits(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        await super().write([one for one in records if total_bytes(one) < 1 << 32])


class KnowsNoRemainder(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        await super().write([one for one in records if "remainder" not in one])


class ChangesWhatOthersGet(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        await super().write(records)
        records[0]["host"]["name"] = "mine"


class EmptiesTheWindow(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        await super().write(records)
        assert isinstance(records, list)
        records.clear()


class RaisesAnything(PostSink):
    async def write(self, _records: Sequence[Record]) -> None:
        raise ValueError("a bug")


class Exits(PostSink):
    async def write(self, _records: Sequence[Record]) -> None:
        raise SystemExit(3)


class Leaves(PostSink):
    async def write(self, _records: Sequence[Record]) -> None:
        raise OutputClosedError("enough")


class SaysNothing(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        with contextlib.suppress(DeliveryError):
            return await super().write(records)
        raise DeliveryError


class TalksTooMuch(PostSink):
    async def open(self) -> None:
        try:
            await super().open()
        except OSError as error:
            raise DeliveryError(f"first\nsecond: {error}") from error


class TellsTheAddress(PostSink):
    async def open(self) -> None:
        try:
            await super().open()
        except OSError as error:
            raise OSError(f"nobody at {self.settings.address}") from error


class LogsTheAddress(PostSink):
    async def open(self) -> None:
        logging.getLogger("post").debug("going to %s", self.settings.address)
        await super().open()


class KeepsForLater(PostSink):
    """Takes whatever it is given, and delivers it in a task of its own as long as it is open."""

    task: asyncio.Task[None] | None = None

    def __init__(self, settings: PostSettings) -> None:
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
                    await self.post.take(self.kept[0])
                    del self.kept[0]

    async def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})


class DeliversWhenClosed(KeepsForLater):
    async def write(self, records: Sequence[Record]) -> None:
        self.kept += records

    async def close(self) -> None:
        with contextlib.suppress(DeliveryError):
            await PostSink.write(self, self.kept)


class FailsWithoutNeed(PostSink):
    async def write(self, _records: Sequence[Record]) -> None:
        raise OSError("not today")


class WillNotOpen(PostSink):
    async def open(self) -> None:
        raise OSError("not today")


class RefusesAll(PostSink):
    async def write(self, _records: Sequence[Record]) -> None:
        raise RefusedError("I do not like them")


class NamesStrangers(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        raise DeliveryError("no", undelivered=[{**records[0], "sequence": 10_000}])  # type: ignore[list-item]


class SaysTwoThings(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        raise DeliveryError("no", undelivered=records, refused=records)


class LeavesATask(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        await super().write(records)
        self.task = asyncio.create_task(asyncio.sleep(60))


class LeavesATasksTask(PostSink):
    async def open(self) -> None:
        async def begin() -> None:
            self.task = asyncio.create_task(asyncio.sleep(60))

        await asyncio.create_task(begin())


class LeavesADescriptor(PostSink):
    async def open(self) -> None:
        LEFT.append(os.open(os.devnull, os.O_RDONLY))


class LeavesAThread(PostSink):
    async def open(self) -> None:
        threading.Thread(target=OVER.wait, args=(20,), name="mine").start()


class TakesOnlySmallWindows(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        await super().write(records[:2000])


class SwallowsErrors(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        with contextlib.suppress(DeliveryError):
            await super().write(records)


class GivesUp(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        try:
            await super().write(records)
        except DeliveryError:
            raise RefusedError("too hard") from None


class TellsABugOfAnOutage(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        try:
            await super().write(records)
        except DeliveryError:
            raise KeyError("connection") from None


class NeverComesBack(PostSink):
    broken = False

    async def write(self, records: Sequence[Record]) -> None:
        if self.broken:
            raise DeliveryError("the connection is gone")
        try:
            await super().write(records)
        except DeliveryError:
            self.broken = True
            raise


class ForgetsOne(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        try:
            await super().write(records)
        except DeliveryError as error:
            left = list(error.undelivered or ())
            raise DeliveryError("no post", undelivered=left[1:]) from None


class SaysNothingOfWhatArrived(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        try:
            await super().write(records)
        except DeliveryError as error:
            raise OSError(str(error)) from None


class SentTwiceThoughSaidToBeSent(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        if len(records) == 8:
            await self.post.take(records[0])
            await self.post.take(records[0])
        await super().write(records)


class WillNotStartWithout(PostSink):
    async def open(self) -> None:
        if self.post.down:
            raise ConfigurationError("no post there")


class OpensOnlyOnce(PostSink):
    tried = False

    async def open(self) -> None:
        if self.tried:
            raise OSError("already open")
        self.tried = True
        await super().open()


class SwallowsCancellation(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await super().write(records)


class WillNotBeCancelled(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        inner = asyncio.ensure_future(super().write(records))
        while not inner.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(inner)


class CancelsItself(PostSink):
    async def write(self, _records: Sequence[Record]) -> None:
        raise asyncio.CancelledError


class CountsTooSoon(PostSink):
    """Takes for sent what it was about to send when it was cancelled."""

    sent = 0

    async def write(self, records: Sequence[Record]) -> None:
        for record in records:
            if record["sequence"] > self.sent:
                self.sent = record["sequence"]
                await self.post.take(record)


class IgnoresRefusals(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        with contextlib.suppress(RefusedError):
            await super().write(records)


class BlamesAll(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        try:
            await super().write(records)
        except RefusedError as error:
            raise RefusedError(str(error)) from None


class TriesForEver(PostSink):
    async def write(self, records: Sequence[Record]) -> None:
        try:
            await super().write(records)
        except RefusedError as error:
            raise DeliveryError("again", undelivered=error.refused) from None


class BreaksWhenCancelled(PostSink):
    broken = False

    async def write(self, records: Sequence[Record]) -> None:
        if self.broken:
            raise OSError("in the middle of something")
        self.broken = True
        await super().write(records)
        self.broken = False


class LeaksWhenOpenIsCancelled(PostSink):
    async def open(self) -> None:
        LEFT.append(os.open(os.devnull, os.O_RDONLY))
        await asyncio.sleep(0)
        os.close(LEFT.pop())


class LeaksWhenCloseIsCancelled(PostSink):
    async def open(self) -> None:
        self.task = asyncio.create_task(asyncio.sleep(60))

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.task.cancel()


class CannotReopen(PostSink):
    async def reopen(self) -> None:
        raise OSError("no such file")


class ForgetsAtReopen(PostSink):
    def __init__(self, settings: PostSettings) -> None:
        super().__init__(settings)
        self.kept: list[Record] = []

    async def write(self, records: Sequence[Record]) -> None:
        await super().write(self.kept)
        self.kept = list(records)

    async def reopen(self) -> None:
        self.kept = []


class NeedsToBeOpen(PostSink):
    async def open(self) -> None:
        self.connection = "open"

    async def close(self) -> None:
        self.connection.strip()


class SaysGoodbyeAtLength(PostSink):
    async def close(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self.post.open.wait()
        await self.post.open.wait()


class LooseSettings(PostSettings, frozen=True, kw_only=True):
    anything: object = None


class PicksOnNothing(PostSettings, frozen=True, kw_only=True):
    def __post_init__(self) -> None:
        pass


class TripsOverStamps(PostSettings, frozen=True, kw_only=True):
    def __post_init__(self) -> None:
        {1: "one"}[self.stamps]


@pytest.mark.parametrize(
    ("sink", "promise", "told"),
    [
        (LosesTheLast, "delivery", "lost: sequence 1, 1, 3, 3, 11 and 3 more never arrived"),
        (Doubles, "delivery", "sequence 1, 1, 2, 2, 4 and 3 more arrived more than once"),
        (GoesByTheSequenceAlone, "delivery", "lost: sequence 1 never"),
        (CountsIn32Bits, "delivery", "lost: sequence 5, 5, 13, 13 never arrived"),
        (KnowsNoRemainder, "delivery", "lost: sequence 10, 10, 1010, 1010 never arrived"),
        (Reverses, "delivery", "out of order: sequence 2 arrived after 3"),
        (SendsLess, "delivery", "sequence 1 arrived changed: window is None and was"),
        (ChangesWhatOthersGet, "delivery", "write changed the records"),
        (EmptiesTheWindow, "delivery", "write changed the records"),
        (RaisesAnything, "delivery", "write raised ValueError: a bug; what may pass is an OSError"),
        (Exits, "delivery", "write raised SystemExit: 3"),
        (Leaves, "delivery", "write raised OutputClosedError: enough"),
        (FailsWithoutNeed, "delivery", "write raised OSError: not today though the receiver is up"),
        (WillNotOpen, "delivery", "open raised OSError: not today though the receiver is up"),
        (RefusesAll, "delivery", "told as refused though the receiver takes them"),
        (NamesStrangers, "delivery", "names sequence 10000, which it was not given"),
        (SaysTwoThings, "delivery", "names sequence 1 as undelivered and as refused"),
        (CancelsItself, "delivery", "write raised CancelledError though nobody cancelled it"),
        (LeavesATask, "delivery", "there is still a task"),
        (LeavesATasksTask, "delivery", "there is still a task"),
        (LeavesADescriptor, "delivery", r"there is still 1 more of the file descriptor /dev/null"),
        (LeavesAThread, "delivery", r"there is still a thread \(mine\)"),
        (TakesOnlySmallWindows, "large window", "lost: sequence 2001, .* and 995 more"),
        (SwallowsErrors, "outage", "lost: sequence 9, .* never arrived, and no error told"),
        (GivesUp, "outage", "told as refused though the receiver takes them"),
        (TellsABugOfAnOutage, "outage", "write raised KeyError: 'connection'; what may pass"),
        (NeverComesBack, "outage", "write raises DeliveryError: .* though the receiver is up"),
        (ForgetsOne, "outage in a write", "lost: sequence"),
        (SentTwiceThoughSaidToBeSent, "outage", "arrived more than once"),
        (WillNotStartWithout, "late receiver", "open raised ConfigurationError: no post there"),
        (OpensOnlyOnce, "late receiver", "open raises OSError: already open though the receiver"),
        (SwallowsCancellation, "stall", "write swallowed a cancellation"),
        (WillNotBeCancelled, "stall", r"write goes on 0\.1 s after it was cancelled"),
        (CountsTooSoon, "stall", "lost: sequence"),
        (IgnoresRefusals, "refusal", "the receiver refused sequence 5, and no error told"),
        (BlamesAll, "refusal", "told as refused though the receiver takes them"),
        (TriesForEver, "refusal", "write raises DeliveryError: again though"),
        (BreaksWhenCancelled, "cancellation", "write raises OSError: in the middle of something"),
        (SwallowsCancellation, "cancellation", "write swallowed a cancellation"),
        (CountsTooSoon, "cancellation", "lost: sequence"),
        (LeaksWhenOpenIsCancelled, "cancellation", "more of the file descriptor /dev/null"),
        (LeaksWhenCloseIsCancelled, "cancellation", "there is still a task"),
        (CannotReopen, "reopening", "reopen raised OSError: no such file"),
        (ForgetsAtReopen, "reopening", "lost: sequence"),
        (SaysNothing, "outage", "write raised DeliveryError with a text that is not one line: ''"),
        (
            TalksTooMuch,
            "late receiver",
            "open raised DeliveryError with a text that is not one line",
        ),
        (KeepsForLater, "closing", "lost: sequence 1, 2"),
        (DeliversWhenClosed, "closing", "lost: sequence 1, 2"),
        (NeedsToBeOpen, "closing", "close raised AttributeError"),
        (SaysGoodbyeAtLength, "closing", r"close goes on 0\.1 s after it was cancelled"),
    ],
)
async def test_a_broken_promise_is_found(
    post: Post,
    sink: type[PostSink],
    promise: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sink_calls, "LET_GO", 0.1)
    case = post_case(sink, post, patience=0.3)
    with pytest.raises(BrokenPromiseError, match=f"^{promise}: .*{told}"):
        await check_sink(case, [promise])


async def test_a_repeat_after_a_failure_is_a_fault_only_where_it_must_not_be(post: Post) -> None:
    case = post_case(SaysNothingOfWhatArrived, post)
    await check_sink(case, ["outage in a write"])
    strict = post_case(SaysNothingOfWhatArrived, post, exactly_once=True)
    with pytest.raises(BrokenPromiseError, match="arrived more than once"):
        await check_sink(strict, ["outage in a write"])


@pytest.mark.parametrize(
    ("sink", "told"),
    [
        (TellsTheAddress, "late receiver: OSError of open tells a secret, after 'nobody at '"),
        (LogsTheAddress, "late receiver: the log of post tells a secret, after 'going to '"),
    ],
)
async def test_a_secret_that_is_told_is_found(post: Post, sink: type[PostSink], told: str) -> None:
    await check_sink(post_case(sink, post), ["late receiver"])
    level, handlers = logging.root.level, logging.root.handlers[:]
    with pytest.raises(BrokenPromiseError, match=f"^{told}$"):
        await check_sink(post_case(sink, post, secrets=["here"]), ["late receiver"])
    assert (logging.root.level, logging.root.handlers) == (level, handlers)


@pytest.mark.parametrize(
    ("settings", "changes", "told"),
    [
        (LooseSettings, {}, "anything takes anything, whatever its type"),
        (PicksOnNothing, {"address": "nowhere"}, "was not refused .*: the sink was opened"),
        (TripsOverStamps, {"stamps": 2}, "its settings raise KeyError: 2"),
    ],
)
async def test_settings_that_let_nonsense_pass_are_found(
    post: Post, settings: type[SinkSettings], changes: dict[str, object], told: str
) -> None:
    sound = post_case(PostSink, post)
    sink_type = SinkType("post", settings, sound.sink_type.create)
    case = post_case(PostSink, post, sink_type=sink_type, wrong_keys=[changes] if changes else [])
    with pytest.raises(BrokenPromiseError, match=f"^settings: .*{told}"):
        await check_sink(case, ["settings"])


async def test_nonsense_may_be_refused_when_the_sink_is_made_or_opened(post: Post) -> None:
    class Picky(PostSink):
        def __init__(self, settings: PostSettings) -> None:
            super().__init__(settings)
            if settings.stamps == 2:
                raise ConfigurationError("two stamps are too many")

        async def open(self) -> None:
            if self.settings.stamps == 3:
                raise ConfigurationError("three even more")

    case = post_case(Picky, post, wrong_keys=[{"stamps": 2}, {"stamps": 3}, {"address": None}])
    assert (await check_sink(case, ["settings"])).kept == ("settings",)


class Meter(PostSink):
    """Sends sums."""

    async def write(self, records: Sequence[Record]) -> None:
        await super().write(records)
        self.post.bytes += sum(map(total_bytes, records))


class MeterThatLoses(Meter):
    async def write(self, records: Sequence[Record]) -> None:
        await super().write(records)
        self.post.bytes -= 1


class MeterThatDoubles(Meter):
    async def write(self, records: Sequence[Record]) -> None:
        await super().write(records)
        self.post.bytes += 1


def _meter_case(sink: type[PostSink], post: Post) -> SinkCase:
    async def total() -> int:
        return post.bytes

    return post_case(sink, post, arrived=None, total_bytes=total, patience=1)


async def test_a_sink_of_sums_is_held_to_the_bytes_beyond_those_before(post: Post) -> None:
    post.bytes = 10**9
    await check_sink(_meter_case(Meter, post), ["delivery", "cancellation", "large window"])
    with pytest.raises(BrokenPromiseError, match=r"lost: \d+ of \d+ bytes arrived"):
        await check_sink(_meter_case(MeterThatLoses, post), ["delivery"])
    with pytest.raises(BrokenPromiseError, match=r"\d+ bytes arrived of \d+ that were given"):
        await check_sink(_meter_case(MeterThatDoubles, post), ["delivery"])


async def test_a_sink_may_leave_records_out_by_design(post: Post) -> None:
    class OnlyTraffic(PostSink):
        async def write(self, records: Sequence[Record]) -> None:
            await super().write([record for record in records if record["type"] == "traffic"])

    def traffic(record: Record) -> bool:
        return record["type"] == "traffic"

    case = post_case(OnlyTraffic, post, wanted=traffic)
    await check_sink(case)
    with pytest.raises(BrokenPromiseError, match="arrived, refused or not wanted"):
        await check_sink(post_case(PostSink, post, wanted=traffic), ["delivery"])


async def test_another_form_than_records_is_known_by_run_and_sequence(post: Post) -> None:
    async def stamps() -> list[dict[str, object]]:
        return [{"run": one["run"], "sequence": one["sequence"]} for one in post.documents]

    await check_sink(post_case(PostSink, post, arrived=stamps, whole=False), ["delivery"])
    with pytest.raises(BrokenPromiseError, match="arrived changed"):
        await check_sink(post_case(PostSink, post, arrived=stamps), ["delivery"])


async def test_how_long_the_loop_was_held_up_is_told_and_nothing_more(post: Post) -> None:
    class Blocks(PostSink):
        async def write(self, records: Sequence[Record]) -> None:
            if len(records) > 1000:
                threading.Event().wait(0.2)
            await super().write(records)

    findings = await check_sink(post_case(Blocks, post), ["large window"])
    assert findings.longest_block > 0.1


async def test_what_the_receiver_of_the_case_raises_is_not_taken_for_the_sinks(post: Post) -> None:
    async def broken() -> list[dict[str, object]]:
        raise LookupError("the test's own")

    with pytest.raises(LookupError, match="the test's own"):
        await check_sink(post_case(PostSink, post, arrived=broken), ["delivery"])


async def test_tasks_of_the_receiver_are_not_the_sinks(post: Post) -> None:
    tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def outage() -> AsyncIterator[None]:
        tasks.append(asyncio.create_task(asyncio.sleep(60)))
        async with post.outage():
            yield

    await check_sink(post_case(PostSink, post, outage=outage), ["outage"])
    for task in tasks:
        task.cancel()
