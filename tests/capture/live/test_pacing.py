"""How long the capture thread rests: never until a ring overflows."""

from hypothesis import given
from hypothesis import strategies as st
from support.frames import batch_of

from hogpipe.capture.live.pacing import BLOCK_BYTES, RingFill, choose_rest, measure_fill, relax

MIB = 1 << 20
BATCH_INTERVALS = [0.004, 0.02, 0.12, 0.15]
"""Those that attribution sets."""

cpu_seconds = st.floats(0, 0.05)
intervals = st.sampled_from(BATCH_INTERVALS)
sizes = st.integers(1, 1024).map(lambda mib: mib * MIB)


@st.composite
def rings(draw: st.DrawFn) -> RingFill:
    size = draw(sizes)
    return RingFill(size, draw(st.integers(0, size)), draw(st.floats(0, 1)))


@given(cpu_seconds, intervals, st.lists(rings(), max_size=5))
def test_a_rest_is_never_longer_than_attribution_asks_for(
    cpu: float, interval: float, all_rings: list[RingFill]
) -> None:
    assert 0 < choose_rest(cpu, interval, all_rings) <= interval


@given(cpu_seconds, intervals, st.lists(rings(), min_size=1, max_size=5))
def test_no_ring_overflows_in_a_rest_at_the_rate_of_its_last_read(
    cpu: float, interval: float, all_rings: list[RingFill]
) -> None:
    rest = choose_rest(cpu, interval, all_rings)
    for ring in all_rings:
        arriving = ring.read_bytes * rest / max(ring.span, 0.002)
        # The blocks that are free, but for the one that is being filled.
        assert arriving <= (ring.size - BLOCK_BYTES) * 0.51


@given(cpu_seconds, intervals, sizes)
def test_no_quiet_ring_overflows_if_a_flood_begins_in_a_rest(
    cpu: float, interval: float, size: int
) -> None:
    flood = 392_000 * 192  # bytes a second in the ring
    assert flood * choose_rest(cpu, interval, [RingFill(size)]) < size - BLOCK_BYTES


@given(cpu_seconds, intervals, st.lists(rings(), max_size=5), sizes)
def test_a_larger_ring_or_fewer_rings_never_shorten_a_rest(
    cpu: float, interval: float, all_rings: list[RingFill], more: int
) -> None:
    rest = choose_rest(cpu, interval, all_rings)
    larger = [ring._replace(size=ring.size + more) for ring in all_rings]
    assert choose_rest(cpu, interval, larger) >= rest
    assert choose_rest(cpu, interval, all_rings[1:]) >= rest


@given(cpu_seconds, intervals)
def test_a_quiet_ring_of_the_default_size_does_not_shorten_a_rest(
    cpu: float, interval: float
) -> None:
    assert choose_rest(cpu, interval, [RingFill(16 * MIB)]) == choose_rest(cpu, interval, [])


def test_a_costly_batch_is_followed_by_a_longer_rest() -> None:
    rests = [choose_rest(cpu, 0.02, []) for cpu in (0.0, 0.0002, 0.0005, 1.0)]
    assert rests == sorted(rests)
    assert (rests[0], rests[-1]) == (0.002, 0.02)


@given(cpu_seconds, intervals, st.lists(rings(), max_size=5))
def test_a_rest_grows_while_all_flows_are_known_and_to_the_interval_at_most(
    cpu: float, interval: float, all_rings: list[RingFill]
) -> None:
    rests = [choose_rest(cpu, interval, all_rings, quiet) for quiet in range(8)]
    assert rests == sorted(rests)
    assert rests[0] == choose_rest(cpu, interval, all_rings)
    assert max(rests) <= interval
    assert choose_rest(0.0, 0.02, [], 4) == 0.02


def test_many_frames_of_known_flows_gather_longer_while_no_new_flows_come() -> None:
    busy, calm = RingFill(16 * MIB, 1 << 20, 0.02), RingFill(16 * MIB, 1 << 12, 0.02)
    assert choose_rest(0.001, 0.02, [calm, busy], is_steady=True) == 0.06
    assert choose_rest(0.001, 0.02, [calm, busy]) == 0.02
    assert choose_rest(0.001, 0.02, [calm, calm], is_steady=True) == 0.02
    assert choose_rest(0.001, 0.004, [busy], is_steady=True) == 0.004
    assert choose_rest(0.001, 0.12, [busy], is_steady=True) == 0.12


def test_a_short_interval_holds_until_no_flow_was_looked_up_for_a_second() -> None:
    assert [relax(0.004, age) for age in (0.0, 0.9, 1.0)] == [0.004, 0.004, 0.02]
    assert [relax(0.15, age) for age in (0.0, 1.0)] == [0.15, 0.15]


@given(cpu_seconds, st.lists(rings(), min_size=1, max_size=5))
def test_no_ring_overflows_however_long_frames_gather(
    cpu: float, all_rings: list[RingFill]
) -> None:
    rest = choose_rest(cpu, 0.02, all_rings, is_steady=True)
    assert rest <= min(ring.lasts for ring in all_rings)


def test_what_frames_take_of_a_ring_is_more_than_their_bytes() -> None:
    batch = batch_of([bytes(60), bytes(40), bytes(60)], [1_000_000, 1_001_000, 1_004_000])
    fill = measure_fill(MIB, batch)
    assert (fill.size, fill.span) == (MIB, 0.004)
    assert fill.read_bytes > 3 * 68 + 160  # struct tpacket3_hdr and sockaddr_ll
    assert measure_fill(MIB, batch_of([])) == RingFill(MIB)
