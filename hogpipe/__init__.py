"""hogpipe tells which process on a Linux host sends and receives which bytes.

The house, in the order that a packet goes through it:

    capture/       frames of a link or a file -> flow batches        (a thread)
    handover.py    from that thread to the event loop, bounded
    attribution/   flows -> the processes that own them              (look-ups in a thread)
    aggregation.py windows of flows -> record bodies; grouping.py, selectors.py
    record.py      what leaves hogpipe: docs/record.md
    sinks/         records -> wherever they are wanted; docs/plugins.md

    pipeline.py    puts these together: the only place that knows the order; assembly.py
    config/        the configuration file; docs/configuration.md
    cli.py         the commands
    stream.py      the same pipeline from Python; docs/library.md

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
from hogpipe.record import Record, StatsRecord, TrafficRecord
from hogpipe.sinks.hookspecs import hookimpl
from hogpipe.sinks.protocol import Sink, SinkSettings, SinkType
from hogpipe.stream import stream_records
from hogpipe.version import __version__

__all__ = [
    "CaptureError",
    "ConfigurationError",
    "DeliveryError",
    "HogpipeError",
    "NotPermittedError",
    "OutputClosedError",
    "Record",
    "RefusedError",
    "Settings",
    "Sink",
    "SinkSettings",
    "SinkType",
    "StatsRecord",
    "TrafficRecord",
    "__version__",
    "hookimpl",
    "load_config",
    "stream_records",
]
