#!/usr/bin/env python3
"""Make the files of a release from a clone, and check them; nothing is published (RELEASING.md).

    python3 packaging/release.py [--tag vVERSION] [--dry-run] [FOLDER]

FOLDER (dist by default) must not exist. It gets, in this order:

1. the wheels and sdists of hogpipe and its plugin packages (build_dist), checked by twine;
2. hogpipe-VERSION.cdx.json: the bill of materials (CycloneDX) of an environment into which the
   wheels are installed, with the versions of everything that they require;
3. hogpipe-VERSION.requirements.txt: packaging/requirements.lock, for an installation of which each
   file has a known checksum;
4. notes.md: the section of CHANGELOG.md, for the page of the release;
5. SHA256SUMS: checksums of 1 to 3 in the format of sha256sum(1).

Before that: git has no changed and no stray file, all packages have one version, the lock has all
that they require, CHANGELOG.md has a section of it with a date and a text, and nothing under
"Unreleased". --tag: the version must be that of the tag, and the tag that of the commit.

--dry-run makes everything in a temporary folder, and lists what is in the way of a release at the
end instead of stopping there.

Needs git, a Python with venv, and PyPI. Exit code: 0; 1 if a check or a step fails.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import build_bpf
import build_dist
import lock_requirements

ROOT = build_dist.ROOT
_TOOLS = ("twine>=6.1", "cyclonedx-bom>=7.0")
_VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)
_NUMBERS = re.compile(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?")
_HEADING = re.compile(r"^## \[(?P<version>[^]]+)\](?: - (?P<date>\d{4}-\d\d-\d\d))?$", re.MULTILINE)


class ReleaseError(Exception):
    """A step of the release fails; the text says why."""


def read_version(tree: Path) -> str:
    """Return the version of hogpipe."""
    found = _VERSION.search((tree / "hogpipe/version.py").read_text())
    return found[1] if found else ""


def find_problems(tree: Path, tag: str | None) -> Iterator[str]:
    """Yield what is in the way of a release of a clone."""
    version = read_version(tree)
    if changed := _run(["git", "status", "--porcelain"], tree).splitlines():
        yield f"git has changes: {', '.join(line[3:] for line in changed)}"
    if not _NUMBERS.fullmatch(version):
        yield f"hogpipe/version.py: {version!r} is no version such as 1.2.3 or 1.2.3rc1"
    for project in build_dist.list_projects(tree)[1:]:
        own = tomllib.loads((project / "pyproject.toml").read_text())["project"]["version"]
        if own != version:
            yield f"{project.relative_to(tree)}: version {own} instead of {version}"
    lock = tree / lock_requirements.LOCK.relative_to(ROOT)
    for problem in lock_requirements.find_problems(tree, lock.read_text()):
        yield f"{lock.relative_to(tree)}: {problem}; run: python packaging/lock_requirements.py"
    yield from find_changelog_problems((tree / "CHANGELOG.md").read_text(), version)
    if tag is not None:
        if tag != f"v{version}":
            yield f"the tag {tag} is not that of version {version}"
        if tag not in _run(["git", "tag", "--points-at", "HEAD"], tree).split():
            yield f"the tag {tag} is not at this commit"


def find_changelog_problems(changelog: str, version: str) -> Iterator[str]:
    """Yield what the changelog lacks for a release."""
    headings = {one["version"]: one["date"] for one in _HEADING.finditer(changelog)}
    if read_section(changelog, "Unreleased"):
        yield f"CHANGELOG.md: move what is under [Unreleased] to [{version}]"
    if not headings.get(version):
        yield f"CHANGELOG.md: no section [{version}] with a date (## [{version}] - YYYY-MM-DD)"
    elif not read_section(changelog, version):
        yield f"CHANGELOG.md: the section [{version}] is empty"


def read_section(changelog: str, version: str) -> str:
    """Return the text below the heading of a version; empty if there is none."""
    headings = [*_HEADING.finditer(changelog)]
    for heading, following in zip(headings, [*headings[1:], None], strict=True):
        if heading["version"] == version:
            end = following.start() if following else len(changelog)
            return changelog[heading.end() : end].strip()
    return ""


def make_packages(folder: Path) -> list[Path]:
    """Build all packages. Raises ReleaseError."""
    if problem := build_bpf.find_problem():
        raise ReleaseError(problem)
    with tempfile.TemporaryDirectory() as work:
        tree = build_dist.copy_tracked(ROOT, Path(work, "tree"))
        python = build_dist.make_environment(Path(work, "environment"), tree)
        return [*build_dist.build(python, tree, folder, build_dist.read_epoch(ROOT))]


def check_packages(packages: Sequence[Path], tools: Path, version: str) -> None:
    """Check that the packages are complete, and their metadata. Raises ReleaseError."""
    names = sorted(path.name for path in packages)
    expected = sorted(
        f"{project.name.replace('-', '_')}-{version}{end}"
        for project in (Path("hogpipe"), *build_dist.list_projects(ROOT)[1:])
        for end in ("-py3-none-any.whl", ".tar.gz")
    )
    if names != expected:
        raise ReleaseError(f"packages {names} instead of {expected}")
    _run([f"{tools}/bin/twine", "check", "--strict", *map(str, packages)], ROOT)


def write_bill(packages: Sequence[Path], tools: Path, version: str, target: Path) -> None:
    """Write the bill of materials of an environment with the wheels. Raises ReleaseError."""
    wheels = [path for path in packages if path.suffix == ".whl"]
    with tempfile.TemporaryDirectory() as work:
        # By name and version: the path of a file would be in the bill.
        names = ["==".join(path.name.split("-")[:2]) for path in wheels]
        environment = make_environment(Path(work), f"--find-links={target.parent}", *names)
        python = f"{environment}/bin/python"
        _run([python, "-m", "pip", "uninstall", "--yes", "--quiet", "pip"], ROOT)
        words = ("environment", "--output-reproducible", "--pyproject", f"{ROOT}/pyproject.toml")
        _run([f"{tools}/bin/cyclonedx-py", *words, "--output-file", str(target), python], ROOT)
    bill = json.loads(target.read_text())
    bill["metadata"]["component"]["version"] = version  # pyproject.toml has it from elsewhere
    target.write_text(json.dumps(bill, indent=2) + "\n")
    if "file:" in target.read_text():
        raise ReleaseError(f"{target.name} has a path of this machine")


def make_environment(folder: Path, *requirements: str) -> Path:
    """Make an environment in a folder, and install requirements. Raises ReleaseError."""
    _run([sys.executable, "-m", "venv", str(folder)], ROOT)
    _run([f"{folder}/bin/python", "-m", "pip", "install", "--quiet", *requirements], ROOT)
    return folder


def format_checksums(files: Sequence[Path]) -> str:
    """Return the checksums of files, a line each."""
    sums = ((hashlib.sha256(file.read_bytes()).hexdigest(), file.name) for file in files)
    return "".join(f"{digest}  {name}\n" for digest, name in sums)


def make_release(folder: Path) -> None:
    """Make all files of the release in a folder, and check them. Raises ReleaseError."""
    version = read_version(ROOT)
    packages = make_packages(folder)
    bill = folder / f"hogpipe-{version}.cdx.json"
    lock = folder / f"hogpipe-{version}.requirements.txt"
    with tempfile.TemporaryDirectory() as work:
        tools = make_environment(Path(work), *_TOOLS)
        check_packages(packages, tools, version)
        write_bill(packages, tools, version, bill)
    section = read_section((ROOT / "CHANGELOG.md").read_text(), version)
    (folder / "notes.md").write_text(f"{section}\n")
    shutil.copy(lock_requirements.LOCK, lock)
    files = sorted([*packages, bill, lock])
    (folder / "SHA256SUMS").write_text(format_checksums(files))
    print((folder / "SHA256SUMS").read_text(), end="")  # noqa: T201


def _run(command: Sequence[str], folder: Path) -> str:
    done = subprocess.run(  # noqa: S603
        command, cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ReleaseError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tag", help="the tag that the version must agree with")
    parser.add_argument("--dry-run", action="store_true", help="leave no file, list all problems")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "dist")
    arguments = parser.parse_args()
    try:
        problems = [*find_problems(ROOT, arguments.tag)]
        if arguments.dry_run:
            with tempfile.TemporaryDirectory() as work:
                make_release(Path(work, "dist"))
        elif arguments.folder.exists():
            problems.append(f"{arguments.folder} exists; move it away, or name another folder")
        elif not problems:
            make_release(arguments.folder)
    except (ReleaseError, build_dist.BuildError) as error:
        problems = [str(error)]
    sys.exit("\n".join(f"release.py: {problem}" for problem in problems) or 0)


if __name__ == "__main__":
    main()
