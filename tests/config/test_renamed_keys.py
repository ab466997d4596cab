"""A key with a new name works for one version, with a warning, and is then unknown."""

from typing import Any

import pytest
from support.running import write_config

from hogpipe.config import load
from hogpipe.config.load import load_config
from hogpipe.config.problems import Problems
from hogpipe.config.renamed_keys import RENAMED_KEYS, RenamedKey, list_expired, rename_keys
from hogpipe.errors import ConfigurationError
from hogpipe.version import __version__

RENAMED = (
    RenamedKey("capture", "length", "snaplen", "0.2"),
    RenamedKey("sinks", "queue", "queue_windows", "0.2"),
)


def rename(tables: dict[str, Any]) -> tuple[Any, list[str], list[str]]:
    problems = Problems()
    changed, warnings = rename_keys(tables, RENAMED, problems)
    return changed, warnings, problems.format_lines("c.toml")


def test_a_former_name_becomes_the_present_one_with_a_warning() -> None:
    tables = {"capture": {"length": 96, "filter": "tcp"}}
    changed, warnings, problems = rename(tables)
    assert changed == {"capture": {"snaplen": 96, "filter": "tcp"}}
    (warning,) = warnings
    assert warning == (
        "capture.length: is called capture.snaplen since 0.2; "
        "the next version does not know the former name"
    )
    assert problems == []
    assert tables == {"capture": {"length": 96, "filter": "tcp"}}


def test_each_sink_is_renamed_for_itself() -> None:
    sinks = [{"type": "stdout", "queue": 9}, {"type": "stdout"}, "no table", {"queue": 1}]
    changed, warnings, _ = rename({"sinks": sinks})
    assert changed["sinks"] == [
        {"type": "stdout", "queue_windows": 9},
        {"type": "stdout"},
        "no table",
        {"queue_windows": 1},
    ]
    assert [line.partition(":")[0] for line in warnings] == ["sinks[0].queue", "sinks[3].queue"]


def test_both_names_at_once_are_a_problem() -> None:
    _, warnings, problems = rename({"capture": {"length": 96, "snaplen": 128}})
    assert warnings == []
    assert problems == [
        "c.toml: capture.length: the former name of capture.snaplen, which is there, too"
    ]


@pytest.mark.parametrize("section", [7, "text", [1, [2]], None])
def test_a_section_that_is_no_table_is_left_to_the_conversion(section: object) -> None:
    assert rename({"capture": section}) == ({"capture": section}, [], [])


def test_a_configuration_with_a_former_name_is_read_and_one_with_both_is_refused(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(load, "RENAMED_KEYS", RENAMED)
    path = write_config(tmp_path, "[capture]\nlength = 96\n")
    assert load_config(path).capture.snaplen == 96
    assert "capture.length: is called capture.snaplen since 0.2" in caplog.text
    path.write_text("[capture]\nlength = 96\nsnaplen = 128\n")
    with pytest.raises(ConfigurationError, match=r"capture\.length: the former name"):
        load_config(path)


def test_an_entry_lives_for_one_version() -> None:
    assert list_expired(RENAMED, "0.2.7") == []
    assert list_expired(RENAMED, "0.3.0") == [*RENAMED]
    assert list_expired(RENAMED_KEYS, __version__) == []
