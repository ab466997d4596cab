"""No name, path, argument or error text controls the terminal, whichever command prints it."""

import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from hogpipe.terminal import PrintableStream

HOGPIPE = [sys.executable, "-m", "hogpipe"]
HOSTILE = "\x1b[2J\x07\x9b31m\u202e\u2028\r"
GOLDEN = Path(__file__).parent / "data" / "golden"
RAISING = """
import sys, threading, warnings
from hogpipe import SinkSettings, SinkType, hookimpl

HOSTILE = {hostile!r}
print(HOSTILE)
sys.stderr.write(HOSTILE + "\\n")
warnings.warn(HOSTILE)

def fail():
    raise type(HOSTILE, (Exception,), {{}})(HOSTILE)

thread = threading.Thread(target=fail, name=HOSTILE)
thread.start()
thread.join()

class Sink:
    def __init__(self, settings):
        pass
    async def open(self):
        pass
    async def write(self, records):
        fail()
    async def close(self):
        fail()

@hookimpl
def hogpipe_sinks():
    return [SinkType("raising", SinkSettings, Sink)]
"""
FAILING = "raise ValueError({hostile!r})"


def controls(data: bytes) -> set[str]:
    """Return the unprintable characters of an output, line ends aside."""
    return {char for char in data.decode() if char != "\n" and not char.isprintable()}


def run(*words: object) -> "subprocess.CompletedProcess[bytes]":
    done = subprocess.run([*HOGPIPE, *map(str, words)], capture_output=True, check=False)
    assert controls(done.stdout) == controls(done.stderr) == set(), done
    return done


@given(st.text(), st.integers(0, 3))
def test_a_stream_writes_printable_characters_and_line_ends_only(text: str, ends: int) -> None:
    buffer = io.BytesIO()
    stream = PrintableStream(buffer, encoding="utf-8", errors="backslashreplace")
    assert stream.write(text + "\n" * ends) == len(text) + ends
    stream.flush()
    assert controls(buffer.getvalue()) == set()
    assert buffer.getvalue().count(b"\n") == text.count("\n") + ends


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_a_stream_leaves_printable_text_as_it_is(text: str) -> None:
    buffer = io.BytesIO()
    stream = PrintableStream(buffer, encoding="utf-8", errors="backslashreplace")
    stream.write(text)
    stream.flush()
    assert buffer.getvalue() == text.encode()


ARGUMENTS = [
    (HOSTILE,),
    ("check", HOSTILE),
    ("check", "--json", HOSTILE),
    ("run", HOSTILE),
    ("run", "x", HOSTILE),
    ("run", f"--{HOSTILE}"),
    ("run", GOLDEN / "config.toml", "--duration", HOSTILE),
    ("run", GOLDEN / "config.toml", "--set", HOSTILE),
    ("run", GOLDEN / "config.toml", "--set", f"{HOSTILE}=1"),
    ("run", GOLDEN / "config.toml", "--set", f"capture.filter={HOSTILE}"),
    ("run", GOLDEN / "config.toml", "--set", f"capture.path={HOSTILE}"),
    ("plugins", HOSTILE),
    ("completion", HOSTILE),
    ("doctor", HOSTILE),
]


def test_an_argument_controls_no_terminal() -> None:
    with ThreadPoolExecutor(2) as threads:
        ended = list(threads.map(lambda words: run(*words), ARGUMENTS))
    assert {done.returncode for done in ended} == {2, 78}
    # Where the output is no terminal, click removes sequences of ANSI itself.
    assert sum(b"\\x07" in done.stdout + done.stderr for done in ended) > len(ARGUMENTS) // 2


def test_a_usage_error_on_a_terminal_is_escaped() -> None:
    leader, follower = os.openpty()
    done = subprocess.run([*HOGPIPE, HOSTILE], stderr=follower, check=False)
    os.close(follower)
    output = os.read(leader, 1 << 16)
    os.close(leader)
    assert done.returncode == 2
    assert b"\\x1b[2J" in output
    assert controls(output.replace(b"\r\n", b"\n")) == set()


def test_a_path_controls_no_terminal(tmp_path: Path) -> None:
    folder = tmp_path / HOSTILE
    folder.mkdir()
    config = folder / f"{HOSTILE}.toml"
    config.write_text("")
    assert run("check", config).returncode == 0
    config.write_text(f"[{repr(HOSTILE)[1:-1]!r}]\n")
    assert run("check", config).returncode == 78
    (folder / f"{HOSTILE}.py").write_text(FAILING.format(hostile=HOSTILE))
    assert run("plugins", folder).returncode == 1
    assert run("plugins", "--json", folder).returncode == 1


def test_what_a_plugin_prints_and_raises_controls_no_terminal(tmp_path: Path) -> None:
    plugin = tmp_path / "raising.py"
    plugin.write_text(RAISING.format(hostile=HOSTILE))
    sinks = f'sinks=[{{type = "raising"}}, {{type = "jsonl", path = "{tmp_path}/records"}}]'
    changes = ("--set", f'plugins.paths=["{plugin}"]', "--set", sinks)
    done = run("-vv", "run", GOLDEN / "config.toml", *changes)
    assert done.stderr.count(b"Traceback") >= 2  # of the thread, and of the write


def test_the_traceback_of_an_internal_error_controls_no_terminal() -> None:
    program = (
        "import sys, hogpipe.cli as cli, hogpipe.config.load as load\n"
        f"def fail(*_): raise ValueError({HOSTILE!r})\n"
        "load.read_tables = fail\n"
        "sys.argv = ['hogpipe', '-vv', 'check', 'x.toml']\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 1
    assert b"Traceback" in done.stderr
    assert controls(done.stderr) == set()


def test_a_name_that_is_no_text_can_be_printed(tmp_path: Path) -> None:
    config = os.fsencode(tmp_path) + b"/\xff.toml"
    Path(os.fsdecode(config)).write_text("")
    done = subprocess.run([*HOGPIPE, "check", config], capture_output=True, check=False)
    assert done.returncode == 0
    assert b"\\udcff.toml: valid" in done.stdout
