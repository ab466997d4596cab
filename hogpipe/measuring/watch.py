"""`hogpipe.watch` and `hogpipe.measure`: contexts in which traffic is measured.

In: a process, a control group, or nothing for this very process. Out: `Traffic`, whenever it is
read, and at the end of the context.

The source is `ebpf` where that is permitted, else `pcap`. Whatever runs meanwhile runs in threads,
so that contexts work in any thread and inside a running event loop, nest, and overlap. A process
that is forked inside a context is measured, but cannot read the measurement, and leaves the context
without an effect.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

from hogpipe.errors import CaptureError, HogpipeError, NotPermittedError
from hogpipe.linux.bpf.obstacles import BpfUnavailableError, Obstacle
from hogpipe.linux.process_starts import shows_host_pids
from hogpipe.linux.procfs import Procfs
from hogpipe.measuring.results import Peer, Totals, Traffic
from hogpipe.measuring.scope import CgroupScope, Scope, TreeScope
from hogpipe.measuring.socket_meter import SocketMeter
from hogpipe.sinks.connections import run_shielded

log = logging.getLogger(__name__)

_PROCFS = Path("/proc")
SourceChoice = Literal["auto", "ebpf", "pcap"]


class HasPid(Protocol):
    """A process: of subprocess, asyncio, multiprocessing or psutil."""

    @property
    def pid(self) -> int | None:
        """Its pid; None before its start."""


Target = int | str | os.PathLike[str] | HasPid
"""A pid, the path of a control group, or a process."""


class Meter(Protocol):
    """Counts the traffic of a scope until it is closed."""

    def read(self) -> Traffic:
        """Return what was moved since it was opened, or since `restart`. Raises CaptureError."""

    def restart(self) -> None:
        """Count from zero from now on. Raises CaptureError."""

    def close(self) -> None:
        """End the counting. May be called again."""


class Watch:
    """A context, plain or async, that measures the traffic of one process or control group.

    `watch` and `measure` make it. It may be entered once. Entering takes some 100 ms and leaving
    50, with the source `pcap` 200 and up to a second (docs/measure.md).
    """

    def __init__(self, open_meter: Callable[[], Meter]) -> None:
        self._open_meter = open_meter
        self._meter: Meter | None = None
        self._owner = os.getpid()
        self._traffic: Traffic | None = None

    @property
    def traffic(self) -> Traffic:
        """The latest reading; after the context, all that was moved in it.

        Raises RuntimeError before the first reading.
        """
        if self._traffic is None:
            raise RuntimeError("nothing was read yet: leave the context first, or call read()")
        return self._traffic

    @property
    def totals(self) -> Totals:
        """The totals of the latest reading."""
        return self.traffic.totals

    @property
    def peers(self) -> tuple[Peer, ...]:
        """The peers of the latest reading, the one with the most bytes first."""
        return self.traffic.peers

    def read(self) -> Traffic:
        """Return what was moved until now, and the rates since the reading before.

        Blocks for some 15 ms, with `pcap` up to a second. Raises CaptureError, and RuntimeError
        outside of the context.
        """
        self._traffic = self._use_meter().read()
        return self._traffic

    async def read_async(self) -> Traffic:
        """Do the same without blocking the event loop."""
        return await asyncio.to_thread(self.read)

    def restart(self) -> None:
        """Count from zero from now on; blocks like `read`, and raises what it raises."""
        self._use_meter().restart()

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(error)

    async def __aenter__(self) -> Self:
        self._refuse_another_entry()
        try:
            await run_shielded(asyncio.to_thread(self._open))
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await run_shielded(asyncio.to_thread(self._end, error))

    def _refuse_another_entry(self) -> None:
        if self._meter is not None or self._traffic is not None:
            raise RuntimeError("a measurement is entered once; make another one")

    def _open(self) -> None:
        self._refuse_another_entry()
        self._owner = os.getpid()
        self._meter = self._open_meter()

    def _use_meter(self) -> Meter:
        if self._meter is None:
            raise RuntimeError("the measurement has not begun, or is over")
        if os.getpid() != self._owner:
            raise RuntimeError("the measurement belongs to the process that forked this one")
        return self._meter

    def _end(self, error: BaseException | None) -> None:
        """Read the last time, and close; what the block raised goes before a failed reading."""
        if os.getpid() != self._owner:
            return
        try:
            self.read()
        except CaptureError:
            if error is None:
                raise
            log.warning("what was moved could not be read at the end", exc_info=True)
        finally:
            self._close()

    def _close(self) -> None:
        meter, self._meter = self._meter, None
        if meter is not None:
            meter.close()


def watch(target: Target, *, children: bool = True, source: SourceChoice = "auto") -> Watch:
    """Return a context that measures a process, or a control group and those below it.

    With `children`, all processes that descend from a process count, too, those that it forked
    before included. The target is looked for when the context is entered.

    Entering raises ProcessLookupError or FileNotFoundError if there is no such process or control
    group, and NotPermittedError, with the remedy, if this process may neither count at sockets nor
    capture. A process that ends meanwhile stays measured: `Traffic.is_running` says so.
    """
    return Watch(lambda: _open_meter(lambda: _find_scope(target, children=children), source))


def measure(*, source: SourceChoice = "auto") -> Watch:
    """Return a context that measures what this process and its children move inside of it.

    All threads count, and all sockets, also those that were open before. After the context,
    `totals` and `peers` have what was moved. Entering raises NotPermittedError, like `watch`.
    """
    return watch(os.getpid(), source=source)


def _find_scope(target: Target, *, children: bool) -> Scope:
    procfs = Procfs(_PROCFS)
    if isinstance(target, str | os.PathLike):
        return CgroupScope(os.fspath(target), procfs)
    pid = target if isinstance(target, int) else target.pid
    if pid is None or pid <= 0:
        raise ProcessLookupError("the process has not been started")
    return TreeScope(pid, procfs, children=children)


def _open_meter(find_scope: Callable[[], Scope], source: SourceChoice) -> Meter:
    obstacle: BpfUnavailableError | None = None
    if source != "pcap":
        try:
            return _open_socket_meter(find_scope)
        except BpfUnavailableError as error:
            if source == "ebpf":
                raise _explain(error) from error
            obstacle = error
    from hogpipe.measuring.packet_meter import PacketMeter  # a whole pipeline, rarely needed

    try:
        meter = PacketMeter(find_scope())
    except NotPermittedError as error:
        if obstacle is None:
            raise
        raise NotPermittedError(f"{obstacle}; nor may packets be captured: {error}") from error
    if obstacle is not None:
        log.info("packets are captured instead: %s", obstacle)
    return meter


def _open_socket_meter(find_scope: Callable[[], Scope]) -> Meter:
    if not shows_host_pids(_PROCFS):
        raise BpfUnavailableError(
            Obstacle.PRIVILEGES,
            "eBPF: the kernel records the host's pids, and this process is in a pid namespace of "
            "its own; run it in the host's (--pid=host)",
        )
    return SocketMeter(find_scope())


def _explain(error: BpfUnavailableError) -> HogpipeError:
    is_refusal = error.obstacle is Obstacle.PRIVILEGES
    return NotPermittedError(str(error)) if is_refusal else error
