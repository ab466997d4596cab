"""Owners of datagram sockets from before the programs, found by column."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.capture.ebpf.earlier_owners import EarlierOwner, EarlierOwners
from hogpipe.model import SERVICE_MANAGER, SnapshotSocket, SocketOwner
from hogpipe.protocols import TCP, UDP

owners = st.builds(
    SocketOwner,
    st.integers(1, 3),
    st.sampled_from([None, 5, 6]),
    st.just(0),
    st.sampled_from(["dns", SERVICE_MANAGER]),
    st.just(0),
)
cookies = st.one_of(st.integers(1, 8), st.just((1 << 64) - 1))
sockets = st.builds(
    SnapshotSocket,
    cookies,
    st.integers(1, 2),
    st.sampled_from([TCP, UDP]),
    st.just(bytes(4)),
    st.just(53),
    st.just(bytes(4)),
    st.just(0),
    st.none() | owners,
)


@given(
    st.lists(sockets, max_size=12, unique_by=lambda one: one.cookie),
    st.lists(st.just(0) | cookies, max_size=12),
)
def test_each_socket_has_the_owner_that_the_snapshot_has(
    snapshot: list[SnapshotSocket], asked: list[int]
) -> None:
    expected: dict[int, EarlierOwner] = {}
    for socket in snapshot:
        owner = socket.owner
        if socket.protocol == UDP and owner and owner.start and owner.command != SERVICE_MANAGER:
            expected[socket.cookie] = EarlierOwner(owner, socket.namespace_cookie)
    earlier = EarlierOwners(snapshot)
    numbers = earlier.find(np.array(asked, np.uint64)).tolist()
    assert [earlier.owners[number] for number in numbers] == [expected.get(one) for one in asked]
    assert len(set(earlier.owners)) == len(earlier.owners)
