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
import numpy as np

from hogpipe.aggregation.dimensions import RowField
from hogpipe.aggregation.flow_columns import FlowColumns
from hogpipe.flows.packet_rows import Flags, Integers
from hogpipe.model import Attribution, Process

SelectorKind = Literal[
    "pid", "program", "exe", "command", "user", "cgroup", "unit", "container", "pod", "port",
    "remote",
]  # fmt: skip
_ID_DIGITS = 10  # pids and user ids have 32 bits
_LAST_PORT = 65_535
_MAPPED = IPv6Network("::ffff:0:0/96")
_ADDRESS_BITS = 128  # of an address in a flow's words

_OwnerTest = Callable[[Attribution], bool]
_FlowTest = Callable[[FlowColumns, Integers], Flags]


class OwnerSelector(msgspec.Struct, frozen=True):
    """An entry of `only` about owners."""

    kind: SelectorKind
    matches: _OwnerTest
    """Whether an owner has the property."""
    excludes: bool = False
    """Whether traffic that matches is left out."""


class FlowSelector(msgspec.Struct, frozen=True):
    """An entry of `only` about flows."""

    kind: SelectorKind
    matches: _FlowTest
    """Which flows have the property; the second argument has their service ports."""
    excludes: bool = False
    """Whether traffic that matches is left out."""


Selector = OwnerSelector | FlowSelector


class Selection:
    """What all entries of `only` select together; without any, all traffic."""

    def __init__(self, selectors: Iterable[Selector]) -> None:
        entries = list(selectors)
        self._included = [one for one in entries if not one.excludes]
        self._excluded = [one for one in entries if one.excludes]
        self.needs_owner = any(isinstance(one, OwnerSelector) for one in entries)
        """Whether it depends on the process or the user."""
        self.needs_service_port = any(one.kind == "port" for one in entries)

    def select(
        self,
        flows: FlowColumns,
        service_ports: Integers,
        owners: Integers,
        attributions: Sequence[Attribution],
    ) -> Flags:
        """Return which flows are selected; `owners` are the places of their attributions."""

        def match_any(selectors: Sequence[Selector]) -> Flags:
            found = np.zeros(len(flows), np.bool_)
            for one in selectors:
                if isinstance(one, FlowSelector):
                    found |= one.matches(flows, service_ports)
                else:
                    found |= np.array([one.matches(owner) for owner in attributions], np.bool_)[
                        owners
                    ]
            return found

        selected = ~match_any(self._excluded)
        return selected & match_any(self._included) if self._included else selected


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
    excludes = text.startswith("!")
    try:
        if kind in _FLOW_TESTS:
            return FlowSelector(kind, _FLOW_TESTS[kind](pattern), excludes)
        return OwnerSelector(kind, _OWNER_TESTS[kind](pattern), excludes)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a selector: {error}") from error


def list_selected_fields(only: Sequence[str]) -> list[RowField]:
    """Return that by which `ebpf` rows have to be kept apart for `only`."""
    kinds = {parse_selector(text).kind for text in only}
    return [field for kind in kinds for field in _OF_FLOWS.get(kind, ())]


def _make_process_test(test: Callable[[str, Process], bool]) -> Callable[[str], _OwnerTest]:
    def make(pattern: str) -> _OwnerTest:
        def matches(attribution: Attribution) -> bool:
            process = attribution.process
            return process is not None and test(pattern, process)

        return matches

    return make


def _make_pid_test(pattern: str) -> _OwnerTest:
    if not _is_number(pattern):
        raise ValueError("a pid is a number, as in pid:4242")
    pid = int(pattern)
    return _make_process_test(lambda _pattern, process: process.pid == pid)(pattern)


def _make_user_test(pattern: str) -> _OwnerTest:
    wanted = int(pattern) if _is_number(pattern) else None

    def matches(attribution: Attribution) -> bool:
        if (process := attribution.process) is not None:
            user_id, name = process.user_id, process.user_name
        elif (user := attribution.user) is not None:
            user_id, name = user.id, user.name
        else:
            return False
        return _matches_text(pattern, name) if wanted is None else user_id == wanted

    return matches


def _make_port_test(pattern: str) -> _FlowTest:
    port = int(pattern) if _is_number(pattern) else 0
    if not 0 < port <= _LAST_PORT:
        raise ValueError(f"a port is a number from 1 to {_LAST_PORT}, as in port:443")
    return lambda _flows, service_ports: service_ports == port


def _make_remote_test(pattern: str) -> _FlowTest:
    size, start, length = _parse_network(pattern)
    unused = _ADDRESS_BITS - length
    mask, prefix = (
        np.frombuffer((number >> unused << unused).to_bytes(16, "big"), np.uint64)
        for number in ((1 << _ADDRESS_BITS) - 1, start << _ADDRESS_BITS - 8 * size)
    )
    return lambda flows, _service_ports: flows.are_remote_in(size, mask, prefix)


def _parse_network(text: str) -> tuple[int, int, int]:
    """Return the bytes of an address of the network, its first address, and its prefix length.

    A v4-mapped network is one of IPv4, as addresses of flows are.
    """
    try:
        network = ip_network(text)
    except ValueError as error:
        raise ValueError(_describe_network_problem(text)) from error
    bits, start = network.max_prefixlen, int(network.network_address)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        bits, start = 32, start & 0xFFFF_FFFF
    return bits // 8, start, network.prefixlen - (network.max_prefixlen - bits)


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


_OWNER_TESTS: Mapping[SelectorKind, Callable[[str], _OwnerTest]] = {
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
}
_FLOW_TESTS: Mapping[SelectorKind, Callable[[str], _FlowTest]] = {
    "port": _make_port_test,
    "remote": _make_remote_test,
}
_OF_FLOWS: Mapping[SelectorKind, tuple[RowField, ...]] = {
    "port": ("service_port",),
    "remote": ("family", "remote_address"),
}
"""The kinds that are about flows and not about their owners, with that which keeps rows apart."""
