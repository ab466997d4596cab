"""What a soak checks is found where it does not hold, and its picture has each fault."""

import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from support.running import read_records

sys.path.insert(0, str(Path(__file__).parent))

import soak
import soak_faults
from soak_checks import GROWTH_MIB, MAX_MIB, RecordChecker, Sample, check_samples
from soak_plot import draw

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "expected.jsonl"
DOCS = Path(__file__).parents[2] / "docs"


def check(records: list[dict[str, Any]]) -> RecordChecker:
    checker = RecordChecker()
    for record in records:
        checker.add(record)
    return checker


def sample(seconds: float, **changes: Any) -> Sample:
    values = {"mib": 80.0, "descriptors": 40, "threads": 9, "is_calm": True, "process": 1}
    return Sample(seconds=seconds, **{**values, **changes})


def test_records_in_order_that_add_up_violate_nothing() -> None:
    records = read_records(GOLDEN)
    checker = check(records)
    assert checker.violations == []
    assert (checker.records, checker.runs) == (len(records), 1)
    assert checker.packets == 149


def test_a_missing_record_is_found_by_its_sequence_and_its_bytes() -> None:
    records = read_records(GOLDEN)
    number = next(n for n, record in enumerate(records) if record["type"] == "traffic")
    found = check(records[:number] + records[number + 1 :]).violations
    assert [one for one in found if "sequence" in one]
    assert [one for one in found if "are counted and in no record" in one]


def test_each_run_begins_anew() -> None:
    records = read_records(GOLDEN)
    again = [{**record, "run": "another"} for record in records]
    checker = check(records + again)
    assert (checker.violations, checker.runs) == ([], 2)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"mib": MAX_MIB + 1}, "had 401 MiB"),
        ({"mib": 80 + GROWTH_MIB + 1}, "grew by 61 MiB"),
        ({"descriptors": 60}, "40 descriptors and then 60"),
        ({"threads": 30}, "9 threads and then 30"),
    ],
)
def test_what_grows_is_found(changes: dict[str, Any], word: str) -> None:
    steady = [sample(second) for second in range(200)]
    assert check_samples(steady) == []
    grown = [sample(200 + second, **changes) for second in range(60)]
    assert any(word in one for one in check_samples(steady + grown))
    assert check_samples([*steady, sample(300, process=2)]) == []


def test_the_picture_has_each_kind_of_fault() -> None:
    faults = [
        {"seconds": float(number), "name": fault.__name__}
        for number, fault in enumerate(soak_faults.COMMON + soak_faults.RESTARTS)
    ]
    samples = [{"seconds": s, "mib": 80, "descriptors": 40, "threads": 9} for s in range(60)]
    drawn = {"seconds": 60, "seed": 1, "faults": faults, "samples": samples, "packets": [[1, 2]]}
    texts = [one.text or "" for one in ET.fromstring(draw(drawn)).iter()]
    for fault in faults:
        assert f"{str(fault['name']).replace('_', ' ')} (1)" in texts


def test_the_picture_of_the_docs_is_that_of_its_figures() -> None:
    figures = json.loads((DOCS / "data" / "soak.json").read_text())
    assert figures["violations"] == []
    assert draw(figures) == (DOCS / "soak.svg").read_text()
    page = " ".join((DOCS / "reliability.md").read_text().split())
    assert f"{figures['seconds'] / 60:.0f} minutes" in page
    assert f"{len(figures['faults'])} faults" in page
    assert f"{figures['packets_captured']:,} packets" in page


def test_the_arguments_have_a_length_and_a_seed() -> None:
    chosen = soak.parse_arguments(["--seconds", "5", "--seed", "7"])
    assert (chosen.seconds, chosen.seed, chosen.json, chosen.plot) == (5.0, 7, None, None)
