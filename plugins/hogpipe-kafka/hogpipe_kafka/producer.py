"""One producer of aiokafka: connection test, start, release.

`AIOKafkaProducer.stop` waits until all messages are delivered, which with a dead broker never ends;
its bootstrap logs the reason of a failure and does not raise it. So this module tests the brokers
first, and releases a producer by ending its tasks and closing its connections.
"""

import asyncio
import logging
import ssl
from collections.abc import Iterator
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.errors import (
    BrokerResponseError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnknownTopicOrPartitionError,
    UnsupportedSaslMechanismError,
)

from hogpipe import DeliveryError, describe_connection_error
from hogpipe_kafka.settings import KafkaSettings, endpoint

# aiokafka logs each failed attempt; the sink reports the reason as its own error.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

_WORDS = {
    KafkaConnectionError: "it closed the connection; it may want TLS, or user and password",
    SaslAuthenticationFailed: "it refuses user and password",
    UnknownTopicOrPartitionError: "there is no such topic",
    UnsupportedSaslMechanismError: "it does not take this mechanism",
}
"""Texts for errors of aiokafka and brokers."""
_UNLIMITED_MS = 3_600_000
"""For aiokafka's own time-out; the caller has one."""


class Producer:
    """An idempotent producer: `start`, then `send`; `abandon` is possible at any time."""

    def __init__(self, settings: KafkaSettings, context: ssl.SSLContext | None) -> None:
        self._settings = settings
        self._security = _security(settings, context)
        self._starting: asyncio.Task[None] | None = None
        self._producer = AIOKafkaProducer(
            bootstrap_servers=[_address(server) for server in settings.servers],
            client_id="hogpipe",
            acks="all",
            enable_idempotence=True,
            compression_type=None if settings.compression == "none" else settings.compression,
            max_batch_size=settings.batch_kib << 10,
            linger_ms=round(settings.linger * 1000),
            request_timeout_ms=round(settings.ack_timeout * 1000),
            **self._security,
        )

    async def start(self) -> None:
        """Get the metadata of the cluster and a producer id; raises DeliveryError."""
        if (problem := await self.find_problem()) is not None:
            raise DeliveryError(problem)
        self._starting = asyncio.create_task(self._producer.start())
        done, _ = await asyncio.wait({self._starting}, timeout=self._settings.connect_timeout)
        if not done:
            seconds = self._settings.connect_timeout
            raise DeliveryError(f"the cluster gave no producer id within {seconds:g} s")
        try:
            self._starting.result()
        except (KafkaError, OSError) as error:
            raise DeliveryError(describe(error)) from error

    @property
    def brokers(self) -> int:
        """How many brokers the cluster has, after `start`."""
        return len(self._producer.client.cluster.brokers())

    async def send(self, value: bytes, key: bytes) -> asyncio.Future[object]:
        """Produce a message; return the future of its acknowledgement.

        Raises KafkaError. A cancelled call has produced nothing.
        """
        answer: asyncio.Future[object]
        answer = await self._producer.send(self._settings.topic, value, key)
        answer.add_done_callback(_retrieve_error)
        return answer

    async def find_problem(self) -> str | None:
        """Return why no broker of `servers` can be connected, None if one can."""
        seconds = self._settings.connect_timeout
        problems: list[str] = []
        for server in self._settings.servers:
            host, port = endpoint(server)
            try:
                async with asyncio.timeout(seconds):
                    connection = await create_conn(
                        host,
                        port,
                        client_id="hogpipe",
                        request_timeout_ms=_UNLIMITED_MS,
                        **self._security,
                    )
            except TimeoutError:
                problems.append(f"{_address(server)}: no answer within {seconds:g} s")
            except (KafkaError, OSError) as error:
                problems.append(f"{_address(server)}: {describe(error)}")
            else:
                connection.close()
                return None
        return "; ".join(problems)

    async def abandon(self) -> None:
        """End tasks and connections at once; outstanding acknowledgements never come."""
        producer = self._producer
        connections = [*producer.client._conns.values(), *_bootstrapping(self._starting)]  # noqa: SLF001
        tasks = set(_tasks_of(producer, producer.client, producer._sender))  # noqa: SLF001
        if self._starting is not None:
            tasks.add(self._starting)
        while tasks:  # a cancelled sender waits for its requests in flight
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=0.01)
        producer._closed = True  # noqa: SLF001
        for connection in connections:
            if connection.connected():
                connection._writer.transport.abort()  # noqa: SLF001
                connection.close()
        await asyncio.sleep(0)  # the transports close


def describe(error: Exception) -> str:
    """Return the reason of an error in one line."""
    match error:
        case OSError():
            return describe_connection_error(error)
        case BrokerResponseError():
            return _WORDS.get(type(error)) or f"{error.message} (error {error.errno})"
        case _:
            return _WORDS.get(type(error)) or str(error) or type(error).__name__


def _security(settings: KafkaSettings, context: ssl.SSLContext | None) -> dict[str, Any]:
    """Return the arguments of aiokafka for TLS and login."""
    encryption = "SSL" if context is not None else "PLAINTEXT"
    if settings.user is None:
        return {"security_protocol": encryption, "ssl_context": context}
    return {
        "security_protocol": f"SASL_{encryption}",
        "ssl_context": context,
        "sasl_mechanism": settings.mechanism,
        "sasl_plain_username": settings.user,
        "sasl_plain_password": settings.password,
    }


def _address(server: str) -> str:
    host, port = endpoint(server)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _retrieve_error(answer: asyncio.Future[object]) -> None:
    """Retrieve the error of an answer that is no longer awaited: asyncio would log it otherwise."""
    if not answer.cancelled():
        answer.exception()


def _tasks_of(*owners: object) -> Iterator[asyncio.Task[object]]:
    """Find the tasks that run a method of one of `owners`; aiokafka keeps no list of them."""
    for task in asyncio.all_tasks():
        frame = getattr(task.get_coro(), "cr_frame", None)
        if frame is not None and any(frame.f_locals.get("self") is owner for owner in owners):
            yield task


def _bootstrapping(starting: asyncio.Task[None] | None) -> Iterator[AIOKafkaConnection]:
    """Find the connection of a bootstrap that was cancelled; aiokafka would not close it."""
    coroutine = starting.get_coro() if starting is not None else None
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is not None and "bootstrap_conn" in frame.f_locals:
            yield frame.f_locals["bootstrap_conn"]
        coroutine = getattr(coroutine, "cr_await", None)
