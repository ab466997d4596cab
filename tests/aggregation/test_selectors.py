"""Selectors: what each kind matches, and what several of them select together."""

import re
from ipaddress import IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.traffic import NGINX, attributions, exact, flows, make_flow

from hogpipe.aggregation.flow_columns import FlowColumns
from hogpipe.aggregation.selectors import (
    Selection,
    SelectorKind,
    list_selected_fields,
    parse_selector,
)
from hogpipe.flows.flow_words import FlowPacker
from hogpipe.flows.network_columns import NetworkColumns
from hogpipe.model import (
    BUILT_IN_NETWORKS,
    UNATTRIBUTED,
    UNKNOWN_FLOW,
    Ancestor,
    Attribution,
    ContainerNames,
    FlowKey,
    Networks,
    Quality,
    ServicePorts,
    User,
    fold_key,
    make_networks,
)

PAGE = (Path(__file__).parents[2] / "docs/configuration.md").read_text()
KINDS = get_args(SelectorKind)
OF_FLOWS = ("port", "network", "remote")
WWW_DATA = Attribution(Quality.NONE, None, User(33, "www-data"))
FLOW = make_flow(40000, remote=bytes([10, 1, 2, 3]), remote_port=443)
V6 = make_flow(40000, remote=bytes.fromhex("20010db8000000000000000000000005"))
CURL = replace(NGINX, pid=77, executable="/usr/bin/curl", command="curl", unit="cron.service")


def matches(
    text: str,
    attribution: Attribution = UNATTRIBUTED,
    flow: FlowKey = FLOW,
    ports: ServicePorts = ServicePorts(),  # noqa: B008 - it is frozen
) -> bool:
    return selects([text], attribution, flow, ports)


def selects(
    only: list[str],
    attribution: Attribution,
    flow: FlowKey = FLOW,
    ports: ServicePorts = ServicePorts(),  # noqa: B008 - it is frozen
    networks: Networks = BUILT_IN_NETWORKS,
) -> bool:
    packer = FlowPacker()
    columns = FlowColumns(packer.pack([flow]), packer)
    derived = columns.derive(ports, NetworkColumns(networks))
    selection = Selection(parse_selector(text, networks) for text in only)
    (selected,) = selection.select(columns, derived, np.zeros(1, np.int64), [attribution])
    return bool(selected)


@pytest.mark.parametrize(
    "text",
    [
        "pid:4242",
        "program:nginx",
        "program:n*x",
        "exe:nginx",
        "exe:ngin?",
        "exe:/usr/*/nginx",
        "command:nginx",
        "unit:nginx.*",
        "container:1f2e*",
        "pod:7a1b*",
        "user:www-*",
        "user:33",
        "cgroup:/system.slice/*",
    ],
)
def test_a_selector_matches_the_process_it_describes(text: str) -> None:
    assert matches(text, exact(NGINX))


@pytest.mark.parametrize(
    "text",
    [
        "pid:424",
        "program:Nginx",
        "program:/usr/sbin/nginx",
        "exe:Nginx",
        "exe:sbin",
        "exe:/sbin/nginx",
        "command:ngin",
        "unit:nginx",
        "container:1f2e",
        "pod:7a1b",
        "user:root",
        "user:3",
        "cgroup:system.slice/*",
    ],
)
def test_a_selector_does_not_match_other_processes(text: str) -> None:
    assert not matches(text, exact(NGINX))


def test_a_process_without_a_pod_matches_no_pod_selector() -> None:
    assert not matches("pod:*", exact(replace(NGINX, pod=None)))


@pytest.mark.parametrize("kind", ["program", "exe"])
def test_processes_of_a_program_are_matched_however_much_is_known_of_each(kind: str) -> None:
    assert matches(f"{kind}:nginx", exact(NGINX))
    worker = replace(NGINX, executable=None, command="nginx: worker", usual_name="nginx")
    assert matches(f"{kind}:nginx", exact(worker))


def test_exe_matches_the_command_only_if_the_executable_is_unknown() -> None:
    assert matches("exe:worker", exact(replace(NGINX, executable=None, command="worker")))
    assert not matches("exe:worker", exact(replace(NGINX, command="worker")))
    kernel_thread = replace(NGINX, executable=None, command="kworker/0:1")
    assert matches("exe:kworker/*", exact(kernel_thread))


def test_containers_and_pods_are_matched_by_their_names_too() -> None:
    names = ContainerNames(name="web", pod_name="web-0", pod_namespace="shop")
    named = exact(replace(NGINX, container_names=names))
    for text in ("container:web", "container:1f2e*", "pod:web-*", "pod:shop/web-0", "pod:7a1b*"):
        assert matches(text, named)
    for text in ("container:web-0", "pod:web", "pod:shop", "pod:/web-0"):
        assert not matches(text, named)
    assert not matches("pod:web-0", exact(replace(NGINX, pod=None, container_names=names)))
    in_unknown = exact(replace(NGINX, container_names=ContainerNames(pod_name="web-0")))
    assert not matches("pod:None/web-0", in_unknown)


