"""The command line: commands, stop signals, and errors as lines with an exit code (docs/cli.md).

Records go to the sinks, logs and errors to the standard error output. A HogpipeError becomes one
line for each problem, and its exit code; any other exception becomes one line and exit code 1.

Each command imports what it needs itself: the pipeline takes a quarter of a second, for which
neither `--help` nor a completion should wait.
"""

import gc
import json
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Literal, NoReturn, TextIO

import click

from hogpipe.command_options import (
    DURATION,
    INSECURE,
    SET,
    SPEED,
    with_capture_settings,
    with_packet_options,
    with_question,
    with_settings,
    with_verbosity,
)
from hogpipe.errors import ConfigurationError, HogpipeError, NotPermittedError
from hogpipe.linux.capabilities import use_permitted
from hogpipe.logs import report_error, report_failure, set_up_logging, use_format
from hogpipe.signals import StopSignals, end_process, exit_code_of
from hogpipe.terminal import make_streams_printable
from hogpipe.text import describe_error, printable
from hogpipe.version import __version__

if TYPE_CHECKING:
    from hogpipe.config import Settings
    from hogpipe.linux.rtnetlink import Link, LinkTable
    from hogpipe.security.confinement import Report
    from hogpipe.sink_probe import Probe
    from hogpipe.sinks.registry import PluginInfo
    from hogpipe.top.screen_sources import WindowSource

log = logging.getLogger("hogpipe")


_PATH = click.Path(path_type=Path, readable=False)
_CONFIG = click.argument("config", type=_PATH)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hogpipe")
@with_verbosity
@click.pass_context
def commands(context: click.Context) -> None:
    """Report which process on this host sends and receives which bytes."""
    is_run = context.invoked_subcommand in {run.name, top.name, capture.name}
    context.ensure_object(StopSignals).set_stop_action(_stop_before_start if is_run else _interrupt)


def _stop_before_start(_number: Signals) -> NoReturn:
    end_process("stopped before the capture started", 0)


def _interrupt(number: Signals) -> NoReturn:
    end_process(f"interrupted by {number.name}", exit_code_of(number))


@commands.command()
@click.argument("config", type=_PATH, required=False)
@with_settings
@SET
@INSECURE
@with_verbosity
@DURATION
@click.pass_obj
def run(
    signals: StopSignals,
    /,
    config: Path | None,
    overrides: Sequence[str],
    duration: float | None,
    is_insecure: bool,
    **options: object,
) -> None:
    """Capture, attribute and deliver until interrupted.

    Without CONFIG the defaults apply: all real interfaces, and a table on a terminal or JSON lines
    in a pipe. Options replace settings of CONFIG. On SIGHUP CONFIG is read again, and sinks that
    write files reopen them.
    """
    if options["read"] and options["source"]:
        raise click.UsageError("--read and --source exclude each other")

    import msgspec

    from hogpipe.config.checks import find_ignored_keys
    from hogpipe.config.options import RunOptions
    from hogpipe.run_command import run_in_event_loop, run_pipeline
    from hogpipe.security.confined_start import load_and_confine

    chosen = msgspec.convert(options, RunOptions)
    start = load_and_confine(config, chosen, overrides, os.environ, is_insecure=is_insecure)
    settings = start.settings
    use_format(settings.log.format, os.environ)
    _log_reports(start.reports)
    if ignored := find_ignored_keys(settings, changed=True):
        log.warning("%s", _describe_ignored(settings, ignored))

    async def run_to_end() -> NoReturn:
        load_again = start.load_again if config else None
        code = await run_pipeline(settings, start.threads, load_again, duration, signals)
        _exit_without_threads(code)

    with _stdout_for_sinks_only():
        _tune_garbage_collector()
        run_in_event_loop(run_to_end())


