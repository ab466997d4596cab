"""Whose unseen sockets are, by those that were seen."""

from hypothesis import given
from hypothesis import strategies as st
from support.traffic import NGINX, make_flow

from hogpipe.attribution.inference import EndpointOwners, endpoint_of
from hogpipe.model import Process

ENDPOINT = endpoint_of(make_flow(1))
OTHER = (6, b"\x0a\0\0\x09", 443)
CURL = Process(pid=77, start=1, command="curl")


def seen(owners: list[Process | None], *, at: float = 0.0) -> EndpointOwners:
    memory = EndpointOwners(min_sockets=3, memory=30.0)
    for inode, owner in enumerate(owners, 1):
        memory.see(ENDPOINT, inode, owner, at)
    return memory


def test_enough_sockets_of_one_owner_name_the_unseen_ones() -> None:
    assert seen([NGINX] * 3).infer(ENDPOINT, 1.0) == NGINX


def test_a_few_sightings_prove_nothing() -> None:
    assert seen([NGINX] * 2).infer(ENDPOINT, 1.0) is None


def test_the_same_socket_seen_often_is_one_sighting() -> None:
    memory = EndpointOwners(min_sockets=3)
    for _ in range(9):
        memory.see(ENDPOINT, 5, NGINX, 0.0)
    assert memory.infer(ENDPOINT, 0.0) is None


def test_two_owners_mean_none() -> None:
    assert seen([NGINX, NGINX, CURL, NGINX]).infer(ENDPOINT, 1.0) is None


def test_a_socket_without_an_owner_makes_for_doubt_when_it_is_noted_again() -> None:
    memory = seen([NGINX, NGINX, None, NGINX])
    assert memory.infer(ENDPOINT, 1.0) == NGINX  # it may just be closed
    memory.see(ENDPOINT, 3, None, 1.0)
    assert memory.infer(ENDPOINT, 1.0) is None


def test_a_socket_that_had_an_owner_and_has_none_now_makes_for_doubt_at_once() -> None:
    memory = seen([NGINX] * 4)
    memory.see(ENDPOINT, 2, None, 1.0)
    assert memory.infer(ENDPOINT, 1.0) is None


def test_doubt_ends_when_the_owner_is_found_after_all() -> None:
    memory = seen([NGINX, NGINX, None, None, NGINX])
    for owner in (None, NGINX):
        for inode in (3, 4):
            memory.see(ENDPOINT, inode, owner, 1.0)
    assert memory.infer(ENDPOINT, 1.0) == NGINX


def test_a_socket_whose_owner_is_found_late_counts_as_seen() -> None:
    memory = seen([NGINX, NGINX, None])
    assert memory.infer(ENDPOINT, 1.0) is None
    memory.see(ENDPOINT, 3, NGINX, 1.0)
    assert memory.infer(ENDPOINT, 1.0) == NGINX


def test_asking_in_between_does_not_make_a_socket_without_an_owner_forgotten() -> None:
    memory = EndpointOwners(min_sockets=3)
    memory.see(ENDPOINT, 9, None, 0.0)
    assert memory.infer(ENDPOINT, 0.1) is None
    for inode in (1, 2, 3):
        memory.see(ENDPOINT, inode, NGINX, 0.2)
    memory.see(ENDPOINT, 9, None, 0.3)
    assert memory.infer(ENDPOINT, 0.3) is None


def test_a_socket_without_an_owner_that_was_noted_long_ago_is_another_one_now() -> None:
    memory = seen([None, NGINX, NGINX, NGINX])
    for inode in (2, 3, 4):
        memory.see(ENDPOINT, inode, NGINX, 31.0)
    memory.see(ENDPOINT, 1, None, 31.0)
    assert memory.infer(ENDPOINT, 31.0) == NGINX


def test_an_endpoint_is_settled_when_its_owner_is_known_or_that_it_has_none() -> None:
    assert not EndpointOwners().is_settled(ENDPOINT, 0.0)
    assert not seen([NGINX] * 2).is_settled(ENDPOINT, 0.0)
    assert seen([NGINX] * 3).is_settled(ENDPOINT, 0.0)
    assert seen([NGINX, CURL]).is_settled(ENDPOINT, 0.0)
    assert not seen([NGINX, None]).is_settled(ENDPOINT, 0.0)
    in_doubt = seen([NGINX, None])
    in_doubt.see(ENDPOINT, 2, None, 0.0)
    assert in_doubt.is_settled(ENDPOINT, 0.0)


