"""Options of the command line as decorators: verbosity, durations, and stand-ins for settings."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import click

from hogpipe.text import NOTICE

Command = TypeVar("Command", bound=Callable[..., object])

SET = click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Override a setting, e.g. capture.snaplen=256; may be repeated.",
)

INSECURE = click.option(
    "--insecure",
    "is_insecure",
    is_flag=True,
    help="Use configuration and plugins that other users may write to, in spite of privileges.",
)


def _add(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    """Add options, which the help lists in this order."""
    for option in reversed(options):
        command = option(command)
    return command


def _parse_duration(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> float | None:
    if value is None:
        return None
    from hogpipe.config.durations import parse_seconds  # imports all of the configuration

    try:
        seconds = parse_seconds(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    if not 0 < seconds < math.inf:
        raise click.BadParameter("must be more than 0, and finite")
    return seconds


def _make_louder(_context: click.Context, _parameter: click.Parameter, count: int) -> None:
    if not count:
        return
    levels = (NOTICE, logging.INFO, logging.DEBUG)
    root = logging.getLogger()
    now = levels.index(root.level) if root.level in levels else 0
    root.setLevel(levels[min(now + count, 2)])


def _make_quiet(_context: click.Context, _parameter: click.Parameter, quiet: bool) -> None:
    if quiet:
        logging.getLogger().setLevel(logging.ERROR)


def with_verbosity(command: Command) -> Command:
    """Add -v and -q, which each command takes, before and after its name."""
    louder = click.option(
        *("-v", "--verbose"),
        count=True,
        expose_value=False,
        callback=_make_louder,
        help="Log events; twice: log details.",
    )
    quiet = click.option(
        *("-q", "--quiet"),
        is_flag=True,
        expose_value=False,
        callback=_make_quiet,
        help="Print errors only.",
    )
    return louder(quiet(command))


def with_settings(command: Command) -> Command:
    """Add the options that stand for settings: the fields of `RunOptions`."""
    formatted = click.option(
        "--format",
        type=click.Choice(["auto", "table", "table-scroll", "jsonl"]),
        help="What is printed: a table, or JSON lines.",
    )
    return with_capture_settings(formatted(command))


_INTERFACE = click.option(
    *("-i", "--interface"),
    multiple=True,
    metavar="NAME",
    help="Capture on this interface, a name or a glob; may be repeated.",
)
_READ = click.option(
    "--read",
    type=click.Path(path_type=Path, readable=False, resolve_path=True),
    metavar="FILE",
    help="Read this pcap or pcapng file instead.",
)


def _choose_only(verb: str) -> Callable[[Command], Command]:
    return click.option(
        "--only",
        multiple=True,
        metavar="SELECTOR",
        help=f"{verb} only this, e.g. program:nginx or remote:10.0.0.0/8; '!unit:cron.service' "
        "excludes; may be repeated.",
    )


def with_capture_settings(command: Command) -> Command:
    """Add the options for what is captured and how it is grouped, without those of sinks."""
    options = (
        _INTERFACE,
        _choose_only("Report"),
        click.option(
            "--group-by",
            multiple=True,
            metavar="DIMENSION[,...]",
            help="One record for each process, program, user, unit, port, remote, ...",
        ),
        click.option(
            "--source",
            type=click.Choice(["pcap", "ebpf"]),
            help="Capture packets, or let the kernel count at sockets.",
        ),
        _READ,
        click.option(
            "--interval", metavar="DURATION", help="The length of a window, e.g. 500ms or 1m."
        ),
    )
    return _add(command, options)


def with_packet_options(command: Command) -> Command:
    """Add the options of `capture`: which packets, and where they are written."""
    options = (
        click.option(
            *("-w", "--write"),
            required=True,
            type=click.Path(path_type=Path, readable=False, allow_dash=True),
            metavar="FILE",
            help="Write packets to this pcapng file, which is replaced; - is the standard output.",
        ),
        _INTERFACE,
        _choose_only("Write"),
        _READ,
        click.option(
            "--snaplen",
            type=click.IntRange(96, 262_144),
            default=262_144,
            metavar="BYTES",
            help="How many bytes of each frame are captured; all by default.",
        ),
        click.option(
            "--rotate-mib",
            type=click.IntRange(1),
            metavar="MIB",
            help="Begin another file at this size.",
        ),
        click.option(
            "--rotate-every",
            callback=_parse_duration,
            metavar="DURATION",
            help="Begin another file at each multiple of this time (UTC).",
        ),
        click.option(
            "--keep",
            type=click.IntRange(1),
            metavar="N",
            help="Keep so many closed files, and delete older ones.",
        ),
        click.option(
            "--max-waiting",
            "max_waiting_mib",
            type=click.IntRange(1, 65_536),
            default=64,
            show_default=True,
            metavar="MIB",
            help="The memory of packets that wait for their owners.",
        ),
    )
    return _add(command, options)


def _parse_speed(_context: click.Context, _parameter: click.Parameter, value: str) -> float | None:
    """Return a factor; None for `max`."""
    if value == "max":
        return None
    try:
        speed = float(value)
    except ValueError:
        speed = math.nan
    if not 0 < speed < math.inf:
        raise click.BadParameter('must be a number above 0, or "max"')
    return speed


SPEED = click.option(
    "--speed",
    callback=_parse_speed,
    default="1",
    metavar="FACTOR",
    help='How fast a recording is played: 1, 0.5, 60, ... or "max".',
)

DURATION = click.option(
    "--duration",
    callback=_parse_duration,
    metavar="DURATION",
    help='Stop after this time: seconds, or "30s", "5m", "1h30m".',
)


def with_question(command: Command) -> Command:
    """Add the options of a report: the fields of `Request` (hogpipe.report.reporting)."""
    options = (
        click.option(
            "--by",
            default="program",
            show_default=True,
            metavar="DIMENSION[,...]",
            help="A row for each process, program, user, unit, port, remote, flow, ...; total.",
        ),
        click.option(
            "--since", metavar="TIME", help="From this time (UTC), or from so long ago: 2h."
        ),
        click.option("--until", metavar="TIME", help="Up to this time."),
        click.option(
            "--only",
            multiple=True,
            metavar="SELECTOR",
            help="Only this traffic, e.g. program:nginx or remote:10.0.0.0/8; '!unit:cron.service' "
            "excludes; none is traffic without an owner; may be repeated.",
        ),
        click.option(
            "--top",
            type=click.IntRange(1),
            default=20,
            show_default=True,
            metavar="N",
            help="Rows for the groups with the most bytes; all others in one sum.",
        ),
        click.option(
            "--health",
            is_flag=True,
            help="Also the health of TCP connections: retransmits, round-trip times, failures.",
        ),
        click.option("--step", metavar="DURATION", help="Over time, in steps: auto, 10s, 1h."),
        click.option(
            "--format",
            type=click.Choice(["table", "json", "csv", "parquet"]),
            default="table",
            show_default=True,
            help="What is printed.",
        ),
        click.option(
            "-o",
            "--output",
            type=click.Path(path_type=Path, readable=False),
            metavar="FILE",
            help="Print into this file.",
        ),
        click.option(
            "--html",
            type=click.Path(path_type=Path, readable=False),
            metavar="FILE",
            help="Also write a page with a chart and a table.",
        ),
        click.option(
            "--sql", metavar="QUERY", help="Ask the views traffic and stats in DuckDB's SQL."
        ),
    )
    return _add(command, options)
