"""config.toml and docs/configuration.md agree with the structs."""

import json
import re
import tomllib
from pathlib import Path

import msgspec
import pytest
from support.configuration import load_text, problems_of

from hogpipe.config import Settings, load_config
from hogpipe.sinks.contract import SinkSettings
from hogpipe.sinks.encoding import JsonSettings
from hogpipe.sinks.registry import load_plugins

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "config.toml").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
SECTIONS = {
    field.name: field.type
    for field in msgspec.structs.fields(Settings)
    if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
}
SINK_TYPES = load_plugins([], []).sink_types
BUILT_IN = "### Built-in sinks"
WRITE_JSON = "### Sinks that write JSON"


def keys_of(struct: type[msgspec.Struct], beyond: type[msgspec.Struct] | None = None) -> list[str]:
    others = beyond.__struct_fields__ if beyond else ()
    return [name for name in struct.__struct_fields__ if name not in others]


def default_of(struct: type[msgspec.Struct], key: str) -> object:
    """Return the default as a TOML value; None if there is none."""
    (field,) = (field for field in msgspec.structs.fields(struct) if field.name == key)
    if field.required:
        return None
    return json.loads(msgspec.json.encode(field.default, enc_hook=str))


def uncomment(text: str) -> str:
    """Return `text` with its commented-out settings made active."""
    return re.sub(r"^# (\w+ = |\[\[)", r"\1", text, flags=re.MULTILINE)


def test_the_example_is_valid_and_holds_the_defaults() -> None:
    settings = load_config(ROOT / "config.toml")
    assert msgspec.structs.replace(settings, sinks=()) == Settings()
    assert [choice.type.name for choice in settings.sinks] == ["stdout", "jsonl"]
    assert getattr(settings.sinks[1].settings, "path", None) == ROOT / "hogpipe.jsonl"


@pytest.mark.parametrize("section", SECTIONS)
def test_the_example_shows_every_key_with_its_default(section: str) -> None:
    shown = tomllib.loads(uncomment(EXAMPLE))[section]
    assert list(shown) == keys_of(SECTIONS[section])
    for key, value in shown.items():
        default = default_of(SECTIONS[section], key)
        assert default is None or (value, type(value)) == (default, type(default)), key


def test_the_example_shows_every_key_of_the_sinks_with_its_default() -> None:
    sinks = tomllib.loads(uncomment(EXAMPLE))["sinks"]
    assert {sink["type"] for sink in sinks} == set(SINK_TYPES)
    assert set(keys_of(JsonSettings)) <= set(sinks[0])
    for sink in sinks:
        struct = SINK_TYPES[sink["type"]].settings
        assert set(keys_of(struct, beyond=JsonSettings)) <= set(sink)
        for key, value in sink.items():
            if (sink["type"], key) == ("jsonl", "stats"):  # an idle host shall fill no disk
                assert value == "60s"
                continue
            default = default_of(struct, key)
            assert default is None or (value, type(value)) == (default, type(default)), key


def describe_default(struct: type[msgspec.Struct], key: str) -> str:
    """Return the default of `key` as the reference writes it."""
    (field,) = (field for field in msgspec.structs.fields(struct) if field.name == key)
    if field.required:
        return "required"
    default = default_of(struct, key)
    return "none" if default is None else write_default(default)


def rows_after(heading: str) -> dict[str, str]:
    """Return the defaults in the first table after `heading`, by key."""
    table = REFERENCE.partition(heading)[2].partition("\n##")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", table, re.MULTILINE))


def write_default(default: object) -> str:
    """Return a default as the reference writes it."""
    if isinstance(default, list):
        return f"`[{', '.join(write_default(item).strip('`') for item in default)}]`"
    return f"`{msgspec.json.encode(default).decode()}`"


@pytest.mark.parametrize("section", SECTIONS)
def test_the_reference_lists_every_key_with_its_default(section: str) -> None:
    documented = rows_after(f"## `[{section}]`")
    assert list(documented) == keys_of(SECTIONS[section])
    for key, text in documented.items():
        default = default_of(SECTIONS[section], key)
        assert text == ("none" if default is None else write_default(default)), key


def test_the_reference_lists_the_keys_of_every_sink() -> None:
    documented = rows_after("## `[[sinks]]`")
    assert list(documented) == keys_of(SinkSettings)
    assert (documented.pop("type"), documented.pop("name")) == ("required", "the type")
    for key, text in documented.items():
        default = default_of(SinkSettings, key)
        assert text == ("none" if default is None else write_default(default)), key


def test_the_reference_lists_the_keys_of_each_built_in_sink() -> None:
    table = REFERENCE.partition(BUILT_IN)[2].partition(WRITE_JSON)[0]
    documented = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.+?) \|", table, re.MULTILINE)
    taken = [
        (name, key, describe_default(sink_type.settings, key))
        for name, sink_type in SINK_TYPES.items()
        for key in keys_of(sink_type.settings, beyond=JsonSettings)
    ]
    assert sorted(documented) == sorted(taken)


def test_the_reference_lists_the_keys_of_sinks_that_write_json() -> None:
    table = REFERENCE.partition(WRITE_JSON)[2].partition("\n##")[0]
    documented = re.findall(r"^\| `(\w+)` \| (.+?) \|", table, re.MULTILINE)
    keys = keys_of(JsonSettings, beyond=SinkSettings)
    assert documented == [(key, describe_default(JsonSettings, key)) for key in keys]
    others = [
        name for name, one in SINK_TYPES.items() if not issubclass(one.settings, JsonSettings)
    ]
    assert others == ["sqlite"]


def test_each_bound_in_the_structs_is_in_the_reference() -> None:
    for section, struct in SECTIONS.items():
        for field in msgspec.structs.fields(struct):
            for meta in getattr(field.type, "__metadata__", ()):
                (row,) = re.findall(rf"^\| `{field.name}` \|.*$", REFERENCE, re.MULTILINE)[:1]
                bound = row.rpartition("| ")[2]
                for number in (meta.ge, meta.gt, meta.le):
                    assert number is None or re.search(rf"\b{number}\b", bound), (section, row)


def test_the_errors_in_the_reference_are_the_real_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    chapter = REFERENCE.partition("## Errors")[2]
    file, lines = re.findall(r"```(?:toml|text)\n(.*?)```", chapter, re.DOTALL)
    problems = problems_of(tmp_path, file)
    assert [f"config.toml: {problem}" for problem in problems] == lines.splitlines()


def test_the_references_in_the_reference_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLECTOR", "::1")
    (tmp_path / "port").write_text("5170\n")
    chapter = REFERENCE.partition("## Values kept elsewhere")[2]
    file = re.findall(r"```toml\n(.*?)```", chapter, re.DOTALL)[0]
    settings = load_text(tmp_path, file.replace("/run/secrets/port", "port"))
    assert getattr(settings.sinks[0].settings, "port", None) == 5170
