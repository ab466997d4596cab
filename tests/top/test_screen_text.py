"""What the screen says: it fits any width, in ASCII where needed, and hostile names stay text."""

import pytest
from support.top import CURL, NGINX, path, play

from hogpipe.top.described_flows import Owner
from hogpipe.top.row_groups import GROUP_DIMENSIONS, Query, RowGroups, SortKey
from hogpipe.top.row_table import lay_out
from hogpipe.top.screen_text import (
    Line,
    Look,
    PlayState,
    Role,
    make_chart,
    make_footer,
    make_header,
    measure,
)
from hogpipe.top.screen_units import (
    draw_chart,
    draw_sparkline,
    format_age,
    format_number,
    format_size,
    format_speed,
)
from hogpipe.top.traffic_table import Moment, TrafficTable

HOSTILE = "\x1b[2J[bold]x[/][@click=app.quit]\n\u202e\u4e2d\u6587"
EVIL = Owner(pid=66, program=HOSTILE, user=HOSTILE, unit=HOSTILE, executable=HOSTILE)
LIVE = PlayState("eth0", True, False, True, False, 1.0)


def text_of(lines: list[Line]) -> list[str]:
    return ["".join(text for text, _role in line) for line in lines]


def is_printable(lines: list[Line]) -> bool:
    return all(text.isprintable() for text in text_of(lines))


@pytest.fixture
def table() -> TrafficTable:
    table = TrafficTable()
    moved = [(NGINX, path(443), 100, 0), (CURL, path(80, "2001:db8::7"), 0, 90_000_000)]
    play(table, moved, [*moved, (EVIL, path(22), 1, 1)])
    return table


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (999, "999"), (999.6, "1.0k"), (12_345, "12.3k"), (99_960, "100k"), (4.5e6, "4.5M"),
     (1e21, "1000E")],
)  # fmt: skip
def test_numbers_are_short(value: float, expected: str) -> None:
    assert format_number(value) == expected


def test_units() -> None:
    assert format_size(1500, bits=False) == "1.5 kB"
    assert format_speed(1500, bits=True) == "12.0 kb/s"
    assert format_size(3, bits=False) == "3 B"
    assert [format_age(age) for age in (3.9, 245, 7800, 273_600)] == [
        "3s",
        "4m05s",
        "2h10m",
        "3d04h",
    ]


def test_bars_scale_to_the_highest_and_what_is_there_is_seen() -> None:
    assert draw_sparkline([0, 1, 1000, 500], 6, is_ascii=False) == "   ▁█▄"
    assert draw_sparkline([0, 1, 1000, 500], 4, is_ascii=True) == " .@="
    assert draw_sparkline([], 3, is_ascii=False) == "   "
    assert draw_chart([0, 4, 8], 4, 2, is_ascii=False) == ["   █", "  ██"]
    assert draw_chart([0, 4, 8], 4, 2, is_ascii=True) == ["   #", "  ##"]
    assert draw_chart([], 3, 1, is_ascii=False) == ["   "]


@pytest.mark.parametrize("width", [40, 59, 60, 80, 81, 120, 200])
@pytest.mark.parametrize("is_ascii", [False, True])
def test_every_line_fits_and_is_printable(table: TrafficTable, width: int, is_ascii: bool) -> None:
    look = Look(is_ascii=is_ascii)
    for dimension in GROUP_DIMENSIONS:
        for totals in (False, True):
            query = Query(dimension=dimension.name, totals=totals, filter="" if totals else "!zz")
            rows = RowGroups(table).query(query)
            layout = lay_out(rows.slice(0, 9, 20), query, look, width, selected=1)
            header = make_header(table, rows.sum_up(), query, LIVE, look=look, width=width)
            chart = make_chart(table.moments, width, 4, look)
            lines = [layout.heading, *layout.lines, *header, *chart]
            assert is_printable(lines)
            assert all(measure(line) <= width + 1 for line in lines)
            assert not is_ascii or all(text.isascii() for text in text_of(lines))


