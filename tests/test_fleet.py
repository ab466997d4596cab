"""The tables of docs/fleet.md hold every record once; queries of the page and of the dashboard."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import make_dashboards
import pytest
from chdb.session import Session

PAGE = (Path(__file__).parent.parent / "docs" / "fleet.md").read_text()
PEER = "203.0.113.7"
Rows = list[dict[str, Any]]
GRAFANA = Path(__file__).parent.parent / "packaging" / "grafana"
GOLDEN = Path(__file__).parent / "data" / "golden" / "expected.jsonl"


def block(mark: str) -> str:
    """Return a marked block."""
    found = re.search(rf"<!-- {mark} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found, mark
    return found[1]


def sql(mark: str) -> list[str]:
    """Return the statements of a marked block."""
    return [statement for statement in block(mark).split(";") if statement.strip()]


def format_time_ago(seconds: int) -> str:
    when = datetime.now(UTC) - timedelta(seconds=seconds)
    return f"{when:%Y-%m-%dT%H:%M:%S}.000Z"


def records() -> Rows:
    """Return the golden records as of two hosts within the last hour; one of them lost a record."""
    made = []
    for host in ("web1", "web2"):
        for line in GOLDEN.read_text().splitlines():
            record = json.loads(line)
            record |= {
                "timestamp": format_time_ago(600 - record["sequence"]),
                "host": {"name": host},
            }
            record |= {"run": f"RUN-{host}"}
            record["window"] |= {"start": format_time_ago(700), "end": record["timestamp"]}
            if record["type"] == "traffic" and "process" in record:
                record["network"]["peer"] = {"address": PEER}
            made.append(record)
    lost = deepcopy(made[0])
    del made[0]
    assert lost["sequence"] == 1
    made.append({**lost, "sequence": 0})  # so that the gap is not at the beginning
    return made


class Warehouse:
    def __init__(self, session: Session) -> None:
        self._session = session
        for statement in sql("tables"):
            session.query(statement)

    def insert(self, folder: Path, lines: list[str]) -> None:
        file = folder / "lines"
        file.write_text("".join(f"{line}\n" for line in lines))
        self._session.query(
            f"INSERT INTO hogpipe.landing SELECT line FROM file('{file}', 'LineAsString')"
        )

    def query(self, mark: str) -> Rows:
        (query,) = sql(mark)
        return self.ask(query)

    def ask(self, query: str) -> Rows:
        answer = str(self._session.query(query, "JSON"))
        data: Rows = json.loads(answer)["data"] if answer else []
        return data


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    folder = tmp_path_factory.mktemp("fleet")
    with Session(str(folder / "clickhouse")) as session:
        made = Warehouse(session)
        lines = [json.dumps(record) for record in records()]
        made.insert(folder, lines)
        made.insert(folder, lines[3:])  # a repeat
        yield made


def bytes_of(records: Rows, way: str) -> int:
    return sum(record["network"]["io"][way]["bytes"] for record in records)


def traffic() -> Rows:
    return [one for one in records() if one["type"] == "traffic"]


def program_of(record: dict[str, Any]) -> str:
    name: str = record.get("process", {}).get("name", "")
    return name


def test_the_traffic_of_programs_is_that_of_the_records_without_repeats(
    warehouse: Warehouse,
) -> None:
    here = [one for one in traffic() if one["host"]["name"] == "web1"]
    rows = warehouse.query("programs")
    assert (
        {row["program"] for row in rows}
        == {program_of(one) for one in here}
        == {
            "nginx",
            "curl",
            "",
        }
    )
    for row in rows:
        of_it = [one for one in here if program_of(one) == row["program"]]
        assert (int(row["transmit_bytes"]), int(row["receive_bytes"])) == (
            bytes_of(of_it, "transmit"),
            bytes_of(of_it, "receive"),
        )


def test_the_traffic_of_a_service_adds_up_over_all_hosts(warehouse: Warehouse) -> None:
    rows = warehouse.query("service")
    of_it = [one for one in traffic() if one.get("systemd", {}).get("unit") == "nginx.service"]
    bits = sum(float(row["transmit_bits"]) for row in rows) * 300
    assert bits == pytest.approx(8 * bytes_of(of_it, "transmit"), abs=300 * len(rows))


def test_the_peers_of_an_address_are_listed_by_host_and_process(warehouse: Warehouse) -> None:
    rows = warehouse.query("peer")
    assert {(row["host"], row["program"]) for row in rows} == {
        (host, program) for host in ("web1", "web2") for program in ("nginx", "curl")
    }
    of_it = [one for one in traffic() if "peer" in one["network"]]
    assert sum(int(row["receive_bytes"]) for row in rows) == bytes_of(of_it, "receive")


def test_the_shares_of_a_host_add_up_to_all_of_its_bytes(warehouse: Warehouse) -> None:
    rows = warehouse.query("quality")
    assert {row["host"] for row in rows} == {"web1", "web2"}
    for row in rows:
        shares = [float(row[name]) for name in row if name.endswith("_percent")]
        assert sum(shares) == pytest.approx(100, abs=0.05)
        assert 0 < float(row["unattributed_percent"]) < 5


def test_a_lost_record_is_counted_as_missing(warehouse: Warehouse) -> None:
    rows = warehouse.query("missing")
    assert [(row["host"], int(row["missing"])) for row in rows] == [("web1", 1)]


DASHBOARD = json.loads((GRAFANA / "hogpipe-clickhouse.json").read_text())
VARIABLES = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
CHARTS = [panel for panel in DASHBOARD["panels"] if "targets" in panel]
GROUPS = VARIABLES["group"]["query"].split(",")


def expand(query: str, group: str) -> str:
    """Return a query as Grafana sends it: the last hour, both hosts, intervals of a minute."""
    now = int(datetime.now(UTC).timestamp())
    first, last = f"toDateTime({now - 3600})", f"toDateTime({now})"
    texts = {
        "${group:raw}": group,
        "${host:singlequote}": "'web1','web2'",
        "$__timeFilter(time)": f"time >= {first} AND time <= {last}",
        "$__timeInterval(time)": "toStartOfInterval(toDateTime(time), INTERVAL 60 second)",
        "$__interval_s": "60",
        "$__fromTime": first,
        "$__toTime": last,
    }
    for macro, text in texts.items():
        query = query.replace(macro, text)
    assert "$" not in query
    return query


def ask(warehouse: Warehouse, title: str, group: str = "program") -> Rows:
    (panel,) = (panel for panel in CHARTS if panel["title"] == title)
    return warehouse.ask(expand(panel["targets"][0]["rawSql"], group))


@pytest.mark.parametrize("panel", CHARTS, ids=[panel["title"] for panel in CHARTS])
@pytest.mark.parametrize("group", GROUPS)
def test_each_panel_of_the_dashboard_has_data(
    warehouse: Warehouse, panel: dict[str, Any], group: str
) -> None:
    is_of_groups = "${group" in panel["title"]
    if is_of_groups or group == GROUPS[0]:
        assert ask(warehouse, panel["title"], group)


def test_the_totals_of_the_dashboard_are_those_of_the_records(warehouse: Warehouse) -> None:
    rows = ask(warehouse, "Totals by ${group}")
    for way in ("transmit", "receive"):
        assert sum(int(row[way]) for row in rows) == bytes_of(traffic(), way)
        chart = ask(warehouse, f"{way.capitalize()} by ${{group}}")
        assert sum(float(row["bits"]) for row in chart) * 60 == pytest.approx(
            8 * bytes_of(traffic(), way)
        )
    chart = ask(warehouse, "Attribution")
    bits = sum(float(row[name]) for row in chart for name in row if name.endswith("_bits"))
    moved = bytes_of(traffic(), "transmit") + bytes_of(traffic(), "receive")
    assert bits * 60 == pytest.approx(8 * moved)


def test_the_dashboard_shows_the_lost_record_and_both_hosts(warehouse: Warehouse) -> None:
    (row,) = ask(warehouse, "Records that did not arrive")
    assert (row["host"], int(row["missing"])) == ("web1", 1)
    assert [row["host"] for row in warehouse.ask(VARIABLES["host"]["query"])] == ["web1", "web2"]


@pytest.mark.parametrize("dashboard", make_dashboards.DASHBOARDS, ids=lambda one: one.name)
def test_the_dashboards_are_those_that_are_made(dashboard: make_dashboards.Dashboard) -> None:
    text = make_dashboards.make_dashboard(dashboard)
    assert (GRAFANA / f"{dashboard.name}.json").read_text() == text


@pytest.mark.parametrize("dashboard", make_dashboards.DASHBOARDS, ids=lambda one: one.name)
def test_no_panel_of_a_dashboard_covers_another(dashboard: make_dashboards.Dashboard) -> None:
    panels = json.loads(make_dashboards.make_dashboard(dashboard))["panels"]
    covered = set()
    for place in (panel["gridPos"] for panel in panels):
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & covered
        assert all(x < 24 for x, _y in cells)
        covered |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_size_of_a_record_on_the_page_is_the_real_one() -> None:
    stated = re.search(r"of a service with a systemd unit \| (\d+) \|", PAGE)
    assert stated
    sizes = [len(line) for line in GOLDEN.read_text().splitlines() if '"unit":"nginx' in line]
    assert min(sizes) * 0.9 <= int(stated[1]) <= max(sizes) * 1.1


def test_the_estimates_follow_from_the_measured_sizes() -> None:
    traffic_bytes, stats_bytes, row_bytes = 625, 1450, 9.3
    a_second = (40 * traffic_bytes + stats_bytes) / 10
    assert f"| {a_second / 1000:.1f} kB |" in PAGE
    assert f"| {a_second * 86_400 / 1e6:.0f} MB |" in PAGE
    assert f"| {a_second * 86_400 * 300 / 1e9:.0f} GB |" in PAGE
    assert f"| {4 * 86_400 * row_bytes / 1e6:.1f} MB |" in PAGE
    assert f"{(512 << 20) / a_second / 86_400:.1f} days" in PAGE


# Programs that the recipe calls: each writes down how it was called. `venv` makes an environment
# whose programs do the same; FAIL is a pattern of the call that fails.
STUB = """#!/bin/sh
echo "$(basename "$0") $*" >> {log}
case "$(basename "$0") $*" in $FAIL) exit 1 ;; esac
case "$(basename "$0") $*" in
    "python3 -m venv"*) mkdir -p venv/bin
        ln -sf {stub} venv/bin/pip; ln -sf {stub} venv/bin/hogpipe ;;
    "hogpipe init"*) mkdir -p {root}/etc/hogpipe {root}/etc/systemd/system
        touch {root}/etc/systemd/system/hogpipe.service ;;
    ssh*) shift; exec "$@" ;;
    sudo*) exec "$@" ;;
