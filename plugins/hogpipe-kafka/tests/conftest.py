"""librdkafka's mock cluster in a process of its own, and a consumer to read what it holds."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from hogpipe.testing import suspended

MOCK = Path(__file__).with_name("mock_broker.py")
TOPIC = "hogpipe"


class Broker:
    """A running mock cluster; clients connect to `address`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(MOCK)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def command(self, *words: object) -> None:
        """Send it a command of mock_broker.py."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "ok\n"

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        self.command("down")
        yield
        self.command("up")

    @asynccontextmanager
    async def stall(self) -> AsyncIterator[None]:
        with suspended(self._process):
            yield

    def kill(self) -> None:
        """Kill its process; its topic is lost."""
        self._process.kill()
        self._process.communicate()

    async def messages(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Read the whole topic: partition, key and document of each message."""
        return await asyncio.to_thread(self._read)

    async def documents(self) -> list[dict[str, Any]]:
        return [document for _, _, document in await self.messages()]

    def _read(self) -> list[tuple[int, str, dict[str, Any]]]:
        consumer = Consumer(
            {"bootstrap.servers": self.address, "group.id": "test", "fetch.wait.max.ms": 10}
        )
        try:
            ids = consumer.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions
            ends = [
                (partition, consumer.get_watermark_offsets(partition, timeout=10)[1])
                for partition in (TopicPartition(TOPIC, number, 0) for number in ids)
            ]
            consumer.assign([partition for partition, end in ends if end])
            return [_take(consumer) for _, end in ends for _ in range(end)]
        finally:
            consumer.close()


def _take(consumer: Consumer) -> tuple[int, str, dict[str, Any]]:
    message = consumer.poll(10)
    assert message is not None
    assert message.error() is None, message.error()
    return message.partition(), message.key().decode(), json.loads(message.value())


@pytest.fixture
def broker() -> Iterator[Broker]:
    """Run a broker."""
    running = Broker()
    yield running
    running.kill()


@pytest.fixture(autouse=True)
def no_task_is_left_behind(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail where asyncio logs a destroyed task or an exception that was never retrieved."""
    yield
    assert [one.getMessage() for one in caplog.records if one.name == "asyncio"] == []
