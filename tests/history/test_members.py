"""A description is split into what levels keep and what only windows keep."""

import orjson
from hypothesis import given
from support.records import FULL, windows

from hogpipe.history.members import (
    Description,
    get_value,
    is_of_member,
    join_descriptions,
    split_description,
)
from hogpipe.records.groups import describe_group
from hogpipe.records.schema import Record


def test_a_process_is_of_the_member_and_its_program_of_the_group() -> None:
    group, member = split_description(describe_group(FULL))
    assert member == {
        "process": {
            "pid": 4242,
            "parent_pid": 1,
            "parent": {"pid": 1},
            "ancestors": [{"pid": 9, "name": "runit", "command": "runit"}],
            "creation": {"time": "2026-11-22T06:58:01.220Z"},
            "command_args": ["nginx", "-g", "daemon off;"],
        },
        "network": {"peer": {"port": 40000}},
    }
    assert get_value(group, "process.name") == "nginx"
    assert get_value(group, "process.pid") is None
    assert get_value(group, "process.parent.command") == "systemd"
    assert get_value(group, "process.parent.pid") is None
    assert get_value(group, "network.local.port") == 443
    assert get_value(group, "network.peer.address") == "10.0.0.2"


def test_the_port_of_the_service_is_of_the_group_if_it_is_known() -> None:
    network = {"local": {"address": "10.0.0.1", "port": 50_000}, "peer": {"port": 40_000}}
    for service, client in ((50_000, "peer"), (40_000, "local"), (None, "local"), (1, "local")):
        description: dict[str, object] = {"network": network}
        if service is not None:
            description["server"] = {"port": service}
        _, member = split_description(description)
        assert get_value(member, f"network.{client}.port") == get_value(
            description, f"network.{client}.port"
        )
        assert is_only_port(member)


def is_only_port(member: Description) -> bool:
    network = member["network"]
    assert isinstance(network, dict)
    return len(network) == 1


def test_a_description_without_process_and_ports_is_of_the_group() -> None:
    for description in ({}, {"remainder": True}, {"network": {"local": {"port": 53}}}):
        assert split_description(description) == (description, {})


def test_keys_of_members_are_known_by_their_path() -> None:
    assert is_of_member("process.pid")
    assert is_of_member("process.creation.time")
    assert is_of_member("process.parent.pid")
    assert not is_of_member("process.parent.command")
    assert not is_of_member("process.name")
    assert is_of_member("network.peer.port")
    assert not is_of_member("network.peer.address")


@given(windows)
def test_both_parts_give_the_description_again(records: list[Record]) -> None:
    for record in records:
        if record["type"] == "traffic":
            description = describe_group(record)
            before = orjson.dumps(description)
            assert join_descriptions(*split_description(description)) == description
            assert orjson.dumps(description) == before
