"""What to do about too few descriptors or too little memory: have more, and know them by the error.

Both pass: what is open stays open, and what failed is tried again.
"""

import errno
import resource
from contextlib import suppress

SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors that say nothing about what was asked for."""

_REMEDIES = dict.fromkeys(
    (errno.EMFILE, errno.ENFILE), "allow more open files (ulimit -n, LimitNOFILE=)"
) | dict.fromkeys((errno.ENOBUFS, errno.ENOMEM), "the host is out of memory")


def allow_descriptors() -> None:
    """Let this process have as many descriptors as its hard limit allows."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A sandbox may forbid it; then the soft limit stands, and shows by its error.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def explain(error: OSError) -> str:
    """Return what `error` is, with the remedy where there is one."""
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{error.strerror or error}" + (f"; {remedy}" if remedy else "")
