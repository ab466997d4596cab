"""PURE: the totals of a run, as one line for the user."""

import msgspec

from hogpipe.model import AttributionCounts, CaptureCounts, Quality, Tally

_MUCH_UNOWNED = 0.1  # of the bytes
_MUCH_FOREIGN = 0.1  # of the bytes, as in a trace of another host
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


class RecordsLeft(msgspec.Struct, frozen=True):
    """What is left of the records of one sink at the end of a run."""

    text: str
    """A line that names the sink."""
    lost: int
    """How many records the end of the run loses: all but those in a spool."""


class Summary(msgspec.Struct):
    """The totals of a run."""

    seconds: float = 0.0
    counts: CaptureCounts = msgspec.field(default_factory=CaptureCounts)
    bytes_by_quality: dict[str, int] = msgspec.field(default_factory=dict)
    records: int = 0
    folded: Tally = msgspec.field(default_factory=Tally)
    """Traffic that was recorded without its flow, because there were too many flows."""
    undelivered: list[RecordsLeft] = msgspec.field(default_factory=list)
    """One for each sink with undelivered records."""

    def add_window(
        self,
        counts: CaptureCounts,
        attribution: AttributionCounts,
        bytes_by_quality: dict[str, int],
        records: int,
    ) -> None:
        """Add the counters of a window."""
        self.counts.add(counts)
        self.folded.add(counts.overflowed)
        self.folded.add(attribution.overflowed)
        for quality, size in bytes_by_quality.items():
            self.bytes_by_quality[quality] = self.bytes_by_quality.get(quality, 0) + size
        self.records += records

    def share_of(self, quality: Quality) -> float:
        """Return the share of the bytes that have this quality; 0 if there are none."""
        total = sum(self.bytes_by_quality.values())
        return self.bytes_by_quality.get(quality, 0) / total if total else 0.0

    def describe_unowned(self) -> str | None:
        """Return how many bytes of a live run have no owner, and the remedy; None if few have."""
        share = self.share_of(Quality.NONE)
        if share <= _MUCH_UNOWNED:
            return None
        return (
            f"{100 * share:.0f} % of the bytes have no owner: `hogpipe doctor` prints what this "
            "host lacks, docs/sockets.md has the sockets without an owner"
        )

    def __str__(self) -> str:
        counts = self.counts
        shares = _format_shares(self.bytes_by_quality)
        dropped = counts.kernel_dropped + counts.interface_dropped
        folded = (
            f", {self.folded.packets} packets without their flow" if self.folded.packets else ""
        )
        foreign = counts.not_local
        elsewhere = (
            f", {foreign.packets} packets between other hosts"
            if foreign.bytes > counts.captured.bytes * _MUCH_FOREIGN
            else ""
        )
        return (
            f"{self.seconds:.1f} s, {counts.captured.packets} packets, "
            f"{format_bytes(counts.captured.bytes)} captured, {dropped} dropped, "
            f"{self.records} records{folded}{elsewhere}; by owner: {shares}"
        )


def _format_shares(bytes_by_quality: dict[str, int]) -> str:
    total = sum(bytes_by_quality.values())
    if not total:
        return "nothing to attribute"
    return ", ".join(
        f"{100 * bytes_by_quality[quality] / total:.1f} % {quality}"
        for quality in Quality
        if bytes_by_quality.get(quality)
    )


def format_bytes(size: float) -> str:
    """Return a number of bytes in decimal units, rounded to about three digits."""
    for unit in _UNITS:
        if size < 1000 or unit == _UNITS[-1]:
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