@commands.command()
@click.argument("config", type=_PATH, required=False)
@with_capture_settings
@click.option(
    "--from",
    "records",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help="Show recorded traffic: JSON lines, plain or gzip, or a history; also while it grows.",
)
@click.option(
    "--since",
    metavar="TIME",
    help="Begin a recording at this time (UTC), or so long ago: 2026-11-22T15:00, 15:00, 2h.",
)
@SPEED
@SET
@INSECURE
@with_verbosity
@click.pass_obj
def top(
    signals: StopSignals,
    /,
    config: Path | None,
    *,
    overrides: Sequence[str],
    records: Path | None,
    since: str | None,
    speed: float | None,
    is_insecure: bool,
    group_by: Sequence[str],
    **options: object,
) -> None:
    """Show on a screen who transmits and receives how much; ? lists the keys.

    The sinks of CONFIG get nothing; its other settings hold. --group-by is what the rows are at
    first.
    """
    import asyncio

    from hogpipe.top.row_groups import GROUP_DIMENSION_OF
    from hogpipe.top.top_command import choose_recording, run_top

    names = [name for text in group_by for name in text.split(",")] or ["process"]
    if len(names) > 1 or names[0] not in GROUP_DIMENSION_OF:
        raise click.UsageError(f"--group-by: one of {', '.join(GROUP_DIMENSION_OF)}")
    if options["read"] and options["source"]:
        raise click.UsageError("--read and --source exclude each other")
    if records is None:
        if since:
            raise click.UsageError("--since is for --from")
        import msgspec

        from hogpipe.config.options import RunOptions
        from hogpipe.security.confined_start import load_and_confine
        from hogpipe.top.pipeline_source import PipelineSource

        chosen = msgspec.convert(options, RunOptions)
        if names == ["domain"]:  # so that names of peers are read, with the rights for it
            overrides = [*overrides, 'aggregation.group_by=["domain"]']
        start = load_and_confine(
            config, chosen, overrides, os.environ, is_insecure=is_insecure, uses_sinks=False
        )
        _log_reports(start.reports)
        source: WindowSource = PipelineSource(start.settings, start.threads)
    else:
        if config or overrides or is_insecure or any(options.values()):
            raise click.UsageError("--from reads records: no CONFIG and no options of a capture")
        source = choose_recording(records, _parse_since(since))

    async def show() -> NoReturn:
        try:
            code = await run_top(source, names[0], speed, signals)
        except HogpipeError as error:
            code = report_error(error)
        _exit_without_threads(code)

    _tune_garbage_collector()
    asyncio.run(show())


@commands.command()
@click.argument("config", type=_PATH, required=False)
@with_packet_options
@DURATION
@SET
@INSECURE
@with_verbosity
@click.pass_obj
def capture(
    signals: StopSignals,
    /,
    config: Path | None,
    *,
    overrides: Sequence[str],
    is_insecure: bool,
    snaplen: int,
    **options: object,
) -> None:
    """Write the packets of chosen programs to a pcapng file, with their owners.

    Each packet has the process id and a comment with the owner and the quality. The sinks of CONFIG
    get nothing; its other settings hold. On SIGHUP a file that was moved is reopened.
    """
    import msgspec

    from hogpipe.capture_command import CaptureOptions, capture_packets
    from hogpipe.config.options import RunOptions
    from hogpipe.run_command import run_in_event_loop
    from hogpipe.security.confined_start import load_and_confine

    asked = msgspec.convert(options, CaptureOptions)
    if problem := asked.find_problem(is_terminal=os.isatty(1), is_closed=sys.stdout is None):
        raise click.UsageError(problem)
    chosen = msgspec.convert(options, RunOptions)
    if chosen.read is None:
        chosen = msgspec.structs.replace(chosen, source="pcap")
    start = load_and_confine(
        config,
        chosen,
        [f"capture.snaplen={snaplen}", *overrides],
        os.environ,
        is_insecure=is_insecure,
        uses_sinks=False,
        outputs=[] if asked.path is None else [asked.path],
    )
    use_format(start.settings.log.format, os.environ)
    _log_reports(start.reports)

    async def run_to_end() -> NoReturn:
        code = await capture_packets(start.settings, start.threads, asked, signals)
        _exit_without_threads(code)

    with _stdout_for_sinks_only():
        _tune_garbage_collector()
        run_in_event_loop(run_to_end())


def _log_reports(reports: "Sequence[Report]") -> None:
    for level, text in reports:
        log.log(level, "%s", text)


