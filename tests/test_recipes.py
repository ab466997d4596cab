"""The recipes of docs/recipes.md, in jq, SQL and `hogpipe report`, have the right answers."""

import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterable
from datetime import UTC, date, datetime, tzinfo
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

import duckdb
import pytest
from support.namespaces import require
from support.reports import read_objects, run_command
from support.sinks import stats

from hogpipe.config.load import load_config
from hogpipe.history.counters import COUNTERS
from hogpipe.model import TcpHealth, TrafficCounts, make_networks
from hogpipe.records.schema import NetworkInfo, Record, StatsBody, TrafficBody, describe_io
from hogpipe.records.stamp import RecordStamper, make_run_id
from hogpipe.records.tcp_health import add_tcp
from hogpipe.report import reporting
from hogpipe.sinks.encoding import JsonEncoder, JsonSettings

PAGE = (Path(__file__).parent.parent / "docs" / "recipes.md").read_text()
ALONE = "DuckDB without hogpipe"
NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
HOUR = r"[\d-]+T[\d:]+Z"

Cell = str | float | None
Answer = list[tuple[Cell, ...]]

# The traffic: the start of the window, the owner, the remote end, bytes transmitted, quality.
# As many bytes and 1 more are received.
NGINX = {"name": "nginx", "owner": "www-data", "unit": "nginx.service"}
CURL = {"name": "curl", "owner": "root", "unit": "backup.service"}
REDIS = {"name": "redis", "id": 1000, "container": "1f2e3d", "pod": "7a1b90f2"}
WORKER = {"name": "worker", "id": 1000, "container": "9c8b7a"}
USER_ALONE = {"owner": "www-data"}
TRAFFIC = [
    ("2026-11-21T14:59:59", NGINX, "203.0.113.7", 1_000, "exact"),
    ("2026-11-21T15:00:00", NGINX, "203.0.113.7", 20_000, "exact"),
    ("2026-11-21T15:30:00", CURL, "198.51.100.9", 3_000, "inferred"),
    ("2026-11-21T15:59:59", WORKER, "198.51.100.9", 70, "exact"),
    ("2026-11-21T16:00:00", WORKER, "2001:db8::1", 500_000, "exact"),
    ("2026-11-22T09:28:59", CURL, "203.0.113.7", 40, "exact"),
    ("2026-11-22T09:29:00", REDIS, "203.0.113.7", 7, "listener"),
    ("2026-11-22T09:29:20", REDIS, "192.0.2.1", 200, "exact"),
    ("2026-11-22T09:29:20", NGINX, "203.0.113.7", 90, "listener"),
    ("2026-11-22T09:29:20", CURL, "192.0.2.2", 60, "exact"),
    ("2026-11-22T09:29:40", WORKER, "192.0.2.3", 50, "exact"),
    ("2026-11-22T09:29:40", USER_ALONE, "192.0.2.4", 6_000, "none"),
    ("2026-11-22T09:29:40", {}, "198.51.100.9", 2, "none"),
    ("2026-11-22T09:29:40", {}, None, 30, "none"),
]
ANSWERS: dict[str, Answer] = {
    "The last minute": [
        (None, 12_067), ("redis", 416), ("nginx", 181), ("curl", 121), ("worker", 101)
    ],
    "Who talks to an address": [("nginx", 42_183), ("curl", 81), ("redis", 15)],
    "Users": [("1000", 1_000_659), ("www-data", 54_184), ("root", 6_203), (None, 66)],
    "Units": [(None, 1_012_726), ("nginx.service", 42_183), ("backup.service", 6_203)],
    "Containers and pods": [("9c8b7a", 1_000_243), ("1f2e3d", 416)],
    "Traffic without an owner": [("192.0.2.4", 12_001), (None, 61), ("198.51.100.9", 5)],
    "Yesterday at three": [("nginx", 40_001), ("curl", 6_001), ("worker", 141)],
    "Remote ends": [
        ("2001:db8::1", 1_000_001), ("203.0.113.7", 42_279), ("192.0.2.4", 12_001),
        ("198.51.100.9", 6_147), ("192.0.2.1", 401),
    ],
    "Networks": [
        (None, "internet", 1_012_519), ("nginx.service", "internet", 42_183),
        ("backup.service", "zone-b", 6_001), ("backup.service", "internet", 202),
        (None, "zone-b", 146), (None, None, 61),
    ],
    "Hours and days": [
        ("2026-11-21 14:00:00", 2_001), ("2026-11-21 15:00:00", 46_143),
        ("2026-11-21 16:00:00", 1_000_001), ("2026-11-22 09:00:00", 12_967),
    ],
    "Pods": [("7a1b90f2", 416)],
    "Days": [("2026-11-21", 1_048_145), ("2026-11-22", 12_967)],
    "Retransmits and round trips": [("nginx", 6, 250), ("worker", 3, 100)],
    "Losses and certainty": [(28, 1_042_848, 196, 6_001, 12_067)],
}  # fmt: skip
HEALTH = {
    "nginx": TcpHealth(retransmits=2, rtt_samples=2, rtt_sum_us=500, rtt_min_us=200),
    "worker": TcpHealth(retransmits=1, rtt_samples=4, rtt_sum_us=400, rtt_min_us=90),
}
VARIANTS = {
    "Pods": (
        "Containers and pods",
        [(".container.id", ".k8s.pod.uid"), (".container", ".k8s"), ("container", "pod")],
    ),
    "Days": ("Hours and days", [("3600", "86400"), ("'hour'", "'day'"), ("1h", "1d")]),
}
"""Recipes that the page describes as changes of others."""
COUNTS = ("dropped", "exact", "listener", "inferred", "none")
QUESTIONS = pytest.mark.parametrize("question", ANSWERS)


