"""Configuration files, as tests write and load them."""

from pathlib import Path

import pytest

from hogpipe.config import Settings, load_config
from hogpipe.errors import ConfigurationError
from hogpipe.sinks.registry import load_plugins

KNOWN_SINKS = ", ".join(sorted(load_plugins([], []).sink_types))
"""The built-in sink types, as messages list them."""
EXPECTED_DURATION = 'expected seconds, or text such as "500ms", "30s", "5m" or "1h30m"'


def load_text(folder: Path, text: str, *overrides: str) -> Settings:
    """Return the settings of a config.toml in `folder` that holds `text`."""
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides)


def problems_of(folder: Path, text: str, *overrides: str) -> list[str]:
    """Return the problems of such a file, without its name in front."""
    with pytest.raises(ConfigurationError) as caught:
        load_text(folder, text, *overrides)
    return [line.removeprefix(f"{folder / 'config.toml'}: ") for line in caught.value.problems]
