"""PURE: link types in messages: which can be decoded, the names of others, and what to do.

Numbers are LINKTYPE_* (https://www.tcpdump.org/linktypes.html), which equal libpcap's DLT_* for all
link types named here.
"""

from hogpipe.capture.decode.scalar_link import LinkType

NO_LINK_TYPE = -1
"""In place of a number: the link type is not known."""
_WIFI = frozenset({105, 119, 127, 163, 192})
_PKTAP = 258
_NAMES = {
    6: "Token Ring",
    10: "FDDI",
    104: "Cisco HDLC",
    105: "802.11",
    107: "Frame Relay",
    117: "pflog",
    119: "802.11 with Prism header",
    127: "802.11 with radiotap header",
    163: "802.11 with AVS header",
    187: "Bluetooth HCI",
    189: "USB",
    192: "PPI",
    195: "802.15.4",
    201: "Bluetooth HCI",
    220: "USB",
    227: "CAN",
    230: "802.15.4",
    231: "D-Bus",
    239: "nflog",
    242: "IP over InfiniBand",
    249: "USB",
    253: "netlink",
    254: "Bluetooth monitor",
    _PKTAP: "Apple PKTAP",
    271: "vsock",
}
_DECODABLE = frozenset(LinkType)


def is_decodable(link_type: int) -> bool:
    """Return whether frames of `link_type` can be decoded."""
    return link_type in _DECODABLE


def describe_link_type(link_type: int) -> str:
    """Return what a message calls `link_type`, one that cannot be decoded."""
    if link_type == NO_LINK_TYPE:
        return "an interface that no block before them describes"
    name = _NAMES.get(link_type)
    return f"link type {link_type}" + (f" ({name})" if name else "")


def suggest_capture(link_type: int) -> str:
    """Return what to do to get frames that can be decoded."""
    if link_type in _WIFI:
        return "capture on the Wi-Fi interface itself, not in monitor mode"
    if link_type == _PKTAP:
        return "capture on an interface by its name (tcpdump -i en0)"
    if link_type == NO_LINK_TYPE:
        return "their link type is not known; the file is incomplete, so write it again"
    return "hogpipe decodes Ethernet, raw IP, PPP, loopback and Linux cooked captures"
