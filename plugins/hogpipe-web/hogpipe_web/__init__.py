"""The `web` sink: a page that shows live, and from a history, who moves which bytes.

settings.py    PURE: the `[[sinks]]` table
dimensions.py  PURE: the values of a record, the dimensions made of them, and labels
groups.py      PURE: a slot for each group, bounded
losses.py      PURE: what is missing in the traffic, from the stats records
ring.py        PURE: the windows of the last minutes, as columns by slot
views.py       PURE: one question about the ring: a snapshot, and what each window changes
messages.py    PURE: the JSON that the page gets, and the questions that it asks
access.py      PURE: who may read: hosts, origins, tokens, cookies
hub.py         subscribers with bounded queues
history.py     ranges of time from a history, in a thread
assets.py      the files of the page, which are in static/
app.py         the application (Starlette): the paths, and their answers
server.py      the connections (uvicorn), bounded
sink.py        windows -> ring

State: the ring is all that the sink keeps. It has a row for each group and window, and is bounded
in time, windows and rows; groups are bounded in number. A group is all values of a record that the
page can group by, so each question, of whatever dimension and filter, is answered from the ring,
its past included. Each question that at least one reader asks has a view, which keeps sums by row
of its table; readers of one question share it, and the bytes of its events.

A reader gets a snapshot, then what each window changes; after a loss, and after a reconnection, a
snapshot again. So the page needs no other state of its own, and is right again after whatever
happened. A range of a history is a snapshot of the same form.
"""

from collections.abc import Iterable

from hogpipe import SinkSettings, SinkType, hookimpl
from hogpipe_web.settings import WebSettings, find_problems
from hogpipe_web.sink import WebSink

__all__ = ["HOGPIPE_API", "WebSettings", "WebSink", "hogpipe_sinks"]

HOGPIPE_API = 1
"""The version of hogpipe's interface for plugins."""


@hookimpl
def hogpipe_sinks() -> Iterable[SinkType[SinkSettings]]:
    """Offer the sink type `web`."""
    return [SinkType("web", WebSettings, WebSink, find_problems)]
