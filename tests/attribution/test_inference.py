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


def test_a_socket_in_doubt_means_none() -> None:
    assert seen([NGINX, NGINX, None, NGINX]).infer(ENDPOINT, 1.0) is None


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
    max_size=80,
)


@given(sightings)
def test_whoever_is_named_owned_every_socket_that_is_remembered(
    script: list[tuple[int, Process | None, float]],
) -> None:
    memory = EndpointOwners(min_sockets=3, memory=30.0)
    script = sorted(script, key=lambda step: step[2])
    for inode, owner, now in script:
        memory.see(ENDPOINT, inode, owner, now)
    now = script[-1][2] if script else 0.0
    latest = {inode: (owner, at) for inode, owner, at in script}
    lately = [owner for owner, at in latest.values() if at >= now - 30.0]
    named = memory.infer(ENDPOINT, now)
    if named is not None:
        assert lately.count(named) >= min(3, len(lately))
        assert len(lately) > 64 or set(map(id, lately)) == {id(named)}
