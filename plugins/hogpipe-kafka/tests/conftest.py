"""librdkafka's mock cluster in a process of its own, and a consumer to read what it holds."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

MOCK = Path(__file__).with_name("mock_broker.py")
TOPIC = "hogpipe"


class Broker:
    """Starts with its making; `address` is what clients connect to."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(MOCK)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def tell(self, *words: object) -> None:
        """Give it a command of mock_broker.py."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "ok\n"

    def pause(self) -> None:
        """Have it keep its connections and do nothing."""
        self._process.send_signal(signal.SIGSTOP)
        # A signal takes effect in its own time.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """End its process the hard way; it forgets all it had."""
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
    running.resume()
    running.end()


@pytest.fixture(autouse=True)
def no_task_is_left_behind(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Count what asyncio says of tasks and futures that nobody looked after as a failure."""
    yield
    said = [record.getMessage() for record in caplog.records if record.name == "asyncio"]
    assert said == []
