"""The benchmark of what health costs runs, and its programs without health load."""

from bench import health_cost
from support.bpf import require_bpf


def test_both_objects_are_measured_under_the_same_load() -> None:
    require_bpf()
    alone = health_cost.measure_alone(rounds=1, exchanges=50, connections=5)
    for cost in (alone, *health_cost.measure(rounds=1, exchanges=50, connections=5)):
        assert cost.packet > 0
        assert cost.connection > cost.packet