def test_eighty_columns_show_process_rates_total_quality_and_a_sparkline(
    table: TrafficTable,
) -> None:
    layout = lay_out(RowGroups(table).query(Query()).slice(0, 9, 20), Query(), Look(), 80)
    assert text_of([layout.heading])[0].split() == [
        "PID", "USER", "PROGRAM", "TRANSMIT", "RECEIVE", "TOTAL", "QUALITY", "FLOWS",
    ]  # fmt: skip
    first = text_of(layout.lines)[0]
    assert first.split()[:9] == ["20", "root", "curl", "0", "B/s", "90.0", "MB/s", "180", "MB"]
    assert first.rstrip().endswith("██")


def test_markup_in_a_name_is_text(table: TrafficTable) -> None:
    query = Query(dimension="program")
    layout = lay_out(RowGroups(table).query(query).slice(0, 9), query, Look(), 120)
    assert any("\\x1b[2J[bold]x[/][@click" in text for text in text_of(layout.lines))


def test_a_click_on_a_heading_sorts_by_its_column(table: TrafficTable) -> None:
    layout = lay_out(RowGroups(table).query(Query()).slice(0, 9), Query(), Look(), 80)
    at = text_of([layout.heading])[0].index
    assert layout.find_sort(at("RECEIVE")) is SortKey.RECEIVE
    assert layout.find_sort(at("FLOWS")) is SortKey.FLOWS
    assert layout.find_sort(at("PID")) is None
    assert layout.find_sort(500) is None


def test_the_header_says_what_is_not_known(table: TrafficTable) -> None:
    rows = RowGroups(table).query(Query())
    table.figures.dropped = 12
    table.figures.not_local = 139
    table.figures.foreign_lines = 3
    lines = make_header(table, rows.sum_up(), Query(), LIVE, look=Look(), width=120)
    first, second, third = text_of(lines)
    assert first.startswith("hogpipe top eth0  by process")
    assert first.endswith(" LIVE ")
    assert "receive 90.0 MB/s" in second
    assert "owners 100.0%  dropped 12" in third
    assert "not local 139" in third
    assert "3 lines are no records" in third


def test_an_empty_table_waits() -> None:
    table = TrafficTable()
    total = RowGroups(table).query(Query()).sum_up()
    lines = make_header(table, total, Query(), LIVE, look=Look(), width=80)
    assert "waiting" in text_of(lines)[0]
    assert "owners -" in text_of(lines)[2]


@pytest.mark.parametrize(
    ("state", "ahead", "expected"),
    [
        (PlayState("x", True, True, False, False, 1.0), 3, "PAUSED -3"),
        (PlayState("x", False, True, False, False, 1.0), 2, "PAUSED"),
        (PlayState("x", False, False, False, False, 16.0), 1, "x16"),
        (PlayState("x", False, False, False, False, 0.25), 1, "x1/4"),
        (PlayState("x", False, False, True, False, 1.0), 1, "max"),
        (PlayState("x", False, False, False, True, 1.0), 0, "END"),
        (PlayState("x", True, False, True, True, 1.0), 0, "ENDED"),
    ],
)
def test_the_state_of_the_player_is_a_word(state: PlayState, ahead: int, expected: str) -> None:
    assert state.describe(ahead)[0] == expected


def test_the_chart_has_its_scale() -> None:
    lines = make_chart([Moment(1, 10, 0), Moment(2, 0, 5)], 40, 2, Look())
    assert [text.split()[:2] for text in text_of(lines)] == [["10", "B/s"], ["last", "1s"]]


def test_the_footer_shows_a_message_instead_of_the_keys() -> None:
    assert make_footer([("q", "quit")], "", Look(), 80) == [("q", Role.KEY), (" quit", Role.DIM)]
    ((text, role),) = make_footer([("q", "quit")], "a\x1b[m", Look(), 20)
    assert (text, role) == (" ! a\\x1b[m          ", Role.WARNING)
