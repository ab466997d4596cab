"""hogpipe reports which process on a Linux host sends and receives which bytes.

The packages, in the order in which traffic passes them. A section of config.toml is a package:

    capture/       frames, or counters of the kernel -> batches of flows    (an executor thread)
    attribution/   flows -> the processes that own them                     (lookups in a thread)
    aggregation/   owned flows -> groups of each window
    records/       groups -> records and statistics; docs/record.md
    delivery/      records -> sinks: queues, retries, spools
    sinks/         the built-in sinks, and the contract of plugins; docs/plugins.md

Below all of them:

    linux/         the only package that opens /proc, netlink sockets or libbpf
    history/       records in an SQLite database, rolled up; docs/history.md
    enrichment/    attributes of processes: names, user, unit, container, pod
    model/         the values that pass between the stages
    protocols.py   protocol numbers and units
    errors.py      the errors that a user can see
    ownership.py   who may change a file: links in shared folders, files that are trusted
    files.py       files that a configuration names, which may be FIFOs
    bounded_cache.py  values that recur in each window
    text.py        untrusted text, escaped for logs and terminals
    threads.py     threads that go on after what is raised in them
    terminal.py    the output streams of the command line, which escape such text
    logs.py        the lines of the log: text or JSON, with times
    interrupter.py an exception in the main thread, for what blocks it
    signals.py     what a signal does, from the first line of the program on

Above them:

    config/        TOML -> settings; docs/configuration.md
    security/      the rights that a run keeps; docs/security.md
    factory.py     settings -> capture source, resolver and sinks
    processing.py  batches pass the stages, and windows become records (event loop)
    run_requests.py     what a run is asked meanwhile: to stop, to use other rules
    reconfiguration.py  another configuration for a pipeline that runs
    pipeline.py    makes the stages, and starts and ends a run
    packets/       `hogpipe capture`: packets of chosen owners as pcapng; docs/capture.md
    run_command.py a run from its start to its last line
    capture_command.py  a capture of packets, from its start to its last line
    reload.py      SIGHUP: files reopened, the configuration read again
    templates/     the files that `hogpipe init` writes
    cli.py         the commands, with command_options.py; docs/cli.md
    doctor.py      what this host permits
    sink_probe.py  what each sink connects to
    stream.py      the same pipeline from Python; docs/library.md
    measuring/     what one process, control group or block of code moves; docs/measure.md
    report/        `hogpipe report`: totals and series of what was recorded; docs/report.md
    top/           `hogpipe top`, the screen; docs/top.md
    testing/       what plugin authors test with; docs/plugins.md

This module exports what plugins and users of the library need. An export is imported when it is
first used, because the command line handles signals before it imports anything that takes time.
"""

from importlib import import_module

from hogpipe.version import __version__

TYPE_CHECKING = False  # what type checkers take for true
if TYPE_CHECKING:
    from hogpipe.config import Settings, load_config
    from hogpipe.errors import (
        CaptureError,
        ConfigurationError,
        DeliveryError,
        HogpipeError,
        InUseError,
        NotPermittedError,
        OutputClosedError,
        RefusedError,
    )
    from hogpipe.history.reader import HistoryReader
    from hogpipe.measuring.results import Losses, Peer, Rates, Totals, Traffic
    from hogpipe.measuring.watch import Watch, measure, watch
    from hogpipe.model import TcpHealth, join_health
    from hogpipe.records.schema import Record, StatsRecord, TrafficRecord, record_id
    from hogpipe.records.tcp_health import parse_tcp
    from hogpipe.sinks.connections import describe_connection_error, run_shielded
    from hogpipe.sinks.contract import (
        Seconds,
        SettingProblem,
        Sink,
        SinkSettings,
        SinkType,
        raise_problems,
    )
    from hogpipe.sinks.encoding import JsonEncoder, JsonSettings
    from hogpipe.sinks.hookspecs import PLUGIN_API, hookimpl
    from hogpipe.sinks.http_addresses import (
        extend_url,
        find_header_problems,
        find_url_problem,
        name_place,
    )
    from hogpipe.sinks.http_answers import HttpAnswer, describe_answer, describe_redirect
    from hogpipe.sinks.http_client import HttpClient
    from hogpipe.sinks.listening import explain_listen_error, parse_listen
    from hogpipe.sinks.tls import TlsSettings, find_tls_problems, load_tls_context
    from hogpipe.stream import stream_records
    from hogpipe.text import replace_unprintable

