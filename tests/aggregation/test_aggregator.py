from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.flow_sums import FlowAggregator, Moved, SumsMaker, sum_flows
from support.health import healths
from support.plain_aggregator import PlainAggregator, select_by
from support.traffic import (
    NGINX,
    attributions,
    deltas,
    dimensions,
    exact,
    flows,
    make_flow,
    make_traffic,
    processes,
)

from hogpipe.aggregation.aggregator import Aggregator
from hogpipe.aggregation.selectors import Selector, parse_selector
from hogpipe.model import (
    BUILT_IN_NETWORKS,
    UNATTRIBUTED,
    Attribution,
    FlowDelta,
    FlowKey,
    Process,
    Quality,
    ServicePorts,
    TcpHealth,
    TrafficCounts,
    User,
)
from hogpipe.records.schema import TrafficBody

CURL = replace(NGINX, pid=77, executable="/usr/bin/curl", command="curl")
V6 = bytes(15) + b"\x02"

selectors = st.sampled_from(
    [
        *("pid:1", "exe:/usr/bin/*", "user:1", "user:ro*", "cgroup:/a.*", "unit:b.*"),
        *(
            "container:1*",
            "pod:7a1b",
            "program:nginx",
            "command:*",
            "port:22",
            "remote:10.0.0.0/30",
        ),
        *("network:private", "!network:internet"),
        *("!program:nginx", "!port:443", "!remote:::/0", "!user:0"),
    ]
).map(parse_selector)


def transmitted(size: int) -> TrafficCounts:
    return TrafficCounts(transmit_bytes=size, transmit_packets=1)


def drain_one(aggregator: FlowAggregator) -> TrafficBody:
    (body,) = aggregator.drain()
    return body


@given(
    st.lists(st.tuples(flows, deltas, attributions, st.none() | processes), max_size=30),
    dimensions,
    st.lists(selectors, max_size=2),
    st.integers(1, 5),
    st.integers(0, 20),
)
def test_the_bodies_of_a_window_add_up_to_what_was_ingested(
    moved: list[tuple[FlowKey, FlowDelta, Attribution, Process | None]],
    group_by: list[str],
    only: list[Selector],
    max_records: int,
    max_flows: int,
) -> None:
    """Whatever becomes known of processes meanwhile."""
    latest: dict[int, Process] = {}
    aggregator = FlowAggregator(
        group_by,
        only,
        max_records,
        max_flows,
        recall_process=lambda process: latest.get(process.pid, process),
    )
    expected, qualities = TrafficCounts(), Counter[str]()
    for flow, delta, attribution, changed in moved:
        if changed is not None:
            latest[changed.pid] = changed
            aggregator.invalidate_routes()
        aggregator.ingest_flow(flow, delta, attribution)
        expected.add_counts(delta)
        qualities[attribution.quality] += delta.total_bytes

    bodies = list(aggregator.drain())

    total, by_quality = TrafficCounts(), Counter[str]()
    for body in bodies:
        io = body["network"]["io"]
        transmit, receive = io["transmit"], io["receive"]
        total.add_counts(
            make_traffic(
                (transmit["bytes"], transmit["packets"]), (receive["bytes"], receive["packets"])
            )
        )
        by_quality.update(body["attribution"])
        both = io["transmit"]["bytes"] + io["receive"]["bytes"]
        assert sum(body["attribution"].values()) == both
        assert 0 not in body["attribution"].values()
    assert total == expected
    assert by_quality == +qualities == Counter(aggregator.bytes_by_quality)
    assert sum("remainder" not in body for body in bodies) <= max_records
    assert all("remainder" not in body for body in bodies[:-1])
    assert list(aggregator.drain()) == []


