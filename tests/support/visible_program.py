"""The prefix of a command that lets all users read the program of the tests, wherever it lies."""

import os
import sys
from pathlib import Path

# Replaces each folder $hidden by an empty one in which only the paths that follow it are mounted.
_MOUNT = """
set -e
mount -t tmpfs -o mode=755 none /mnt
expose() {
    hidden=$1; shift; number=0
    for path; do
        number=$((number + 1)); mkdir -p "/mnt$hidden/$number"
        mount --bind "$path" "/mnt$hidden/$number"
    done
    mount -t tmpfs -o mode=755 none "$hidden"; number=0
    for path; do
        number=$((number + 1)); mkdir -p "$path"
        mount --bind "/mnt$hidden/$number" "$path"
    done
}
"""


def expose_program() -> list[str]:
    """Return the prefix; it gives the command a mount namespace of its own."""
    source = Path(__file__).parents[2]
    paths = {Path(entry) for entry in (sys.base_prefix, sys.prefix, *sys.path)} | {source}
    by_hidden: dict[Path, set[Path]] = {}
    for path in paths:
        if path.is_dir() and (hidden := _find_hidden(path)) is not None:
            by_hidden.setdefault(hidden, set()).add(path)
    calls = [
        " ".join(["expose", str(hidden), *map(str, _drop_inner(inside))])
        for hidden, inside in by_hidden.items()
    ]
    script = "\n".join([_MOUNT, *calls, 'exec "$@"'])
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


def _find_hidden(path: Path) -> Path | None:
    """Return the outermost folder above `path` that others may not pass."""
    above = [*reversed(path.parents)]
    return next((folder for folder in above if not folder.stat().st_mode & 0o001), None)


def _drop_inner(paths: set[Path]) -> list[Path]:
    return sorted(path for path in paths if not any(os.fspath(path) != os.fspath(one)
                  and path.is_relative_to(one) for one in paths))  # fmt: skip
