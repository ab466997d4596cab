"""The tap of a pipeline: which packets were counted for which owners, and are selected.

In: the frames of a source, and what its flow table makes of their packets (capture/frame_tap.py).
Out: packets to be written, with their owners, through a `PacketBuffer`.

Algorithm
    The wire key of each frame leads to the slots of its local sides. What the table then counts at
    a slot, or holds, are the packets that were located there. Those that are held are found again
    by their flow key and their time, once the attribution stage has settled them.

Threads
    The source takes, locates and counts; the event loop settles and releases. All of it is under
    one lock, which is taken after that of the flow table. A replay waits for the writer.

Known limits
    A later fragment that comes before the first one of its packet has no owner. Of packets that are
    held for several connections on one five-tuple, those of one microsecond may be mixed up.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hogpipe.aggregation.flow_columns import FlowColumns
from hogpipe.aggregation.latest_processes import LatestProcesses
from hogpipe.aggregation.selectors import Selection, Selector
from hogpipe.capture.decode.columns import FrameBatch
from hogpipe.capture.decode.fragments import FirstFragment, LaterFragment
from hogpipe.capture.decode.scalar_ip import DecodedFrame, decode_frame
from hogpipe.capture.decode.wire_packets import WIRE_KEY, WIRE_WORDS
from hogpipe.capture.frame_tap import TappedInterface
from hogpipe.capture.wire_interfaces import Sides
from hogpipe.config.settings import Settings
from hogpipe.flows.flow_words import FlowPacker
from hogpipe.flows.key_index import Keys
from hogpipe.flows.network_columns import NetworkColumns
from hogpipe.flows.packet_rows import RECEIVE, FlowSums, Integers
from hogpipe.flows.traced_table import CountedSlots
from hogpipe.model import (
    BUILT_IN_NETWORKS,
    UNATTRIBUTED,
    Attribution,
    FlowKey,
    Networks,
    Process,
    ServicePorts,
    make_networks,
)
from hogpipe.packets.packet_buffer import Packet, PacketBuffer
from hogpipe.packets.packet_counts import PacketCounts
from hogpipe.records.schema import TrafficBody

_MAX_FRAGMENTED = 4096  # packets of which the first fragment is known
_MAX_REPLAY_BYTES = 1 << 24  # that a replay is ahead of the writer
_MERGE_NS = 500_000_000  # frames of several interfaces are read within this time


class _Side(NamedTuple):
    """A local side of a packet."""

    packet: Packet
    transmits: bool


class _Taken(NamedTuple):
    """A packet that is not located yet; its wire key is None where it is not IP."""

    place: int
    packet: Packet
    key: bytes | None
    number: int


class PacketOwners:
    """Takes frames as `FrameTap` says, and decides about their packets in `buffer`.

    `on_ready` is called, in any thread, when there may be packets to release. A source that `waits`
    is a replay.
    """

    def __init__(
        self,
        buffer: PacketBuffer,
        only: Sequence[Selector],
        *,
        waits: bool,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self.interfaces: list[TappedInterface] = []
        """By the numbers that packets have; only ever appended to."""
        self._buffer = buffer
        self._only = Selection(only) if only else None
        self._networks = NetworkColumns(BUILT_IN_NETWORKS)
        self._waits = waits
        self._on_ready = on_ready
        self._changed = threading.Condition(threading.RLock())
        self._totals = _Totals(self._changed, self._only, lambda process: process)
        self._numbers: dict[TappedInterface, int] = {}
        self._fragmented: OrderedDict[tuple[int, bytes], bytes] = OrderedDict()
        """Wire keys by interface and identification."""
        self._taken: list[_Taken] = []
        self._located: dict[int, list[_Side]] = {}
        self._held: dict[FlowKey, list[_Side]] = {}
        self._given_up = 0
        """How many packets were given up when that was looked at last."""
        self._is_abandoned = False
        self._is_announced = False

    def make_aggregator(
        self, settings: Settings, recall: Callable[[Process], Process]
    ) -> "_Totals":
        """Return what takes the place of the aggregator in the pipeline."""
        self._networks = NetworkColumns(make_networks(settings.networks))
        self._totals = _Totals(self._changed, self._only, recall)
        return self._totals

    # The thread of the source

    def take(
        self,
        frames: FrameBatch,
        interface: TappedInterface,
        number: int,
        places: Sequence[int] | None = None,
    ) -> None:
        """Take frames; see FrameTap."""
        assert frames.original_lengths is not None
        with self._changed:
            if self._waits:
                self._changed.wait_for(
                    lambda: self._is_abandoned or self._buffer.unwritten_bytes < _MAX_REPLAY_BYTES
                )
            own, times = self._number(interface), frames.list_times_ns()
            extents, lengths = frames.records[:, 2:].tolist(), frames.original_lengths.tolist()
            for place, (start, size), length, time_ns in zip(
                times if places is None else places, extents, lengths, times, strict=True
            ):
                frame = frames.data[start : start + size]
                key = self._find_key(interface.link_type, number, frame, length)
                packet = Packet(own, time_ns, frame, max(length, size))
                self._taken.append(_Taken(place, packet, key, number))

    def locate(self, find: Callable[[Keys], Sides]) -> None:
        """Find the slots of what was taken, and buffer it; see FrameTap."""
        with self._changed:
            taken, self._taken = self._taken, []
            if len({one.packet.interface for one in taken}) > 1:
                taken.sort(key=lambda one: one.place)
            located = [one for one in taken if one.key is not None]
            if located:
                sides = find(_make_keys(located))
                slots = zip(sides.transmitter.tolist(), sides.receiver.tolist(), strict=True)
                for one, (transmitter, receiver) in zip(located, slots, strict=True):
                    self._add_side(one.packet, transmitter, transmits=True)
                    self._add_side(one.packet, receiver, transmits=False)
            self._buffer.merges_by_time = not self._waits and len(self.interfaces) > 1
            self._buffer.add([one.packet for one in taken], time.monotonic())

    def count(self, flows: CountedSlots) -> None:
        """Decide about packets that are counted; see FlowTrace."""
        with self._changed:
            owners = [self._totals.describe(one) for one in flows.attributions]
            selected = self._select(FlowColumns(flows.words, flows.packer), flows.owners, owners)
            rows = zip(
                flows.slots.tolist(),
                flows.last_ns.tolist(),
                flows.owners.tolist(),
                selected,
                strict=True,
            )
            for slot, last_ns, owner, is_selected in rows:
                self._decide(
                    self._take_located(slot, last_ns), owners[owner], is_selected=is_selected
                )

    def hold(self, flows: Mapping[int, tuple[FlowKey, int]]) -> None:
        """Keep packets until their flows are settled; see FlowTrace."""
        with self._changed:
            for slot, (flow, last_ns) in flows.items():
                if sides := self._take_located(slot, last_ns):
                    self._held.setdefault(flow, []).extend(sides)

    def end_batch(self) -> None:
        """Take in that all is counted, and in a replay settled; see FrameTap."""
        with self._changed:
            rest = [*self._located.values(), *(self._held.values() if self._waits else ())]
            for sides in rest:
                self._decide(sides, UNATTRIBUTED, is_selected=self._buffer.selects_unowned)
            self._located.clear()
            if self._waits:
                self._held.clear()
            self._announce()

    def count_drops(self, interface: TappedInterface, kernel: int, by_interface: int) -> None:
        """Count frames that were dropped before they were read; see FrameTap."""
        if kernel or by_interface:
            with self._changed:
                counts = self._buffer.counts[self._number(interface)]
                counts.kernel_dropped += kernel
                counts.interface_dropped += by_interface

    # The event loop

    def settle(self, flow: FlowKey, first_ns: int, last_ns: int, owner: Attribution) -> None:
        """Decide about packets of a flow that were held; see FlowTrace."""
        with self._changed:
            sides = self._held.pop(flow, None)
            if sides is None:
                return
            is_whole = not first_ns
            settled, rest = list[_Side](), list[_Side]()
            for side in sides:
                is_within = is_whole or first_ns <= side.packet.time_ns <= last_ns
                (settled if is_within else rest).append(side)
            if rest:
                self._held[flow] = rest
            if settled:
                described, packer = self._totals.describe(owner), FlowPacker()
                columns = FlowColumns(packer.pack([flow]), packer)
                [is_selected] = self._select(columns, np.zeros(1, np.int64), [described])
                self._decide(settled, described, is_selected=is_selected)
                self._announce()

    def release(self) -> list[Packet]:
        """Return packets to be written; `written` is to follow."""
        with self._changed:
            self._is_announced = False
            until_ns = time.time_ns() - _MERGE_NS if self._buffer.merges_by_time else np.inf
            packets = self._buffer.release(time.monotonic(), until_ns)
            given_up = sum(counts.given_up for counts in self._buffer.counts)
            if given_up > self._given_up:
                self._given_up = given_up
                self._drop_decided()
            return packets

    def release_all(self) -> list[Packet]:
        """Return all packets to be written: the pipeline has ended."""
        with self._changed:
            self._located.clear()
            self._held.clear()
            return self._buffer.release_all()

    def written(self, packets: Iterable[Packet], *, is_lost: bool = False) -> None:
        """Count released packets that were written, or that could not be."""
        with self._changed:
            self._buffer.written(packets, is_lost=is_lost)
            self._changed.notify_all()

    def abandon(self) -> None:
        """Let a replay go on though nothing may be written any more."""
        with self._changed:
            self._is_abandoned = True
            self._changed.notify_all()

    @property
    def has_waiting(self) -> bool:
        """Whether packets wait."""
        with self._changed:
            return len(self._buffer) > 0

    def list_counts(self) -> list[PacketCounts]:
        """Return copies of the counts, by interface."""
        with self._changed:
            copies = [PacketCounts() for _ in self._buffer.counts]
            for copy, counts in zip(copies, self._buffer.counts, strict=True):
                copy.add(counts)
            return copies

    # Under the lock

    def _number(self, interface: TappedInterface) -> int:
        number = self._numbers.get(interface)
        if number is None:
            number = self._numbers[interface] = self._buffer.add_interface()
            self.interfaces.append(interface)
        return number

    def _find_key(self, link_type: int, number: int, frame: bytes, length: int) -> bytes | None:
        """Return the wire key that a packet counts by; None of a frame that is no IP packet."""
        packet = decode_frame(link_type, frame, length)
        if not isinstance(packet, DecodedFrame):
            return None
        match packet.fragment:
            case FirstFragment(ident):
                if len(self._fragmented) >= _MAX_FRAGMENTED:
                    self._fragmented.popitem(last=False)
                self._fragmented[number, ident] = packet.key
            case LaterFragment(ident):
                return self._fragmented.get((number, ident), packet.key)
        return packet.key

    def _add_side(self, packet: Packet, slot: int, *, transmits: bool) -> None:
        if slot >= 0:
            packet.undecided += 1
            self._located.setdefault(slot, []).append(_Side(packet, transmits))

    def _take_located(self, slot: int, last_ns: int) -> list[_Side]:
        """Return what was located at a slot up to a time."""
        sides = self._located.pop(slot, [])
        later = [side for side in sides if side.packet.time_ns > last_ns]
        if later:
            self._located[slot] = later
            return [side for side in sides if side.packet.time_ns <= last_ns]
        return sides

    def _select(self, flows: FlowColumns, owners: Integers, named: list[Attribution]) -> list[bool]:
        if self._only is None:
            return [True] * len(flows)
        ports = self._totals.service_ports if self._only.needs_service_port else None
        networks = self._networks if self._only.needs_network else None
        derived = flows.derive(ports, networks)
        selected: list[bool] = self._only.select(flows, derived, owners, named).tolist()
        return selected

    def _decide(self, sides: Iterable[_Side], owner: Attribution, *, is_selected: bool) -> None:
        for packet, transmits in sides:
            self._buffer.decide(packet, owner, transmits=transmits, is_selected=is_selected)

    def _announce(self) -> None:
        if not self._is_announced:
            self._is_announced = True
            self._on_ready()

    def _drop_decided(self) -> None:
        """Drop held packets that were given up: what settles their flows may never come."""
        for flow, sides in list(self._held.items()):
            if rest := [side for side in sides if side.packet.undecided > 0]:
                self._held[flow] = rest
            else:
                del self._held[flow]


class _Totals:
    """Takes the place of the aggregator: describes processes as of late, and makes no records."""

    def __init__(
        self,
        lock: threading.Condition,
        only: Selection | None,
        recall: Callable[[Process], Process],
    ) -> None:
        self._lock = lock
        self._latest = LatestProcesses(recall)
        self.bytes_by_quality: dict[str, int] = {}
        self.folded_groups = self.uncounted_flows = 0
        self.needs_service_ports = only is not None and only.needs_service_port
        self.service_ports = ServicePorts()
        self._bytes: dict[str, int] = {}

    def describe(self, attribution: Attribution) -> Attribution:
        """Return an attribution to the same process as it is described last."""
        return self._latest.describe(attribution)

    def ingest(self, sums: FlowSums) -> None:
        """Add up bytes by quality."""
        moved = sums.counters[:, 0] + sums.counters[:, RECEIVE]
        for place, attribution in enumerate(sums.attributions):
            quality = str(attribution.quality)
            size = int(moved[sums.owners == place].sum())
            self._bytes[quality] = self._bytes.get(quality, 0) + size

    def regroup(
        self,
        group_by: Collection[str],
        only: Sequence[Selector],
        max_records: int,
        networks: Networks,
    ) -> None:
        """Do nothing: there are no groups."""

    def invalidate_routes(self) -> None:
        """Describe processes again."""
        with self._lock:
            self._latest.start_generation()

    def recall_processes(self, attributions: Iterable[Attribution]) -> None:
        """Describe these processes as of now."""
        with self._lock:
            for attribution in attributions:
                self._latest.describe(attribution)

    @property
    def processes(self) -> Collection[Process]:
        """The processes that had traffic of late."""
        with self._lock:
            return self._latest.list_all()

    def drain(self) -> Iterator[TrafficBody]:
        """End the window; there are no bodies."""
        self.bytes_by_quality, self._bytes = self._bytes, {}
        self.invalidate_routes()
        return iter(())


def _make_keys(taken: Sequence[_Taken]) -> Keys:
    """Return wire keys as columns, with the numbers of their interfaces."""
    packed = bytearray().join(one.key for one in taken if one.key is not None)
    keys = np.frombuffer(packed, np.uint64).reshape(-1, WIRE_WORDS)
    keys.view(WIRE_KEY)[:, 0]["interface"] = [one.number for one in taken]
    return keys
