"""Which files a privileged program takes its configuration and its plugins from.

In: the environment, and whether the user has asked for no check. Out: a function that returns why a
file is not to be trusted, which raises nothing: who reads the file reports that it is not there.
"""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from hogpipe.config.load import FindDistrust
from hogpipe.linux.capabilities import read_permitted
from hogpipe.ownership import find_other_writer
from hogpipe.security.user_choice import find_sudo_caller
from hogpipe.text import printable

_PROGRAM = Path(__file__)


def choose_trust(environ: Mapping[str, str], *, is_insecure: bool) -> FindDistrust:
    """Return the check of files for this process, by its present rights.

    Trusted are root, the user of the process, who called sudo, and the owner of the program, who
    could as well change that. A process without capabilities has no rights to misuse.
    """
    if is_insecure or not (read_permitted() or os.geteuid() == 0):
        return trust_all
    caller = find_sudo_caller(environ)
    trusted = {os.geteuid(), _PROGRAM.stat().st_uid, *([caller.uid] if caller else [])}
    return partial(_find_problem, trusted)


def trust_all(_path: Path) -> None:
    """Return None."""


def _find_problem(trusted: set[int], path: Path) -> str | None:
    try:
        problem = find_other_writer(path, trusted) if path.is_file() else None
    except OSError:
        return None
    if problem is None:
        return None
    return printable(
        f"not used with the rights of this process, as {problem}; let only root or yourself "
        "write to it, or use --insecure"
    )
