"""PURE: protocol numbers (IANA) and units that more than one package works with."""

ICMP = 1
TCP = 6
UDP = 17
ICMPV6 = 58
SCTP = 132
UDPLITE = 136

WITH_PORTS = frozenset({TCP, UDP, SCTP, UDPLITE})
"""Protocols whose headers begin with a source and a destination port."""
DATAGRAMS = frozenset({UDP, UDPLITE})
"""Protocols without connections, whose sockets are found by their local port."""

NANOSECONDS = 1_000_000_000
"""In a second."""