class AtThatTime(datetime):
    """The time of the questions."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls.fromtimestamp(NOW.timestamp(), tz)


def find_network(remote: str) -> str:
    """Return the network that the configuration of the page gives an address."""
    (block,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return make_networks(tomllib.loads(block)["networks"]).find(ip_address(remote).packed)


def make_body(owner: dict[str, object], remote: str | None, size: int, quality: str) -> TrafficBody:
    counts = TrafficCounts(
        transmit_bytes=size, transmit_packets=1, receive_bytes=size + 1, receive_packets=2
    )
    network: NetworkInfo = {"flows": 1, "io": describe_io(counts)}
    if (name := owner.get("name")) in HEALTH:
        add_tcp(network, HEALTH[str(name)])
    if remote:
        network["peer"] = {"address": remote, "network": find_network(remote)}
    body: dict[str, object] = {
        "network": network,
        "attribution": {quality: 2 * size + 1},
    }
    if owner:
        process = {key: owner[key] for key in ("name", "owner") if key in owner}
        body["process"] = process | ({"user": {"id": owner["id"]}} if "id" in owner else {})
    if "unit" in owner:
        body["systemd"] = {"unit": owner["unit"]}
    if "container" in owner:
        body["container"] = {"id": owner["container"]}
    if "pod" in owner:
        body["k8s"] = {"pod": {"uid": owner["pod"]}}
    return body  # type: ignore[return-value]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the file of the recipes, which ends with a torn line."""
    stamper = RecordStamper(make_run_id(0, bytes(10)), "web1")
    one = stats()
    counters: StatsBody = {
        "capture": {**one["capture"], "dropped": {"kernel": 1, "interface": 1}},
        "attribution": one["attribution"],
        "aggregation": one["aggregation"],
        "self": one["self"],
    }
    records: list[Record] = []
    for start, *traffic in TRAFFIC:
        start_ns = round(datetime.fromisoformat(f"{start}+00:00").timestamp()) * 1_000_000_000
        end_ns = start_ns + 1_000_000_000
        records.append(stamper.traffic(make_body(*traffic), start_ns, end_ns))  # type: ignore[arg-type]
        records.append(stamper.stats(counters, start_ns, end_ns))
    lines = JsonEncoder(JsonSettings(type="jsonl")).lines(records)
    made = tmp_path_factory.mktemp("recipes")
    (made / "hogpipe.jsonl").write_bytes(lines + lines[:100])
    return made


