"""PURE: the selectors of `only`, which choose the traffic that gets records of its own.

A selector is written `kind:pattern`, or `!kind:pattern` to exclude. Traffic is selected if one of
the selectors without `!` matches it, or if there is none of those, and no selector with `!` does.

Patterns are case-sensitive shell globs (`*`, `?`, `[…]`), in which `*` also matches slashes. A pid
and a port are compared as numbers, and so is a user that is one. A remote end is an address or a
network. An unknown property matches no pattern, so that no `!` excludes it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from ipaddress import IPv6Network, ip_interface, ip_network
from typing import Literal, get_args

import msgspec

from hogpipe.aggregation.dimensions import RowField
from hogpipe.model import Attribution, FlowKey, Process, ServicePorts

SelectorKind = Literal[
    "pid", "program", "exe", "command", "user", "cgroup", "unit", "container", "pod", "port",
    "remote",
]  # fmt: skip
_ID_DIGITS = 10  # pids and user ids have 32 bits
_LAST_PORT = 65_535
_MAPPED = IPv6Network("::ffff:0:0/96")

_Test = Callable[[FlowKey, Attribution, ServicePorts], bool]


class Selector(msgspec.Struct, frozen=True):
    """One entry of `only`."""

    kind: SelectorKind
    matches: _Test
    """Whether traffic of a flow has the property; the last argument is for its service port."""
    excludes: bool = False
    """Whether traffic that matches is left out."""


class Selection:
    """What all entries of `only` select together; without any, all traffic."""

    def __init__(self, selectors: Iterable[Selector]) -> None:
        entries = list(selectors)
        self._included = [one.matches for one in entries if not one.excludes]
        self._excluded = [one.matches for one in entries if one.excludes]
        self.needs_owner = any(one.kind not in _OF_FLOWS for one in entries)
        """Whether it depends on the process or the user."""
        self.needs_service_port = any(one.kind == "port" for one in entries)

    def selects(self, flow: FlowKey, attribution: Attribution, ports: ServicePorts) -> bool:
        """Return whether traffic of `flow` with this attribution is selected."""
        if any(matches(flow, attribution, ports) for matches in self._excluded):
            return False
        included = self._included
        return not included or any(matches(flow, attribution, ports) for matches in included)


def parse_selector(text: str) -> Selector:
    """Return the selector that is written `text`, such as `exe:nginx*` or `!unit:cron.service`.

    Raises ValueError with a message for the user.
    """
    prefix, _, pattern = text.removeprefix("!").partition(":")
    kind = next((known for known in get_args(SelectorKind) if known == prefix), None)
    if kind is None or not pattern:
        kinds = ", ".join(get_args(SelectorKind))
        form = "write kind:pattern, or !kind:pattern to exclude"
        raise ValueError(f"{text!r} is not a selector: {form}, kind one of {kinds}")
    try:
        matches = _MAKERS[kind](pattern)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a selector: {error}") from error
    return Selector(kind, matches, excludes=text.startswith("!"))


def list_selected_fields(only: Sequence[str]) -> list[RowField]:
    """Return that by which `ebpf` rows have to be kept apart for `only`."""
    kinds = {parse_selector(text).kind for text in only}
    return [field for kind in kinds for field in _OF_FLOWS.get(kind, ())]


def _make_process_test(test: Callable[[str, Process], bool]) -> Callable[[str], _Test]:
    def make(pattern: str) -> _Test:
        def matches(_flow: FlowKey, attribution: Attribution, _ports: ServicePorts) -> bool:
            process = attribution.process
            return process is not None and test(pattern, process)

        return matches

    return make


def _make_pid_test(pattern: str) -> _Test:
    if not _is_number(pattern):
        raise ValueError("a pid is a number, as in pid:4242")
    pid = int(pattern)
    return _make_process_test(lambda _pattern, process: process.pid == pid)(pattern)


def _make_user_test(pattern: str) -> _Test:
    wanted = int(pattern) if _is_number(pattern) else None

    def matches(_flow: FlowKey, attribution: Attribution, _ports: ServicePorts) -> bool:
        if (process := attribution.process) is not None:
            user_id, name = process.user_id, process.user_name
        elif (user := attribution.user) is not None:
            user_id, name = user.id, user.name
        else:
            return False
        return _matches_text(pattern, name) if wanted is None else user_id == wanted

    return matches


def _make_port_test(pattern: str) -> _Test:
    port = int(pattern) if _is_number(pattern) else 0
    if not 0 < port <= _LAST_PORT:
        raise ValueError(f"a port is a number from 1 to {_LAST_PORT}, as in port:443")
    return lambda flow, _attribution, ports: ports.find(flow) == port


def _make_remote_test(pattern: str) -> _Test:
    size, shift, prefix = _parse_network(pattern)

    def matches(flow: FlowKey, _attribution: Attribution, _ports: ServicePorts) -> bool:
        address = flow.remote_address
        return len(address) == size and int.from_bytes(address, "big") >> shift == prefix

    return matches


def _parse_network(text: str) -> tuple[int, int, int]:
    """Return the bytes of an address of the network, and by which shift it becomes which prefix.

    A v4-mapped network is one of IPv4, as addresses of flows are.
    """
    try:
        network = ip_network(text)
    except ValueError as error:
        raise ValueError(_describe_network_problem(text)) from error
    bits, start = network.max_prefixlen, int(network.network_address)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        bits, start = 32, start & 0xFFFF_FFFF
    shift = network.max_prefixlen - network.prefixlen
    return bits // 8, shift, start >> shift


def _describe_network_problem(text: str) -> str:
    try:
        interface = ip_interface(text)
    except ValueError:
        return "a remote is an address or a network, as in remote:2001:db8::1 or remote:10.0.0.0/8"
    return (
        f"{text} is an address within {interface.network}: write remote:{interface.network}, "
        f"or remote:{interface.ip} for the address alone"
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _ID_DIGITS


def _matches_executable(pattern: str, process: Process) -> bool:
    """Match the whole path if `pattern` has a slash, otherwise the base name.

    The name of the process is matched instead if the executable is unknown, as that of a kernel
    thread is, and that of a process that exited unread may be.
    """
    path = process.executable
    if path is None or "/" not in pattern:
        return fnmatchcase(process.name, pattern)
    return fnmatchcase(path, pattern)


def _matches_text(pattern: str, text: str | None) -> bool:
    return text is not None and fnmatchcase(text, pattern)


_MAKERS: Mapping[SelectorKind, Callable[[str], _Test]] = {
    "pid": _make_pid_test,
    "program": _make_process_test(lambda pattern, process: fnmatchcase(process.name, pattern)),
    "exe": _make_process_test(_matches_executable),
    "command": _make_process_test(lambda pattern, process: _matches_text(pattern, process.command)),
    "user": _make_user_test,
    "cgroup": _make_process_test(lambda pattern, process: _matches_text(pattern, process.cgroup)),
    "unit": _make_process_test(lambda pattern, process: _matches_text(pattern, process.unit)),
    "container": _make_process_test(
        lambda pattern, process: _matches_text(pattern, process.container)
    ),
    "pod": _make_process_test(lambda pattern, process: _matches_text(pattern, process.pod)),
    "port": _make_port_test,
    "remote": _make_remote_test,
}
_OF_FLOWS: Mapping[SelectorKind, tuple[RowField, ...]] = {
    "port": ("service_port",),
    "remote": ("family", "remote_address"),
}
"""The kinds that are about flows and not about their owners, with that which keeps rows apart."""
