"""The converter, on structs of every kind that a plugin may have."""

import enum
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from hogpipe.config.convert import Converter
from hogpipe.config.problems import Problems
from hogpipe.config.references import ReferencedText


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Inner(msgspec.Struct, frozen=True, rename="kebab"):
    max_size: Annotated[int, Meta(ge=1, lt=10)] = 5


class Dark(msgspec.Struct, frozen=True, tag_field="tone", tag="dark"):
    pass


class Light(msgspec.Struct, frozen=True, tag_field="tone", tag="light"):
    pass


class Outer(msgspec.Struct, frozen=True):
    inner: Inner = Inner()
    maybe: Inner | None = None
    many: tuple[Inner, ...] = ()
    by_name: dict[str, Inner] = {}
    files: list[Path] = []
    pair: tuple[str, int] = ("", 0)
    either: int | str = 0
    colour: Colour = Colour.RED
    level: Literal[1, 2] = 1
    share: float | None = None
    code: Annotated[str, Meta(min_length=2, max_length=3)] = "ab"
    part: Annotated[float, Meta(lt=0.5)] = 0
    coats: tuple[Colour, ...] = ()
    shade: Dark | Light = Dark()
    angle: float = 0
    anything: object = None


def convert(table: dict[str, object]) -> tuple[Outer, list[str]]:
    """Return a table as a struct, and the problems."""
    found = Problems()
    for key, value in table.items():
        parts = value.values() if isinstance(value, dict) else [value]
        if any(isinstance(part, ReferencedText) for part in parts):
            found.mark_secret(("outer", key))
    converter = Converter(Path("/base").joinpath, found)
    outer = converter.convert_section({"outer": table}, "outer", Outer)
    return outer, [line.removeprefix("file: outer.") for line in found.format_lines("file")]


def test_structs_are_converted_at_any_depth() -> None:
    outer, problems = convert(
        {
            "inner": {"max-size": 1},
            "maybe": {"max-size": 2},
            "many": [{"max-size": 3}, {}],
            "by_name": {"a": {"max-size": 4}},
            "files": ["x", "/y"],
            "pair": ["x", 1],
            "either": "x",
            "colour": "blue",
            "level": 2,
            "share": 1,
        }
    )
    assert problems == []
    assert outer == Outer(
        inner=Inner(1),
        maybe=Inner(2),
        many=(Inner(3), Inner()),
        by_name={"a": Inner(4)},
        files=[Path("/base/x"), Path("/y")],
        pair=("x", 1),
        either="x",
        colour=Colour.BLUE,
        level=2,
        share=1.0,
    )


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"inner": {"max-size": 10}}, "inner.max-size: must be at most 9"),
        ({"inner": {"max_size": 1}}, 'inner.max_size: unknown key; did you mean "max-size"?'),
        ({"maybe": 5}, "maybe: expected table, got int"),
        ({"many": [{}, {"max-size": 0}]}, "many[1].max-size: must be at least 1"),
        ({"many": {}}, "many: expected array, got table"),
        ({"by_name": {"a b": {"max-size": ""}}}, 'by_name."a b".max-size: expected int, got str'),
        ({"by_name": []}, "by_name: expected table, got array"),
        ({"files": ["x", 1]}, "files[1]: expected str, got int"),
        ({"pair": ["x", "y"]}, "pair: expected int, got str (at [1])"),
        ({"pair": ["x"]}, "pair: expected array of length 2, got 1"),
        ({"either": []}, "either: expected int | str, got array"),
        ({"colour": "rde"}, 'colour: must be "red" or "blue", not "rde"'),
        ({"level": 3}, "level: must be 1 or 2, not 3"),
        ({"level": 1 << 20_000}, "level: must fit into 64 bits"),
        ({"share": True}, "share: expected float, got bool"),
        ({"share": float("inf")}, "share: must be a finite number"),
        ({"share": ReferencedText("-inf")}, "share: must be a finite number"),
        ({"share": 10**400}, "share: must fit into 64 bits"),
        ({"share": ReferencedText("1e999")}, "share: number out of range"),
        ({"code": "a"}, "code: must have at least 2 characters"),
        ({"code": "abcd"}, "code: must have at most 3 characters"),
        ({"part": 0.5}, "part: must be less than 0.5"),
        ({"coats": ["red", "rde"]}, 'coats[1]: must be "red" or "blue", not "rde"'),
        ({"shade": {"tone": "grey"}}, "shade: invalid value 'grey' (at .tone)"),
        ({"shade": {"tone": ReferencedText("grey")}}, "shade: not a valid value"),
        ({"level": ReferencedText("3")}, "level: must be 1 or 2"),
        ({"ang\nle": 1}, '"ang\\nle": unknown key; did you mean "angle"?'),
    ],
)
def test_a_wrong_value_gets_a_readable_problem(table: dict[str, object], problem: str) -> None:
    _, problems = convert(table)
    assert problems == [problem]


def test_references_are_replaced_by_their_text_at_any_depth() -> None:
    outer, problems = convert(
        {
            "pair": ["x", ReferencedText("7")],
            "anything": {"a": [ReferencedText("b")]},
            "level": ReferencedText("2"),
        }
    )
    assert problems == []
    assert outer == Outer(pair=("x", 7), anything={"a": ["b"]}, level=2)


def test_the_text_of_a_reference_is_not_in_its_representation() -> None:
    assert "hush" not in repr(ReferencedText("hush"))