@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(flows, deltas, attributions), max_size=9),
            dimensions,
            st.lists(selectors, max_size=2),
            st.integers(1, 5),
        ),
        max_size=5,
    )
)
def test_each_window_is_aggregated_by_its_own_rules_and_none_loses_a_byte(
    windows: list[
        tuple[list[tuple[FlowKey, FlowDelta, Attribution]], list[str], list[Selector], int]
    ],
) -> None:
    """As a run with these rules from its start would have done it."""
    aggregator = FlowAggregator([], [], 1)
    drained = []
    for moved, group_by, only, max_records in windows:
        drained.append(aggregator.drain())
        aggregator.regroup(group_by, only, max_records, BUILT_IN_NETWORKS)
        for one in moved:
            aggregator.ingest_flow(*one)
    drained.append(aggregator.drain())
    assert list(drained[0]) == []
    for (moved, *rules), bodies in zip(windows, drained[1:], strict=True):
        alone = FlowAggregator(*rules)
        for one in moved:
            alone.ingest_flow(*one)
        found = list(bodies)  # bodies are made after the rules have changed
        assert found == list(alone.drain())
        total = sum(
            body["network"]["io"][way]["bytes"] for body in found for way in ("transmit", "receive")
        )
        assert total == sum(delta.total_bytes for _flow, delta, _attribution in moved)


moves = st.lists(st.tuples(flows, deltas, attributions), max_size=12)
plain_selectors = st.sampled_from(
    ["pid:1", "pid:2", "!pid:3", "port:22", "!port:443", "remote:10.0.0.2", "!remote:10.0.0.3"]
)


@given(
    st.lists(st.tuples(moves, st.booleans(), st.booleans()), max_size=6),
    dimensions,
    st.lists(plain_selectors, max_size=3, unique=True),
    st.integers(1, 6),
    st.frozensets(st.sampled_from([22, 443, 40000])) | st.none(),
)
def test_bodies_are_those_of_a_plain_aggregator(
    parts: list[tuple[list[Moved], bool, bool]],
    group_by: list[str],
    only: list[str],
    max_records: int,
    listening: frozenset[int] | None,
) -> None:
    """Whether a window is ingested at once or in parts, and whatever is evicted between windows."""
    aggregator = Aggregator(group_by, [parse_selector(text) for text in only], max_records)
    plain = PlainAggregator(group_by, select_by(only), max_records)
    aggregator.service_ports = plain.ports = ServicePorts(listening)
    maker = SumsMaker()
    for moved, ends, evicts in parts:
        aggregator.ingest(maker.make(moved))
        plain.ingest(moved)
        if ends:
            folded = len(plain.folded)
            assert list(aggregator.drain()) == plain.drain()
            assert aggregator.folded_groups == folded
            if evicts:
                maker.evict_all()
    assert list(aggregator.drain()) == plain.drain()
    assert aggregator.uncounted_flows == 0


@given(
    st.lists(
        st.lists(st.tuples(flows, deltas, attributions, st.none() | healths), max_size=8),
        max_size=4,
    ),
    dimensions,
    st.lists(plain_selectors, max_size=2, unique=True),
    st.integers(1, 4),
)
def test_each_group_has_the_health_of_its_flows(
    parts: list[list[tuple[FlowKey, FlowDelta, Attribution, TcpHealth | None]]],
    group_by: list[str],
    only: list[str],
    max_records: int,
) -> None:
    """However many parts a window is ingested in, and also what is in the remainder."""
    aggregator = Aggregator(group_by, [parse_selector(text) for text in only], max_records)
    plain = PlainAggregator(group_by, select_by(only), max_records)
    maker = SumsMaker()
    for part in parts:
        moved = [(flow, delta, attribution) for flow, delta, attribution, _ in part]
        aggregator.ingest(maker.make(moved, [health for *_, health in part]))
        plain.ingest(moved, [health for *_, health in part])
    assert list(aggregator.drain()) == plain.drain()


@given(st.lists(st.tuples(flows, deltas, attributions, st.booleans()), max_size=12), dimensions)
def test_sums_of_flows_are_in_the_groups_of_single_flows(
    moved: list[tuple[FlowKey, FlowDelta, Attribution, bool]], group_by: list[str]
) -> None:
    aggregator, plain = FlowAggregator(group_by, [], 100), PlainAggregator(group_by)
    for number, (flow, delta, attribution, is_sum) in enumerate(moved):
        if is_sum:
            aggregator.ingest(sum_flows(flow, delta, attribution, number))
        else:
            aggregator.ingest_flow(flow, delta, attribution)
        plain.ingest([(flow, delta, attribution)])
    found, expected = list(aggregator.drain()), plain.drain()
    for body in (*found, *expected):
        body["network"]["flows"] = 0
    assert found == expected


