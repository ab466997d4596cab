"""Which rows of the kernel's maps are those of the measured processes."""

import socket

import numpy as np
from numpy.typing import NDArray

from hogpipe.linux.bpf.shapes import BY_LISTENER, TRAFFIC_ROW
from hogpipe.linux.bpf.traffic_rows import encode_endpoints
from hogpipe.measuring.row_selection import select_rows

OURS, OTHER = 10, 20
ONE = socket.inet_aton("127.0.0.1")


def make_row(cookie: int, pid: int, flags: int = 0, port: int = 80) -> NDArray[np.void]:
    row = np.zeros(1, TRAFFIC_ROW)
    row["cookie"], row["pid"], row["flags"], row["namespace"] = cookie, pid, flags, 1
    row["boot_ns"] = 1000
    ends = encode_endpoints(ONE, port, ONE, 50_000, 6)
    row["endpoints"] = np.frombuffer(ends, np.uint64)
    return row


def select(*rows: NDArray[np.void], held: set[int] = frozenset(), port: int = 0) -> dict[int, bool]:  # type: ignore[assignment]
    """Return the cookies that are selected, and whether by a listening socket."""
    listening = {(1, port)} if port else set()
    found = select_rows(
        np.concatenate(rows),
        lambda pid, _cgroup, when: pid == OURS and when == 1000,
        held,
        listening,
    )
    return dict(zip(found.rows["cookie"].tolist(), found.by_listener.tolist(), strict=True))


def test_rows_of_a_recorded_process_are_selected() -> None:
    assert select(make_row(1, OURS), make_row(2, OTHER), make_row(3, 0)) == {1: False}
    assert select(make_row(1, OURS, BY_LISTENER)) == {1: True}


def test_sockets_that_were_held_at_the_begin_are_selected_whoever_used_them() -> None:
    rows = make_row(1, 0), make_row(2, OTHER), make_row(3, OTHER, BY_LISTENER)
    assert select(*rows, held={1, 3}) == {1: False, 3: False}


def test_connections_to_a_listening_socket_from_before_are_selected_by_its_port() -> None:
    rows = make_row(1, 0, BY_LISTENER), make_row(2, 0, port=81), make_row(3, OTHER)
    assert select(*rows, port=80) == {1: True}


def test_no_rows_are_no_error() -> None:
    assert len(select_rows(np.zeros(0, TRAFFIC_ROW), lambda *_: True, (), ()).rows) == 0
