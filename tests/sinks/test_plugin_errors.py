"""The description of a plugin's error names a line of the plugin."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hogpipe.sinks.encoding import JsonEncoder
from hogpipe.sinks.plugin_errors import describe_bug
from hogpipe.sinks.registry import load_module
from hogpipe.text import describe_error


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("def act():\n    return 1 / 0\n", "(mine.py, line 2)"),
        ("import json\n\ndef act():\n    json.loads('')\n", "(mine.py, line 4)"),
        ("def act():\n    inner()\n\ndef inner():\n    raise OSError\n", "(mine.py, line 5)"),
        (
            "def act():\n try: 1 / 0\n except Exception as e: raise OSError from e",
            "(mine.py, line 2)",
        ),
        ("from hogpipe import JsonEncoder\ndef act(): JsonEncoder(None)\n", "(mine.py, line 2)"),
    ],
)
def test_the_line_is_the_deepest_of_the_plugin(tmp_path: Path, text: str, place: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    module = load_module(tmp_path / "mine.py")
    with ThreadPoolExecutor(1) as thread:
        error = thread.submit(module.act).exception()
    assert error is not None
    assert describe_bug(error).endswith(place)


def test_an_error_of_hogpipe_itself_has_no_line() -> None:
    with ThreadPoolExecutor(1) as thread:
        error = thread.submit(JsonEncoder, 3).exception()  # type: ignore[arg-type]
    assert error is not None
    assert describe_bug(error) == describe_error(error)
