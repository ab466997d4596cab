"""A window as a table that fits the terminal and holds no control character."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sinks import stats, traffic

from hogpipe.records.schema import EndpointInfo, Record, StatsRecord, TrafficRecord
from hogpipe.records.stamp import make_window
from hogpipe.sinks.table import (
    format_microseconds,
    format_rate,
    format_share,
    format_size,
    render_table,
)
from hogpipe.sinks.table_layout import fit, fit_end, fit_endpoint

V6 = "2001:db8:1234:5678:9abc:def0:1234:5678"


def without_drops(record: StatsRecord) -> StatsRecord:
    record["capture"]["dropped"] = {"kernel": 0, "interface": 0}
    return record


def make_group(**keys: object) -> TrafficRecord:
    """Return a record without a process, but with these keys."""
    record = traffic(pid=None)
    record["attribution"] = {"exact": 300}
    record.update(keys)  # type: ignore[typeddict-item]
    return record


def make_flow(local: EndpointInfo, peer: EndpointInfo, pid: int | None = None) -> TrafficRecord:
    record = traffic(pid=pid)
    record["attribution"] = {"exact": 300}
    record["network"] |= {"transport": "tcp", "type": "ipv6", "local": local, "peer": peer}
    return record


def test_the_first_line_has_the_time_and_the_last_the_total_of_all_groups() -> None:
    named = traffic(2, pid=42, transmit=1500, receive=2_500_000)
    named["process"]["owner"] = "www-data"
    table = render_table([traffic(1, pid=7, transmit=10, receive=20), named, stats(3)], 80)
    assert table == [
        "2026-11-22 07:00:00 UTC, 1 s, 1 packet dropped before capture",
        "PID  USER      PROGRAM    TRANSMIT   RECEIVE",
        " 42  www-data  program42  1.5 kB/s  2.5 MB/s",
        "  7            program7     10 B/s    20 B/s",
        "total of 2                1.5 kB/s  2.5 MB/s",
    ]


def test_rates_follow_the_length_of_the_window() -> None:
    record = traffic(1, transmit=1000, receive=0)
    record["window"] = make_window(0, 10_000_000_000)
    first, *_, last = render_table([record], 80)
    assert first == "1970-01-01 00:00:00 UTC, 10 s"
    assert last.split() == ["total", "100", "B/s", "0", "B/s"]


def test_a_window_may_begin_between_two_seconds_and_have_no_length() -> None:
    record = traffic(1)
    record["window"] = make_window(1_200_000_000, 1_200_000_000)
    first, *_, last = render_table([record], 80)
    assert first == "1970-01-01 00:00:01.200 UTC, 0.001 s"
    assert "kB/s" in last


def test_a_replay_shows_bytes_of_the_trace() -> None:
    replayed = stats(2)
    del replayed["self"]
    record = traffic(1, transmit=1000, receive=7)
    for one in (record, replayed):
        one["window"] = make_window(0, 3_600_000_000_000)
    *_, row, last = render_table([record, replayed], 80)
    assert row.split()[-4:] == last.split()[-4:] == ["1.0", "kB", "7", "B"]
    live: list[Record] = [record, {**replayed, "self": stats()["self"]}]
    assert render_table(live, 80)[-1].split() == ["total", "0", "B/s", "0", "B/s"]


def test_unattributed_traffic_and_the_remainder_are_named() -> None:
    unattributed, rest = traffic(1, pid=None), traffic(2, pid=None)
    rest["remainder"] = True
    table = "\n".join(render_table([unattributed, rest], 80))
    assert "(unattributed)" in table
    assert "(all others)" in table
    assert "PID" not in table


@pytest.mark.parametrize(
    ("heading", "keys"),
    [
        ("USER", {"process": {"owner": "root"}}),
        ("PROGRAM", {"process": {"name": "nginx"}}),
        ("UNIT", {"systemd": {"unit": "nginx.service"}}),
        ("CONTAINER", {"container": {"id": "1f2e3d"}}),
        ("POD", {"k8s": {"pod": {"uid": "7a1b90f2"}}}),
        ("CGROUP", {"process": {"linux": {"cgroup": "/a"}}, "systemd": {"unit": "a.service"}}),
    ],
)
def test_what_has_no_owner_is_named_in_the_column_of_owners(
    heading: str, keys: dict[str, object]
) -> None:
    rest = traffic(pid=None)
    rest["remainder"] = True
    _, head, *rows, _ = render_table([make_group(**keys), traffic(pid=None), rest], 80)
    assert head.split() == [heading, "TRANSMIT", "RECEIVE"]
    assert rows[1].startswith("(unattributed)")
    assert rows[2].startswith("(all others)")


def test_the_kernels_own_traffic_is_named_in_the_column_of_programs() -> None:
    _, _head, first, second, _ = render_table(
        [make_group(kernel={"name": "vxlan"}), make_group(process={"name": "nginx"})], 80
    )
    assert first.startswith("(kernel: vxlan)")
    assert second.startswith("nginx")


def test_flows_without_an_owner_need_no_column_for_owners() -> None:
    record = make_flow({"address": "10.0.0.1", "port": 22}, {"address": "10.0.0.2", "port": 5000})
    record["attribution"] = {"none": 300}
    assert render_table([record], 80)[1].split()[:3] == ["PROTO", "LOCAL", "REMOTE"]


def test_each_dimension_has_a_column() -> None:
    record = traffic(1)
    record["process"]["owner"] = "root"
    record["systemd"] = {"unit": "a.service"}
    record["container"] = {"id": "0123456789abcdef"}
    record["k8s"] = {"pod": {"uid": "7a1b90f2"}}
    record["server"] = {"port": 22}
    record["network"] |= {
        "transport": "tcp",
        "type": "ipv6",
        "interface": {"name": "eth0"},
        "local": {"address": "10.0.0.1", "port": 22},
        "peer": {
            "address": "fd00::1",
            "port": 5000,
            "network": "private",
            "domain": "db.example.com",
            "domain_quality": "host",
        },
    }
    _, header, line, _ = render_table([record], 200)
    assert header.split()[:-2] == [
        "PID", "USER", "PROGRAM", "UNIT", "CONTAINER", "POD", "INTERFACE", "PROTO", "PORT",
        "LOCAL", "NETWORK", "DOMAIN", "REMOTE",
    ]  # fmt: skip
    assert line.split()[:13] == [
        "1", "root", "program1", "a.service", "0123456789ab", "7a1b90f2", "eth0", "tcp", "22",
        "10.0.0.1:22", "private", "db.example.com", "[fd00::1]:5000",
    ]  # fmt: skip


def test_the_type_is_shown_where_no_address_shows_it() -> None:
    record = make_group()
    record["network"]["type"] = "ipv6"
    assert render_table([record], 80)[1].split() == ["TYPE", "TRANSMIT", "RECEIVE"]


@pytest.mark.parametrize("pid", [None, 4_000_000])
@pytest.mark.parametrize("address", [V6, "192.168.100.200"])
def test_flows_fit_80_columns_with_their_ports(pid: int | None, address: str) -> None:
    ends: tuple[EndpointInfo, EndpointInfo] = (
        {"address": address, "port": 54321},
        {"address": address, "port": 65535},
    )
    record = make_flow(*ends, pid=pid)
    if pid is not None:
        record["process"] |= {"name": "a-program-with-a-long-name", "owner": "systemd-resolve"}
        record["systemd"] = {"unit": "a-unit-with-a-long-name.service"}
    _, header, line, _ = render_table([record], 80)
    assert len(line) <= 80
    assert ":54321  " in line
    assert ":65535  " in line
    assert line.split()[-4:] == ["100", "B/s", "200", "B/s"]
    assert header.split()[0] == ("PROTO" if pid is None else "PID")


def test_columns_that_a_process_implies_are_dropped_before_others_are_cut_short() -> None:
    record = traffic(1)
    record["process"] |= {"name": "a-program-with-a-long-name", "owner": "www-data"}
    record["systemd"] = {"unit": "a-unit-with-a-long-name.service"}
    record["container"] = {"id": "0123456789abcdef"}
    headings = [render_table([record], width)[1].split()[:-2] for width in (160, 75, 60, 48)]
    assert headings == [
        ["PID", "USER", "PROGRAM", "UNIT", "CONTAINER"],
        ["PID", "USER", "PROGRAM", "UNIT", "CONTAINER"],
        ["PID", "USER", "PROGRAM", "CONTAINER"],
        ["PID", "USER", "PROGRAM"],
    ]


def test_a_path_keeps_its_end() -> None:
    record = make_group(process={"linux": {"cgroup": "/system.slice/" + "x" * 80 + "/last"}})
    line = render_table([record], 60)[2]
    assert line.startswith("…")
    assert "/last  " in line


def test_the_top_groups_are_shown_and_all_are_in_the_total() -> None:
    table = render_table([traffic(n, pid=n, transmit=n) for n in range(1, 31)], 80, rows=3)
    assert len(table) == 6
    assert table[-1].startswith("total of 30, 27 not shown")
    assert table[-1].split()[-4:] == ["465", "B/s", "6.0", "kB/s"]


def test_the_label_of_the_total_may_be_wider_than_the_columns() -> None:
    record = make_group(server={"port": 22})
    table = render_table([record] * 12, 80, rows=1)
    assert [len(line) for line in table[1:]] == [45, 45, 45]
    assert table[-1].startswith("total of 12, 11 not shown  ")


def test_an_idle_window_has_a_total_of_nothing() -> None:
    assert render_table([without_drops(stats())], 80) == [
        "2026-11-22 07:00:00 UTC, 1 s",
        "       TRANSMIT  RECEIVE",
        "total     0 B/s    0 B/s",
    ]


def test_an_escape_sequence_in_a_name_is_escaped() -> None:
    record = traffic(1)
    record["process"]["name"] = "\x1b]0;owned\x07\u202e\n\x9b2J"
    table = render_table([record], 200)
    assert any(r"\x1b]0;owned\x07\u202e\n\x9b2J" in line for line in table)
    assert all(line.isprintable() for line in table)


def test_a_long_name_is_truncated_before_numbers_are() -> None:
    record = traffic(1, transmit=5, receive=6)
    record["process"]["name"] = "x" * 500
    line = render_table([record], 40)[2]
    assert len(line) <= 40
    assert re.search(r"…     5 B/s    6 B/s$", line)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "euc-jp", "utf-8"])
def test_a_table_has_only_what_the_terminal_can_show(encoding: str) -> None:
    record = traffic(1)
    record["process"] |= {
        "name": "caf\xe9-\u65e5\u672c\u8a9e" + "x" * 100,
        "owner": "\u2026\U0001f600",
    }
    table = render_table([record], 60, encoding=encoding)
    for line in table:
        assert line.encode(encoding).decode(encoding) == line
        assert fit(line, 60).rstrip() == line
    assert ("…" in table[2]) == (encoding in {"utf-8", "euc-jp"})


def test_wide_characters_take_two_columns() -> None:
    assert fit("日本語", 8) == "日本語  "
    assert fit("日本語", 4) == "日… "
    assert fit_end("日本語", 4) == "…語 "


@pytest.mark.parametrize(
    ("text", "width", "fitted"),
    [
        ("10.0.0.1:22", 12, "10.0.0.1:22 "),
        ("192.168.100.200:65535", 15, "192.….200:65535"),
        (f"[{V6}]:443", 15, "[2001…5678]:443"),
        (f"[{V6}]:65535", 15, "[200…678]:65535"),
        (V6, 11, "2001:…:5678"),
        (f"[{V6}]:65535", 6, "…65535"),
    ],
)
def test_an_endpoint_keeps_its_port(text: str, width: int, fitted: str) -> None:
    assert fit_endpoint(text, width) == fitted


@given(
    st.lists(st.text(max_size=30), min_size=1, max_size=4),
    st.integers(1, 120),
    st.integers(0, 60),
    st.sampled_from(["utf-8", "ascii", "latin-1"]),
)
def test_no_line_is_wider_than_the_terminal_nor_holds_a_control(
    names: list[str], width: int, exponent: int, encoding: str
) -> None:
    records = [traffic(n, pid=n, transmit=2**exponent) for n, _ in enumerate(names)]
    for record, name in zip(records, names, strict=True):
        record["process"]["name"] = name
        record["process"]["owner"] = name[::-1]
        record["process"]["linux"] = {"cgroup": name}
        record["systemd"] = {"unit": name * 2}
        record["network"]["local"] = {"address": V6[: len(name)] or "::", "port": 1}
        record["network"]["peer"] = {"address": V6[: 2 * len(name)] or "::"}
    for line in render_table(records, width, encoding=encoding):
        assert line.isprintable()
        assert fit(line, width).rstrip() == line
        line.encode(encoding)


def test_rates_have_decimal_units() -> None:
    rates = [0, 999, 1500, 99_960, 120e6, 3.2e9, 7e15]
    assert [format_rate(rate) for rate in rates] == [
        "0 B/s", "999 B/s", "1.5 kB/s", "100 kB/s", "120 MB/s", "3.2 GB/s", "7000.0 TB/s",
    ]  # fmt: skip
    assert [format_size(size) for size in (0, 1500)] == ["0 B", "1.5 kB"]


@pytest.mark.parametrize(
    ("time", "text"),
    [(0, "0 us"), (999.4, "999 us"), (999.6, "1.00 ms"), (40_120, "40.1 ms"),
     (250_000, "250 ms"), (999_600, "1.00 s"), (75e6, "75.00 s")],
)  # fmt: skip
def test_a_duration_has_its_unit(time: float, text: str) -> None:
    assert format_microseconds(time) == text


@pytest.mark.parametrize(
    ("part", "text"),
    [(0, "0 %"), (0.001, "<0.01 %"), (0.31, "0.31 %"), (9.996, "10 %"), (300, "100 %")],
)
def test_a_share_is_never_rounded_to_nothing(part: float, text: str) -> None:
    assert format_share(part, 100) == text
    assert format_share(part, 0) == ""
