"""What a user sees of `hogpipe report`: outputs, and one line for what is wrong."""

import copy
import itertools
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.histories import START_MS, Run
from support.records import FULL
from support.reports import (
    make_windows,
    read_objects,
    run_command,
    write_history,
    write_lines,
)

from hogpipe.errors import HogpipeError
from hogpipe.model import TcpHealth
from hogpipe.report.text_table import render_rows

HOSTILE = "\x1b[2J<script>alert(1)</script>\u202e[bold]'"
TORN = b'{"type":"traffic","window":{"start_unix":1'


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "hogpipe.jsonl", make_windows())


def test_a_table_has_the_span_the_groups_and_the_total(lines: Path) -> None:
    result = run_command(lines)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "2026-11-22 07:00:00 to 2026-11-22 07:00:03 UTC, 3 packets dropped before capture",
        "PROGRAM     TRANSMIT  RECEIVE",
        "curl           300 B    600 B",
        "nginx           33 B     66 B",
        "total of 2     333 B    666 B",
    ]


def test_a_table_fits_80_columns(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", [[FULL]])
    result = run_command(path, "--by", "process,user,cgroup,unit,container,pod,port,flow,host")
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("options", [(), ("--step", "1s")])
def test_losses_and_missing_owners_are_shown_in_80_columns(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    windows = make_windows(100)
    windows[0][0]["attribution"] = {"none": 300}  # type: ignore[typeddict-item]
    printed = run_command(write_lines(tmp_path / "x.jsonl", windows), *options).stdout
    head = printed.splitlines()[:2]
    lost = "100 packets dropped before capture, less than 1 % without owner"
    assert " ".join(head).endswith(lost)
    assert max(map(len, head)) <= 80


def test_what_is_not_shown_is_in_the_total(lines: Path) -> None:
    result = run_command(lines, "--top", "1")
    assert result.stdout.splitlines()[-1].split() == [
        *["total", "of", "2,", "1", "not", "shown"], "333", "B", "666", "B"
    ]  # fmt: skip


def test_traffic_without_an_owner_is_named_and_its_share_told(tmp_path: Path) -> None:
    nobody = {**FULL, "attribution": {"none": 470}}
    for key in ("process", "systemd", "container", "k8s"):
        del nobody[key]  # type: ignore[misc]
    result = run_command(write_lines(tmp_path / "x.jsonl", [[nobody, FULL]]))
    assert "51 % without owner" in result.stdout
    assert "(unattributed)" in result.stdout
    result = run_command(tmp_path / "x.jsonl", "--only", "none")
    assert "nginx" not in result.stdout


def test_json_and_csv_have_the_counters_of_each_group(lines: Path) -> None:
    (curl, nginx) = read_objects(run_command(lines, "--format", "json").stdout)
    assert curl["program"] == "curl"
    assert nginx == {
        "program": "nginx", "transmit_bytes": 33, "transmit_packets": 6, "receive_bytes": 66,
        "receive_packets": 12, "flows": 6, "exact": 99, "listener": 0, "inferred": 0, "none": 0,
    }  # fmt: skip
    heading, *rows = run_command(lines, "--format", "csv").stdout.splitlines()
    assert heading.split(",") == list(nginx)
    assert rows[1] == "nginx,33,6,66,12,6,99,0,0,0"


def test_steps_are_rows_in_json_and_a_chart_on_a_terminal(lines: Path) -> None:
    options = ("--step", "1s", "--by", "program")
    steps = read_objects(run_command(lines, *options, "--format", "json").stdout)
    assert [(one["start_unix"] - START_MS / 1000, one["program"]) for one in steps[:3]] == [
        (0, "curl"), (0, "nginx"), (1, "curl")
    ]  # fmt: skip
    assert len(steps) == 6
    chart = run_command(lines, *options).stdout
    assert "█" in chart
    assert re.search(r"^curl  +█+ +900 B$", chart, re.MULTILINE)


def test_a_chart_without_block_elements_is_ascii(lines: Path) -> None:
    command = [sys.executable, "-m", "hogpipe", "report", lines, "--step", "auto"]
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environ, capture_output=True, check=True)
    assert b"@@@" in done.stdout
    assert done.stdout.isascii()


def test_parquet_is_read_again(lines: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    query = ("--sql", "FROM traffic", "--format", "parquet", "-o", path)
    for end in ("", ";", " -- all"):
        assert run_command(lines, query[0], query[1] + end, *query[2:]).exit_code == 0
    assert (
        run_command(path, "--by", "process").stdout.splitlines()[1:]
        == (run_command(lines, "--by", "process").stdout.splitlines()[1:])
    )
    answer = tmp_path / "answer.parquet"
    assert run_command(lines, "--format", "parquet", "-o", answer).exit_code == 0
    assert run_command(answer).exit_code == 1  # sums, without times


def test_an_output_file_is_for_its_user_alone(lines: Path, tmp_path: Path) -> None:
    assert run_command(lines, "-o", tmp_path / "x.txt").stdout == ""
    assert "curl" in (tmp_path / "x.txt").read_text()
    parquet = ("--format", "parquet", "-o")
    assert run_command(lines, *parquet, tmp_path / "a.parquet").exit_code == 0
    assert (
        run_command(lines, *parquet, tmp_path / "b.parquet", "--sql", "FROM stats").exit_code == 0
    )
    for name in ("x.txt", "a.parquet", "b.parquet"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("option", [("-o",), ("--html",), ("--format", "parquet", "-o")])
def test_a_link_is_not_followed(lines: Path, tmp_path: Path, option: tuple[str, ...]) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("as before")
    link.symlink_to(target)
    result = run_command(lines, *option, link)
    assert "a symbolic link is not written to" in str(result.exception)
    assert target.read_text() == "as before"


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_failed_report_leaves_the_file_as_it_was(lines: Path, tmp_path: Path, form: str) -> None:
    path = tmp_path / "out"
    path.write_text("as before")
    query = "SELECT error('no') FROM traffic"
    result = run_command(lines, "--sql", query, "--format", form, "-o", path)
    assert result.exit_code == 1
    assert path.read_text() == "as before"
    assert {one.name for one in tmp_path.iterdir()} == {"out", lines.name}


def test_the_standard_input_is_a_source(lines: Path) -> None:
    assert run_command("-", stdin=lines.read_bytes()).stdout == run_command(lines).stdout


def test_a_glob_names_all_files_that_match(tmp_path: Path) -> None:
    windows = make_windows(2)
    write_lines(tmp_path / "x.jsonl", windows[:1])
    write_lines(tmp_path / "x-20261122T080000.000Z.jsonl.gz", windows[1:])
    assert "222 B" in run_command(tmp_path / "x*").stdout


def test_a_path_with_the_characters_of_a_glob_is_a_path(tmp_path: Path) -> None:
    for name in ("a[1]*.jsonl", "it's.jsonl"):
        write_lines(tmp_path / name, make_windows(1))
        assert "111 B" in run_command(tmp_path / name).stdout


def test_lines_that_are_no_records_are_counted_and_the_first_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_lines(tmp_path / "x.jsonl", make_windows(1))
    good = path.read_bytes()
    others = [b"", b"[1,2]", b'{"type":"traffic","network":5}', b"\xff\xfe", b'{"level":"info"}']
    path.write_bytes(good + b"\n".join([*others, TORN]))
    result = run_command(path)
    assert result.exit_code == 0
    assert "111 B" in result.stdout
    assert caplog.messages == [f"{path}:6: not a record of hogpipe; 5 lines skipped"]


def test_a_dimension_that_no_record_has_is_named(
    lines: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run_command(lines, "--by", "program,flow,port,total").exit_code == 0
    assert caplog.messages == [
        f"no record has a {name}: a run records it if it is in group_by"
        for name in ("flow", "port")
    ]


def test_a_dimension_that_only_groups_beyond_the_top_have_is_not_missed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server: dict[str, object] = {**FULL, "attribution": {"exact": 470}}
    client = {key: value for key, value in FULL.items() if key != "server"}
    client["process"] = {**FULL["process"], "name": "curl"}
    path = write_lines(tmp_path / "x.jsonl", [[server, client, client]])
    assert run_command(path, "--by", "program,port", "--top", "1").exit_code == 0
    assert caplog.messages == []


@pytest.mark.parametrize("content", [TORN, b"hello\n", b'{"level":"info"}\n', os.urandom(5000)])
def test_a_file_without_any_record_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    result = run_command(path)
    assert result.exit_code == 1
    assert result.stdout == ""


FOREIGN = [
    ("start_unix", 1e300),
    ("start_unix", -1e15),
    ("start_unix", "nan"),
    ("end_unix", "inf"),
    ("bytes", -5),
    ("bytes", 2**63 - 1),
    ("bytes", 2**70),
    ("bytes", "many"),
]


@pytest.mark.parametrize(("key", "value"), FOREIGN)
def test_numbers_that_no_run_writes_make_no_record(
    tmp_path: Path, key: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_lines(tmp_path / "x.jsonl", make_windows(1))
    record = copy.deepcopy(FULL)
    part: Any = record["network"]["io"]["transmit"] if key == "bytes" else record["window"]
    part[key] = value
    path.write_text(path.read_text() + json.dumps(record) + "\n")
    for words in (
        ("--format", "csv", "--by", "total"),
        ("--step", "1s"),
        ("--sql", "SELECT sum(bytes) FROM traffic"),
    ):
        result = run_command(path, *words)
        assert result.exit_code == 0, result.exception
        assert "333" in result.stdout
    assert caplog.messages == [f"{path}:5: not a record of hogpipe; 1 line skipped"] * 2


def test_a_table_of_any_rows_is_printed_as_they_are_read() -> None:
    lines = render_rows(["n"], ((number,) for number in itertools.count()), "ascii")
    assert [next(lines) for _ in range(3)] == ["n", "  0", "  1"]
    *_, last = itertools.islice(lines, 2000)
    assert last == "2001"


def test_a_chart_of_many_steps_fits_the_terminal(tmp_path: Path) -> None:
    run = Run()
    windows = [run.window(START_MS + 1000 * at, 1000, [("a", 1, 100)]) for at in range(500)]
    path = write_lines(tmp_path / "x.jsonl", windows)
    page = tmp_path / "x.html"
    chart = run_command(path, "--step", "1s", "--html", page).stdout
    assert max(map(len, chart.splitlines()[1:])) <= 80
    assert re.search(r"^ +2026-11-22 07:00:00 +2026-11-22 07:08:2", chart, re.MULTILINE)
    assert page.read_text().count("<rect") <= 300


def test_an_empty_file_is_a_report_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").touch()
    result = run_command(tmp_path / "x.jsonl")
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "no traffic in this span")


def test_records_of_another_layout_are_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"type":"traffic","network.io.transmit.bytes":5}\n')
    result = run_command(path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "a report reads the default layout of records" in str(result.exception)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--by", "colour"], "'colour' is not one of process, program"),
        (["--since", "soon"], "expected a time (UTC)"),
        (["--until", "25:00"], "expected a time (UTC)"),
        (["--since", "12:00", "--until", "2020-01-01"], "--since is not before --until"),
        (["--only", "colour:red"], "'colour:red' is not a selector"),
        (["--only", "remote:10.0.0.300"], "'remote:10.0.0.300' is not a selector"),
        (["--only", "pid:x"], "'x' is not a number"),
        (["--step", "0"], "must be more than 0"),
        (["--step", "fast"], "expected seconds"),
        (["--step", "0.0001"], "must be a whole number of milliseconds"),
        (["--step", "1.0005"], "must be a whole number of milliseconds"),
        (["--top", "0"], "0 is not in the range"),
        (["--format", "parquet"], "--format parquet needs --output FILE"),
        (["--sql", "FROM traffic", "--step", "1"], "--sql excludes --html and --step"),
    ],
)
def test_a_wrong_option_is_a_usage_error(lines: Path, words: list[str], text: str) -> None:
    result = run_command(lines, *words)
    assert result.exit_code == 2
    assert text in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["{folder}/none/x.jsonl"], "{folder}/none/x.jsonl: No such file or directory"),
        (["{folder}/none/*.jsonl"], "{folder}/none/*.jsonl: no file matches"),
        (["/dev/null"], "/dev/null: not a regular file but a device"),
        (["/tmp"], "/tmp: Is a directory"),
        (["{lines}", "{history}"], "a history is read alone, without other sources"),
        (["{history}", "--sql", "SELECT 1"], "ask a history with the sqlite3 shell"),
        (["{history}", "--by", "host"], "a history does not keep hosts apart"),
        (["{lines}", "--sql", "SELEC"], "syntax error"),
        (["{lines}", "-o", "{folder}/none/x"], "{folder}/none/x: No such file or directory"),
        (["{lines}", "--html", "{folder}/none/x"], "{folder}/none/x: No such file or directory"),
        (["{lines}", "--format", "parquet", "-o", "{folder}/none/x"], "No such file"),
        (["{other}"], "an SQLite database of another program"),
    ],
)
def test_what_cannot_be_read_or_written_is_named(
    lines: Path, tmp_path: Path, words: list[str], text: str
) -> None:
    history = write_history(tmp_path / "x.db", make_windows(1))
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE a (b)")
    names = {"lines": lines, "history": history, "other": other, "folder": tmp_path}
    result = run_command(*(word.format(**names) for word in words))
    assert isinstance(result.exception, HogpipeError)
    assert (result.exception.exit_code, result.stdout) == (1, "")
    assert text.format(**names) in str(result.exception)


