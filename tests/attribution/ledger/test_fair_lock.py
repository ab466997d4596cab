"""A waiting thread gets the lock before the thread that has just released it."""

import threading
import time
from contextlib import suppress

from hogpipe.attribution.ledger.fair_lock import FairLock


def test_a_waiting_thread_comes_before_the_one_that_released_the_lock() -> None:
    lock, order = FairLock(), []

    def wait() -> None:
        with lock:
            order.append("waiting")

    with lock:
        waiting = threading.Thread(target=wait)
        waiting.start()
        while not lock._next.locked():
            time.sleep(0.001)
    with lock:
        order.append("again")
    waiting.join()
    assert order == ["waiting", "again"]


def test_one_thread_holds_the_lock_at_a_time_also_after_an_error() -> None:
    lock, inside, most = FairLock(), [0], [0]

    def work() -> None:
        for _ in range(500):
            with suppress(ValueError), lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1
                int("none")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert most == [1]
