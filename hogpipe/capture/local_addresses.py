"""PURE: which addresses are local, as one interface sees them.

Local are the addresses of the network namespace that is captured in, and those of the containers
that the interface leads to. A container is any other network namespace; it is named by its inode.
A packet from a container's address was transmitted by that container, a packet to it received by
that container.
"""

from collections.abc import Mapping, Sequence

import msgspec

from hogpipe.linux.procfs_addresses import ProcfsAddresses
from hogpipe.model import OWN_NAMESPACE

_MULTICAST_V4 = range(224, 240)
_BROADCAST_V4 = b"\xff\xff\xff\xff"
_LOOPBACK_V6 = bytes(15) + b"\1"


class LocalAddresses(msgspec.Struct, frozen=True):
    """The addresses that are local, as seen from one interface."""

    addresses: frozenset[bytes] = frozenset()
    prefixes: tuple[tuple[int, int], ...] = ()
    """IPv4 networks that are local as a whole (127.0.0.0/8): (network, mask)."""
    broadcasts: frozenset[bytes] = frozenset()
    loopback: bool = False
    """Whether the interface is a loopback: each frame is transmitted and received here."""
    containers_only: bool = False
    """Whether the host's own packets are counted on another interface and not on this one."""
    container_namespaces: dict[bytes, tuple[int, ...]] = {}
    """By address: the namespaces of the containers that have it."""
    peer_namespaces: tuple[int, ...] = ()
    """The namespaces that the interface leads to, as far as known."""

    @classmethod
    def from_procfs(cls, found: ProcfsAddresses) -> "LocalAddresses":
        """Return the addresses of the network namespace that a procfs shows."""
        return cls(found.addresses, found.prefixes, found.broadcasts)

    def with_containers(
        self, containers: Mapping[int, "LocalAddresses"], *, containers_only: bool = False
    ) -> "LocalAddresses":
        """Return these addresses and those of `containers`, by namespace, without loopback ones."""
        namespaces: dict[bytes, tuple[int, ...]] = {}
        for namespace, known in sorted(containers.items()):
            for address in known.addresses - {_LOOPBACK_V6}:
                namespaces[address] = (*namespaces.get(address, ()), namespace)
        broadcasts = [known.broadcasts for known in containers.values()]
        return msgspec.structs.replace(
            self,
            broadcasts=self.broadcasts.union(*broadcasts) if broadcasts else self.broadcasts,
            containers_only=containers_only,
            container_namespaces=namespaces,
            peer_namespaces=tuple(sorted(containers)),
        )

    def namespaces_of(self, address: bytes) -> tuple[int, ...]:
        """Return the namespaces in which packets to `address` may be delivered; else none."""
        containers = self.container_namespaces.get(address, ())
        return (OWN_NAMESPACE, *containers) if self.is_own(address) else containers

    def is_own(self, address: bytes) -> bool:
        """Return whether packets to `address` are delivered in the namespace captured in."""
        if address in self.addresses:
            return True
        if len(address) != 4:
            return False
        value = int.from_bytes(address, "big")
        return any(value & mask == network for network, mask in self.prefixes)

    def is_group(self, address: bytes) -> bool:
        """Return whether `address` is a multicast or broadcast address."""
        if len(address) == 16:
            return address[0] == 0xFF
        return address[0] in _MULTICAST_V4 or address == _BROADCAST_V4 or address in self.broadcasts


def join_addresses(views: Sequence[LocalAddresses]) -> LocalAddresses:
    """Return the addresses that are local at any of several interfaces of this namespace."""
    containers: dict[bytes, tuple[int, ...]] = {}
    for view in views:
        for address, namespaces in view.container_namespaces.items():
            known = containers.get(address, ())
            containers[address] = known + tuple(one for one in namespaces if one not in known)
    return LocalAddresses(
        addresses=frozenset().union(*(view.addresses for view in views)),
        prefixes=tuple({prefix: None for view in views for prefix in view.prefixes}),
        container_namespaces=containers,
    )
