"""PURE: what became of the packets of an interface.

Invariant: captured = matched + not matched + dropped + those that are not decided yet, and
matched = written + those that are to be written + lost with the file.
"""

import msgspec


class PacketCounts(msgspec.Struct):
    """Packets of one interface, or of several."""

    captured: int = 0
    matched: int = 0
    """Those that `only` selects."""
    written: int = 0
    not_matched: int = 0
    without_owner: int = 0
    """Those of both kinds of which no side has an owner."""
    given_up: int = 0
    """Those without an owner because they had waited too long, or took too much memory."""
    dropped: int = 0
    """Those for which there was no memory."""
    kernel_dropped: int = 0
    interface_dropped: int = 0

    def add(self, other: "PacketCounts") -> None:
        """Add the counts of another interface."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def describe(self) -> str:
        """Return the counts that are specific to a choice by owner, for a person."""
        return (
            f"{self.captured} captured, {self.matched} matched, {self.not_matched} not matched, "
            f"{self.dropped} dropped, {self.without_owner} without owner, "
            f"{self.given_up} given up"
        )
