"""What plugin authors test their sinks with (docs/plugins.md, "Testing").

    records.py      RecordMaker: windows of records as hogpipe makes them; total_bytes of one
    recording.py    RecordingSink: a sink that keeps what it gets, and fails as it is told
    configuring.py  read_settings, make_sink: a `[[sinks]]` table read as hogpipe reads it
    case.py         SinkCase: a sink type with its receiver, and the trouble that this can make
    check.py        check_sink: whether the sink keeps what the contract of sinks promises

Only tests import it. It needs an event loop and no test runner: what is wrong is an AssertionError.

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
"""

from hogpipe.testing.case import BrokenPromiseError, Findings, SinkCase
from hogpipe.testing.check import PROMISES, check_sink
from hogpipe.testing.configuring import make_sink, read_settings
from hogpipe.testing.recording import RecordingSink
from hogpipe.testing.records import RecordMaker, total_bytes

__all__ = [
    "PROMISES",
    "BrokenPromiseError",
    "Findings",
    "RecordMaker",
    "RecordingSink",
    "SinkCase",
    "check_sink",
    "make_sink",
    "read_settings",
    "total_bytes",
]
