"""Where a file is meant, anything else is named in one line, and nothing waits for it."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HOGPIPE = [sys.executable, "-m", "hogpipe"]
PATIENCE = 60.0
GOLDEN = Path(__file__).parents[1] / "data" / "golden"


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        folder = os.open(path.parent, os.O_PATH)
        one.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)


SPECIAL: dict[str, Callable[[Path], None]] = {
    "FIFO": os.mkfifo,
    "socket": make_socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
}
CONFIG = """
[capture]
source = "savefile"
path = "savefile"
filter = {file = "secret"}
[attribution]
procfs = "procfs"
[plugins]
paths = ["plugin.py", "folder"]
[[sinks]]
type = "jsonl"
path = "jsonl"
[[sinks]]
type = "tcp"
host = "localhost"
port = 1
tls.ca = "ca"
[[sinks]]
type = "tcp"
host = "localhost"
port = 1
tls.certificate = "certificate"
[[sinks]]
type = "stdout"
spool = "spool"
[[sinks]]
type = "stdout"
spool = "above/spool"
"""
FILES = ("savefile", "secret", "plugin.py", "jsonl", "ca", "certificate")
FOLDERS = ("procfs", "spool", "above/spool")


def check(config: Path, command: str = "check") -> list[str]:
    """Return the lines of a check, which must not wait."""
    done = subprocess.run(
        [*HOGPIPE, command, config],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 78, done
    return done.stderr.splitlines()


@pytest.mark.parametrize("kind", SPECIAL)
def test_each_special_file_is_named_in_one_line(tmp_path: Path, kind: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text(CONFIG)
    (tmp_path / "folder").mkdir()
    for name in ("procfs", "spool", "above", "folder/plugin.py", *FILES):
        SPECIAL[kind](tmp_path / name)
    warning, *lines = check(config)
    assert "WARNING" in warning
    assert f"{tmp_path}/folder/plugin.py" in warning
    assert f"a {kind}" in warning
    for name in (*FILES, *FOLDERS):
        path = '"secret"' if name == "secret" else f"{tmp_path}/{name}"
        (line,) = (line for line in lines if path in line)
        assert (f"not a regular file but a {kind}" in line) == (name in FILES)
    assert len(lines) == len(FILES) + len(FOLDERS)


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_configuration_that_is_a_special_file_is_refused(
    tmp_path: Path, kind: str, command: str
) -> None:
    SPECIAL[kind](tmp_path / "config.toml")
    assert check(tmp_path / "config.toml", command) == [
        f"hogpipe: {tmp_path}/config.toml: cannot read it: not a regular file but a {kind}"
    ]


def test_a_symbolic_link_that_leads_to_itself_is_named(tmp_path: Path) -> None:
    (tmp_path / "it").symlink_to("it")
    sink = '[[sinks]]\ntype = "stdout"\nspool = "it"'
    (tmp_path / "config.toml").write_text(sink)
    (line,) = check(tmp_path / "config.toml")
    assert f'"{tmp_path}/it": a symbolic link that leads to itself' in line


def test_a_configuration_has_a_bound(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"#" * (5 << 20))
    (line,) = check(tmp_path / "config.toml")
    assert line == f"hogpipe: {tmp_path}/config.toml: larger than 4194304 bytes"
