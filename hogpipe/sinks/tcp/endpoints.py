"""PURE: the endpoints of a `tcp` sink, and the order in which it tries them.

The order of the configuration is the order of preference. An endpoint whose connection broke while
a window was in flight is tried after all others until a window has been delivered: an endpoint that
accepts connections but no data must not starve the others.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address

_NOT_IN_NAMES = re.compile(r"[\s\0/@]")
"""Characters of a URL, or of no name that can resolve."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A name or an address (IPv6 without brackets), and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host} port {self.port}"


def parse_endpoint(text: str) -> Endpoint:
    """Return the endpoint `host:port` or `[IPv6]:port`; raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError("expected host:port")
    if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
        raise ValueError("its port is not a number from 1 to 65535")
    bracketed = host.startswith("[") and host.endswith("]")
    if not bracketed and (_is_ipv6(host) or _is_ipv6(text)):
        raise ValueError("an IPv6 address needs brackets: [::1]:6514")
    return make_endpoint(host, int(port))


def make_endpoint(host: str, port: int) -> Endpoint:
    """Return the endpoint of a host, with or without brackets; raises ValueError."""
    bare = host.removeprefix("[").removesuffix("]")
    try:
        bare.encode("idna")
    except UnicodeError as error:
        raise ValueError("no name or address") from error
    if not bare or _NOT_IN_NAMES.search(bare) or (":" in bare and not _is_ipv6(bare)):
        raise ValueError("no name or address")
    return Endpoint(bare, port)


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


class EndpointOrder:
    """The order in which `count` endpoints, known by their index, are tried."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._broken: list[int] = []
        """Endpoints that broke since the last delivery, the latest at the end."""

    def all(self) -> list[int]:
        """Return every endpoint once, in order."""
        sound = [index for index in range(self._count) if index not in self._broken]
        return sound + self._broken

    def better_than(self, index: int) -> list[int]:
        """Return the endpoints that are preferred to `index`."""
        return list(range(index))

    def mark_broken(self, index: int) -> None:
        """Move `index` to the end: its connection broke while a window was in flight."""
        if index in self._broken:
            self._broken.remove(index)
        self._broken.append(index)

    def mark_delivered(self) -> None:
        """Restore the order of preference: a window was delivered."""
        self._broken.clear()
