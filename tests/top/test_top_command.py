"""`hogpipe top` as a program: on a terminal of its own, and without one."""

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from hogpipe.errors import ScreenError
from hogpipe.top.top_command import Terminal, examine_terminal

RECORDS = Path(__file__).parent.parent / "data" / "golden" / "expected.jsonl"
LEAVES_SCREEN = b"\x1b[?1049l"


class Tty(TextIOWrapper):
    """A stream that is a terminal."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(BytesIO(), encoding)

    def isatty(self) -> bool:
        """Return that it is one."""
        return True


@pytest.mark.parametrize(
    ("environ", "encoding", "expected"),
    [
        ({"TERM": "xterm-256color"}, "utf-8", Terminal(has_colour=True, is_ascii=False)),
        ({"TERM": "xterm", "NO_COLOR": "1"}, "utf-8", Terminal(has_colour=False, is_ascii=False)),
        ({"TERM": "xterm"}, "ascii", Terminal(has_colour=True, is_ascii=True)),
        ({"TERM": "xterm", "LC_ALL": "C"}, "utf-8", Terminal(has_colour=True, is_ascii=True)),
        ({"TERM": "xterm"}, "latin-1", Terminal(has_colour=True, is_ascii=True)),
        ({"TERM": "vt100"}, "utf-8", Terminal(has_colour=False, is_ascii=True)),
        ({"TERM": "dumb"}, "utf-8", Terminal(has_colour=False, is_ascii=True)),
    ],
)
def test_what_a_terminal_can_show(
    environ: dict[str, str], encoding: str, expected: Terminal
) -> None:
    assert examine_terminal(Tty(), Tty(encoding), environ) == expected


def test_without_a_terminal_there_is_a_remedy() -> None:
    for stdin, screen, environ in [
        (None, Tty(), {"TERM": "xterm"}),
        (Tty(), TextIOWrapper(BytesIO()), {"TERM": "xterm"}),
        (Tty(), Tty(), {}),
    ]:
        with pytest.raises(ScreenError, match=r"hogpipe run|set TERM"):
            examine_terminal(stdin, screen, environ)


def run(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "hogpipe", "top", *words]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def test_no_terminal_is_one_line() -> None:
    done = run("--from", RECORDS)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("hogpipe: top needs a terminal")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--group-by", "colour"], "--group-by: one of process, program"),
        (["--speed", "0"], 'must be a number above 0, or "max"'),
        (["--from", "x", "-i", "lo"], "--from reads records"),
        (["--since", "2h"], "--since is for --from"),
        (["--from", "x", "--since", "then"], "--since: expected a time"),
    ],
)
def test_wrong_usage(words: list[str], expected: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert expected in done.stderr


def test_a_savefile_is_not_grouped_by_names_of_peers() -> None:
    done = run("--group-by", "domain", "--read", RECORDS)
    assert done.returncode == 78
    assert "`domain` needs a live source" in done.stderr


def test_without_textual_there_is_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    from hogpipe.top import top_command  # noqa: PLC0415

    monkeypatch.delitem(sys.modules, "hogpipe.top.top_app", raising=False)
    monkeypatch.setitem(sys.modules, "textual", None)
    monkeypatch.setitem(sys.modules, "textual.app", None)
    with pytest.raises(ScreenError, match=r"pip install 'hogpipe\[top\]'"):
        top_command._load_app()


class OnTerminal:
    """A program on a terminal of its own."""

    def __init__(self, terminal: int, process: "subprocess.Popen[bytes]") -> None:
        self.terminal = terminal
        self.process = process
        self.shown = b""

    def wait_for(self, text: bytes) -> None:
        """Read until the program has written `text`."""
        while text not in self.shown:
            ready, _, _ = select.select([self.terminal], [], [], 60)
            assert ready, self.shown[-2000:]
            try:
                self.shown += os.read(self.terminal, 65536)
            except OSError as error:  # it has ended
                raise AssertionError(self.shown[-2000:]) from error

    def end(self) -> int:
        """Read to the end; return the exit code."""
        while select.select([self.terminal], [], [], 60)[0]:
            try:
                chunk = os.read(self.terminal, 65536)
            except OSError:
                break
            self.shown += chunk
        return self.process.wait(60)


@contextmanager
def on_terminal(*words: str | Path) -> Iterator[OnTerminal]:
    terminal, screen = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    command = [sys.executable, "-m", "hogpipe", "top", *words]
    process = subprocess.Popen(
        command,
        stdin=screen,
        stdout=screen,
        stderr=screen,
        env=environ,
        start_new_session=True,
    )
    os.close(screen)
    program = OnTerminal(terminal, process)
    try:
        yield program
    finally:
        process.kill()
        process.wait()
        if program.terminal >= 0:
            os.close(program.terminal)


@pytest.mark.parametrize("end", ["q", "ctrl+c", "SIGTERM", "SIGHUP"])
def test_however_it_ends_the_terminal_is_restored_and_the_code_is_0(end: str) -> None:
    with on_terminal("--from", RECORDS, "--speed", "max") as program:
        program.wait_for(b"END")
        if end in {"q", "ctrl+c"}:
            os.write(program.terminal, b"q" if end == "q" else b"\x03")
        else:
            program.process.send_signal(signal.Signals[end])
        program.wait_for(LEAVES_SCREEN)
        assert program.end() == 0
        assert b"Traceback" not in program.shown


def test_it_ends_with_its_terminal() -> None:
    with on_terminal("--from", RECORDS, "--speed", "max") as program:
        program.wait_for(b"END")
        os.close(program.terminal)
        program.terminal = -1
        assert program.process.wait(60) in {0, 1}


def test_a_file_that_is_absent_is_one_line_and_no_screen() -> None:
    with on_terminal("--from", "/nonexistent") as program:
        assert program.end() == 1
        assert program.shown == b"hogpipe: --from /nonexistent: No such file or directory\r\n"
