"""Rows by any dimension: filtered before they are grouped, sorted, and with their history."""

import pytest
from support.top import CURL, NGINX, path, play

from hogpipe.aggregation.dimensions import DIMENSIONS
from hogpipe.model import Quality
from hogpipe.top.described_flows import NO_OWNER, NO_PATH, REMAINDER, Owner
from hogpipe.top.row_groups import (
    GROUP_DIMENSIONS,
    Query,
    Row,
    RowGroups,
    Rows,
    SortKey,
    describe_quality,
    name_owner,
)
from hogpipe.top.traffic_table import TrafficTable

SECOND_NGINX = Owner(pid=11, created=1, program="nginx", user="www-data", unit="nginx.service")


@pytest.fixture
def table() -> TrafficTable:
    table = TrafficTable()
    play(
        table,
        [(NGINX, path(443), 100, 0), (CURL, path(80, "10.0.0.7"), 0, 900)],
        [(NGINX, path(443), 50, 0), (SECOND_NGINX, path(80), 30, 0), (NO_OWNER, NO_PATH, 1, 1)],
    )
    return table


def ask(table: TrafficTable, **changes: object) -> Rows:
    return RowGroups(table).query(Query(**changes))  # type: ignore[arg-type]


def rows(table: TrafficTable, **changes: object) -> list[Row]:
    return ask(table, **changes).slice(0, 100, history=10)


def test_a_row_has_rates_of_the_last_window_totals_and_a_history(table: TrafficTable) -> None:
    (first, second, *_) = rows(table)
    assert first.texts == ("10", "www-data", "nginx")
    assert (first.transmit_rate, first.transmit_bytes, first.packets) == (50, 150, 6)
    assert (first.history, first.flows, first.age) == ((100, 50), 1, 2)
    assert (second.texts[0], second.history, second.age) == ("11", (0, 30), 1)


@pytest.mark.parametrize(
    ("dimension", "expected"),
    [
        ("process", ["10", "11", "-", "20"]),
        ("program", ["nginx", "(unattributed)", "curl"]),
        ("user", ["www-data", "-", "root"]),
        ("unit", ["nginx.service", "-"]),
        ("remote", ["10.0.0.9", "-", "10.0.0.7"]),
        ("port", ["tcp/443", "tcp/80", "-"]),
        ("transport", ["tcp", "-"]),
        ("interface", ["eth0", "-"]),
        ("network_type", ["ipv4", "-"]),
        ("network", ["-"]),
        ("container", ["-"]),
    ],
)
def test_connections_are_grouped_by_any_dimension(
    table: TrafficTable, dimension: str, expected: list[str]
) -> None:
    found = rows(table, dimension=dimension)
    assert [row.texts[0] for row in found] == expected
    assert sum(row.transmit_bytes + row.receive_bytes for row in found) == 1082


def test_each_dimension_has_its_own_key_and_sums_up_the_same(table: TrafficTable) -> None:
    assert len({one.key for one in GROUP_DIMENSIONS}) == len(GROUP_DIMENSIONS)
    for one in GROUP_DIMENSIONS:
        assert ask(table, dimension=one.name).sum_up().transmit_bytes == 181
        assert all(len(row.texts) == len(one.columns) for row in rows(table, dimension=one.name))


def test_each_dimension_of_records_is_one_of_the_screen() -> None:
    assert DIMENSIONS.keys() <= {one.name for one in GROUP_DIMENSIONS}


def test_the_filter_selects_connections_before_they_are_grouped(table: TrafficTable) -> None:
    play(table, [(NGINX, path(443, "192.0.2.1"), 7, 0)])
    (only,) = rows(table, filter="192.0.2")
    assert (only.texts[0], only.transmit_bytes) == ("10", 7)
    assert [row.texts[0] for row in rows(table, filter="NGINX !192.0.2")] == ["10", "11"]
    assert len(ask(table, filter="no such thing")) == 0
    assert len(ask(table, filter="  ")) == 4


def test_the_filter_finds_connections_that_came_after_it_was_set(table: TrafficTable) -> None:
    groups = RowGroups(table)
    assert len(groups.query(Query(filter="wget"))) == 0
    play(table, [(Owner(pid=5, program="wget"), path(), 1, 1)])
    assert len(groups.query(Query(filter="wget"))) == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sort": SortKey.RATE}, ["10", "11", "-", "20"]),
        ({"sort": SortKey.TOTAL}, ["20", "10", "11", "-"]),
        ({"sort": SortKey.TOTAL, "reverse": True}, ["-", "11", "10", "20"]),
        ({"sort": SortKey.RECEIVE}, ["-", "20", "10", "11"]),
        ({"sort": SortKey.RECEIVE, "totals": True}, ["20", "-", "10", "11"]),
        ({"sort": SortKey.NAME}, ["-", "20", "10", "11"]),
        ({"sort": SortKey.AGE}, ["20", "10", "11", "-"]),
    ],
)
def test_rows_are_sorted_by_any_column(
    table: TrafficTable, changes: dict[str, object], expected: list[str]
) -> None:
    assert [row.texts[0] for row in rows(table, **changes)] == expected


def test_the_connections_of_a_row_are_rows_by_flow_within_it(table: TrafficTable) -> None:
    key = rows(table)[0].key
    (connection,) = rows(table, dimension="flow", within=("process", key))
    assert connection.texts == ("tcp", "10.0.0.1:50000", "10.0.0.9:443", "nginx")
    assert connection.transmit_bytes == 150


def test_rows_are_found_by_key_in_whatever_order(table: TrafficTable) -> None:
    found = ask(table)
    assert [found.find(found.key(place)) for place in range(len(found))] == list(range(len(found)))
    assert found.find("none") is None


def test_a_step_back_hides_what_had_no_traffic_yet(table: TrafficTable) -> None:
    table.step_back()
    assert [row.texts[0] for row in rows(table)] == ["20", "10"]


def test_groups_are_right_after_connections_were_merged() -> None:
    table = TrafficTable(max_connections=8)
    groups = RowGroups(table)
    for number in range(30):
        play(table, [((NGINX, CURL)[number % 2], path(local_port=number + 1), 1, 0)])
        found = groups.query(Query(filter="10.0.0.9"))
        assert found.sum_up().transmit_bytes == number + 1
    assert {row.texts[2]: row.transmit_bytes for row in found.slice(0, 9)} == {
        "nginx": 15,
        "curl": 15,
    }


def test_what_has_no_process_is_named() -> None:
    assert name_owner(NO_OWNER) == "(unattributed)"
    assert name_owner(REMAINDER) == "(all others)"
    assert name_owner(Owner(user="root")) == "(unknown)"
    assert name_owner(Owner(kernel="vxlan")) == "(kernel: vxlan)"


def test_the_quality_is_that_of_most_bytes() -> None:
    assert describe_quality([0, 0, 0, 0]) == ("", 0.0)
    assert describe_quality([1, 3, 0, 0]) == (Quality.LISTENER, 0.75)


def test_an_empty_table_has_no_rows() -> None:
    found = ask(TrafficTable())
    assert (len(found), found.slice(0, 10), found.sum_up().transmit_bytes) == (0, [], 0)
