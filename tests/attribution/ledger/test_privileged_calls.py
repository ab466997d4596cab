"""Calls run with the rights of whoever opened the ledger, whatever the calling thread may do."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.namespaces import require

from hogpipe.attribution.ledger.privileged_calls import PrivilegedCalls
from hogpipe.linux.capabilities import Capability, read_permitted
from hogpipe.linux.credentials import limit_capabilities

NEEDED = Capability.CAP_DAC_READ_SEARCH


@pytest.fixture
def powerless() -> Iterator[ThreadPoolExecutor]:
    """A thread without capabilities."""
    require()
    with ThreadPoolExecutor(1, "powerless") as thread:
        thread.submit(limit_capabilities, ()).result()
        yield thread


def describe() -> tuple[str, set[int]]:
    return threading.current_thread().name, read_permitted()


def test_a_thread_without_the_right_has_another_one_run_the_function(
    powerless: ThreadPoolExecutor,
) -> None:
    calls = PrivilegedCalls(NEEDED, lambda: limit_capabilities({NEEDED}))
    assert calls.call(describe)[0] == threading.current_thread().name
    assert powerless.submit(calls.call, describe).result() == ("ledger-calls", {NEEDED})
    with pytest.raises(ZeroDivisionError):
        powerless.submit(calls.call, lambda: 1 // 0).result()
    calls.close()
    calls.close()
    assert powerless.submit(calls.call, describe).result()[1] == set()


def test_if_the_opener_had_no_right_every_thread_runs_functions(
    powerless: ThreadPoolExecutor,
) -> None:
    calls = powerless.submit(PrivilegedCalls, NEEDED, lambda: None).result()
    assert powerless.submit(calls.call, describe).result()[1] == set()
    assert "ledger-calls" not in [thread.name for thread in threading.enumerate()]
    calls.close()
