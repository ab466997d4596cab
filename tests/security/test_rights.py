"""Which capabilities a configuration needs, on which host, and when."""

import itertools

import pytest
from msgspec.structs import replace

from hogpipe.config import AttributionSettings, CaptureSettings, SecuritySettings, Settings
from hogpipe.linux.capabilities import Capability
from hogpipe.security.rights import HostFacts, Role, list_needs, select_capabilities

PLAIN = HostFacts(has_containers=False, translates=False, kernel=(6, 1))
CONTAINERS = HostFacts(has_containers=True, translates=False, kernel=(6, 1))
NAT = HostFacts(has_containers=False, translates=True, kernel=(6, 1))
OLD = HostFacts(has_containers=False, translates=False, kernel=(5, 15))
LOOKUPS = {"CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"}
LIVE = {"CAP_NET_RAW", *LOOKUPS}
IN_CONTAINERS = {"CAP_SYS_ADMIN", "CAP_NET_ADMIN"}


def settings_of(source: str, containers: str = "auto", ledger: str = "auto") -> Settings:
    return Settings(
        capture=CaptureSettings(source=source),  # type: ignore[arg-type]
        attribution=AttributionSettings(ledger=ledger),  # type: ignore[arg-type]
        security=SecuritySettings(containers=containers),  # type: ignore[arg-type]
    )


def kept(settings: Settings, host: HostFacts) -> set[str]:
    """Return the names of what any thread has after the start."""
    needs = list_needs(settings, host)
    return {
        capability.name
        for role in Role
        for capability in select_capabilities(needs, role, after_start=True)
    }


@pytest.mark.parametrize(
    ("source", "containers", "host", "expected"),
    [
        ("pcap", "auto", PLAIN, LIVE),
        ("pcap", "auto", CONTAINERS, LIVE | IN_CONTAINERS),
        ("pcap", "off", CONTAINERS, LIVE),
        ("pcap", "on", PLAIN, LIVE | IN_CONTAINERS),
        ("pcap", "auto", NAT, LIVE | {"CAP_NET_ADMIN"}),
        ("pcap", "off", NAT, LIVE),
        ("pcap", "auto", OLD, LIVE | {"CAP_BPF"}),
        ("ebpf", "auto", PLAIN, LOOKUPS),
        ("ebpf", "auto", CONTAINERS, LOOKUPS | {"CAP_SYS_ADMIN"}),
        ("ebpf", "auto", NAT, LOOKUPS),
        ("ebpf", "auto", OLD, LOOKUPS | {"CAP_BPF"}),
        ("savefile", "on", CONTAINERS, LOOKUPS),
    ],
)
def test_what_lasts_follows_from_source_and_host(
    source: str, containers: str, host: HostFacts, expected: set[str]
) -> None:
    assert kept(settings_of(source, containers), host) == expected


def test_dns_answers_are_read_through_a_socket_that_is_opened_at_the_start() -> None:
    settings = settings_of("ebpf")
    aggregation = replace(settings.aggregation, group_by=("domain",))
    needs = list_needs(replace(settings, aggregation=aggregation), PLAIN)
    before = select_capabilities(needs, Role.CAPTURE, after_start=False)
    assert Capability.CAP_NET_RAW in before
    assert kept(replace(settings, aggregation=aggregation), PLAIN) == LOOKUPS


def test_without_the_ledger_nothing_of_bpf_is_needed() -> None:
    names = {need.capability for need in list_needs(settings_of("pcap", ledger="off"), OLD)}
    assert Capability.CAP_BPF not in names
    assert Capability.CAP_PERFMON not in names


def test_only_the_thread_that_captures_may_open_packet_sockets() -> None:
    needs = list_needs(settings_of("pcap", "on"), NAT)
    for role in Role:
        has_raw = Capability.CAP_NET_RAW in select_capabilities(needs, role, after_start=False)
        assert has_raw == (role is Role.CAPTURE)


def test_no_thread_has_more_after_the_start_than_during_it() -> None:
    for source, host, role in itertools.product(
        ("pcap", "ebpf", "savefile"), (PLAIN, CONTAINERS, NAT, OLD), Role
    ):
        needs = list_needs(settings_of(source), host)
        later = select_capabilities(needs, role, after_start=True)
        assert later <= select_capabilities(needs, role, after_start=False)


@pytest.mark.parametrize(("source", "opener"), [("pcap", Role.LOOKUP), ("ebpf", Role.CAPTURE)])
def test_only_the_thread_that_loads_programs_may_do_so(source: str, opener: Role) -> None:
    needs = list_needs(settings_of(source), PLAIN)
    loaders = {
        role
        for role in Role
        if Capability.CAP_BPF in select_capabilities(needs, role, after_start=False)
    }
    assert loaders == {opener}
