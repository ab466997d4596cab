"""hogpipe tells which process on a Linux host sends and receives which bytes.

The house, in the order that a packet goes through it:

    capture/       frames of a link or a file -> flow batches        (a thread)
    handover.py    from that thread to the event loop, bounded
    attribution/   flows -> the processes that own them              (look-ups in a thread)
    ledger/, bpf/  what the kernel itself tells of sockets            (eBPF)
    counting/      what it counts at them, in place of a capture     (a thread)
    aggregation.py windows of flows -> record bodies; grouping.py, selectors.py
    record.py      what leaves hogpipe: docs/record.md
    delivery/      records -> sinks: queues, retries, spools
    sinks/         and from there wherever they are wanted; docs/plugins.md

    pipeline.py    puts these together: the only place that knows the order; assembly.py
    config/        the configuration file; docs/configuration.md
    cli.py         the commands
    stream.py      the same pipeline from Python; docs/library.md
    testing/       what plugin authors test with; docs/plugins.md

model.py has the values that pass between the stages, errors.py the errors that a user can meet.
What plugins and library users need is exported here.
"""

from hogpipe.config import Settings, load_config
from hogpipe.errors import (
    CaptureError,
    ConfigurationError,
    DeliveryError,
    HogpipeError,
    NotPermittedError,
    OutputClosedError,
    RefusedError,
)
from hogpipe.records.schema import Record, StatsRecord, TrafficRecord, record_id
from hogpipe.sinks.connections import describe_connection_error, run_shielded
from hogpipe.sinks.contract import SettingProblem, Sink, SinkSettings, SinkType, raise_problems
from hogpipe.sinks.encoding import JsonEncoder, JsonSettings
from hogpipe.sinks.hookspecs import PLUGIN_API, hookimpl
from hogpipe.sinks.tls import TlsSettings, find_tls_problems, load_tls_context
from hogpipe.stream import stream_records
from hogpipe.version import __version__

__all__ = [
    "PLUGIN_API",
    "CaptureError",
    "ConfigurationError",
    "DeliveryError",
    "HogpipeError",
    "JsonEncoder",
    "JsonSettings",
    "NotPermittedError",
    "OutputClosedError",
    "Record",
    "RefusedError",
    "SettingProblem",
    "Settings",
    "Sink",
    "SinkSettings",
    "SinkType",
    "StatsRecord",
    "TlsSettings",
    "TrafficRecord",
    "__version__",
    "describe_connection_error",
    "find_tls_problems",
    "hookimpl",
    "load_config",
    "load_tls_context",
    "raise_problems",
    "record_id",
    "run_shielded",
    "stream_records",
]
