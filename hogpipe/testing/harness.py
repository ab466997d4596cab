"""A sink, driven as a run drives it, with an account of what it was given and what arrived."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Self, TypeVar

from hogpipe.errors import ConfigurationError, DeliveryError, HogpipeError
from hogpipe.records.schema import Record
from hogpipe.sinks.contract import Reopenable
from hogpipe.testing.accounting import Account, image
from hogpipe.testing.case import BrokenPromiseError, SinkCase
from hogpipe.testing.configuring import read_settings
from hogpipe.testing.leaks import Traces
from hogpipe.testing.records import RecordMaker
from hogpipe.testing.secret_leaks import check_text
from hogpipe.testing.sink_calls import HUNG, Cancelling, perform
from hogpipe.text import describe_error

T = TypeVar("T")

_PAUSE = 0.05  # seconds between two tries, and between two looks at the receiver


class Driver:
    """One sink of a case, and records for it."""

    def __init__(
        self, case: SinkCase, traces: Traces, keys: Mapping[str, object], bytes_before: int
    ) -> None:
        settings = read_settings(case.sink_type, keys)
        self.sink = case.sink_type.create(settings)
        self.write_timeout = settings.write_timeout
        self._case = case
        self._traces = traces
        self._maker = RecordMaker()
        self._account = Account(case)
        self._bytes_before = bytes_before
        self._last_error: BaseException | None = None

    @classmethod
    async def make(
        cls, case: SinkCase, traces: Traces, keys: Mapping[str, object] | None = None
    ) -> Self:
        """Make a sink while there is no trouble; `keys` take the place of the case's."""
        before = await case.total_bytes() if case.total_bytes is not None else 0
        return cls(case, traces, case.keys if keys is None else keys, before)

    def window(self, records: int = 8) -> list[Record]:
        """Return the next window of the run."""
        return self._maker.window(records)

    def begin_run(self) -> None:
        """Go on with the windows of another run: what was before came out of a spool."""
        self._maker = self._maker.next_run()

    def give_up(self, records: Sequence[Record]) -> None:
        """Expect `records` no more, though the sink wanted them to be given again."""
        self._account.give_up(records)

    async def open(self) -> None:
        """Open it; the receiver is up, so nothing may be raised."""
        if (error := await self.try_open(HUNG)) is not None:
            raise BrokenPromiseError(
                f"open raised {describe_error(error)} though the receiver is up"
            )

    async def try_open(self, seconds: float) -> BaseException | None:
        """Open it; return what it raised, TimeoutError if it took longer than `seconds`."""
        error = await self.call_open(seconds)
        if error is not None and not isinstance(error, (OSError, DeliveryError)):
            raise BrokenPromiseError(
                f"open raised {describe_error(error)}; what may pass is an OSError or a "
                "DeliveryError"
            )
        return error

    async def call_open(self, seconds: float) -> BaseException | None:
        """Open it; return whatever it raised."""
        return await self._perform("open", self.sink.open(), seconds)

    async def open_at_last(self) -> None:
        """Open it until that succeeds: the receiver is up again."""
        is_over = self._start_waiting()
        while error := await self.try_open(HUNG):
            if is_over():
                raise BrokenPromiseError(
                    f"open raises {describe_error(error)} though the receiver is up again"
                )
            await asyncio.sleep(_PAUSE)

    async def open_cancelled(self, step: int) -> bool:
        """Open it and cancel that at its await number `step`; return whether it came so far."""
        cancelling = Cancelling(self.sink.open(), step)
        await self._perform("open", cancelling, HUNG)
        return cancelling.reached

    async def write(self, records: Sequence[Record]) -> None:
        """Write a window; the receiver is well, so nothing may be raised."""
        if await self.attempt(records):
            raise BrokenPromiseError(f"write raised {self._told_last} though the receiver is up")

    async def deliver(self, records: Sequence[Record]) -> None:
        """Write until all is taken, as often as the sink asks for it."""
        is_over = self._start_waiting()
        left = list(records)
        while left := await self.attempt(left):
            if is_over():
                raise BrokenPromiseError(
                    f"write raises {self._told_last} though the receiver is up again"
                )
            await asyncio.sleep(_PAUSE)

    async def attempt(
        self, records: Sequence[Record], seconds: float | None = None
    ) -> list[Record]:
        """Write once, cut off after `seconds`; return what is to be given again."""
        return await self._write(records, self.sink.write, seconds)

    async def attempt_cancelled(self, records: Sequence[Record], step: int) -> bool:
        """Write, and cancel that at its await number `step`; return whether it came so far."""
        made: list[Cancelling] = []

        async def cancelling(given: Sequence[Record]) -> None:
            made.append(Cancelling(self.sink.write(given), step))
            await made[0]

        left = await self._write(records, cancelling, None)
        if left and not made[0].reached:
            raise BrokenPromiseError(
                f"after a write was cancelled the next one raised {self._told_last}"
            )
        return made[0].reached

    async def reopen(self) -> None:
        """Have it reopen; nothing may be raised."""
        assert isinstance(self.sink, Reopenable)
        error = await self._perform("reopen", self.sink.reopen(), HUNG)
        if error is not None:
            raise BrokenPromiseError(f"reopen raised {describe_error(error)}")

    async def close(self) -> None:
        """Close it; nothing may be raised."""
        error = await self._perform("close", self.sink.close(), HUNG)
        if error is not None:
            raise BrokenPromiseError(f"close raised {describe_error(error)}")

    async def close_in_trouble(self, seconds: float) -> None:
        """Close it, cut off after `seconds`; what may pass may be raised."""
        error = await self._perform("close", self.sink.close(), seconds)
        if error is not None and not isinstance(error, (OSError, DeliveryError)):
            raise BrokenPromiseError(f"close raised {describe_error(error)}")

    async def close_cancelled(self, step: int) -> bool:
        """Close it and cancel that at its await number `step`; return whether it came so far."""
        cancelling = Cancelling(self.sink.close(), step)
        await self._perform("close", cancelling, HUNG)
        return cancelling.reached

    async def expect_all(self, refused: Sequence[Record] = ()) -> None:
        """Wait until all that was taken has arrived, and hold it against what was given.

        `refused` are the records that the receiver did not take, and of which the sink must have
        told.
        """
        self._account.check_refused(refused)
        if self._case.arrived is not None:
            self._account.check(await self._read_until(self._case.arrived, self._account.missing))
        if self._case.total_bytes is not None:
            total = await self._read_until(self._case.total_bytes, self._missing_bytes)
            self._account.check_bytes(total - self._bytes_before)

    def _start_waiting(self) -> Callable[[], bool]:
        """Return what tells when the case's patience is at its end."""
        clock = asyncio.get_running_loop().time
        end = clock() + self._case.patience
        return lambda: clock() >= end

    def _missing_bytes(self, total: int) -> bool:
        return total - self._bytes_before < self._account.expected_bytes

    async def _read_until(
        self, read: Callable[[], Awaitable[T]], missing: Callable[[T], object]
    ) -> T:
        """Read until nothing is missing, or until patience is at its end."""
        is_over = self._start_waiting()
        while missing(found := await read()) and not is_over():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(_PAUSE)
        return found

    async def _write(
        self,
        records: Sequence[Record],
        write: Callable[[Sequence[Record]], Awaitable[None]],
        seconds: float | None,
    ) -> list[Record]:
        self._account.give(records)
        given, before = list(records), image(records)
        error = await self._perform("write", write(given), seconds or HUNG)
        if image(given) != before:
            raise BrokenPromiseError("write changed the records, which other sinks get as well")
        self._last_error = error or self._last_error
        return self._account.settle(records, error)

    async def _perform(
        self, name: str, call: Awaitable[None], seconds: float
    ) -> BaseException | None:
        error = await perform(name, call, seconds, self._traces)
        if error is not None:
            check_text(str(error), self._case.secrets, f"{type(error).__name__} of {name}")
        if isinstance(error, HogpipeError):
            _check_lines(name, error)
        return error

    @property
    def _told_last(self) -> str:
        return describe_error(self._last_error) if self._last_error else "nothing"


def _check_lines(name: str, error: HogpipeError) -> None:
    """Raise BrokenPromiseError unless the user is told what is wrong, in one line."""
    for line in error.problems if isinstance(error, ConfigurationError) else [str(error)]:
        if len(line.strip().splitlines()) != 1:
            kind = type(error).__name__
            raise BrokenPromiseError(
                f"{name} raised {kind} with a text that is not one line: {line!r}"
            )