esac
"""
FAILS_NEVER = "-"


class Host:
    """A host below a folder, for the scripts of the page, whose absolute paths are moved there."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "host"
        self._log = folder / "calls"
        self._programs = folder / "programs"
        self.work = folder / "work"
        for made in (self._programs, self.work, self.root / "opt"):
            made.mkdir(parents=True)
        stub = folder / "stub"
        stub.write_text(STUB.format(log=self._log, stub=stub, root=self.root))
        stub.chmod(0o755)
        for name in ("python3", "systemctl", "ssh", "sudo"):
            (self._programs / name).symlink_to(stub)
        for name in ("install", "deploy"):
            (self.work / f"{name}.sh").write_text(self._moved(block(name)))

    def _moved(self, script: str) -> str:
        return re.sub(r"(?<![\w.])/(opt|etc)/", rf"{self.root}/\1/", script).replace(
            "=/opt", f"={self.root}/opt"
        )

    def collect(self, version: str) -> Path:
        """Make the folder that collect.sh fills."""
        folder = self.work / f"hogpipe-{version}"
        folder.mkdir()
        (folder / "a.whl").write_text(version)
        (folder / "config.toml").write_text("")
        script = block("collect").partition("cd ")[2]
        subprocess.run(
            ["sh", "-ec", f"cd {script}", "collect.sh", version], cwd=self.work, check=True
        )
        return folder

    def run(self, script: str, version: str, fail: str = FAILS_NEVER) -> tuple[int, list[str]]:
        """Run a script of the page; return its exit code and the calls."""
        self._log.write_text("")
        environ = {"PATH": f"{self._programs}:{os.environ['PATH']}", "FAIL": fail}
        command = ["sh", f"{script}.sh", version]
        done = subprocess.run(command, cwd=self.work, env=environ, check=False)
        return done.returncode, self._log.read_text().splitlines()

    def deploy(self, version: str, fail: str = FAILS_NEVER) -> tuple[int, list[str]]:
        return self.run("deploy", version, fail)

    @property
    def installed(self) -> str:
        """The name of the folder in use."""
        return (self.root / "opt/hogpipe").readlink().name


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path)
    (made.work / "hosts").write_text("web1\n")
    made.collect("1.0")
    made.collect("1.1")
    return made


