from hypothesis import given, settings
from hypothesis import strategies as st
from support.traffic import NGINX, exact, make_flow

from hogpipe.attribution.stage.flow_cache import FlowCache, KnownFlow

KNOWN = KnownFlow(exact(NGINX), 0.0)


def test_a_flow_is_known_until_it_has_been_idle_for_long() -> None:
    memory = FlowCache(10, idle=60.0, now=0.0)
    memory.put(make_flow(1), KNOWN)
    memory.put(make_flow(2), KNOWN)
    memory.forget_idle(60.0)
    assert memory.get(make_flow(1)) is KNOWN
    memory.forget_idle(119.0)
    assert memory.forgotten == 0
    memory.forget_idle(120.0)
    assert memory.get(make_flow(1)) is KNOWN
    assert memory.get(make_flow(2)) is None
    assert memory.forgotten == 1


def test_a_flow_that_was_discarded_is_not_one_that_was_forgotten() -> None:
    memory = FlowCache(10, idle=60.0, now=0.0)
    memory.put(make_flow(1), KNOWN)
    memory.forget_idle(60.0)
    memory.put(make_flow(2), KNOWN)
    memory.discard(make_flow(1))
    memory.discard(make_flow(2))
    assert (len(memory), memory.forgotten) == (0, 0)


@settings(deadline=None)
@given(
    st.integers(2, 9),
    st.lists(st.tuples(st.sampled_from(["get", "put", "discard"]), st.integers(1, 12))),
)
def test_memory_is_bounded_and_keeps_the_half_that_was_used_last(
    max_flows: int, uses: list[tuple[str, int]]
) -> None:
    memory = FlowCache(max_flows, idle=60.0, now=0.0)
    recent: list[int] = []
    discarded: set[int] = set()
    puts = discards = 0
    for use, port in uses:
        flow = make_flow(port)
        kept = len(memory)
        if use == "put":
            puts += memory.get(flow) is None
            memory.put(flow, KNOWN)
            discarded.discard(port)
        elif use == "discard":
            memory.discard(flow)
            discards += kept - len(memory)
            discarded.add(port)
        if memory.get(flow) is not None:
            recent = [other for other in recent if other != port] + [port]
        assert len(memory) <= max_flows
    assert puts - discards - memory.forgotten == len(memory)
    latest = [port for port in recent[-(max_flows // 2) :] if port not in discarded]
    assert all(memory.get(make_flow(port)) is not None for port in reversed(latest))
