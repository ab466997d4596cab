"""PURE: the port of the service of each row, by the rule of model/service_ports.py, in columns.

In: rows, what is known of this host's ports, and the cookie of our own network namespace. Out: a
column of ports. A property test compares it with `ServicePorts.find`.
"""

import numpy as np
from numpy.typing import NDArray

from hogpipe.linux.bpf.shapes import ENDPOINTS
from hogpipe.linux.bpf.traffic_rows import Rows
from hogpipe.model import ServicePorts
from hogpipe.protocols import TCP, WITH_PORTS


def find_service_ports(rows: Rows, ports: ServicePorts, own_namespace: int) -> NDArray[np.uint64]:
    """Return the port of the service of each row, 0 where it has none."""
    endpoints = np.ascontiguousarray(rows["endpoints"]).view(ENDPOINTS).ravel()
    local = endpoints["local_port"].astype(np.uint64)
    remote = endpoints["remote_port"].astype(np.uint64)
    protocol = endpoints["protocol"]
    knows_listeners = (protocol == TCP) & (rows["namespace"] == own_namespace)
    if ports.listening is None:
        knows_listeners[:] = False
    listening = np.fromiter(ports.listening or (), np.uint64)
    first, last = ports.ephemeral
    local_is_ephemeral = (local >= first) & (local <= last)
    remote_is_ephemeral = (remote >= first) & (remote <= last)
    found = np.where(knows_listeners, remote, np.minimum(local, remote))
    by_range = np.where(local_is_ephemeral, remote, local)
    found = np.where(local_is_ephemeral != remote_is_ephemeral, by_range, found)
    found = np.where((local == 0) | (remote == 0), local | remote, found)
    found = np.where(knows_listeners & np.isin(local, listening), local, found)
    return np.where(np.isin(protocol, list(WITH_PORTS)), found, np.uint64(0))
