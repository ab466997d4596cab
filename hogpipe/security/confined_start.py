"""How a command that captures starts: its configuration, and its rights given up in between.

In: what `load_settings` takes, and the environment. Out: `ConfinedStart`. Raises
ConfigurationError, and NotPermittedError where a sandbox is demanded that is not possible.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hogpipe.config.load import convert_tables, read_tables
from hogpipe.config.options import RunOptions
from hogpipe.config.references import expand_path
from hogpipe.config.settings import Settings
from hogpipe.linux.capabilities import read_permitted
from hogpipe.security.confinement import Confined, Report, confine_run
from hogpipe.security.file_trust import choose_trust
from hogpipe.security.named_files import NamedFiles, find_named_files
from hogpipe.security.run_threads import RunThreads


@dataclass(frozen=True, slots=True)
class ConfinedStart:
    """A configuration, converted with the rights of the run, and the threads that have more."""

    settings: Settings
    threads: RunThreads
    reports: Sequence[Report]
    """What became of the rights."""
    load_again: Callable[[], Settings]
    """Return the settings of the same file by now; as the first ones are, they are read with rights
    that the calling thread may not have, and converted without."""


def load_to_check(
    path: Path, overrides: Sequence[str], environ: Mapping[str, str], *, is_insecure: bool = False
) -> tuple[Settings, Sequence[Report]]:
    """Return the settings, with the rights that plugins and sinks would have in a run.

    A process without rights keeps its user, whichever the configuration names. Otherwise as
    `load_and_confine`.
    """
    if read_permitted():
        start = load_and_confine(path, RunOptions(), overrides, environ, is_insecure=is_insecure)
        return start.settings, start.reports
    trust = choose_trust(environ, is_insecure=is_insecure)
    return convert_tables(read_tables(path, RunOptions(), overrides, trust)), ()


def load_and_confine(
    path: Path | None,
    options: RunOptions,
    overrides: Sequence[str],
    environ: Mapping[str, str],
    *,
    is_insecure: bool = False,
    uses_sinks: bool = True,
    outputs: Sequence[Path] | None = None,
) -> ConfinedStart:
    """Load settings and give up what they do not need; the process may have no other threads.

    Configuration and plugins that other users may write to are refused to a privileged process,
    unless it `is_insecure`. Without sinks, their files need not be usable. `outputs` are what is
    written besides; without any, and without sinks, the calling thread may write anywhere.
    """
    trust = choose_trust(environ, is_insecure=is_insecure)
    read = read_tables(path, options, overrides, trust)
    files = NamedFiles()
    if uses_sinks:
        files = find_named_files(read.tables.get("sinks"), partial(expand_path, read.folder))
    confined: list[Confined] = []

    def confine(settings: Settings) -> None:
        savefile = [settings.capture.path] if settings.capture.path else []
        read_too = (*files.read, *savefile, settings.attribution.procfs)
        named = NamedFiles((*files.written, *(outputs or ())), read_too)
        confined.append(confine_run(settings, named, environ))

    settings = convert_tables(read, confine)
    run = confined[0]
    bounds = None
    if uses_sinks or outputs is not None:
        bounds = run.restrict_outputs(settings.sinks if uses_sinks else (), outputs or ())

    def load_again() -> Settings:
        reading = run.threads.refresh.submit(read_tables, path, options, overrides, trust)
        wanted = convert_tables(reading.result())
        if bounds is not None:
            bounds.check(wanted.sinks)
        return wanted

    return ConfinedStart(settings, run.threads, run.reports, load_again)
