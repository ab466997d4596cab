"""docs/reliability.md names a test for each fault, and each fault that is tested here."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
PAGE = (TESTS.parent / "docs/reliability.md").read_text()
ROWS = re.findall(r"^\|.*\| `tests/(\S+) -k (\w+)` \|$", PAGE, re.MULTILINE)


def list_tests(path: Path) -> list[str]:
    return re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_each_row_names_a_test(row: tuple[str, str]) -> None:
    path, words = row
    assert [name for name in list_tests(TESTS / path) if words in name]


def test_each_row_of_a_fault_has_a_command() -> None:
    faults = [line for line in PAGE.splitlines() if line.startswith("| ")]
    assert len(faults) - len(ROWS) == PAGE.count("| fault | what happens |") > 0


def test_each_fault_that_is_tested_here_has_a_row() -> None:
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        name = str(path.relative_to(TESTS))
        tests = [] if path == Path(__file__) else list_tests(path)
        named = [words for row_path, words in ROWS if row_path == name]
        assert [one for one in tests if not any(words in one for words in named)] == []
