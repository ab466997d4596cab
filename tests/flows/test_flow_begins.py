"""When flows begin, which their names need: with each SYN, else before their first packet."""

import numpy as np

from hogpipe.flows.flow_slots import SlotUse


def make_use() -> SlotUse:
    use = SlotUse(8, 8)
    use.fit(4)
    use.start(np.arange(3), 0.0)
    return use


def record(use: SlotUse, *rows: tuple[int, bool, int]) -> None:
    """Record packets: the slot, whether it is a SYN, and the time."""
    slots, opened, times = zip(*rows, strict=True)
    use.record_begins(np.array(slots), np.array(opened), np.array(times))


def test_a_flow_begins_with_its_syn_and_without_one_before_its_first_packet() -> None:
    use = make_use()
    record(use, (0, False, 12), (0, True, 10), (1, False, 30), (1, False, 20))
    assert use.take_begins(np.arange(3)).tolist() == [[10, 10], [-20, -20], [0, 0]]


def test_a_flow_keeps_its_begin_until_it_is_opened_again() -> None:
    use = make_use()
    record(use, (0, True, 10), (1, False, 20))
    use.take_begins(np.arange(2))
    record(use, (0, False, 40), (1, False, 50))
    assert use.take_begins(np.arange(2)).tolist() == [[10, 10], [-20, -20]]


def test_of_several_that_began_since_the_last_drain_the_first_and_the_last_are_known() -> None:
    use = make_use()
    record(use, (0, True, 30), (0, True, 10), (0, True, 20))
    record(use, (0, True, 40))
    assert use.take_begins(np.array([0])).tolist() == [[40, 10]]
    assert use.take_begins(np.array([0])).tolist() == [[40, 40]]


def test_a_slot_that_is_given_again_has_no_begin() -> None:
    use = make_use()
    record(use, (0, True, 10))
    use.start(np.array([0]), 1.0)
    assert use.take_begins(np.array([0])).tolist() == [[0, 0]]
