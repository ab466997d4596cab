"""The process that may have sent datagrams that no socket of their own protocol sends.

In: packet sockets and their holders, read with a lookup; what a flow moved while it was pending.
Out: the only process that holds a packet socket on the flow's interface, or none. It is for where
no program of the kernel names the sender (packet_senders.py of the ledger).

The rule. A flow of UDP is the holder's if this host transmitted it for `_LONG_NS`, in two packets
or more, after lookups found no socket for it: an ordinary socket would have been there. In the last
seconds exactly one process held packet sockets that are bound to the interface, or to none. Sockets
that only receive do not count: those with a ring for that alone, as a capture has, and those of
other protocols than IP (LLDP, 802.1X). Two such processes mean none.

Known limits: any packet socket may send on any interface, whatever it is bound to. A program that
opens a socket for each datagram, always on one port, is taken for the holder if there is one. Of
TCP and ICMP the kernel itself sends packets without a socket: the rule does not apply to them.
"""

import os
from collections.abc import Collection, Mapping

from hogpipe.linux.packet_sockets import PacketSocket
from hogpipe.linux.procfs import ProcessIdentity
from hogpipe.model import OWN_NAMESPACE, FlowDelta, FlowKey, Process
from hogpipe.protocols import NANOSECONDS, UDP, UDPLITE

_NO_INTERFACE = 0
_LONG_NS = NANOSECONDS // 2
_HOLDS_SECONDS = 5.0
_MOST_LOOKUPS = 256
_IP_ETHERTYPES = frozenset({0, 0x0003, 0x0800, 0x8100, 0x86DD})
"""Nothing (a socket that only sends), everything, IPv4, VLAN tags, IPv6."""

Holders = Mapping[str, Collection[Process | None]]
"""Processes with packet sockets by the name of the interface; None is a process that is unknown."""


def may_send(one: PacketSocket) -> bool:
    """Return whether a packet socket may be used to send IP packets."""
    return not one.only_receives and one.ethertype in _IP_ETHERTYPES


def is_candidate(flow: FlowKey) -> bool:
    """Return whether the rule applies to the protocol and the place of a flow."""
    return flow.protocol in (UDP, UDPLITE) and flow.namespace == OWN_NAMESPACE


def find_holders(
    sockets: Collection[PacketSocket], interface: int, owners: Mapping[int, ProcessIdentity]
) -> set[ProcessIdentity | None]:
    """Return the owners of the packet sockets that may send on an interface, but for this process.

    `owners` are those of sockets by inode; None stands for an unknown one.
    """
    at_interface = [one for one in sockets if one.interface in (_NO_INTERFACE, interface)]
    found = {owners.get(one.inode) for one in at_interface}
    return {one for one in found if one is None or one.pid != os.getpid()}


class PacketHolders:
    """The holders that recent lookups found. `infer` may be called from any thread."""

    def __init__(self) -> None:
        self._recent: tuple[tuple[float, Holders], ...] = ()
        """With the times of the lookups, the oldest first."""

    def record(self, holders: Holders, now: float) -> None:
        """Record the holders of the interfaces that a lookup was about."""
        kept = tuple(one for one in self._recent if now - one[0] <= _HOLDS_SECONDS)
        if kept and kept[-1][1] == holders:
            kept = kept[:-1]
        self._recent = (*kept, (now, holders))[-_MOST_LOOKUPS:]

    def infer(self, flow: FlowKey, moved: FlowDelta, now: float) -> Process | None:
        """Return the holder if the rule makes it the sender of a flow that has no socket."""
        is_long = moved.first_ns and moved.last_ns - moved.first_ns >= _LONG_NS
        if not is_candidate(flow) or moved.transmit_packets < 2 or not is_long:
            return None
        found: set[Process | None] = set()
        for at, holders in self._recent:
            if now - at <= _HOLDS_SECONDS:
                found.update(holders.get(flow.interface, ()))
        return found.pop() if len(found) == 1 else None