def test_the_recipe_installs_checks_and_starts(host: Host) -> None:
    code, calls = host.deploy("1.0")
    assert code == 0
    assert [call for call in calls if not call.startswith(("ssh", "sudo"))] == [
        "python3 -m venv venv",
        "pip install --quiet --no-index --find-links=. hogpipe hogpipe-nats",
        "hogpipe check --connect config.toml",
        "hogpipe init --systemd --network-sinks",
        "systemctl daemon-reload",
        "systemctl restart hogpipe",
        "systemctl enable --quiet hogpipe",
    ]
    assert host.installed == "hogpipe-1.0"
    config = host.root / "etc/hogpipe/config.toml"
    assert config.resolve() == host.root / "opt/hogpipe-1.0/config.toml"


def test_the_next_version_keeps_the_unit_and_replaces_the_configuration(host: Host) -> None:
    host.deploy("1.0")
    code, calls = host.deploy("1.1")
    assert code == 0
    assert "hogpipe init --systemd --network-sinks" not in calls
    assert host.installed == "hogpipe-1.1"
    config = host.root / "etc/hogpipe/config.toml"
    assert config.resolve() == host.root / "opt/hogpipe-1.1/config.toml"


@pytest.mark.parametrize("fail", ["pip*", "hogpipe\\ check*"])
def test_what_fails_before_the_restart_leaves_the_running_version(host: Host, fail: str) -> None:
    host.deploy("1.0")
    code, calls = host.deploy("1.1", fail)
    assert code == 1
    assert host.installed == "hogpipe-1.0"
    assert not [call for call in calls if call.startswith("systemctl")]


