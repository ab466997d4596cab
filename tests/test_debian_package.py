"""The parts of the Debian package that need no build; tests/slow/test_packages.py installs it."""

import subprocess
import zipfile
from pathlib import Path

import build_deb
import pytest
from support.service_unit import read_unit

BOOKWORM = {"ID": "debian", "VERSION_ID": "12"}


@pytest.mark.parametrize(
    ("version", "release", "name"),
    [
        ("0.1.0", BOOKWORM, "0.1.0-1~debian12"),
        ("0.1.0", {"ID": "ubuntu", "VERSION_ID": "24.04"}, "0.1.0-1~ubuntu24.04"),
        ("1.0rc2", BOOKWORM, "1.0~rc2-1~debian12"),
        ("1.0.dev3", {"ID": "debian"}, "1.0~dev3-1~debian"),
        ("1.0.post1", BOOKWORM, "1.0.post1-1~debian12"),
    ],
)
def test_the_version_names_the_distribution_and_a_pre_release_sorts_first(
    version: str, release: dict[str, str], name: str
) -> None:
    assert build_deb.name_version(version, release) == name


def test_times_in_the_package_are_those_in_the_wheel(tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(zipfile.ZipInfo("x", (2026, 1, 2, 3, 4, 6)), "")
    assert build_deb.read_time(wheel) == 1_767_323_046


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    program = tmp_path / build_deb.HOME / "bin/hogpipe"
    program.parent.mkdir(parents=True, mode=0o700)
    program.write_text("")
    (program.parent / "python").symlink_to("/nowhere")
    (tmp_path / "file").touch(0o600)
    build_deb.set_modes(tmp_path)
    assert program.stat().st_mode & 0o777 == 0o755
    assert program.parent.stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_the_file_of_licences_names_each_library_in_a_line(tmp_path: Path) -> None:
    packages = tmp_path / build_deb.HOME / "lib/python3.11/site-packages"
    for name, licence in (("hogpipe", "MIT"), ("other", "BSD-3-Clause")):
        folder = packages / f"{name}-1.0.dist-info"
        folder.mkdir(parents=True)
        folder.joinpath("METADATA").write_text(
            f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\nLicense-Expression: {licence}\n"
        )
        folder.joinpath("licenses").mkdir()
        folder.joinpath("licenses/LICENSE").touch()
        folder.joinpath("RECORD").write_text(f"{folder.name}/licenses/LICENSE,,\n")
    *_, libraries, apache, empty, other, file = build_deb.list_licences(tmp_path)
    assert libraries.endswith(" also holds these libraries, as published on https://pypi.org.")
    assert (apache.split()[0], empty) == ("/usr/share/common-licenses/Apache-2.0", "")
    assert other == "other 1.0: BSD-3-Clause"
    assert (
        file.strip()
        == f"/{build_deb.HOME}/lib/python3.11/site-packages/other-1.0.dist-info/licenses/LICENSE"
    )


def test_the_unit_starts_the_program_of_the_package_with_its_configuration() -> None:
    assert read_unit()["ExecStart"] == f"/usr/bin/hogpipe run /{build_deb.CONFFILE}"


@pytest.mark.parametrize("name", build_deb.SCRIPTS)
def test_a_script_of_the_package_can_be_parsed(name: str) -> None:
    subprocess.run(["sh", "-n", build_deb.PACKAGING / "debian" / name], check=True)


def test_a_wheel_that_is_not_there_and_a_program_that_is_missing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    with pytest.raises(build_deb.BuildError, match="there is no wheel"):
        build_deb.build(tmp_path / "x.whl", tmp_path)
    monkeypatch.setattr(build_deb, "PYTHON", "/nowhere/python3")
    (tmp_path / "x.whl").touch()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    with pytest.raises(build_deb.BuildError, match="/nowhere/python3 is missing; install"):
        build_deb.build(tmp_path / "x.whl", tmp_path)
