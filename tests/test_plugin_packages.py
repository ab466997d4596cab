"""The packages in plugins/ import only the interface for plugins, and describe themselves."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from hogpipe.sinks.hookspecs import PLUGIN_API
from hogpipe.version import __version__

PLUGINS = Path(__file__).parent.parent / "plugins"
PACKAGES = sorted(PLUGINS.glob("hogpipe-*"))
SINKS = [package for package in PACKAGES if package.name != "hogpipe-pytest"]
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
        "hogpipe-http",
        "hogpipe-kafka",
        "hogpipe-nats",
        "hogpipe-otlp",
        "hogpipe-prometheus",
        "hogpipe-pytest",
        "hogpipe-web",
    ]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_package_imports_only_the_interface_for_plugins(package: Path) -> None:
    modules = set(imported(package / package.name.replace("-", "_")))
    assert modules
    assert modules <= ALLOWED


@pytest.mark.parametrize("package", SINKS, ids=lambda package: package.name)
def test_a_package_states_the_version_of_the_interface(package: Path) -> None:
    module = package / package.name.replace("-", "_") / "__init__.py"
    assert f"\nHOGPIPE_API = {PLUGIN_API}\n" in module.read_text()


@pytest.mark.parametrize("package", SINKS, ids=lambda package: package.name)
def test_a_package_has_an_entry_point_and_a_readme(package: Path) -> None:
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    name = package.name.removeprefix("hogpipe-")
    assert project["name"] == package.name
    assert project["entry-points"]["hogpipe"] == {name: f"hogpipe_{name}"}
    readme = (package / "README.md").read_text()
    assert f"pip install . ./plugins/{package.name}\n" in readme
    assert f'type = "{name}"' in readme


def test_the_plugin_of_pytest_has_an_entry_point_and_a_readme() -> None:
    package = PLUGINS / "hogpipe-pytest"
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    assert project["name"] == package.name
    assert project["entry-points"]["pytest11"] == {"hogpipe": "hogpipe_pytest"}
    assert f"pip install . ./plugins/{package.name}\n" in (package / "README.md").read_text()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_package_requires_a_hogpipe_with_the_same_interface(package: Path) -> None:
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    (bounds,) = (
        requirement.specifier
        for requirement in map(Requirement, project["dependencies"])
        if requirement.name == "hogpipe"
    )
    version = Version(__version__)
    major, minor = version.major, version.minor
    # Before 1.0 a minor version may change the interface, after it only a major one.
    following = f"{major + 1}.0" if major else f"0.{minor + 1}"
    assert bounds.contains(version, prereleases=True)
    assert bounds.contains(f"{major}.{minor}.99")
    assert not bounds.contains(following)
    assert not bounds.contains(f"{following}.dev0", prereleases=True)
