"""`hogpipe exec -- COMMAND`: runs a command, and reports what it moved, as `time` does for time.

In: the command, and where the report goes. Out: the exit code of the command; the report, as a
table or one JSON document, on the standard error output or in a file. The command has the standard
streams, the environment and the rights of this process. What it moves is measured from before its
first instruction to its end, with all processes that descend from it.

Signals that stop, or that have no meaning here, are passed on to the command. The terminal sends
those of its keys to the command itself, so that they are not passed on.

What may fail, before the command runs: what `hogpipe.watch` raises. The exit codes are those of a
shell: 127 if the command is not found, 126 if it cannot be executed, 128 and the number of the
signal that ended it.

Known limit: a command gets the default of signals that were ignored when hogpipe began (nohup).
"""

import json
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from hogpipe.errors import HogpipeError
from hogpipe.measuring.report import render_traffic
from hogpipe.measuring.results import Traffic
from hogpipe.measuring.watch import SourceChoice, measure
from hogpipe.report.output_file import replacing
from hogpipe.text import printable

_STOPPED, _NOT_FOUND, _NOT_EXECUTABLE = 1, 127, 126
_PASSED_ON = frozenset({
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGALRM, signal.SIGCONT, signal.SIGWINCH,
})  # fmt: skip
# Python ignores these, or handles them here; a command expects their defaults.
_DEFAULTS = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
_BY_KERNEL = 0x80  # SI_KERNEL of include/uapi/asm-generic/siginfo.h, as for the keys of a terminal


def run_measured(
    command: Sequence[str],
    *,
    source: SourceChoice,
    as_json: bool,
    output: Path | None,
    width: int,
) -> int:
    """Run a command, report what it moved, and return its exit code."""
    with _waiting_for_signals() as mask, measure(source=source) as measured:
        if signal.sigpending() & {signal.SIGINT, signal.SIGTERM}:
            return _STOPPED  # once they are not blocked any more, their handlers end the process
        try:
            pid = os.posix_spawnp(
                command[0], [*command], os.environ, setsigmask=mask, setsigdef=_DEFAULTS
            )
        except OSError as error:
            is_missing = isinstance(error, FileNotFoundError | NotADirectoryError)
            click.echo(f"hogpipe: {printable(command[0])}: {error.strerror}", err=True)
            return _NOT_FOUND if is_missing else _NOT_EXECUTABLE
        status = _wait(pid)
    _report(measured.traffic, as_json=as_json, output=output, width=width)
    return _exit_code_of(status)


@contextmanager
def _waiting_for_signals() -> Iterator[set[int]]:
    """Block signals, so that `_wait` gets them; yields the mask for the command."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})
    try:
        yield {int(number) for number in before}
    finally:
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


def _report(traffic: Traffic, *, as_json: bool, output: Path | None, width: int) -> None:
    text = json.dumps(traffic.to_json()) if as_json else "\n".join(render_traffic(traffic, width))
    if output is None:
        click.echo(text, err=True)
        return
    try:
        with replacing(output) as path:
            path.write_text(f"{text}\n", "utf-8")
    except OSError as error:
        raise HogpipeError(f"{printable(str(output))}: {error.strerror}") from error
