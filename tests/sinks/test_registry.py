"""Sink types come from packages and files, and a plugin that fails harms no other."""

import importlib.util
import py_compile
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

import pytest

from hogpipe.sinks.hookspecs import PLUGIN_API
from hogpipe.sinks.registry import PluginInfo, Registry, load_plugins

GOOD = """
from hogpipe import SinkSettings, SinkType, hookimpl
__version__ = "1.2"
class Settings(SinkSettings, frozen=True):
    colour: str = "red"
@hookimpl
def hogpipe_sinks():
    yield SinkType("NAME", Settings, lambda settings: None)
"""
BUILT_IN = ("jsonl", "sqlite", "stdout", "tcp")


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text))
    return path


def _good(path: Path, sink: str) -> Path:
    return _write(path, GOOD.replace("NAME", sink))


def _only(plugins: Sequence[PluginInfo]) -> PluginInfo:
    (plugin,) = plugins
    return plugin


def _failure(registry: Registry) -> str:
    """Return the error of the one plugin that failed; the built-in types are still there."""
    assert tuple(registry.sink_types)[: len(BUILT_IN)] == BUILT_IN
    plugin = _only(registry.failures)
    assert plugin.state == "failed"
    assert plugin.sinks == ()
    assert plugin.error is not None
    assert plugin.error.isprintable()
    return plugin.error


def test_the_built_in_sinks_are_a_plugin() -> None:
    registry = load_plugins([], [])
    plugin = _only(registry.plugins)
    assert (plugin.name, plugin.origin, plugin.state) == ("builtin", "built-in", "built-in")
    assert plugin.sinks == tuple(registry.sink_types) == BUILT_IN


def test_a_file_offers_its_sink_types(tmp_path: Path) -> None:
    file = _good(tmp_path / "mine.py", "mine")
    before = list(sys.path)
    registry = load_plugins([file], [])
    assert registry.sink_types["mine"].settings(type="mine").type == "mine"
    assert registry.plugins[1] == PluginInfo("mine", str(file), "1.2", ("mine",), "loaded")
    assert sys.path == before


def test_a_folder_stands_for_its_public_files_in_order(tmp_path: Path) -> None:
    for name in ("b", "a", "_c"):
        _good(tmp_path / f"{name}.py", name)
    _write(tmp_path / "readme.txt", "not a plugin")
    registry = load_plugins([tmp_path, tmp_path / "a.py"], [])
    assert [plugin.name for plugin in registry.plugins] == ["builtin", "a", "b"]


def test_files_of_the_same_name_are_different_modules(tmp_path: Path) -> None:
    one, two = _good(tmp_path / "1" / "same.py", "one"), _good(tmp_path / "2" / "same.py", "two")
    registry = load_plugins([one, two], [])
    assert registry.failures == []
    assert {"one", "two"} <= registry.sink_types.keys()


def test_a_disabled_plugin_is_not_imported(tmp_path: Path) -> None:
    file = _write(tmp_path / "loud.py", "raise RuntimeError")
    registry = load_plugins([file], ["loud", "builtin"])
    assert [plugin.state for plugin in registry.plugins] == ["disabled", "disabled"]
    assert dict(registry.sink_types) == {}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("raise RuntimeError('no\\x1b[2J\\nway')", r"RuntimeError: no\x1b[2J; way"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import hogpipe_no_such_module", "ModuleNotFoundError: "),
        ("def (", "SyntaxError: "),
        ("x = 1", "TypeError: it has no function hogpipe_sinks marked with @hookimpl"),
        (
            "from hogpipe import hookimpl\n@hookimpl\ndef hogpipe_sinks(config): return []",
            "PluginValidationError: ",
        ),
        (
            "from hogpipe import hookimpl\n@hookimpl\ndef hogpipe_sink(): return []",
            "PluginValidationError: ",
        ),
        (
            "from hogpipe import hookimpl\n@hookimpl\ndef hogpipe_sinks(): raise OSError('broken')",
            "OSError: broken",
        ),
        (
            "from hogpipe import hookimpl\n@hookimpl\ndef hogpipe_sinks(): return ['tcp']",
            "TypeError: hogpipe_sinks must return SinkTypes, not 'tcp'",
        ),
        (GOOD.replace('"NAME"', "3"), "TypeError: a sink type's name must be printable text"),
        (GOOD.replace("(SinkSettings, frozen=True)", ""), "TypeError: the settings of 'NAME'"),
        (GOOD.replace("lambda settings: None", "None"), "TypeError: the sink type 'NAME' has"),
        (
            GOOD.replace("lambda settings: None", "lambda settings: None, None"),
            "TypeError: the sink type 'NAME' has nothing callable to check settings",
        ),
        (
            GOOD.replace('colour: str = "red"', "both: list | set | str"),
            "TypeError: Type unions may not contain more than one array-like",
        ),
        (
            GOOD.replace("NAME", "tcp"),
            "ValueError: the sink type 'tcp' is taken by builtin (built-in)",
        ),
    ],
)
def test_a_failing_plugin_is_left_out_with_its_error(tmp_path: Path, text: str, error: str) -> None:
    before = set(sys.modules)
    bad = _write(tmp_path / "bad.py", text)
    registry = load_plugins([bad, _good(tmp_path / "good.py", "good")], [])
    assert _failure(registry).startswith(error)
    assert "good" in registry.sink_types
    left = {name for name in set(sys.modules) - before if name.startswith("hogpipe_plugin_")}
    assert all("good" in name for name in left)


