"""Forks, as the kernel reports them."""

import os
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.linux.fork_messages import Fork, build_request, parse_fork
from hogpipe.linux.process_forks import ForkReports

FORK, EXIT = 1, 0x80000000


def make_report(what: int = FORK, child_thread: int = 12, index: int = 1) -> bytes:
    event = struct.pack("=IIQIIII", what, 0, 5000, 10, 11, child_thread, 12)
    message = struct.pack("=IIIIHH", index, 1, 0, 0, len(event), 0) + event
    return struct.pack("=IHHII", 16 + len(message), 3, 0, 0, 0) + message


def test_a_fork_has_the_processes_of_both() -> None:
    assert parse_fork(make_report(), suspended_ns=70) == Fork(11, 12, 5070)


def test_other_events_new_threads_and_other_connectors_are_skipped() -> None:
    for other in (make_report(EXIT), make_report(child_thread=13), make_report(index=9)):
        assert parse_fork(other) is None


@given(st.binary(max_size=100), st.integers(0, 76))
def test_any_bytes_parse(noise: bytes, size: int) -> None:
    parse_fork(noise)
    parse_fork(make_report()[:size])
    assert len(build_request(listen=True)) == len(build_request(listen=False))


def test_each_fork_is_reported_however_short_the_child_lives(root: None) -> None:
    del root
    found: list[Fork] = []
    reports = ForkReports(found.append)
    try:
        children = []
        for _ in range(60):
            child = os.fork()
            if child == 0:
                os._exit(0)
            children.append(child)
            os.waitpid(child, 0)
        reports.drain()
    finally:
        reports.close()
        reports.close()
    ours = [one.child_pid for one in found if one.parent_pid == os.getpid()]
    assert ours == children
    assert reports.lost == 0


def test_a_thread_is_no_fork(root: None) -> None:
    del root
    found: list[Fork] = []
    reports = ForkReports(found.append)
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    reports.drain()
    reports.close()
    assert [one for one in found if one.parent_pid == os.getpid()] == []


def test_without_the_right_to_it_opening_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError

    monkeypatch.setattr("hogpipe.linux.process_forks._open_here", refuse)
    with pytest.raises(PermissionError):
        ForkReports(print)