def test_a_parent_is_matched_by_its_name_and_by_its_command() -> None:
    child = exact(replace(NGINX, ancestors=(Ancestor(7, 70, "backup.sh", "/bin/bash"),)))
    assert matches("parent:backup.sh", child)
    assert matches("parent:bash", child)
    assert not matches("parent:nginx", child)


def test_command_matches_the_command_whatever_the_executable_is() -> None:
    assert matches("command:worker", exact(replace(NGINX, command="worker")))
    assert not matches("command:*", exact(replace(NGINX, command=None)))


@pytest.mark.parametrize("text", ["user:33", "user:www-data"])
def test_a_user_is_matched_even_if_the_process_is_unknown(text: str) -> None:
    assert matches(text, WWW_DATA)
    assert not matches(text, Attribution(Quality.NONE, None, User(0)))


@pytest.mark.parametrize(
    ("text", "flow"),
    [
        ("remote:10.1.2.3", FLOW),
        ("remote:10.0.0.0/8", FLOW),
        ("remote:10.1.2.2/31", FLOW),
        ("remote:0.0.0.0/0", FLOW),
        ("remote:::ffff:10.1.2.3", FLOW),
        ("remote:::ffff:10.0.0.0/104", FLOW),
        ("remote:2001:db8::5", V6),
        ("remote:2001:db8::/32", V6),
        ("remote:::/0", V6),
    ],
)
def test_a_remote_is_an_address_or_a_network(text: str, flow: FlowKey) -> None:
    assert matches(text, flow=flow)


@pytest.mark.parametrize(
    ("text", "flow"),
    [
        ("remote:10.1.2.4", FLOW),
        ("remote:10.1.2.0/31", FLOW),
        ("remote:10.0.0.1", FLOW),  # the local address
        ("remote:::/0", FLOW),
        ("remote:0.0.0.0/0", V6),
        ("remote:2001:db9::/32", V6),
        ("remote:0.0.0.0/0", UNKNOWN_FLOW),
        ("remote:0.0.0.0/0", fold_key(FLOW)),
    ],
)
def test_other_remote_ends_are_not_matched(text: str, flow: FlowKey) -> None:
    assert not matches(text, flow=flow)


@given(flows, st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16), st.data())
def test_a_network_has_the_addresses_with_its_prefix(
    flow: FlowKey, address: bytes, data: st.DataObject
) -> None:
    length = data.draw(st.integers(0, 8 * len(address)))
    address = data.draw(st.sampled_from([address, flow.remote_address or address]))
    length = min(length, 8 * len(address))
    network = ip_network((address, length), strict=False)
    mapped = isinstance(network, IPv6Network) and network.subnet_of(IPv6Network("::ffff:0:0/96"))
    expected = bool(flow.remote_address) and ip_address(flow.remote_address) in network
    if not mapped:
        assert matches(f"remote:{network}", flow=flow) == expected


def test_a_port_is_that_of_the_service() -> None:
    assert matches("port:443")
    assert not matches("port:40000")
    assert matches("port:40000", ports=ServicePorts(frozenset({40000})))
    assert not matches("port:443", flow=fold_key(FLOW))


def test_a_network_is_chosen_by_its_name_and_only_the_longest_prefix_counts() -> None:
    networks = make_networks({"zone-a": ["10.1.0.0/16"], "zone-b": ["10.2.0.0/16"]})
    assert selects(["network:zone-a"], UNATTRIBUTED, networks=networks)
    assert selects(["network:zone-*"], UNATTRIBUTED, networks=networks)
    assert selects(["!network:private"], UNATTRIBUTED, networks=networks)
    assert not selects(["network:zone-b"], UNATTRIBUTED, networks=networks)
    assert not selects(["!network:zone-a"], UNATTRIBUTED, networks=networks)
    assert not matches("network:*", flow=fold_key(FLOW))
    assert matches("network:internet", flow=V6)


@pytest.mark.parametrize("pattern", ["zone-a", "zone-*", "Private", "10.0.0.0/8"])
def test_a_network_that_is_not_there_is_an_error_that_lists_those_that_are(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"no network has this name; there are loopback, .*net$"):
        parse_selector(f"!network:{pattern}")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (*OF_FLOWS, "pid")])
def test_an_unknown_value_is_not_matched_even_by_a_star(kind: str) -> None:
    assert not matches(f"{kind}:*")


