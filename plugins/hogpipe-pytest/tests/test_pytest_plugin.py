"""What the plugin makes of tests that move something, in sessions of their own."""

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import hogpipe_pytest
import pytest
from hogpipe_pytest.limits import Limits, add_hosts, find_problem, make_limits
from hogpipe_pytest.traffic import TestTraffic

import hogpipe
from hogpipe import Losses, Peer, Totals, Traffic

Run = Callable[..., str]

TESTS = """
import os, socket, subprocess, sys
import pytest

ADDRESS = "127.0.0.1", 9

def send(size=100):
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.sendto(b"x" * size, ADDRESS)

@pytest.fixture
def sent_before():
    send()

@pytest.mark.no_network
def test_nothing_after_a_fixture(sent_before): pass

@pytest.mark.no_network
def test_something(): send()

@pytest.mark.no_network
def test_something_by_a_child():
    if os.fork() == 0:
        send()
        os._exit(0)
    os.wait()

@pytest.mark.no_network(loopback=True)
def test_loopback_is_left_out(): send()

@pytest.mark.network(max_bytes=128)
def test_few_bytes(): send(100)

@pytest.mark.network(max_bytes=127)
def test_many_bytes(): send(100)

@pytest.mark.network(hosts=["127.0.0.0/8", "localhost"])
def test_to_this_host(): send()

@pytest.mark.network(hosts=["10.0.0.0/8"])
def test_to_another_host(): send()

@pytest.mark.no_network
def test_its_own_failure_comes_first():
    send()
    assert False, "its own"

def test_the_fixture(hogpipe_traffic, sent_before):
    hogpipe_traffic.assert_no_network()
    send(72)
    assert hogpipe_traffic.read().totals.transmit_payload_bytes == 72
    hogpipe_traffic.assert_at_most(100)
    hogpipe_traffic.assert_only_to("127.0.0.1")
    hogpipe_traffic.restart()
    hogpipe_traffic.assert_no_network()

def test_the_fixture_fails(hogpipe_traffic):
    send()
    hogpipe_traffic.assert_only_to("10.0.0.1", "localhost.")
    hogpipe_traffic.assert_no_network()
"""
PASSED = {
    "test_nothing_after_a_fixture", "test_loopback_is_left_out", "test_few_bytes",
    "test_to_this_host", "test_the_fixture",
}  # fmt: skip


@pytest.fixture(scope="module")
def output(root: None, run: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    del root
    return run(tmp_path_factory.mktemp("session"), TESTS)


def test_tests_within_their_limits_pass_and_others_fail(output: str) -> None:
    names = {line.partition("::")[2].split()[0] for line in output.splitlines() if "PASSED" in line}
    assert names == PASSED, output


def test_a_failure_lists_the_peers(output: str) -> None:
    assert "network traffic, where none is allowed:\n  udp 127.0.0.1:9  transmit 128 B" in output
    assert "network traffic of 128 bytes, where 127 are allowed:" in output
    assert "network traffic with hosts that are not allowed:" in output
    assert "AssertionError: its own" in output


@pytest.mark.parametrize(("choice", "word"), [("skip", "SKIPPED"), ("error", "FAILED")])
def test_without_privileges_a_test_is_skipped_or_fails(
    root: None, run: Run, choice: str, word: str
) -> None:
    del root
    text = "import pytest\n@pytest.mark.no_network\ndef test_it(): pass\ndef test_other(): pass\n"
    nobody = ("setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        found = run(Path(folder), text, "-rA", "-o", f"hogpipe_unavailable={choice}", prefix=nobody)
    assert f"test_it.py::test_it {word}" in found, found
    assert "test_it.py::test_other PASSED" in found
    assert "the network cannot be measured: eBPF: " in found


@pytest.mark.parametrize(
    ("marker", "args", "kwargs", "text"),
    [
        ("network", (), {}, "needs max_bytes or hosts"),
        ("network", (100,), {}, "takes only dns, hosts, loopback, max_bytes, by name"),
        ("no_network", (), {"hosts": []}, "takes only dns, loopback, by name"),
        ("network", (), {"hosts": "10.0.0.1"}, "hosts is a list"),
        ("network", (), {"max_bytes": -1}, "max_bytes is a number of bytes"),
        ("no_network", (), {"dns": 1}, "loopback and dns are true or false"),
    ],
)
def test_wrong_arguments_of_a_marker_are_refused(
    marker: str, args: tuple[object, ...], kwargs: dict[str, object], text: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        make_limits(marker, args, kwargs)


def test_a_wrong_marker_is_an_error_of_usage(run: Run, tmp_path: Path) -> None:
    found = run(tmp_path, "import pytest\n@pytest.mark.network\ndef test_it(): pass\n")
    assert "test_it.py::test_it: network: needs max_bytes or hosts" in found


class EndlessWatch:
    """A measurement of nothing, whose last reading fails."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        raise hogpipe.CaptureError("broken")


def test_a_fork_of_the_session_measures_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hogpipe, "measure", lambda **_options: EndlessWatch())
    config = SimpleNamespace(stash=pytest.Stash(), getini=lambda _name: "auto")
    first = hogpipe_pytest._open(config)
    assert hogpipe_pytest._open(config) is first
    pid = os.getpid()
    monkeypatch.setattr(hogpipe_pytest.os, "getpid", lambda: -pid)
    assert hogpipe_pytest._open(config) is not first


def test_a_last_reading_that_fails_is_no_error_of_the_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hogpipe, "measure", lambda **_options: EndlessWatch())
    config = SimpleNamespace(stash=pytest.Stash(), getini=lambda _name: "auto")
    hogpipe_pytest._open(config)
    hogpipe_pytest.pytest_unconfigure(config)


def test_limits_that_a_measurement_with_gaps_keeps_come_with_a_warning() -> None:
    class Reading:
        traffic = Traffic(source="pcap", unattributed_bytes=1000)

        def read(self) -> Traffic:
            return self.traffic

    watch = Reading()
    with pytest.warns(pytest.PytestWarning, match="1,000 B of this host have no known process"):
        TestTraffic(watch).assert_no_network()
    with pytest.warns(pytest.PytestWarning, match="may have moved more"):
        TestTraffic(watch).assert_only_to("10.0.0.1")
    losses = Losses(packets=3, forks=1)
    watch.traffic = Traffic(source="ebpf", losses=losses, follows_children=False)
    with pytest.warns(pytest.PytestWarning, match="lost 3 packets.*1 reports.*no forks"):
        TestTraffic(watch).assert_at_most(10)
    watch.traffic = Traffic(source="ebpf")
    with warnings.catch_warnings(action="error"):
        TestTraffic(watch).assert_no_network()


def test_dns_is_left_out_where_asked() -> None:
    peer = Peer("10.0.0.53", "udp", 53, None, Totals(100, 1))
    traffic = Traffic(source="ebpf", totals=peer.totals, peers=(peer,))
    assert find_problem(traffic, make_limits("no_network", (), {})) is not None
    assert find_problem(traffic, make_limits("no_network", (), {"dns": True})) is None


def test_names_are_resolved_and_peers_that_are_not_known_are_not_allowed() -> None:
    limits = add_hosts(Limits(), ["localhost", "10.0.0.1"]).resolve()
    assert limits.networks is not None
    assert {"10.0.0.1/32", "127.0.0.1/32"} <= {str(one) for one in limits.networks}
    unknown = Traffic(source="ebpf", peers=(Peer("", "tcp", None, None, Totals(1)),))
    assert find_problem(unknown, limits) is not None
