"""Every dimension, through both sources: what differs in it is two records, all else is one.

`SAMPLES` differ from `BASE` in one property each. A dimension that no sample changes fails the
first test; one whose `ebpf` rows are not kept apart fails the second.
"""

import dataclasses
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray
from support.flow_sums import FlowAggregator
from support.traffic import NGINX, exact, make_flow, make_traffic

from hogpipe.aggregation.dimensions import (
    DIMENSIONS,
    DimensionName,
    EndpointField,
    FlowDimension,
    Grouping,
    list_row_fields,
)
from hogpipe.aggregation.selectors import list_selected_fields, parse_selector
from hogpipe.capture.ebpf.row_aggregation import EpochRows, RowAggregator
from hogpipe.capture.ebpf.row_flows import RowFlows
from hogpipe.capture.ebpf.unresolved_rows import UnresolvedRows
from hogpipe.enrichment.flow_names import FlowsToName
from hogpipe.flows.flow_table import FlowTable
from hogpipe.flows.packet_rows import Flags, FlowNaming
from hogpipe.linux.bpf.shapes import ENDPOINTS, TRAFFIC_ROW
from hogpipe.linux.bpf.traffic_rows import RowOwner, Rows, encode_endpoints
from hogpipe.model import Ancestor, Attribution, FlowKey, Process, Quality, ServicePorts, fold_key
from hogpipe.model.peer_names import NameQuality, PeerName
from hogpipe.protocols import TCP, UDP
from hogpipe.records.schema import TrafficBody

ROOT = Path(__file__).parents[2]
V6_HERE, V6_THERE = bytes(15) + b"\x01", bytes(15) + b"\x02"
NAMES = tuple(DIMENSIONS)
SELECTORS = (
    "pid:3", "!pid:4", "program:curl", "!command:php", "user:0", "!unit:b.service",
    "domain:www.*", "!domain:db.*", "port:1", "!port:2", "network:private", "!network:i*",
    "remote:10.0.0.2", "!remote:10.0.0.3", "remote:::/0",
)  # fmt: skip
PORTS = ServicePorts(frozenset({1}))
WITH_EBPF = [
    name
    for name, one in DIMENSIONS.items()
    if not (isinstance(one, FlowDimension) and "interface" in one.fields)
]


class Sample(NamedTuple):
    flow: FlowKey
    process: Process
    peer: PeerName | None = None


WWW = PeerName("www.example.com", NameQuality.PROCESS)
DB = PeerName("db.example.com", NameQuality.HOST)
BASE = Sample(make_flow(40000, protocol=TCP, remote_port=443, interface="eth0"), NGINX, WWW)
OTHER = replace(NGINX, pid=77)


def with_flow(**changes: object) -> Sample:
    return BASE._replace(flow=replace(BASE.flow, **changes))


SAMPLES: dict[str, tuple[Sample, set[DimensionName]]] = {
    "pid": (BASE._replace(process=OTHER), {"process"}),
    "program": (
        BASE._replace(process=replace(NGINX, executable="/usr/bin/curl", command="curl")),
        {"process", "program"},
    ),
    "command": (
        BASE._replace(process=replace(NGINX, executable=None, command="php", usual_name="nginx")),
        {"process"},
    ),
    "parent": (
        BASE._replace(process=replace(OTHER, ancestors=(Ancestor(3, 5, "backup.sh"),))),
        {"process", "parent"},
    ),
    "user": (BASE._replace(process=replace(OTHER, user_id=0)), {"process", "user"}),
    "cgroup": (BASE._replace(process=replace(OTHER, cgroup="/b")), {"process", "cgroup"}),
    "unit": (
        BASE._replace(process=replace(OTHER, unit="b.service")),
        {"process", "cgroup", "unit"},
    ),
    "container": (
        BASE._replace(process=replace(OTHER, container="3d4c")),
        {"process", "container"},
    ),
    "pod": (BASE._replace(process=replace(OTHER, pod="5c6d")), {"process", "container", "pod"}),
    "protocol": (with_flow(protocol=UDP), {"transport", "flow"}),
    "family": (
        with_flow(local_address=V6_HERE, remote_address=V6_THERE),
        {"network_type", "network", "remote", "flow"},
    ),
    "interface": (with_flow(interface="wlan0"), {"interface"}),
    "local address": (with_flow(local_address=b"\x0a\x00\x00\x09"), {"flow"}),
    "remote address": (with_flow(remote_address=b"\x0a\x00\x00\x09"), {"remote", "flow"}),
    "network": (with_flow(remote_address=b"\x08\x08\x08\x08"), {"network", "remote", "flow"}),
    "local port": (with_flow(local_port=40001), {"flow"}),
    "remote port": (with_flow(remote_port=80), {"port", "flow"}),
    "name": (BASE._replace(peer=DB), {"domain"}),
    "quality of the name": (BASE._replace(peer=replace(WWW, quality=NameQuality.HOST)), {"domain"}),
    "no name": (BASE._replace(peer=None), {"domain"}),
}
"""By the property that differs from `BASE`: the sample, and the dimensions that tell it apart."""


