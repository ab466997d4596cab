"""PURE: the selectors of `only`, which choose the traffic that gets records of its own.

A selector is written `kind:pattern`, or `!kind:pattern` to exclude. Traffic is selected if one of
the selectors without `!` matches it, or if there is none of those, and no selector with `!` does.

Patterns are case-sensitive shell globs (`*`, `?`, `[…]`), in which `*` also matches slashes. A pid
and a port are compared as numbers, and so is a user that is one. A remote end is an address or a
prefix, a network the name of one. A domain is compared in lower case. An unknown property matches
no pattern, so that no `!` excludes it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, get_args

import msgspec
import numpy as np

from hogpipe.aggregation.dimensions import RowField
from hogpipe.aggregation.flow_columns import DerivedColumns, FlowColumns
from hogpipe.flows.packet_rows import Flags, Integers
from hogpipe.model import BUILT_IN_NETWORKS, Attribution, Networks, Process
from hogpipe.model.networks import NO_NETWORK, parse_prefix

SelectorKind = Literal[
    "pid", "program", "exe", "command", "parent", "user", "cgroup", "unit", "container", "pod",
    "port", "network", "remote", "domain",
]  # fmt: skip
_ID_DIGITS = 10  # pids and user ids have 32 bits
_LAST_PORT = 65_535
_ADDRESS_BITS = 128  # of an address in a flow's words

_OwnerTest = Callable[[Attribution], bool]
_FlowTest = Callable[[FlowColumns, DerivedColumns], Flags]


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
    """Which flows have the property."""
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
        self.needs_network = any(one.kind == "network" for one in entries)

    def select(
        self,
        flows: FlowColumns,
        derived: DerivedColumns,
        owners: Integers,
        attributions: Sequence[Attribution],
    ) -> Flags:
        """Return which flows are selected; `owners` are the places of their attributions."""

        def match_any(selectors: Sequence[Selector]) -> Flags:
            found = np.zeros(len(flows), np.bool_)
            for one in selectors:
                if isinstance(one, FlowSelector):
                    found |= one.matches(flows, derived)
                else:
                    found |= np.array([one.matches(owner) for owner in attributions], np.bool_)[
                        owners
                    ]
            return found

        selected = ~match_any(self._excluded)
        return selected & match_any(self._included) if self._included else selected


def parse_selector(text: str, networks: Networks = BUILT_IN_NETWORKS) -> Selector:
    """Return the selector that is written `text`, such as `exe:nginx*` or `!unit:cron.service`.

    Raises ValueError with a message for the user.
    """
    kind, pattern = _split(text)
    excludes = text.startswith("!")
    try:
        if kind == "network":
            return FlowSelector(kind, _make_network_test(pattern, networks), excludes)
        if kind in _FLOW_TESTS:
            return FlowSelector(kind, _FLOW_TESTS[kind](pattern), excludes)
        return OwnerSelector(kind, _OWNER_TESTS[kind](pattern), excludes)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a selector: {error}") from error


def list_selected_fields(only: Sequence[str]) -> list[RowField]:
    """Return that by which `ebpf` rows have to be kept apart for `only`."""
    kinds = {_split(text)[0] for text in only}
    return [field for kind in kinds for field in _OF_FLOWS.get(kind, ())]


def selects_domains(text: str) -> bool:
    """Return whether a selector, which may be invalid, is about names of peers."""
    return text.removeprefix("!").startswith("domain:")


def _split(text: str) -> tuple[SelectorKind, str]:
    """Return kind and pattern of a selector. Raises ValueError."""
    prefix, _, pattern = text.removeprefix("!").partition(":")
    kind = next((known for known in get_args(SelectorKind) if known == prefix), None)
    if kind is None or not pattern:
        kinds = ", ".join(get_args(SelectorKind))
        form = "write kind:pattern, or !kind:pattern to exclude"
        raise ValueError(f"{text!r} is not a selector: {form}, kind one of {kinds}")
    return kind, pattern


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
    return lambda _flows, derived: derived.service_ports == port


def _make_network_test(pattern: str, networks: Networks) -> _FlowTest:
    named = [name != NO_NETWORK and fnmatchcase(name, pattern) for name in networks.names]
    if not any(named):
        known = ", ".join(name for name in networks.names if name != NO_NETWORK)
        raise ValueError(f"no network has this name; there are {known}")
    are_matched = np.array(named, np.bool_)
    return lambda _flows, derived: are_matched[derived.networks]


def _make_remote_test(pattern: str) -> _FlowTest:
    wanted = parse_prefix(pattern)
    unused = _ADDRESS_BITS - wanted.length
    mask, prefix = (
        np.frombuffer((number >> unused << unused).to_bytes(16, "big"), np.uint64)
        for number in ((1 << _ADDRESS_BITS) - 1, wanted.start << _ADDRESS_BITS - 8 * wanted.size)
    )
    return lambda flows, _derived: flows.are_remote_in(wanted.size, mask, prefix)


def _make_domain_test(pattern: str) -> _FlowTest:
    wanted = pattern.lower().removesuffix(".")

    def match(_flows: FlowColumns, derived: DerivedColumns) -> Flags:
        naming = derived.naming
        matched = [one is not None and fnmatchcase(one.domain, wanted) for one in naming.names]
        return np.array(matched, np.bool_)[naming.numbers]

    return match


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


def _matches_parent(pattern: str, process: Process) -> bool:
    """Match the name or the command of the parent: of a script, that of its interpreter or own."""
    parent = process.parent
    return parent is not None and (
        fnmatchcase(parent.name, pattern) or fnmatchcase(parent.command, pattern)
    )


def _matches_container(pattern: str, process: Process) -> bool:
    """Match the id or the name of the container."""
    names = process.container_names
    return _matches_text(pattern, process.container) or (
        names is not None and _matches_text(pattern, names.name)
    )


def _matches_pod(pattern: str, process: Process) -> bool:
    """Match the uid or the name of the pod, which may be written NAMESPACE/NAME."""
    names = process.container_names
    if _matches_text(pattern, process.pod):
        return True
    if process.pod is None or names is None or names.pod_name is None:
        return False
    name = names.pod_name
    return fnmatchcase(f"{names.pod_namespace or ''}/{name}" if "/" in pattern else name, pattern)


def _matches_text(pattern: str, text: str | None) -> bool:
    return text is not None and fnmatchcase(text, pattern)


_OWNER_TESTS: Mapping[SelectorKind, Callable[[str], _OwnerTest]] = {
    "pid": _make_pid_test,
    "program": _make_process_test(lambda pattern, process: fnmatchcase(process.name, pattern)),
    "exe": _make_process_test(_matches_executable),
    "command": _make_process_test(lambda pattern, process: _matches_text(pattern, process.command)),
    "parent": _make_process_test(_matches_parent),
    "user": _make_user_test,
    "cgroup": _make_process_test(lambda pattern, process: _matches_text(pattern, process.cgroup)),
    "unit": _make_process_test(lambda pattern, process: _matches_text(pattern, process.unit)),
    "container": _make_process_test(_matches_container),
    "pod": _make_process_test(_matches_pod),
}
_FLOW_TESTS: Mapping[SelectorKind, Callable[[str], _FlowTest]] = {
    "port": _make_port_test,
    "remote": _make_remote_test,
    "domain": _make_domain_test,
}
_OF_FLOWS: Mapping[SelectorKind, tuple[RowField, ...]] = {
    "port": ("service_port",),
    "network": ("network",),
    "remote": ("family", "remote_address"),
    "domain": ("domain",),
}
"""The kinds that are about flows and not about their owners, with that which keeps rows apart."""
