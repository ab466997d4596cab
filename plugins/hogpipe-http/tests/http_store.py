"""Small servers that answer as the stores document it, errors included.

In: requests of the sink `http`. Out: the documents that arrived, in order, repeats included where
the store keeps them. What a store has is in a file of its folder: `python http_store.py PRESET PORT
FOLDER` can be killed at any time and started again. With `--die-after N` it kills itself while it
stores its document number N, in the middle of a request.

    ndjson         keeps each line
    elasticsearch  keeps each id once; answers each item (201, 409, 400, 429)
    loki           keeps each time and line of a stream once; keeps the others of a refused one
    splunk         keeps events in memory until it indexes them, and acknowledges those
    clickhouse     keeps a request whole, each token once
    chdb           the same by ClickHouse itself, in a module: its SQL, its tables, its tokens
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import sys
import threading
import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

Document = dict[str, Any]


class Storage:
    """Lines in a file, each written at once; what is read is what survives a kill."""

    def __init__(self, path: Path, die_after: int | None = None) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._left = die_after
        text = path.read_bytes()
        self.lines: list[Document] = [json.loads(line) for line in text.splitlines()]

    def add(self, *documents: Document) -> None:
        """Store documents, all or none."""
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        self.lines += documents
        os.write(self._file, b"".join(json.dumps(one).encode() + b"\n" for one in documents))

    def close(self) -> None:
        os.close(self._file)


class Store:
    """A store; `refused` decides which documents it refuses for good."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.refused: Callable[[Document], bool] = lambda _document: False
        self.busy = 0
        """How many of the next documents are not taken now."""
        self.known = {self.identify(line) for line in storage.lines}
        """The identities of what is stored."""

    def identify(self, line: Document) -> str:
        """Return that by which the store recognises a repeat."""
        return str(line.get("id"))

    def answer(self, request: web.Request, body: bytes) -> web.Response:
        raise NotImplementedError

    def documents(self) -> list[Document]:
        """What has arrived, in order."""
        return [line["document"] for line in self.storage.lines]

    def close(self) -> None:
        """Release what is not the storage's."""


def parse_lines(body: bytes) -> list[Document]:
    return [json.loads(line) for line in body.splitlines()]


class Ndjson(Store):
    def answer(self, request: web.Request, body: bytes) -> web.Response:
        assert request.headers["Content-Type"] == "application/x-ndjson"
        documents = parse_lines(body)
        if any(map(self.refused, documents)):
            return web.Response(status=422, text="not that one")
        for document in documents:
            self.storage.add({"document": document})
        return web.Response(status=204)


class Elasticsearch(Store):
    def answer(self, request: web.Request, body: bytes) -> web.Response:
        assert request.path == "/logs-hogpipe-default/_bulk"
        assert request.query["filter_path"].startswith("errors,items.*.status")
        lines = parse_lines(body)
        if not lines:
            reason = {"type": "parse_exception", "reason": "request body is required"}
            return web.json_response({"error": reason, "status": 400}, status=400)
        items = [self._store(*pair) for pair in zip(lines[::2], lines[1::2], strict=True)]
        errors = any("error" in item["create"] for item in items)
        return web.json_response({"errors": errors, "items": items})

    def _store(self, action: Document, document: Document) -> Document:
        identity = action["create"]["_id"]
        assert "@timestamp" in document
        if identity in self.known:
            return self._fail(409, "version_conflict_engine_exception", "document already exists")
        if self.refused(document):
            return self._fail(400, "document_parsing_exception", "failed to parse field [x]")
        if self.busy:
            self.busy -= 1
            return self._fail(429, "es_rejected_execution_exception", "queue capacity")
        self.known.add(identity)
        self.storage.add({"id": identity, "document": document})
        return {"create": {"status": 201}}

    @staticmethod
    def _fail(status: int, kind: str, reason: str) -> Document:
        return {"create": {"status": status, "error": {"type": kind, "reason": reason}}}

    def documents(self) -> list[Document]:
        found = [dict(document) for document in super().documents()]
        for document in found:
            if document["@timestamp"] == document.get("timestamp"):
                del document["@timestamp"]
        return found


