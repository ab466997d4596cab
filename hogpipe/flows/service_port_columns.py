"""PURE: the port of the service of each flow, by the rule of model/service_ports.py, in columns.

In: columns of protocols and ports, and what is known of this host's ports. Out: a column of ports.
Property tests compare it with `ServicePorts.find`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hogpipe.flows.packet_rows import Flags, Integers
from hogpipe.model import ServicePorts
from hogpipe.protocols import TCP, WITH_PORTS

_WITH_PORTS = np.isin(np.arange(256), list(WITH_PORTS))
_PORTS = 1 << 16


def have_ports(protocols: NDArray[np.uint8]) -> Flags:
    """Return which protocols have ports."""
    return _WITH_PORTS[protocols]


def find_service_ports(
    protocols: NDArray[np.uint8],
    local_ports: NDArray[Any],
    remote_ports: NDArray[Any],
    is_own: Flags,
    ports: ServicePorts,
) -> Integers:
    """Return the port of the service of each flow, 0 where it has none.

    `is_own` are those flows that have a local address of our own network namespace.
    """
    local, remote = local_ports.astype(np.int64), remote_ports.astype(np.int64)
    found = np.minimum(local, remote)
    is_local = np.zeros(len(local), np.bool_)
    if ports.listening is not None:
        knows_listeners = (protocols == TCP) & is_own
        found = np.where(knows_listeners, remote, found)
        is_listening = np.zeros(_PORTS, np.bool_)
        is_listening[[*ports.listening]] = True
        is_local = knows_listeners & is_listening[local]
    first, last = ports.ephemeral
    local_is_ephemeral = (local >= first) & (local <= last)
    remote_is_ephemeral = (remote >= first) & (remote <= last)
    by_range = np.where(local_is_ephemeral, remote, local)
    found = np.where(local_is_ephemeral != remote_is_ephemeral, by_range, found)
    found = np.where((local == 0) | (remote == 0), local | remote, found)
    found = np.where(is_local, local, found)
    return np.where(have_ports(protocols), found, 0)
