"""A receiver in memory and a correct sink for it, with which `check_sink` is tested."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson

from hogpipe import DeliveryError, Record, RefusedError, SinkSettings, SinkType
from hogpipe.testing import SinkCase


class Receiver:
    """Accepts records one by one, unless it is down, stalls, or refuses one."""

    def __init__(self) -> None:
        self.documents: list[Mapping[str, object]] = []
        self.bytes = 0
        self.down = False
        self.open = asyncio.Event()
        self.open.set()
        self.refused: Record | None = None

    async def take(self, record: Record) -> bool:
        """Return whether the record is accepted; raises ConnectionError while down."""
        await asyncio.sleep(0)
        await self.open.wait()
        if self.down:
            raise ConnectionResetError("the receiver is down")
        if self.refused is not None and record["sequence"] == self.refused["sequence"]:
            return False
        self.documents.append(orjson.loads(orjson.dumps(record)))
        return True

    async def arrived(self) -> Sequence[Mapping[str, object]]:
        return self.documents

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        self.down = True
        yield
        self.down = False

    @asynccontextmanager
    async def stall(self) -> AsyncIterator[None]:
        self.open.clear()
        yield
        self.open.set()

    @asynccontextmanager
    async def refusal(self, record: Record) -> AsyncIterator[None]:
        self.refused = record
        yield
        self.refused = None


class MemorySettings(SinkSettings, frozen=True, kw_only=True):
    """`type = "memory"`."""

    address: str
    stamps: int = 1

    def __post_init__(self) -> None:
        if self.address == "nowhere":
            raise ValueError("address: nowhere is no address")


class MemorySink:
    """Keeps every promise."""

    receiver: Receiver

    def __init__(self, settings: MemorySettings) -> None:
        self.settings = settings

    async def open(self) -> None:
        await asyncio.sleep(0)
        if self.receiver.down:
            raise ConnectionRefusedError("the receiver is down")

    async def write(self, records: Sequence[Record]) -> None:
        refused = []
        for number, record in enumerate(records):
            try:
                if not await self.receiver.take(record):
                    refused.append(record)
            except OSError as error:
                raise DeliveryError(
                    f"no receiver: {error}", undelivered=records[number:], refused=refused
                ) from error
        if refused:
            raise RefusedError("the receiver refused some", refused=refused)

    async def close(self) -> None:
        await asyncio.sleep(0)


def memory_case(sink: type[MemorySink], receiver: Receiver, **changes: Any) -> SinkCase:
    """Return a case of this sink with all trouble that the receiver can make."""
    bound = type(sink.__name__, (sink,), {"receiver": receiver})
    whole: dict[str, Any] = {
        "sink_type": SinkType("memory", MemorySettings, bound),
        "keys": {"address": "here", "write_timeout": 0.3},
        "arrived": receiver.arrived,
        "outage": receiver.outage,
        "stall": receiver.stall,
        "refusal": receiver.refusal,
        "largest_window": 3000,
    }
    return SinkCase(**{**whole, **changes})
