"""What a tool told, held against the truth.

Pure. right + wrong + unattributed + missing = truth, always; `missing` below zero means that the
tool told more bytes than passed.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from truth import Owner, Part, Truth

ETHERNET_HEADER = 14

Told = Mapping[tuple[int | None, Part | None], int]
"""Bytes by process (None: no owner) and connection (None: all of the process in one sum)."""


@dataclass(frozen=True)
class Verdict:
    """Bytes of a tool, in its own count (`truth` is in the same)."""

    truth: int
    right: int
    wrong: int
    unattributed: int

    @property
    def missing(self) -> int:
        return self.truth - self.right - self.wrong - self.unattributed


def judge(told: Told, truth: Truth, owners: Collection[Owner], *, link_header: bool) -> Verdict:
    """Judge what `told` says; with `link_header` its bytes are those of Ethernet frames.

    By connection where the tool told that, and else by the sum of each process. A sum hides what
    two processes were given of each other, as far as it is equal in bytes.
    """
    by_part = any(part is not None for _, part in told)
    true_bytes: Counter[tuple[str, Part | None]] = Counter()
    header = ETHERNET_HEADER if link_header else 0
    for (name, part), size in truth.bytes.items():
        size_told = size + header * truth.packets[name, part]
        true_bytes[name, part if by_part else None] += size_told
    owner_of = {pid: owner.name for owner in owners for pid in owner.pids}
    given: Counter[tuple[str | None, Part | None]] = Counter()
    for (pid, part), size in told.items():
        if pid is not None:
            given[owner_of.get(pid), part] += size
    right = sum(min(size, given[key]) for key, size in true_bytes.items())
    return Verdict(
        truth=true_bytes.total(),
        right=right,
        wrong=given.total() - right,
        unattributed=sum(size for (pid, _), size in told.items() if pid is None),
    )
