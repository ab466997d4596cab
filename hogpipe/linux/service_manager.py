"""Reports the state of the run to the service manager that started the process (sd_notify(3)).

In: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID of the environment. Out: datagrams of lines
`NAME=value` to that socket. Without NOTIFY_SOCKET nothing is sent. A manager that cannot be reached
does not end a run: what it misses is only its own view.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

_MICROSECONDS = 1_000_000
_REPORT_SECONDS = 10.0


class ServiceManager:
    """The manager that `environ` names, or none. For the thread of the event loop."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        # "@" stands for the zero byte that an abstract socket's name begins with (unix(7)).
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        self._interval = min(_REPORT_SECONDS, _read_watchdog(environ) / 2)

    def report_ready(self, status: str | None = None) -> None:
        """Report that the capture has begun or a reload is complete, perhaps with a status."""
        self._send("READY=1" if status is None else f"READY=1\nSTATUS={status}")

    def report_reloading(self) -> None:
        """Report that a reload begins; `report_ready` follows."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def report_stopping(self) -> None:
        """Report that the run is ending."""
        self._send("STOPPING=1")

    async def report_status(self, describe: Callable[[], str]) -> None:
        """Report the text of `describe`, and that the event loop runs, until cancelled."""
        while self._address:
            self._send(f"WATCHDOG=1\nSTATUS={describe()}")
            await asyncio.sleep(self._interval)

    def _send(self, state: str) -> None:
        if not self._address:
            return
        with (
            suppress(OSError),  # the manager is gone, or its queue is full
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as end,
        ):
            end.sendto(state.encode(), self._address)


def _read_watchdog(environ: Mapping[str, str]) -> float:
    """Return the seconds after which the manager ends a silent process; infinite if it does not."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return float("inf")
    try:
        return int(environ["WATCHDOG_USEC"]) / _MICROSECONDS or float("inf")
    except (KeyError, ValueError):
        return float("inf")