def test_a_cut_gzip_file_is_an_error(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl.gz", make_windows(2000))
    path.write_bytes(path.read_bytes()[:-2000])
    result = run_command(path)
    assert result.exit_code == 1
    assert result.stdout == ""


def test_hostile_names_reach_neither_the_terminal_nor_the_page(tmp_path: Path) -> None:
    windows = [Run().window(START_MS, 1000, [(HOSTILE, 1, 10)])]
    path, page = write_lines(tmp_path / "x.jsonl", windows), tmp_path / "x.html"
    for words in ((), ("--step", "auto"), ("--format", "json"), ("--format", "csv"),
                  ("--sql", "SELECT program FROM traffic")):  # fmt: skip
        printed = run_command(path, *words).stdout
        assert "\x1b" not in printed
        assert "\u202e" not in printed
    assert run_command(path, "--html", page).exit_code == 0
    text = page.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert not any(unprintable in text for unprintable in "\x1b\u202e")


def test_a_page_has_the_chart_and_refers_to_nothing(lines: Path, tmp_path: Path) -> None:
    page = tmp_path / "x.html"
    result = run_command(lines, "--html", page, "--top", "1")
    assert "curl" in result.stdout  # the table, too
    text = page.read_text()
    assert text.count("<rect") == 6
    assert "all 1 others" in text
    assert "default-src 'none'" in text
    assert not re.search(r"\b(?:src|href)=|url\(", text)
    assert (page.stat().st_mode & 0o777) == 0o600


def test_without_duckdb_a_history_is_reported_and_files_name_the_remedy(
    lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = write_history(tmp_path / "x.db", make_windows(1))
    monkeypatch.delitem(sys.modules, "hogpipe.report.file_store", raising=False)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert "111 B" in run_command(history).stdout
    assert "pip install 'hogpipe[report]'" in str(run_command(lines).exception)
    parquet = ("--format", "parquet", "-o", tmp_path / "x.parquet")
    assert "pip install 'hogpipe[report]'" in str(run_command(history, *parquet).exception)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_long_report_and_removes_its_temporary_files(
    lines: Path, tmp_path: Path, number: signal.Signals
) -> None:
    endless = "SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b"
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "hogpipe", "report", lines, "--sql", endless]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as run:
        while not list(tmp_path.glob("hogpipe-report-*")):
            assert run.poll() is None
        run.send_signal(number)
        _, errors = run.communicate()
    assert run.returncode == 128 + number
    assert f"interrupted by {number.name}" in errors
    assert not list(tmp_path.glob("hogpipe-report-*"))


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    health = TcpHealth(
        retransmits=1, opened=2, accepted=1, refused=4, rtt_samples=2, rtt_sum_us=2_500,
        rtt_min_us=800,
    )  # fmt: skip
    run = Run()
    moved = [("nginx", 1, 100, health), ("bird", 2, 10, None)]
    windows = [run.window(START_MS + 1000 * at, 1000, moved) for at in range(3)]
    return write_lines(tmp_path / "healthy.jsonl", windows)


def test_a_table_has_the_health_that_is_known_if_it_is_asked_for(healthy: Path) -> None:
    assert run_command(healthy, "--health").stdout.splitlines()[1:] == [
        "PROGRAM     TRANSMIT  RECEIVE  RETRANS      RTT  MIN RTT  CONNS  FAILED",
        "nginx          300 B    600 B    100 %  1.25 ms   800 us      9      12",
        "bird            30 B     60 B",
        "total of 2     330 B    660 B     50 %  1.25 ms   800 us      9      12",
    ]
    assert "FAILED" in run_command(healthy, "--health", "--by", "total").stdout
    assert "RTT" not in run_command(healthy).stdout


def test_health_that_is_unknown_is_null_and_not_zero(healthy: Path, tmp_path: Path) -> None:
    nginx, bird = read_objects(run_command(healthy, "--health", "--format", "json").stdout)
    assert (nginx["retransmits"], nginx["rtt_min_us"], nginx["abandoned"]) == (3, 800, 0)
    assert (bird["health_records"], bird["retransmits"], bird["rtt_min_us"]) == (0, None, None)
    (first, *_) = read_objects(run_command(healthy, "--format", "json").stdout)
    assert "retransmits" not in first
    page = tmp_path / "page.html"
    assert run_command(healthy, "--health", "--html", page).exit_code == 0
    assert '<td class="number">1.25 ms</td><td class="number">800 us</td>' in page.read_text()
    sql = "SELECT sum(retransmits) AS n, min(rtt_min_us) AS t FROM traffic"
    assert run_command(healthy, "--sql", sql).stdout.split() == ["n", "t", "3", "800"]
