"""One sink of a case, called as a run calls it, with records for it and an account of them.

In: the steps of a promise (promises.py). Out: calls of the sink. BrokenPromiseError for an error
that the contract does not allow at this step, an error text that is not one line, a secret in it,
records changed by a write, and records that are lost.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Self, TypeVar

from hogpipe.delivery.isolation import OPEN_SECONDS
from hogpipe.errors import ConfigurationError, DeliveryError, HogpipeError
from hogpipe.records.schema import Record
from hogpipe.sinks.contract import Probeable, Reopenable
from hogpipe.testing.accounting import Account, fingerprint
from hogpipe.testing.case import BrokenPromiseError, SinkCase
from hogpipe.testing.configuring import read_settings
from hogpipe.testing.leaks import ResourceMonitor, check_secrets
from hogpipe.testing.records import RecordMaker
from hogpipe.testing.sink_calls import CALL_SECONDS, CancelAtStep, call_sink
from hogpipe.text import describe_error

T = TypeVar("T")

_PAUSE_SECONDS = 0.05  # between two attempts, and between two reads of the receiver


class SinkHarness:
    """One sink of a case, and the records of one run or several for it."""

    def __init__(
        self,
        case: SinkCase,
        monitor: ResourceMonitor,
        keys: Mapping[str, object],
        bytes_before: int,
    ) -> None:
        settings = read_settings(case.sink_type, keys)
        self.sink = case.sink_type.create(settings)
        self.write_timeout = settings.write_timeout
        self._case = case
        self._monitor = monitor
        self._maker = RecordMaker()
        self._account = Account(case)
        self._bytes_before = bytes_before
        self._last_error: BaseException | None = None

    @classmethod
    async def make(
        cls, case: SinkCase, monitor: ResourceMonitor, keys: Mapping[str, object] | None = None
    ) -> Self:
        """Make a sink while there is no trouble; `keys` replace those of the case."""
        before = await case.total_bytes() if case.total_bytes is not None else 0
        return cls(case, monitor, case.keys if keys is None else keys, before)

    def window(self, records: int = 8) -> list[Record]:
        """Return the next window of the run."""
        return self._maker.window(records)

    def begin_run(self) -> None:
        """Continue with windows of another run, as after those of a spool."""
        self._maker = self._maker.next_run()

    def abandon(self, records: Sequence[Record]) -> None:
        """Expect undelivered records no more."""
        self._account.abandon(records)

    async def open(self) -> None:
        """Open the sink; the receiver is up, so an error breaks the promise."""
        if (error := await self.try_open(CALL_SECONDS)) is not None:
            raise BrokenPromiseError(
                f"open raised {describe_error(error)} though the receiver is up"
            )

    async def try_open(self, seconds: float) -> BaseException | None:
        """Open the sink; return its error, TimeoutError if it took longer than `seconds`."""
        error = await self.call_open(seconds)
        if error is not None and not isinstance(error, (OSError, DeliveryError)):
            raise BrokenPromiseError(
                f"open raised {describe_error(error)}; an error that may pass is an OSError or a "
                "DeliveryError"
            )
        return error

    async def call_open(self, seconds: float) -> BaseException | None:
        """Open the sink; return any error."""
        return await self._call("open", self.sink.open(), seconds)

    async def open_at_last(self) -> None:
        """Open the sink until that succeeds: the receiver is up again."""
        is_over = self._start_patience()
        while error := await self.try_open(CALL_SECONDS):
            if is_over():
                raise BrokenPromiseError(
                    f"open raises {describe_error(error)} though the receiver is up again"
                )
            await asyncio.sleep(_PAUSE_SECONDS)

    async def probe(self) -> BaseException | None:
        """Have the sink report what it connects to; return its error, if it is one of open."""
        assert isinstance(self.sink, Probeable)
        sink, found = self.sink, ""

        async def probe() -> None:
            nonlocal found
            found = await sink.probe()

        error = await self._call("probe", probe(), OPEN_SECONDS)
        check_secrets(found, self._case.secrets, "what probe returned")
        if error is None and len(found.strip().splitlines()) != 1:
            raise BrokenPromiseError(f"probe returned a text that is not one line: {found!r}")
        if error is not None and not isinstance(error, (OSError, HogpipeError)):
            raise BrokenPromiseError(f"probe raised {describe_error(error)}")
        return error

    async def open_cancelled(self, step: int) -> bool:
        """Open the sink, cancelled at its await number `step`; return whether that was reached."""
        call = CancelAtStep(self.sink.open(), step)
        await self._call("open", call, CALL_SECONDS)
        return call.reached

    async def write(self, records: Sequence[Record]) -> None:
        """Write a window; the receiver is up, so an error breaks the promise."""
        if await self.attempt(records):
            raise BrokenPromiseError(
                f"write raised {self._describe_last_error()} though the receiver is up"
            )

    async def deliver(self, records: Sequence[Record]) -> None:
        """Write a window, and what is undelivered of it, until nothing is."""
        is_over = self._start_patience()
        left = list(records)
        while left := await self.attempt(left):
            if is_over():
                raise BrokenPromiseError(
                    f"write raises {self._describe_last_error()} though the receiver is up again"
                )
            await asyncio.sleep(_PAUSE_SECONDS)

    async def attempt(
        self, records: Sequence[Record], seconds: float | None = None
    ) -> list[Record]:
        """Write once, for at most `seconds`; return what is undelivered."""
        return await self._write(records, self.sink.write, seconds)

    async def attempt_cancelled(self, records: Sequence[Record], step: int) -> bool:
        """Write, cancelled at its await number `step`; return whether that was reached."""
        calls: list[CancelAtStep] = []

        async def write(given: Sequence[Record]) -> None:
            calls.append(CancelAtStep(self.sink.write(given), step))
            await calls[0]

        left = await self._write(records, write, None)
        if left and not calls[0].reached:
            raise BrokenPromiseError(
                f"after a write was cancelled the next one raised {self._describe_last_error()}"
            )
        return calls[0].reached

    async def reopen(self) -> None:
        """Reopen the sink; an error breaks the promise."""
        assert isinstance(self.sink, Reopenable)
        error = await self._call("reopen", self.sink.reopen(), CALL_SECONDS)
        if error is not None:
            raise BrokenPromiseError(f"reopen raised {describe_error(error)}")

    async def close(self) -> None:
        """Close the sink; an error breaks the promise."""
        error = await self._call("close", self.sink.close(), CALL_SECONDS)
        if error is not None:
            raise BrokenPromiseError(f"close raised {describe_error(error)}")

    async def close_in_trouble(self, seconds: float) -> None:
        """Close the sink within `seconds`; an error that may pass is allowed."""
        error = await self._call("close", self.sink.close(), seconds)
        if error is not None and not isinstance(error, (OSError, DeliveryError)):
            raise BrokenPromiseError(f"close raised {describe_error(error)}")

    async def close_cancelled(self, step: int) -> bool:
        """Close the sink, cancelled at its await number `step`; return whether that was reached."""
        call = CancelAtStep(self.sink.close(), step)
        await self._call("close", call, CALL_SECONDS)
        return call.reached

    async def expect_all(self, refused: Sequence[Record] = ()) -> None:
        """Wait until the records have arrived, and compare them with those that were given.

        `refused` are the records that the receiver refused and the sink must have reported.
        """
        self._account.check_refused(refused)
        if self._case.arrived is not None:
            self._account.check(await self._read_until(self._case.arrived, self._account.missing))
        if self._case.total_bytes is not None:
            total = await self._read_until(self._case.total_bytes, self._misses_bytes)
            self._account.check_bytes(total - self._bytes_before)

    def _start_patience(self) -> Callable[[], bool]:
        """Return a function that returns whether the patience of the case is over."""
        clock = asyncio.get_running_loop().time
        end = clock() + self._case.patience
        return lambda: clock() >= end

    def _misses_bytes(self, total: int) -> bool:
        return total - self._bytes_before < self._account.expected_bytes

    async def _read_until(
        self, read: Callable[[], Awaitable[T]], missing: Callable[[T], object]
    ) -> T:
        """Read the receiver until nothing is missing or patience is over."""
        is_over = self._start_patience()
        while missing(found := await read()) and not is_over():  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(_PAUSE_SECONDS)
        return found

    async def _write(
        self,
        records: Sequence[Record],
        write: Callable[[Sequence[Record]], Awaitable[None]],
        seconds: float | None,
    ) -> list[Record]:
        self._account.give(records)
        given, before = list(records), fingerprint(records)
        error = await self._call("write", write(given), seconds or CALL_SECONDS)
        if fingerprint(given) != before:
            raise BrokenPromiseError("write changed the records, which other sinks get as well")
        self._last_error = error or self._last_error
        return self._account.count_write(records, error)

    async def _call(self, name: str, call: Awaitable[None], seconds: float) -> BaseException | None:
        error = await call_sink(name, call, seconds, self._monitor)
        if error is not None:
            check_secrets(str(error), self._case.secrets, f"{type(error).__name__} of {name}")
        if isinstance(error, HogpipeError):
            _check_lines(name, error)
        return error

    def _describe_last_error(self) -> str:
        return describe_error(self._last_error) if self._last_error else "nothing"


def _check_lines(name: str, error: HogpipeError) -> None:
    """Raise BrokenPromiseError unless the text of the error is one line for each problem."""
    for line in error.problems if isinstance(error, ConfigurationError) else [str(error)]:
        if len(line.strip().splitlines()) != 1:
            kind = type(error).__name__
            raise BrokenPromiseError(
                f"{name} raised {kind} with a text that is not one line: {line!r}"
            )
