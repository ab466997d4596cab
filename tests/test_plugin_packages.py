"""The packages in plugins/ import only the interface for plugins, and describe themselves."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from hogpipe.sinks.hookspecs import PLUGIN_API

PLUGINS = Path(__file__).parent.parent / "plugins"
PACKAGES = sorted(PLUGINS.glob("hogpipe-*"))
ALLOWED = {"hogpipe", "hogpipe.errors"}


def imported(files: Path) -> Iterator[str]:
    """Yield the modules of hogpipe that the code in a folder imports."""
    for file in files.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            yield from (name for name in names if name.partition(".")[0] == "hogpipe")


def test_there_are_packages() -> None:
    assert [package.name for package in PACKAGES] == [
        "hogpipe-kafka",
        "hogpipe-nats",
        "hogpipe-otlp",
        "hogpipe-prometheus",
    ]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_package_imports_only_the_interface_for_plugins(package: Path) -> None:
    modules = set(imported(package / package.name.replace("-", "_")))
    assert modules
    assert modules <= ALLOWED


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_package_states_the_version_of_the_interface(package: Path) -> None:
    module = package / package.name.replace("-", "_") / "__init__.py"
    assert f"\nHOGPIPE_API = {PLUGIN_API}\n" in module.read_text()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_package_has_an_entry_point_and_a_readme(package: Path) -> None:
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    name = package.name.removeprefix("hogpipe-")
    assert project["name"] == package.name
    assert project["entry-points"]["hogpipe"] == {name: f"hogpipe_{name}"}
    readme = (package / "README.md").read_text()
    assert f"pip install . ./plugins/{package.name}\n" in readme
    assert f'type = "{name}"' in readme
