"""Owners whose exits are noticed."""

from msgspec.structs import replace
from support.stage import ScriptedExits
from support.traffic import NGINX, exact, make_delta, make_flow

from hogpipe.attribution.stage.owner_watch import OwnerWatch
from hogpipe.flows.flow_table import FlowTable


def test_a_process_that_is_described_otherwise_again_and_again_takes_no_memory() -> None:
    table, exits = FlowTable(10, 10), ScriptedExits()
    watch = OwnerWatch(exits, table)
    for number in range(3000):
        described = exact(replace(NGINX, command=f"title {number}"))
        table.add([(make_flow(53, protocol=17), make_delta((1, 1)), described)])
        watch.watch(described)
        if number % 500 == 499:
            table.drain()
    (watched,) = watch._owners.values()
    assert len(watched.attributions) < 1000
    assert described in watched.attributions
    exits.exit(NGINX.pid, 1.0)
    watch.poll()
    assert watch.exited_ns(described) == 10**9
    assert not table.owners.is_watched[table.owners.number(described)]
