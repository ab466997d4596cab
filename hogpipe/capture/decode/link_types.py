"""The numbers of the link layer that both decoders go by.

Sources: the link types from libpcap's pcap/dlt.h and https://www.tcpdump.org/linktypes.html, the
ethertypes from include/uapi/linux/if_ether.h, the PPP protocols from RFC 1661, 1332 and 5072.
"""

from enum import IntEnum


class LinkType(IntEnum):
    """The link types that can be decoded, by their DLT_* number as libpcap tells it on Linux.

    Raw IP is 12 there, 14 on OpenBSD and 101 in a file.
    """

    NULL = 0
    ETHERNET = 1
    PPP = 9
    RAW = 12
    RAW_OPENBSD = 14
    PPP_SERIAL = 50
    PPP_ETHER = 51
    RAW_FILE = 101
    LOOP = 108
    LINUX_SLL = 113
    PPP_PPPD = 166
    IPV4 = 228
    IPV6 = 229
    LINUX_SLL2 = 276


ETHERTYPE_VERSIONS = {0x0800: 4, 0x86DD: 6}
ETHERTYPE_PPPOE_SESSION = 0x8864
VLAN_ETHERTYPES = frozenset({0x8100, 0x88A8, 0x9100, 0x9200})
MAX_VLAN_TAGS = 4
"""Frames with more tags than this are undecoded."""

PPP_VERSIONS = {0x0021: 4, 0x0057: 6}
PPP_ADDRESS_CONTROL = 0xFF03
PPPOE_SESSION = 0x1100
"""The first two bytes of a PPPoE session header: version 1, type 1, code 0 (RFC 2516)."""

FAMILY_VERSIONS = {2: 4, 10: 6, 24: 6, 28: 6, 30: 6}
"""Address families of NULL and LOOP; AF_INET6 has another number on each system."""

COOKED_OUTGOING = 4
"""The packet type PACKET_OUTGOING, include/uapi/linux/if_packet.h."""
ARPHRD_LOOPBACK = 772
