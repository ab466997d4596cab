"""Fixtures for the tests of several sinks."""

import threading
from collections.abc import Sequence

import pytest

from hogpipe import JsonEncoder, Record


@pytest.fixture
def encoding_threads(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The threads in which JsonEncoder made lines."""
    threads: list[threading.Thread] = []
    lines = JsonEncoder.lines

    def count(encoder: JsonEncoder, records: Sequence[Record]) -> bytes:
        threads.append(threading.current_thread())
        return lines(encoder, records)

    monkeypatch.setattr(JsonEncoder, "lines", count)
    return threads
