"""The table of connections: totals are those of the windows before the cursor, whatever happens."""

from support.top import CURL, NGINX, START, path, play, window

from hogpipe.top.described_flows import REMAINDER, Owner
from hogpipe.top.traffic_table import TrafficTable


def total(table: TrafficTable) -> list[int]:
    return table.traffic.sum(axis=1).tolist()


def test_totals_add_up_and_a_step_back_takes_the_last_window_away() -> None:
    table = TrafficTable()
    play(table, [(NGINX, path(), 10, 20)], [(NGINX, path(), 1, 2), (CURL, path(), 5, 5)])
    assert total(table) == [16, 27, 3, 6]
    assert table.qualities.sum(axis=1).tolist() == [43, 0, 0, 0]
    table.step_back()
    assert (total(table), table.passed, table.ahead) == ([10, 20, 1, 2], 1, 1)
    assert table.figures.captured_packets == 3
    assert [moment.receive for moment in table.moments] == [20]
    table.advance()
    assert (total(table), table.passed, table.ahead) == ([16, 27, 3, 6], 2, 0)
    assert table.elapsed == 2


def test_a_connection_keeps_its_slot_and_two_owners_of_a_path_have_two() -> None:
    table = TrafficTable()
    assert table.find(NGINX, path()) == table.find(NGINX, path()) == 0
    assert table.find(CURL, path()) == 1


def test_windows_beyond_the_bound_are_dropped_and_their_totals_stay() -> None:
    table = TrafficTable(max_windows=3)
    play(table, *[[(NGINX, path(), 1, 0)]] * 10)
    assert (total(table)[0], table.passed, len(table.recent(99))) == (10, 10, 3)
    while table.can_step_back:
        table.step_back()
    assert total(table)[0] == 8


def test_a_cursor_that_stays_behind_is_moved_when_the_windows_are_too_many() -> None:
    table = TrafficTable(max_windows=4)
    for number in range(10):
        table.append(window(table, number, [(NGINX, path(), 1, 0)]))
    assert (table.passed, table.ahead) == (6, 4)
    assert total(table)[0] == 6


def test_a_window_larger_than_all_is_kept_alone() -> None:
    table = TrafficTable(max_entries=3)
    play(table, [(NGINX, path(local_port=port), 1, 0) for port in range(10)])
    assert (total(table)[0], len(table.recent(9))) == (10, 1)


def test_idle_connections_of_one_remote_and_port_are_merged_first() -> None:
    table = TrafficTable(max_connections=20)
    for number in range(30):
        play(table, [(NGINX, path(local_port=number + 1), 1, 0)])
    assert len(table) <= 20
    assert table.folded > 0
    assert total(table)[0] == 30
    merged = [where for where in table.paths if not where.local_port]
    assert [(where.service_port, where.remote_port) for where in merged] == [(443, 0)]
    assert {table.owner(slot) for slot in range(len(table))} == {NGINX}


def test_processes_of_a_program_are_merged_next_and_then_all() -> None:
    table = TrafficTable(max_connections=1000, max_owners=8)
    for pid in range(1, 40):
        play(table, [(Owner(pid=pid, created=pid, program="sh"), path(), 1, 0)])
    assert len(table.owners) <= 12
    assert Owner(program="sh") in table.owners
    assert total(table)[0] == 39
    for number in range(40):
        play(table, [(Owner(program=f"p{number}"), path(), 1, 0)])
    assert len(table.owners) <= 12
    assert REMAINDER in table.owners
    assert total(table)[0] == 79


def test_a_window_with_more_than_the_table_holds_goes_to_the_remainder() -> None:
    table = TrafficTable(max_connections=10)
    play(table, [(NGINX, path(local_port=port), 1, 0) for port in range(1, 51)])
    assert total(table)[0] == 50
    assert len(table) <= 11
    assert table.folded >= 40


def test_merging_keeps_what_the_windows_say_so_that_steps_back_stay_exact() -> None:
    table = TrafficTable(max_connections=8)
    expected = []
    for number in range(30):
        expected.append(total(table))
        play(table, [(NGINX, path(local_port=number + 1), number, 1)])
    for before in reversed(expected[1:]):
        table.step_back()
        assert total(table) == before


def test_a_cleared_table_is_empty_and_of_another_epoch() -> None:
    table = TrafficTable()
    play(table, [(NGINX, path(), 10, 20)])
    epoch = table.epoch
    table.clear()
    assert (len(table), table.passed, table.current, table.elapsed) == (0, 0, None, 0)
    assert table.epoch != epoch
    assert START > 0
