"""What plugin authors test their sinks with (docs/plugin-reference.md, "Testing").

Only tests import this package. It needs an event loop and no test runner: a broken promise is an
AssertionError.

    async def test_the_sink_keeps_its_promises(server):
        await check_sink(
            SinkCase(
                sink_type=SinkType("mine", MySettings, MySink),
                keys={"port": server.port},
                arrived=server.read_documents,
                outage=server.outage,
                stall=server.stall,
                refusal=server.refusal,
            )
        )

Modules, in the order in which a check passes them:

    case.py              SinkCase: a sink type, its receiver, and the trouble that it can make
    check.py             check_sink: each promise of the contract, one by one
    promises.py          the promises: one function for each
    harness.py           one sink, called as a run calls it, and its records
    sink_calls.py        one call: its time limit, its cancellation
    accounting.py        PURE: records given, refused, undelivered, arrived
    leaks.py             resources left behind, secrets disclosed, the event loop blocked

and beside it:

    records.py           RecordMaker: windows of records as hogpipe makes them
    recording.py         RecordingSink: keeps its records, and fails on demand
    configuring.py       read_settings, make_sink: a `[[sinks]]` table, read as hogpipe reads it
    outages.py           one sink in the delivery of a run, while its receiver fails
    receivers.py         a receiver in a process: run, suspended, sent too much
    documentation.py     PURE: a page of documentation, compared with the settings
"""

from hogpipe.testing.case import BrokenPromiseError, Findings, SinkCase
from hogpipe.testing.check import PROMISES, check_sink
from hogpipe.testing.configuring import make_sink, read_settings
from hogpipe.testing.documentation import check_key_table, find_code_blocks
from hogpipe.testing.outages import OutageReport, deliver_through_outages, opened
from hogpipe.testing.receivers import enlarge, free_ports, oversized, running_program, suspended
from hogpipe.testing.recording import RecordingSink
from hogpipe.testing.records import RecordMaker, total_bytes

__all__ = [
    "PROMISES",
    "BrokenPromiseError",
    "Findings",
    "OutageReport",
    "RecordMaker",
    "RecordingSink",
    "SinkCase",
    "check_key_table",
    "check_sink",
    "deliver_through_outages",
    "enlarge",
    "find_code_blocks",
    "free_ports",
    "make_sink",
    "opened",
    "oversized",
    "read_settings",
    "running_program",
    "suspended",
    "total_bytes",
]
