"""The source as the pipeline drives it, on the running kernel."""

import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from support.bpf import require_bpf

from hogpipe.aggregation.windows import ClockWindows
from hogpipe.capture.ebpf.ebpf_source import EbpfSource
from hogpipe.capture.ebpf.flow_sockets import FlowSockets
from hogpipe.capture.ebpf.row_aggregation import EpochRows, RowAggregator
from hogpipe.capture.ebpf.row_names import UNKNOWN_TIMES, EpochTimes
from hogpipe.enrichment.processes import ProcessReader
from hogpipe.errors import CaptureError
from hogpipe.flows.flow_batch import FlowBatch
from hogpipe.flows.flow_table import FlowTable
from hogpipe.linux.bpf.health_rows import HealthRows
from hogpipe.linux.procfs import Procfs
from hogpipe.model import BUILT_IN_NETWORKS, ServicePorts, Span

HOUR_NS = 3_600_000_000_000


@pytest.fixture
def source() -> Iterator[EbpfSource]:
    require_bpf()
    made = EbpfSource(
        Path("/proc"),
        FlowSockets(),
        FlowTable(1024, 1024),
        time.monotonic,
        ProcessReader(Procfs(Path("/proc"))),
        start_windows=partial(ClockWindows, 1_000_000_000),
        group_by=[],
        service_ports=ServicePorts,
        networks=BUILT_IN_NETWORKS,
        max_flows=1024,
    )
    made.open()
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("failure", [ValueError("a bug"), OSError(5, "Input/output error")])
def test_any_failure_closes_the_window_and_is_raised(
    source: EbpfSource, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(
        _aggregator: RowAggregator,
        _rows: EpochRows,
        _health: HealthRows,
        *,
        window_ends: bool,
        last: bool,
        times: EpochTimes,
    ) -> Iterator[FlowBatch]:
        assert times == UNKNOWN_TIMES
        assert window_ends
        assert last
        raise failure

    monkeypatch.setattr(RowAggregator, "aggregate", fail)
    source.stop()
    offered: list[FlowBatch] = []
    expected = CaptureError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected):
        source.run(offered.append)
    assert [batch.is_last for batch in offered] == [True]
    assert offered[0].closed_window is not None


def test_a_regrouping_ends_the_window_at_once_and_says_where_it_begins(
    source: EbpfSource,
) -> None:
    windows: list[Span] = []
    regrouped: list[int] = []

    def offer(batch: FlowBatch) -> None:
        if batch.regroups:
            regrouped.append(len(windows))
        if batch.closed_window is not None:
            windows.append(batch.closed_window)
        if len(windows) == 1:
            source.regroup(HOUR_NS, ["protocol"], BUILT_IN_NETWORKS)
        elif len(windows) == 2:
            source.stop()

    source.regroup(HOUR_NS, [], BUILT_IN_NETWORKS)
    source.run(offer)
    assert regrouped == [0, 1]
    assert len(windows) == 3
    for former, later in pairwise(windows):
        assert former.end_ns == later.start_ns


def test_a_source_that_is_stopped_before_it_runs_offers_the_last_window(
    source: EbpfSource,
) -> None:
    source.stop()
    source.stop()
    offered: list[FlowBatch] = []
    source.run(offered.append)
    assert [batch.is_last for batch in offered] == [False] * (len(offered) - 1) + [True]
    assert offered[-1].closed_window is not None
    source.stop()
    source.close()
