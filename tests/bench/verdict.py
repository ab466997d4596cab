"""PURE: what a tool reported, compared with the truth.

right + wrong + unattributed + missing = truth, always; a negative `missing` means that the tool
reported more bytes than passed.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from truth import Owner, Part, Truth

ETHERNET_HEADER = 14

Reported = Mapping[tuple[int | None, Part | None], int]
"""Bytes by process (None: no owner) and connection (None: the sum of all of the process)."""


@dataclass(frozen=True)
class Verdict:
    """Bytes in the unit of the tool: IP packets, or Ethernet frames."""

    truth: int
    right: int
    wrong: int
    unattributed: int
    by_address: Mapping[str, tuple[int, int]]
    """By the address of a measured side: what is right, and the truth."""

    def right_share(self, addresses: Collection[str]) -> float | None:
        """Return the share of the truth at these addresses that is right; None without a truth."""
        both = [self.by_address[address] for address in addresses if address in self.by_address]
        return sum(right for right, _ in both) / sum(true for _, true in both) if both else None

    @property
    def missing(self) -> int:
        return self.truth - self.right - self.wrong - self.unattributed


def judge(
    reported: Reported, truth: Truth, owners: Collection[Owner], *, link_header: bool
) -> Verdict:
    """Compare `reported` with the truth; with `link_header` it counts Ethernet frames.

    Connections are compared if the tool reports them, otherwise the sum of each process. Sums hide
    bytes that two processes swapped, as far as both amounts are equal.
    """
    by_part = any(part is not None for _, part in reported)
    true_bytes: Counter[tuple[str, Part | None]] = Counter()
    header = ETHERNET_HEADER if link_header else 0
    for (name, part), size in truth.bytes.items():
        framed = size + header * truth.packets[name, part]
        true_bytes[name, part if by_part else None] += framed
    owner_of = {pid: owner.name for owner in owners for pid in owner.pids}
    given: Counter[tuple[str | None, Part | None]] = Counter()
    for (pid, part), size in reported.items():
        if pid is not None:
            given[owner_of.get(pid), part] += size
    address_of = {owner.name: owner.address for owner in owners}
    truths, rights = Counter[str](), Counter[str]()
    for key, size in true_bytes.items():
        truths[address_of[key[0]]] += size
        rights[address_of[key[0]]] += min(size, given[key])
    right = rights.total()
    return Verdict(
        truth=true_bytes.total(),
        right=right,
        wrong=given.total() - right,
        unattributed=sum(size for (pid, _), size in reported.items() if pid is None),
        by_address={address: (rights[address], size) for address, size in truths.items()},
    )