class Loki(Store):
    def identify(self, line: Document) -> str:
        return json.dumps(line["key"])

    def answer(self, request: web.Request, body: bytes) -> web.Response:
        assert request.path == "/loki/api/v1/push"
        assert request.headers["Content-Type"] == "application/json"
        refused = 0
        for stream in json.loads(body)["streams"]:
            labels = stream["stream"]
            assert {"source", "host"} <= labels.keys()
            assert all(isinstance(value, str) for value in labels.values())
            for time, line in stream["values"]:
                assert time.isdecimal()
                stored = {"key": [labels, time, line], "document": json.loads(line)}
                if self.refused(stored["document"]):
                    refused += 1
                elif (identity := self.identify(stored)) not in self.known:
                    self.known.add(identity)
                    self.storage.add(stored)
        if refused:
            return web.Response(status=400, text=f"entry too far behind, ignored: {refused}\n")
        return web.Response(status=204)

    def documents(self) -> list[Document]:
        # A query returns lines by time.
        lines = sorted(self.storage.lines, key=lambda line: int(line["key"][1]))
        return [line["document"] for line in lines]

    def streams(self) -> list[Document]:
        found = {json.dumps(line["key"][0], sort_keys=True) for line in self.storage.lines}
        return [json.loads(labels) for labels in found]


class Splunk(Store):
    """`delayed`: what is accepted is indexed only by the next query for acknowledgements.

    `lazy`: it is indexed by the next request.
    """

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        self.delayed = self.lazy = False
        self.token = "open-sesame"
        self._queue: dict[int, list[Document]] = {}
        self._indexed: set[int] = set()
        self._receipts = 0

    def answer(self, request: web.Request, body: bytes) -> web.Response:
        if request.headers.get("Authorization") != f"Splunk {self.token}":
            return self._fail(403, 4, "Invalid token")
        channel = request.headers.get("X-Splunk-Request-Channel")
        if self.delayed and not channel:
            return self._fail(400, 10, "Data channel is missing")
        if request.path == "/services/collector/ack":
            return self._acknowledge(request, json.loads(body)["acks"])
        assert request.path == "/services/collector/event"
        events = parse_lines(body)
        if not events:
            return self._fail(400, 5, "No data")
        for number, event in enumerate(events):
            assert event["source"] == "hogpipe"
            assert abs(event["time"] - event["event"]["window"]["end_unix"]) < 0.001
            if self.refused(event["event"]):
                self._take(events[:number])
                return self._fail(400, 6, "Invalid data format", **{"invalid-event-number": number})
        receipt = self._take(events)
        said: Document = {"text": "Success", "code": 0}
        return web.json_response(said | ({"ackId": receipt} if self.delayed else {}))

    def _take(self, events: list[Document]) -> int:
        if self.lazy:
            self._index()
        receipt, self._receipts = self._receipts, self._receipts + 1
        self._queue[receipt] = [event["event"] for event in events]
        if not (self.delayed or self.lazy):
            self._index()
        return receipt

    def _acknowledge(self, request: web.Request, receipts: list[int]) -> web.Response:
        assert request.query["channel"] == request.headers["X-Splunk-Request-Channel"]
        found = {str(receipt): receipt in self._indexed for receipt in receipts}
        self._index()
        return web.json_response({"acks": found})

    def _index(self) -> None:
        for receipt, events in self._queue.items():
            for event in events:
                self.storage.add({"document": event})
            self._indexed.add(receipt)
        self._queue = {}

    def close(self) -> None:
        self._index()

    @staticmethod
    def _fail(status: int, code: int, text: str, **more: int) -> web.Response:
        return web.json_response({"text": text, "code": code, **more}, status=status)


class ClickHouse(Store):
    def identify(self, line: Document) -> str:
        return str(line["token"])

    def answer(self, request: web.Request, body: bytes) -> web.Response:
        query = request.query
        assert query["query"] == "INSERT INTO `hogpipe`.`records` FORMAT JSONEachRow"
        assert (query["async_insert"], query["wait_end_of_query"]) == ("0", "1")
        documents = parse_lines(body)
        if any(map(self.refused, documents)):
            text = "Code: 27. DB::Exception: Cannot parse input: expected ',' at row 1"
            return web.Response(
                status=400, text=text, headers={"X-ClickHouse-Exception-Code": "27"}
            )
        token = query.get("insert_deduplication_token")
        if documents and token not in self.known:
            # Each document counts for --die-after, and they are stored as one.
            for _document in documents[1:]:
                self.storage.add()
            self.storage.add(*({"token": token, "document": document} for document in documents))
            self.known.add(str(token))
        return web.Response(headers={"X-ClickHouse-Summary": "{}"})


