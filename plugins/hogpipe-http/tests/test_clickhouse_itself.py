"""The preset `clickhouse` and ClickHouse (chdb), with the table of docs/http.md."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from hogpipe import DeliveryError, RefusedError, Sink
from hogpipe.testing import RecordMaker, find_code_blocks

Serve = Callable[..., Awaitable[Any]]
OpenSink = Callable[..., Awaitable[Sink]]
PAGE = Path(__file__).parents[3] / "docs" / "http.md"
TABLE, QUERY = find_code_blocks(PAGE.read_text(), "sql")
SUMS = (
    "SELECT count() AS records, sum(network.io.transmit.bytes) AS bytes,"
    " sum(attribution.exact) AS exact, max(sequence) AS last FROM hogpipe.records"
)


async def test_a_table_gets_each_record_once(serve: Serve, opened: OpenSink) -> None:
    """One test: chdb has one session in a process."""
    server = await serve("chdb")
    keys = {"url": server.url, "preset": "clickhouse", "max_records": 20}
    sink = await opened(**keys)
    window = RecordMaker().window(100)
    # Without the table nothing is lost.
    with pytest.raises(DeliveryError, match=r"404 Not Found: Code: \d+.* does not exist"):
        await sink.write(window)
    for statement in TABLE.split(";\n"):
        server.store.query(statement)

    # An answer that breaks off after the insert, and a repeat of it all by another sink.
    server.cut = 1
    with pytest.raises(DeliveryError, match="in the middle of its answer"):
        await sink.write(window)
    await sink.write(window)
    again = await opened(**keys)
    await again.write(window)
    traffic = [record for record in window if record["type"] == "traffic"]
    assert server.store.query(SUMS) == [
        {
            "records": 100,
            "bytes": sum(one["network"]["io"]["transmit"]["bytes"] for one in traffic),
            "exact": sum(one["attribution"].get("exact", 0) for one in traffic),
            "last": window[-1]["sequence"],
        }
    ]
    names = {row["name"] for row in server.store.query(QUERY)}
    assert "nginx" in names

    # A row that does not fit into the table is found.
    other = RecordMaker().window(50)
    other[33]["network"] = "no object"  # type: ignore[typeddict-item]
    with pytest.raises(RefusedError, match="400 Bad Request: Code: ") as caught:
        await sink.write(other)
    assert caught.value.refused == [other[33]]
    assert server.store.query(SUMS)[0]["records"] == 149
