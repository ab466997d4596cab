"""The stores of http_store.py, in this process, and sinks that send to them."""

import importlib.util
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hogpipe_http import hogpipe_sinks

from hogpipe import Sink
from hogpipe.testing import make_sink
from hogpipe.testing import opened as opened_sink

(SINK_TYPE,) = hogpipe_sinks()


@pytest.fixture(scope="session")
def http_store() -> ModuleType:
    """The module http_store.py: tests are not imported as a package."""
    spec = importlib.util.spec_from_file_location(
        "http_store", Path(__file__).parent / "http_store.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["http_store"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
async def serve(http_store: ModuleType, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Start servers for a preset; they end with the test."""
    async with AsyncExitStack() as stack:

        async def start(preset: str, **options: Any) -> Any:
            storage = http_store.Storage(tmp_path / f"{preset}.store")
            stack.callback(storage.close)
            store = http_store.STORES[preset](storage)
            stack.callback(store.close)
            server = http_store.Server(store)
            await server.start(**options)
            stack.push_async_callback(server.stop)
            return server

        yield start


@pytest.fixture
async def opened() -> AsyncIterator[Callable[..., Awaitable[Sink]]]:
    """Open sinks with the keys of their `[[sinks]]` tables; they are closed when the test ends."""
    async with AsyncExitStack() as stack:
        yield lambda **keys: stack.enter_async_context(opened_sink(make_sink(SINK_TYPE, keys)))