class Chdb(Store):
    """ClickHouse, behind the part of its HTTP interface that the sink uses.

    With `--die-after N` it is killed a moment after request number N has begun.
    """

    MALFORMED = (26, 27, 53, 72, 117)
    """Codes of what cannot be parsed, for which ClickHouse answers 400."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        from chdb.session import Session  # noqa: PLC0415 - large, and for this store alone

        self._session = Session(str(storage.path.parent / "chdb"))
        self.moments = iter([])
        """Seconds after which each request is the last one; None for never."""

    def answer(self, request: web.Request, body: bytes) -> web.Response:
        if (moment := next(self.moments, None)) is not None:
            threading.Timer(moment, os.kill, (os.getpid(), signal.SIGKILL)).start()
        # One of these is of the HTTP interface, no setting.
        own = {"query", "wait_end_of_query"}
        settings = {name: value for name, value in request.query.items() if name not in own}
        clause = ", ".join(f"{name} = '{value}'" for name, value in settings.items())
        query = request.query["query"].replace(" FORMAT ", f" SETTINGS {clause} FORMAT ")
        if not body.strip():
            return web.Response(headers={"X-ClickHouse-Summary": "{}"})
        try:
            self.query(f"{query}\n{body.decode()}")
        except RuntimeError as error:
            code = int(re.search(r"Code: (\d+)", str(error))[1])  # type: ignore[index]
            status = 400 if code in self.MALFORMED else 404 if code in {60, 81} else 500
            headers = {"X-ClickHouse-Exception-Code": str(code)}
            return web.Response(status=status, text=str(error)[:2000], headers=headers)
        return web.Response(headers={"X-ClickHouse-Summary": "{}"})

    def query(self, sql: str) -> list[Document]:
        found = self._session.query(sql, "JSONEachRow")
        return parse_lines(found.bytes() or b"")

    def documents(self) -> list[Document]:
        return self.query("SELECT run, sequence FROM hogpipe.records ORDER BY run, sequence")

    def close(self) -> None:
        self._session.close()


STORES: dict[str, type[Store]] = {
    "ndjson": Ndjson,
    "elasticsearch": Elasticsearch,
    "loki": Loki,
    "splunk": Splunk,
    "clickhouse": ClickHouse,
    "chdb": Chdb,
}


class Server:
    """A store behind HTTP, whose next answers can be chosen."""

    def __init__(self, store: Store, port: int = 0) -> None:
        self.store = store
        self.port = port
        self.requests: list[web.Request] = []
        self.sizes: list[int] = []
        """Bytes of each body, not compressed."""
        self.answers: list[web.Response | None] = []
        """Given to the next requests; None is that of the store."""
        self.most_bytes: int | None = None
        self.cut = 0
        """How many of the next answers break off, although the records are stored."""
        self._going = asyncio.Event()
        self._going.set()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, **options: Any) -> None:
        application = web.Application(client_max_size=1 << 30)
        application.router.add_post("/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, shutdown_timeout=0.05, auto_decompress=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, **options).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        assert self._runner is not None
        self._going.set()
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        await self._going.wait()
        body = decompress(await request.read(), request.headers.get("Content-Encoding", ""))
        self.requests.append(request)
        self.sizes.append(len(body))
        if self.answers and (scripted := self.answers.pop(0)) is not None:
            return scripted
        if self.most_bytes is not None and len(body) > self.most_bytes:
            return web.Response(status=413)
        answer = self.store.answer(request, body)
        if self.cut:
            self.cut -= 1
            assert request.transport is not None
            request.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
            request.transport.close()
        return answer

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        await self.stop()
        yield
        await self.start()

    @asynccontextmanager
    async def stall(self) -> AsyncIterator[None]:
        self._going.clear()
        yield
        self._going.set()

    @asynccontextmanager
    async def refusal(self, record: Document) -> AsyncIterator[None]:
        key = (record["run"], record["sequence"])
        self.store.refused = lambda document: (document["run"], document["sequence"]) == key
        yield
        self.store.refused = lambda _document: False

    async def arrived(self) -> list[Document]:
        return self.store.documents()


def decompress(body: bytes, encoding: str) -> bytes:
    if encoding == "gzip":
        return zlib.decompress(body, wbits=31)
    if encoding == "zstd":
        import zstandard  # noqa: PLC0415 - for these requests alone

        return zstandard.ZstdDecompressor().decompress(body)
    assert not encoding
    return body


async def serve(server: Server) -> None:
    await server.start()
    print(server.port, flush=True)
    await asyncio.get_running_loop().create_future()


def main(arguments: Iterable[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("preset", choices=STORES)
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--die-after", type=int)
    parser.add_argument("--index", choices=["delayed", "lazy"])
    options = parser.parse_args([*arguments])
    store = STORES[options.preset](Storage(options.folder / "store", options.die_after))
    if isinstance(store, Splunk):
        store.delayed, store.lazy = options.index == "delayed", options.index == "lazy"
    elif isinstance(store, Chdb) and options.die_after is not None:
        store.moments = iter([None] * options.die_after + [random.uniform(0, 0.05)])
    try:
        asyncio.run(serve(Server(store, options.port)))
    except KeyboardInterrupt:  # the end: what is queued is stored
        store.close()


if __name__ == "__main__":
    main(sys.argv[1:])
