"""Evidence of the endpoint heuristic, and the owners that follow from it."""

from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st
from support.traffic import NGINX, make_flow

from hogpipe.attribution.procfs.endpoint_heuristic import EndpointHeuristic, endpoint_of
from hogpipe.model import Process

ENDPOINT = endpoint_of(make_flow(1))
OTHER = (6, b"\x0a\0\0\x09", 443)
CURL = Process(pid=77, start=1, command="curl")


def heuristic_after(owners: Sequence[Process | None], *, at: float = 0.0) -> EndpointHeuristic:
    """Return a heuristic with a short-lived socket of each of these owners, one after another."""
    heuristic = EndpointHeuristic(min_sockets=3, max_age=30.0)
    record_short_lived(heuristic, owners, at)
    return heuristic


def record_short_lived(
    heuristic: EndpointHeuristic, owners: Sequence[Process | None], at: float, first_inode: int = 1
) -> None:
    for inode, owner in enumerate(owners, first_inode):
        heuristic.record_sample(ENDPOINT, {inode: owner}, at)
    heuristic.record_sample(ENDPOINT, {}, at)


def test_enough_short_lived_sockets_of_one_owner_name_it() -> None:
    assert heuristic_after([NGINX] * 3).infer_owner(ENDPOINT, 1.0) == NGINX


def test_few_sockets_are_no_evidence() -> None:
    assert heuristic_after([NGINX] * 2).infer_owner(ENDPOINT, 1.0) is None


def test_open_sockets_are_no_evidence() -> None:
    heuristic = EndpointHeuristic(min_sockets=3)
    pool = dict.fromkeys(range(1, 20), NGINX)
    for now in (0.0, 0.1, 0.2):
        heuristic.record_sample(ENDPOINT, pool, now)
    assert heuristic.infer_owner(ENDPOINT, 0.2) is None
    assert not heuristic.is_conclusive(ENDPOINT, 0.2)


def test_long_lived_sockets_are_no_evidence() -> None:
    heuristic = EndpointHeuristic(min_sockets=3)
    heuristic.record_sample(ENDPOINT, dict.fromkeys(range(1, 20), NGINX), 0.0)
    heuristic.record_sample(ENDPOINT, {}, 1.1)
    assert heuristic.infer_owner(ENDPOINT, 1.1) is None


def test_the_owner_of_a_long_lived_socket_makes_an_endpoint_ambiguous() -> None:
    heuristic = heuristic_after([CURL] * 3)
    assert heuristic.infer_owner(ENDPOINT, 0.0) == CURL
    heuristic.record_sample(ENDPOINT, {50: NGINX}, 0.1)
    assert heuristic.infer_owner(ENDPOINT, 0.1) is None


def test_sockets_that_their_own_lookup_found_are_no_evidence() -> None:
    for before in (True, False):
        heuristic = EndpointHeuristic(min_sockets=3)
        sockets = dict.fromkeys(range(1, 20), NGINX)
        if before:
            heuristic.record_sample(ENDPOINT, sockets, 0.0)
        for inode in sockets:
            heuristic.record_match(ENDPOINT, inode, NGINX, 0.0)
        heuristic.record_sample(ENDPOINT, sockets, 0.1)
        heuristic.record_sample(ENDPOINT, {}, 0.2)
        assert heuristic.infer_owner(ENDPOINT, 0.2) is None


def test_the_owner_that_a_lookup_found_makes_an_endpoint_ambiguous() -> None:
    heuristic = heuristic_after([CURL] * 3)
    heuristic.record_match(ENDPOINT, 50, NGINX, 0.0)
    assert heuristic.infer_owner(ENDPOINT, 0.0) is None


def test_a_socket_in_several_samples_counts_once() -> None:
    heuristic = EndpointHeuristic(min_sockets=3)
    for _ in range(9):
        heuristic.record_sample(ENDPOINT, {5: NGINX}, 0.0)
    heuristic.record_sample(ENDPOINT, {}, 0.0)
    assert heuristic.infer_owner(ENDPOINT, 0.0) is None


def test_two_owners_are_ambiguous() -> None:
    assert heuristic_after([NGINX, NGINX, CURL, NGINX, NGINX]).infer_owner(ENDPOINT, 1.0) is None


def test_a_socket_without_an_owner_for_a_moment_may_just_be_closing() -> None:
    assert heuristic_after([NGINX, None, NGINX, NGINX]).infer_owner(ENDPOINT, 1.0) == NGINX
    assert heuristic_after([NGINX, None, NGINX]).infer_owner(ENDPOINT, 1.0) is None


