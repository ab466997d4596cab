"""Where many flows of a port had no socket of their own, a later lookup finds the same."""

from hypothesis import given
from hypothesis import strategies as st
from support.traffic import make_flow

from hogpipe.attribution.procfs import unconnected_ports as module
from hogpipe.attribution.procfs.unconnected_ports import UnconnectedPorts

ENOUGH, PAUSE = module._ENOUGH, module._MAX_PAUSE
FLOW, OTHER = make_flow(53), make_flow(54)


def after(ports: UnconnectedPorts, flows: int, now: float = 0.0) -> bool:
    """Return whether a later lookup would find the same, after so many unconnected flows."""
    return [ports.record(FLOW, is_connected=False, now=now) for _ in range(flows)][-1]


def test_many_flows_without_sockets_of_their_own_are_enough() -> None:
    ports = UnconnectedPorts()
    assert not after(ports, ENOUGH)
    assert after(ports, 1)
    assert not ports.record(OTHER, is_connected=False, now=0.0)


def test_a_connected_socket_starts_the_count_again() -> None:
    ports = UnconnectedPorts()
    after(ports, 2 * ENOUGH)
    assert not ports.record(FLOW, is_connected=True, now=0.0)
    assert not after(ports, ENOUGH)
    assert after(ports, 1)


def test_a_pause_starts_the_count_again() -> None:
    ports = UnconnectedPorts()
    assert after(ports, 2 * ENOUGH)
    assert after(ports, 1, now=PAUSE)
    assert not after(ports, ENOUGH, now=2 * PAUSE + 1)
    assert after(ports, 1, now=2 * PAUSE + 1)


@given(st.lists(st.integers(0, 65_535), max_size=50))
def test_the_number_of_ports_is_bounded_and_ports_in_use_stay(numbers: list[int]) -> None:
    ports = UnconnectedPorts()
    after(ports, ENOUGH)
    for number in [*numbers, *range(2 * module._MAX_PORTS)]:
        ports.record(make_flow(number), is_connected=False, now=0.0)
        assert after(ports, 1)
    assert len(ports) == module._MAX_PORTS
