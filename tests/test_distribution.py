"""What wheels and sdists hold, and that the BPF object in them is that of its sources."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import build_bpf
import build_dist
import pytest

from hogpipe.version import __version__

ROOT = Path(__file__).parent.parent
OBJECT = "hogpipe/linux/bpf/hogpipe.bpf.o"
PARTS = ("hogpipe", "packaging", "pyproject.toml", "README.md", "LICENSE")
NAMES = (
    "hogpipe", "hogpipe_http", "hogpipe_kafka", "hogpipe_nats", "hogpipe_otlp",
    "hogpipe_prometheus", "hogpipe_pytest", "hogpipe_web",
)  # fmt: skip
DIST_INFO = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
EPOCH = "1800000000"


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


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_dist.copy_tracked(ROOT, tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def packages(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("dist")
    built = build_dist.build(Path(sys.executable), tree, folder, EPOCH)
    return {package.name: package for package in built}


def find_package(packages: dict[str, Path], name: str, suffix: str) -> Path:
    (found,) = (
        path
        for file, path in packages.items()
        if file.startswith(f"{name}-") and path.suffix == suffix
    )
    return found


def read_wheel(packages: dict[str, Path], name: str) -> dict[str, bytes]:
    with zipfile.ZipFile(find_package(packages, name, ".whl")) as archive:
        return {entry: archive.read(entry) for entry in archive.namelist()}


def project_of(tree: Path, name: str) -> Path:
    return tree if name == "hogpipe" else tree / "plugins" / name.replace("_", "-")


def test_hogpipe_and_each_plugin_have_a_wheel_and_an_sdist(packages: dict[str, Path]) -> None:
    stems = [path.name for path in build_dist.list_projects(ROOT)[1:]]
    assert [stem.replace("-", "_") for stem in stems] == list(NAMES[1:])
    assert set(packages) == {
        f"{name}-{__version__}{end}" for name in NAMES for end in (".tar.gz", "-py3-none-any.whl")
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_wheel_holds_the_files_of_its_package_and_its_licence_and_nothing_else(
    packages: dict[str, Path], tree: Path, name: str
) -> None:
    project = project_of(tree, name)
    content = read_wheel(packages, name)
    info = {entry for entry in content if ".dist-info/" in entry}
    assert {entry.partition(".dist-info/")[2] for entry in info} == DIST_INFO
    files = [path for path in (project / name).rglob("*") if path.is_file()]
    assert set(content) - info == {str(path.relative_to(project)) for path in files}
    for path in files:
        assert content[str(path.relative_to(project))] == path.read_bytes()
    (licence,) = (content[entry] for entry in info if entry.endswith("/LICENSE"))
    assert licence == (ROOT / "LICENSE").read_bytes()


def test_the_wheel_of_hogpipe_holds_the_unit_and_its_configuration(
    packages: dict[str, Path],
) -> None:
    content = read_wheel(packages, "hogpipe")
    for template, source in (
        ("hogpipe.service", "hogpipe.service"),
        ("service.toml", "config.toml"),
    ):
        original = ROOT / "packaging/systemd" / source
        assert content[f"hogpipe/templates/{template}"] == original.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_an_sdist_holds_the_tests_and_what_its_links_lead_to(
    packages: dict[str, Path], name: str
) -> None:
    sdist = find_package(packages, name, ".gz")
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    names = {member.name for member in members}
    for member in members:
        target = os.path.normpath(Path(member.name).parent / member.linkname)
        assert member.isfile() or (member.issym() and target in names)
    assert {member.mtime for member in members} == {int(EPOCH)}
    assert {name.partition("/")[2] for name in names} >= {
        "LICENSE", "PKG-INFO", "README.md", "pyproject.toml", "tests/conftest.py",
    }  # fmt: skip


def test_a_second_build_gives_the_same_bytes(packages: dict[str, Path], tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        tree = build_dist.copy_tracked(ROOT, tmp_path / "another folder")
        for path in tree.rglob("*"):
            os.utime(path, (0, 0), follow_symlinks=False)
        built = build_dist.build_project(Path(sys.executable), tree, tmp_path / "dist", EPOCH)
    finally:
        os.umask(old)
    assert len(built) == 2
    for package in built:
        assert package.read_bytes() == packages[package.name].read_bytes()


def test_only_files_that_git_tracks_are_built(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    (clone / "folder").mkdir(parents=True)
    for name in ("tracked", "removed", "stray"):
        (clone / "folder" / name).write_text(name)
    (clone / "link").symlink_to("folder/tracked")
    for words in (["init", "--quiet"], ["add", "link", "folder/tracked", "folder/removed"]):
        subprocess.run(["git", *words], cwd=clone, check=True)
    (clone / "folder/removed").unlink()
    copied = build_dist.copy_tracked(clone, tmp_path / "copy")
    assert {path for path in copied.rglob("*") if not path.is_dir()} == {
        copied / "folder/tracked", copied / "link",
    }  # fmt: skip
    assert (copied / "link").readlink() == Path("folder/tracked")


def test_a_failed_build_says_which_command_failed_and_why(tmp_path: Path) -> None:
    with pytest.raises(build_dist.BuildError, match=r"git ls-files -z: .*not a git repository"):
        build_dist.copy_tracked(tmp_path, tmp_path / "copy")
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    with pytest.raises(build_dist.BuildError, match=r"hatchling build -t sdist(.|\n)*version"):
        build_dist.build_project(Path(sys.executable), tmp_path, tmp_path / "dist", EPOCH)
