"""The command line: commands, signals, and errors as one line with an exit code (docs/cli.md)."""

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import click

from hogpipe.capture.interfaces import AUTO, select_links
from hogpipe.capture.netlink import Link, LinkTable, read_link_table
from hogpipe.config import Settings, load_config
from hogpipe.errors import HogpipeError
from hogpipe.pipeline import Pipeline
from hogpipe.sinks.registry import load_plugins
from hogpipe.text import printable
from hogpipe.version import __version__

log = logging.getLogger("hogpipe")

_CONFIG = click.argument("config", type=click.Path(path_type=Path))
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
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End the run after this time.",
)
def run(config: Path, overrides: Sequence[str], duration: float | None) -> None:
    """Capture, attribute and deliver until interrupted."""
    settings = load_config(config, overrides)
    pipeline = asyncio.run(_run(settings, duration))
    for line in pipeline.summary.undelivered:
        log.warning("%s", line)
    click.echo(f"hogpipe: {pipeline.summary}", err=True)


async def _run(settings: Settings, duration: float | None) -> Pipeline:
    pipeline = Pipeline(settings)
    await pipeline.open()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, pipeline.stop)
    loop.add_signal_handler(signal.SIGHUP, pipeline.reopen)
    if duration is not None:
        loop.call_later(duration, pipeline.stop)
    await pipeline.run()
    return pipeline


@commands.command()
@_CONFIG
@_SET
def check(config: Path, overrides: Sequence[str]) -> None:
    """Read a configuration, report every error in it, and end."""
    settings = load_config(config, overrides)
    names = ", ".join(f"{choice.settings.name}" for choice in settings.sinks)
    click.echo(f"{config}: valid; source {settings.capture.source}, sinks {names}")


@commands.command()
def interfaces() -> None:
    """List the interfaces of this host; a star marks what "auto" captures."""
    table = read_link_table()
    chosen = {link.index for link in select_links([AUTO], table.links)}
    for link in table.links:
        click.echo(printable(_describe(link, table, chosen=link.index in chosen)))


def _describe(link: Link, table: LinkTable, *, chosen: bool) -> str:
    addresses = [
        f"{ip_address(entry.address)}/{entry.prefix_length}"
        for entry in table.addresses
        if entry.link == link.index
    ]
    state = "up" if link.up else "down"
    row = f"{'*' if chosen else ' '} {link.name:<15} {state:<4} {' '.join(addresses)}"
    return row.rstrip()


@commands.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
def plugins(paths: Sequence[Path]) -> None:
    """List the plugins: the built-in, those installed, and those at PATHS."""
    for plugin in load_plugins(paths, ()).plugins:
        sinks = ", ".join(plugin.sinks) or "-"
        click.echo(printable(f"{plugin.name:<20} {plugin.state:<9} {sinks:<24} {plugin.origin}"))
        if plugin.error:
            click.echo(printable(f"    {plugin.error}"))


def main() -> None:
    """Run the command line."""
    try:
        commands.main(prog_name="hogpipe")
    except HogpipeError as error:
        for line in str(error).splitlines():
            click.echo(f"hogpipe: {printable(line)}", err=True)
        sys.exit(error.exit_code)