def make_aggregator(group_by: Sequence[str], only: Sequence[str]) -> FlowAggregator:
    aggregator = FlowAggregator(group_by, [parse_selector(text) for text in only], 100)
    aggregator.service_ports = PORTS
    return aggregator


def aggregate_packets(
    samples: Sequence[Sample], group_by: Sequence[str], only: Sequence[str] = ()
) -> list[TrafficBody]:
    aggregator = make_aggregator(group_by, only)
    for sample in samples:
        moved = sample.flow, make_traffic((10, 1), (200, 2)), exact(sample.process)
        naming = FlowNaming(np.ones(1, np.int64), [None, sample.peer])
        aggregator.ingest(dataclasses.replace(aggregator.maker.make([moved]), naming=naming))
    return list(aggregator.drain())


def make_row(sample: Sample, cookie: int) -> Rows:
    row = np.zeros(1, TRAFFIC_ROW)
    row["cookie"], row["pid"], row["boot_ns"] = cookie, sample.process.pid, 1
    command = (sample.process.command or "").encode().ljust(16, b"\0")
    row["command"] = np.frombuffer(command, np.uint64)
    row["counts"] = 10, 1, 200, 2
    flow = sample.flow
    endpoints = encode_endpoints(
        flow.local_address, flow.local_port, flow.remote_address, flow.remote_port, flow.protocol
    )
    row["endpoints"] = np.frombuffer(endpoints, np.uint64)
    return row


class KnownProcesses:
    """The owners of rows, by pid and command; none is left to lookups."""

    own_namespace = 0

    def __init__(self, samples: Sequence[Sample]) -> None:
        processes = [sample.process for sample in samples]
        self._processes = {(one.pid, one.command): one for one in processes}

    def attribute(self, owner: RowOwner, quality: Quality) -> Attribution:
        return Attribution(quality, self._processes[owner.pid, owner.command])

    def find_start_ns(self, _pid: int) -> int | None:
        return 0

    def find_earlier_owners(
        self, _cookies: NDArray[np.uint64]
    ) -> tuple[NDArray[np.intp], list[RowOwner | None]]:
        raise AssertionError("the owner of every row is known")

    def find_unconfirmed(self, cookies: Collection[int]) -> list[bool]:
        return [False] * len(cookies)

    def find_passed_on(self, cookies: Collection[int]) -> list[bool]:
        return [False] * len(cookies)

    def record_unresolved(self, _rows: Rows, _exited: Flags) -> tuple[RowFlows, Flags]:
        raise AssertionError("the owner of every row is known")


