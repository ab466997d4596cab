"""The processes that the events of a block name, identified by pid and start."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.bpf import require_bpf
from support.ledger import encode_event, make_event

from hogpipe.attribution.ledger.event_owners import EventOwners
from hogpipe.attribution.ledger.socket_events import EventBlock, SocketEvent
from hogpipe.linux.bpf.shapes import EventKind

SECOND = 1_000_000_000
KERNEL_THREAD = 0x00200000  # PF_KTHREAD


def write_stat(root: Path, pid: int, start: int, flags: int = 0) -> None:
    (root / str(pid)).mkdir(exist_ok=True)
    fields = ["S", "1", "1", "1", "0", "-1", str(flags), *["0"] * 12, str(start), "0", "0"]
    (root / str(pid) / "stat").write_text(f"{pid} (a) {' '.join(fields)}\n")


def event(kind: EventKind, pid: int, second: int) -> SocketEvent:
    return replace(make_event(kind, second), pid=pid, boot_ns=second * SECOND, user_id=3)


@pytest.fixture
def owners(tmp_path: Path) -> Iterator[EventOwners]:
    require_bpf()
    made = EventOwners(tmp_path)
    yield made
    made.close()


def starts_of(owners: EventOwners, *events: SocketEvent) -> list[int | None]:
    block = EventBlock(b"".join(map(encode_event, events)))
    found = owners.find_each(block, 0.0)
    assert [owners.find(one, 0.0) for one in block] == found
    assert all(one is None or one.user_id == 3 for one in found)
    return [-1 if one is None else one.start for one in found]


def test_each_event_has_the_process_that_it_names(owners: EventOwners, tmp_path: Path) -> None:
    write_stat(tmp_path, 7, 100)
    write_stat(tmp_path, 8, 200)
    connected = [event(EventKind.CONNECTED, pid, 50) for pid in (7, 8, 0, 9, 7)]
    assert starts_of(owners, *connected) == [100, 200, -1, None, 100]
    assert owners.unidentified == 1
    assert starts_of(owners) == []


def test_a_pid_that_is_reused_within_a_block_is_that_of_its_time(
    owners: EventOwners, tmp_path: Path
) -> None:
    write_stat(tmp_path, 7, 5000)  # it started at 50 s
    events = [event(EventKind.CONNECTED, 7, second) for second in (40, 51)]
    assert starts_of(owners, *events) == [None, 5000]


def test_a_thread_of_the_kernel_owns_no_socket_by_its_release(
    owners: EventOwners, tmp_path: Path
) -> None:
    write_stat(tmp_path, 7, 100, KERNEL_THREAD)
    events = [event(kind, 7, 50) for kind in (EventKind.CONNECTED, EventKind.RELEASED)]
    assert starts_of(owners, *events) == [100, -1]
