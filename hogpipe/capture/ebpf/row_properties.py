"""PURE: the port of the service of each row, and the named network of its remote address.

In: rows, what is known of this host's ports, the cookie of our own network namespace, and what
networks there are. Out: columns. Property tests compare them with `ServicePorts.find` and
`Networks.find`.
"""

import numpy as np
from numpy.typing import NDArray

from hogpipe.flows import service_port_columns
from hogpipe.flows.network_columns import NetworkColumns
from hogpipe.linux.bpf.shapes import ENDPOINTS, offset_of
from hogpipe.linux.bpf.traffic_rows import AF_INET, Rows
from hogpipe.model import ServicePorts

_REMOTE_WORD = offset_of(ENDPOINTS, "remote_address") // 8
_REMOTE_ADDRESS = slice(_REMOTE_WORD, _REMOTE_WORD + 2)
_IPV4_BYTES, _IPV6_BYTES = 4, 16


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


def find_networks(rows: Rows, networks: NetworkColumns) -> NDArray[np.uint64]:
    """Return the number of the network of each remote address, 0 where no flow is known."""
    words = np.ascontiguousarray(rows["endpoints"])
    families = words.view(ENDPOINTS).ravel()["family"]
    sizes = np.where(families == AF_INET, _IPV4_BYTES, _IPV6_BYTES)
    sizes[families == 0] = 0
    return networks.find(sizes.astype(np.uint8), words[:, _REMOTE_ADDRESS]).astype(np.uint64)
