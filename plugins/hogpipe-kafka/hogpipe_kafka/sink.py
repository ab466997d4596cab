"""The sink: windows as messages, and which of them the brokers have acknowledged."""

import asyncio
from collections.abc import Sequence

from aiokafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError

from hogpipe import (
    ConfigurationError,
    DeliveryError,
    JsonEncoder,
    Record,
    RefusedError,
    load_tls_context,
    raise_problems,
    record_id,
    run_shielded,
)
from hogpipe_kafka.producer import Producer, describe
from hogpipe_kafka.settings import KafkaSettings, find_problems

_AT_ONCE = 500
"""How many messages are produced before other tasks run."""

Identity = tuple[str, int]


class KafkaSink:
    """Produces each record, and waits for its acknowledgement.

    The constructor raises ConfigurationError for settings that no broker accepts.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        raise_problems(find_problems(settings))
        self._settings = settings
        self._encoder = JsonEncoder(settings)
        self._producer: Producer | None = None
        self._answers: dict[Identity, asyncio.Future[object]] = {}
        """The acknowledgement of each record of the window that was produced."""
        self._alone: set[Identity] = set()
        """Records to send in a batch of their own: a batch with others was too large."""

    async def open(self) -> None:
        """Connect to a broker and start a producer.

        Raises DeliveryError, or ConfigurationError for a file that cannot be used.
        """
        await self._abandon()
        context = await load_tls_context(self._settings.tls)
        self._producer = Producer(self._settings, context)
        try:
            await self._producer.start()
        except BaseException:
            await self._abandon()
            raise

    async def probe(self) -> str:
        """Connect, and return how many brokers the cluster has; raises what `open` raises."""
        await self.open()
        return f"connected to a cluster; brokers: {(await self._started()).brokers}"

    async def write(self, records: Sequence[Record]) -> None:
        """Produce a window, in order.

        Raises DeliveryError with the records without an acknowledgement, RefusedError with those
        that are too large.
        """
        producer = await self._started()
        # A record that a cancelled write produced is not produced again.
        known = self._answers
        self._answers = {key: known[key] for key in map(record_id, records) if key in known}
        refused: list[Record] = []
        failure = await self._send(producer, records, refused)
        await self._wait()
        undelivered, error = self._sort(records, refused)
        failure = failure or error
        if failure is not None and not isinstance(failure, KafkaTimeoutError):
            # The sequence numbers of the idempotent producer have a gap: brokers refuse more.
            await self._abandon()
        if undelivered:
            cause = await self._explain(producer, failure)
            raise DeliveryError(cause, undelivered=undelivered, refused=refused)
        self._answers.clear()
        self._alone.clear()
        if refused:
            text = f"{len(refused)} records are larger than the broker or aiokafka allows"
            raise RefusedError(text, refused=refused)

    async def close(self) -> None:
        """Release the producer."""
        await self._abandon()

    async def _send(
        self, producer: Producer, records: Sequence[Record], refused: list[Record]
    ) -> Exception | None:
        """Produce what was not produced; return the error that ends it, add to `refused`."""
        for start in range(0, len(records), _AT_ONCE):
            some = records[start : start + _AT_ONCE]
            for record, document in zip(some, self._encoder.documents(some), strict=True):
                identity = record_id(record)
                if identity in self._answers:
                    continue
                alone = identity in self._alone
                try:
                    if alone:
                        await self._wait()
                    self._answers[identity] = await producer.send(
                        document, record["host"]["name"].encode()
                    )
                    if alone:
                        await self._wait()
                        if (error := _error_of(self._answers[identity])) is not None:
                            return error
                except MessageSizeTooLargeError:
                    refused.append(record)
                except KafkaError as error:
                    failure: Exception = error
                    return failure
            await asyncio.sleep(0)
        return None

    async def _wait(self) -> None:
        """Wait until all answers have come, or none came within `ack_timeout`."""
        waiting = {answer for answer in self._answers.values() if not answer.done()}
        while waiting:
            before = len(waiting)
            _, waiting = await asyncio.wait(waiting, timeout=self._settings.ack_timeout)
            if len(waiting) == before:
                return

    def _sort(
        self, records: Sequence[Record], refused: list[Record]
    ) -> tuple[list[Record], Exception | None]:
        """Return what is undelivered, and the first error of an answer; add to `refused`."""
        undelivered: list[Record] = []
        first: Exception | None = None
        gone = {record_id(record) for record in refused}
        for record in records:
            identity = record_id(record)
            answer = self._answers.get(identity)
            if identity in gone or (answer is not None and _succeeded(answer)):
                continue
            error = _error_of(answer) if answer is not None else None
            if error is not None:
                first = first or error
                del self._answers[identity]
            if isinstance(error, MessageSizeTooLargeError) and identity in self._alone:
                refused.append(record)
                continue
            if isinstance(error, MessageSizeTooLargeError):
                self._alone.add(identity)
            undelivered.append(record)
        return undelivered, first

    async def _explain(self, producer: Producer, failure: Exception | None) -> str:
        """Return why records are undelivered."""
        if failure is not None and not isinstance(failure, KafkaTimeoutError):
            return f"topic {self._settings.topic}: {describe(failure)}"
        seconds = self._settings.ack_timeout
        return await producer.find_problem() or f"no acknowledgement within {seconds:g} s"

    async def _started(self) -> Producer:
        """Return the producer, a new one if the last one failed; raises DeliveryError."""
        if self._producer is None:
            try:
                await self.open()
            except ConfigurationError as error:  # the files were usable when the run began
                raise DeliveryError(str(error)) from error
        assert self._producer is not None
        return self._producer

    async def _abandon(self) -> None:
        """Release the producer; keep the acknowledgements that have come."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        self._answers = {
            identity: answer for identity, answer in self._answers.items() if _succeeded(answer)
        }
        await run_shielded(producer.abandon())


def _error_of(answer: asyncio.Future[object]) -> Exception | None:
    error = answer.exception() if answer.done() else None
    return error if isinstance(error, Exception) else None


def _succeeded(answer: asyncio.Future[object]) -> bool:
    return answer.done() and answer.exception() is None
