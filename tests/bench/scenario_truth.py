"""The truth of scenarios: what nftables counts in the namespace of the peer, by protocol and port.

A port is that of the peer. The kernel counts IP packets as they pass the hooks, before anything is
dropped; tools have no part in it. Traffic over loopback is counted where the processes are.
"""

import json
import socket
import subprocess
from collections import Counter
from dataclasses import dataclass, field

from acts.common import ANY_PORT
from support.namespaces import Namespace

_RULES = """
table inet scenarios {
    set ports {
        type inet_proto . inet_service
        size 65535
        flags dynamic
        counter
    }
    set protocols {
        type inet_proto
        size 256
        flags dynamic
        counter
    }
    chain arriving {
        type filter hook prerouting priority -300
        add @ports { meta l4proto . th dport }
        add @protocols { meta l4proto }
        FROM
    }
    chain leaving {
        type filter hook postrouting priority 300
        TO
    }
}
"""
_PORTS, _PROTOCOLS = "add @ports { meta l4proto . th sport }", "add @protocols { meta l4proto }"


@dataclass
class Passed:
    """Bytes and packets by protocol and port; ANY_PORT has all of a protocol."""

    bytes: Counter[tuple[int, int]] = field(default_factory=Counter)
    packets: Counter[tuple[int, int]] = field(default_factory=Counter)


def count_at(where: Namespace, *, loopback: bool = False) -> None:
    """Begin to count in a namespace; over loopback a packet is counted as it arrives."""
    rules = _RULES.replace("FROM", _PORTS if loopback else "")
    rules = rules.replace("TO", "" if loopback else f"{_PORTS}\n{_PROTOCOLS}")
    subprocess.run(where.command("nft", "-f", "-"), input=rules, text=True, check=True)


def read_counts(where: Namespace) -> Passed:
    """Return what passed since `count_at`."""
    passed = Passed()
    for name in ("ports", "protocols"):
        words = where.command("nft", "-j", "-n", "list", "set", "inet", "scenarios", name)
        listed = json.loads(subprocess.check_output(words))
        (found,) = (one["set"] for one in listed["nftables"] if "set" in one)
        for one in found.get("elem", ()):
            value, counter = one["elem"]["val"], one["elem"]["counter"]
            protocol, port = value["concat"] if name == "ports" else (value, ANY_PORT)
            key = _number(protocol), port
            passed.bytes[key] += counter["bytes"]
            passed.packets[key] += counter["packets"]
    return passed


def _number(protocol: str | int) -> int:
    """Return the number of a protocol that nft may name."""
    if isinstance(protocol, int):
        return protocol
    return int(protocol) if protocol.isdigit() else socket.getprotobyname(protocol)
