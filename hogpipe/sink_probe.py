"""What each sink connects to now: `hogpipe check --connect`.

In: the sinks of a configuration. Out: for each a `Probe`: whether a run could open it at this
moment, and what was found, or why not and what to do. No error of a sink is raised.

All sinks are probed at the same time, each in a thread with an event loop of its own and within the
time limits of a run (isolation.py): one that blocks its event loop delays neither others nor the
end. A sink with `probe` (contract.py) is asked, any other one is opened; both are closed. No queue
is made, so a spool is neither read nor changed.

Known limit: a sink without `probe` leaves what its `open` leaves.
"""

import asyncio
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from errno import EACCES, ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, ENOSPC, EROFS
from socket import gaierror

from hogpipe.config.settings import ConfiguredSink
from hogpipe.delivery import isolation
from hogpipe.delivery.isolation import IsolatedSink
from hogpipe.delivery.loop_watch import LoopWatch
from hogpipe.errors import ConfigurationError, HogpipeError
from hogpipe.factory import make_sink
from hogpipe.sinks.connections import describe_connection_error
from hogpipe.sinks.plugin_errors import describe_bug
from hogpipe.text import printable

_CLOSE_SECONDS = 2.0  # for what follows an open that took all of its time
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


def probe_sinks(choices: Sequence[ConfiguredSink]) -> list[Probe]:
    """Return what was found of each sink, in their order.

    The thread of a sink that blocks its event loop still runs then; it does not keep the process.
    """
    threads = [_ProbeThread(choice) for choice in choices]
    for thread in threads:
        thread.start()
    end = time.monotonic() + isolation.OPEN_SECONDS + _CLOSE_SECONDS
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return [thread.conclude() for thread in threads]


class _ProbeThread(threading.Thread):
    """Probes one sink."""

    def __init__(self, choice: ConfiguredSink) -> None:
        super().__init__(daemon=True)
        self._choice = choice
        self._sink = printable(choice.settings.name or choice.settings.type)
        self._found: Probe | None = None
        self._blocking = ""
        """That the sink blocks its event loop, and where."""

    def run(self) -> None:
        """Probe the sink."""
        self._found = asyncio.run(self._probe())

    def conclude(self) -> Probe:
        """Return what was found so far."""
        found, blocking = self._found, self._blocking
        if found is None:
            return self._fail(blocking or _describe_blocking(""))
        return replace(found, text=f"{found.text}; {blocking}") if blocking else found

    async def _probe(self) -> Probe:
        watch = LoopWatch()
        watch.start()
        try:
            sink, settings = make_sink(self._choice, live=True)
            calls = IsolatedSink(sink, settings.write_timeout, watch, self._report_blocking)
            return await self._close(calls, await self._open(calls))
        except ConfigurationError as error:  # the sink cannot be made
            return self._fail(_describe_failure(error))
        finally:
            watch.stop()

    async def _open(self, calls: IsolatedSink) -> Probe:
        try:
            found = await calls.probe()
        except Exception as error:  # noqa: BLE001 - a plugin may raise any error
            return self._fail(_describe_failure(error))
        return Probe(self._sink, good=True, text=printable(found))

    async def _close(self, calls: IsolatedSink, found: Probe) -> Probe:
        try:
            await calls.close()
        except Exception as error:  # noqa: BLE001 - a plugin may raise any error
            return (
                self._fail(f"cannot be closed: {_describe_failure(error)}") if found.good else found
            )
        return found

    def _fail(self, text: str) -> Probe:
        return Probe(self._sink, good=False, text=text)

    def _report_blocking(self, place: str) -> None:
        self._blocking = _describe_blocking(place)


def _describe_blocking(place: str) -> str:
    return f"blocks the event loop{place}; its blocking calls have to be made in a thread"


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
