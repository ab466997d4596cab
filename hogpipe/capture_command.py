"""The command `capture`: a pipeline whose packets are written, from its start to its last line.

In: settings, the output, the signals of the process. Out: the file, lines on the standard error
output, and the exit code.
"""

import asyncio
import logging
import math
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from hogpipe.aggregation.selectors import parse_selector
from hogpipe.config.settings import Settings
from hogpipe.errors import ConfigurationError, HogpipeError
from hogpipe.files import find_output_problem
from hogpipe.logs import report_error
from hogpipe.model import make_networks
from hogpipe.packets.packet_buffer import PacketBuffer
from hogpipe.packets.packet_counts import PacketCounts
from hogpipe.packets.packet_file import FileOptions, PacketFile
from hogpipe.packets.packet_owners import PacketOwners
from hogpipe.packets.packet_writer import PacketWriter
from hogpipe.pipeline import Pipeline
from hogpipe.security.run_threads import RunThreads
from hogpipe.signals import StopSignals
from hogpipe.sinks.jsonl.rotation import RotationRule
from hogpipe.text import NOTICE, printable

log = logging.getLogger("hogpipe")

_MIB = 1 << 20
_INTERVAL = 1.0  # seconds, of windows: descriptions of processes are at most as old
_SETTLE_SECONDS = 2.0  # that the attribution stage may take beyond `hold`


class CaptureOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the command beyond settings."""

    write: Path
    """The file; "-" is the standard output."""
    rotate_mib: int | None = None
    rotate_every: float | None = None
    """Seconds."""
    keep: int | None = None
    """How many closed files are kept; all if None."""
    max_waiting_mib: int = 64
    """The memory of packets that wait for their owners, and of those that wait for the writer."""
    duration: float | None = None
    """After how many seconds the capture ends."""

    @property
    def path(self) -> Path | None:
        """The absolute path of the file; None is the standard output."""
        return None if str(self.write) == "-" else self.write.absolute()

    def find_problem(self, *, is_terminal: bool, is_closed: bool = False) -> str | None:
        """Return which options exclude each other, or what is wrong with the standard output."""
        rotates = self.rotate_mib is not None or self.rotate_every is not None
        if self.keep is not None and not rotates:
            return "--keep is for --rotate-mib and --rotate-every"
        if self.path is None and rotates:
            return "the standard output cannot be rotated"
        if self.path is None and is_closed:
            return "-w -: the standard output is closed; give it a reader"
        if self.path is None and is_terminal:
            return "-w -: the standard output is a terminal; redirect it"
        return None


async def capture_packets(
    settings: Settings, threads: RunThreads, options: CaptureOptions, signals: StopSignals
) -> int:
    """Capture until the source ends, the time is over, or a signal stops it; return the exit code.

    Raises HogpipeError where the pipeline cannot be made; later errors are reported.
    """
    loop, path = asyncio.get_running_loop(), options.path
    if problem := _find_problem(path, settings.capture.path):
        return report_error(ConfigurationError(f"-w {printable(str(path or '-'))}: {problem}"))
    if settings.capture.source == "ebpf":  # by --set
        text = 'capture.source: with "ebpf" no packet reaches hogpipe; "pcap" captures them'
        return report_error(ConfigurationError(text))
    is_live = settings.capture.source != "savefile"
    networks = make_networks(settings.networks)
    only = [parse_selector(text, networks) for text in settings.aggregation.only]
    wait = settings.attribution.hold + _SETTLE_SECONDS
    aggregation = msgspec.structs.replace(settings.aggregation, interval=_INTERVAL)
    buffer = PacketBuffer(
        options.max_waiting_mib * _MIB if is_live else math.inf,
        wait if is_live else math.inf,
        selects_unowned=all(one.excludes for one in only),
    )

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(writer.wake)

    owners = PacketOwners(buffer, only, waits=not is_live, on_ready=wake)
    pipeline = Pipeline(
        msgspec.structs.replace(settings, aggregation=aggregation, sinks=()),
        make_aggregator=owners.make_aggregator,
        threads=threads,
        tap=owners,
    )
    name = "the standard output" if path is None else str(path)
    file = PacketFile(_choose_file(settings, options), owners.interfaces)
    writer = PacketWriter(owners, file, name, partial(pipeline.stop, urgent=True))
    opening = asyncio.create_task(pipeline.open())

    def stop() -> None:
        if not opening.cancel():  # opening is complete
            signals.answer()
            writer.stop()
            owners.abandon()
            pipeline.stop(urgent=pipeline.is_stopping)

    signals.set_stop_action(lambda _number: loop.call_soon_threadsafe(stop))
    signals.set_hangup_action(lambda: loop.call_soon_threadsafe(writer.reopen))
    try:
        await opening
    except asyncio.CancelledError:
        log.log(NOTICE, "stopped before the capture started")
        return 0
    except HogpipeError as error:
        return report_error(error)
    if is_live:
        log.log(NOTICE, "%s", pipeline.describe_owners())
    if options.duration is not None:
        loop.call_later(options.duration, pipeline.stop)
    return await _run(pipeline, writer, owners.list_counts, is_live=is_live)


def _find_problem(path: Path | None, source: Path | None) -> str | None:
    """Return why packets of `source` cannot be written at `path`; None if they can."""
    try:
        if source is not None and _is_output(source, path):
            return "the file that is read; name another one"
        if path is None:
            return None
        if not path.parent.is_dir():
            return f"{printable(str(path.parent))} is not a folder"
    except OSError as error:
        return error.strerror
    return find_output_problem(path)


def _is_output(source: Path, path: Path | None) -> bool:
    """Return whether what is written at `path` would change the file that is read."""
    try:
        output = os.fstat(1) if path is None else path.stat()
        return os.path.samestat(output, source.stat())
    except FileNotFoundError:  # the output will be created, or the source says what it lacks
        return False


def _choose_file(settings: Settings, options: CaptureOptions) -> FileOptions:
    is_live = settings.capture.source != "savefile"
    most_bytes = None if options.rotate_mib is None else options.rotate_mib * _MIB
    return FileOptions(
        path=options.path,
        snaplen=settings.capture.snaplen if is_live else 0,
        filter=settings.capture.filter,
        rotation=RotationRule(most_bytes, options.rotate_every),
        keep=options.keep,
    )


async def _run(
    pipeline: Pipeline,
    writer: PacketWriter,
    list_counts: Callable[[], list[PacketCounts]],
    *,
    is_live: bool,
) -> int:
    code = 0
    writer.start()
    try:
        await pipeline.run()
    except HogpipeError as error:
        code = report_error(error)
    finally:
        await writer.finish()
    if writer.failure is not None:
        code = report_error(writer.failure)
    total = PacketCounts()
    for counts in list_counts():
        total.add(counts)
    log.log(
        NOTICE,
        "%.1f s, %d packets written of %s; the kernel dropped %d",
        pipeline.summary.seconds,
        total.written,
        total.describe(),
        total.kernel_dropped + total.interface_dropped,
    )
    if is_live and (unowned := pipeline.summary.describe_unowned()):
        log.log(NOTICE, "%s", unowned)
    return code
