"""The guide for plugins shows tested code, and the reference omits nothing of the interface.

A new hook, export, key of every sink, promise or field of a case fails a test here until
docs/plugin-reference.md has it.
"""

import re
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import msgspec
import pytest

import hogpipe
import hogpipe.testing
from hogpipe import PLUGIN_API, SinkSettings, load_config
from hogpipe.sinks import hookspecs
from hogpipe.sinks.registry import load_plugins
from hogpipe.testing import PROMISES, Findings, SinkCase

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "plugins.md").read_text()
REFERENCE = (ROOT / "docs" / "plugin-reference.md").read_text()
BLOCKS = re.findall(
    r"^(?:<!-- (\S+) -->\n)?```(\w*)\n(.*?)^```$", GUIDE + REFERENCE, re.DOTALL | re.MULTILINE
)
FILES = [
    "plugins/example_total.py",
    "plugins/example_sqlite.py",
    "plugins/example_forward.py",
    "tests/sinks/test_example_forward.py",
]
HOOKS = [name for name, made in vars(hookspecs).items() if hasattr(made, "hogpipe_spec")]


def _blocks(mark: str) -> list[str]:
    return [text for found, _language, text in BLOCKS if found == mark]


def _without_blank_lines(code: str) -> list[str]:
    return [line for line in code.splitlines() if line.strip()]


def test_each_block_of_the_guide_is_tested() -> None:
    assert all(mark and language for mark, language, _text in BLOCKS)
    assert {mark for mark, _, _ in BLOCKS} == {*FILES, "configuration", "pyproject", "new"}


@pytest.mark.parametrize("file", FILES)
def test_the_guide_shows_whole_files_that_are_tested(file: str) -> None:
    shown = "\n".join(_blocks(file))
    assert _without_blank_lines(shown) == _without_blank_lines((ROOT / file).read_text())


@pytest.mark.parametrize("number", range(len(_blocks("configuration"))))
def test_its_configurations_are_valid(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARD_TOKEN", "secret")
    (tmp_path / "plugins").symlink_to(ROOT / "plugins")
    path = tmp_path / "config.toml"
    path.write_text(_blocks("configuration")[number])
    (choice,) = load_config(path).sinks
    assert choice.type.name in {"total", "forward"}


def test_its_package_is_found_when_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = _blocks("pyproject")
    project = tomllib.loads(block)["project"]
    ((name, module),) = project["entry-points"][hookspecs.PROJECT].items()
    (tmp_path / module).mkdir()
    shutil.copy(ROOT / "plugins" / "example_forward.py", tmp_path / module / "__init__.py")
    info = tmp_path / f"{module}-{project['version']}.dist-info"
    info.mkdir()
    about = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(about)
    (info / "entry_points.txt").write_text(f"[{hookspecs.PROJECT}]\n{name} = {module}\n")
    monkeypatch.syspath_prepend(tmp_path)
    (plugin,) = [one for one in load_plugins([], []).plugins if one.name == name]
    assert (plugin.state, plugin.sinks, plugin.version) == ("loaded", ("forward",), "0.1.0")


def _offers_sink_types(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    shutil.copy(ROOT / "plugins" / "example_total.py", file)
    assert "total" in load_plugins([file], []).sink_types


EXERCISES: dict[str, Callable[[Path], None]] = {"hogpipe_sinks": _offers_sink_types}
"""A test of each hook: that it is called, and its result used."""


def test_each_hook_has_a_test() -> None:
    assert HOOKS
    assert sorted(EXERCISES) == sorted(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_is_documented_and_works(hook: str, tmp_path: Path) -> None:
    assert f"`{hook}`" in GUIDE
    assert f"`{hook}`" in REFERENCE
    EXERCISES[hook](tmp_path)


@pytest.mark.parametrize("name", [*hogpipe.__all__, *hogpipe.testing.__all__])
def test_each_public_name_is_documented(name: str) -> None:
    assert re.search(rf"`{name}\b", REFERENCE), f"docs/plugin-reference.md omits {name}"


@pytest.mark.parametrize("field", [*fields(SinkCase), *fields(Findings)], ids=lambda f: f.name)
def test_each_field_of_a_case_and_of_findings_is_documented(field: object) -> None:
    name = getattr(field, "name", "")
    assert re.search(rf"`(Findings\.)?{name}`", REFERENCE)


def test_each_promise_is_documented_in_its_order() -> None:
    table = REFERENCE.partition("| promise |")[2]
    listed = re.findall(r"^\| `([a-z ]+)` \|", table, re.MULTILINE)
    assert tuple(listed[: len(PROMISES)]) == PROMISES


def test_each_key_that_every_sink_takes_is_documented_with_its_default() -> None:
    for field in msgspec.structs.fields(SinkSettings):
        default = field.default
        shown = {
            str: f'`"{default}"`',
            int: f"{default}",
            float: f"{default}",
            bool: f"`{str(default).lower()}`",
        }.get(type(default), "")
        shown = "the type" if field.name == "name" else shown
        row = re.search(rf"^\| `{field.name}` \| (.*?) ?\| ", REFERENCE, re.MULTILINE)
        assert row, field.name
        assert row[1] == shown, field.name


def test_the_reference_names_the_version_of_the_interface() -> None:
    assert f"`HOGPIPE_API = {PLUGIN_API}`" in REFERENCE
    assert re.search(rf"It is\s+{PLUGIN_API}\.", REFERENCE)