def test_a_damaged_wheel_is_not_installed(host: Host) -> None:
    (host.work / "hogpipe-1.1/a.whl").write_text("damaged")
    code, calls = host.deploy("1.1")
    assert code == 1
    assert not [call for call in calls if call.startswith("pip")]


def test_a_folder_of_another_installation_is_neither_used_nor_changed(host: Host) -> None:
    other = host.root / "opt/hogpipe"
    other.mkdir()
    code, calls = host.deploy("1.0")
    assert code == 1
    assert not other.is_symlink()
    assert not [*other.iterdir()]
    assert not [call for call in calls if call.startswith("systemctl")]


def test_a_version_that_does_not_start_is_rolled_back(host: Host) -> None:
    host.deploy("1.0")
    code, calls = host.deploy("1.1", "systemctl\\ restart*")
    assert code == 1
    assert calls.count("systemctl restart hogpipe") == 2
    assert host.installed == "hogpipe-1.0"


def test_a_host_goes_back_to_a_former_version(host: Host) -> None:
    host.deploy("1.0")
    host.deploy("1.1")
    code, _ = host.run("install", "1.0")
    assert code == 0
    assert host.installed == "hogpipe-1.0"


def test_the_first_host_that_fails_stops_the_deployment(host: Host) -> None:
    (host.work / "hosts").write_text("web1\nweb2\n")
    code, calls = host.deploy("1.0", "pip*")
    assert code == 1
    assert not [call for call in calls if call.startswith("ssh web2")]


def test_the_recipe_collects_wheels_only_and_installs_what_it_collected() -> None:
    collect, install = block("collect"), block("install")
    assert "--only-binary=:all:" in collect
    (collected,) = re.findall(r'("hogpipe==\$1" .*)$', collect, re.MULTILINE)
    (installed,) = re.findall(r"--find-links=. (.*)$", install, re.MULTILINE)
    assert re.findall(r'"([\w-]+)==\$1"', collected) == installed.split()