def test_a_process_is_one_record_however_many_flows_it_has() -> None:
    aggregator = FlowAggregator(["process"], [], 10)
    aggregator.ingest_flow(make_flow(1), make_traffic((10, 1), (300, 1)), exact(NGINX))
    aggregator.ingest_flow(
        make_flow(2), make_traffic(receive=(160, 1)), exact(replace(NGINX, command="ngx"))
    )
    aggregator.ingest_flow(make_flow(1), TrafficCounts(), exact(NGINX))
    assert drain_one(aggregator) == {
        "process": {
            "pid": 4242,
            "name": "nginx",
            "parent_pid": 1,
            "creation": {"time": "2026-11-22T06:58:01.220Z"},
            "executable": {"name": "nginx", "path": "/usr/sbin/nginx"},
            "command": "nginx",
            "user": {"id": 33},
            "owner": "www-data",
            "linux": {"cgroup": "/system.slice/nginx.service"},
        },
        "systemd": {"unit": "nginx.service"},
        "container": {"id": "1f2e3d"},
        "k8s": {"pod": {"uid": "7a1b90f2-713c-467a-a18a-cbb50a075296"}},
        "network": {
            "flows": 2,
            "io": {
                "transmit": {"bytes": 10, "packets": 1},
                "receive": {"bytes": 460, "packets": 2},
            },
        },
        "attribution": {"exact": 470},
    }


@given(processes)
def test_a_record_with_a_pid_has_the_name_of_the_program(process: Process) -> None:
    aggregator = FlowAggregator(["process"], [], 10)
    aggregator.ingest_flow(make_flow(1), transmitted(10), exact(process))
    name = drain_one(aggregator)["process"]["name"]
    assert name
    if process.executable is not None:
        assert name == process.executable.rpartition("/")[2]
    else:
        assert name == (process.usual_name or process.command or "(unknown)")


def test_processes_of_one_program_have_one_name() -> None:
    known = replace(NGINX, command="nginx: worker")
    unread = replace(known, executable=None, usual_name="nginx")
    assert known.name == unread.name == "nginx"
    assert replace(unread, usual_name=None).name == "nginx: worker"


def test_traffic_before_and_after_exec_is_in_two_records() -> None:
    aggregator = FlowAggregator(["process"], [], 10)
    for executable in ("/bin/sh", "/usr/bin/curl"):
        process = replace(NGINX, executable=executable)
        aggregator.ingest_flow(make_flow(1), transmitted(10), exact(process))
    assert [body["process"]["name"] for body in aggregator.drain()] == ["sh", "curl"]


class Host:
    """The processes as they are described at the moment."""

    def __init__(self, *processes: Process) -> None:
        self.latest = {process.pid: process for process in processes}

    def recall(self, process: Process) -> Process:
        return self.latest.get(process.pid, process)


CHANGED = {
    "executable": replace(NGINX, executable="/usr/sbin/other"),
    "executable of the same name": replace(NGINX, executable="/opt/nginx"),
    "unit": replace(NGINX, cgroup="/b.service", unit="b.service"),
}


@pytest.mark.parametrize("change", CHANGED)
def test_traffic_after_a_change_is_described_by_it_though_the_attribution_is_from_before(
    change: str,
) -> None:
    host = Host(NGINX)
    aggregator = FlowAggregator(["process"], [], 10, recall_process=host.recall)
    attribution = exact(NGINX)
    for size in (1, 2):
        aggregator.ingest_flow(make_flow(1), transmitted(size), attribution)
    host.latest[NGINX.pid] = CHANGED[change]
    aggregator.invalidate_routes()
    for size in (10, 20):
        aggregator.ingest_flow(make_flow(1), transmitted(size), attribution)
    before, after = aggregator.drain()
    assert [body["attribution"] for body in (before, after)] == [{"exact": 3}, {"exact": 30}]
    assert [body["network"]["flows"] for body in (before, after)] == [1, 1]
    for body, process in ((before, NGINX), (after, CHANGED[change])):
        assert body["process"]["executable"]["path"] == process.executable
        assert body["systemd"]["unit"] == process.unit
    aggregator.ingest_flow(make_flow(1), transmitted(5), attribution)
    assert drain_one(aggregator)["process"] == after["process"]


