"""Record docs/run.svg, the terminal of a real run: `python .ci/recording.py`, as root.

Needs ip, curl and iperf3. Two namespaces are two hosts: on one of them hogpipe runs, with some
curls (a connection each) and a stream of UDP; the other one answers. The picture is what the
terminal shows as soon as a table has two of the curls, with nothing changed but the prompt above.
"""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.namespaces import Namespace, pair  # noqa: E402 - needs the path

PICTURE = ROOT / "docs/run.svg"
PROMPT = "$ sudo .venv/bin/hogpipe run"
COLUMNS, CURLS, MOST_TABLES = 80, 2, 10
# A line of text, a line end, or an escape sequence with the number of lines to go up.
SEQUENCE = re.compile(r"([^\x1b\r\n]+|[\r\n])|\x1b\[(?:(\d+)A|([JK]))")
ADDRESSES = [("192.0.2.10/24", "192.0.2.20/24")]
SERVER = "192.0.2.20"
URL = f"http://{SERVER}:8080/"
LOOP = f"while curl --silent --output /dev/null {URL}; do sleep 0.4; done"
CHARACTER, LINE, MARGIN = 8.4, 19, 16  # pixels of text of 14 pixels


@contextmanager
def started(where: Namespace, *words: str) -> Iterator[None]:
    """Run a program with its children, which end with the context."""
    process = subprocess.Popen(
        where.command(*words), cwd=ROOT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def read_terminal(where: Namespace) -> list[str]:
    """Return the screen of a terminal once hogpipe shows the curls that begin after its start."""
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    command = where.command(sys.executable, "-m", "hogpipe", "run")
    environ = os.environ | {"TERM": "xterm-256color"}
    hogpipe = subprocess.Popen(
        command, cwd=ROOT, stdin=inside, stdout=inside, stderr=inside, env=environ
    )
    os.close(inside)
    printed = ""
    with ExitStack() as stack:
        stack.callback(hogpipe.wait)
        stack.callback(hogpipe.kill)
        while part := read_part(terminal):
            if not printed:
                stack.enter_context(started(where, "sh", "-c", LOOP))
            printed += part.decode()
            screen = show(printed)
            if sum(" curl " in line for line in screen) == CURLS:
                return screen
            if printed.count("total of") > MOST_TABLES:
                break
    sys.exit(f"no table shows {CURLS} curls: {printed!r}")


def show(printed: str) -> list[str]:
    """Return the screen after a text with the sequences that hogpipe uses."""
    lines, row = [""], 0
    for text, up, other in SEQUENCE.findall(printed):
        if up:
            row -= int(up)
        elif other == "J":
            del lines[row:]
        elif text == "\n":
            row += 1
        elif text != "\r" and not other:
            lines[row:] = [text, *lines[row + 1 :]]
        lines += [""] * (row + 1 - len(lines))
    return lines


def read_part(terminal: int) -> bytes:
    """Return what a terminal shows next; nothing if its programs have ended."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""


def draw(lines: Sequence[str]) -> str:
    """Return the picture of lines of text."""
    width = round(COLUMNS * CHARACTER) + 2 * MARGIN
    height = len(lines) * LINE + 2 * MARGIN
    texts = (
        f'<text x="{MARGIN}" y="{MARGIN + LINE * number - 5}" xml:space="preserve" '
        f'textLength="{len(line) * CHARACTER:.1f}">{escape(line)}</text>\n'
        for number, line in enumerate(lines, 1)
        if line
    )
    size = f'width="{width}" height="{height}"'
    font = "ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {size} '
        'role="img" aria-label="hogpipe in a terminal">\n'
        f'<rect {size} rx="8" fill="#1b1f24"/>\n'
        f'<g fill="#e6e8ea" font-family="{font}" font-size="14">\n'
        f"{''.join(texts)}</g>\n</svg>\n"
    )


def main() -> None:
    with ExitStack() as stack:
        here, there = stack.enter_context(pair(ADDRESSES))
        serve = (sys.executable, "-m", "http.server", "--bind", SERVER, "8080")
        stack.enter_context(started(there, *serve))
        stack.enter_context(started(there, "iperf3", "--server"))
        retry = ("--retry", "9", "--retry-connrefused", "--silent", "--output", "/dev/null")
        subprocess.run(here.command("curl", *retry, URL), check=True)
        stream = ("iperf3", "--client", SERVER, "--udp", "--bitrate", "2M", "--time", "60")
        stack.enter_context(started(here, *stream))
        screen = read_terminal(here)
    PICTURE.write_text(draw([PROMPT, *screen]))


main()