def test_a_socket_that_stays_open_without_an_owner_is_ambiguous() -> None:
    heuristic = heuristic_after([NGINX] * 3)
    heuristic.record_match(ENDPOINT, 9, None, 1.0)
    heuristic.record_match(ENDPOINT, 9, None, 1.1)
    assert heuristic.infer_owner(ENDPOINT, 1.1) == NGINX
    heuristic.record_match(ENDPOINT, 9, None, 1.25)
    assert heuristic.infer_owner(ENDPOINT, 1.25) is None
    assert heuristic.is_conclusive(ENDPOINT, 1.25)


def test_evidence_is_conclusive_when_it_names_an_owner_or_is_ambiguous() -> None:
    assert not EndpointHeuristic().is_conclusive(ENDPOINT, 0.0)
    assert not heuristic_after([NGINX] * 2).is_conclusive(ENDPOINT, 0.0)
    assert heuristic_after([NGINX] * 3).is_conclusive(ENDPOINT, 0.0)
    assert heuristic_after([NGINX, CURL]).is_conclusive(ENDPOINT, 0.0)
    assert not heuristic_after([NGINX, None]).is_conclusive(ENDPOINT, 0.0)


def test_evidence_is_no_longer_conclusive_after_it_expires() -> None:
    for owners in ([NGINX] * 3, [NGINX, CURL]):
        heuristic = heuristic_after(owners)
        assert heuristic.is_conclusive(ENDPOINT, 30.0)
        assert not heuristic.is_conclusive(ENDPOINT, 30.1)


def test_endpoints_have_separate_evidence() -> None:
    assert heuristic_after([NGINX] * 3).infer_owner(OTHER, 1.0) is None


def test_evidence_expires() -> None:
    heuristic = heuristic_after([CURL] * 3)
    assert heuristic.infer_owner(ENDPOINT, 30.0) == CURL
    assert heuristic.infer_owner(ENDPOINT, 30.1) is None
    record_short_lived(heuristic, [NGINX] * 3, 31.0, first_inode=7)
    assert heuristic.infer_owner(ENDPOINT, 31.0) == NGINX


def test_a_process_with_changed_attributes_is_one_owner() -> None:
    after_exec = Process(pid=CURL.pid, start=CURL.start, command="wget")
    assert heuristic_after([CURL, CURL, after_exec]).infer_owner(ENDPOINT, 1.0) == after_exec


def test_the_number_of_endpoints_is_bounded_and_the_oldest_is_evicted() -> None:
    heuristic = EndpointHeuristic(min_sockets=1, max_endpoints=2)
    endpoints = [(6, b"\x0a\0\0\x02", port) for port in (1, 2, 3)]
    for endpoint in endpoints:
        heuristic.record_sample(endpoint, {endpoint[2]: NGINX}, 0.0)
        heuristic.record_sample(endpoint, {}, 0.0)
    assert heuristic.infer_owner(endpoints[0], 0.0) is None
    assert heuristic.infer_owner(endpoints[2], 0.0) == NGINX


def test_open_sockets_are_bounded_and_the_others_do_not_count_as_closed() -> None:
    heuristic = EndpointHeuristic(min_sockets=3)
    pool = dict.fromkeys(range(1, 2000), NGINX)
    for now in (0.0, 0.1, 0.2, 0.3):
        heuristic.record_sample(ENDPOINT, pool, now)
    assert heuristic.infer_owner(ENDPOINT, 0.3) is None
    (evidence,) = heuristic._evidence.values()
    assert len(evidence._open) <= 256


steps = st.tuples(
    st.floats(0, 20),
    st.dictionaries(st.integers(1, 60), st.sampled_from([NGINX, CURL, None]), max_size=8),
)


@given(st.lists(steps, max_size=20))
def test_an_inferred_owner_is_the_only_recent_owner(
    script: list[tuple[float, Mapping[int, Process | None]]],
) -> None:
    heuristic = EndpointHeuristic(min_sockets=3, max_age=30.0)
    now, owners, ends = 0.0, dict[int, float](), 0
    before: Mapping[int, Process | None] = {}
    for pause, present in script:
        now += pause
        ends += sum(owner is not None for inode, owner in before.items() if inode not in present)
        heuristic.record_sample(ENDPOINT, present, now)
        owners.update((owner.pid, now) for owner in present.values() if owner is not None)
        before = present
    lately = {pid for pid, at in owners.items() if at >= now - 30.0}
    named = heuristic.infer_owner(ENDPOINT, now)
    if named is not None:
        assert lately == {named.pid}
        assert ends >= 3
        assert heuristic.is_conclusive(ENDPOINT, now)