__all__ = [
    "PLUGIN_API",
    "CaptureError",
    "ConfigurationError",
    "DeliveryError",
    "HistoryReader",
    "HogpipeError",
    "HttpAnswer",
    "HttpClient",
    "InUseError",
    "JsonEncoder",
    "JsonSettings",
    "Losses",
    "NotPermittedError",
    "OutputClosedError",
    "Peer",
    "Rates",
    "Record",
    "RefusedError",
    "Seconds",
    "SettingProblem",
    "Settings",
    "Sink",
    "SinkSettings",
    "SinkType",
    "StatsRecord",
    "TcpHealth",
    "TlsSettings",
    "Totals",
    "Traffic",
    "TrafficRecord",
    "Watch",
    "__version__",
    "describe_answer",
    "describe_connection_error",
    "describe_redirect",
    "explain_listen_error",
    "extend_url",
    "find_header_problems",
    "find_tls_problems",
    "find_url_problem",
    "hookimpl",
    "join_health",
    "load_config",
    "load_tls_context",
    "measure",
    "name_place",
    "parse_listen",
    "parse_tcp",
    "raise_problems",
    "record_id",
    "replace_unprintable",
    "run_shielded",
    "stream_records",
    "watch",
]

_MODULES = {
    "CaptureError": "hogpipe.errors",
    "ConfigurationError": "hogpipe.errors",
    "DeliveryError": "hogpipe.errors",
    "HistoryReader": "hogpipe.history.reader",
    "HogpipeError": "hogpipe.errors",
    "HttpAnswer": "hogpipe.sinks.http_answers",
    "HttpClient": "hogpipe.sinks.http_client",
    "InUseError": "hogpipe.errors",
    "JsonEncoder": "hogpipe.sinks.encoding",
    "JsonSettings": "hogpipe.sinks.encoding",
    "Losses": "hogpipe.measuring.results",
    "NotPermittedError": "hogpipe.errors",
    "OutputClosedError": "hogpipe.errors",
    "PLUGIN_API": "hogpipe.sinks.hookspecs",
    "Peer": "hogpipe.measuring.results",
    "Rates": "hogpipe.measuring.results",
    "Record": "hogpipe.records.schema",
    "RefusedError": "hogpipe.errors",
    "Seconds": "hogpipe.sinks.contract",
    "SettingProblem": "hogpipe.sinks.contract",
    "Settings": "hogpipe.config",
    "Sink": "hogpipe.sinks.contract",
    "SinkSettings": "hogpipe.sinks.contract",
    "SinkType": "hogpipe.sinks.contract",
    "StatsRecord": "hogpipe.records.schema",
    "TcpHealth": "hogpipe.model",
    "TlsSettings": "hogpipe.sinks.tls",
    "Totals": "hogpipe.measuring.results",
    "Traffic": "hogpipe.measuring.results",
    "TrafficRecord": "hogpipe.records.schema",
    "Watch": "hogpipe.measuring.watch",
    "describe_answer": "hogpipe.sinks.http_answers",
    "describe_connection_error": "hogpipe.sinks.connections",
    "describe_redirect": "hogpipe.sinks.http_answers",
    "explain_listen_error": "hogpipe.sinks.listening",
    "extend_url": "hogpipe.sinks.http_addresses",
    "find_header_problems": "hogpipe.sinks.http_addresses",
    "find_tls_problems": "hogpipe.sinks.tls",
    "find_url_problem": "hogpipe.sinks.http_addresses",
    "hookimpl": "hogpipe.sinks.hookspecs",
    "join_health": "hogpipe.model",
    "load_config": "hogpipe.config",
    "load_tls_context": "hogpipe.sinks.tls",
    "measure": "hogpipe.measuring.watch",
    "name_place": "hogpipe.sinks.http_addresses",
    "parse_listen": "hogpipe.sinks.listening",
    "parse_tcp": "hogpipe.records.tcp_health",
    "raise_problems": "hogpipe.sinks.contract",
    "record_id": "hogpipe.records.schema",
    "replace_unprintable": "hogpipe.text",
    "run_shielded": "hogpipe.sinks.connections",
    "stream_records": "hogpipe.stream",
    "watch": "hogpipe.measuring.watch",
}
"""The module of each export."""


def __getattr__(name: str) -> object:
    """Import an export."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    export: object = getattr(import_module(_MODULES[name]), name)
    globals()[name] = export
    return export
