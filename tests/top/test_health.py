"""The health of TCP connections: summed as the traffic is, blank where it is unknown."""

import json
from dataclasses import replace
from functools import reduce

from hypothesis import given, settings
from hypothesis import strategies as st
from support.flow_sums import SumsMaker
from support.health import LEAST, SUMS, quick_healths
from support.histories import START_MS, Run
from support.sinks import stats
from support.top import CURL, NGINX, path, window
from support.traffic import attributions, deltas, flows

from hogpipe.model import BUILT_IN_NETWORKS, Span, TcpHealth, join_health
from hogpipe.top.described_flows import NO_OWNER, NO_PATH
from hogpipe.top.health_line import make_health_line
from hogpipe.top.live_flows import DrainedFlows, LiveFlows
from hogpipe.top.live_windows import LiveWindows
from hogpipe.top.record_windows import WindowParser, build_window
from hogpipe.top.row_groups import Query, Row, RowGroups, SortKey
from hogpipe.top.row_table import lay_out
from hogpipe.top.screen_text import Look
from hogpipe.top.traffic_table import TrafficTable

LOSSY = TcpHealth(
    retransmits=1, rtt_samples=2, rtt_sum_us=2_500, rtt_min_us=800, opened=3, refused=2,
    transmit_payload_bytes=5_000,
)  # fmt: skip
FAST = TcpHealth(rtt_samples=1, rtt_sum_us=90, rtt_min_us=80, accepted=9)


def make_table() -> TrafficTable:
    """Return two windows: in the first only nginx has health, in the second also curl."""
    table = TrafficTable()
    moved = [(NGINX, path(443), 100, 0), (CURL, path(80), 10, 0), (NO_OWNER, NO_PATH, 1, 0)]
    for number, health in enumerate([[LOSSY, None, None], [LOSSY, FAST, None]]):
        table.append(window(table, number, moved, health=health))
        table.advance()
    return table


def rows(table: TrafficTable, query: Query) -> dict[str, Row]:
    return {row.texts[-1]: row for row in RowGroups(table).query(query).slice(0, 9)}


def total(table: TrafficTable) -> TcpHealth | None:
    """Return the health of all connections."""
    query = Query(dimension="transport", totals=True)
    found = RowGroups(table).query(query).slice(0, 99)
    return reduce(join_health, (row.health for row in found), None)


def test_a_row_has_the_health_of_the_last_window_or_in_total() -> None:
    now, all_ = rows(make_table(), Query()), rows(make_table(), Query(totals=True))
    assert now["nginx"].health == LOSSY
    assert all_["nginx"].health == join_health(LOSSY, LOSSY)
    assert now["curl"].health == all_["curl"].health == FAST
    assert now["(unattributed)"].health is all_["(unattributed)"].health is None


def test_stepping_back_takes_back_all_but_the_least_time() -> None:
    table = make_table()
    table.step_back()
    found = rows(table, Query(totals=True))
    assert found["nginx"].health == LOSSY
    assert found["curl"].health is None
    table.advance()
    assert rows(table, Query(totals=True))["nginx"].health == join_health(LOSSY, LOSSY)


def test_health_can_be_filtered_and_sorted_by_the_unknown_last() -> None:
    table = make_table()
    for key, first in (
        (SortKey.RETRANSMITS, "nginx"),
        (SortKey.RTT, "nginx"),
        (SortKey.CONNECTIONS, "curl"),
        (SortKey.FAILED, "nginx"),
    ):
        names = list(rows(table, Query(sort=key)))
        assert (names[0], names[-1]) == (first, "(unattributed)")
    filtered = RowGroups(table).query(Query(dimension="transport", filter="curl")).slice(0, 9)
    assert [row.health for row in filtered] == [FAST]


def draw(query: Query, width: int, *, health: bool = True) -> list[str]:
    found = RowGroups(make_table()).query(query).slice(0, 9)
    layout = lay_out(found, query, Look(), width, health=health)
    return ["".join(text for text, _ in line).rstrip() for line in (layout.heading, *layout.lines)]


