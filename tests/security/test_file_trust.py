"""Configuration and plugins that others may change are refused to a privileged process."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.namespaces import require

from hogpipe.security.file_trust import choose_trust

PLUGIN = """
from hogpipe import SinkSettings, SinkType, hookimpl
print("imported")

@hookimpl
def hogpipe_sinks():
    return [SinkType("own", SinkSettings, print)]
"""
CONFIG = """
[plugins]
paths = ["plugins"]
[[sinks]]
type = "own"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    require()
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/own.py").write_text(PLUGIN)
    (tmp_path / "config.toml").write_text(CONFIG)
    return tmp_path / "config.toml"


def call(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "hogpipe", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_configuration_that_others_may_write_to_is_refused_unless_that_is_wanted(
    config: Path,
) -> None:
    assert call("check", config).returncode == 0
    config.chmod(0o666)
    done = call("run", config)
    assert done.returncode == 78
    assert done.stderr == (
        f"hogpipe: {config}: not used with the rights of this process, as all users may write to "
        f"{config}; let only root or yourself write to it, or use --insecure\n"
    )
    assert call("check", config).returncode == 78
    done = call("check", "--insecure", config)
    assert done.returncode == 0
    assert "imported" in done.stderr


def test_so_is_a_plugin_and_its_code_does_not_run(config: Path) -> None:
    plugin = config.parent / "plugins/own.py"
    plugin.chmod(0o666)
    done = call("check", config)
    assert done.returncode == 78
    assert "imported" not in done.stdout + done.stderr
    assert f"all users may write to {plugin}" in done.stderr
    listed = call("plugins", plugin)
    assert listed.returncode == 1
    assert "not used with the rights of this process" in listed.stdout
    assert call("plugins", "--insecure", plugin).returncode == 0


def test_without_privileges_every_file_is_used(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.chmod(0o666)
    assert choose_trust({}, is_insecure=False)(config) is not None
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("hogpipe.security.file_trust.read_permitted", frozenset)
    assert choose_trust({}, is_insecure=False)(config) is None


def test_the_owner_of_the_program_may_write(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = config.parent / "program.py"
    program.touch()
    monkeypatch.setattr("hogpipe.security.file_trust._PROGRAM", program)
    subprocess.run(["chown", "65534", config, program], check=True)
    assert choose_trust({}, is_insecure=False)(config) is None


def test_who_called_sudo_may_write(config: Path) -> None:
    subprocess.run(["chown", "65534", config], check=True)
    by_sudo = {"SUDO_UID": "65534", "SUDO_GID": "65534"}
    assert choose_trust(by_sudo, is_insecure=False)(config) is None
    assert "belongs to nobody" in str(choose_trust({}, is_insecure=False)(config))
    assert choose_trust({}, is_insecure=False)(config.parent / "absent") is None
