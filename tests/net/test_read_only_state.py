"""A state directory on a read-only file system: each sink is named, with the remedy."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.namespaces import require
from support.running import write_config

SINKS = {
    "a new file": 'type = "jsonl"\npath = "state/new.jsonl"',
    "a file": 'type = "jsonl"\npath = "state/old.jsonl"',
    "a history": 'type = "sqlite"\npath = "state/history.db"',
    "a spool": 'type = "tcp"\nhost = "127.0.0.1"\nport = 1\nspool = "state/spool"',
}
READ_ONLY = "is on a read-only file system; name a path on another one"


@pytest.mark.parametrize("command", ["run", "check"])
def test_each_sink_is_named_with_the_remedy(tmp_path: Path, command: str) -> None:
    require("unshare", "mount")
    state = tmp_path / "state"
    state.mkdir()
    (state / "old.jsonl").write_text('{"type":"stats"}\n')
    config = write_config(tmp_path, "".join(f"[[sinks]]\n{sink}\n" for sink in SINKS.values()))
    mount = f'mount --bind {state} {state}; mount -o remount,bind,ro {state}; exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", mount, "sh",
         sys.executable, "-m", "hogpipe", command, str(config)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 78
    assert done.stdout == ""
    assert sorted(done.stderr.splitlines()) == [
        f'hogpipe: {config}: sinks[0].path: "{state}/new.jsonl": {state} {READ_ONLY}',
        f'hogpipe: {config}: sinks[1].path: "{state}/old.jsonl": {READ_ONLY}',
        f'hogpipe: {config}: sinks[2].path: "{state}/history.db": {state} {READ_ONLY}',
        f'hogpipe: {config}: sinks[3].spool: "{state}/spool": {state} {READ_ONLY}',
    ]
    assert [one.name for one in state.iterdir()] == ["old.jsonl"]
