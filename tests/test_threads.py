"""Threads that go on after whatever is raised in them."""

import logging
import threading
import time
from collections.abc import Iterator

import pytest
from support.threads import raise_in

from hogpipe import threads
from hogpipe.threads import SerialExecutor, keep_running

PATIENCE = 30.0


@pytest.fixture
def executor() -> Iterator[SerialExecutor]:
    made = SerialExecutor("work")
    yield made
    made.shutdown()


def test_calls_run_one_after_the_other_in_one_thread(executor: SerialExecutor) -> None:
    order: list[int] = []
    futures = [executor.submit(order.append, number) for number in range(50)]
    names = {executor.submit(lambda: threading.current_thread().name).result(PATIENCE)}
    assert [future.result(PATIENCE) for future in futures] == [None] * 50
    assert (order, names) == (list(range(50)), {"work"})


@pytest.mark.parametrize("error", [OSError("odd"), MemoryError()], ids=repr)
def test_the_error_of_a_call_is_raised_where_it_is_awaited(
    executor: SerialExecutor, error: Exception
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        executor.submit(fail).result(PATIENCE)
    assert executor.submit(lambda: 1).result(PATIENCE) == 1


def test_a_call_that_exits_fails_and_the_next_one_runs(executor: SerialExecutor) -> None:
    def leave() -> None:
        raise SystemExit(0)

    with pytest.raises(InterruptedError, match="the call was ended by SystemExit"):
        executor.submit(leave).result(PATIENCE)
    assert executor.submit(lambda: 1).result(PATIENCE) == 1


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, MemoryError])
def test_no_call_is_lost_when_the_idle_thread_is_ended(
    executor: SerialExecutor, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    ident = executor.submit(threading.get_ident).result(PATIENCE)
    raise_in(ident, kind)
    results = [executor.submit(lambda number=number: number) for number in range(3)]
    assert [one.result(PATIENCE) for one in results] == [0, 1, 2]
    assert f"the thread work goes on after {kind.__name__}" in caplog.text


def test_a_call_that_is_ended_in_the_middle_fails(executor: SerialExecutor) -> None:
    begun = threading.Event()

    def work() -> None:
        begun.set()
        while True:
            time.sleep(0.001)

    future = executor.submit(work)
    assert begun.wait(PATIENCE)
    (thread,) = (one for one in threading.enumerate() if one.name == "work")
    assert thread.ident is not None
    raise_in(thread.ident, SystemExit)
    with pytest.raises(InterruptedError, match="SystemExit"):
        future.result(PATIENCE)
    assert executor.submit(lambda: 1).result(PATIENCE) == 1


def test_calls_that_were_submitted_run_before_the_thread_ends() -> None:
    executor, released = SerialExecutor("work"), threading.Event()
    first = executor.submit(released.wait, PATIENCE)
    second, third = executor.submit(lambda: 2), executor.submit(lambda: 3)
    assert second.cancel()
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(lambda: 4)
    released.set()
    assert first.result(PATIENCE)
    assert third.result(PATIENCE) == 3
    executor.shutdown()
    assert "work" not in {one.name for one in threading.enumerate()}


def test_shutdown_may_cancel_what_has_not_begun() -> None:
    executor, released = SerialExecutor("work"), threading.Event()
    executor.submit(released.wait, PATIENCE)
    second = executor.submit(lambda: 2)
    executor.shutdown(wait=False, cancel_futures=True)
    released.set()
    executor.shutdown()
    assert second.cancelled()


def test_a_loop_is_started_again_until_it_returns_and_errors_of_a_kind_are_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(threads, "_RETRY_SECONDS", 0)
    errors: list[BaseException] = [OSError("odd"), OSError("x"), SystemExit(), OSError("odd")]

    def run() -> None:
        if errors:
            raise errors.pop(0)

    with caplog.at_level(logging.WARNING):
        keep_running(run)
    assert [line.rpartition("again: ")[2] for line in caplog.messages] == [
        "OSError: odd",
        "SystemExit",
        "OSError: odd",
    ]
