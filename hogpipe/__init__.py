"""hogpipe tells which process on a Linux host sends and receives which bytes."""

from hogpipe.record import Record
from hogpipe.sinks.hookspecs import hookimpl
from hogpipe.sinks.protocol import Sink, SinkSettings, SinkType

__all__ = ["Record", "Sink", "SinkSettings", "SinkType", "hookimpl"]
__version__ = "0.1.0"
