"""PURE: what a report groups traffic by: the dimensions of records, and the host.

A dimension has one column or several; a column has the paths at which a record has its value, the
first of which that is there counts. Traffic whose record has none is one group.
"""

from collections.abc import Mapping, Sequence

import msgspec


class Column(msgspec.Struct, frozen=True):
    """One value of a group."""

    name: str
    """Its name in JSON, CSV, Parquet and SQL."""
    heading: str
    """Its heading in a table (hogpipe.sinks.table_layout)."""
    paths: tuple[str, ...]
    """Where records have it, such as `process.name`."""


PID = Column("pid", "PID", ("process.pid",))
PROGRAM = Column("program", "PROGRAM", ("process.name", "kernel.name"))
COMMAND = Column("command", "COMMAND", ("process.command",))
EXECUTABLE = Column("executable", "EXECUTABLE", ("process.executable.path",))
PARENT = Column("parent", "PARENT", ("process.parent.command",))
PARENT_PROGRAM = Column("parent_program", "PARENT PROGRAM", ("process.parent.name",))
USER = Column("user", "USER", ("process.owner", "process.user.id"))
CGROUP = Column("cgroup", "CGROUP", ("process.linux.cgroup",))
UNIT = Column("unit", "UNIT", ("systemd.unit",))
CONTAINER = Column("container", "CONTAINER", ("container.id",))
CONTAINER_NAME = Column("container_name", "CONTAINER NAME", ("container.name", "container.id"))
IMAGE = Column("image", "IMAGE", ("container.image.name",))
POD_NAME = Column("pod_name", "POD NAME", ("k8s.pod.name", "k8s.pod.uid"))
NAMESPACE = Column("namespace", "NAMESPACE", ("k8s.namespace.name",))
POD = Column("pod", "POD", ("k8s.pod.uid",))
TRANSPORT = Column("transport", "PROTO", ("network.transport",))
NETWORK_TYPE = Column("network_type", "TYPE", ("network.type",))
INTERFACE = Column("interface", "INTERFACE", ("network.interface.name",))
PORT = Column("port", "PORT", ("server.port",))
NETWORK = Column("network", "NETWORK", ("network.peer.network",))
DOMAIN = Column("domain", "DOMAIN", ("network.peer.domain",))
DOMAIN_QUALITY = Column("domain_quality", "KNOWN BY", ("network.peer.domain_quality",))
LOCAL_ADDRESS = Column("local_address", "LOCAL", ("network.local.address",))
LOCAL_PORT = Column("local_port", "LOCAL PORT", ("network.local.port",))
REMOTE = Column("remote", "REMOTE", ("network.peer.address",))
REMOTE_PORT = Column("remote_port", "REMOTE PORT", ("network.peer.port",))
HOST = Column("host", "HOST", ("host.name",))

COLUMNS = (
    HOST, PID, PROGRAM, COMMAND, EXECUTABLE, PARENT, PARENT_PROGRAM, USER, CGROUP, UNIT,
    CONTAINER, POD, CONTAINER_NAME, IMAGE, POD_NAME, NAMESPACE, TRANSPORT, NETWORK_TYPE,
    INTERFACE, PORT, NETWORK, DOMAIN, DOMAIN_QUALITY, LOCAL_ADDRESS, LOCAL_PORT, REMOTE,
    REMOTE_PORT,
)  # fmt: skip
"""All columns, in their order."""
NUMERIC = frozenset({PID, PORT, LOCAL_PORT, REMOTE_PORT})
"""Those whose values are numbers."""

DIMENSIONS: Mapping[str, tuple[Column, ...]] = {
    "process": (PID, PROGRAM),
    "program": (PROGRAM,),
    "command": (COMMAND,),
    "exe": (EXECUTABLE,),
    "parent": (PARENT,),
    "user": (USER,),
    "cgroup": (CGROUP,),
    "unit": (UNIT,),
    "container": (CONTAINER,),
    "pod": (POD,),
    "container_name": (CONTAINER_NAME,),
    "image": (IMAGE,),
    "pod_name": (POD_NAME,),
    "namespace": (NAMESPACE,),
    "transport": (TRANSPORT,),
    "network_type": (NETWORK_TYPE,),
    "interface": (INTERFACE,),
    "port": (PORT,),
    "network": (NETWORK,),
    "remote": (REMOTE,),
    "domain": (DOMAIN,),
    "domain_quality": (DOMAIN_QUALITY,),
    "flow": (TRANSPORT, LOCAL_ADDRESS, LOCAL_PORT, REMOTE, REMOTE_PORT),
    "host": (HOST,),
    "total": (),
}


def list_columns(names: Sequence[str]) -> tuple[Column, ...]:
    """Return the columns of dimensions, each once, in the order of the dimensions.

    Raises ValueError for a name that is no dimension.
    """
    for name in names:
        if name not in DIMENSIONS:
            raise ValueError(f"{name!r} is not one of {', '.join(DIMENSIONS)}")
    return tuple(dict.fromkeys(column for name in names for column in DIMENSIONS[name]))