def test_traffic_from_before_a_change_is_described_as_when_its_process_was_named() -> None:
    """Though it is ingested after the change."""
    host = Host(NGINX)
    aggregator = FlowAggregator(["process"], [], 10, recall_process=host.recall)
    attribution = exact(NGINX)
    aggregator.recall_processes([attribution, UNATTRIBUTED])
    assert [process.pid for process in aggregator.processes] == [NGINX.pid]
    host.latest[NGINX.pid] = CHANGED["executable"]
    aggregator.ingest_flow(make_flow(1), transmitted(1), attribution)
    aggregator.invalidate_routes()
    aggregator.ingest_flow(make_flow(1), transmitted(2), attribution)
    paths = [body["process"]["executable"]["path"] for body in aggregator.drain()]
    assert paths == [NGINX.executable, CHANGED["executable"].executable]


def test_routes_that_are_found_again_count_no_flow_twice() -> None:
    host = Host(NGINX, CURL)
    aggregator = FlowAggregator(["process"], [], 10, 3, recall_process=host.recall)
    for _ in range(3):
        for port in (1, 2):
            aggregator.ingest_flow(make_flow(port), transmitted(1), exact(NGINX))
        aggregator.ingest_flow(make_flow(3), transmitted(1), exact(CURL))
        aggregator.invalidate_routes()
    assert [body["network"]["flows"] for body in aggregator.drain()] == [2, 1]
    assert aggregator.uncounted_flows == 0


def test_a_selector_matches_what_a_process_is_now() -> None:
    host = Host(replace(NGINX, executable="/usr/bin/curl"))
    aggregator = FlowAggregator(
        ["process"], [parse_selector("exe:curl")], 10, recall_process=host.recall
    )
    aggregator.ingest_flow(make_flow(1), transmitted(1), exact(NGINX))
    assert drain_one(aggregator)["process"]["name"] == "curl"


@pytest.mark.parametrize(
    ("group_by", "only", "pids"),
    [
        (["process"], [], {4242, 77}),
        (["user", "remote"], [], {4242, 77}),
        (["remote"], ["exe:curl"], {4242, 77}),
        (["remote"], ["!user:0"], {4242, 77}),
        (["remote"], ["remote:10.0.0.2", "!port:80"], set()),
        (["remote"], [], set()),
    ],
)
def test_the_processes_of_the_last_two_windows_are_in_use_if_records_depend_on_them(
    group_by: list[str], only: list[str], pids: set[int]
) -> None:
    aggregator = FlowAggregator(group_by, [parse_selector(one) for one in only], 10)
    aggregator.ingest_flow(make_flow(1), transmitted(1), exact(NGINX))
    list(aggregator.drain())
    aggregator.ingest(sum_flows(make_flow(2), transmitted(1), exact(CURL), 1))
    aggregator.ingest_flow(make_flow(3), transmitted(1), UNATTRIBUTED)
    assert {process.pid for process in aggregator.processes} == pids
    list(aggregator.drain())
    list(aggregator.drain())
    assert not aggregator.processes


def test_the_processes_in_use_are_bounded() -> None:
    aggregator = FlowAggregator(["process"], [], 10)
    for pid in range(20_000):
        aggregator.ingest_flow(make_flow(1), transmitted(1), exact(replace(NGINX, pid=pid)))
    assert 4096 <= len(aggregator.processes) <= 8192


def test_sums_of_several_flows_add_to_those_of_single_ones() -> None:
    aggregator = FlowAggregator(["process"], [], 100)
    aggregator.ingest_flow(make_flow(1), transmitted(10), exact(NGINX))
    aggregator.ingest(sum_flows(make_flow(2), transmitted(300), exact(NGINX), 3))
    body = drain_one(aggregator)
    assert body["network"]["flows"] == 4
    assert body["network"]["io"]["transmit"]["bytes"] == 310
    assert body["attribution"] == {"exact": 310}


def test_a_reused_pid_is_another_process() -> None:
    aggregator = FlowAggregator(["process"], [], 10)
    aggregator.ingest_flow(make_flow(1), transmitted(1), exact(NGINX))
    aggregator.ingest_flow(
        make_flow(2), transmitted(2), exact(replace(NGINX, start=NGINX.start + 1))
    )
    assert [body["attribution"]["exact"] for body in aggregator.drain()] == [1, 2]


def test_traffic_without_a_process_is_described_by_its_user_or_not_at_all() -> None:
    aggregator = FlowAggregator(["process"], [], 10)
    aggregator.ingest_flow(
        make_flow(1), transmitted(1), Attribution(Quality.NONE, None, User(33, "www-data"))
    )
    aggregator.ingest_flow(make_flow(2), transmitted(2), UNATTRIBUTED)
    by_user, unknown = aggregator.drain()
    assert by_user.get("process") == {"user": {"id": 33}, "owner": "www-data"}
    assert unknown.keys() == {"network", "attribution"}


