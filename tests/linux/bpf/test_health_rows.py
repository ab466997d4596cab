"""Rows of health as the kernel has them become columns, each value in its own."""

import numpy as np

from hogpipe.flows.health_columns import decode_health
from hogpipe.linux.bpf.health_rows import decode_raw, find_counted
from hogpipe.linux.bpf.shapes import TCP_HEALTH
from hogpipe.model import TcpHealth


def test_each_value_of_a_row_has_its_column() -> None:
    raw = np.zeros(1, TCP_HEALTH)
    names = [name for name in TCP_HEALTH.names or () if name != "padding"]
    for value, name in enumerate(names, 1):
        raw[name] = value
    (health,) = decode_health(decode_raw(np.array([5], np.uint64), raw).health.tolist())
    assert health is not None
    values = {
        name.removesuffix("_bytes"): getattr(health, name) for name in health.__struct_fields__
    }
    assert values == {name: value for value, name in enumerate(names, 1)}


def test_the_largest_values_of_the_kernel_fit() -> None:
    raw = np.zeros(1, TCP_HEALTH)
    raw["retransmits"], raw["closed"], raw["lifetime_us"] = 2**32 - 1, 2**16 - 1, 2**62
    (health,) = decode_health(decode_raw(np.zeros(1, np.uint64), raw).health.tolist())
    assert health == TcpHealth(retransmits=2**32 - 1, closed=2**16 - 1, lifetime_us=2**62)


def test_rows_that_counted_nothing_are_known_but_empty() -> None:
    raw = np.zeros(3, TCP_HEALTH)
    raw["closed"][1] = 1
    assert find_counted(raw).tolist() == [False, True, False]
    assert decode_health(decode_raw(np.arange(3, dtype=np.uint64), raw).health.tolist()) == [
        TcpHealth(),
        TcpHealth(closed=1),
        TcpHealth(),
    ]
