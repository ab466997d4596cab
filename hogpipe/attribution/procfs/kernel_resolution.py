"""Applies the rules of kernel_senders.py to the flows of a lookup that have no process.

In: flows with the sockets that match them, and the fd cache. Out: the part of the kernel that has
each. The links of the network namespace are read at most every `_LINKS_SECONDS`, and only if a rule
may apply; where the kernel refuses that, no tunnel is known.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress

from hogpipe.attribution.procfs.fd_cache import FdCache
from hogpipe.attribution.procfs.kernel_senders import (
    UNHELD_SECONDS,
    KernelSender,
    KernelSenders,
)
from hogpipe.linux.rtnetlink import read_link_table
from hogpipe.linux.socket_table import SocketRow
from hogpipe.model import FlowKey

_LINKS_SECONDS = 2.0
_MAX_UNHELD = 1024


class KernelResolution:
    """For one thread at a time; times are seconds of one clock."""

    def __init__(self, fds: FdCache) -> None:
        self._fds = fds
        self._senders = KernelSenders()
        self._read_at = -math.inf
        self._unheld_since: OrderedDict[int, float] = OrderedDict()
        """Since when lookups find no holder, by inode; the first one that was found comes first."""

    def find(
        self, flows: Mapping[FlowKey, tuple[SocketRow, ...]], now: float
    ) -> dict[FlowKey, KernelSender]:
        """Return the parts of the kernel that flows without a process are of, as far as known."""
        if not flows:
            return {}
        if now - self._read_at >= _LINKS_SECONDS:
            self._read_at, self._senders = now, _read_senders()
        found = {}
        for flow, rows in flows.items():
            sender = self._senders.find(flow, rows, is_unheld=self._are_unheld(rows, now))
            if sender is not None:
                found[flow] = sender
        return found

    def _are_unheld(self, rows: tuple[SocketRow, ...], now: float) -> bool:
        """Return whether lookups have not found a holder of any of these sockets for long.

        Where processes are hidden, one of these may be the holder.
        """
        inodes = {row.inode for row in rows}
        if not inodes or self._fds.not_permitted or self._fds.are_held(inodes):
            for inode in inodes:
                self._unheld_since.pop(inode, None)
            return False
        since = max(self._unheld_since.setdefault(inode, now) for inode in inodes)
        while len(self._unheld_since) > _MAX_UNHELD:
            self._unheld_since.popitem(last=False)
        return now - since >= UNHELD_SECONDS


def _read_senders() -> KernelSenders:
    with suppress(OSError):  # the kernel refuses, or descriptors are short
        return KernelSenders(read_link_table().links)
    return KernelSenders()
