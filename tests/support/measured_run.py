"""A run of hogpipe beside tcpdump: what each process moved, by the records and on the wire."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from support.namespaces import Namespace
from support.running import (
    Running,
    assert_conserved,
    hogpipe,
    peer,
    read_records,
    tcpdump,
    write_config,
)
from support.wire import count, read_packets, sum_by_interface

TAIL = 0.3  # seconds for the last packets to pass before captures are ended
SIZE = 300_000  # bytes that a client exchanges with each TCP server

Process = dict[str, Any]
"""What support/peer.py reports of itself: pid, ports, servers."""


def configure(
    folder: Path,
    *interfaces: str,
    more: str = "",
    group_by: Sequence[str] = ("process", "interface"),
) -> Path:
    """Write a configuration; `more` follows [capture]; without interfaces it is all."""
    return write_config(
        folder,
        f"""
        [capture]
        {f"interfaces = {json.dumps(interfaces)}" if interfaces else ""}
        {more}
        [aggregation]
        interval = 0.2
        group_by = {json.dumps(group_by)}
        [[sinks]]
        type = "jsonl"
        path = "records.jsonl"
        """,
    )


@contextmanager
def measured_run(
    folder: Path,
    host: Namespace,
    interfaces: Sequence[str],
    dumps: Sequence[tuple[Namespace, str]],
    *,
    captures: Sequence[str],
    ledger: str = "auto",
    group_by: Sequence[str] = ("process", "interface"),
) -> Iterator[Running]:
    """Run hogpipe on `interfaces`, and tcpdump on each of `dumps` into a file of its name.

    The context begins once hogpipe has each of `captures` open.
    """
    with ExitStack() as stack:
        running_dumps = [
            stack.enter_context(tcpdump(where, name, folder / f"{name}.pcap"))
            for where, name in dumps
        ]
        config = configure(folder, *interfaces, group_by=group_by)
        words = ("-v", "run", config, "--set", f"attribution.ledger={ledger}")
        run = stack.enter_context(hogpipe(host, *words))
        run.wait_for_each(*(f"capturing on {name}$" for name in captures))
        yield run
        time.sleep(TAIL)
        assert run.end() == 0, run.errors
        for dump in running_dumps:
            dump.end()


@contextmanager
def counted_run(
    folder: Path, dumps: Sequence[tuple[Namespace, str]], *, group_by: Sequence[str] = ("process",)
) -> Iterator[Running]:
    """Run hogpipe with the source `ebpf`, and tcpdump as `measured_run` does."""
    with ExitStack() as stack:
        running_dumps = [
            stack.enter_context(tcpdump(where, name, folder / f"{name}.pcap"))
            for where, name in dumps
        ]
        config = configure(folder, more='source = "ebpf"', group_by=group_by)
        run = stack.enter_context(hogpipe(None, "-v", "run", config))
        run.wait_for("owners come from")
        yield run
        time.sleep(TAIL)
        assert run.end() == 0, run.errors
        for dump in running_dumps:
            dump.end()


def talk(client: Namespace, server: Process) -> AbstractContextManager[Process]:
    """Exchange traffic with the servers of a peer that serves."""
    return peer(client, "talk", str(SIZE), json.dumps(server["servers"]))


def read_conserved_records(folder: Path) -> list[dict[str, Any]]:
    """Return the records of the run, which hold every captured byte."""
    records = read_records(folder / "records.jsonl")
    assert_conserved(records)
    return records


def assert_moved(
    folder: Path, records: Sequence[dict[str, Any]], interface: str, process: Process
) -> None:
    """Assert that a process moved, on `interface` only, exactly what tcpdump captured there."""
    truth = count(list(read_packets(folder / f"{interface}.pcap")), process["ports"])
    assert truth.transmit_bytes > SIZE
    assert sum_by_interface(records, process["pid"]) == {interface: truth}
