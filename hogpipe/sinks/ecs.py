"""PURE: records in the Elastic Common Schema (ECS 8.17, elastic.co/guide/en/ecs/8.17).

In: records. Out: documents, nested or flat (shaping.py has the protocol). Keys without a name in
ECS are below `hogpipe.`. Known limit: a record does not say which end opened a connection, so there
is neither `source` and `destination` nor `client`, and `server` has no address; the addresses of
both ends are in `related.ip`.
"""

from datetime import datetime

from hogpipe.records.schema import (
    KubernetesInfo,
    ProcessInfo,
    Record,
    StatsRecord,
    TrafficRecord,
    Window,
)
from hogpipe.sinks.shaping import (
    Document,
    OwnerText,
    describe_path,
    encode_members,
    flatten,
    flatten_payload,
    has_identity,
)

ECS_VERSION = "8.17.0"

ECS_NAMES = {
    "type": "event.dataset",
    "timestamp": "@timestamp",
    "window.start": "event.start",
    "window.end": "event.end",
    "sequence": "event.sequence",
    "host.name": "host.name",
    "process.pid": "process.pid",
    "process.name": "process.name",
    "process.parent_pid": "process.parent.pid",
    "process.creation.time": "process.start",
    "process.executable.name": "process.name",
    "process.executable.path": "process.executable",
    "process.command_args": "process.args",
    "process.user.id": "user.id",
    "process.owner": "user.name",
    "container.id": "container.id",
    "container.name": "container.name",
    "container.image.name": "container.image.name",
    "container.runtime": "container.runtime",
    "k8s.pod.uid": "orchestrator.resource.id",
    "k8s.pod.name": "orchestrator.resource.name",
    "k8s.namespace.name": "orchestrator.namespace",
    "server.port": "server.port",
    "network.transport": "network.transport",
    "network.type": "network.type",
}
"""The name in ECS of a key of the record; any other key has `hogpipe.` before it."""

ECS_KEYWORDS = {"icmpv6": "ipv6-icmp"}
"""The keyword of the IANA for a transport that the record names otherwise."""

_UNNAMED = ("parent", "ancestors", "command", "linux")
"""The keys of a process that have no name in ECS; of the parent, its pid has one."""
_STAMP = frozenset({"type", "timestamp", "window", "sequence", "host"})


class EcsShape:
    """The record in nested ECS; its last object is `hogpipe`."""

    def __init__(self) -> None:
        self._stamp_key: tuple[str, ...] = ()
        self._stamp: Document = {}
        self._event: Document = {}

    def shape_stats(self, record: StatsRecord) -> Document:
        """Return the whole document: the numbers of stats are below `hogpipe`."""
        own = {key: value for key, value in record.items() if key not in _STAMP}
        own["window"] = _describe_epoch(record["window"])
        return {**self._describe(record), "hogpipe": own}

    def shape_rest(self, record: TrafficRecord) -> Document:
        """Return the document without the owner."""
        network = record["network"]
        transmit, receive = network["io"]["transmit"], network["io"]["receive"]
        document = self._describe(record)
        moved: Document = {
            "bytes": transmit["bytes"] + receive["bytes"],
            "packets": transmit["packets"] + receive["packets"],
        }
        measured: Document = {"flows": network["flows"], "io": network["io"]}
        document["network"] = moved
        if "server" in record:
            document["server"] = record["server"]
        if len(network) > 2:
            document.update(_add_path(record, moved, measured))
        own: Document = {
            "schema": record["schema"],
            "run": record["run"],
            "window": _describe_epoch(record["window"]),
            "network": measured,
            "attribution": record["attribution"],
        }
        if "remainder" in record:
            own["remainder"] = True
        document["hogpipe"] = own
        return document

    def shape_identity(self, process: ProcessInfo) -> Document:
        """Return the identity, as members of `process`."""
        return _identify(process)

    def write_owner(self, record: TrafficRecord) -> OwnerText:
        """Return the members of `hogpipe`, then those with names in ECS."""
        process, named, own = _shape_owner(record)
        before, after = encode_members(own) + b"}", encode_members(named) + b"}"
        if has_identity(record):
            return OwnerText(before + b',"process":{', encode_members(process) + b"}" + after)
        return OwnerText(
            before + encode_members({"process": process} if process else {}) + after, b""
        )

    def _describe(self, record: Record) -> Document:
        """Return what identifies the record; the part that a window shares is made once."""
        window = record["window"]
        key = record["type"], record["timestamp"], window["start"], window["end"]
        if key != self._stamp_key:
            self._stamp_key = key
            self._stamp, self._event = _describe_window(record)
        event = self._event.copy()
        event["sequence"] = record["sequence"]
        event["id"] = f"{record['run']}-{record['sequence']}"
        return {**self._stamp, "host": record["host"], "event": event}


