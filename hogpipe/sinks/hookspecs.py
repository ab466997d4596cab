"""The hook by which plugins offer sink types (docs/plugins.md).

It is the only one, and is called once, at start; records never pass through hooks.
"""

from collections.abc import Iterable

import pluggy

from hogpipe.sinks.contract import SinkSettings, SinkType

PROJECT = "hogpipe"
"""The name of the pluggy project, and of the entry-point group of installed plugins."""

PLUGIN_API = 1
"""The version of the interface for plugins; docs/plugin-reference.md defines what it covers.

A plugin may state the version that it was made for, as `HOGPIPE_API` in its module.
"""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def hogpipe_sinks() -> Iterable[SinkType[SinkSettings]]:  # type: ignore[empty-body]
    """Return the sink types that this plugin offers."""
