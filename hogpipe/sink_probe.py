"""What each sink connects to now: `hogpipe check --connect`.

In: the sinks of a configuration. Out: for each a `Probe`: whether a run could open it at this
moment, and what was found, or why not and what to do. No error of a sink is raised.

All sinks are probed at the same time, each within the time limits of a run (isolation.py). One with
`probe` (contract.py) is asked, any other one is opened; both are closed. No queue is made, so a
spool is neither read nor changed.

Known limit: a sink without `probe` leaves what its `open` leaves.
"""

import asyncio
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from errno import EACCES, ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, ENOSPC, EROFS
from socket import gaierror

from hogpipe.config.settings import ConfiguredSink
from hogpipe.delivery.health import Health
from hogpipe.delivery.isolation import IsolatedSink
from hogpipe.delivery.loop_watch import LoopWatch
from hogpipe.errors import ConfigurationError, HogpipeError
from hogpipe.factory import make_sink
from hogpipe.sinks.connections import describe_connection_error
from hogpipe.sinks.plugin_errors import describe_bug
from hogpipe.text import printable

_REMEDIES = {
    EACCES: "give hogpipe the right to it, or choose another place",
    ECONNREFUSED: "start the receiver, or correct the port",
    EHOSTUNREACH: "no route leads there: see `ip route get`",
    ENETUNREACH: "no route leads there: see `ip route get`",
    ENOSPC: "free some space",
    EROFS: "choose a place that may be written to",
}


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found of one sink; `text` is one printable line."""

    sink: str
    """The name of the sink."""
    good: bool
    """Whether it could be opened."""
    text: str

    def to_json(self) -> dict[str, object]:
        """Return the probe as a JSON object."""
        return asdict(self)


async def probe_sinks(choices: Sequence[ConfiguredSink]) -> list[Probe]:
    """Return what was found of each sink, in their order."""
    watch = LoopWatch()
    watch.start()
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_probe(choice, watch)) for choice in choices]
    finally:
        watch.stop()
    return [task.result() for task in tasks]


async def _probe(choice: ConfiguredSink, watch: LoopWatch) -> Probe:
    name = printable(choice.settings.name or choice.settings.type)
    try:
        sink, settings = make_sink(choice, live=True)
    except ConfigurationError as error:
        return Probe(name, good=False, text=_describe_failure(error))
    health = Health(name, settings.type)
    calls = IsolatedSink(sink, settings.write_timeout, watch, health.report_blocking)
    try:
        found = await calls.probe()
    except Exception as error:  # noqa: BLE001 - a plugin may raise any error
        probe = Probe(name, good=False, text=_describe_failure(error))
    else:
        probe = Probe(name, good=True, text=printable(found))
    try:
        await calls.close()
    except Exception as error:  # noqa: BLE001 - a plugin may raise any error
        if probe.good:
            return Probe(name, good=False, text=f"cannot be closed: {_describe_failure(error)}")
    return probe


def _describe_failure(error: Exception) -> str:
    """Return why a sink cannot be opened, and the remedy where one is known, in one line."""
    if isinstance(error, ConfigurationError):
        text = "; ".join(error.problems)
    elif isinstance(error, HogpipeError):
        text = str(error) or type(error).__name__
    elif isinstance(error, OSError):
        text = describe_connection_error(error)
        text = f"{error.filename}: {text}" if error.filename else text
    else:
        text = f"cannot be opened: {describe_bug(error)}"
    remedies = filter(None, map(_find_remedy, _list_causes(error)))
    if not isinstance(error, ConfigurationError) and (remedy := next(remedies, "")):
        text = f"{text}; {remedy}"
    return printable("; ".join(line.strip() for line in text.splitlines()))


def _list_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and those that it was raised for."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _find_remedy(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "name its authority in tls.ca, or the name in its certificate in tls.server_name"
    if isinstance(error, ssl.SSLError):
        return "see whether this port takes TLS, and which certificates"
    if isinstance(error, gaierror):
        return "correct the name, or the name servers in /etc/resolv.conf"
    if isinstance(error, TimeoutError):
        return "see whether the receiver works, and whether a firewall is in the way"
    return _REMEDIES.get(error.errno or 0, "") if isinstance(error, OSError) else ""