def _parse_since(text: str | None) -> float:
    """Return a time as seconds since the epoch, 0 if there is none."""
    if text is None:
        return 0.0
    from datetime import UTC, datetime

    from hogpipe.report.times import parse_time

    try:
        return parse_time(text, datetime.now(UTC)).timestamp()
    except ValueError as error:
        raise click.UsageError(f"--since: {error}") from error


@contextmanager
def _stdout_for_sinks_only() -> Iterator[None]:
    """Redirect what a plugin prints to stderr, because it must not mix with records on stdout.

    The sinks for stdout write to its descriptor. If either stream was never open, nothing is
    redirected, so that the sinks can report it.
    """
    if sys.stdout is None or sys.stderr is None:
        yield
    else:
        with redirect_stdout(sys.stderr):
            yield


def _exit_without_threads(code: int) -> NoReturn:
    """End the process without waiting for its threads.

    The run is complete; a thread may still be blocked by a dead disk or name server, and the
    interpreter would wait for it.
    """
    logging.shutdown()
    streams: list[TextIO | None] = [sys.stdout, sys.stderr]
    for stream in streams:
        with suppress(OSError, ValueError):  # the reader has closed it
            if stream is not None:  # None: it was never open
                stream.flush()
    os._exit(code)


def _tune_garbage_collector() -> None:
    """Make full collections rare, because each one traverses all records and stops all threads.

    A window of 50,000 records has a million objects and hardly a cycle. With the default
    thresholds, each such window causes two full collections of up to two seconds. With these, young
    objects are collected in some 10 ms, full collections are a thousand times rarer, and objects
    loaded at the start are never traversed.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(2_000, 10, 1_000)


def _describe_ignored(settings: "Settings", keys: Sequence[str]) -> str:
    return f'source "{settings.capture.source}" ignores {", ".join(keys)}'


@commands.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@with_question
@with_verbosity
@click.pass_obj
def report(signals: StopSignals, /, **options: object) -> None:
    """Sum up recorded traffic: files of JSON lines or Parquet, or a history.

    A SOURCE is a path, a glob, or - for the standard input. The report has the totals of each
    group; with --step, a chart.
    """
    from hogpipe.report.reporting import parse_request, run_report

    run_report(parse_request(options), signals)


@commands.command(name="exec", context_settings={"allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, for programs.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help="Print into this file instead of the standard error output.",
)
@click.option(
    "--source",
    type=click.Choice(["auto", "ebpf", "pcap"]),
    default="auto",
    show_default=True,
    help="What counts: the kernel at sockets, or a capture; auto: the first that is permitted.",
)
@with_verbosity
@click.pass_obj
def exec_(
    signals: StopSignals,
    /,
    command: Sequence[str],
    *,
    as_json: bool,
    output: Path | None,
    source: Literal["auto", "ebpf", "pcap"],
) -> None:
    """Run COMMAND, and print what it and its children moved, by peer, like time(1).

    Options after COMMAND are its own. The exit code is that of COMMAND; 127 if it is not found, 126
    if it cannot be executed. Signals are passed on.
    """
    import shutil

    from hogpipe.measuring.exec_command import ReportOptions, run_measured

    options = ReportOptions(as_json, output, shutil.get_terminal_size().columns)
    sys.exit(run_measured(command, source=source, report=options, ignored=signals.ignored))


@commands.command()
@_CONFIG
@SET
@click.option("--connect", is_flag=True, help="Open each sink, and report what it connects to.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, for programs.")
@INSECURE
@with_verbosity
def check(
    config: Path, overrides: Sequence[str], *, connect: bool, as_json: bool, is_insecure: bool
) -> None:
    """Read a configuration and report every error in it.

    As root, plugins and sinks have the rights that they would have in a run. With --connect, sinks
    are opened and closed; nothing is written. The exit code is 1 if one cannot be opened.
    """
    from hogpipe.config.checks import find_ignored_keys
    from hogpipe.security.confined_start import load_to_check

    try:
        settings, reports = load_to_check(config, overrides, os.environ, is_insecure=is_insecure)
    except (ConfigurationError, NotPermittedError) as error:
        if as_json:
            problems = error.problems if isinstance(error, ConfigurationError) else [str(error)]
            _print_json({"path": str(config), "valid": False, "problems": problems})
            sys.exit(error.exit_code)
        raise
    _log_reports(reports)
    source, names = settings.capture.source, [f"{one.settings.name}" for one in settings.sinks]
    ignored = find_ignored_keys(settings, changed=source != "ebpf")
    shown = printable(str(config))
    if not as_json:
        click.echo(f"{shown}: valid; source {source}, sinks {', '.join(names) or 'none'}")
        if ignored:
            click.echo(f"{shown}: note: {_describe_ignored(settings, ignored)}")
    probes = _probe_sinks(settings) if connect else ()
    if as_json:
        found: dict[str, object] = {"source": source, "sinks": names, "ignored": ignored}
        found |= {"connections": [probe.to_json() for probe in probes]} if connect else {}
        _print_json({"path": str(config), "valid": True, "problems": [], **found})
    else:
        _print_marked([(one.good, one.sink, one.text) for one in probes])
    if connect:  # the thread of a name lookup may still be blocked
        _exit_without_threads(0 if all(one.good for one in probes) else 1)


def _probe_sinks(settings: "Settings") -> "Sequence[Probe]":
    from hogpipe.sink_probe import probe_sinks

    with _stdout_for_sinks_only():
        return probe_sinks(settings.sinks)


def _print_marked(lines: Sequence[tuple[bool, str, str]]) -> None:
    """Print a line for each subject: whether it is good, its name, and a text."""
    width = max([10, *(len(subject) for _good, subject, _text in lines)])
    for good, subject, text in lines:
        click.echo(printable(f"{'ok' if good else 'no'}  {subject:<{width}} {text}"))


def _print_json(document: Mapping[str, object]) -> None:
    """Print ASCII only, so that a name controls no terminal."""
    click.echo(json.dumps(document))


@commands.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, for programs.")
@with_verbosity
def doctor(*, as_json: bool) -> None:
    """Check what this host permits, and print a remedy for each failed check."""
    from hogpipe.doctor import encode_findings, examine

    findings = examine()
    if as_json:
        click.echo(encode_findings(findings))
    else:
        _print_marked([(one.good, one.subject, one.text) for one in findings])
    sys.exit(max(one.exit_code for one in findings))


@commands.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@with_verbosity
def interfaces(*, as_json: bool) -> None:
    """List the interfaces of this host; a star marks those that "auto" captures.

    A plus marks those that it captures only for the network namespace behind them.
    """
    from hogpipe.capture.live.link_selection import AUTO, select_links
    from hogpipe.linux.rtnetlink import read_link_table

    table = read_link_table()
    selected = select_links([AUTO], table.links)
    ports = {one.link.index: one.is_container_port for one in selected}
    captures = {index: "containers" if is_port else "all" for index, is_port in ports.items()}
    marks = {None: " ", "all": "*", "containers": "+"}
    for link in table.links:
        captured, addresses = captures.get(link.index), _list_addresses(link, table)
        if as_json:
            found = {"name": link.name, "up": link.up, "addresses": addresses}
            _print_json(found | ({"captured": captured} if captured else {}))
            continue
        state = "up" if link.up else "down"
        line = f"{marks[captured]} {link.name:<15} {state:<4} {' '.join(addresses)}"
        click.echo(printable(line.rstrip()))


def _list_addresses(link: "Link", table: "LinkTable") -> list[str]:
    from ipaddress import ip_address

    return [
        f"{ip_address(entry.address)}/{entry.prefix_length}"
        for entry in table.addresses
        if entry.link == link.index
    ]


class _ListsByDefault(click.Group):
    """A group whose command `list` may be left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `list` in front of what names no command."""
        if not args or args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["list", *args]
        return super().parse_args(ctx, args)


@commands.group(cls=_ListsByDefault)
def plugins() -> None:
    """List the plugins (`plugins`, or `plugins list`), or begin one (`plugins new`)."""


@plugins.command("list")
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@INSECURE
@with_verbosity
def list_plugins(paths: Sequence[Path], *, as_json: bool, is_insecure: bool) -> None:
    """List the plugins: built-in, installed, and those at PATHS.

    The exit code is 1 if a plugin failed to load.
    """
    from hogpipe.security.confinement import confine_loading
    from hogpipe.security.file_trust import choose_trust
    from hogpipe.sinks.registry import encode_plugin, load_plugins

    trust = choose_trust(os.environ, is_insecure=is_insecure)
    _log_reports(confine_loading(paths, os.environ))
    registry = load_plugins(paths, (), trust)
    for plugin in registry.plugins:
        click.echo(encode_plugin(plugin) if as_json else printable(_describe_plugin(plugin)))
        if plugin.error and not as_json:
            click.echo(printable(f"    {plugin.error}"))
    sys.exit(1 if registry.failures else 0)


@plugins.command("new")
@click.argument("name")
@click.argument("folder", type=_PATH, required=False, metavar="[DIR]")
@with_verbosity
def begin_plugin(name: str, folder: Path | None) -> None:
    """Write a package for a sink type NAME into DIR, or the current folder.

    Its sink is that of the guide for plugins, and its tests pass. No file is replaced.
    """
    from hogpipe.templates.new_plugin import write_plugin

    _print_written(written := write_plugin(name, folder or Path()))
    package = str(written[0].parent)
    words = shlex.quote(f"{package}[test]"), shlex.quote(package)
    click.echo(printable(f"then: pip install {words[0]} && pytest {words[1]}"))


def _describe_plugin(plugin: "PluginInfo") -> str:
    sinks = ", ".join(plugin.sinks) or "-"
    version = plugin.version or "-"
    return f"{plugin.name:<20} {version:<10} {plugin.state:<9} {sinks:<20} {plugin.origin}"


@commands.command()
@click.argument("folder", type=_PATH, required=False, metavar="[DIR]")
@click.option(
    "--systemd", is_flag=True, help="Write the unit with a configuration below DIR, or /."
)
@click.option("--containers", is_flag=True, help="Let the unit read sockets inside containers.")
@click.option("--network-sinks", is_flag=True, help="Let sinks of the unit use the network.")
@with_verbosity
def init(folder: Path | None, *, systemd: bool, containers: bool, network_sinks: bool) -> None:
    """Write a configuration with every key and its default into DIR, or the current folder.

    No file is replaced.
    """
    from hogpipe.templates import write_config, write_service

    wanted = {"containers": containers, "network-sinks": network_sinks}
    drop_ins = tuple(name for name, is_wanted in wanted.items() if is_wanted)
    if drop_ins and not systemd:
        raise click.UsageError("--containers and --network-sinks are for --systemd")
    if systemd:
        written = write_service(folder or Path("/"), _find_program(), drop_ins)
        then = "systemctl daemon-reload && systemctl enable --now hogpipe"
    else:
        written = write_config(folder or Path())
        then = f"hogpipe run {written[0]}"
    _print_written(written)
    click.echo(f"then: {printable(then)}")


def _print_written(paths: Sequence[Path]) -> None:
    for path in paths:
        click.echo(f"wrote {printable(str(path))}")


def _find_program() -> Path:
    """Return the command that runs, not resolved: a link may outlive what it points to."""
    if Path(sys.argv[0]).name != "__main__.py":
        return Path(sys.argv[0]).absolute()
    return Path(sys.executable).with_name("hogpipe")  # python -m hogpipe


@commands.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes commands and options in this shell.

    For bash: eval "$(hogpipe completion bash)"
    """
    from click.shell_completion import get_completion_class

    completer = get_completion_class(shell)
    assert completer is not None  # click has one for each choice
    click.echo(completer(commands, {}, "hogpipe", "_HOGPIPE_COMPLETE").source())


def main(signals: StopSignals | None = None) -> None:
    """Run the command line; `signals` are installed already."""
    if signals is None:
        signals = StopSignals()
        signals.install()
    # No thread of a library that keeps the rights of the start; nothing here does linear algebra.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    make_streams_printable()
    set_up_logging(os.environ)
    use_permitted()  # before there are other threads
    try:
        commands.main(prog_name="hogpipe", obj=signals)
    except HogpipeError as error:
        sys.exit(report_error(error))
    except Exception as error:
        log.debug("traceback", exc_info=error)
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        report_failure(f"{describe_error(error)} (run with -vv for details)")
        sys.exit(1)
