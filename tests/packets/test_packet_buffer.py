"""Packets keep their order and are never lost without a counter."""

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st
from support.traffic import NGINX, exact

from hogpipe.model import UNATTRIBUTED, Attribution, Quality, User
from hogpipe.packets.packet_buffer import Packet, PacketBuffer
from hogpipe.packets.packet_counts import PacketCounts

SIZE = Packet(0, 0, bytes(100), 100).size


def make_buffer(
    max_bytes: float = 1e9, max_seconds: float = 10.0, *, selects_unowned: bool = False
) -> PacketBuffer:
    buffer = PacketBuffer(max_bytes, max_seconds, selects_unowned=selects_unowned)
    buffer.add_interface()
    return buffer


def make_packets(times: Iterable[int], sides: int = 1) -> list[Packet]:
    packets = [Packet(0, time_ns, bytes(100), 100) for time_ns in times]
    for packet in packets:
        packet.undecided = sides
    return packets


def decide(buffer: PacketBuffer, packet: Packet, *, is_selected: bool = True) -> None:
    owner = exact(NGINX) if is_selected else UNATTRIBUTED
    buffer.decide(packet, owner, transmits=True, is_selected=is_selected)


def test_a_packet_is_released_once_all_before_it_are_decided() -> None:
    buffer = make_buffer()
    first, second, third = packets = make_packets([1, 2, 3])
    buffer.add(packets, 0.0)
    decide(buffer, second)
    assert buffer.release(0.0) == []
    decide(buffer, first, is_selected=False)
    assert buffer.release(0.0) == [second]
    decide(buffer, third)
    assert buffer.release(0.0) == [third]
    assert buffer.counts == [PacketCounts(captured=3, matched=2, not_matched=1, without_owner=1)]


def test_a_packet_with_two_sides_waits_for_both_and_is_selected_for_either() -> None:
    buffer = make_buffer()
    [packet] = make_packets([1], sides=2)
    buffer.add([packet], 0.0)
    buffer.decide(packet, exact(NGINX), transmits=False, is_selected=True)
    assert buffer.release(0.0) == []
    buffer.decide(packet, UNATTRIBUTED, transmits=True, is_selected=False)
    assert buffer.release(0.0) == [packet]
    assert (packet.transmitter, packet.receiver) == (UNATTRIBUTED, exact(NGINX))


def test_packets_without_a_local_side_are_selected_where_those_without_an_owner_are() -> None:
    for selects_unowned in (False, True):
        buffer = make_buffer(selects_unowned=selects_unowned)
        packets = make_packets([1], sides=0)
        buffer.add(packets, 0.0)
        assert buffer.release(0.0) == (packets if selects_unowned else [])
        assert buffer.counts[0].without_owner == 1
        assert buffer.counts[0].given_up == 0


def test_packets_of_the_kernel_have_an_owner_and_those_of_a_user_alone_have_none() -> None:
    buffer = make_buffer()
    kernel, user = packets = make_packets([1, 2])
    buffer.add(packets, 0.0)
    of_kernel = Attribution(Quality.INFERRED, kernel="vxlan")
    buffer.decide(kernel, of_kernel, transmits=True, is_selected=True)
    of_user = Attribution(Quality.NONE, user=User(33))
    buffer.decide(user, of_user, transmits=True, is_selected=True)
    assert buffer.release(0.0) == packets
    assert buffer.counts[0].without_owner == 1


def test_a_packet_that_waited_for_too_long_has_no_owner_whatever_comes_later() -> None:
    buffer = make_buffer(max_seconds=2.0, selects_unowned=True)
    [packet] = make_packets([1])
    buffer.add([packet], 0.0)
    assert buffer.release(1.9) == []
    assert buffer.release(2.0) == [packet]
    decide(buffer, packet, is_selected=False)
    assert packet.transmitter is None
    assert packet.frame
    assert buffer.counts == [PacketCounts(captured=1, matched=1, without_owner=1, given_up=1)]


