"""A sink for a server that answers each JSON line with `ok`, or with `no` and a reason."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Annotated

from msgspec import Meta

from hogpipe import (
    ConfigurationError,
    DeliveryError,
    JsonEncoder,
    JsonSettings,
    Record,
    RefusedError,
    SinkSettings,
    SinkType,
    hookimpl,
)

HOGPIPE_API = 1


class ForwardSettings(JsonSettings, frozen=True, kw_only=True):
    """`type = "forward"`."""

    host: Annotated[str, Meta(min_length=1)] = "localhost"
    port: Annotated[int, Meta(ge=1, le=65535)]
    token: str


class ForwardSink:
    """Sends a window, and reads an answer for each record."""

    def __init__(self, settings: ForwardSettings) -> None:
        self._settings = settings
        self._encoder = JsonEncoder(settings)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self) -> None:
        """Connect and log in."""
        self._streams = await asyncio.open_connection(self._settings.host, self._settings.port)
        try:
            reader, writer = self._streams
            writer.write(self._settings.token.encode() + b"\n")
            answer = await _read_answer(reader)
        except BaseException:
            self._disconnect()
            raise
        if answer != b"ok\n":
            raise ConfigurationError("token: the server rejects it")

    async def write(self, records: Sequence[Record]) -> None:
        """Send the records, then read an answer for each."""
        answers: list[bytes] = []
        try:
            if self._streams is None:
                await self.open()
            assert self._streams is not None
            reader, writer = self._streams
            for batch in self._encoder.batches(records):
                writer.write(batch)
                await asyncio.sleep(0)  # other tasks run between two batches
            while len(answers) < len(records):
                answers.append(await _read_answer(reader))
        except (OSError, ConfigurationError) as error:  # a rejected token may be valid later
            rest, refused = records[len(answers) :], _refused(records, answers)
            raise DeliveryError(f"server: {error}", undelivered=rest, refused=refused) from error
        finally:
            if len(answers) < len(records):
                self._disconnect()  # later answers are not for the next window
        if refused := _refused(records, answers):
            raise RefusedError(f"the server refused {len(refused)} records", refused=refused)

    async def close(self) -> None:
        """Close the connection."""
        self._disconnect()

    def _disconnect(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def _read_answer(reader: asyncio.StreamReader) -> bytes:
    answer = await reader.readline()
    if not answer.endswith(b"\n"):
        raise ConnectionResetError("it closed the connection")
    return answer


def _refused(records: Sequence[Record], answers: Sequence[bytes]) -> list[Record]:
    pairs = zip(records, answers, strict=False)
    return [record for record, answer in pairs if answer != b"ok\n"]


@hookimpl
def hogpipe_sinks() -> Iterable[SinkType[SinkSettings]]:
    """Offer the sink type `forward`."""
    return [SinkType("forward", ForwardSettings, ForwardSink)]
