"""PURE: packets in the order of capture, until it is decided whether they are written.

In: packets, each with the number of its local sides; a decision for each side. Out: the packets to
be written, in order: a packet is released once all before it are decided.

Order
    The packets of one call are in their order. Where `merges_by_time`, those of several interfaces
    are merged by their timestamps; the caller releases them with a delay then.

Bounds
    A packet waits for at most `max_seconds`. Those that wait take at most `max_bytes`: where that
    is exceeded, the oldest ones are decided without an owner (`given_up`). Those that are released
    and not yet `written` take as much: further ones are dropped.
"""

from collections import deque
from collections.abc import Iterable, Sequence

from hogpipe.model import Attribution, Quality
from hogpipe.packets.packet_counts import PacketCounts

_OVERHEAD_BYTES = 200  # of the objects of a packet


class Packet:
    """A captured frame; `undecided` is how many of its local sides have no decision yet."""

    __slots__ = (
        "captured_at",
        "frame",
        "interface",
        "original_length",
        "receiver",
        "selects_receiver",
        "selects_transmitter",
        "time_ns",
        "transmitter",
        "undecided",
    )

    def __init__(self, interface: int, time_ns: int, frame: bytes, original_length: int) -> None:
        self.interface = interface
        self.time_ns = time_ns
        """Nanoseconds since the epoch."""
        self.frame = frame
        self.original_length = original_length
        self.undecided = 0
        self.transmitter: Attribution | None = None
        """The owner of the side that transmits; None if that is not local, or not decided."""
        self.receiver: Attribution | None = None
        self.selects_transmitter = self.selects_receiver = False
        """Whether the packet is selected for one side or the other."""
        self.captured_at = 0.0
        """Seconds of the clock of the buffer."""

    @property
    def size(self) -> int:
        """The memory that the packet takes."""
        return len(self.frame) + _OVERHEAD_BYTES

    @property
    def is_selected(self) -> bool:
        """Whether the packet is to be written."""
        return self.selects_transmitter or self.selects_receiver

    @property
    def has_owner(self) -> bool:
        """Whether a side of the packet has an owner: a process, or a part of the kernel."""
        sides = self.transmitter, self.receiver
        return any(one is not None and one.quality is not Quality.NONE for one in sides)


class PacketBuffer:
    """Packets that are not written yet."""

    def __init__(
        self,
        max_bytes: float,
        max_seconds: float,
        *,
        selects_unowned: bool,
        merges_by_time: bool = False,
    ) -> None:
        self.merges_by_time = merges_by_time
        self.counts: list[PacketCounts] = []
        """By interface."""
        self.waiting_bytes = 0
        self.unwritten_bytes = 0
        """The memory of packets that are released and not written."""
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self.selects_unowned = selects_unowned
        """Whether packets without an owner are selected."""
        self._waiting: deque[Packet] = deque()
        self._released: list[Packet] = []

    def __len__(self) -> int:
        return len(self._waiting) + len(self._released)

    def add_interface(self) -> int:
        """Return the number of a further interface."""
        self.counts.append(PacketCounts())
        return len(self.counts) - 1

    def add(self, packets: Sequence[Packet], now: float) -> None:
        """Add packets in order."""
        for packet in packets:
            packet.captured_at = now
            self.counts[packet.interface].captured += 1
            self.waiting_bytes += packet.size
            if not packet.undecided:
                packet.selects_transmitter = self.selects_unowned
                self._shrink(packet)
        if self.merges_by_time and packets:
            self._merge(packets)
        else:
            self._waiting.extend(packets)
        while self.waiting_bytes > self._max_bytes:
            self._release_oldest()

    def decide(
        self, packet: Packet, owner: Attribution, *, transmits: bool, is_selected: bool
    ) -> None:
        """Take the decision for one side of a packet: it is selected if one of its sides is.

        A packet that was released before stays as it was.
        """
        if packet.undecided <= 0:
            return
        if transmits:
            packet.transmitter, packet.selects_transmitter = owner, is_selected
        else:
            packet.receiver, packet.selects_receiver = owner, is_selected
        packet.undecided -= 1
        if not packet.undecided:
            self._shrink(packet)

    def release(self, now: float, until_ns: float = float("inf")) -> list[Packet]:
        """Return packets to be written, captured up to `until_ns`; `written` is to follow."""
        while self._waiting:
            oldest = self._waiting[0]
            is_expired = now - oldest.captured_at >= self._max_seconds
            if not is_expired and (oldest.undecided > 0 or oldest.time_ns > until_ns):
                break
            self._release_oldest()
        released, self._released = self._released, []
        return released

    def release_all(self) -> list[Packet]:
        """Return all packets to be written, those without a decision as ones without an owner."""
        while self._waiting:
            self._release_oldest()
        return self.release(0.0)

    def written(self, packets: Iterable[Packet], *, is_lost: bool = False) -> None:
        """Count released packets that were written, or that could not be."""
        for packet in packets:
            self.unwritten_bytes -= packet.size
            if not is_lost:
                self.counts[packet.interface].written += 1

    def _release_oldest(self) -> None:
        """Release the oldest packet if it is selected; without a decision it has no owner."""
        packet = self._waiting.popleft()
        counts, size = self.counts[packet.interface], packet.size
        self.waiting_bytes -= size
        if packet.undecided > 0:
            packet.undecided = 0
            packet.selects_transmitter |= self.selects_unowned
            counts.given_up += 1
        counts.without_owner += not packet.has_owner
        if not packet.is_selected:
            counts.not_matched += 1
        elif self.unwritten_bytes + size > self._max_bytes:
            counts.dropped += 1
        else:
            counts.matched += 1
            self.unwritten_bytes += size
            self._released.append(packet)

    def _shrink(self, packet: Packet) -> None:
        """Drop the bytes of a waiting packet if it will not be written."""
        if not packet.is_selected:
            self.waiting_bytes -= len(packet.frame)
            packet.frame = b""

    def _merge(self, packets: Sequence[Packet]) -> None:
        first_ns = min(packet.time_ns for packet in packets)
        later: list[Packet] = []
        while self._waiting and self._waiting[-1].time_ns > first_ns:
            later.append(self._waiting.pop())
        later.reverse()
        self._waiting.extend(sorted([*later, *packets], key=lambda packet: packet.time_ns))
