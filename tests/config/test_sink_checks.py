"""Problems that the `check` of a sink type finds are reported like all others."""

from pathlib import Path

import pytest
from support.configuration import problems_of

PLUGIN = """
from hogpipe import SettingProblem, SinkSettings, SinkType, hookimpl

class Settings(SinkSettings, frozen=True, kw_only=True):
    names: tuple[str, ...] = ()

def check(settings):
    {body}

@hookimpl
def hogpipe_sinks():
    return [SinkType("odd", Settings, object, check)]
"""
CONFIGURATION = """
[plugins]
paths = ["odd.py"]
[[sinks]]
type = "odd"
names = ["a", {env = "ODD_NAME"}]
"""
COMPLAIN = """
    for index, name in enumerate(settings.names):
        yield SettingProblem(("names", index), f"{name} is odd", "is odd")
"""


def test_problems_are_reported_with_their_key_path_and_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODD_NAME", "secret")
    (tmp_path / "odd.py").write_text(PLUGIN.format(body=COMPLAIN))
    assert problems_of(tmp_path, CONFIGURATION) == [
        "sinks[0].names[0]: a is odd",
        "sinks[0].names[1]: is odd",
    ]


def test_a_check_that_raises_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD_NAME", "secret")
    (tmp_path / "odd.py").write_text(PLUGIN.format(body="return [1 / 0]"))
    (problem,) = problems_of(tmp_path, CONFIGURATION)
    assert problem.startswith("sinks[0]: cannot be checked")


def test_settings_of_a_wrong_type_are_not_passed_to_the_check(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(PLUGIN.format(body=COMPLAIN))
    text = CONFIGURATION.replace('["a", {env = "ODD_NAME"}]', '["a", 5]')
    assert problems_of(tmp_path, text) == ["sinks[0].names[1]: expected str, got int"]
