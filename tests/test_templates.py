"""The files of `hogpipe init`."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

from hogpipe.config import load_config
from hogpipe.errors import HogpipeError
from hogpipe.templates import write_config, write_service

ROOT = Path(__file__).parent.parent
PROGRAM = Path("/opt/hogpipe/bin/hogpipe")


def call(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "hogpipe", "init", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_configuration_is_that_of_the_repository_and_valid(tmp_path: Path) -> None:
    assert write_config(tmp_path / "new") == [tmp_path / "new/config.toml"]
    assert (tmp_path / "new/config.toml").read_bytes() == (ROOT / "config.toml").read_bytes()
    load_config(tmp_path / "new/config.toml")


@pytest.mark.parametrize("name", ["config.toml", "packaging/systemd/config.toml"])
def test_files_that_a_shipped_configuration_writes_are_bounded(name: str, tmp_path: Path) -> None:
    text = (ROOT / name).read_text().replace("/var/lib/hogpipe", str(tmp_path))
    (tmp_path / "config.toml").write_text(text)
    written = [
        one.settings
        for one in load_config(tmp_path / "config.toml").sinks
        if one.settings.type == "jsonl"
    ]
    assert written
    for settings in written:
        assert getattr(settings, "rotate_mib", None) == 100
        assert getattr(settings, "keep", None) == 10


def test_the_unit_starts_the_installed_program(tmp_path: Path) -> None:
    written = write_service(tmp_path, PROGRAM, ("containers",))
    assert [str(path.relative_to(tmp_path)) for path in written] == [
        "etc/hogpipe/config.toml",
        "etc/systemd/system/hogpipe.service",
        "etc/systemd/system/hogpipe.service.d/containers.conf",
    ]
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read(written[1])
    assert unit["Service"]["ExecStart"] == f"{PROGRAM} run /etc/hogpipe/config.toml"


@pytest.mark.parametrize("place", ["/home/a/.venv/bin", "/root/venv/bin", "/tmp/x"])
def test_a_program_that_the_unit_cannot_see_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(HogpipeError, match="the unit sees nothing below /"):
        write_service(tmp_path, Path(place, "hogpipe"), ())
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("mine")
    done = call(tmp_path)
    assert done.returncode == 1
    path = tmp_path / "config.toml"
    assert done.stderr == f"hogpipe: {path} exists; move it away, or name another folder\n"
    assert path.read_text() == "mine"


def test_the_command_names_what_it_wrote_and_what_comes_next(tmp_path: Path) -> None:
    done = call(tmp_path)
    path = tmp_path / "config.toml"
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote {path}\nthen: hogpipe run {path}\n"


def test_drop_ins_without_a_unit_are_a_wrong_command_line(tmp_path: Path) -> None:
    assert call("--containers", tmp_path).returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = call(tmp_path / "file" / "folder")
    assert done.returncode == 1
    assert done.stderr.startswith(f"hogpipe: {tmp_path}/file")
    assert len(done.stderr.splitlines()) == 1
