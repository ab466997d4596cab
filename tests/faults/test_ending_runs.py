"""Faults that end a run: with the right exit code, and each packet recorded or counted."""

import shutil
import signal
import time
from pathlib import Path

import pytest
from support import odd_plugin
from support.fault_site import Site, configure, site
from support.namespaces import Namespace
from support.running import imbalances, stats_of

ODD = '[[sinks]]\ntype = "odd"\n[plugins]\npaths = ["odd.py"]'


@pytest.fixture
def silent(veth: tuple[Namespace, Namespace]) -> tuple[Namespace, Namespace]:
    """Two joined namespaces without traffic of their own: no IPv6."""
    for where in veth:
        where.call(lambda: Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1"))
    return veth


def configure_odd(folder: Path) -> Path:
    shutil.copy(odd_plugin.__file__, folder / "odd.py")
    return configure(folder, more=ODD)


def wait_for_end(passing: Site) -> int:
    """Transmit until the run has ended, without a claim to what is captured; return its code."""
    sender = passing.open_socket()
    while passing.run.process.poll() is None:
        passing.send(1, sender)
        time.sleep(0.01)
    return passing.run.wait()


def test_a_capture_thread_that_is_ended_ends_the_run_with_an_error(
    silent: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    with site(silent, configure_odd(tmp_path), tmp_path / "records.jsonl") as passing:
        passing.deliver()
        (tmp_path / "end-capture").touch()
        assert wait_for_end(passing) == 1
        records = passing.read_records()
    assert "hogpipe: the capture broke off: SystemExit\n" in passing.run.errors
    captured = sum(one["capture"]["packets"] for one in stats_of(records))
    assert captured == passing.count_all() >= 20
    assert f" {captured} packets, " in passing.run.errors[-1]
    assert imbalances(records) == [0] * len(stats_of(records))


def test_a_stop_while_the_run_is_suspended_takes_effect_afterwards(
    silent: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    path = tmp_path / "records.jsonl"
    with site(silent, configure(tmp_path), path) as passing:
        passing.deliver()
        for number in (signal.SIGSTOP, signal.SIGTERM):
            passing.run.process.send_signal(number)
        passing.send(200)
        passing.run.process.send_signal(signal.SIGCONT)
        assert passing.run.wait() == 0
    passing.assert_whole()


def test_an_only_interface_that_is_deleted_for_good_does_not_end_the_run(
    silent: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    left, _right = silent
    with site(silent, configure(tmp_path), tmp_path / "records.jsonl") as passing:
        passing.deliver()
        passing.send(200)
        left.ip("link", "delete", "left")
        passing.run.wait_for("left: the interface is down, gone or no longer selected")
        passing.end()
