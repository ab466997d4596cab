"""Files of records and a history give the same answers, whose totals are those of the records."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.health import quick_healths
from support.histories import START_MS, Run, total_of
from support.records import FULL
from support.reports import START, ask, make_windows, stored, write_history, write_lines

from hogpipe.errors import HogpipeError
from hogpipe.history.counters import ALL_COUNTERS, COUNTERS, Totals, add_totals
from hogpipe.records.tcp_health import parse_tcp
from hogpipe.report.record_columns import DIMENSIONS

Store = Callable[[Path, Any], Path]


def write_parquet(path: Path, windows: Any) -> Path:
    with stored(write_lines(path.with_suffix(".jsonl"), windows)) as store:
        store.export("FROM traffic", path)
    return path


STORES = pytest.mark.parametrize(
    ("name", "write"),
    [
        ("lines.jsonl", write_lines),
        ("lines.jsonl.gz", write_lines),
        ("history.db", write_history),
        ("lines.parquet", write_parquet),
    ],
)


@STORES
def test_groups_have_their_totals_the_most_bytes_first(
    tmp_path: Path, name: str, write: Store
) -> None:
    with stored(write(tmp_path / name, make_windows())) as store:
        answer = store.answer(ask("program"))
    assert [(row.values, row.totals.transmit_bytes) for row in answer.rows] == [
        (("curl",), 300),
        (("nginx",), 33),
    ]
    assert answer.rows[1].totals == Totals(33, 6, 66, 12, 6, 99, 0, 0, 0)
    assert answer.span == (START, START + 3)


@STORES
def test_groups_beyond_the_top_are_one_sum(tmp_path: Path, name: str, write: Store) -> None:
    with stored(write(tmp_path / name, make_windows())) as store:
        answer = store.answer(ask("process", top=1))
        whole = store.answer(ask("total"))
    assert [row.values for row in answer.rows] == [(3, "curl")]
    assert (answer.groups, answer.others.transmit_bytes) == (3, 33)
    assert answer.total == whole.total


@STORES
def test_a_window_belongs_to_the_span_in_which_it_starts(
    tmp_path: Path, name: str, write: Store
) -> None:
    with stored(write(tmp_path / name, make_windows(5))) as store:
        answer = store.answer(ask("program", since=START + 1, until=START + 3))
        nothing = store.answer(ask("program", since=START + 100, until=START + 200))
    assert answer.total.transmit_bytes == 2 * 111
    assert answer.span == (START + 1, START + 3)
    assert (nothing.rows, nothing.groups, nothing.span) == ([], 0, None)


@STORES
@pytest.mark.parametrize(
    ("only", "size"),
    [
        (["program:curl"], 300),
        (["!program:curl"], 33),
        (["program:c*", "pid:1"], 330),
        (["program:*", "!pid:1"], 303),
        (["unit:nginx.service"], 33),
        (["none"], 0),
        (["!none"], 333),
    ],
)
def test_selectors_choose_as_those_of_a_run(
    tmp_path: Path, name: str, write: Store, only: list[str], size: int
) -> None:
    with stored(write(tmp_path / name, make_windows())) as store:
        assert store.answer(ask("program", only=only)).total.transmit_bytes == size


@STORES
def test_steps_add_up_to_the_totals(tmp_path: Path, name: str, write: Store) -> None:
    with stored(write(tmp_path / name, make_windows(7))) as store:
        series = store.answer_over_time(ask("program", top=1), 2)
    assert (series.start, series.step) == (START, 2)
    assert series.total == [666, 666, 666, 333]
    assert [one.transmit_bytes for one in series.rows[0]] == [200, 200, 200, 100]
    assert sum(series.total) == series.answer.total.bytes


def test_a_window_is_in_the_step_that_starts_with_it(tmp_path: Path) -> None:
    run = Run()
    windows = [run.window(START_MS + 100 * at, 100, [("a", 1, 1 + at)]) for at in range(100)]
    with stored(write_lines(tmp_path / "x.jsonl", windows)) as store:
        series = store.answer_over_time(ask("program"), 0.1)
    assert series.start == START
    assert series.total == [3 * (1 + at) for at in range(100)]


@STORES
def test_a_series_of_too_many_steps_is_refused(tmp_path: Path, name: str, write: Store) -> None:
    run = Run()
    windows = [run.window(START_MS + day * 86_400_000, 1000, [("a", 1, 1)]) for day in (0, 30)]
    with stored(write(tmp_path / name, windows)) as store:
        with pytest.raises(HogpipeError, match="choose a longer step"):
            store.answer_over_time(ask("program"), 1)
        assert len(store.answer_over_time(ask("program"), 60).total) == 30 * 1440 + 1


@STORES
@pytest.mark.parametrize("only", ["pid:1", "!program:curl", "user:nobody", "none"])
def test_steps_are_of_the_traffic_that_selectors_choose(
    tmp_path: Path, name: str, write: Store, only: str
) -> None:
    with stored(write(tmp_path / name, make_windows(4))) as store:
        question = ask("program", only=[only])
        series = store.answer_over_time(question, 2)
        assert series.answer == store.answer(question)
    assert sum(series.total) == series.answer.total.bytes


def test_a_selector_looks_at_any_number_of_values(tmp_path: Path) -> None:
    run = Run()
    window = run.window(START_MS, 1000, [(f"p{at}", at, 1) for at in range(2500)])
    with stored(write_lines(tmp_path / "x.jsonl", [window])) as store:
        answer = store.answer(ask("program", only=["program:p*", "!program:p7"], top=3))
    assert (answer.groups, answer.total.transmit_bytes) == (2499, 2499)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_each_dimension_has_the_values_of_records(tmp_path: Path, dimension: str) -> None:
    with stored(write_lines(tmp_path / "x.jsonl", [[FULL]])) as store:
        (row,) = store.answer(ask(dimension)).rows
    expected: dict[str, tuple[object, ...]] = {
        "process": (4242, "nginx"),
        "program": ("nginx",),
        "command": ("nginx",),
        "exe": ("/usr/sbin/nginx",),
        "parent": ("systemd",),
        "user": ("www-data",),
        "cgroup": ("/system.slice/nginx.service",),
        "unit": ("nginx.service",),
        "container": ("1f2e3d",),
        "pod": ("7a1b90f2-713c-467a-a18a-cbb50a075296",),
        "container_name": ("k8s_web",),
        "image": ("nginx:1.27",),
        "pod_name": ("web-0",),
        "namespace": ("shop",),
        "transport": ("tcp",),
        "network_type": ("ipv4",),
        "interface": ("eth0",),
        "port": (443,),
        "network": ("private",),
        "domain": ("www.example.com",),
        "domain_quality": ("process",),
        "remote": ("10.0.0.2",),
        "flow": ("tcp", "10.0.0.1", 443, "10.0.0.2", 40000),
        "host": ("web1",),
        "total": (),
    }
    assert row.values == expected[dimension]
    assert row.totals == Totals(10, 1, 460, 2, 3, 400, 10, 50, 10)


def test_a_user_without_a_name_is_a_number(tmp_path: Path) -> None:
    record = {**FULL, "process": {"user": {"id": 33}}}
    path = write_lines(tmp_path / "x.jsonl", [[record]])
    history = write_history(tmp_path / "x.db", [[record]])  # type: ignore[list-item]
    for source in (path, history):
        with stored(source) as store:
            assert [row.values for row in store.answer(ask("user")).rows] == [("33",)]


@pytest.mark.parametrize(
    ("only", "counts"),
    [
        ("remote:10.0.0.0/24", True),
        ("remote:10.0.0.2", True),
        ("remote:10.0.1.0/24", False),
        ("remote:2001:db8::/32", False),
        ("remote:::ffff:10.0.0.0/120", True),
        ("remote:0.0.0.0/0", True),
        ("remote:::/0", False),
        ("port:443", True),
        ("port:80", False),
        ("exe:nginx", True),
        ("exe:/usr/*", True),
        ("exe:bin", False),
        ("user:www-*", True),
        ("host:web?", True),
        ("interface:eth1", False),
    ],
)
def test_each_selector_looks_at_its_column(tmp_path: Path, only: str, counts: bool) -> None:
    with stored(write_lines(tmp_path / "x.jsonl", [[FULL]])) as store:
        assert bool(store.answer(ask("total", only=[only])).total.bytes) == counts


def test_several_files_and_forms_are_one_report(tmp_path: Path) -> None:
    windows = make_windows(3)
    write_lines(tmp_path / "a.jsonl", windows[:1])
    write_lines(tmp_path / "b.jsonl.gz", windows[1:2])
    write_parquet(tmp_path / "c.parquet", windows[2:])
    names = [tmp_path / name for name in ("a.jsonl", "b.jsonl.gz", "c.parquet")]
    with stored(*names) as store:
        assert store.answer(ask("program")).total.transmit_bytes == 333


def test_packets_dropped_in_the_span_are_counted(tmp_path: Path) -> None:
    windows = make_windows(2)
    for window, dropped in zip(windows, [(5, 0), (0, 2)], strict=True):
        kernel, interface = dropped
        window[-1]["capture"]["dropped"] = {  # type: ignore[typeddict-item]
            "kernel": kernel,
            "interface": interface,
        }
    with stored(write_lines(tmp_path / "x.jsonl", windows)) as store:
        assert store.answer(ask("total")).dropped_packets == 7
        assert store.answer(ask("total", since=START + 1)).dropped_packets == 2
    with stored(write_history(tmp_path / "x.db", windows)) as store:
        assert store.answer(ask("total")).dropped_packets == 7


def test_a_query_reads_the_views(tmp_path: Path) -> None:
    with stored(write_lines(tmp_path / "x.jsonl", make_windows())) as store:
        names, rows = store.query("SELECT program, sum(bytes) FROM traffic GROUP BY ALL ORDER BY 2")
        assert list(names) == ["program", "sum(bytes)"]
        assert list(rows) == [("nginx", 99), ("curl", 900)]
        _, rows = store.query("SELECT count(*) FROM stats")
        assert list(rows) == [(3,)]


def test_a_query_installs_nothing(tmp_path: Path) -> None:
    with stored(write_lines(tmp_path / "x.jsonl", make_windows())) as store:
        _, rows = store.query(
            "SELECT value FROM duckdb_settings() WHERE name LIKE 'auto%known_extensions'"
        )
        assert list(rows) == [("false",), ("false",)]


def test_parquet_has_the_types_that_the_page_promises(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [[FULL]])
    with duckdb.connect() as database:
        names = database.execute(f"DESCRIBE FROM '{path}'").fetchall()
    types = {name: kind for name, kind, *_ in names}
    assert types["start_unix"] == "DOUBLE"
    assert types["program"] == "VARCHAR"
    assert {types[name] for name in (*COUNTERS, "pid", "port")} == {"BIGINT"}


@settings(max_examples=25)
@given(
    windows=st.lists(
        st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.integers(0, 10**12)))
    ),
    by=st.lists(st.sampled_from(["program", "process", "unit", "user"]), unique=True),
    top=st.none() | st.integers(1, 3),
    step=st.sampled_from([0.5, 1.0, 7.0]),
)
def test_the_total_of_any_report_is_that_of_the_records(
    tmp_path_factory: pytest.TempPathFactory, windows: Any, by: list[str], top: int, step: float
) -> None:
    run = Run()
    made = [run.window(START_MS + 500 * at, 500, one) for at, one in enumerate(windows)]
    path = write_lines(tmp_path_factory.mktemp("r") / "x.jsonl", made or [[]])
    with stored(path) as store:
        answer = store.answer(ask(*by, top=top))
        series = store.answer_over_time(ask(*by, top=top), step)
    expected = total_of(made)
    for counters in (answer.total, series.answer.total):
        assert {name: getattr(counters, name) for name in COUNTERS} == {
            name: expected.get(name, 0) for name in COUNTERS
        }
    assert sum(series.total) == answer.total.bytes


@pytest.mark.parametrize(
    ("only", "is_chosen"),
    [
        ("container:1f2e*", True),
        ("container:k8s_web", True),
        ("pod:web-*", True),
        ("pod:7a1b*", True),
        ("pod:shop/web-*", True),
        ("pod:*/web-0", True),
        ("pod:other/web-0", False),
        ("!pod:shop/web-0", False),
        ("parent:systemd", True),
        ("network:private", True),
        ("image:nginx:*", True),
        ("namespace:shop", True),
        ("!container:k8s_web", False),
        ("pod:web", False),
    ],
)
def test_selectors_match_names_too(tmp_path: Path, only: str, is_chosen: bool) -> None:
    history = write_history(tmp_path / "x.db", [[FULL]])  # type: ignore[list-item]
    for source in (write_lines(tmp_path / "x.jsonl", [[FULL]]), history):
        with stored(source) as store:
            assert bool(store.answer(ask("program", only=[only])).rows) == is_chosen


moved = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.integers(1, 4), st.integers(0, 10**12), st.none() | quick_healths
    )
)


@settings(max_examples=5)
@given(windows=st.lists(moved, min_size=1, max_size=4), top=st.none() | st.integers(1, 3))
def test_health_adds_up_and_its_least_time_is_the_least_from_every_kind_of_source(
    tmp_path_factory: pytest.TempPathFactory, windows: Any, top: int | None
) -> None:
    run, folder = Run(), tmp_path_factory.mktemp("r")
    made = [run.window(START_MS + 500 * at, 500, one) for at, one in enumerate(windows)]
    sources = [write_lines(folder / "x.jsonl", made), write_history(folder / "x.db", made)]
    expected = total_of(made)
    for source in sources:
        with stored(source) as store:
            answer = store.answer(ask("program", top=top, health=True))
            series = store.answer_over_time(ask("program", top=top, health=True), 1.0)
        total = answer.total
        assert {name: getattr(total, name) for name in ALL_COUNTERS} == expected
        for row, steps in zip(series.answer.rows, series.rows, strict=True):
            assert add_totals(steps) == row.totals


def test_health_is_read_from_parquet_and_left_out_unless_it_is_asked_for(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [[FULL]])
    with stored(path) as store:
        (row,) = store.answer(ask("program")).rows
        assert row.totals.health is None
        (row,) = store.answer(ask("program", health=True)).rows
    assert row.totals.health == parse_tcp(FULL["network"])
    assert row.totals.health is not None
    assert (row.totals.health.opened, row.totals.health.rtt_min_us) == (9, 250)
