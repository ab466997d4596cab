"""The source as the pipeline drives it, on the running kernel."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.bpf import require_bpf

from hogpipe.aggregation.windows import ClockWindows
from hogpipe.capture.ebpf.ebpf_source import EbpfSource
from hogpipe.capture.ebpf.flow_sockets import FlowSockets
from hogpipe.capture.ebpf.row_aggregation import Turn
from hogpipe.errors import CaptureError
from hogpipe.model import FlowBatch


@pytest.fixture
def source() -> Iterator[EbpfSource]:
    require_bpf()
    made = EbpfSource(
        Path("/proc"),
        FlowSockets(),
        start_windows=partial(ClockWindows, 1_000_000_000),
        group_by=[],
        max_flows=1024,
    )
    made.open()
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("failure", [ValueError("a bug"), OSError(5, "Input/output error")])
def test_whatever_goes_wrong_the_window_is_closed_and_the_error_is_told(
    source: EbpfSource, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(_turn: Turn, *, window_ends: bool, last: bool) -> Iterator[FlowBatch]:
        assert window_ends
        assert last
        raise failure

    monkeypatch.setattr(source._sorter, "sort", fail)
    source.stop()
    offered: list[FlowBatch] = []
    expected = CaptureError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected):
        source.run(offered.append)
    assert [batch.is_last for batch in offered] == [True]
    assert offered[0].closed_window is not None
