"""New processes are read while they live, and known after they have exited."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.bpf import control_group, require_bpf
from support.running import wait_until
from support.shortage import no_descriptors

from hogpipe.enrichment.process_watch import ProcessWatch, read_new_processes
from hogpipe.enrichment.processes import ProcessReader
from hogpipe.linux.bpf.loader import AttachedPrograms
from hogpipe.linux.bpf.process_events import ProcessEvent
from hogpipe.linux.bpf.programs import attach_ledger_programs, attach_traffic_programs
from hogpipe.linux.clocks import boot_clock
from hogpipe.linux.process_starts import ProcessStarts
from hogpipe.linux.procfs import ProcessIdentity, Procfs

PROC = Path("/proc")
# Uses a socket once it may begin, and ends with its input.
CLIENT = "import socket; input(); socket.socket(); print('made', flush=True); input()"


@pytest.fixture(params=[attach_ledger_programs, attach_traffic_programs])
def programs(request: pytest.FixtureRequest) -> Iterator[AttachedPrograms]:
    require_bpf()
    attach: Callable[[], AttachedPrograms] = request.param
    attached = attach()
    try:
        yield attached
    finally:
        attached.close()


def test_a_process_that_used_a_socket_is_read_without_a_lookup(programs: AttachedPrograms) -> None:
    reader, starts = ProcessReader(Procfs(PROC)), ProcessStarts(PROC)
    watch = ProcessWatch(programs, reader, starts)
    try:
        with control_group() as folder:
            with subprocess.Popen(
                [sys.executable, "-c", CLIENT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as client:
                (folder / "cgroup.procs").write_text(str(client.pid))
                stat = Procfs(PROC).read_stat(client.pid)
                assert stat is not None
                identity = ProcessIdentity(client.pid, stat.start)
                assert client.stdin is not None
                client.stdin.write("\n")
                client.stdin.flush()
                wait_until(lambda: reader.cached(identity) is not None)
                used_ns = boot_clock()
                client.communicate("\n")
            found = starts.find(client.pid, used_ns, 0.0)
            assert found is not None
            assert found.start == stat.start
            process = reader.find(identity, 0.0)
    finally:
        watch.close()
        watch.close()
    assert process is not None
    assert process.executable == str(Path("/proc/self/exe").readlink())
    assert (process.parent_pid, process.user_id) == (os.getpid(), os.getuid())
    assert process.cgroup is not None
    assert process.cgroup.endswith(f"/{folder.name}")


def test_without_descriptors_a_process_is_left_to_the_lookups() -> None:
    reader, starts = ProcessReader(Procfs(PROC)), ProcessStarts(PROC)
    event = ProcessEvent(boot_clock(), os.getpid())
    with no_descriptors():
        read_new_processes([event], reader, starts, 0.0)
    assert starts.find(os.getpid(), boot_clock(), 5.0) is not None


def test_an_event_of_a_process_that_has_exited_adds_nothing() -> None:
    with subprocess.Popen(["true"]) as child:
        pass
    reader, starts = ProcessReader(Procfs(PROC)), ProcessStarts(PROC)
    read_new_processes([ProcessEvent(boot_clock(), child.pid)], reader, starts, 0.0)
    assert starts.find(child.pid, boot_clock(), 5.0) is None
