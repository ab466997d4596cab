"""Descriptors and memory as limits: how to raise the first, and errors that report either.

A shortage is temporary: callers keep what is open and retry what failed.
"""

import errno
import resource
from contextlib import suppress

SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors that report exhausted descriptors or memory, whatever the call was for."""

_REMEDIES = dict.fromkeys(
    (errno.EMFILE, errno.ENFILE), "allow more open files (ulimit -n, LimitNOFILE=)"
) | dict.fromkeys((errno.ENOBUFS, errno.ENOMEM), "the host is out of memory")


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open descriptors to the hard limit."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A sandbox may forbid the change; the soft limit then stays, and EMFILE reports it.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def explain_os_error(error: OSError) -> str:
    """Return the text of `error`, with the remedy if it reports a shortage."""
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{error.strerror or error}" + (f"; {remedy}" if remedy else "")
