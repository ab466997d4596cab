#!/usr/bin/env python3
"""Build the wheels and sdists of hogpipe and of each plugin package, from a clone, into dist/.

    python3 packaging/build_dist.py [FOLDER]

Needs git and a Python with venv; the build backend is installed into a temporary environment.

What is built: the files that git tracks, as they are in the working tree, so that no stray file
gets into a package. Each sdist is built from these, and each wheel from its sdist, so that
whoever has the sdist can build the wheel. The paths of the packages are printed, one a line;
files of the same name in FOLDER are replaced, others are left alone.

The same files and the same version of hatchling give the same bytes: times in the archives are
SOURCE_DATE_EPOCH, else the time of the last commit.

Exit code: 0; 1 if a build fails, or if the BPF object is not that of its sources.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import build_bpf

ROOT = Path(__file__).resolve().parent.parent


class BuildError(Exception):
    """A package cannot be built; the text says why."""


def list_projects(tree: Path) -> list[Path]:
    """Return the folders of hogpipe and of its plugin packages."""
    return [tree, *sorted(path.parent for path in tree.glob("plugins/hogpipe-*/pyproject.toml"))]


def copy_tracked(clone: Path, folder: Path) -> Path:
    """Copy the files that git tracks in a clone, symbolic links as such. Raises BuildError."""
    for name in _run(["git", "ls-files", "-z"], clone).split("\0"):
        source, target = clone / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target, follow_symlinks=False)
    return folder


def read_epoch(clone: Path) -> str:
    """Return the time for the archives, in seconds since 1970."""
    return os.environ.get("SOURCE_DATE_EPOCH") or _run(["git", "log", "-1", "--format=%ct"], clone)


def make_environment(folder: Path, tree: Path) -> Path:
    """Install the build backend that hogpipe asks for; return its Python. Raises BuildError."""
    system = tomllib.loads((tree / "pyproject.toml").read_text())["build-system"]
    _run([sys.executable, "-m", "venv", str(folder)], tree)
    python = folder / "bin/python"
    _run([str(python), "-m", "pip", "install", "--quiet", *system["requires"]], tree)
    return python


def build(python: Path, tree: Path, folder: Path, epoch: str) -> Iterator[Path]:
    """Build each project of a tree with a Python that has hatchling; yield the packages."""
    for project in list_projects(tree):
        yield from build_project(python, project, folder, epoch)


def build_project(python: Path, project: Path, folder: Path, epoch: str) -> list[Path]:
    """Build the sdist of a project, and the wheel from it. Raises BuildError."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        sdist = _build_one(python, "sdist", project, Path(work, "sdist"), epoch)
        _run(["tar", "-xzf", str(sdist), "-C", work], project)
        unpacked = Path(work, sdist.name.removesuffix(".tar.gz"))
        wheel = _build_one(python, "wheel", unpacked, Path(work, "wheel"), epoch)
        return [Path(shutil.copy(package, folder)) for package in (sdist, wheel)]


def _build_one(python: Path, kind: str, project: Path, folder: Path, epoch: str) -> Path:
    words = ["-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    _run([str(python), *words], project, SOURCE_DATE_EPOCH=epoch)
    (package,) = folder.iterdir()
    return package


def _run(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(  # noqa: S603
        command, cwd=folder, env=os.environ | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise BuildError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "dist")
    folder: Path = parser.parse_args().folder
    if problem := build_bpf.find_problem():
        sys.exit(problem)
    try:
        with tempfile.TemporaryDirectory() as work:
            tree = copy_tracked(ROOT, Path(work, "tree"))
            python = make_environment(Path(work, "environment"), tree)
            for package in build(python, tree, folder, read_epoch(ROOT)):
                print(package)  # noqa: T201
    except BuildError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
