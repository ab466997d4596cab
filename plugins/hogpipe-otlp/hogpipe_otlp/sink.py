"""Windows -> requests, and the outcome of each record.

A record is delivered when the collector has accepted its request. A request without an answer is
sent again, though the collector may have accepted it: with cumulative points that changes nothing,
with deltas it counts twice.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress

from hogpipe import (
    DeliveryError,
    HttpClient,
    Record,
    RefusedError,
    TrafficRecord,
    __version__,
)
from hogpipe_otlp.answers import TooLargeError, explain, is_message
from hogpipe_otlp.messages import Verdict, decode_response, encode_request
from hogpipe_otlp.metrics import most_observations
from hogpipe_otlp.points import Point
from hogpipe_otlp.reading import points_of
from hogpipe_otlp.settings import OtlpSettings
from hogpipe_otlp.totals import RunningTotals

log = logging.getLogger(__name__)

_SHARE = 0.9
"""Of `write_timeout`, after which a write ends itself to report what it has delivered."""

_HEADERS = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "gzip",
    "User-Agent": f"hogpipe-otlp/{__version__}",
}

Batch = Sequence[TrafficRecord]


class OtlpSink:
    """Sends windows as data points."""

    def __init__(self, settings: OtlpSettings) -> None:
        self._settings = settings
        self._client = HttpClient(
            settings.endpoint, headers={**settings.headers, **_HEADERS}, tls=settings.tls
        )
        self._totals = RunningTotals(settings.max_series)
        self._warned = False

    async def open(self) -> None:
        """Send a request without data, which every collector accepts; raises DeliveryError."""
        with suppress(RefusedError):  # the collector is up, and may accept data
            await self._post(())

    async def probe(self) -> str:
        """Send a request without data; raises DeliveryError and RefusedError."""
        await self._post(())
        return f"{self._client.place}: accepts requests"

    async def write(self, records: Sequence[Record]) -> None:
        """Send a window's traffic; raises DeliveryError and RefusedError, naming the records."""
        pending = deque(self._batches(records))
        refused: list[Record] = []
        reason = ""
        deadline = asyncio.get_running_loop().time() + _SHARE * self._settings.write_timeout
        while pending:
            batch = pending.popleft()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._send(batch)
            except TooLargeError as error:
                if len(batch) > 1:
                    middle = len(batch) // 2
                    pending.extendleft((batch[middle:], batch[:middle]))
                    continue
                refused += batch
                reason = str(error)
            except RefusedError as error:
                refused += batch if error.refused is None else error.refused
                reason = str(error)
            except (OSError, DeliveryError) as error:
                left = [*batch, *(record for later in pending for record in later)]
                text = str(error) or f"{self._client.place}: no answer in time"
                raise DeliveryError(text, undelivered=left, refused=refused) from error
        if refused:
            raise RefusedError(reason, refused=refused)

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()

    def _batches(self, records: Sequence[Record]) -> Iterator[Batch]:
        """Yield records of at most `max_points` together, of which a single record has less."""
        batch: list[TrafficRecord] = []
        room = self._settings.max_points
        for record in records:
            if record["type"] != "traffic":
                continue
            size = most_observations(record)
            if size > room:
                yield batch
                batch, room = [], self._settings.max_points
            batch.append(record)
            room -= size
        if batch:
            yield batch

    async def _send(self, batch: Batch) -> None:
        points = await asyncio.to_thread(points_of, batch)
        if not points:
            return
        cumulative = self._settings.temporality == "cumulative"
        if cumulative:
            points = self._totals.total(points)
        verdict = await self._post(points)
        if verdict.rejected >= len(points):
            raise RefusedError(f"{self._client.place} rejects all points: {verdict.reason}")
        if cumulative:
            self._totals.commit(points)
        if verdict.rejected:
            # OTLP does not say which points: as many records count as dropped, never too few.
            text = f"{self._client.place} rejects {verdict.rejected} points: {verdict.reason}"
            raise RefusedError(text, refused=batch[: verdict.rejected])
        if verdict.reason and not self._warned:
            self._warned = True
            log.warning("%s warns: %s", self._client.place, ascii(verdict.reason))

    async def _post(self, points: Sequence[Point]) -> Verdict:
        """Send a request; return the verdict if it was accepted, raise its error otherwise."""
        body = await asyncio.to_thread(encode_request, points, self._settings.temporality)
        answer = await self._client.post(self._settings.endpoint, body)
        if not answer.accepted:
            raise explain(answer, self._client.place)
        return decode_response(answer.body) if is_message(answer) else Verdict()
