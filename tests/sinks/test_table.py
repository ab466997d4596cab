"""A window as a table that fits the terminal and holds no control character."""

from hypothesis import given
from hypothesis import strategies as st
from support.sinks import stats, traffic

from hogpipe.records.stamp import make_window
from hogpipe.sinks.table import fit, format_rate, render_table


def test_groups_are_sorted_by_bytes_and_followed_by_totals() -> None:
    named = traffic(2, pid=42, transmit=1500, receive=2_500_000)
    named["process"]["owner"] = "www-data"
    table = render_table([traffic(1, pid=7, transmit=10, receive=20), named, stats(3)], 80)
    assert table.splitlines() == [
        "PID  USER      PROGRAM        SENT  RECEIVED",
        " 42  www-data  program42  1.5 kB/s  2.5 MB/s",
        "  7            program7     10 B/s    20 B/s",
        "sent 1.5 kB/s, received 2.5 MB/s, 1 packets dropped before capture",
    ]


def test_rates_follow_the_length_of_the_window() -> None:
    record = traffic(1, transmit=1000, receive=0)
    record["window"] = make_window(0, 10_000_000_000)
    assert "sent 100 B/s" in render_table([record], 80)


def test_a_window_without_length_is_shown() -> None:
    record = traffic(1)
    record["window"] = make_window(0, 0)
    assert "kB/s" in render_table([record], 80)


def test_unattributed_traffic_and_the_remainder_are_named() -> None:
    unattributed, rest = traffic(1, pid=None), traffic(2, pid=None)
    rest["remainder"] = True
    table = render_table([unattributed, rest], 80)
    assert "(unattributed)" in table
    assert "(all others)" in table
    assert "PID" not in table


def test_a_group_without_a_process_shows_its_user() -> None:
    record = traffic(1, pid=None)
    record["process"] = {"user": {"id": 33}}
    assert render_table([record], 80).splitlines()[1].split()[:2] == ["33", "(unattributed)"]


def test_each_dimension_has_a_column() -> None:
    record = traffic(1)
    record["network"] |= {
        "transport": "tcp",
        "type": "ipv6",
        "interface": {"name": "eth0"},
        "local": {"address": "10.0.0.1", "port": 22},
        "peer": {"address": "fd00::1", "port": 5000},
    }
    record["container"] = {"id": "0123456789abcdef"}
    header, line, _ = render_table([record], 200).splitlines()
    assert header.split()[2:-2] == [
        "CONTAINER", "INTERFACE", "TYPE", "TRANSPORT", "LOCAL", "REMOTE",
    ]  # fmt: skip
    assert line.split()[2:8] == [
        "0123456789ab", "eth0", "ipv6", "tcp", "10.0.0.1:22", "[fd00::1]:5000",
    ]  # fmt: skip


def test_the_top_groups_are_shown_and_the_others_counted() -> None:
    table = render_table([traffic(n, pid=n, transmit=n) for n in range(1, 31)], 80, rows=3)
    assert len(table.splitlines()) == 5
    assert "27 more not shown" in table


def test_an_idle_window_is_one_line() -> None:
    assert render_table([], 80) == "sent 0 B/s, received 0 B/s\n"


def test_an_escape_sequence_in_a_name_is_escaped() -> None:
    record = traffic(1)
    record["process"]["name"] = "\x1b]0;owned\x07\u202e\n\x9b2J"
    table = render_table([record], 200)
    assert r"\x1b]0;owned\x07\u202e\n\x9b2J" in table
    assert all(line.isprintable() for line in table.split("\n"))


def test_a_long_name_is_truncated_before_numbers_are() -> None:
    record = traffic(1, transmit=5, receive=6)
    record["process"]["name"] = "x" * 500
    line = render_table([record], 40).splitlines()[1]
    assert len(line) <= 40
    assert line.endswith("…  5 B/s     6 B/s")


def test_wide_characters_take_two_columns() -> None:
    assert fit("日本語", 8) == "日本語  "
    assert fit("日本語", 4) == "日… "


@given(
    st.lists(st.text(max_size=30), min_size=1, max_size=4), st.integers(1, 120), st.integers(0, 60)
)
def test_no_line_is_wider_than_the_terminal_nor_holds_a_control(
    names: list[str], width: int, exponent: int
) -> None:
    records = [traffic(n, pid=n, transmit=2**exponent) for n, _ in enumerate(names)]
    for record, name in zip(records, names, strict=True):
        record["process"]["name"] = name
        record["process"]["owner"] = name[::-1]
    *lines, end = render_table(records, width).split("\n")
    assert end == ""
    for line in lines:
        assert line.isprintable()
        assert fit(line, width).rstrip() == line


def test_rates_have_decimal_units() -> None:
    rates = [0, 999, 1500, 99_960, 120e6, 3.2e9, 7e15]
    assert [format_rate(rate) for rate in rates] == [
        "0 B/s", "999 B/s", "1.5 kB/s", "100 kB/s", "120 MB/s", "3.2 GB/s", "7000.0 TB/s",
    ]  # fmt: skip
