"""The stats of a span are stored without zeros, and restored with them."""

import orjson
from support.sinks import stats

from hogpipe.history.span_stats import SpanSums, read_span, write_stats
from hogpipe.records.schema import StatsBody


def body(packets: int) -> StatsBody:
    one = stats(packets=packets)
    return {
        "capture": one["capture"],
        "attribution": one["attribution"],
        "aggregation": one["aggregation"],
        "self": one["self"],
    }


def test_what_is_stored_has_no_zeros() -> None:
    span = SpanSums(1, 1000)
    span.add_stats(body(packets=0))
    text = write_stats(span)
    assert text is not None
    assert orjson.loads(text)["capture"] == {"dropped": {"kernel": 1}}


def test_zeros_come_back_and_are_added_up() -> None:
    span = SpanSums(2, 2000)
    span.add_stats(body(packets=0))
    read = read_span((2, 2000, write_stats(span)))
    assert read == span
    read.add(SpanSums(1, 500, body(packets=7)))
    assert (read.windows, read.covered_ms) == (3, 2500)
    assert read.stats is not None
    assert read.stats["capture"]["packets"] == 7
    assert read.stats["capture"]["dropped"] == {"kernel": 2, "interface": 0}
    assert read.stats["attribution"]["pending"] == {"flows": 1, "bytes": 7}


def test_a_span_without_stats_has_none() -> None:
    assert write_stats(SpanSums(1, 1000)) is None
    assert read_span((1, 1000, None)) == SpanSums(1, 1000)
