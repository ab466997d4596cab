"""A sink made from the keys of its `[[sinks]]` table, as `hogpipe run` makes it."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from hogpipe.config.checks import check_sinks
from hogpipe.config.convert import Converter
from hogpipe.config.load import check_choices
from hogpipe.config.problems import Report
from hogpipe.config.references import Resolver, locate
from hogpipe.errors import ConfigurationError
from hogpipe.sinks.contract import Sink, SinkSettings, SinkType

S = TypeVar("S", bound=SinkSettings)


def read_settings(sink_type: SinkType[S], keys: Mapping[str, object]) -> S:
    """Return the settings that a `[[sinks]]` table with `keys` gives; `type` may be left out.

    Values are what TOML has: text, numbers, booleans, arrays and tables; a Path counts as text.
    References (`{"env": "NAME"}`, `{"file": "PATH"}`) are followed. Raises ConfigurationError,
    whose `problems` begin with places such as `sinks[0].port`.
    """
    report = Report()
    table = {"type": sink_type.name, **keys}
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in table.items()}
    tables = Resolver(Path.cwd(), os.environ, report).resolve({"sinks": [plain]})
    converter = Converter(partial(locate, Path.cwd()), report)
    (sink,) = converter.sinks(tables, {sink_type.name: sink_type})
    check_sinks([sink.common], report)
    check_choices([sink.choice], report)
    if problems := report.lines("configuration"):
        raise ConfigurationError(problems)
    assert sink.choice is not None
    settings = sink.choice.settings
    assert isinstance(settings, sink_type.settings)
    return settings


def make_sink(sink_type: SinkType[S], keys: Mapping[str, object]) -> Sink:
    """Return a sink of these keys, not yet opened."""
    return sink_type.create(read_settings(sink_type, keys))
