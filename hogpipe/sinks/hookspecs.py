"""The hook by which plugins reach hogpipe (docs/plugins.md).

There is one. It hands over sink types once, at start; records never travel through hooks.
"""

from collections.abc import Iterable

import pluggy

from hogpipe.sinks.contract import SinkSettings, SinkType

PROJECT = "hogpipe"
"""The name of the pluggy project, and of the entry-point group of installed plugins."""

PLUGIN_API = 1
"""The number of what plugins can rely on: docs/plugins.md says what it covers and how it changes.

A plugin may say which one it was made for, as its module's `HOGPIPE_API`.
"""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def hogpipe_sinks() -> Iterable[SinkType[SinkSettings]]:  # type: ignore[empty-body]
    """Return the sink types that this plugin offers."""
