"""PURE: the capabilities that each thread of a run needs, and why.

In: settings, and what the host has. Out: a `Need` for each capability and purpose. A need that does
not last ends once the source is open.
"""

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from hogpipe.config.settings import Settings
from hogpipe.linux.capabilities import Capability

_MAPS_WITHOUT_RIGHTS = (5, 19)
"""The kernel from which a map may be read by whoever has its descriptor."""


class Role(StrEnum):
    """A thread of a run, or several, with rights of their own."""

    CAPTURE = "capture"
    LOOKUP = "lookup"
    REFRESH = "refresh"
    EVENTS = "events"
    """Threads that read events of the BPF programs; the lookup or capture thread starts them."""


class HostFacts(msgspec.Struct, frozen=True):
    """What a host has that takes rights."""

    has_containers: bool
    """Whether there are network namespaces besides that of the run."""
    translates: bool
    """Whether addresses of connections may be translated (NAT)."""
    kernel: tuple[int, int]
    """Its version."""


class Need(msgspec.Struct, frozen=True):
    """A capability that some threads need."""

    capability: Capability
    reason: str
    """What it is needed for, as the end of a sentence."""
    roles: frozenset[Role]
    lasts: bool = True
    """Whether it is needed after the start."""


def list_needs(settings: Settings, host: HostFacts) -> list[Need]:
    """Return what a run with these settings needs; those that last come first."""
    if settings.capture.source == "savefile":
        return [*_list_lookup_needs({Role.LOOKUP})]
    is_ebpf = settings.capture.source == "ebpf"
    has_programs = is_ebpf or settings.attribution.ledger != "off"
    needs: list[Need] = []
    if not is_ebpf:
        text = "to open packet sockets, also on interfaces that appear later"
        needs.append(Need(Capability.CAP_NET_RAW, text, frozenset({Role.CAPTURE})))
    elif settings.needs_peer_names:
        text = "to open a packet socket for DNS"
        needs.append(Need(Capability.CAP_NET_RAW, text, frozenset({Role.CAPTURE}), lasts=False))
    needs += _list_lookup_needs({*Role})
    if may_enter_containers(settings, host):
        text = "to enter the network namespaces of containers"
        needs.append(Need(Capability.CAP_SYS_ADMIN, text, frozenset({Role.CAPTURE, Role.LOOKUP})))
    if not is_ebpf and may_ask_about_translation(settings, host):
        text = "to ask about translated connections (NAT)"
        needs.append(Need(Capability.CAP_NET_ADMIN, text, frozenset({Role.LOOKUP})))
    if has_programs:
        needs += _list_program_needs(host, is_ebpf=is_ebpf)
    return sorted(needs, key=lambda need: not need.lasts)


def may_enter_containers(settings: Settings, host: HostFacts) -> bool:
    """Return whether a run keeps the right to enter containers."""
    choice = settings.security.containers
    return choice == "on" or (choice == "auto" and host.has_containers)


def may_ask_about_translation(settings: Settings, host: HostFacts) -> bool:
    """Return whether a run keeps the right to ask about translated connections."""
    choice = settings.security.containers
    return choice != "off" and (host.translates or may_enter_containers(settings, host))


def _list_lookup_needs(roles: set[Role]) -> Iterator[Need]:
    text = "to read descriptors, executables and namespaces of all processes"
    for capability in (Capability.CAP_SYS_PTRACE, Capability.CAP_DAC_READ_SEARCH):
        yield Need(capability, text, frozenset(roles))


def _list_program_needs(host: HostFacts, *, is_ebpf: bool) -> Iterator[Need]:
    opener = frozenset({Role.CAPTURE if is_ebpf else Role.LOOKUP})
    if host.kernel < _MAPS_WITHOUT_RIGHTS:
        text = "to read the maps of BPF programs, before Linux 5.19"
        yield Need(Capability.CAP_BPF, text, opener | {Role.CAPTURE, Role.EVENTS})
    text = "to load BPF programs and attach them"
    for capability in (Capability.CAP_BPF, Capability.CAP_PERFMON, Capability.CAP_NET_ADMIN):
        yield Need(capability, text, opener, lasts=False)
    text = "to mount a private control group tree, if none is mounted"
    yield Need(Capability.CAP_SYS_ADMIN, text, opener, lasts=False)
    text = "to raise the priority of the thread that reads new processes"
    yield Need(Capability.CAP_SYS_NICE, text, opener, lasts=False)


def select_capabilities(
    needs: list[Need], role: Role, *, after_start: bool
) -> frozenset[Capability]:
    """Return what the threads of `role` need, during the start or after it."""
    return frozenset(
        need.capability for need in needs if role in need.roles and (need.lasts or not after_start)
    )
