"""The scoreboard: what counts as right, and the page. tests/slow has the scenarios themselves."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from acts.common import TCP
from scenario_table import BLOCK, describe, is_right, refresh, score, unexplained
from scenario_truth import Passed
from scenarios import FIGURES, PAGE, SCENARIOS

PASSED = Passed(Counter({(TCP, 1): 1000, (TCP, 2): 500}), Counter({(TCP, 1): 10, (TCP, 2): 5}))
OWNERS = [(10, TCP, [1]), (20, TCP, [2])]


def cell(
    reported: dict[int | None, int], *, both_ends: bool = False, link_header: bool = False
) -> str:
    return describe(score(reported, OWNERS, PASSED, both_ends=both_ends, link_header=link_header))


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ({10: 1000, 20: 500}, "right"),
        ({10: 1010, 20: 495, 30: 10}, "right"),
        ({None: 1500}, "not named"),
        ({10: 1000, None: 500}, "1 of 2 named, 66.7 % of bytes"),
        ({10: 1000, 20: 480}, "98.7 % of bytes"),
        ({10: 1000, 20: 800}, "100.0 % of bytes, 20.0 % too many"),
        ({10: 500, 20: 1000}, "66.7 % of bytes, 33.3 % too many"),
        ({10: 1000, 20: 500, 30: 150}, "100.0 % of bytes, 10.0 % to others"),
    ],
)
def test_a_tool_is_right_if_each_process_has_its_bytes(
    reported: dict[int | None, int], expected: str
) -> None:
    assert cell(reported) == expected


def test_bytes_of_frames_are_those_of_packets_with_their_headers() -> None:
    assert cell({10: 1140, 20: 570}, link_header=True) == "right"


def test_processes_on_one_port_have_equal_parts_or_all_at_both_ends() -> None:
    owners = [(10, TCP, [1]), (20, TCP, [1])]
    parts = score({10: 500, 20: 500}, owners, PASSED, both_ends=False, link_header=False)
    ends = score({10: 1000, 20: 1000}, owners, PASSED, both_ends=True, link_header=False)
    assert is_right(parts)
    assert is_right(ends)


def test_a_scenario_in_which_nothing_passed_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing passed"):
        score({}, [(10, TCP, [3])], PASSED, both_ends=False, link_header=False)


def test_the_page_has_all_scenarios_as_they_were_measured() -> None:
    figures = json.loads(FIGURES.read_text())
    page = PAGE.read_text()
    assert set(figures) == set(SCENARIOS)
    assert BLOCK.search(page)
    assert refresh(page, figures) == page
    assert unexplained(figures) == []
