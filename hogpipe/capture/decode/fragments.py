"""PURE: the fragments of an IP packet matched to the flow of its first fragment.

In: fragments, each with the identification that all fragments of its packet share. Out: sums of
later fragments under the wire key that they count by.

Only the first fragment has the ports, and it may arrive after others. A later fragment whose first
is known counts in the first one's flow. Without it the fragment is pending, and counts under its
own portless key when `pending_ns` have passed, when there are too many pending packets, or at the
end. So each byte counts exactly once.

Time is packet time, passed in, and never goes back: a timestamp that is older than the newest
counts as the newest.
"""

from collections import OrderedDict

import msgspec

MAX_ENTRIES = 4096
FLOW_TTL_NS = 30_000_000_000
"""Linux gives up reassembly after as long (ipfrag_time)."""
PENDING_NS = 2_000_000_000


class FirstFragment(msgspec.Struct, frozen=True, gc=False):
    """Has the ports. `ident` is the same for all fragments of a packet."""

    ident: bytes


class LaterFragment(msgspec.Struct, frozen=True, gc=False):
    """Has no ports. `ident` is the same for all fragments of a packet."""

    ident: bytes


class FragmentSum(msgspec.Struct, frozen=True, gc=False):
    """Later fragments to count under `key`: how many, their IP bytes, the first and last time."""

    key: bytes
    packets: int
    bytes: int
    first_ns: int
    last_ns: int


class _Flow(msgspec.Struct, gc=False):
    """The flow of a packet whose first fragment is known."""

    key: bytes
    since_ns: int


class _Pending(msgspec.Struct, gc=False):
    """Later fragments of a packet whose first fragment is not known."""

    sum: FragmentSum
    since_ns: int


class FragmentTable:
    """Fragments of one link: at most `max_entries` packets with a known flow, as many pending.

    The flow of a packet is kept for `flow_ttl_ns` after its first fragment; later fragments are
    pending for `pending_ns`.
    """

    def __init__(
        self,
        max_entries: int = MAX_ENTRIES,
        flow_ttl_ns: int = FLOW_TTL_NS,
        pending_ns: int = PENDING_NS,
    ) -> None:
        self._max_entries = max_entries
        self._flow_ttl_ns = flow_ttl_ns
        self._pending_ns = pending_ns
        self._now_ns = 0
        # Both are in order of time, for the clock does not go back.
        self._flows: OrderedDict[bytes, _Flow] = OrderedDict()
        self._pending: OrderedDict[bytes, _Pending] = OrderedDict()

    def ingest_first(self, ident: bytes, key: bytes, now_ns: int) -> list[FragmentSum]:
        """Record that packet `ident` is of flow `key`; return what is to be counted now.

        The first fragment itself is the caller's to count.
        """
        countable = self.expire(now_ns)
        if pending := self._pending.pop(ident, None):
            countable.append(msgspec.structs.replace(pending.sum, key=key))
        self._flows.pop(ident, None)
        if len(self._flows) >= self._max_entries:
            self._flows.popitem(last=False)
        self._flows[ident] = _Flow(key, self._now_ns)
        return countable

    def ingest_later(
        self, ident: bytes, key: bytes, length: int, now_ns: int, at_ns: int
    ) -> list[FragmentSum]:
        """Take a later fragment of `length` IP bytes, captured at `at_ns`; `key` has no ports.

        Returns what is to be counted now: the fragment itself if its flow is known.
        """
        countable = self.expire(now_ns)
        if flow := self._flows.get(ident):
            countable.append(FragmentSum(flow.key, 1, length, at_ns, at_ns))
        elif pending := self._pending.get(ident):
            before = pending.sum
            pending.sum = FragmentSum(
                before.key,
                before.packets + 1,
                before.bytes + length,
                min(before.first_ns, at_ns),
                max(before.last_ns, at_ns),
            )
        else:
            if len(self._pending) >= self._max_entries:
                _, oldest = self._pending.popitem(last=False)
                countable.append(oldest.sum)
            self._pending[ident] = _Pending(FragmentSum(key, 1, length, at_ns, at_ns), self._now_ns)
        return countable

    def expire(self, now_ns: int) -> list[FragmentSum]:
        """Advance the clock to `now_ns`; return the fragments that are no longer pending."""
        self._now_ns = max(self._now_ns, now_ns)
        while self._flows:
            ident, flow = next(iter(self._flows.items()))
            if self._now_ns - flow.since_ns < self._flow_ttl_ns:
                break
            del self._flows[ident]
        expired = []
        while self._pending:
            ident, pending = next(iter(self._pending.items()))
            if self._now_ns - pending.since_ns < self._pending_ns:
                break
            del self._pending[ident]
            expired.append(pending.sum)
        return expired

    def flush(self) -> list[FragmentSum]:
        """Return all pending fragments, and empty the table."""
        expired = [pending.sum for pending in self._pending.values()]
        self._pending.clear()
        self._flows.clear()
        return expired