def read_recipe(question: str, language: str, start: str = "") -> str:
    """Return the only code block of a section in a language that begins so."""
    heading, changes = VARIANTS.get(question, (question, []))
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    blocks = re.findall(rf"^```{language}\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    (block,) = (str(block) for block in blocks if block.startswith(start))
    for before, after in changes:
        block = block.replace(before, after)
    return block


def normalise(rows: Iterable[Iterable[object]]) -> Answer:
    """Return rows whose cells have one form: no value is None, a time is text."""
    return [tuple(_normalise_cell(cell) for cell in row) for row in rows]


def _normalise_cell(cell: object) -> Cell:
    if isinstance(cell, str) and re.fullmatch(HOUR, cell):
        cell = datetime.fromisoformat(cell).replace(tzinfo=None)
    if isinstance(cell, str | date):  # the start of a day is a date to DuckDB 1.4, a time to 2.0
        cell = str(cell).removesuffix(" 00:00:00")
    assert cell is None or isinstance(cell, str | int | float)
    return None if cell == "-" else cell


def test_each_section_is_a_question_with_an_answer() -> None:
    sections = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    assert sections == [*(one for one in ANSWERS if one not in VARIANTS), ALONE]


def test_the_configuration_of_the_page_is_valid(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / "config.toml").write_text(block)
    settings = load_config(tmp_path / "config.toml")
    assert list(settings.aggregation.group_by) == ["process", "remote", "network"]


@QUESTIONS
def test_jq_has_the_answer(folder: Path, question: str) -> None:
    require("jq")
    command = read_recipe(question, "sh", "jq ")
    at_that_time = command.replace("'", f"'def now: {NOW.timestamp()}; ", 1)
    done = subprocess.run(
        ["sh", "-c", at_that_time], cwd=folder, capture_output=True, text=True, check=True
    )
    rows = map(json.loads, done.stdout.splitlines())
    cells = ([row[key] for key in COUNTS] if isinstance(row, dict) else row for row in rows)
    assert normalise(cells) == ANSWERS[question]


@QUESTIONS
def test_sql_has_the_answer_in_a_report_and_in_duckdb_alone(
    folder: Path, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    query = read_recipe(question, "sql").replace("now()", f"TIMESTAMPTZ '{NOW}'")
    with duckdb.connect() as database:
        database.execute(read_recipe(ALONE, "sql"))
        assert normalise(database.execute(query).fetchall()) == ANSWERS[question]
    result = run_command("hogpipe.jsonl", "--sql", query, "--format", "json")
    assert normalise(row.values() for row in read_objects(result.stdout)) == ANSWERS[question]


@QUESTIONS
def test_the_report_has_the_answer(
    folder: Path, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(reporting, "datetime", AtThatTime)
    name, command, *words = shlex.split(read_recipe(question, "sh", "hogpipe "))
    assert (name, command) == ("hogpipe", "report")
    rows = read_objects(run_command(*words, "--format", "json").stdout)
    if question == "Losses and certainty":
        ((dropped, *qualities),) = ANSWERS[question]
        assert [rows[0][name] for name in COUNTS[1:]] == qualities
        head = " ".join(run_command(*words).stdout.splitlines()[:2])
        assert f"{dropped} packets dropped before capture, 1 % without owner" in head
    elif question == "Retransmits and round trips":
        known = [row for row in rows if row["retransmits"] is not None]
        known.sort(key=lambda row: -row["retransmits"])
        cells = [
            (row["program"], row["retransmits"], row["rtt_sum_us"] / row["rtt_samples"])
            for row in known
        ]
        assert normalise(cells) == ANSWERS[question]
    else:
        assert normalise(map(list_cells, rows)) == ANSWERS[question]


def list_cells(row: dict[str, Any]) -> list[object]:
    """Return the group or the time of a row of a report, and the bytes of both directions."""
    cells = [cell for name, cell in row.items() if name not in {*COUNTERS, "start_unix"}]
    if "start_unix" in row:
        cells.append(datetime.fromtimestamp(row["start_unix"], UTC).replace(tzinfo=None))
    return [*cells, row["transmit_bytes"] + row["receive_bytes"]]
