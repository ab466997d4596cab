"""The command line: commands, signals, and errors as one line with an exit code (docs/cli.md)."""

import asyncio
import gc
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn

import click

from hogpipe.capture.live.link_selection import AUTO, select_links
from hogpipe.config import Settings, load_config
from hogpipe.config.checks import find_ignored_keys
from hogpipe.doctor import encode_findings, examine
from hogpipe.errors import HogpipeError
from hogpipe.linux.rtnetlink import Link, LinkTable, read_link_table
from hogpipe.pipeline import Pipeline
from hogpipe.records.summary import Summary
from hogpipe.signals import StopSignals, leave
from hogpipe.sinks.registry import PluginInfo, encode_plugin, load_plugins
from hogpipe.text import describe_error, printable
from hogpipe.version import __version__

log = logging.getLogger("hogpipe")

_CONFIG = click.argument("config", type=click.Path(path_type=Path, readable=False))
_SET = click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Override a setting, e.g. capture.interfaces='[\"lo\"]'; may be repeated.",
)


def _make_printable(record: logging.LogRecord) -> bool:
    """Keep out of a log line what would steer a terminal or forge another line."""
    record.msg, record.args = printable(record.getMessage()), ()
    return True


def _be_finite(
    _context: click.Context, _parameter: click.Parameter, value: float | None
) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter("must be a finite number of seconds")
    return value


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hogpipe")
@click.option("-v", "--verbose", count=True, help="Log more: once what happens, twice details.")
def commands(verbose: int) -> None:
    """Tell which process on this host sends and receives which bytes."""
    handler = logging.StreamHandler()
    handler.addFilter(_make_printable)
    levels = (logging.WARNING, logging.INFO, logging.DEBUG)
    logging.basicConfig(
        level=levels[min(verbose, 2)],
        format="hogpipe: %(levelname)s: %(message)s",
        handlers=[handler],
    )


@commands.command()
@_CONFIG
@_SET
@click.option(
    "--duration",
    type=click.FloatRange(0, min_open=True),
    callback=_be_finite,
    metavar="SECONDS",
    help="End the run after this time.",
)
def run(config: Path, overrides: Sequence[str], duration: float | None) -> None:
    """Capture, attribute and deliver until interrupted."""
    settings = load_config(config, overrides)
    if unused := find_ignored_keys(settings, changed=True):
        log.warning("%s", _tell_without_effect(settings, unused))
    with _only_sinks_on_stdout():
        asyncio.run(_run(settings, duration))


@contextmanager
def _only_sinks_on_stdout() -> Iterator[None]:
    """Send elsewhere what a plugin prints, as it must not get in among records on stdout.

    The sinks for stdout write to its descriptor. Where either stream was never open, nothing is
    changed, so that it can still be told.
    """
    if sys.stdout is None or sys.stderr is None:
        yield
    else:
        with redirect_stdout(sys.stderr):
            yield


async def _run(settings: Settings, duration: float | None) -> NoReturn:
    pipeline = Pipeline(settings)
    _collect_garbage_seldom()
    opening = asyncio.create_task(pipeline.open())

    def stop_opening() -> None:
        if not opening.cancel():  # it has just ended, and nobody has noticed yet
            pipeline.stop()

    signals = StopSignals(stop_opening)
    code = 0
    try:
        await opening
        signals.action = pipeline.stop
        signals.on_hangup(pipeline.reopen)
        if duration is not None:
            asyncio.get_running_loop().call_later(duration, pipeline.stop)
        await pipeline.run()
    except asyncio.CancelledError:
        log.info("stopped before it had begun")
    except HogpipeError as error:
        code = _tell_error(error)
    if opening.done() and not opening.cancelled() and not opening.exception():
        _tell_summary(pipeline.summary)
    leave(code)


def _collect_garbage_seldom() -> None:
    """Keep Python's collector from going through all records again and again.

    A window of 50,000 has a million objects and hardly a cycle. As the thresholds are by default,
    each such window meant two collections of everything, of up to two seconds, in which all threads
    stand still. Now the young objects are gone through, in some 10 ms, and all a thousand times
    less often; what was loaded at the start, never.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(2_000, 10, 1_000)


def _tell_summary(summary: Summary) -> None:
    for line in summary.undelivered:
        log.warning("%s", line)
    click.echo(f"hogpipe: {summary}", err=True)


def _tell_error(error: HogpipeError) -> int:
    """Print an error, a line for each problem, and return the exit code."""
    for line in str(error).split("\n"):
        click.echo(f"hogpipe: {printable(line)}", err=True)
    return error.exit_code


def _tell_without_effect(settings: Settings, keys: Sequence[str]) -> str:
    return f'with source "{settings.capture.source}" without effect: {", ".join(keys)}'


@commands.command()
@_CONFIG
@_SET
def check(config: Path, overrides: Sequence[str]) -> None:
    """Read a configuration, report every error in it, and end."""
    settings = load_config(config, overrides)
    names = ", ".join(f"{choice.settings.name}" for choice in settings.sinks) or "none"
    click.echo(f"{config}: valid; source {settings.capture.source}, sinks {names}")
    counts = settings.capture.source == "ebpf"
    if unused := find_ignored_keys(settings, changed=not counts):
        click.echo(f"{config}: note: {_tell_without_effect(settings, unused)}")


@commands.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, for programs.")
def doctor(*, as_json: bool) -> None:
    """Tell what this host allows, and the remedy for each thing that it does not."""
    findings = examine()
    if as_json:
        click.echo(encode_findings(findings))
    for one in findings if not as_json else ():
        mark = "ok" if one.good else "no"
        click.echo(printable(f"{mark}  {one.subject:<10} {one.text}"))
    sys.exit(max(one.exit_code for one in findings))


@commands.command()
def interfaces() -> None:
    """List the interfaces of this host; a star marks what "auto" captures.

    A plus marks what it captures only for the network namespace behind it.
    """
    table = read_link_table()
    selected = select_links([AUTO], table.links)
    marks = {one.link.index: "+" if one.is_container_port else "*" for one in selected}
    for link in table.links:
        click.echo(printable(f"{marks.get(link.index, ' ')} {_describe(link, table)}"))


def _describe(link: Link, table: LinkTable) -> str:
    addresses = [
        f"{ip_address(entry.address)}/{entry.prefix_length}"
        for entry in table.addresses
        if entry.link == link.index
    ]
    state = "up" if link.up else "down"
    return f"{link.name:<15} {state:<4} {' '.join(addresses)}".rstrip()


@commands.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def plugins(paths: Sequence[Path], as_json: bool) -> None:
    """List the plugins: the built-in, those installed, and those at PATHS.

    Ends with 1 if one of them failed.
    """
    registry = load_plugins(paths, ())
    for plugin in registry.plugins:
        click.echo(encode_plugin(plugin) if as_json else printable(_describe_plugin(plugin)))
        if plugin.error and not as_json:
            click.echo(printable(f"    {plugin.error}"))
    sys.exit(1 if registry.failures else 0)


def _describe_plugin(plugin: PluginInfo) -> str:
    sinks = ", ".join(plugin.sinks) or "-"
    version = plugin.version or "-"
    return f"{plugin.name:<20} {version:<10} {plugin.state:<9} {sinks:<20} {plugin.origin}"


def main() -> None:
    """Run the command line."""
    try:
        commands.main(prog_name="hogpipe")
    except HogpipeError as error:
        sys.exit(_tell_error(error))
    except Exception as error:
        log.debug("where it failed", exc_info=error)
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        click.echo(f"hogpipe: {describe_error(error)} (hogpipe -vv tells more)", err=True)
        sys.exit(1)