def test_the_later_of_two_plugins_with_one_sink_type_is_left_out(tmp_path: Path) -> None:
    _good(tmp_path / "a.py", "same")
    _write(
        tmp_path / "b.py",
        GOOD.replace("NAME", "other") + '    yield SinkType("same", Settings, print)\n',
    )
    registry = load_plugins([tmp_path], [])
    assert f"'same' is taken by a ({tmp_path / 'a.py'})" in _failure(registry)
    assert "other" not in registry.sink_types


def test_a_missing_path_is_a_failure(tmp_path: Path) -> None:
    assert _failure(load_plugins([tmp_path / "gone.py"], [])).startswith("FileNotFoundError: ")


def test_a_file_that_is_not_python_is_a_failure(tmp_path: Path) -> None:
    assert "is no Python file" in _failure(load_plugins([_write(tmp_path / "x.toml", "")], []))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("x = 1\nraise RuntimeError('broken')", "RuntimeError: broken (bad.py, line 2)"),
        ("x = 1\nimport json\njson.loads('')", "(bad.py, line 3)"),
        (
            "from hogpipe import hookimpl\n@hookimpl\ndef hogpipe_sinks():\n    return 1 / 0",
            "ZeroDivisionError: division by zero (bad.py, line 4)",
        ),
        ("import hogpipe_no_such_module", "(bad.py, line 1)"),
        ("class Stop(BaseException): pass\nraise Stop", "Stop (bad.py, line 2)"),
        ("import asyncio\nraise asyncio.CancelledError", "CancelledError (bad.py, line 2)"),
        ("raise GeneratorExit", "GeneratorExit (bad.py, line 1)"),
    ],
)
def test_a_failure_names_the_line_of_the_plugin(tmp_path: Path, text: str, place: str) -> None:
    assert _failure(load_plugins([_write(tmp_path / "bad.py", text)], [])).endswith(place)


def test_the_user_can_interrupt_loading(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        load_plugins([_write(tmp_path / "slow.py", "raise KeyboardInterrupt")], [])


@pytest.mark.parametrize("line", ["", f"HOGPIPE_API = {PLUGIN_API}"])
def test_a_plugin_made_for_this_or_no_version_is_loaded(tmp_path: Path, line: str) -> None:
    file = _good(tmp_path / "mine.py", "mine")
    file.write_text(f"{line}\n{file.read_text()}")
    assert load_plugins([file], []).failures == []


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        (
            str(PLUGIN_API + 1),
            f"ImportError: it was made for plugin API {PLUGIN_API + 1}, and hogpipe has",
        ),
        ("'1'", "TypeError: HOGPIPE_API must be a number such as 1"),
        ("True", "TypeError: HOGPIPE_API must be a number such as 1"),
        ("0", "TypeError: HOGPIPE_API must be a number such as 1"),
    ],
)
def test_a_plugin_for_a_newer_version_is_left_out(tmp_path: Path, wanted: str, error: str) -> None:
    file = _good(tmp_path / "mine.py", "mine")
    file.write_text(f"HOGPIPE_API = {wanted}\n{file.read_text()}")
    assert _failure(load_plugins([file], [])).startswith(error)


def test_settings_may_have_string_annotations(tmp_path: Path) -> None:
    file = _good(tmp_path / "late.py", "late")
    file.write_text(f"from __future__ import annotations\n{file.read_text()}")
    assert load_plugins([file], []).failures == []


def _install(site: Path, name: str, version: str, module: str, text: str) -> None:
    _write(site / f"{module}.py", text)
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    _write(info / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    _write(info / "entry_points.txt", f"[hogpipe]\n{module} = {module}\n")


def test_installed_packages_are_loaded_though_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(tmp_path, "hogpipe-broken", "0.1", "hogpipe_a_broken", "raise ValueError('broken')")
    _install(tmp_path, "hogpipe-fine", "2.0", "hogpipe_b_fine", GOOD.replace("NAME", "fine"))
    monkeypatch.syspath_prepend(tmp_path)
    registry = load_plugins([], [])
    assert _failure(registry) == "ValueError: broken (hogpipe_a_broken.py, line 1)"
    broken, fine = registry.plugins[1:]
    assert (broken.origin, broken.version) == ("hogpipe-broken 0.1", "0.1")
    assert fine == PluginInfo("hogpipe_b_fine", "hogpipe-fine 2.0", "2.0", ("fine",), "loaded")
    monkeypatch.delitem(sys.modules, "hogpipe_b_fine")


def test_bytecode_that_others_may_have_placed_beside_a_file_is_not_used(tmp_path: Path) -> None:
    path = _good(tmp_path / "mine.py", "planted")
    planted = Path(importlib.util.cache_from_source(str(path)))
    checks_nothing = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(path), cfile=str(planted), invalidation_mode=checks_nothing)
    before = planted.read_bytes()
    _good(path, "own")
    assert "own" in load_plugins([path], ()).sink_types
    assert planted.read_bytes() == before


def test_no_bytecode_is_written_beside_a_file(tmp_path: Path) -> None:
    path = _good(tmp_path / "mine.py", "own")
    assert "own" in load_plugins([path], ()).sink_types
    assert [*tmp_path.iterdir()] == [path]
