"""No counter of health is lost on its way to a record and back, nor where records are merged."""

import json

from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from support.health import LEAST, SUMS, healths
from support.records import RUN, read_schema
from support.sinks import traffic

from hogpipe.model import TcpHealth, join_health
from hogpipe.records.tcp_health import add_tcp, parse_tcp

VALIDATOR = Draft202012Validator(read_schema("record.schema.json"))


@given(healths)
def test_a_record_has_every_counter_of_the_health(health: TcpHealth) -> None:
    record = {**traffic(), "run": RUN}
    add_tcp(record["network"], health)
    VALIDATOR.validate(json.loads(json.dumps(record)))
    assert parse_tcp(record["network"]) == health


def test_a_record_without_health_has_none() -> None:
    assert parse_tcp(traffic()["network"]) is None


def test_connections_without_an_event_are_known_to_have_no_retransmits() -> None:
    network = traffic()["network"]
    add_tcp(network, TcpHealth())
    assert network["tcp"] == {"retransmits": 0}
    assert network["io"]["transmit"]["payload_bytes"] == 0


@given(st.none() | healths, st.none() | healths)
def test_sums_add_up_and_the_least_time_stays(
    one: TcpHealth | None, other: TcpHealth | None
) -> None:
    known = [health for health in (one, other) if health is not None]
    before = [repr(health) for health in known]
    joined = join_health(one, other)
    assert [repr(health) for health in known] == before
    if not known:
        assert joined is None
        return
    assert joined is not None
    for name in SUMS:
        assert getattr(joined, name) == sum(getattr(health, name) for health in known)
    times = [time for health in known if (time := getattr(health, LEAST))]
    assert joined.rtt_min_us == min(times, default=0)


@given(healths)
def test_failed_are_all_causes_each_attempt_and_connection_having_one(health: TcpHealth) -> None:
    causes = ("refused", "timed_out", "unreachable", "abandoned", "reset")
    assert health.failed == sum(getattr(health, cause) for cause in causes)
