"""PURE: the addresses that a DNS answer has for the name in question, decoded by dnspython.

In: the bytes of a message. Out: the name that was asked for, and its addresses, each with the time
that it may be cached. The chain of aliases (CNAME) is followed from the question, so that addresses
of other names in the message are left out. Raises ValueError for whatever is no such answer.

Only header, question and answers are decoded: the counts of the other sections are set to 0 first.

Bounds: dnspython follows at most 16 aliases, and compression pointers only backwards, so that each
message ends. Of one answer at most `_MAX_ADDRESSES` addresses are used.
"""

from ipaddress import IPv6Address, ip_address

import dns.exception
import dns.flags
import dns.message
import dns.rcode

from hogpipe.capture.dns.dns_exchanges import HEADER, NamedAddresses

_MAX_ADDRESSES = 64
_NO_COUNTS = bytes(4)


def decode_answer(message: bytes) -> NamedAddresses:
    """Return the addresses of the name in question; none if the name has none, or is an error."""
    try:
        decoded = dns.message.from_wire(
            message[: HEADER - 4] + _NO_COUNTS + message[HEADER:], ignore_trailing=True
        )
        if not isinstance(decoded, dns.message.QueryMessage) or len(decoded.question) != 1:
            raise ValueError("not an answer to one question")
        domain = decoded.question[0].name.to_text(omit_final_dot=True).lower()
        if decoded.rcode() != dns.rcode.NOERROR or decoded.flags & dns.flags.TC:
            return NamedAddresses(domain, (), 0)
        chain = decoded.resolve_chaining()
        if chain.answer is None:
            return NamedAddresses(domain, (), 0)
        texts = [record.to_text() for record in chain.answer][:_MAX_ADDRESSES]
    except dns.exception.DNSException as error:
        raise ValueError(str(error)) from error
    found = filter(None, map(_pack_address, texts))
    return NamedAddresses(domain, tuple(found), chain.minimum_ttl)


def _pack_address(text: str) -> bytes | None:
    """Return an address as flows have it; None of one that names no peer.

    That is one of this host or of many: names that lead to such addresses block others, as a rule.
    """
    address = ip_address(text)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback or address.is_unspecified or address.is_multicast:
        return None
    return address.packed
