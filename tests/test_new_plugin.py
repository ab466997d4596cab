"""`hogpipe plugins new` writes a package whose tests pass and whose pages agree with it."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from hogpipe.cli import commands
from hogpipe.errors import HogpipeError
from hogpipe.sinks.builtin import hogpipe_sinks
from hogpipe.sinks.hookspecs import PROJECT
from hogpipe.sinks.registry import load_plugins
from hogpipe.templates.new_plugin import write_plugin
from hogpipe.testing.documentation import check_key_table
from hogpipe.version import __version__

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "plugins.md").read_text()
GALLERY = ROOT / "plugins" / "README.md"
MODULE = "hogpipe_my_store"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_plugin("my-store", tmp_path_factory.mktemp("new"))


@pytest.fixture(scope="module")
def package(written: list[Path]) -> Path:
    return written[0].parent


def test_the_tests_of_a_new_package_pass_at_once(package: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{package}"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", package]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^\d\d passed", done.stdout, re.MULTILINE)


def test_a_new_package_offers_a_sink_type_of_its_name(package: Path) -> None:
    registry = load_plugins([package / MODULE / "__init__.py"], ())
    settings = registry.sink_types["my-store"].settings
    assert settings.__name__ == "MyStoreSettings"
    check_key_table((package / "README.md").read_text(), settings)


def test_nothing_in_a_new_package_has_the_name_of_the_sample(written: list[Path]) -> None:
    for path in written:
        assert "forward" not in str(path)
        assert "forward" not in path.read_text().lower()


def test_the_project_of_a_new_package_is_found_when_it_is_installed(package: Path) -> None:
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    assert project["name"] == package.name == "hogpipe-my-store"
    assert project["entry-points"][PROJECT] == {"my-store": MODULE}
    (hogpipe,) = map(Requirement, project["dependencies"])
    assert __version__ in hogpipe.specifier


@pytest.mark.parametrize("name", ["", "Store", "my--store", "-store", "3com", "a/b", "é", "a\n"])
def test_a_name_that_cannot_be_one_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(HogpipeError, match="cannot be a name"):
        write_plugin(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_sink_type_of_hogpipe_is_no_name_for_another(tmp_path: Path) -> None:
    with pytest.raises(HogpipeError, match="'tcp' is a sink type of hogpipe"):
        write_plugin("tcp", tmp_path)


def test_a_folder_that_exists_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "hogpipe-store").mkdir()
    with pytest.raises(HogpipeError, match="hogpipe-store exists"):
        write_plugin("store", tmp_path)
    assert not list((tmp_path / "hogpipe-store").iterdir())


def test_the_guide_shows_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shown,) = re.findall(r"<!-- new -->\n```console\n(.*?)```", GUIDE, re.DOTALL)
    first, _, printed = shown.partition("\n")
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(commands, first.split()[2:]).output == printed


def test_the_command_list_may_be_left_out() -> None:
    outputs = []
    for words in ([], ["list"]):  # in processes of their own, which give up their privileges
        command = [sys.executable, "-m", "hogpipe", "plugins", *words]
        outputs.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert outputs[0] == outputs[1]
    assert outputs[0].startswith("builtin ")


def test_the_gallery_has_each_built_in_sink_package_and_example() -> None:
    page = GALLERY.read_text()
    built_in = {f"[`{one.name}`]" for one in hogpipe_sinks()}
    packages = {f"]({one.name}/README.md)" for one in GALLERY.parent.glob("hogpipe-*")}
    examples = {f"]({one.name})" for one in GALLERY.parent.glob("*.py")}
    assert [one for one in {*built_in, *packages, *examples} if one not in page] == []
