#!/usr/bin/env python3
"""Lock what a release requires: packaging/requirements.lock, with the checksum of each file.

    python packaging/lock_requirements.py            resolve anew; write the file
    python packaging/lock_requirements.py --check    look for problems only; needs no network

What is locked: everything that hogpipe and its plugin packages require to run, their extras that
users install included (`EXTRAS`), for each Python and platform that hogpipe supports. What tests
and linters require is not. pip installs from the file with `--require-hashes`
(docs/install.md#locked-requirements).

The file has no comments and no options: a name of an index or a path of a machine in it would be
followed by whoever installs from it. `uv` of the extra `lint` resolves, from the index that it is
configured with; the checksums are those that the index publishes.

Exit code: 0; 1 if there is a problem, or if nothing can be resolved.
"""

import argparse
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path

import build_dist

ROOT = build_dist.ROOT
LOCK = ROOT / "packaging/requirements.lock"
# Not `credentials` of hogpipe-nats: of nkeys there is only an sdist, and no checksum covers what
# builds it.
EXTRAS = ("top", "report", "names", "compression", "zstd")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ENTRY = re.compile(
    r"(?P<name>[a-z0-9-]+)==(?P<version>[^\s;]+)(?: ; [^\\\n]+)?"
    r"(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n"
)


def list_requirements(tree: Path) -> list[str]:
    """Return what hogpipe, its plugin packages and their extras require, without hogpipe itself."""
    found: set[str] = set()
    for project in build_dist.list_projects(tree):
        metadata = tomllib.loads((project / "pyproject.toml").read_text())["project"]
        extras = metadata.get("optional-dependencies", {})
        found.update(metadata["dependencies"], *(extras.get(name, ()) for name in EXTRAS))
    return sorted(one for one in found if name_of(one) != "hogpipe")


def name_of(requirement: str) -> str:
    """Return the name of a requirement, as the index normalises it."""
    found = _NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def parse_lock(text: str) -> dict[str, str]:
    """Return the locked versions by name; the last one of a name. Raises ValueError.

    Anything but pinned names with checksums is an error: an option, a path, a comment.
    """
    versions, end = {}, 0
    for entry in _ENTRY.finditer(text):
        if entry.start() != end:
            break
        versions[entry["name"]] = entry["version"]
        end = entry.end()
    if end != len(text):
        line = text.count("\n", 0, end) + 1
        raise ValueError(f"line {line} is no name with a version and checksums")
    return versions


def find_problems(tree: Path, lock: str) -> Iterator[str]:
    """Yield what a lock lacks for the packages of a tree."""
    try:
        versions = parse_lock(lock)
    except ValueError as error:
        yield str(error)
        return
    for requirement in list_requirements(tree):
        if name_of(requirement) not in versions:
            yield f"{requirement} is not locked"


def resolve(tree: Path) -> str:
    """Return the text of a new lock. Raises CalledProcessError, with what uv says in `stderr`."""
    uv = Path(sysconfig.get_path("scripts"), "uv")
    options = ("--universal", "--generate-hashes", "--no-header", "--no-annotate", "--upgrade")
    python = tomllib.loads((tree / "pyproject.toml").read_text())["project"]["requires-python"]
    lowest = python.removeprefix(">=")
    done = subprocess.run(  # noqa: S603
        [uv, "pip", "compile", "--quiet", *options, "--python-version", lowest, "-"],
        input="\n".join(list_requirements(tree)),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="look for problems only")
    if not parser.parse_args().check:
        try:
            LOCK.write_text(resolve(ROOT))
        except subprocess.CalledProcessError as error:
            sys.exit(f"lock_requirements.py: {error.stderr.strip()}")
    problems = [*find_problems(ROOT, LOCK.read_text())]
    sys.exit("\n".join(f"packaging/{LOCK.name}: {problem}" for problem in problems) or 0)


if __name__ == "__main__":
    main()
