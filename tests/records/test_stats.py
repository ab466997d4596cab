import msgspec
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.model import (
    AttributionCounts,
    CaptureCounts,
    Latency,
    LedgerCounts,
    ResolverCounts,
    Tally,
)
from hogpipe.model.peer_names import NameCounts, ReverseCounts
from hogpipe.records import stats


def test_each_capture_counter_is_recorded_under_its_own_name() -> None:
    counts = CaptureCounts(
        captured=Tally(1, 100),
        not_local=Tally(2, 200),
        not_ip=Tally(3, 300),
        undecoded=Tally(4, 400),
        both_sides=Tally(5, 500),
        length_floored=Tally(6, 600),
        kernel_dropped=7,
        interface_dropped=8,
        merged_batches=9,
        overflowed=Tally(10, 1000),
        health_lost=11,
    )
    assert stats.capture_info(counts) == {
        "packets": 1,
        "bytes": 100,
        "dropped": {"kernel": 7, "interface": 8},
        "not_local": {"bytes": 200, "packets": 2},
        "not_ip": {"bytes": 300, "packets": 3},
        "undecoded": {"bytes": 400, "packets": 4},
        "both_sides": {"bytes": 500, "packets": 5},
        "length_floored": {"bytes": 600, "packets": 6},
        "overflowed": {"bytes": 1000, "packets": 10},
        "merged_batches": 9,
        "health_lost": 11,
    }


def test_each_attribution_counter_is_recorded_under_its_own_name() -> None:
    counts = AttributionCounts(
        new_flows=1,
        batches=2,
        failed_batches=3,
        evicted_flows=4,
        overflowed=Tally(5, 50),
        pending_flows=6,
        pending_bytes=7,
        lookup_seconds=0.8,
        resolver=ResolverCounts(
            table_reads=9,
            fds_read=10,
            fd_scans=11,
            not_permitted=12,
            rows_skipped=13,
            deferred=15,
            ambiguous=16,
            tuple_lookups=17,
            dumps_interrupted=18,
            dumps_failed=19,
            fds_evicted=20,
            malformed_files=21,
            container_files_unread=25,
            tables_incomplete=22,
        ),
        latency=Latency(0.22, 0.23),
        translated=Tally(24, 240),
    )
    assert stats.attribution_info(counts, {"exact": 14}, timed=True) == {
        "new_flows": 1,
        "batches": 2,
        "failed_batches": 3,
        "table_reads": 9,
        "tables_incomplete": 22,
        "tuple_lookups": 17,
        "dumps_interrupted": 18,
        "dumps_failed": 19,
        "rows_skipped": 13,
        "fd_scans": 11,
        "fds_read": 10,
        "fds_evicted": 20,
        "not_permitted": 12,
        "malformed_files": 21,
        "container_files_unread": 25,
        "deferred": 15,
        "ambiguous": 16,
        "evicted_flows": 4,
        "overflowed": {"bytes": 50, "packets": 5},
        "translated": {"bytes": 240, "packets": 24},
        "pending": {"flows": 6, "bytes": 7},
        "bytes": {"exact": 14},
        "lookup_seconds": 0.8,
        "latency": {"median_seconds": 0.22, "max_seconds": 0.23},
    }


def test_the_stats_of_a_replay_hold_no_times() -> None:
    counts = AttributionCounts(lookup_seconds=0.5, latency=Latency(1.0, 1.0))
    info = stats.attribution_info(counts, {}, timed=False)
    assert info.keys().isdisjoint({"lookup_seconds", "latency"})


def test_without_an_answered_flow_there_is_no_latency() -> None:
    assert "latency" not in stats.attribution_info(AttributionCounts(), {}, timed=True)


def test_the_use_of_resources_is_recorded_to_the_microsecond() -> None:
    info = stats.self_info(cpu_seconds=0.12345678, memory_bytes=4096, loop_delay_seconds=0.0000014)
    assert info == {
        "cpu": {"seconds": 0.123457},
        "memory": {"bytes": 4096},
        "loop": {"longest_delay_seconds": 0.000001},
    }


