"""The ring and its views: what is shown adds up, whatever is folded, expired or restarted."""

from collections.abc import Mapping
from typing import Any

import pytest
from hogpipe_web.dimensions import DIMENSIONS, KEYS, Values, coarsen, read_values
from hogpipe_web.losses import Losses
from hogpipe_web.messages import Change, Query, Snapshot, parse_query
from hogpipe_web.ring import Ring, Update, WindowSums
from hogpipe_web.views import View
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_host import MadeUpHost, process, stats, traffic

Row = tuple[int, ...]


def values_of(name: str, pid: int, peer: str | None = None) -> Values:
    known = {"process.name": name, "process.pid": pid, "network.peer.address": peer}
    return tuple(known.get(key) for key in KEYS)


def window(start: float, sizes: Mapping[Values, int], remainder: int = 0) -> WindowSums:
    sums = WindowSums(start, start + 1)
    for values, size in sizes.items():
        sums.rows[values] = [size, 2 * size, size, 0, size]
    sums.remainder = [remainder, 0, 0, 0, remainder]
    return sums


class Reader:
    """What the page makes of a snapshot and changes."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.labels: dict[int, Values] = {}
        self.rows: dict[int, Row] = {}
        self.windows = list(snapshot.windows)
        self._take(snapshot)

    def take(self, change: Change) -> None:
        self.windows.append(change.window)
        del self.windows[: change.expired]
        for number in change.removed:
            del self.rows[number], self.labels[number]
        self.rows = {number: (0, 0, *row[2:]) for number, row in self.rows.items()}
        self._take(change)

    def _take(self, picture: Snapshot | Change) -> None:
        self.sums = list(picture.sums)
        for number, _label, _detail, values in picture.groups:
            assert number not in self.labels
            self.labels[number] = values
        for number, *counts in picture.rows:
            self.rows[number] = tuple(counts)

    def content(self) -> dict[Values | None, Row]:
        shown = {self.labels.get(number): row for number, row in self.rows.items()}
        return {values: row for values, row in shown.items() if any(row)}


steps = st.lists(
    st.tuples(
        st.dictionaries(
            st.builds(
                values_of,
                st.sampled_from("abc"),
                st.integers(1, 30),
                st.sampled_from([None, "192.0.2.1", "192.0.2.2"]),
            ),
            st.integers(1, 1000),
            max_size=12,
        ),
        st.integers(0, 50),
        st.sampled_from([1.0, 1.0, 1.0, 3.0, -40.0]),
    ),
    min_size=1,
    max_size=25,
)
QUERIES = [
    Query("process"),
    Query("program"),
    Query("remote", (("program", ("a", None, None)),)),
]


@settings(deadline=None, max_examples=50)
@given(steps, st.integers(10, 40))
def test_a_snapshot_and_its_changes_are_a_later_snapshot_and_all_bytes_are_there(
    made: list[tuple[dict[Values, int], int, float]], most: int
) -> None:
    ring = Ring(span=6.0, most_groups=most)
    views = [View(ring, query) for query in QUERIES]
    readers = [Reader(view.snapshot()) for view in views]
    kept: list[WindowSums] = []
    at = 1000.0
    for sizes, remainder, pause in made:
        at += pause
        sums = window(at, sizes, remainder)
        update = ring.add(sums)
        kept = [sums] if update.restarted else [*kept, sums][len(update.expired) :]
        assert [one.start for one in ring.windows] == [one.start for one in kept]
        assert len(ring.groups) <= most
        for index, view in enumerate(views):
            change = view.advance(update)
            if change is None:
                assert update.restarted
                readers[index] = Reader(view.snapshot())
            else:
                readers[index].take(change)
            later = Reader(view.snapshot())
            fresh = Reader(View(ring, QUERIES[index]).snapshot())
            assert readers[index].content() == later.content() == fresh.content()
            assert readers[index].windows == later.windows
            assert readers[index].sums == later.sums
        total = [0] * 5
        for one in kept:
            for row in (*one.rows.values(), one.remainder):
                total = [a + b for a, b in zip(total, row, strict=True)]
        for reader in readers[:2]:
            assert reader.sums == total
            assert [sum(c) for c in zip(*reader.rows.values(), strict=True)][2:] in (total, [])


def test_the_past_of_the_largest_groups_adds_up_with_the_totals() -> None:
    ring = Ring(600, 100)
    view = View(ring, Query("program"))
    for at in range(5):
        view.advance(ring.add(window(at, {values_of("a", 1): at, values_of("b", 2): 10}, 3)))
    picture = view.snapshot()
    assert picture.totals == ([13, 14, 15, 16, 17], [20, 22, 24, 26, 28])
    past = {picture.groups[number - 1][1]: sides for number, *sides in picture.top}
    assert past == {"a": [[0, 1, 2, 3, 4], [0, 2, 4, 6, 8]], "b": [[10] * 5, [20] * 5]}


def test_short_lived_processes_do_not_keep_a_new_program_out() -> None:
    ring = Ring(600, 100)
    view = View(ring, Query("program"))
    for at in range(200):
        sizes = {values_of("curl", 1000 * at + pid): 10 for pid in range(20)}
        view.advance(ring.add(window(at, sizes)))
    view.advance(ring.add(window(200, {values_of("new", 1): 5_000})))
    rows = {
        group[1]: row
        for group in view.snapshot().groups
        for row in view.snapshot().rows
        if row[0] == group[0]
    }
    assert rows["curl"][3] == 200 * 20 * 10
    assert rows["new"][3] == 5_000
    assert len(ring.groups) <= 100
    assert ring.groups.folded > 0


def test_the_ring_is_bounded_in_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hogpipe_web.ring.MOST_ROWS", 50)
    ring = Ring(600, 100)
    for at in range(30):
        ring.add(window(at, {values_of("a", pid): 1 for pid in range(10)}))
    assert len(ring.windows) == 5


def test_losses_are_those_of_the_windows_that_are_shown() -> None:
    ring = Ring(3, 100)
    assert ring.losses is None
    for at in range(6):
        sums = WindowSums(at, at + 1)
        record: Any = MadeUpHost().stamped([stats(packets=10, dropped=at)], at)[0]
        sums.stats.append(record)
        ring.add(sums)
    assert ring.losses is not None
    assert (ring.losses.packets, ring.losses.dropped) == (30, 3 + 4 + 5)
    ring.add(WindowSums(6, 7))
    assert isinstance(ring.losses, Losses)
    for at in range(7, 10):
        update: Update = ring.add(WindowSums(at, at + 1))
    assert update.window.losses is None
    assert ring.losses is None


def test_omitted_values_are_not_taken_for_absent_ones() -> None:
    fine = values_of("curl", 7, "192.0.2.1")
    coarse = coarsen(fine)
    assert coarse is not None
    coarser = coarsen(coarse)
    assert coarser is not None
    assert coarsen(coarser) is None
    process_of, remote = DIMENSIONS["process"], DIMENSIONS["remote"]
    assert process_of.label(process_of.pick(fine)) == ("curl", "7")
    assert process_of.label(process_of.pick(coarse)) == ("curl", "others")
    assert remote.label(remote.pick(coarse)) == ("192.0.2.1", "")
    assert remote.label(remote.pick(coarser)) == ("others", "")
    assert remote.label(remote.pick(values_of("curl", 7))) == ("no peer", "")
    program = DIMENSIONS["program"]
    assert program.label(program.pick(coarser)) == ("curl", "")


def test_each_dimension_reads_the_keys_of_records() -> None:
    body = {
        **process("nginx", 42, "www-data", "nginx.service"),
        "container": {"id": "c" * 64, "name": "shop"},
        "k8s": {"pod": {"uid": "7a1b90f2-713c", "name": "shop-1"}},
        "server": {"port": 443},
        "network": {
            "transport": "tcp", "type": "ipv4", "interface": {"name": "eth0"},
            "peer": {"address": "192.0.2.1", "network": "internet", "domain": "example.org"},
        },
    }  # fmt: skip
    body["process"]["parent"] = {"pid": 1, "name": "sh", "command": "deploy.sh"}
    record: Any = MadeUpHost().stamped([traffic(body, 1, 1, "exact")], 0.0)[0]
    values = read_values(record)
    labels = {name: one.label(one.pick(values)) for name, one in DIMENSIONS.items()}
    assert labels == {
        "program": ("nginx", ""), "process": ("nginx", "42"), "parent": ("deploy.sh", ""),
        "user": ("www-data", ""), "unit": ("nginx.service", ""), "container": ("shop", "c" * 12),
        "pod": ("shop-1", "7a1b90f2-713"), "remote": ("192.0.2.1", "example.org"),
        "domain": ("example.org", ""), "network": ("internet", ""), "port": ("443", ""),
        "transport": ("tcp", ""), "network_type": ("ipv4", ""), "interface": ("eth0", ""),
    }  # fmt: skip
    kernel: Any = MadeUpHost().stamped(
        [traffic({"kernel": {"name": "wireguard"}}, 1, 1, "inferred")], 0.0
    )[0]
    program = DIMENSIONS["program"]
    assert program.label(program.pick(read_values(kernel))) == ("kernel: wireguard", "")


def test_what_only_details_a_dimension_is_no_value_of_it() -> None:
    values = dict.fromkeys(KEYS) | {"process.name": "curl", "network.peer.network": "internet"}
    ring = Ring(600, 100)
    ring.add(window(0, {tuple(values[key] for key in KEYS): 1}))
    picture = View(ring, Query("remote")).snapshot()
    assert picture.present == ["program", "process", "network"]
    ((_number, label, detail, _values),) = picture.groups
    assert (label, detail) == ("no peer", "internet")


def test_a_query_is_parsed_to_the_values_of_its_dimensions() -> None:
    assert parse_query("port", "") == Query("port")
    assert parse_query("port", '{"program": ["a", null, null], "port": [443, null]}') == Query(
        "port", (("program", ("a", None, None)), ("port", (443, None)))
    )