@pytest.mark.parametrize(
    ("dimension", "owner"),
    [
        ("user", {"process": {"user": {"id": 33}, "owner": "www-data"}}),
        (
            "cgroup",
            {
                "process": {"linux": {"cgroup": "/system.slice/nginx.service"}},
                "systemd": {"unit": "nginx.service"},
            },
        ),
        (
            "container",
            {
                "container": {"id": "1f2e3d"},
                "k8s": {"pod": {"uid": "7a1b90f2-713c-467a-a18a-cbb50a075296"}},
            },
        ),
    ],
)
def test_an_owner_dimension_groups_the_processes_that_share_its_value(
    dimension: str, owner: dict[str, object]
) -> None:
    aggregator = FlowAggregator([dimension], [], 10)
    aggregator.ingest_flow(make_flow(1), transmitted(1), exact(NGINX))
    aggregator.ingest_flow(make_flow(2), transmitted(2), exact(CURL))
    body = drain_one(aggregator)
    assert body["attribution"] == {"exact": 3}
    assert {
        key: body.get(key) for key in ("process", "systemd", "container", "k8s") if key in body
    } == owner


def test_pods_are_separate_groups_if_their_containers_are_unknown() -> None:
    aggregator = FlowAggregator(["container"], [], 10)
    for pod in ("7a1b", "5c6d"):
        aggregator.ingest_flow(
            make_flow(), transmitted(1), exact(replace(NGINX, container=None, pod=pod))
        )
    assert [body.get("k8s") for body in aggregator.drain()] == [
        {"pod": {"uid": "7a1b"}},
        {"pod": {"uid": "5c6d"}},
    ]


@pytest.mark.parametrize(
    ("dimension", "flow", "described"),
    [
        ("transport", make_flow(protocol=6), {"transport": "tcp"}),
        ("transport", make_flow(protocol=47), {"transport": "47"}),
        ("transport", make_flow(protocol=58, remote=V6), {"transport": "icmpv6"}),
        ("network_type", make_flow(), {"type": "ipv4"}),
        ("network_type", make_flow(remote=V6), {"type": "ipv6"}),
        ("interface", make_flow(), {"interface": {"name": "eth0"}}),
        ("interface", make_flow(interface=""), {}),
        ("network", make_flow(), {"peer": {"network": "private"}}),
        ("network", make_flow(remote=V6), {"peer": {"network": "internet"}}),
        ("network", FlowKey(0, b"", 0, b"", 0, ""), {}),
        ("remote", make_flow(), {"peer": {"address": "10.0.0.2"}}),
        ("remote", make_flow(remote=V6), {"peer": {"address": "::2"}}),
        (
            "flow",
            make_flow(protocol=17),
            {
                "transport": "udp",
                "type": "ipv4",
                "local": {"address": "10.0.0.1", "port": 40000},
                "peer": {"address": "10.0.0.2", "port": 443},
            },
        ),
        (
            "flow",
            make_flow(7, protocol=1, remote_port=7),
            {
                "transport": "icmp",
                "type": "ipv4",
                "local": {"address": "10.0.0.1"},
                "peer": {"address": "10.0.0.2"},
            },
        ),
        ("flow", FlowKey(0, b"", 0, b"", 0, ""), {}),
    ],
)
def test_a_flow_dimension_is_described_beside_the_counters(
    dimension: str, flow: FlowKey, described: dict[str, object]
) -> None:
    aggregator = FlowAggregator([dimension], [], 10)
    aggregator.ingest_flow(flow, transmitted(1), exact(NGINX))
    body = drain_one(aggregator)
    assert "process" not in body
    network = dict(body["network"])
    del network["flows"], network["io"]
    assert network == described


def test_pings_to_one_peer_are_one_record_whatever_their_identifiers() -> None:
    aggregator = FlowAggregator(["flow"], [], 10)
    for identifier in (7, 8):
        flow = make_flow(identifier, protocol=1, remote_port=identifier)
        aggregator.ingest_flow(flow, transmitted(84), UNATTRIBUTED)
    assert drain_one(aggregator)["network"]["flows"] == 2


