"""Flows, deltas and owners: constants, factories and Hypothesis strategies."""

from hypothesis import strategies as st

from hogpipe.aggregation.dimensions import DIMENSIONS
from hogpipe.model import (
    UNATTRIBUTED,
    Ancestor,
    Attribution,
    ContainerNames,
    FlowDelta,
    FlowKey,
    Process,
    Quality,
    TrafficCounts,
    User,
)

NGINX = Process(
    pid=4242,
    start=8117,
    parent_pid=1,
    created_ns=1_795_330_681_220_000_000,
    command="nginx",
    executable="/usr/sbin/nginx",
    user_id=33,
    user_name="www-data",
    cgroup="/system.slice/nginx.service",
    unit="nginx.service",
    container="1f2e3d",
    pod="7a1b90f2-713c-467a-a18a-cbb50a075296",
)


def make_flow(
    local_port: int = 40000,
    *,
    protocol: int = 6,
    remote: bytes = b"\x0a\x00\x00\x02",
    remote_port: int = 443,
    interface: str = "eth0",
) -> FlowKey:
    """Return a flow of an address of the same family as `remote`."""
    local = b"\x0a\x00\x00\x01" if len(remote) == 4 else bytes(15) + b"\x01"
    return FlowKey(protocol, local, local_port, remote, remote_port, interface)


def exact(process: Process) -> Attribution:
    """Return an exact attribution."""
    return Attribution(Quality.EXACT, process)


def make_traffic(
    transmit: tuple[int, int] = (0, 0), receive: tuple[int, int] = (0, 0)
) -> TrafficCounts:
    """Return counters, each direction as (bytes, packets)."""
    return TrafficCounts(
        transmit_bytes=transmit[0],
        transmit_packets=transmit[1],
        receive_bytes=receive[0],
        receive_packets=receive[1],
    )


def make_delta(
    transmit: tuple[int, int] = (0, 0),
    receive: tuple[int, int] = (0, 0),
    *,
    opened: bool = False,
    at_ns: tuple[int, int] = (0, 0),
) -> FlowDelta:
    """Return a delta, each direction as (bytes, packets); `at_ns` is the first and last time."""
    delta = FlowDelta(opened=opened, first_ns=at_ns[0], last_ns=at_ns[1])
    delta.add_counts(make_traffic(transmit, receive))
    return delta


ports = st.sampled_from([0, 22, 443, 40000])
v4 = st.sampled_from([bytes([10, 0, 0, last]) for last in (1, 2, 3)])
v6 = st.sampled_from([bytes(15) + bytes([last]) for last in (1, 2, 3)])


def _flows_between(addresses: st.SearchStrategy[bytes]) -> st.SearchStrategy[FlowKey]:
    protocols = st.sampled_from([0, 1, 6, 17, 47, 58, 132, 136])
    interfaces = st.sampled_from(["", "eth0", "wlan0"])
    return st.builds(FlowKey, protocols, addresses, ports, addresses, ports, interfaces)


flows = _flows_between(v4) | _flows_between(v6) | st.just(FlowKey(0, b"", 0, b"", 0, ""))

counts = st.integers(0, 1 << 40)
deltas = st.builds(
    FlowDelta,
    **dict.fromkeys(TrafficCounts.__struct_fields__, counts),
    opened=st.booleans(),
)

words = st.text(min_size=1, max_size=8)
file_names = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=8)
ancestors = st.builds(
    Ancestor,
    st.integers(1, 3),
    st.integers(0, 1),
    st.sampled_from(["bash", "backup.sh"]),
    st.none() | st.just("/bin/bash"),
)
container_names = st.builds(
    ContainerNames,
    *[st.none() | st.just(name) for name in ("web", "nginx:1", "docker", "web-0", "shop", "app")],
)
processes = st.builds(
    Process,
    pid=st.integers(1, 3),
    start=st.integers(0, 1),
    parent_pid=st.none() | st.integers(0, 1 << 22),
    ancestors=st.lists(ancestors, max_size=3).map(tuple),
    created_ns=st.none() | st.integers(0, 4_000_000_000_000_000_000),
    command=st.none() | words,
    executable=st.none() | file_names.map("/usr/bin/{}".format),
    usual_name=st.none() | st.sampled_from(["nginx", "curl"]),
    command_line=st.none() | st.lists(words, max_size=2).map(tuple),
    user_id=st.none() | st.integers(0, 2),
    user_name=st.none() | st.sampled_from(["root", "www-data"]),
    cgroup=st.none() | st.sampled_from(["/", "/a.slice", "/b.slice"]),
    unit=st.none() | st.sampled_from(["a.service", "b.service"]),
    container=st.none() | st.sampled_from(["1f2e", "3d4c"]),
    pod=st.none() | st.sampled_from(["7a1b", "5c6d"]),
    container_names=st.none() | container_names,
)
users = st.builds(User, st.integers(0, 2), st.none() | st.sampled_from(["root", "www-data"]))
owned = st.builds(
    Attribution,
    st.sampled_from([Quality.EXACT, Quality.LISTENER, Quality.INFERRED]),
    processes,
)
ownerless = st.just(UNATTRIBUTED) | st.builds(Attribution, st.just(Quality.NONE), st.none(), users)
kernels = st.builds(
    Attribution,
    st.sampled_from([Quality.LISTENER, Quality.INFERRED]),
    st.none(),
    st.none(),
    st.sampled_from(["vxlan", "nfs"]),
)
attributions = owned | ownerless | kernels

dimensions = st.lists(st.sampled_from([*DIMENSIONS]), unique=True)
