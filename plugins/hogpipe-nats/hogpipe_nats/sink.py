"""The sink: windows as messages, and which of them the stream has acknowledged."""

import asyncio
from collections.abc import Sequence

from nats.errors import Error as NatsError
from nats.js.api import StreamConfig
from nats.js.errors import APIError, NotFoundError

from hogpipe import (
    ConfigurationError,
    DeliveryError,
    JsonEncoder,
    Record,
    RefusedError,
    raise_problems,
    run_shielded,
)
from hogpipe_nats.connection import Connection, Message, describe
from hogpipe_nats.login import read_login
from hogpipe_nats.settings import NatsSettings, endpoint, find_problems

_AT_ONCE = 500
"""How many messages are in flight before the next ones are made: a bound for memory, and for the
time in which no other task runs."""
_TOO_LARGE_FOR_STREAM = 10054  # JSStreamMessageExceedsMaximumErr in the server's errors.json


class NatsSink:
    """Publishes each record, and waits for its acknowledgement.

    The constructor raises ConfigurationError for settings that no server accepts.
    """

    def __init__(self, settings: NatsSettings) -> None:
        raise_problems(find_problems(settings))
        self._settings = settings
        self._encoder = JsonEncoder(settings)
        self._servers = list(settings.servers)
        self._connection: Connection | None = None

    async def open(self) -> None:
        """Connect to the first server that answers, and create the stream if needed.

        Raises DeliveryError, or ConfigurationError for a file that cannot be used.
        """
        await self._connect(create_stream=self._settings.create_stream)

    async def probe(self) -> str:
        """Connect, and return whether the stream exists if it may have to be created."""
        connection = await self._connect(create_stream=False)
        connected = f"connected to {connection.place}"
        if not self._settings.create_stream:  # the user may not be allowed to read about streams
            return connected
        try:
            await connection.stream.stream_info(self._settings.stream)
        except NotFoundError:
            return f"{connected}; stream {self._settings.stream} is created when a run starts"
        except (NatsError, OSError) as error:
            raise DeliveryError(f"{connection.place}: {describe(error)}") from error
        return f"{connected}; stream {self._settings.stream} exists"

    async def _connect(self, *, create_stream: bool) -> Connection:
        before = _cancellations()
        login = await read_login(self._settings)
        problems: list[str] = []
        for _ in self._settings.servers:
            # The next attempt, also after a cancelled one, begins with the next server.
            server = self._servers.pop(0)
            self._servers.append(server)
            await self._abandon()
            connection = self._connection = Connection(endpoint(server))
            ready = False
            try:
                async with asyncio.timeout(self._settings.connect_timeout):
                    await connection.join(server, login)
                    if create_stream:
                        await self._ensure_stream(connection)
                    ready = True
            except TimeoutError:
                seconds = self._settings.connect_timeout
                problems.append(f"{connection.place}: no answer within {seconds:g} s")
            except (NatsError, OSError) as error:
                problems.append(f"{connection.place}: {describe(error)}")
            if _cancellations() > before:
                # wait_for, which nats-py uses, loses a cancellation that comes with a result
                # (python/cpython#86296).
                raise asyncio.CancelledError
            if ready:
                return connection
        await self._abandon()
        raise DeliveryError("; ".join(problems))

    async def write(self, records: Sequence[Record]) -> None:
        """Publish a window, in order.

        Raises DeliveryError with the records without an acknowledgement, RefusedError with those
        that are too large.
        """
        refused: list[Record] = []
        for start in range(0, len(records), _AT_ONCE):
            some = records[start : start + _AT_ONCE]
            cause, undelivered = await self._publish(some, refused)
            if cause is not None:
                undelivered.extend(records[start + _AT_ONCE :])
                raise DeliveryError(cause, undelivered=undelivered, refused=refused)
        if refused:
            raise RefusedError(
                f"{len(refused)} records are larger than the server or the stream allows",
                refused=refused,
            )

    async def close(self) -> None:
        """Release the connection."""
        await self._abandon()

    async def _publish(
        self, records: Sequence[Record], refused: list[Record]
    ) -> tuple[str | None, list[Record]]:
        """Publish `records`; return why some are undelivered, and these; add to `refused`."""
        try:
            connection = await self._connected()
        except DeliveryError as error:
            return str(error), list(records)
        fitting: list[tuple[Record, Message]] = []
        for record, message in zip(records, self._messages(records), strict=True):
            if message.size > connection.max_payload:
                refused.append(record)
            else:
                fitting.append((record, message))
        try:
            outcomes = await connection.publish_all(
                [message for _, message in fitting], self._settings.ack_timeout
            )
        except BaseException:
            await self._abandon()
            raise
        errors: list[Exception] = []
        undelivered: list[Record] = []
        for (record, _), outcome in zip(fitting, outcomes, strict=True):
            if isinstance(outcome, APIError) and outcome.err_code == _TOO_LARGE_FOR_STREAM:
                refused.append(record)
            elif outcome is not None:
                errors.append(outcome)
                undelivered.append(record)
        if not errors:
            return None, []
        if not isinstance(errors[0], APIError):  # the server answers, so the connection works
            await self._abandon()
        return f"{connection.place}: {describe(errors[0])}", undelivered

    def _messages(self, records: Sequence[Record]) -> list[Message]:
        documents = self._encoder.documents(records)
        return [
            Message(
                self._settings.subject_of(record["host"]["name"], record["type"]),
                f"{record['run']}-{record['sequence']}",
                document,
            )
            for record, document in zip(records, documents, strict=True)
        ]

    async def _connected(self) -> Connection:
        """Return the connection, another one if it broke; raises DeliveryError."""
        if self._connection is None or not self._connection.is_connected:
            try:
                await self.open()
            except ConfigurationError as error:  # the files were usable when the run began
                raise DeliveryError(str(error)) from error
        assert self._connection is not None
        return self._connection

    async def _ensure_stream(self, connection: Connection) -> None:
        """Create the stream unless one has its name, which stays unchanged."""
        settings = self._settings
        try:
            await connection.stream.stream_info(settings.stream)
        except NotFoundError:
            config = StreamConfig(
                name=settings.stream,
                subjects=[settings.subjects],
                max_bytes=settings.stream_mib << 20,
                num_replicas=settings.replicas,
                duplicate_window=settings.duplicate_window,
            )
            await connection.stream.add_stream(config)

    async def _abandon(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        await run_shielded(connection.close())


def _cancellations() -> int:
    """Return how often the current task was cancelled."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0