def test_beyond_the_bound_the_oldest_packets_are_given_up() -> None:
    buffer = make_buffer(max_bytes=2 * SIZE)
    packets = make_packets([1, 2, 3])
    buffer.add(packets, 0.0)
    assert buffer.counts[0].given_up == 1
    for packet in packets:
        decide(buffer, packet)
    assert buffer.release(0.0) == packets[1:]
    assert buffer.counts[0].not_matched == 1


def test_packets_that_the_writer_does_not_take_are_dropped_beyond_the_bound() -> None:
    buffer = make_buffer(max_bytes=2 * SIZE)
    written: list[Packet] = []
    for time_ns in range(4):
        packets = make_packets([time_ns])
        buffer.add(packets, 0.0)
        decide(buffer, packets[0])
        written += buffer.release(0.0)
    assert [packet.time_ns for packet in written] == [0, 1]
    assert buffer.counts[0].dropped == 2
    buffer.written(written)
    packets = make_packets([9])
    buffer.add(packets, 0.0)
    decide(buffer, packets[0])
    assert buffer.release(0.0) == packets
    assert buffer.counts[0].written == 2


def test_packets_that_will_not_be_written_take_no_memory_while_they_wait() -> None:
    buffer = make_buffer(max_bytes=10 * SIZE)
    first, *others = make_packets(range(10))
    buffer.add([first, *others], 0.0)
    for packet in others:
        decide(buffer, packet, is_selected=False)
    assert buffer.waiting_bytes == 10 * SIZE - 9 * 100


def test_packets_of_several_interfaces_are_merged_by_time() -> None:
    buffer = make_buffer()
    buffer.merges_by_time = True
    early, late = make_packets([1, 5, 9], sides=0), make_packets([3, 5, 10], sides=0)
    buffer.selects_unowned = True
    buffer.add(early, 0.0)
    buffer.add(late, 0.0)
    assert [packet.time_ns for packet in buffer.release(0.0, until_ns=5)] == [1, 3, 5, 5]
    assert [packet.time_ns for packet in buffer.release(0.0, until_ns=20)] == [9, 10]


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 2), st.integers(1, 4)),
        st.tuples(st.just("decide"), st.integers(0, 30), st.booleans()),
        st.tuples(st.just("release"), st.integers(0, 3), st.booleans()),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(_steps, st.integers(1, 12), st.booleans())
def test_packets_in_are_packets_written_not_matched_dropped_or_lost(
    steps: list[tuple[str, int, int]], bound: int, selects_unowned: bool
) -> None:
    buffer = make_buffer(bound * SIZE, 2.0, selects_unowned=selects_unowned)
    packets: list[Packet] = []
    out: list[Packet] = []
    now, lost = 0.0, 0
    for kind, number, other in steps:
        if kind == "add":
            new = make_packets(range(len(packets), len(packets) + other), sides=number)
            packets += new
            buffer.add(new, now)
        elif kind == "decide" and packets:
            decide(buffer, packets[number % len(packets)], is_selected=bool(other))
        elif kind == "release":
            now += number
            released = buffer.release(now)
            out += released
            buffer.written(released, is_lost=not other)
            lost += 0 if other else len(released)
        assert buffer.waiting_bytes <= bound * SIZE
        assert buffer.unwritten_bytes <= bound * SIZE
        assert buffer.waiting_bytes >= 0
    rest = buffer.release_all()
    out += rest
    buffer.written(rest)
    [counts] = buffer.counts
    assert [packet.time_ns for packet in out] == sorted(packet.time_ns for packet in out)
    assert counts.captured == len(packets) == counts.matched + counts.not_matched + counts.dropped
    assert counts.matched == len(out) == counts.written + lost
    assert all(packet.frame for packet in out)
    assert (buffer.waiting_bytes, buffer.unwritten_bytes, len(buffer)) == (0, 0, 0)
