"""A lookup that does not end is reported once, and so is its end."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.sinks import until
from support.stage import ScriptedResolver
from support.traffic import make_flow

from hogpipe.attribution.stage import lookup
from hogpipe.attribution.stage.lookup import LookupRunner

FLOW = make_flow()


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    return lambda: [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]


async def test_a_lookup_that_blocks_is_reported_with_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, warnings: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(lookup, "_LONG_SECONDS", 0.0)
    resolver = ScriptedResolver()
    resolver.gate.clear()
    with ThreadPoolExecutor(1) as executor:
        running = asyncio.ensure_future(LookupRunner(resolver, executor).resolve({FLOW: ()}))
        try:
            await until(warnings)
            (line,) = warnings()
            assert line.endswith("it waits for /proc/1/stat")
        finally:
            resolver.gate.set()
        await running
    assert [one.partition(",")[0] for one in warnings()[1:]] == ["the lookup of owners has ended"]


async def test_a_lookup_that_ends_is_not_reported(warnings: Callable[[], list[str]]) -> None:
    with ThreadPoolExecutor(1) as executor:
        await LookupRunner(ScriptedResolver(), executor).resolve({FLOW: ()})
    assert warnings() == []
