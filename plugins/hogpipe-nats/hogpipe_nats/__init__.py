"""The `nats` sink: each record is a message in a NATS JetStream stream.

    settings.py    PURE: the `[[sinks]]` table
    login.py       the login, and the files for it
    connection.py  one connection: the client of nats-py, and its release
    sink.py        windows -> messages, and their acknowledgements

A window counts as delivered when the server has acknowledged each of its messages. A message
without an acknowledgement is sent again with the same `Nats-Msg-Id`, `run`-`sequence`, by which the
server drops repeats.
"""

from collections.abc import Iterable

from hogpipe import SettingProblem, SinkSettings, SinkType, hookimpl
from hogpipe_nats.login import find_login_problems
from hogpipe_nats.settings import NatsSettings, find_problems
from hogpipe_nats.sink import NatsSink

__all__ = ["HOGPIPE_API", "NatsSettings", "NatsSink", "hogpipe_sinks"]

HOGPIPE_API = 1
"""The version of hogpipe's interface for plugins."""


@hookimpl
def hogpipe_sinks() -> Iterable[SinkType[SinkSettings]]:
    """Offer the sink type `nats`."""
    return [SinkType("nats", NatsSettings, NatsSink, _check)]


def _check(settings: NatsSettings) -> Iterable[SettingProblem]:
    yield from find_problems(settings)
    yield from find_login_problems(settings)