FIELDS = [one for one in msgspec.structs.fields(ResolverCounts) if one.name != "ledger"]
TALLIES = [one.name for one in msgspec.structs.fields(CaptureCounts) if one.type is Tally]
NUMBERS = [one.name for one in msgspec.structs.fields(CaptureCounts) if one.type is int]


def test_every_counter_of_the_resolver_is_recorded() -> None:
    values = {field.name: number for number, field in enumerate(FIELDS, 1)}
    counts = AttributionCounts(resolver=ResolverCounts(**values))
    info = stats.attribution_info(counts, {}, timed=True)
    assert {key: value for key, value in info.items() if key in values} == values


def test_every_capture_counter_is_added_up() -> None:
    tallies = {name: number for number, name in enumerate(TALLIES, 1)}
    numbers = {name: number for number, name in enumerate(NUMBERS, 1)}
    total = CaptureCounts()
    for _ in range(3):
        total.add(CaptureCounts(**{name: Tally(n, n) for name, n in tallies.items()}, **numbers))
    assert [getattr(total, name) for name in TALLIES] == [
        Tally(3 * number, 3 * number) for number in tallies.values()
    ]
    assert [getattr(total, name) for name in NUMBERS] == [3 * n for n in numbers.values()]
    assert len(TALLIES) + len(NUMBERS) == len(CaptureCounts.__struct_fields__)


resolver_counts = st.builds(ResolverCounts, *[st.integers(0, 1 << 40)] * len(FIELDS))
USES = msgspec.structs.fields(LedgerCounts)
ledger_uses = st.builds(LedgerCounts, *[st.integers(0, 1 << 40)] * len(USES))


@given(ledger_uses, ledger_uses)
def test_ledger_counters_since_earlier_ones_are_their_growth_with_the_sockets_known_now(
    earlier: LedgerCounts, later: LedgerCounts
) -> None:
    done = ResolverCounts(ledger=later).since(ResolverCounts(ledger=earlier)).ledger
    assert done is not None
    assert done.sockets == later.sockets
    for name in (use.name for use in USES if use.name != "sockets"):
        assert getattr(done, name) + getattr(earlier, name) == getattr(later, name)
    assert ResolverCounts(ledger=later).since(ResolverCounts()).ledger == later


def test_each_ledger_counter_is_recorded_under_its_own_name() -> None:
    use = LedgerCounts(*range(1, len(USES) + 1))
    counts = AttributionCounts(resolver=ResolverCounts(ledger=use))
    assert stats.attribution_info(counts, {}, timed=True)["ledger"] == msgspec.to_builtins(use)
    assert "ledger" not in stats.attribution_info(AttributionCounts(), {}, timed=True)


@given(resolver_counts, resolver_counts)
def test_resolver_counts_since_themselves_and_since_nothing(
    earlier: ResolverCounts, later: ResolverCounts
) -> None:
    assert later.since(later) == ResolverCounts()
    assert later.since(ResolverCounts()) == later
    done = later.since(earlier)
    for name in (field.name for field in FIELDS):
        assert getattr(done, name) + getattr(earlier, name) == getattr(later, name)


def test_each_counter_of_names_is_recorded_under_its_own_name() -> None:
    before = NameCounts(1, 1, 1, 1, 1, 1, 1)
    passive = NameCounts(10, 20, 30, 40, 50, 60, 70)
    expected = {
        "addresses": 10,
        "queries": 19,
        "answers": 29,
        "unasked": 39,
        "malformed": 49,
        "dropped": 59,
        "evicted": 69,
    }
    assert stats.names_info(passive.since(before)) == expected
    before.reverse = ReverseCounts(1, 1, 1, 1)
    passive.reverse = ReverseCounts(2, 3, 4, 5)
    reverse = {"asked": 1, "answered": 2, "failed": 3, "dropped": 4}
    assert stats.names_info(passive.since(before)) == expected | {"reverse": reverse}
    assert passive.since(NameCounts()).reverse == passive.reverse
