"""The plugin that the documentation explains does what it says."""

import re
from pathlib import Path

import msgspec
from support.sinks import stats, traffic

from hogpipe.sinks.registry import load_plugins

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "plugins" / "example_total.py"


async def test_the_example_keeps_one_line_for_each_window(tmp_path: Path) -> None:
    registry = load_plugins([EXAMPLE], [])
    assert registry.failures == []
    sink_type = registry.sink_types["total"]
    file = tmp_path / "totals.txt"
    table = {"type": "total", "path": str(file)}
    settings = msgspec.convert(
        table, sink_type.settings, dec_hook=lambda wanted, value: wanted(value)
    )
    sink = sink_type.create(settings)
    await sink.open()
    await sink.write([traffic(1, sent=1, received=2), traffic(2, sent=3, received=4), stats(3)])
    await sink.write([stats(4, second=1)])
    await sink.close()
    assert file.read_text() == "2026-11-22T07:00:01.000Z 10\n2026-11-22T07:00:02.000Z 0\n"


def test_the_documentation_shows_the_whole_example_and_nothing_else() -> None:
    text = (ROOT / "docs" / "plugins.md").read_text()
    shown = "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    assert _without_blank_lines(shown) == _without_blank_lines(EXAMPLE.read_text())


def _without_blank_lines(code: str) -> list[str]:
    return [line for line in code.splitlines() if line]