def test_only_selects_a_process_in_tcp_and_udp_alike_and_sums_up_the_rest() -> None:
    aggregator = FlowAggregator(
        ["process", "transport"], [parse_selector("exe:curl"), parse_selector("pid:1")], 10
    )
    for port, protocol in enumerate((6, 17)):
        aggregator.ingest_flow(make_flow(port, protocol=protocol), transmitted(1), exact(CURL))
        aggregator.ingest_flow(
            make_flow(port + 10, protocol=protocol), transmitted(10), exact(NGINX)
        )
    aggregator.ingest_flow(make_flow(99), transmitted(100), UNATTRIBUTED)
    tcp, udp, rest = aggregator.drain()
    assert [body["network"].get("transport") for body in (tcp, udp)] == ["tcp", "udp"]
    assert rest == {
        "network": {
            "flows": 3,
            "io": {
                "transmit": {"bytes": 120, "packets": 3},
                "receive": {"bytes": 0, "packets": 0},
            },
        },
        "attribution": {"exact": 20, "none": 100},
        "remainder": True,
    }
    assert aggregator.folded_groups == 0


def test_groups_beyond_max_records_are_folded_and_counted() -> None:
    aggregator = FlowAggregator(["flow"], [], 2)
    for _ in range(2):
        for port in (5, 3, 4, 9):
            aggregator.ingest_flow(make_flow(port), transmitted(port), exact(NGINX))
    first, second, rest = aggregator.drain()
    assert [body["network"].get("local", {}).get("port") for body in (first, second)] == [5, 3]
    assert rest.get("remainder")
    assert rest["network"]["flows"] == 2
    assert rest["attribution"] == {"exact": 2 * (4 + 9)}
    assert aggregator.folded_groups == 2
    aggregator.drain()
    assert aggregator.folded_groups == 0


def test_a_flow_whose_owner_changes_counts_once_for_each_owner() -> None:
    aggregator = FlowAggregator(["process"], [], 10)
    for owner in (NGINX, CURL, NGINX, CURL):
        aggregator.ingest_flow(make_flow(), transmitted(1), exact(owner))
    bodies = list(aggregator.drain())
    assert [body["network"]["flows"] for body in bodies] == [1, 1]
    assert [body["attribution"]["exact"] for body in bodies] == [2, 2]


def test_changes_beyond_max_flows_keep_their_bytes_and_are_counted_as_uncounted() -> None:
    aggregator = FlowAggregator(["process"], [], 10, max_flows=2)
    for owner in (NGINX, CURL, CURL):
        for port in (1, 2, 3):
            aggregator.ingest_flow(make_flow(port), transmitted(1), exact(owner))
    nginx, curl = aggregator.drain()
    assert [body["network"]["flows"] for body in (nginx, curl)] == [3, 2]
    assert [body["attribution"] for body in (nginx, curl)] == [{"exact": 3}, {"exact": 6}]
    assert aggregator.uncounted_flows == 2
    aggregator.drain()
    assert aggregator.uncounted_flows == 0


def test_owners_beyond_all_bounds_are_in_the_remainder() -> None:
    aggregator = FlowAggregator(["process"], [], 2, max_flows=3)
    for pid in range(1, 11):
        aggregator.ingest_flow(make_flow(pid), transmitted(1), exact(replace(NGINX, pid=pid)))
    *groups, rest = aggregator.drain()
    assert len(groups) == 2
    assert rest["attribution"] == {"exact": 8}
    assert aggregator.folded_groups == 3


def test_packets_without_bytes_leave_the_qualities_empty() -> None:
    aggregator = FlowAggregator(["process"], [], 10)
    aggregator.ingest_flow(make_flow(), transmitted(0), exact(NGINX))
    assert drain_one(aggregator)["attribution"] == {}


def test_what_was_known_first_describes_the_group_until_the_window_ends() -> None:
    aggregator = FlowAggregator(["process"], [], 10)
    for command in ("sh", "curl"):
        aggregator.ingest_flow(make_flow(), transmitted(1), exact(replace(NGINX, command=command)))
    assert drain_one(aggregator).get("process", {}).get("command") == "sh"
    aggregator.ingest_flow(make_flow(), transmitted(1), exact(replace(NGINX, command="curl")))
    assert drain_one(aggregator).get("process", {}).get("command") == "curl"
