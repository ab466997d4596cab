from pathlib import Path

import pytest
from support.configuration import load_text, problems_of

from hogpipe.config.overrides import apply_override


@pytest.mark.parametrize(
    ("override", "tables"),
    [
        ('a.b=["lo"]', {"a": {"b": ["lo"]}}),
        ("a.b=0.5", {"a": {"b": 0.5}}),
        ("a.b=true", {"a": {"b": True}}),
        ("a.b='true'", {"a": {"b": "true"}}),
        ('a={env = "A"}', {"a": {"env": "A"}}),
        ("a.b=out.jsonl", {"a": {"b": "out.jsonl"}}),
        ("a.b=x=y", {"a": {"b": "x=y"}}),
        ("a.b=", {"a": {"b": ""}}),
        ("a.b=1, c = 2", {"a": {"b": "1, c = 2"}}),
        ("a.b=1 # 2", {"a": {"b": "1 # 2"}}),
        ("a.b=1}\nc = {d = 2", {"a": {"b": "1}\nc = {d = 2"}}),
        ("s[0].x=1", {"s": [{"x": 1}]}),
        ("s.0.x=1", {"s": [{"x": 1}]}),
    ],
)
def test_a_value_is_parsed_as_toml_and_stands_for_itself_where_it_is_none(
    override: str, tables: dict[str, object]
) -> None:
    assert apply_override({}, override) == tables


def test_text_stands_for_an_array_with_one_item_where_an_array_is_expected(tmp_path: Path) -> None:
    settings = load_text(
        tmp_path, "", "capture.interfaces=lo", "aggregation.only=pid:1", "plugins.paths=[]"
    )
    assert settings.capture.interfaces == ("lo",)
    assert settings.aggregation.only == ("pid:1",)


def test_text_in_the_file_does_not_stand_for_an_array(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, '[capture]\ninterfaces = "lo"')
    assert problems == ["capture.interfaces: expected array, got str"]


def test_other_values_stay_unchanged() -> None:
    tables = {"a": {"b": 1, "c": 2}, "s": [{"x": 1, "y": 2}, {"x": 3}]}
    changed = apply_override(apply_override(tables, "a.b=5"), "s[1].y=6")
    assert changed == {"a": {"b": 5, "c": 2}, "s": [{"x": 1, "y": 2}, {"x": 3, "y": 6}]}
    assert tables == {"a": {"b": 1, "c": 2}, "s": [{"x": 1, "y": 2}, {"x": 3}]}


def test_a_sink_is_appended_at_the_next_free_index(tmp_path: Path) -> None:
    text = '[[sinks]]\ntype = "stdout"'
    settings = load_text(tmp_path, text, "sinks[1].type=jsonl", "sinks[1].path=out.jsonl")
    assert [choice.type.name for choice in settings.sinks] == ["stdout", "jsonl"]


def test_an_override_may_correct_an_error_in_the_file(tmp_path: Path) -> None:
    settings = load_text(tmp_path, '[aggregation]\ninterval = "x"', "aggregation.interval=2")
    assert settings.aggregation.interval == 2.0


def test_the_last_override_of_a_key_wins(tmp_path: Path) -> None:
    overrides = ("aggregation.interval=2", "aggregation.interval=3")
    assert load_text(tmp_path, "", *overrides).aggregation.interval == 3.0


def test_an_override_of_an_unknown_key_is_reported_as_such(tmp_path: Path) -> None:
    assert problems_of(tmp_path, "", "capture.interfacs=1", "capture.snaplen=x") == [
        'capture.interfacs: unknown key; did you mean "interfaces"?',
        "capture.snaplen: expected int, got str",
    ]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("capture.snaplen", "--set capture.snaplen: expected KEY=VALUE"),
        ("=1", "--set : the key is not a path such as sinks[0].path"),
        ("a..b=1", "--set a..b: the key is not a path such as sinks[0].path"),
        ("a[x]=1", "--set a[x]: the key is not a path such as sinks[0].path"),
        ("a\x1b=1", "--set a\\x1b: the key is not a path such as sinks[0].path"),
        ("capture.filter=\udcff", "--set capture.filter: the value is not UTF-8"),
        (
            "sinks[2].type=tcp",
            "--set sinks[2].type: sinks has 1 items, so the next free index is 1",
        ),
        (
            "sinks.first.type=tcp",
            '--set sinks.first.type: sinks is an array: expected an index, got "first"',
        ),
        (
            "sinks[0].type.x=1",
            "--set sinks[0].type.x: sinks[0].type is neither a table nor an array",
        ),
    ],
)
def test_an_override_that_cannot_be_applied_is_reported_with_its_key(
    tmp_path: Path, override: str, problem: str
) -> None:
    assert problems_of(tmp_path, '[[sinks]]\ntype = "stdout"', override) == [problem]


def test_an_override_may_not_nest_without_limit(tmp_path: Path) -> None:
    assert problems_of(tmp_path, "", "a" + ".a" * 5000 + "=1") == ["nested too deeply"]
    assert problems_of(tmp_path, "", "a=" + "[" * 5000) == ["nested too deeply"]
