"""The setting `stats` of a sink: which stats it gets, and that their sums stay whole."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.configuration import load_text, problems_of
from support.sinks import ScriptedSink, delivering, settings, stats, traffic

from hogpipe.delivery.coalescing import QueuedWindow
from hogpipe.delivery.stats_pace import StatsPace
from hogpipe.records.schema import Record


def _windows(sizes: Sequence[int]) -> list[list[Record]]:
    """Return consecutive windows of a second with so many traffic records each."""
    windows: list[list[Record]] = []
    sequence = 0
    for second, size in enumerate(sizes):
        window: list[Record] = []
        for pid in range(size):
            sequence += 1
            window.append(traffic(sequence, pid, second=second))
        sequence += 1
        last = stats(sequence, packets=3 * size, second=second)
        last["aggregation"]["records"] = size
        windows.append([*window, last])
    return windows


def _paced(windows: Sequence[Sequence[Record]], pace: bool | float) -> list[Record]:
    """Return what a sink with this pace gets, at the end of the run too."""
    paced = StatsPace(pace)
    records = [one for window in windows for one in paced.apply(QueuedWindow(window)).records()]
    return [*records, *paced.flush()]


def _ends(records: Sequence[Record]) -> list[int]:
    """Return the second at which the window of each stats record ends."""
    start = traffic()["window"]["start_unix"]
    found = [one["window"]["end_unix"] - start for one in records if one["type"] == "stats"]
    return [round(end) for end in found]


def test_true_passes_windows_on_as_they_are() -> None:
    (window,) = map(QueuedWindow, _windows([3]))
    assert StatsPace(True).apply(window) is window


def test_false_leaves_all_stats_out() -> None:
    records = _paced(_windows([1, 0, 2]), pace=False)
    assert [one["type"] for one in records] == ["traffic"] * 3


@pytest.mark.parametrize(
    ("pace", "ends"),
    [
        (1.0, [1, 2, 3, 4, 5, 6, 7]),
        (0.2, [1, 2, 3, 4, 5, 6, 7]),
        (2, [2, 4, 6, 7]),  # the last one is of the end of the run
        (5.0, [5, 7]),
        (3600.0, [7]),
    ],
)
def test_stats_are_in_the_windows_that_pass_a_multiple(pace: float, ends: list[int]) -> None:
    assert _ends(_paced(_windows([1] * 7), pace)) == ends


def test_a_window_of_several_seconds_passes_a_multiple_inside() -> None:
    late = stats(1)
    late["window"] = {**late["window"], "end_unix": late["window"]["end_unix"] + 10.5}
    assert len(StatsPace(7.0).apply(QueuedWindow([late])).records()) == 1


def test_the_windows_of_a_run_are_not_changed() -> None:
    windows = _windows([1, 2])
    _paced(windows, 60.0)
    assert windows == _windows([1, 2])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 20))
def test_sums_are_whole_at_each_stats_record_and_missing_records_show(
    sizes: list[int], pace: int
) -> None:
    windows = _windows(sizes)
    records = _paced(windows, float(pace))
    everything = [one for window in windows for one in window]
    assert [one for one in records if one["type"] == "traffic"] == [
        one for one in everything if one["type"] == "traffic"
    ]
    packets = seen = 0
    for record in records:
        if record["type"] == "traffic":
            seen += 1
            continue
        assert record["aggregation"]["records"] == seen
        seen = 0
        packets += record["capture"]["packets"]
        before = [
            one["capture"]["packets"]
            for one in everything
            if one["type"] == "stats" and one["sequence"] <= record["sequence"]
        ]
        assert packets == sum(before)
        assert record["attribution"]["pending"]["flows"] == record["sequence"]  # of the newest
    assert packets == 3 * sum(sizes)


async def test_a_sink_gets_the_rest_of_the_stats_at_the_end_of_a_run() -> None:
    sink = ScriptedSink()
    async with delivering(lambda _settings: sink, settings(stats=3600.0)) as dispatcher:
        for window in _windows([2, 0, 1]):
            await dispatcher.publish(window)
    assert [one["type"] for one in sink.records] == ["traffic"] * 3 + ["stats"]
    assert len(sink.windows) == 3  # an idle window is no call of the sink
    (info,) = dispatcher.health()
    assert (info["delivered"], info["dropped"], info["queued"]) == (4, 0, 0)


async def test_other_sinks_of_a_run_get_all_stats() -> None:
    every, none = ScriptedSink(), ScriptedSink()
    sinks = {"every": every, "none": none}
    async with delivering(lambda _settings: every, settings()) as dispatcher:
        for window in _windows([1, 1]):
            await dispatcher.publish(window)
    async with delivering(lambda _settings: none, settings(stats=False)) as dispatcher:
        for window in _windows([1, 0, 1]):
            await dispatcher.publish(window)
    assert {name: len(sink.records) for name, sink in sinks.items()} == {"every": 4, "none": 2}


@pytest.mark.parametrize(
    ("value", "pace"),
    [("true", True), ("false", False), ("60", 60.0), ('"1m"', 60.0), ('"500ms"', 0.5)],
)
def test_the_setting_is_a_switch_or_a_time(tmp_path: Path, value: str, pace: bool | float) -> None:
    loaded = load_text(tmp_path, f'[[sinks]]\ntype = "stdout"\nstats = {value}')
    assert loaded.sinks[0].settings.stats == pace
    assert isinstance(loaded.sinks[0].settings.stats, type(pace))


def test_a_history_takes_all_stats(tmp_path: Path) -> None:
    table = '[[sinks]]\ntype = "sqlite"\npath = "history.db"\nstats = "60s"'
    assert problems_of(tmp_path, table) == [
        "sinks[0].stats: must be true: a history keeps the stats of each window"
    ]


@pytest.mark.parametrize("value", ["0", "-1", '"now"', "[]"])
def test_other_values_are_refused(tmp_path: Path, value: str) -> None:
    (problem,) = problems_of(tmp_path, f'[[sinks]]\ntype = "stdout"\nstats = {value}')
    assert problem.startswith("sinks[0].stats: ")