def test_wide_screens_have_columns_of_health_and_narrow_ones_that_which_is_sorted_by() -> None:
    heading, nginx, curl, unattributed = draw(Query(), 160)
    for name in ("RETRANS", "RTT", "CONN/S", "FAIL/S", "MIN RTT"):
        assert name in heading
    assert "100 % 1.25 ms      3      2  800 us" in nginx
    assert "0 %   90 us      9      0   80 us" in curl
    assert " %" not in unattributed
    assert "RETRANS" not in draw(Query(), 80)[0]
    assert "RETRANSv" in draw(Query(sort=SortKey.RETRANSMITS), 80)[0]
    assert "RTT" not in draw(Query(), 160, health=False)[0]


def test_the_line_of_a_row_has_what_is_known_and_fits() -> None:
    found = rows(make_table(), Query())
    for width in (160, 80, 40):
        line = "".join(text for text, _ in make_health_line(found["nginx"], Query(), Look(), width))
        assert len(line) <= width
        assert line.startswith("nginx:  rtt 1.25 ms")
        if width == 80:
            assert line.endswith("retransmits 1/s (100 %)  failed refused 2/s  conns 3/s")
    line = "".join(t for t, _ in make_health_line(found["(unattributed)"], Query(), Look(), 80))
    assert line == "(unattributed): no TCP in this window"


def test_records_have_their_health_and_one_that_is_too_large_is_no_record() -> None:
    records = Run().window(START_MS, 1000, [("nginx", 1, 10, LOSSY), ("bird", 2, 5, None)])
    broken = json.loads(json.dumps(records[0]))
    broken["network"]["tcp"]["retransmits"] = 1 << 63
    parser, table = WindowParser(), TrafficTable()
    lines = [json.dumps(record).encode() for record in [records[0], broken, *records[1:]]]
    for parsed in [*parser.parse(lines), *parser.finish()]:
        table.append(build_window(table, parsed))
        table.advance()
    assert parser.foreign_lines == 1
    found = rows(table, Query())
    assert (found["nginx"].health, found["bird"].health) == (LOSSY, None)


parts = st.lists(
    st.tuples(st.tuples(flows, deltas, attributions), st.none() | quick_healths), max_size=8
)


@settings(max_examples=30)
@given(st.lists(parts, max_size=3), st.sampled_from([3, 100]), st.sampled_from([3, 1000]))
def test_no_health_is_lost_between_flows_and_rows(
    windows: list[list[tuple[tuple, TcpHealth | None]]], most_flows: int, most_kept: int
) -> None:
    drained: list[DrainedFlows] = []
    live = LiveFlows([], most_flows, lambda process: process, drained.append, BUILT_IN_NETWORKS)
    table = TrafficTable(max_connections=most_kept)
    made, maker = LiveWindows(table), SumsMaker()
    for number, moved in enumerate(windows):
        live.ingest(maker.make([one for one, _ in moved], [health for _, health in moved]))
        assert list(live.drain()) == []
        span = Span(number * 10**9, (number + 1) * 10**9)
        table.append(made.build(drained.pop(), span, stats()))
        table.advance()
    expected = reduce(join_health, (health for moved in windows for _, health in moved), None)
    found = total(table)
    if expected is None:
        assert found is None
        return
    assert found is not None
    for name in (*SUMS, LEAST):
        assert getattr(found, name) == getattr(expected, name)


def test_a_row_with_health_alone_is_shown() -> None:
    table = TrafficTable()
    one = window(table, 0, [(NGINX, path(443), 0, 0)], health=[LOSSY])
    table.append(replace(one, traffic=one.traffic * 0))
    table.advance()
    assert rows(table, Query())["nginx"].health == LOSSY
    assert rows(table, Query(filter="curl")) == {}
