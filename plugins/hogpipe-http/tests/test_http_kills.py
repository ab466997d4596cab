"""kill -9 of the receiver in the middle of a request: what is lost, and what arrives twice.

Each store is a process with its data on disk. It kills itself while it stores a record, is
started again on the same data, and killed again. The sink writes until all is delivered.
"""

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from hogpipe_http import hogpipe_sinks

from hogpipe import DeliveryError, Record
from hogpipe.testing import RecordMaker, find_code_blocks, free_ports, make_sink

(SINK_TYPE,) = hogpipe_sinks()
STORE = Path(__file__).parent / "http_store.py"
PAGE = Path(__file__).parents[3] / "docs" / "http.md"
BATCH = 50  # records in a request
KILLS = (7, 60, 0, 149, 33)
"""How many documents each process stores before it is killed."""
PATIENCE = 30.0


class Account(NamedTuple):
    """Records of a run of the sink."""

    written: int
    lost: int
    doubled: int
    kills: int


@asynccontextmanager
async def running(preset: str, port: int, folder: Path, *options: str) -> AsyncIterator[Any]:
    """Run a store; it ends with SIGINT, which is no kill."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, STORE, preset, str(port), folder, *options, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline()
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        await process.wait()


async def write_through_kills(
    preset: str, folder: Path, *options: str, kills: Sequence[int] = KILLS, **keys: Any
) -> tuple[list[Record], int]:
    """Write windows while the store is killed again and again; return them, and the kills."""
    (port,) = free_ports(1)
    sink = make_sink(
        SINK_TYPE,
        {
            "url": f"http://127.0.0.1:{port}/",
            "preset": "clickhouse" if preset == "chdb" else preset,
            "token": "open-sesame",
            "max_records": BATCH,
            **keys,
        },
    )
    maker = RecordMaker()
    written: list[Record] = []
    killed = 0
    try:
        for die_after in (*kills, None):
            limit = () if die_after is None else ("--die-after", str(die_after))
            async with running(preset, port, folder, *options, *limit) as process:
                for _window in range(3):
                    written += (window := maker.window(3 * BATCH))
                    if left := await write(sink.write, window):
                        break
                if die_after is not None:
                    async with asyncio.timeout(PATIENCE):
                        killed += await process.wait() == -signal.SIGKILL
            if left:
                async with running(preset, port, folder, *options):
                    assert not await write(sink.write, left)
    finally:
        await sink.close()
    return written, killed


async def write(
    attempt: Callable[[Sequence[Record]], Awaitable[None]], records: Sequence[Record]
) -> Sequence[Record]:
    """Write once; return what is undelivered."""
    try:
        await attempt(records)
    except DeliveryError as error:
        return error.undelivered or ()
    return ()


def settle(written: Sequence[Record], arrived: Sequence[dict[str, Any]], kills: int) -> Account:
    sent = Counter((record["run"], record["sequence"]) for record in written)
    found = Counter((document["run"], document["sequence"]) for document in arrived)
    assert found.keys() <= sent.keys()
    account = Account(sent.total(), (sent - found).total(), (found - sent).total(), kills)
    print(account)
    return account


def read(http_store: ModuleType, preset: str, folder: Path) -> list[dict[str, Any]]:
    storage = http_store.Storage(folder / "store")
    store = http_store.STORES[preset](storage)
    try:
        return list(store.documents())
    finally:
        store.close()
        storage.close()


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["elasticsearch", "loki", "clickhouse"])
async def test_a_store_that_recognises_repeats_loses_and_doubles_nothing(
    http_store: ModuleType, tmp_path: Path, preset: str
) -> None:
    written, kills = await write_through_kills(preset, tmp_path)
    account = settle(written, read(http_store, preset, tmp_path), kills)
    assert account[1:] == (0, 0, len(KILLS))


@pytest.mark.slow
async def test_json_lines_double_at_most_the_request_in_flight(
    http_store: ModuleType, tmp_path: Path
) -> None:
    written, kills = await write_through_kills("ndjson", tmp_path)
    account = settle(written, read(http_store, "ndjson", tmp_path), kills)
    assert (account.lost, account.kills) == (0, len(KILLS))
    assert 0 < account.doubled < kills * BATCH


@pytest.mark.slow
async def test_splunk_without_acknowledgement_loses_what_it_had_not_indexed(
    http_store: ModuleType, tmp_path: Path
) -> None:
    written, kills = await write_through_kills("splunk", tmp_path, "--index", "lazy")
    account = settle(written, read(http_store, "splunk", tmp_path), kills)
    assert account.kills == len(KILLS)
    assert 0 < account.lost <= kills * BATCH


@pytest.mark.slow
async def test_splunk_with_acknowledgement_loses_nothing_and_doubles_what_it_had_not_acknowledged(
    http_store: ModuleType, tmp_path: Path
) -> None:
    options = {"acknowledge": True, "acknowledge_interval": 0.01}
    written, kills = await write_through_kills(
        "splunk", tmp_path, "--index", "delayed", splunk=options
    )
    account = settle(written, read(http_store, "splunk", tmp_path), kills)
    assert (account.lost, account.kills) == (0, len(KILLS))
    assert 0 < account.doubled <= kills * 3 * BATCH


@pytest.mark.slow
async def test_clickhouse_itself_loses_and_doubles_nothing(
    http_store: ModuleType, tmp_path: Path
) -> None:
    storage = http_store.Storage(tmp_path / "store")
    store = http_store.Chdb(storage)
    for statement in find_code_blocks(PAGE.read_text(), "sql")[0].split(";\n"):
        store.query(statement)
    store.close()
    storage.close()
    written, kills = await write_through_kills("chdb", tmp_path, kills=(1, 3, 6, 2))
    account = settle(written, read(http_store, "chdb", tmp_path), kills)
    assert account[1:] == (0, 0, 4)
