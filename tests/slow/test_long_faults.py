"""Faults that take long, or more than each host has: a suspended run, a limit of memory."""

import signal
import time
from pathlib import Path

import pytest
from support.fault_site import PORT, Recorded, configure, site
from support.memory_limit import memory_limit
from support.namespaces import Namespace
from support.running import imbalances, stats_of, wait_until

SECONDS = 60
RATE = 500  # packets a second
CAPTURES = {
    "off": (f'interfaces = ["left"]\nfilter = "udp port {PORT}"', 'ledger = "off"'),
    "ledger": (f'interfaces = ["left"]\nfilter = "udp port {PORT}"', ""),
    "ebpf": ('source = "ebpf"', ""),
}

PLUGIN = """
import time
from pathlib import Path
from hogpipe import SinkSettings, SinkType, hookimpl

class Odd:
    '''Takes memory, or never returns, while there is a file of this name in its folder.'''
    def __init__(self, settings):
        self.folder, self.taken = Path(__file__).parent, []
    async def open(self):
        pass
    async def write(self, records):
        if (self.folder / "take-memory").exists():
            self.taken.append(bytearray(b"x" * (64 << 20)))
        while (self.folder / "stall").exists():
            time.sleep(3600)
    async def close(self):
        pass

@hookimpl
def hogpipe_sinks():
    return [SinkType("odd", SinkSettings, Odd)]
"""
ODD = '[[sinks]]\ntype = "odd"\n[plugins]\npaths = ["odd.py"]'


@pytest.mark.parametrize("way", CAPTURES)
def test_a_run_that_is_suspended_for_a_minute_counts_each_packet(
    veth: tuple[Namespace, Namespace], tmp_path: Path, way: str
) -> None:
    capture, attribution = CAPTURES[way]
    config = configure(tmp_path, capture=capture, attribution=attribution)
    with site(veth, config, tmp_path / "records.jsonl") as passing:
        passing.send(1)
        wait_until(lambda: passing.count_owned() == 1)
        senders = [passing.open_socket() for _ in range(10)]
        passing.run.process.send_signal(signal.SIGSTOP)
        ends = time.monotonic() + SECONDS
        while time.monotonic() < ends:
            for sender in senders:
                passing.send(RATE // 100, sender)
            time.sleep(len(senders) / 100)
        passing.run.process.send_signal(signal.SIGCONT)
        for sender in senders:
            passing.send(20, sender)
        if way == "ebpf":  # it counts what others do on this host, too
            wait_until(lambda: passing.count_owned() == passing.sent)
            assert passing.run.end() == 0
        else:
            passing.settle()
            passing.deliver()
            passing.end()


def test_a_run_that_is_killed_for_want_of_memory_leaves_a_file_that_the_next_one_continues(
    veth: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    (tmp_path / "odd.py").write_text(PLUGIN)
    config, path = configure(tmp_path, more=ODD), tmp_path / "records.jsonl"
    with memory_limit(300) as limit, site(veth, config, path, preexec_fn=limit.enter) as passing:
        passing.deliver()
        (tmp_path / "take-memory").touch()
        assert passing.run.wait() == -signal.SIGKILL
        first = passing.read_records()
    assert passing.count_all() == passing.sent
    assert imbalances(first) == [0] * len(stats_of(first))
    (tmp_path / "take-memory").unlink()
    with site(veth, config, path) as passing:
        wait_until(lambda: len(passing.read_records()) > len(first))
        assert passing.run.end() == 0
    records = Recorded(path).read_records()
    second = records[len(first) :]
    assert records[: len(first)] == first
    assert {one["run"] for one in second} == {records[-1]["run"]} != {first[0]["run"]}
    assert [one["sequence"] for one in second] == [*range(1, len(second) + 1)]
    assert imbalances(second) == [0] * len(stats_of(second))


def test_a_sink_that_stalls_for_ever_keeps_no_other_from_its_records(
    veth: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    (tmp_path / "odd.py").write_text(PLUGIN)
    config, path = configure(tmp_path, more=ODD), tmp_path / "records.jsonl"
    with site(veth, config, path) as passing:
        passing.deliver()
        (tmp_path / "stall").touch()
        for _ in range(2):
            passing.run.wait_for("sink odd: ")  # blocks the event loop; fails, and is retried
            passing.deliver()
        assert passing.run.end() == 1
        passing.assert_whole()
    assert "TimeoutError: it blocked the event loop for 10 s" in "".join(passing.run.errors)
    (line,) = (line for line in passing.run.errors if "records not delivered" in line)
    assert line.startswith("hogpipe: ERROR: sink odd: ")
