"""The lock of what a release requires: that it is complete, and that nothing but pins is in it."""

from pathlib import Path

import lock_requirements
import pytest
from lock_requirements import find_problems, list_requirements, name_of, parse_lock
from packaging.markers import Marker
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
HASH = f"--hash=sha256:{'a' * 64}"
ENTRY = f"click==8.5.1 \\\n    {HASH}\n"


def pins_for(name: str, python: str) -> list[str]:
    """Return the locked versions of a name for a version of Python."""
    lines = lock_requirements.LOCK.read_text().splitlines()
    heads = [line.removesuffix(" \\") for line in lines if line.startswith(f"{name}==")]
    found = []
    for version, _, marker in (head.partition("==")[2].partition(" ; ") for head in heads):
        environment = {"python_version": python, "python_full_version": f"{python}.1"}
        if not marker or Marker(marker).evaluate(environment):
            found.append(version)
    return found


def test_the_lock_has_one_version_of_each_requirement_for_each_python() -> None:
    assert [*find_problems(ROOT, lock_requirements.LOCK.read_text())] == []
    for requirement in map(Requirement, list_requirements(ROOT)):
        for python in ("3.11", "3.12", "3.13", "3.14"):
            (version,) = pins_for(name_of(requirement.name), python)
            assert requirement.specifier.contains(version), requirement


def test_what_plugins_and_extras_require_is_locked_and_hogpipe_itself_is_not() -> None:
    names = {name_of(one) for one in list_requirements(ROOT)}
    assert {"numpy", "nats-py", "aiokafka", "cramjam", "textual", "duckdb"} <= names
    assert "pytest" not in names
    assert not any(name.startswith("hogpipe") for name in names)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"--index-url https://example.org/simple\n{ENTRY}", 1),
        (f"{ENTRY}--find-links /srv/wheels\n", 3),
        (f"{ENTRY}# comment\n", 3),
        (f"./click.whl \\\n    {HASH}\n", 1),
        (f"click @ file:///click.whl \\\n    {HASH}\n", 1),
        (f"click>=8 \\\n    {HASH}\n", 1),
        ("click==8.5.1\n", 1),
        (f"{ENTRY}click==8.5.1 \\\n    --hash=md5:00\n", 3),
    ],
)
def test_anything_but_a_pin_with_checksums_is_a_problem(text: str, line: int) -> None:
    problem = f"line {line} is no name with a version and checksums"
    assert [*find_problems(ROOT, text)] == [problem]


def test_a_requirement_that_is_not_locked_is_named() -> None:
    missing = [*find_problems(ROOT, ENTRY)]
    assert len(missing) == len(list_requirements(ROOT)) - 1
    assert not any(one.startswith("click") for one in missing)


def test_markers_and_several_checksums_are_part_of_an_entry() -> None:
    marked = f"numpy==2.0 ; python_full_version < '3.12' \\\n    {HASH} \\\n    {HASH}\n"
    assert parse_lock(ENTRY + marked) == {"click": "8.5.1", "numpy": "2.0"}