class FlatEcsShape:
    """The record in ECS, in one level."""

    def __init__(self) -> None:
        self._nested = EcsShape()
        self._stamp_key: tuple[str, ...] = ()
        self._stamp: Document = {}

    def shape_stats(self, record: StatsRecord) -> Document:
        """Return the whole document."""
        return flatten(self._nested.shape_stats(record))

    def shape_rest(self, record: TrafficRecord) -> Document:
        """Return the document without the owner."""
        network, run, sequence = record["network"], record["run"], record["sequence"]
        transmit, receive = network["io"]["transmit"], network["io"]["receive"]
        key = record["timestamp"], record["window"]["start"], record["window"]["end"]
        if key != self._stamp_key:
            stamp, event = _describe_window(record)
            own = {"window": _describe_epoch(record["window"])}
            stamp = {**stamp, "event": event, "hogpipe": own}
            self._stamp_key, self._stamp = key, flatten(stamp)
        flat = self._stamp.copy()
        flat["host.name"] = record["host"]["name"]
        flat["event.sequence"] = sequence
        flat["event.id"] = f"{run}-{sequence}"
        flat["network.bytes"] = transmit["bytes"] + receive["bytes"]
        flat["network.packets"] = transmit["packets"] + receive["packets"]
        flat["hogpipe.schema"] = record["schema"]
        flat["hogpipe.run"] = run
        flat["hogpipe.network.flows"] = network["flows"]
        flat["hogpipe.network.io.transmit.bytes"] = transmit["bytes"]
        flat["hogpipe.network.io.transmit.packets"] = transmit["packets"]
        flat["hogpipe.network.io.receive.bytes"] = receive["bytes"]
        flat["hogpipe.network.io.receive.packets"] = receive["packets"]
        if "server" in record:
            flat["server.port"] = record["server"]["port"]
        if len(network) > 2:
            flat.update(flatten_payload(network["io"], "hogpipe.network.io."))
            moved: Document = {}
            measured: Document = {}
            flat.update(flatten(_add_path(record, moved, measured)))
            flat.update(flatten(moved, "network."))
            flat.update(flatten(measured, "hogpipe.network."))
        for quality, count in record["attribution"].items():
            flat["hogpipe.attribution." + quality] = count
        if "remainder" in record:
            flat["hogpipe.remainder"] = True
        return flat

    def shape_identity(self, process: ProcessInfo) -> Document:
        """Return the identity of the process."""
        identity: Document = {"process.pid": process["pid"]}
        if "parent_pid" in process:
            identity["process.parent.pid"] = process["parent_pid"]
        if "creation" in process:
            identity["process.start"] = process["creation"]["time"]
        return identity

    def write_owner(self, record: TrafficRecord) -> OwnerText:
        """Return the owner as text."""
        process, named, own = _shape_owner(record)
        text = encode_members(flatten({"process": process, **named, "hogpipe": own})) + b"}"
        return OwnerText(b",", text) if has_identity(record) else OwnerText(text, b"")


