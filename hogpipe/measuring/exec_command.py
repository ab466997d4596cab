"""`hogpipe exec -- COMMAND`: runs a command, and reports what it moved, as `time` does for time.

In: the command, and where the report goes. Out: the exit code of the command; the report, as a
table or one JSON document, on the standard error output or in a file. The command has the standard
streams, the environment and the rights of this process. What it moves is measured from before its
first instruction to its end, with all processes that descend from it.

Signals that stop, or that have no meaning here, are passed on to the command. The terminal sends
those of its keys to the command itself, so that they are not passed on.

What may fail, before the command runs: what `hogpipe.watch` raises, and HogpipeError for an output
that cannot be written. The exit codes are those of a shell: 127 if the command is not found, 126 if
it cannot be executed, 128 and the number of the signal that ended it. If what it moved cannot be
read or reported, a line says so; the exit code is that of the command, or 1 in place of 0.

Signals that were ignored when hogpipe began (nohup) are ignored in the command.

Known limit: SIGCHLD, SIGPIPE and SIGXFSZ have their defaults in the command.
"""

import errno
import json
import os
import shutil
import signal
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click

from hogpipe.errors import HogpipeError
from hogpipe.measuring.report import render_traffic
from hogpipe.measuring.results import Traffic
from hogpipe.measuring.watch import SourceChoice, measure
from hogpipe.report.output_file import check_output, replacing
from hogpipe.text import printable

_FAILED, _NOT_FOUND, _NOT_EXECUTABLE = 1, 127, 126
_PASSED_ON = frozenset({
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGALRM, signal.SIGCONT, signal.SIGWINCH,
})  # fmt: skip
# Python ignores these, or handles them here; a command expects their defaults.
_DEFAULTS = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
_SHELL = "/bin/sh"
_BY_KERNEL = 0x80  # SI_KERNEL of include/uapi/asm-generic/siginfo.h, as for the keys of a terminal


class ReportOptions(NamedTuple):
    """How a report is written, and where; `output` None is the standard error output."""

    as_json: bool
    output: Path | None
    width: int


def run_measured(
    command: Sequence[str],
    *,
    source: SourceChoice,
    report: ReportOptions,
    ignored: Collection[signal.Signals] = (),
) -> int:
    """Run a command, report what it moved, and return its exit code."""
    if report.output is not None:
        check_output(report.output)
    status: int | None = None
    try:
        with _waiting_for_signals(ignored) as mask, measure(source=source) as measured:
            if (signal.sigpending() & {signal.SIGINT, signal.SIGTERM}) - {*ignored}:
                return _FAILED  # once these are not blocked, their handlers end the process
            try:
                pid = _spawn(command, mask)
            except OSError as error:
                is_missing = isinstance(error, FileNotFoundError | NotADirectoryError)
                click.echo(f"hogpipe: {printable(command[0])}: {error.strerror}", err=True)
                return _NOT_FOUND if is_missing else _NOT_EXECUTABLE
            status = _wait(pid)
        _report(measured.traffic, report)
    except HogpipeError as error:
        if status is None:
            raise
        click.echo(f"hogpipe: {printable(str(error))}", err=True)
        return _exit_code_of(status) or _FAILED
    return _exit_code_of(status)


def _spawn(command: Sequence[str], mask: set[int]) -> int:
    """Start the command and return its pid; a script without an interpreter is one of a shell."""
    words = [*command]
    try:
        return os.posix_spawnp(words[0], words, os.environ, setsigmask=mask, setsigdef=_DEFAULTS)
    except OSError as error:
        script = shutil.which(words[0])
        if error.errno != errno.ENOEXEC or script is None:
            raise
    return os.posix_spawn(
        _SHELL, [_SHELL, script, *words[1:]], os.environ, setsigmask=mask, setsigdef=_DEFAULTS
    )


@contextmanager
def _waiting_for_signals(ignored: Collection[signal.Signals]) -> Iterator[set[int]]:
    """Block signals, so that `_wait` gets them; yields the mask for the command.

    Those that are `ignored` are ignored in the command, too. A blocked signal arrives nevertheless.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    # Where it is ignored, the end of a child is not reported.
    handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield {int(number) for number in before}
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(pid: int) -> int:
    """Wait for the command, pass signals on, and return its status."""
    while True:
        received = signal.sigwaitinfo({*_PASSED_ON, signal.SIGCHLD})
        if received.si_signo != signal.SIGCHLD:
            if received.si_code != _BY_KERNEL:
                os.kill(pid, received.si_signo)  # it is not reaped yet, so the pid is its own
            continue
        found, status = os.waitpid(pid, os.WNOHANG)
        if found == pid:
            return status


def _exit_code_of(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _report(traffic: Traffic, report: ReportOptions) -> None:
    if report.as_json:
        text = json.dumps(traffic.to_json())
    else:
        text = "\n".join(render_traffic(traffic, report.width))
    if report.output is None:
        click.echo(text, err=True)
        return
    try:
        with replacing(report.output) as path:
            path.write_text(f"{text}\n", "utf-8")
    except OSError as error:
        raise HogpipeError(f"{printable(str(report.output))}: {error.strerror}") from error
