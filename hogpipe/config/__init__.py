"""The configuration: from a TOML file to the settings of a run (docs/configuration.md).

`load.py` reads the file and puts the rest together: `overrides.py` applies `--set`, `references.py`
fetches what is kept elsewhere, `convert.py` makes structs of the tables with the help of
`leaves.py`, and `checks.py` looks at what must fit together or exist. Each adds to one `report.py`,
so that all that is wrong is told at once. `settings.py` holds the structs.

Code that uses hogpipe as a library can build `Settings` itself; nothing is checked then but types.
"""

from hogpipe.config.load import load_config
from hogpipe.config.settings import (
    AggregationSettings,
    AttributionSettings,
    CaptureSettings,
    Dimension,
    EnrichmentSettings,
    PluginSettings,
    Settings,
    SinkChoice,
)

__all__ = [
    "AggregationSettings",
    "AttributionSettings",
    "CaptureSettings",
    "Dimension",
    "EnrichmentSettings",
    "PluginSettings",
    "Settings",
    "SinkChoice",
    "load_config",
]
