"""The first plugin of the guide does what the guide says."""

from pathlib import Path

import pytest
from example_total import TotalSettings, TotalSink
from support.sinks import stats, traffic

from hogpipe import SinkType
from hogpipe.sinks.registry import load_plugins
from hogpipe.testing import PROMISES, SinkCase, check_sink, make_sink

EXAMPLE = Path(__file__).parents[2] / "plugins" / "example_total.py"


async def test_the_example_writes_one_line_for_each_window(tmp_path: Path) -> None:
    registry = load_plugins([EXAMPLE], [])
    assert registry.failures == []
    file = tmp_path / "totals.txt"
    sink = make_sink(registry.sink_types["total"], {"path": file})
    await sink.open()
    await sink.write(
        [traffic(1, transmit=1, receive=2), traffic(2, transmit=3, receive=4), stats(3)]
    )
    await sink.write([stats(4, second=1)])
    await sink.close()
    assert file.read_text() == "2026-11-22T07:00:01.000Z 10\n2026-11-22T07:00:02.000Z 0\n"


@pytest.mark.parametrize("promise", PROMISES)
async def test_the_example_keeps_its_promises(tmp_path: Path, promise: str) -> None:
    file = tmp_path / "totals.txt"

    async def total_bytes() -> int:
        lines = file.read_text().splitlines() if file.exists() else []
        return sum(int(line.split()[1]) for line in lines)

    case = SinkCase(
        sink_type=SinkType("total", TotalSettings, TotalSink),
        keys={"path": file},
        total_bytes=total_bytes,
    )
    await check_sink(case, [promise])
