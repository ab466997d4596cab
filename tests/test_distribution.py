"""What the wheel and the sdist hold, and that the BPF object in them is that of its sources."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import build_bpf

ROOT = Path(__file__).parent.parent
OBJECT = "hogpipe/linux/bpf/hogpipe.bpf.o"
PARTS = ("hogpipe", "packaging", "pyproject.toml", "README.md", "LICENSE")


def make_checkout(folder: Path) -> Path:
    """Copy what the build of a wheel reads."""
    for name in PARTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def build(checkout: Path, folder: Path, kind: str) -> subprocess.CompletedProcess[str]:
    """Build without a compiler: no program but Python is on the path."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", folder]
    return subprocess.run(
        command, cwd=checkout, env={"PATH": "/nowhere"}, capture_output=True, text=True, check=False
    )


def test_the_object_is_compiled_from_its_sources_byte_for_byte(tmp_path: Path) -> None:
    build_bpf.compile_object(build_bpf.BPF / "hogpipe.bpf.c", tmp_path / "hogpipe.bpf.o")
    assert (tmp_path / "hogpipe.bpf.o").read_bytes() == build_bpf.OBJECT.read_bytes()
    assert build_bpf.CHECKSUMS.read_text() == build_bpf.read_checksums()


def test_no_path_of_the_machine_that_compiled_it_is_in_the_object() -> None:
    content = build_bpf.OBJECT.read_bytes()
    assert b"./common.bpf.h" in content
    assert str(ROOT).encode() not in content
    assert b"ziglang" not in content
    assert b"/tmp" not in content


def test_a_changed_source_is_named_with_the_command_to_run(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path)
    check = [sys.executable, "packaging/build_bpf.py", "--check"]
    assert subprocess.run(check, cwd=checkout, check=False).returncode == 0
    with (checkout / "hogpipe/linux/bpf/common.bpf.h").open("a") as file:
        file.write("/* changed */\n")
    done = subprocess.run(check, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "hogpipe.bpf.o is not that of its sources; run: python packaging/build_bpf.py\n"
    )


def test_wheel_and_sdist_hold_the_object_without_a_compiler(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    for kind in ("wheel", "sdist"):
        done = build(checkout, tmp_path, kind)
        assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.namelist().count(OBJECT) == 1
        assert archive.read(OBJECT) == build_bpf.OBJECT.read_bytes()
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {OBJECT, "hogpipe/linux/bpf/hogpipe.bpf.c", "packaging/build_bpf.py"} <= names


def test_a_build_without_the_object_fails(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    (checkout / OBJECT).unlink()
    done = build(checkout, tmp_path, "wheel")
    assert done.returncode != 0
    assert "hogpipe.bpf.o" in done.stderr
