"""The summary of a run."""

import pytest

from hogpipe.model import AttributionCounts, CaptureCounts, Tally
from hogpipe.records.summary import Summary, format_bytes


def test_the_summary_is_one_line_with_the_share_of_each_quality() -> None:
    summary = Summary(seconds=12.34)
    counts = CaptureCounts(captured=Tally(10, 1_500_000), kernel_dropped=2, interface_dropped=1)
    nothing = AttributionCounts()
    summary.add_window(counts, nothing, {"none": 100, "exact": 600}, records=3)
    summary.add_window(CaptureCounts(), nothing, {"listener": 200, "exact": 100}, records=2)
    assert str(summary) == (
        "12.3 s, 10 packets, 1.5 MB captured, 3 dropped, 5 records; "
        "by owner: 70.0 % exact, 20.0 % listener, 10.0 % none"
    )


def test_the_summary_counts_the_packets_that_were_recorded_without_their_flow() -> None:
    summary = Summary()
    queued = CaptureCounts(overflowed=Tally(3, 300))
    summary.add_window(queued, AttributionCounts(overflowed=Tally(4, 400)), {"none": 700}, 1)
    assert "1 records, 7 packets without their flow; by owner" in str(summary)


@pytest.mark.parametrize(("foreign", "is_named"), [(Tally(9, 900), True), (Tally(1, 90), False)])
def test_the_summary_names_the_packets_of_other_hosts_if_they_are_many(
    foreign: Tally, is_named: bool
) -> None:
    summary = Summary()
    counts = CaptureCounts(captured=Tally(10, 1000), not_local=foreign)
    summary.add_window(counts, AttributionCounts(), {"none": 100}, 1)
    assert (", 9 packets between other hosts; by owner" in str(summary)) == is_named


@pytest.mark.parametrize(("unowned", "share"), [(90, "90 %"), (11, "11 %"), (10, None), (0, None)])
def test_bytes_without_an_owner_are_explained_if_they_are_many(
    unowned: int, share: str | None
) -> None:
    summary = Summary(bytes_by_quality={"none": unowned, "exact": 100 - unowned})
    text = summary.describe_unowned()
    assert (text and text.split(" of the bytes")[0]) == share


def test_the_summary_of_a_run_without_traffic_has_no_shares() -> None:
    assert Summary().describe_unowned() is None
    assert str(Summary()).endswith("by owner: nothing to attribute")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2.5e15, "2.5 PB"), (1e19, "10000.0 PB")],
)
def test_bytes_are_formatted_in_decimal_units(size: float, text: str) -> None:
    assert format_bytes(size) == text