def test_an_endpoint_is_not_settled_any_more_when_what_was_seen_is_forgotten() -> None:
    for owners in ([NGINX] * 3, [NGINX, CURL]):
        memory = seen(owners)
        assert memory.is_settled(ENDPOINT, 30.0)
        assert not memory.is_settled(ENDPOINT, 30.1)


def test_another_endpoint_is_another_matter() -> None:
    assert seen([NGINX] * 3).infer(OTHER, 1.0) is None


def test_the_rule_forgets() -> None:
    memory = seen([CURL] * 3)
    assert memory.infer(ENDPOINT, 30.0) == CURL
    assert memory.infer(ENDPOINT, 30.1) is None
    for inode in (7, 8, 9):
        memory.see(ENDPOINT, inode, NGINX, 31.0)
    assert memory.infer(ENDPOINT, 31.0) == NGINX


def test_a_process_whose_details_changed_is_still_one_owner() -> None:
    after_exec = Process(pid=CURL.pid, start=CURL.start, command="wget")
    assert seen([CURL, CURL, after_exec]).infer(ENDPOINT, 1.0) == after_exec


def test_only_so_many_endpoints_are_remembered_the_latest_ones() -> None:
    memory = EndpointOwners(min_sockets=1, max_endpoints=2)
    for port in (1, 2, 3):
        memory.see((6, b"\x0a\0\0\x02", port), port, NGINX, 0.0)
    assert memory.infer((6, b"\x0a\0\0\x02", 1), 0.0) is None
    assert memory.infer((6, b"\x0a\0\0\x02", 3), 0.0) == NGINX


sightings = st.lists(
    st.tuples(st.integers(1, 200), st.sampled_from([NGINX, CURL, None]), st.floats(0, 100)),
    max_size=60,  # fewer than are remembered of an endpoint
)


def test_only_so_many_sockets_of_an_endpoint_are_remembered_the_latest_ones() -> None:
    memory = seen([CURL] + [NGINX] * 63)
    assert memory.infer(ENDPOINT, 0.0) is None
    memory.see(ENDPOINT, 65, NGINX, 0.0)
    assert memory.infer(ENDPOINT, 0.0) == NGINX


def play(script: list[tuple[int, Process | None, float]]) -> tuple[EndpointOwners, float]:
    """Note what a script tells; return the memory and the time of the last step."""
    memory = EndpointOwners(min_sockets=3, memory=30.0)
    now = 0.0
    for inode, owner, now in script:
        memory.see(ENDPOINT, inode, owner, now)
    return memory, now


def recount(script: list[tuple[int, Process | None, float]], now: float) -> dict[int, object]:
    """Return the owner of each socket that the rule goes by, plainly.

    One that was noted but once, or not lately before, and without an owner, is none of them.
    """
    lately: dict[int, object] = {}
    for place, (inode, owner, at) in enumerate(script):
        before = [when for one, _owner, when in script[:place] if one == inode]
        if owner is not None or (before and before[-1] >= at - 30.0):
            lately[inode] = owner
        else:
            lately.pop(inode, None)
    return {
        inode: owner
        for inode, owner in lately.items()
        if max(at for one, _owner, at in script if one == inode) >= now - 30.0
    }


@given(sightings)
def test_whoever_is_named_owned_every_socket_that_is_remembered(
    script: list[tuple[int, Process | None, float]],
) -> None:
    script = sorted(script, key=lambda step: step[2])
    memory, now = play(script)
    owners = [*recount(script, now).values()]
    alone = len(owners) >= 3 and owners.count(owners[0]) == len(owners)
    assert memory.infer(ENDPOINT, now) == (owners[0] if alone else None)


@given(sightings)
def test_what_names_an_owner_or_is_disputed_is_settled(
    script: list[tuple[int, Process | None, float]],
) -> None:
    script = sorted(script, key=lambda step: step[2])
    memory, now = play(script)
    owners = [*recount(script, now).values()]
    settled = len(owners) >= 3 or len({*map(id, owners)}) > 1 or None in owners
    assert memory.is_settled(ENDPOINT, now) == settled
    assert settled or memory.infer(ENDPOINT, now) is None


@given(sightings, st.integers(1, 200), st.floats(0, 29))
def test_a_socket_noted_twice_without_an_owner_leaves_none_to_be_named(
    script: list[tuple[int, Process | None, float]], inode: int, between: float
) -> None:
    memory, now = play(sorted(script, key=lambda step: step[2]))
    memory.see(ENDPOINT, inode, None, now)
    memory.infer(ENDPOINT, now)
    memory.is_settled(ENDPOINT, now + between)
    memory.see(ENDPOINT, inode, None, now + between)
    assert memory.infer(ENDPOINT, now + between) is None
