"""PURE: by what the page groups traffic: the keys of records, and the dimensions made of them.

In: traffic records, live or from a history. Out: the values of `KEYS`; the values of one dimension,
which identify a group of a view; and the label of such a group. A value that a record does not have
is None. Names are hostile: what is not printable is replaced, and what is shown is at most
`LONGEST` characters.

A record of which there is no room for a group of its own is counted with fewer values
(`coarsen`): first without its process, then without its peer, too. The key `coarse` says so, so
that an omitted value is never taken for an absent one.
"""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass

from hogpipe import TrafficRecord, replace_unprintable

Value = str | int | None
Values = tuple[Value, ...]

LONGEST = 200
"""The most characters of a label."""
COARSE = "coarse"
"""The key of what was omitted: None, 1 (the process) or 2 (the process and the peer)."""
KEYS = (
    "process.pid", "process.creation.time", "process.name", "process.parent.command",
    "process.owner", "process.user.id", "systemd.unit", "container.id", "container.name",
    "k8s.pod.uid", "k8s.pod.name", "kernel.name", "server.port", "network.interface.name",
    "network.transport", "network.type", "network.peer.address", "network.peer.network",
    "network.peer.domain", COARSE,
)  # fmt: skip
"""The paths of the values that identify a group of the live table, in order."""
_INDEX = {key: index for index, key in enumerate(KEYS)}
_PROCESS_KEYS = ("process.pid", "process.creation.time", "process.parent.command")
_PEER_KEYS = ("network.peer.address", "network.peer.network", "network.peer.domain", "server.port")


@dataclass(frozen=True, slots=True)
class Dimension:
    """A way to group traffic."""

    name: str
    title: str
    keys: tuple[str, ...]
    """The paths of the values that identify a group."""
    absent: str
    """The label of traffic without any value."""
    omitted_from: int
    """From which value of `coarse` on the values are omitted."""
    needs: str
    """The dimension of `[aggregation] group_by` that gives these values."""
    name_values: Callable[[Values], tuple[Value, Value]]
    """Returns the name and a detail, of values of which one at least is not None."""
    details: tuple[str, ...] = ()
    """Those of `keys` that other dimensions give, too."""

    def has_values(self, present: Container[str]) -> bool:
        """Return whether records with these keys have values of this dimension."""
        return any(key in present for key in self.keys if key not in self.details)

    def pick(self, values: Values) -> Values:
        """Return the values of this dimension out of those of `KEYS`, and what is omitted."""
        picked = tuple(values[_INDEX[key]] for key in self.keys)
        coarse = values[_INDEX[COARSE]]
        omitted = isinstance(coarse, int) and coarse >= self.omitted_from
        return (*picked, 1 if omitted else None)

    def label(self, picked: Values) -> tuple[str, str]:
        """Return the label and the detail of a group, ready to be shown."""
        *values, omitted = picked
        if all(value is None for value in values):
            return ("others" if omitted else self.absent), ""
        name, detail = self.name_values(tuple(values))
        shown = _show(name)
        return shown or self.absent, "others" if omitted else _show(detail or None)


def read_values(record: TrafficRecord) -> Values:
    """Return the values of `KEYS`."""
    process = record.get("process", {})
    container, k8s = record.get("container"), record.get("k8s")
    network = record["network"]
    peer = network.get("peer", {})
    return (
        process.get("pid"),
        process["creation"]["time"] if "creation" in process else None,
        process.get("name"),
        process["parent"]["command"] if "parent" in process else None,
        process.get("owner"),
        process["user"]["id"] if "user" in process else None,
        record["systemd"]["unit"] if "systemd" in record else None,
        container["id"] if container else None,
        container.get("name") if container else None,
        k8s["pod"]["uid"] if k8s else None,
        k8s["pod"].get("name") if k8s else None,
        record["kernel"]["name"] if "kernel" in record else None,
        record["server"]["port"] if "server" in record else None,
        network["interface"]["name"] if "interface" in network else None,
        network.get("transport"),
        network.get("type"),
        peer.get("address"),
        peer.get("network"),
        peer.get("domain"),
        None,
    )


def look_up(table: Mapping[str, object], path: Iterable[str]) -> object:
    """Return what a nested table has at a path of keys, None if there is nothing."""
    found: object = table
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def coarsen(values: Values) -> Values | None:
    """Return `values` without the process, then without the peer too, then None."""
    level = values[_INDEX[COARSE]] or 0
    if level == 2:
        return None
    omitted = _PEER_KEYS if level else _PROCESS_KEYS
    coarse = [None if key in omitted else value for key, value in zip(KEYS, values, strict=True)]
    coarse[_INDEX[COARSE]] = 2 if level else 1
    return tuple(coarse)


def _show(value: Value) -> str:
    return "" if value is None else replace_unprintable(str(value), LONGEST)


def _first(values: Values) -> tuple[Value, Value]:
    """Take the first value that is there for the name."""
    return next(value for value in values if value is not None), None


def _name_process(values: Values) -> tuple[Value, Value]:
    pid, _created, name, kernel = values
    return _name_program((name, kernel))[0], pid


def _name_program(values: Values) -> tuple[Value, Value]:
    name, kernel = values
    return (name if kernel is None else f"kernel: {kernel}"), None


def _name_by_id(values: Values) -> tuple[Value, Value]:
    """Take the name, with the beginning of the id as detail."""
    identity, name = values
    short = str(identity)[:12]
    return (short, None) if name is None else (name, short)


def _name_address(values: Values) -> tuple[Value, Value]:
    address, domain, network = values
    return address, domain or network


DIMENSIONS: Mapping[str, Dimension] = {
    one.name: one
    for one in (
        Dimension(
            "program", "Program", ("process.name", "kernel.name"), "unattributed", 3, "process",
            _name_program,
        ),
        Dimension(
            "process", "Process",
            ("process.pid", "process.creation.time", "process.name", "kernel.name"),
            "unattributed", 1, "process", _name_process,
        ),
        Dimension(
            "parent", "Parent", ("process.parent.command",), "no parent", 1, "process", _first
        ),
        Dimension(
            "user", "User", ("process.owner", "process.user.id"), "no user", 3, "process", _first
        ),
        Dimension("unit", "Unit", ("systemd.unit",), "no unit", 3, "process", _first),
        Dimension(
            "container", "Container", ("container.id", "container.name"), "no container", 3,
            "process", _name_by_id,
        ),
        Dimension(
            "pod", "Pod", ("k8s.pod.uid", "k8s.pod.name"), "no pod", 3, "process", _name_by_id
        ),
        Dimension(
            "remote", "Peer",
            ("network.peer.address", "network.peer.domain", "network.peer.network"), "no peer",
            2, "remote", _name_address, ("network.peer.domain", "network.peer.network"),
        ),
        Dimension("domain", "Peer name", ("network.peer.domain",), "no name", 2, "domain", _first),
        Dimension(
            "network", "Peer network", ("network.peer.network",), "no network", 2, "network",
            _first,
        ),
        Dimension("port", "Service port", ("server.port",), "no port", 2, "port", _first),
        Dimension(
            "transport", "Transport", ("network.transport",), "no transport", 3, "transport",
            _first,
        ),
        Dimension(
            "network_type", "IP version", ("network.type",), "no IP version", 3, "network_type",
            _first,
        ),
        Dimension(
            "interface", "Interface", ("network.interface.name",), "no interface", 3, "interface",
            _first,
        ),
    )
}  # fmt: skip
"""By name, in the order in which the page offers them."""
