"""The built-in plugin; it uses the same hook as every other."""

from collections.abc import Iterable

from hogpipe.sinks.contract import SinkSettings, SinkType
from hogpipe.sinks.hookspecs import hookimpl
from hogpipe.sinks.jsonl.jsonl_sink import JsonlSettings, JsonlSink, find_jsonl_problems
from hogpipe.sinks.sqlite import SqliteSettings, SqliteSink, find_sqlite_problems
from hogpipe.sinks.stdout import StdoutSettings, StdoutSink
from hogpipe.sinks.tcp.tcp_sink import TcpSettings, TcpSink, find_problems


@hookimpl
def hogpipe_sinks() -> Iterable[SinkType[SinkSettings]]:
    """Offer the sinks that need no further package."""
    return (
        SinkType("jsonl", JsonlSettings, JsonlSink, find_jsonl_problems),
        SinkType("sqlite", SqliteSettings, SqliteSink, find_sqlite_problems),
        SinkType("stdout", StdoutSettings, StdoutSink),
        SinkType("tcp", TcpSettings, TcpSink, find_problems),
    )
