"""The tables of docs/fleet.md hold every record once, and its queries return what was sent."""

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from chdb.session import Session

PAGE = (Path(__file__).parent.parent / "docs" / "fleet.md").read_text()
PEER = "203.0.113.7"
Rows = list[dict[str, Any]]
GOLDEN = Path(__file__).parent / "data" / "golden" / "expected.jsonl"


def sql(mark: str) -> list[str]:
    """Return the statements of a marked block."""
    found = re.search(rf"<!-- {mark} -->\n```sql\n(.*?)```", PAGE, re.DOTALL)
    assert found, mark
    return [statement for statement in found[1].split(";") if statement.strip()]


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
