"""A receiver in memory, and a sink that does right by it: what the contract checker is tried on."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson

from hogpipe import DeliveryError, Record, RefusedError, SinkSettings, SinkType
from hogpipe.testing import SinkCase


class Post:
    """Takes records one by one, unless it is down, stalls, or refuses one."""

    def __init__(self) -> None:
        self.documents: list[Mapping[str, object]] = []
        self.bytes = 0
        self.down = False
        self.open = asyncio.Event()
        self.open.set()
        self.refused: Record | None = None

    async def take(self, record: Record) -> bool:
        """Return whether it was taken; raises ConnectionError while down."""
        await asyncio.sleep(0)
        await self.open.wait()
        if self.down:
            raise ConnectionResetError("the post is closed")
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


class PostSettings(SinkSettings, frozen=True, kw_only=True):
    """`type = "post"`."""

    address: str
    stamps: int = 1

    def __post_init__(self) -> None:
        if self.address == "nowhere":
            raise ValueError("address: nowhere is no address")


class PostSink:
    """Keeps every promise."""

    post: Post

    def __init__(self, settings: PostSettings) -> None:
        self.settings = settings

    async def open(self) -> None:
        await asyncio.sleep(0)
        if self.post.down:
            raise ConnectionRefusedError("the post is closed")

    async def write(self, records: Sequence[Record]) -> None:
        refused = []
        for number, record in enumerate(records):
            try:
                if not await self.post.take(record):
                    refused.append(record)
            except OSError as error:
                raise DeliveryError(
                    f"no post: {error}", undelivered=records[number:], refused=refused
                ) from error
        if refused:
            raise RefusedError("the post refused some", refused=refused)

    async def close(self) -> None:
        await asyncio.sleep(0)


def post_case(sink: type[PostSink], post: Post, **changes: Any) -> SinkCase:
    """Return a case of that sink with all trouble that the post can make."""
    bound = type(sink.__name__, (sink,), {"post": post})
    whole: dict[str, Any] = {
        "sink_type": SinkType("post", PostSettings, bound),
        "keys": {"address": "here", "write_timeout": 0.3},
        "arrived": post.arrived,
        "outage": post.outage,
        "stall": post.stall,
        "refusal": post.refusal,
        "largest_window": 3000,
    }
    return SinkCase(**{**whole, **changes})
