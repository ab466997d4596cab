"""Windows -> requests, and the outcome of each record.

A window is sent in parts, one request at a time. A thread encodes and compresses a part while the
event loop goes on. The preset says what the answer means (exchange.py), progress.py what is left.

An answer that is missing, cut or not understood is no delivery: the records are sent again. What
that means for records which had arrived is the promise of the preset (docs/http.md).
"""

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import NamedTuple, TypeVar

from hogpipe import DeliveryError, HttpAnswer, HttpClient, JsonEncoder, Record, RefusedError
from hogpipe_http.compression import make_compress
from hogpipe_http.exchange import Acknowledging, Batch, Outcome, Request, Verdict
from hogpipe_http.presets import make_preset
from hogpipe_http.progress import Part, Progress
from hogpipe_http.settings import HttpSettings

A = TypeVar("A")
R = TypeVar("R")

log = logging.getLogger(__name__)

_SHARE = 0.9
"""Of `write_timeout`, after which a write ends itself to report what it has delivered."""
_REDACTED = "[redacted]"


class Prepared(NamedTuple):
    """A batch and its request, compressed."""

    batch: Batch
    request: Request


class HttpSink:
    """Sends windows by a preset."""

    def __init__(self, settings: HttpSettings) -> None:
        self._settings = settings
        self._preset = make_preset(settings, str(uuid.uuid4()))
        self._encoder = JsonEncoder(settings)
        self._compress = make_compress(settings.compression)
        self._secrets = settings.list_secrets()
        self._client = HttpClient(
            settings.url,
            headers=settings.make_headers(),
            tls=settings.tls,
            longest_answer=self._preset.longest_answer,
        )
        self._thread = ThreadPoolExecutor(1, "http")
        self._left: Sequence[Part] = ()
        """The parts of the window that is to be sent again."""
        self._warned = False

    async def open(self) -> None:
        """Send a request without records; raises DeliveryError if none would be accepted."""
        await self._ask()

    async def probe(self) -> str:
        """Send a request without records; raises what `open` raises."""
        answer = await self._ask()
        return f"{self._client.place}: answers {answer.status} to a request without records"

    async def write(self, records: Sequence[Record]) -> None:
        """Send a window; raises DeliveryError and RefusedError, naming the records."""
        deadline = asyncio.get_running_loop().time() + _SHARE * self._settings.write_timeout
        progress = Progress(records, self._settings.max_records, self._left)
        self._left = progress.left
        problem = await self._send_all(progress, deadline)
        if progress.receipts:
            problem = await self._confirm(progress, deadline) or problem
        self._left = progress.left
        refused = progress.refused
        if self._left:
            undelivered = [record for part in self._left for record in part]
            raise DeliveryError(self._redact(problem), undelivered=undelivered, refused=refused)
        if refused:
            raise RefusedError(self._redact(progress.reason), refused=refused)

    async def close(self) -> None:
        """Close the connection, without waiting for the server or the thread."""
        self._thread.shutdown(wait=False)
        await self._client.close()

    async def _ask(self) -> HttpAnswer:
        prepared = await self._prepare(())
        answer = await self._exchange(prepared.request, self._start_timeout())
        verdict = self._preset.classify(prepared.batch, answer)
        if verdict.outcome is Outcome.UNDELIVERED:
            raise DeliveryError(self._redact(verdict.reason))
        # A receiver may refuse an empty request; it is there, and accepts these credentials.
        return answer

    async def _send_all(self, progress: Progress, deadline: float) -> str:
        """Send part after part; return why the rest has to wait, empty if there is none."""
        problem = ""
        try:
            while progress.part and not problem:
                prepared = await self._prepare(progress.part)
                if (number := len(prepared.batch.records)) < len(progress.part):
                    progress.cut(number)
                answer = await self._exchange(prepared.request, deadline)
                verdict = self._preset.classify(prepared.batch, answer)
                self._warn_of_size(verdict)
                problem = progress.apply(verdict)
        except (OSError, DeliveryError) as error:
            return str(error)
        return problem

    async def _confirm(self, progress: Progress, deadline: float) -> str:
        """Ask until all is acknowledged; return why it is not, empty if it is."""
        assert isinstance(self._preset, Acknowledging)
        loop, pause = asyncio.get_running_loop(), self._preset.query_interval
        try:
            while True:
                request = self._preset.encode_query(progress.receipts)
                request = await self._run(self._finish, request)
                answer = await self._exchange(request, deadline)
                acknowledged = self._preset.parse_acknowledged(answer)
                if isinstance(acknowledged, str):
                    return acknowledged
                progress.acknowledge(acknowledged)
                if not progress.receipts:
                    return ""
                if loop.time() + pause > deadline:
                    return f"{self._client.place}: no acknowledgement in time; see `write_timeout`"
                await asyncio.sleep(pause)
        except (OSError, DeliveryError) as error:
            return str(error)

    async def _exchange(self, request: Request, deadline: float) -> HttpAnswer:
        limit = min(deadline, self._start_timeout())
        try:
            async with asyncio.timeout_at(limit):
                return await self._client.post(request.url, request.body, request.headers)
        except TimeoutError as error:
            raise DeliveryError(f"{self._client.place}: no answer in time") from error

    def _start_timeout(self) -> float:
        return asyncio.get_running_loop().time() + self._settings.request_timeout

    async def _prepare(self, part: Part) -> Prepared:
        return await self._run(self._encode, part)

    async def _run(self, work: Callable[[A], R], argument: A) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, argument)

    def _encode(self, part: Part) -> Prepared:
        """Return a request with as much of `part` as fits; in the thread."""
        documents = self._encoder.documents(part)
        limit = self._settings.max_mib << 20
        number = sum(size <= limit for size in accumulate(map(len, documents)))
        number = max(number, 1)  # a record that is larger goes alone
        batch = Batch(part[:number], documents[:number])
        return Prepared(batch, self._finish(self._preset.encode(batch)))

    def _finish(self, request: Request) -> Request:
        return request._replace(body=self._compress(request.body)) if self._compress else request

    def _warn_of_size(self, verdict: Verdict) -> None:
        if verdict.outcome is Outcome.TOO_LARGE and not self._warned:
            self._warned = True
            log.warning("%s; it gets the records in smaller requests", self._redact(verdict.reason))

    def _redact(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _REDACTED)
        return text
