"""PURE: the port of the service of each row.

In: rows, what is known of this host's ports, and the cookie of our own network namespace. Out: a
column of ports. A property test compares it with `ServicePorts.find`.
"""

import numpy as np
from numpy.typing import NDArray

from hogpipe.flows import service_port_columns
from hogpipe.linux.bpf.shapes import ENDPOINTS
from hogpipe.linux.bpf.traffic_rows import Rows
from hogpipe.model import ServicePorts


def find_service_ports(rows: Rows, ports: ServicePorts, own_namespace: int) -> NDArray[np.uint64]:
    """Return the port of the service of each row, 0 where it has none."""
    endpoints = np.ascontiguousarray(rows["endpoints"]).view(ENDPOINTS).ravel()
    found = service_port_columns.find_service_ports(
        endpoints["protocol"],
        endpoints["local_port"],
        endpoints["remote_port"],
        rows["namespace"] == own_namespace,
        ports,
    )
    return found.astype(np.uint64)
