"""Threads that outlive what is raised in them.

In: calls (`SerialExecutor`), or a loop (`keep_running`). Out: what the calls return or raise.

A pool of the standard library whose thread ends between two calls never runs a further one: the
calls wait for ever, and nothing says so. A thread whose loop raises ends the same way. An
exception may reach a thread anywhere: memory is short, or code of a plugin raises it there
(PyThreadState_SetAsyncExc). So both go on after any exception, SystemExit included: a call that was
under way fails with InterruptedError, as one that may be made again, and a loop is started again.

The thread of an executor is never replaced: it may have rights that another one would lack.

Known limit: an exception that arrives while another one is being handled may end the thread. Each
further call of an executor fails then.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import ParamSpec, TypeVar

from hogpipe.text import describe_error

log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")

_RETRY_SECONDS = 0.1


class SerialExecutor(Executor):
    """Runs calls one after the other, in the order of `submit`, in one thread.

    `shutdown` lets the thread end after the calls that were submitted. The end of the process does
    not wait for it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._calls: deque[_Call] = deque()
        self._current: _Call | None = None
        """The call that the thread runs."""
        self._is_shut_down = False
        self._thread: threading.Thread | None = None

    def submit(
        self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]:
        """Return the future of a call. Raises RuntimeError where there is no thread."""
        future: Future[_T] = Future()
        with self._changed:
            if self._is_shut_down:
                raise RuntimeError(f"the thread {self._name} is shut down")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            elif not self._thread.is_alive():
                raise RuntimeError(f"the thread {self._name} has ended")
            self._calls.append(_Call(future, partial(function, *args, **kwargs)))
            self._changed.notify()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no further calls; see Executor."""
        with self._changed:
            self._is_shut_down = True
            if cancel_futures:
                for call in self._calls:
                    call.future.cancel()
            self._changed.notify()
        if wait and self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        is_done = False
        while not is_done:
            try:
                is_done = self._run_next()
            except BaseException as error:  # noqa: BLE001 - whatever it is, the next call is run
                if self._current is not None:
                    self._current.fail(error)
                log.warning("the thread %s goes on after %s", self._name, describe_error(error))

    def _run_next(self) -> bool:
        """Wait for a call and run it; return True if there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._calls or self._is_shut_down)
            if not self._calls:
                return True
            # In this order a call is in one of both places, whenever an exception arrives.
            self._current = self._calls[0]
            self._calls.popleft()
        self._current.run()
        self._current = None
        return False


class _Call:
    """A call, and the future that gets its result."""

    def __init__(self, future: "Future[_T]", function: Callable[[], _T]) -> None:
        self.future: Future[_T] = future
        self._function = function

    def run(self) -> None:
        """Run the function, unless the future is cancelled or has failed already."""
        if self.future.done() or not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self._function()
        except Exception as error:  # noqa: BLE001 - it is raised where the result is awaited
            self.future.set_exception(error)
        except BaseException as error:  # noqa: BLE001 - in an event loop it would end the process
            self.fail(error)
        else:
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Fail with InterruptedError because of `error`, unless there is a result."""
        if not self.future.done():
            failure = InterruptedError(f"the call was ended by {describe_error(error)}")
            failure.__cause__ = error
            self.future.set_exception(failure)


def keep_running(run: Callable[[], None]) -> None:
    """Call `run` until it returns; it is called again if it raises.

    Of errors of one kind in a row the first one is logged.
    """
    last: type[BaseException] | None = None
    while True:
        try:
            run()
        except BaseException as error:
            if type(error) is not last:
                last = type(error)
                name, text = threading.current_thread().name, describe_error(error)
                log.warning("the thread %s failed and is started again: %s", name, text)
                log.debug("where the thread %s failed", name, exc_info=error)
            time.sleep(_RETRY_SECONDS)
        else:
            return
