"""The plugin that hogpipe brings along; it comes in by the same hook as a stranger's."""

from collections.abc import Iterable

from hogpipe.sinks.hookspecs import hookimpl
from hogpipe.sinks.jsonl import JsonlSettings, JsonlSink
from hogpipe.sinks.protocol import SinkSettings, SinkType
from hogpipe.sinks.stdout import StdoutSettings, StdoutSink
from hogpipe.sinks.tcp import TcpSettings, TcpSink


@hookimpl
def hogpipe_sinks() -> Iterable[SinkType[SinkSettings]]:
    """Offer the sinks that need nothing but hogpipe."""
    return (
        SinkType("jsonl", JsonlSettings, JsonlSink),
        SinkType("stdout", StdoutSettings, StdoutSink),
        SinkType("tcp", TcpSettings, TcpSink),
    )