def _describe_window(record: Record) -> tuple[Document, Document]:
    """Return what the records of one type share in a window, and their `event`."""
    start, end = record["window"]["start"], record["window"]["end"]
    lasted = datetime.fromisoformat(end) - datetime.fromisoformat(start)
    event: Document = {"kind": "metric"}
    if record["type"] == "traffic":
        event["category"], event["type"] = ["network"], ["info"]
    event["module"] = "hogpipe"
    event["dataset"] = f"hogpipe.{record['type']}"
    event["start"], event["end"] = start, end
    event["duration"] = round(lasted.total_seconds() * 1000) * 1_000_000  # in nanoseconds
    return {"@timestamp": record["timestamp"], "ecs": {"version": ECS_VERSION}}, event


def _describe_epoch(window: Window) -> Document:
    """Return the window in seconds since the epoch, which have no name in ECS."""
    return {"start_unix": window["start_unix"], "end_unix": window["end_unix"]}


def _shape_owner(record: TrafficRecord) -> tuple[Document, Document, Document]:
    """Return the process, the other members with names in ECS, and those without.

    The identity of a process with a pid is left out.
    """
    process: Document = {}
    named: Document = {}
    own: Document = {}
    if "process" in record:
        process = _shape_process(record["process"], named, own)
    if "systemd" in record:
        own["systemd"] = record["systemd"]
    if "container" in record:
        named["container"] = record["container"]
    if "kernel" in record:
        own["kernel"] = record["kernel"]
    if "k8s" in record:
        named["orchestrator"] = _shape_pod(record["k8s"])
        if "container" in record["k8s"]:
            own["k8s"] = {"container": record["k8s"]["container"]}
    return process, named, own


def _shape_pod(k8s: KubernetesInfo) -> Document:
    """Return what ECS has of a pod."""
    resource: Document = {"type": "pod", "id": k8s["pod"]["uid"]}
    if "name" in k8s["pod"]:
        resource["name"] = k8s["pod"]["name"]
    pod: Document = {"type": "kubernetes", "resource": resource}
    if "namespace" in k8s:
        pod["namespace"] = k8s["namespace"]["name"]
    return pod


def _shape_process(process: ProcessInfo, named: Document, own: Document) -> Document:
    info: Document = {} if "pid" in process else _identify(process)
    user: Document = {}
    if "name" in process:
        info["name"] = process["name"]
    if "executable" in process:
        info["executable"] = process["executable"]["path"]
    if "command_args" in process:
        info["args"] = process["command_args"]
        info["args_count"] = len(process["command_args"])
    if "user" in process:
        user["id"] = str(process["user"]["id"])
    if "owner" in process:
        user["name"] = process["owner"]
    if user:
        named["user"] = user
    if unnamed := {key: value for key, value in process.items() if key in _UNNAMED}:
        own["process"] = unnamed
    return info


def _identify(process: ProcessInfo) -> Document:
    identity: Document = {}
    if "pid" in process:
        identity["pid"] = process["pid"]
    if "parent_pid" in process:
        identity["parent"] = {"pid": process["parent_pid"]}
    if "creation" in process:
        identity["start"] = process["creation"]["time"]
    return identity


def _add_path(record: TrafficRecord, moved: Document, measured: Document) -> Document:
    """Add the rest of `network` to that of ECS and to ours; return the members beside them."""
    path = describe_path(record)
    transport = path.pop("transport", None)
    if isinstance(transport, str):
        if transport.isdecimal():
            moved["iana_number"] = transport
        else:
            moved["transport"] = ECS_KEYWORDS.get(transport, transport)
    if "type" in path:
        moved["type"] = path.pop("type")
    measured.update(path)
    network = record["network"]
    ends = [network[end] for end in ("local", "peer") if end in network]
    addresses = [end["address"] for end in ends if "address" in end]
    related: Document = {"ip": addresses} if addresses else {}
    if "domain" in network.get("peer", {}):
        related["hosts"] = [network["peer"]["domain"]]
    return {"related": related} if related else {}