@pytest.mark.parametrize(
    ("only", "nginx", "curl", "nobody"),
    [
        ([], True, True, True),
        (["program:nginx"], True, False, False),
        (["program:nginx", "program:curl"], True, True, False),
        (["!program:nginx"], False, True, True),
        (["!program:nginx", "!unit:cron.service"], False, False, True),
        (["user:www-data", "!program:nginx"], False, True, False),
        (["!program:nginx", "user:www-data", "program:nginx"], False, True, False),
        (["port:443", "!remote:192.0.2.0/24"], True, True, True),
        (["port:443", "!remote:10.0.0.0/8"], False, False, False),
    ],
)
def test_any_selector_may_include_and_each_with_a_bang_excludes(
    only: list[str], nginx: bool, curl: bool, nobody: bool
) -> None:
    found = selects(only, exact(NGINX)), selects(only, exact(CURL)), selects(only, UNATTRIBUTED)
    assert found == (nginx, curl, nobody)


def test_a_selection_states_what_it_depends_on() -> None:
    values = {"port": "1", "network": "private", "remote": "::1", "pid": "1", "user": "x"}
    for kind, value in values.items():
        for text in (f"{kind}:{value}", f"!{kind}:{value}"):
            selection = Selection([parse_selector(text)])
            assert selection.needs_owner == (kind not in OF_FLOWS)
            assert selection.needs_service_port == (kind == "port")
            assert selection.needs_network == (kind == "network")


def test_the_ebpf_source_keeps_apart_what_selectors_of_flows_need() -> None:
    assert list_selected_fields(["pid:1", "!user:0"]) == []
    assert {*list_selected_fields(["!remote:::1"])} == {"family", "remote_address"}
    assert list_selected_fields(["port:1", "!port:2"]) == ["service_port"]
    assert list_selected_fields(["network:zone-of-the-run"]) == ["network"]


@pytest.mark.parametrize(
    "text",
    ["", "nginx", "exe:", ":nginx", "comm:nginx", "PID:1", "!", "!nginx", "!!pid:1", "! pid:1"],
)
def test_a_text_that_is_no_selector_is_an_error_that_lists_the_kinds(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"!kind:pattern to exclude, kind one of " + ", ".join(KINDS)
    ):
        parse_selector(text)


@pytest.mark.parametrize("pid", ["nginx", "-1", "1.5", "\u0664\u0662", "1" * 5000])
def test_a_pid_that_is_not_a_number_is_an_error(pid: str) -> None:
    with pytest.raises(ValueError, match="a pid is a number"):
        parse_selector(f"pid:{pid}")


@pytest.mark.parametrize("port", ["https", "0", "65536", "-1", "80-90", "*", "1" * 5000])
def test_a_port_that_is_no_port_is_an_error(port: str) -> None:
    with pytest.raises(ValueError, match="a port is a number from 1 to 65535, as in port:443"):
        parse_selector(f"!port:{port}")


@pytest.mark.parametrize(
    "remote", ["web1", "10.0.0", "10.0.0.0/33", "*", "10.0.*", "fe80::1%", "1"]
)
def test_a_remote_that_is_no_address_is_an_error(remote: str) -> None:
    with pytest.raises(ValueError, match=r"not an address or a prefix, as 10\.0\.0\.0/8 or"):
        parse_selector(f"remote:{remote}")


def test_a_network_with_host_bits_is_an_error_that_shows_both_meanings() -> None:
    with pytest.raises(ValueError, match=r"write 10\.0\.0\.0/8, or 10\.0\.0\.1 alone"):
        parse_selector("remote:10.0.0.1/8")
    with pytest.raises(ValueError, match="write 2001:db8::/32, or 2001:db8::1 alone"):
        parse_selector("remote:2001:db8::1/32")


@given(st.sampled_from(KINDS), st.text(), flows, attributions)
def test_no_text_makes_a_selector_that_fails_later(
    kind: str, text: str, flow: FlowKey, attribution: Attribution
) -> None:
    try:
        parse_selector(f"{kind}:{text}")
    except ValueError:
        assert text == "" or kind in {"pid", "port", "network", "remote"}
    else:
        assert matches(f"{kind}:{text}", attribution, flow) in {True, False}


def test_the_page_lists_the_kinds_with_examples_that_can_be_parsed() -> None:
    (table,) = re.findall(r"<!-- selectors: .*?-->\n(.*?)\n\n", PAGE, re.DOTALL)
    rows = re.findall(r"^\| `(\w+)` \| .* \| `(.+)` \|$", table, re.MULTILINE)
    assert tuple(kind for kind, _ in rows) == KINDS
    assert [parse_selector(example).kind for _, example in rows] == list(KINDS)
