"""Hosts that translate addresses (NAT), in network namespaces, and sums of their records.

A host translates between a container behind `port0` and another host behind `uplink0`. The other
host is on a wire of its own, so that the uplink leads to no container. The kernel segments, so that
captures show what is counted at sockets.
"""

import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from support.measured_run import Process
from support.namespaces import Namespace, namespace
from support.offloads import segment_in_kernel
from support.running import inhabitant, stats_of, traffic_of

HOST, CONTAINER, OUTSIDE = "10.89.0.1", "10.88.0.2", "10.89.0.2"
HOST6, CONTAINER6, OUTSIDE6 = "fd89::1", "fd88::2", "fd89::2"
MASQUERADE = """
table inet translation {
    chain leaving {
        type nat hook postrouting priority 100
        oifname "uplink0" masquerade
    }
}
"""


class Hosts(NamedTuple):
    host: Namespace
    container: Namespace
    outside: Namespace

    def translate(self, rules: str) -> None:
        """Add rules of nftables to the host."""
        subprocess.run(self.host.command("nft", "-f", "-"), input=rules, text=True, check=True)

    def publish(self, server: Process) -> Process:
        """Translate ports of the host to those of a server in the container; return it as seen."""
        published = []
        rules = []
        for number, (transport, address, port) in enumerate(server["servers"]):
            family, here = ("ip6", HOST6) if ":" in address else ("ip", HOST)
            there = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            outer = 8000 + number
            rules.append(
                f"{family} daddr {here} {transport} dport {outer} dnat {family} to {there}"
            )
            published.append([transport, here, outer])
        hook = "type nat hook prerouting priority -100"
        self.translate(
            f"table inet publication {{ chain arriving {{ {hook}\n" + "\n".join(rules) + "\n}\n}"
        )
        return server | {"servers": published}


@contextmanager
def translating(rules: str = MASQUERADE) -> Iterator[Hosts]:
    """Create the namespaces, with a process in the container, and the host's `rules`."""
    with ExitStack() as stack:
        host, container, outside, wire = (stack.enter_context(namespace()) for _ in range(4))
        stack.enter_context(inhabitant(container))
        wire.call(lambda: Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1"))
        wire.ip("link", "add", "bridge", "type", "bridge", "mcast_snooping", "0")
        wire.ip("link", "set", "bridge", "up")
        for one, end in (("uplink0", host), ("far0", outside)):
            end.ip("link", "add", one, "type", "veth", "peer", "name", one, "netns", wire.name)
            wire.ip("link", "set", one, "master", "bridge", "up")
        host.ip("link", "add", "port0", "type", "veth", "peer", "eth0", "netns", container.name)
        for where, device, addresses in (
            (host, "port0", ("10.88.0.1/24", "fd88::1/64")),
            (container, "eth0", (f"{CONTAINER}/24", f"{CONTAINER6}/64")),
            (host, "uplink0", (f"{HOST}/24", f"{HOST6}/64")),
            (outside, "far0", (f"{OUTSIDE}/24", f"{OUTSIDE6}/64")),
        ):
            for address in addresses:
                no_dad = ["nodad"] if ":" in address else []
                where.ip("address", "add", address, "dev", device, *no_dad)
            where.ip("link", "set", device, "up")
            segment_in_kernel(where, device)
        container.ip("route", "add", "default", "via", "10.88.0.1")
        container.ip("-6", "route", "add", "default", "via", "fd88::1")
        for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            host.call(lambda key=key: Path(f"/proc/sys/net/{key}").write_text("1"))  # type: ignore[misc]
        hosts = Hosts(host, container, outside)
        hosts.translate(rules)
        yield hosts


def unattributed(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records of TCP and UDP without a process."""
    return [
        record
        for record in traffic_of(records)
        if "process" not in record and record["network"]["transport"] in {"tcp", "udp"}
    ]


def sum_translated(records: Sequence[dict[str, Any]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for record in stats_of(records):
        total.update(record["attribution"]["translated"])
    return total