class KnownNames:
    """The names of the peers of rows, in their order."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        names = list(dict.fromkeys([None, *(sample.peer for sample in samples)]))
        numbers = [names.index(sample.peer) for sample in samples]
        self._naming = FlowNaming(np.array(numbers, np.int64), names)

    def name(self, flows: FlowsToName) -> FlowNaming:
        assert len(flows.words) == len(self._naming.numbers)
        return self._naming


def aggregate_rows(
    samples: Sequence[Sample], group_by: Sequence[str], only: Sequence[str] = ()
) -> list[TrafficBody]:
    rows = np.concatenate([make_row(sample, cookie) for cookie, sample in enumerate(samples, 1)])
    none = np.zeros(0, TRAFFIC_ROW)
    fields = list_row_fields(group_by) + list_selected_fields(only)
    row_aggregator = RowAggregator(
        KnownProcesses(samples),
        UnresolvedRows(FlowTable(1, 1), lambda: 0.0),
        fields,
        lambda: PORTS,
        names=KnownNames(samples),
    )
    aggregator = make_aggregator(group_by, only)
    for batch in row_aggregator.aggregate(EpochRows(none, rows, none), window_ends=True):
        if batch.owned is not None:
            aggregator.ingest(batch.owned)
    return list(aggregator.drain())


def comparable(bodies: list[TrafficBody]) -> list[str]:
    # Rows count a flow for each socket, packets one for each five-tuple.
    for body in bodies:
        body["network"]["flows"] = 0
    return sorted(json.dumps(body, sort_keys=True) for body in bodies)


def test_each_dimension_has_a_sample_that_differs_in_it() -> None:
    assert set().union(*(changed for _, changed in SAMPLES.values())) == set(NAMES)


@pytest.mark.parametrize("difference", SAMPLES)
@pytest.mark.parametrize("name", NAMES)
def test_packets_are_two_records_if_and_only_if_they_differ_in_the_dimension(
    name: DimensionName, difference: str
) -> None:
    sample, changed = SAMPLES[difference]
    bodies = aggregate_packets([BASE, sample, BASE], [name])
    assert len(bodies) == (2 if name in changed else 1)


@pytest.mark.parametrize("difference", [one for one in SAMPLES if one != "interface"])
@pytest.mark.parametrize("name", WITH_EBPF)
def test_ebpf_rows_are_two_records_if_and_only_if_they_differ_in_the_dimension(
    name: DimensionName, difference: str
) -> None:
    sample, changed = SAMPLES[difference]
    bodies = aggregate_rows([BASE, sample, BASE], [name])
    assert len(bodies) == (2 if name in changed else 1)


PROCESSES = [
    replace(sample.process, pid=pid) for pid, (sample, _) in enumerate(SAMPLES.values(), 1)
]
flows = st.builds(
    lambda protocol, v6, host, local_port, remote_port: FlowKey(
        protocol,
        V6_HERE if v6 else b"\x0a\x00\x00\x01",
        local_port,
        (bytes(12) if v6 else b"") + bytes([10, 0, 0, host]),
        remote_port,
        "",
    ),
    st.sampled_from([TCP, UDP, 132]),
    st.booleans(),
    st.integers(2, 3),
    st.integers(1, 2),
    st.integers(1, 2),
)


@given(
    st.lists(
        st.builds(Sample, flows, st.sampled_from(PROCESSES), st.sampled_from([None, WWW, DB])),
        min_size=1,
        max_size=12,
    ),
    st.lists(st.sampled_from(WITH_EBPF), unique=True, max_size=4),
    st.lists(st.sampled_from(SELECTORS), unique=True, max_size=3),
)
def test_both_sources_give_the_same_records(
    samples: list[Sample], group_by: list[str], only: list[str]
) -> None:
    by_packets = comparable(aggregate_packets(samples, group_by, only))
    assert comparable(aggregate_rows(samples, group_by, only)) == by_packets


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITH_EBPF])
def test_a_dimension_that_ebpf_has_no_data_for_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ValueError, match=f'"{name}" cannot be grouped by with source "ebpf": .'):
        list_row_fields(["process", name])


def test_the_fields_of_endpoints_are_those_of_the_rows() -> None:
    assert set(get_args(EndpointField)) == {*(ENDPOINTS.names or ())} - {"padding"}


def test_an_unknown_dimension_is_an_error() -> None:
    with pytest.raises(KeyError, match="colour"):
        FlowAggregator(["colour"], [], 100)


def test_types_and_documentation_list_the_dimensions_in_the_order_of_the_table() -> None:
    assert get_args(DimensionName) == NAMES
    (in_record,) = re.findall(
        r"\| dimension \| keys \|\n\|---\|---\|\n((?:\| .*\n)+)",
        (ROOT / "docs/record.md").read_text(),
    )
    assert tuple(re.findall(r"^\| `(\w+)`", in_record, re.MULTILINE)) == NAMES
    (line,) = re.findall(r"\| `group_by` \|.*", (ROOT / "docs/configuration.md").read_text())
    assert tuple(re.findall(r"`(\w+)`", line.partition("any of")[2])) == NAMES
    (comment,) = re.findall(
        r"^group_by = .*# any of: (.*)$", (ROOT / "config.toml").read_text(), re.MULTILINE
    )
    assert tuple(comment.split()) == NAMES


def test_a_sum_of_flows_is_described_by_what_its_flows_have_in_common() -> None:
    flow = fold_key(FlowKey(17, b"\x0a\0\0\1", 53, b"\x0a\0\0\2", 4000, "eth0"))
    names = ["transport", "network_type", "interface", "port", "network", "remote", "domain",
             "flow"]  # fmt: skip
    assert Grouping(names).describe_path(flow) == {
        "transport": "udp", "type": "ipv4", "interface": {"name": "eth0"},
    }  # fmt: skip
    assert Grouping(names).describe_server(0) is None
    for name in names:
        described = Grouping([name]).describe_path(flow)
        assert "local" not in described
        assert "peer" not in described
