"""PURE: what a rolled-up level keeps of a group, and what only windows keep.

A group of a window may be one process, or one flow; there may be a hundred new ones a second, which
nobody asks for a day later. So its description is split: the *member* has what identifies one
process or one flow, the *group* the rest: program, user, unit, container, pod, and every other key
that the dimensions give. Windows count by member, the levels above by group.

Of a process its pid, that of its parent, further ancestors, its start and its command line identify
one. Of a flow with two ports it is the one that is not the service's: without `server.port` the
higher one, which is mostly that of the client.
"""

from collections.abc import Mapping
from typing import cast

Description = Mapping[str, object]

PROCESS_KEYS = ("pid", "parent_pid", "ancestors", "creation", "command_args")
"""The keys of `process` that only windows keep."""
_PARENT_PID = "process.parent.pid"
_PORTS = ("network.local.port", "network.peer.port")


def split_description(description: Description) -> tuple[Description, Description]:
    """Return the descriptions of the group and of the member, which have no key in common."""
    group, member = dict(description), dict[str, object]()
    process, network = description.get("process"), description.get("network")
    if isinstance(process, Mapping):
        own = {key: value for key, value in process.items() if key in PROCESS_KEYS}
        parent = process.get("parent")
        if isinstance(parent, Mapping) and "pid" in parent:  # each run of a script has another
            own["parent"] = {"pid": parent["pid"]}
        _split(group, member, "process", process, own)
        if "parent" in own and isinstance(parent, Mapping):
            rest = {key: value for key, value in parent.items() if key != "pid"}
            group["process"] = {**cast("Description", group.get("process", {})), "parent": rest}
    if isinstance(network, Mapping) and (side := _find_client(description)):
        end = cast("Description", network[side])
        network, own_network = dict(network), dict[str, object]()
        _split(network, own_network, side, end, {"port": end["port"]})
        group["network"], member["network"] = network, own_network
    return group, member


def join_descriptions(group: Description, member: Description) -> dict[str, object]:
    """Return the description that both were split from."""
    joined = dict(group)
    for key, value in member.items():
        known = joined.get(key)
        if isinstance(known, Mapping) and isinstance(value, Mapping):
            joined[key] = join_descriptions(known, value)
        else:
            joined[key] = value
    return joined


def get_value(description: Description, path: str) -> str | int | float | bool | None:
    """Return what a description has at a path such as `process.name`; None if there is nothing."""
    found: object = description
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, str | int | float | bool) else None


def is_of_member(path: str) -> bool:
    """Return whether only windows keep what is at this path, at least in some records."""
    table, _, key = path.partition(".")
    return path in (*_PORTS, _PARENT_PID) or (
        table == "process" and key.partition(".")[0] in PROCESS_KEYS
    )


def _split(
    group: dict[str, object],
    member: dict[str, object],
    key: str,
    table: Mapping[str, object],
    own: Mapping[str, object],
) -> None:
    """Move `own`, which are keys of the table at `key`, from the group to the member."""
    if not own:
        return
    member[key] = own
    rest = {name: value for name, value in table.items() if name not in own}
    if rest:
        group[key] = rest
    else:
        del group[key]


def _find_client(description: Description) -> str | None:
    """Return which end of a flow with two ports is not that of the service: `local` or `peer`."""
    local, peer = (get_value(description, path) for path in _PORTS)
    if not isinstance(local, int) or not isinstance(peer, int):
        return None
    service = get_value(description, "server.port")
    if service in {local, peer}:
        return "peer" if service == local else "local"
    return "local" if local > peer else "peer"
