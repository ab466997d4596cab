"""A sink or its settings from the keys of a `[[sinks]]` table, read as `hogpipe run` reads them."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from hogpipe.config.checks import check_sinks
from hogpipe.config.convert import Converter
from hogpipe.config.load import run_sink_checks
from hogpipe.config.problems import Problems
from hogpipe.config.references import ReferenceReader, expand_path
from hogpipe.errors import ConfigurationError
from hogpipe.sinks.contract import Sink, SinkSettings, SinkType

S = TypeVar("S", bound=SinkSettings)


def read_settings(sink_type: SinkType[S], keys: Mapping[str, object]) -> S:
    """Return the settings of a `[[sinks]]` table with `keys`; `type` may be left out.

    Values are those of TOML: text, numbers, booleans, arrays and tables; a Path counts as text.
    References (`{"env": "NAME"}`, `{"file": "PATH"}`) are followed. Raises ConfigurationError,
    whose `problems` begin with key paths such as `sinks[0].port`.
    """
    found = Problems()
    table = {"type": sink_type.name, **keys}
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in table.items()}
    tables = ReferenceReader(Path.cwd(), os.environ, found).read_references({"sinks": [plain]})
    converter = Converter(partial(expand_path, Path.cwd()), found)
    (sink,) = converter.convert_sinks(tables, {sink_type.name: sink_type})
    check_sinks([sink.common], found)
    run_sink_checks([sink.configured], found)
    if problems := found.format_lines("configuration"):
        raise ConfigurationError(problems)
    assert sink.configured is not None
    settings = sink.configured.settings
    assert isinstance(settings, sink_type.settings)
    return settings


def make_sink(sink_type: SinkType[S], keys: Mapping[str, object]) -> Sink:
    """Return a sink made of `keys`, not opened; raises ConfigurationError."""
    return sink_type.create(read_settings(sink_type, keys))
