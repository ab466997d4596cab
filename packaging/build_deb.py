#!/usr/bin/python3
"""Build the Debian package of hogpipe for the distribution that this program runs on.

    packaging/build_deb.py WHEEL [FOLDER]

WHEEL is that of hogpipe, which packaging/build_dist.py builds. Needs python3-venv and dpkg-dev; pip
installs the libraries that hogpipe requires. The path of the package is printed.

The package has an environment (venv) of its own in /usr/lib/hogpipe, made with /usr/bin/python3.
Its compiled libraries work with that minor version of Python alone, so the package depends on it,
and the name of the distribution is part of the package's version. What the libraries need of the
system is found by dpkg-shlibdeps. The rest comes from packaging/debian, packaging/systemd and the
commands of hogpipe themselves (man page, completions).

The same wheel and the same libraries give the same bytes: times are SOURCE_DATE_EPOCH, else that
in the wheel.

Exit code: 0; 1 if a step fails.
"""

import argparse
import calendar
import gzip
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from email.utils import formatdate
from importlib.metadata import Distribution, distributions
from pathlib import Path

_LICENCE_FILE = re.compile(r"\.dist-info/(licenses|sboms)/")
PACKAGING = Path(__file__).resolve().parent
PYTHON = "/usr/bin/python3"
HOME = Path("usr/lib/hogpipe")
CONFFILE = Path("etc/hogpipe/config.toml")
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/hogpipe",
    "zsh": "usr/share/zsh/vendor-completions/_hogpipe",
    "fish": "usr/share/fish/vendor_completions.d/hogpipe.fish",
}
DOC = Path("usr/share/doc/hogpipe")
SCRIPTS = ("postinst", "prerm", "postrm")


class BuildError(Exception):
    """The package cannot be built; the text says why."""


def build(wheel: Path, folder: Path) -> Path:
    """Build the package of a wheel into a folder; return its path. Raises BuildError."""
    if not wheel.is_file():
        raise BuildError(f"{wheel}: there is no wheel; packaging/build_dist.py builds it")
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or read_time(wheel))
    with tempfile.TemporaryDirectory() as work:
        root = Path(work, "root")
        install_environment(wheel, root, Path(work, "tools"))
        (version,) = (one.version for one in list_libraries(root) if one.name == "hogpipe")
        version = name_version(version, platform.freedesktop_os_release())
        install_files(root)
        install_documents(root, version, epoch)
        finish_environment(root)
        architecture = _run("dpkg", "--print-architecture")
        write_control(root, version, architecture)
        set_modes(root)
        package = folder.resolve() / f"hogpipe_{version}_{architecture}.deb"
        package.parent.mkdir(parents=True, exist_ok=True)
        words = ("--root-owner-group", "-Zxz", "--build", str(root), str(package))
        _run("dpkg-deb", *words, SOURCE_DATE_EPOCH=str(epoch))
    return package


def read_time(wheel: Path) -> int:
    """Return the time of the files in a wheel, in seconds since 1970."""
    with zipfile.ZipFile(wheel) as archive:
        year, month, day, hour, minute, second = archive.infolist()[0].date_time
    return calendar.timegm((year, month, day, hour, minute, second))


def name_version(version: str, release: dict[str, str]) -> str:
    """Return Debian's version for one of Python; a pre-release sorts before its release."""
    upstream = re.sub(r"\.?(a|b|rc|dev)(\d+)", r"~\1\2", version)
    return f"{upstream}-1~{release['ID']}{release.get('VERSION_ID', '')}"


def list_libraries(root: Path) -> list[Distribution]:
    """Return the Python packages of the environment, hogpipe included, by name."""
    (packages,) = (root / HOME / "lib").glob("python3.*/site-packages")
    return sorted(distributions(path=[str(packages)]), key=lambda one: one.name.lower())


def install_environment(wheel: Path, root: Path, tools: Path) -> None:
    """Make the environment with hogpipe and its libraries; no path of this machine stays in it."""
    home = root / HOME
    _run(PYTHON, "-m", "venv", str(tools))
    _run(PYTHON, "-m", "venv", "--without-pip", str(home))
    pip = (str(tools / "bin/python"), "-m", "pip", "--python", str(home / "bin/python"))
    _run(*pip, "install", "--no-compile", "--only-binary=:all:", str(wheel))
    (home / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    for script in (home / "bin").iterdir():
        if not script.name.startswith("python") and script.name != "hogpipe":
            script.unlink()
    program = home / "bin/hogpipe"
    program.write_text(re.sub(r"\A#!.*", f"#!/{HOME}/bin/python -I", program.read_text()))
    for folder in ("include", "share"):  # headers and documents of libraries
        shutil.rmtree(home / folder, ignore_errors=True)
    for tests in list(home.rglob("tests")):  # a third of the size
        shutil.rmtree(tests)


def finish_environment(root: Path) -> None:
    """Make the environment one of the package: after this it no longer works in its folder."""
    for name in ("RECORD", "REQUESTED", "direct_url.json"):  # of pip, some with its paths
        for file in root.glob(f"{HOME}/lib/python3.*/site-packages/*.dist-info/{name}"):
            file.unlink()
    link = root / HOME / "bin/python3"
    link.unlink()
    link.symlink_to("../../../bin/python3")


def install_files(root: Path) -> None:
    """Copy the program, the unit and its configuration; write man page and completions."""
    (root / "usr/bin").mkdir()
    (root / "usr/bin/hogpipe").symlink_to("../lib/hogpipe/bin/hogpipe")
    units = PACKAGING / "systemd"
    _copy(units / "hogpipe.service", root / "usr/lib/systemd/system/hogpipe.service")
    _copy(units / "config.toml", root / CONFFILE)
    for name in ("containers.conf", "network-sinks.conf"):
        _copy(units / name, root / DOC / "examples" / name)
    python = str(root / HOME / "bin/python")
    page = _run(python, "-B", str(PACKAGING / "make_man.py"))
    _write_gzip(root / "usr/share/man/man1/hogpipe.1.gz", page + "\n")
    for shell, path in COMPLETIONS.items():
        _write(root / path, _run(python, "-Bm", "hogpipe", "completion", shell) + "\n")


def install_documents(root: Path, version: str, epoch: int) -> None:
    """Write Debian's changelog, and the licences of everything in the package."""
    maintainer = re.search(r"^Maintainer: (.*)", _read("control"), re.MULTILINE)
    assert maintainer
    entry = "  * The changes of hogpipe are in changelog.gz, beside this file."
    _write_gzip(
        root / DOC / "changelog.Debian.gz",
        f"hogpipe ({version}) unstable; urgency=medium\n\n{entry}\n\n"
        f" -- {maintainer[1]}  {formatdate(epoch)}\n",
    )
    _write_gzip(root / DOC / "changelog.gz", (PACKAGING.parent / "CHANGELOG.md").read_text())
    _write(root / "usr/share/lintian/overrides/hogpipe", _read("lintian-overrides"))
    _write(root / DOC / "copyright", "\n".join(list_licences(root)) + "\n")


def list_licences(root: Path) -> Iterator[str]:
    """Yield the lines of the file of licences: hogpipe's own, and those of its libraries."""
    yield "hogpipe comes from https://github.com/hogpipe/hogpipe. Its licence (MIT):"
    yield from ("", (PACKAGING.parent / "LICENSE").read_text().strip(), "")
    yield f"/{HOME} also holds these libraries, as published on https://pypi.org."
    yield from ("/usr/share/common-licenses/Apache-2.0 is the Apache License, version 2.0.", "")
    for library in list_libraries(root):
        fields = library.metadata.json
        if library.name != "hogpipe":
            licence = fields.get("license_expression") or fields.get("license")
            yield f"{library.name} {library.version}: {licence}"
            for file in library.files or ():
                if _LICENCE_FILE.search(str(file)):
                    yield f"    /{Path(str(library.locate_file(file))).relative_to(root)}"


def write_control(root: Path, version: str, architecture: str) -> None:
    """Write the control files: dependencies, checksums, scripts."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    values = {
        "version": version,
        "architecture": architecture,
        "size": str(sum(-(-path.stat().st_size // 1024) for path in files)),
        "depends": ", ".join(find_dependencies(root)),
    }
    control = re.sub(r"@(\w+)@", lambda found: values[found[1]], _read("control"))
    _write(root / "DEBIAN/control", control)
    _write(root / "DEBIAN/conffiles", f"/{CONFFILE}\n")
    sums = ((hashlib.md5(path.read_bytes()).hexdigest(), path) for path in files)  # noqa: S324
    lines = [f"{digest}  {path.relative_to(root)}\n" for digest, path in sums]
    _write(root / "DEBIAN/md5sums", "".join(lines))
    for name in SCRIPTS:
        _write(root / "DEBIAN" / name, _read(name))


def find_dependencies(root: Path) -> list[str]:
    """Return what the package depends on: this minor version of Python, libbpf, C libraries."""
    (python,) = (root / HOME / "lib").glob("python3.*")
    minor = int(python.name.partition(".")[2])
    libraries = sorted(map(str, python.rglob("*.so*")))
    folders = sorted({f"-l{Path(library).parent}" for library in libraries})
    with tempfile.TemporaryDirectory() as work:
        _write(Path(work, "debian/control"), "Source: x\n\nPackage: x\nArchitecture: any\n")
        words = ("-O", "--ignore-missing-info", "--warnings=0", *folders)
        found = _run("dpkg-shlibdeps", *words, *libraries, folder=Path(work))
    needed = found.rpartition("shlibs:Depends=")[2].split(", ")
    return [
        f"python3 (>= 3.{minor})",
        f"python3 (<< 3.{minor + 1})",
        "libbpf1",
        "libseccomp2",
        *needed,
    ]


def set_modes(root: Path) -> None:
    """Give files and folders the modes that Debian's policy wants, whatever the umask was."""
    programs = {root / "DEBIAN" / name for name in SCRIPTS} | {root / HOME / "bin/hogpipe"}
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path in programs else 0o644)


def _read(name: str) -> str:
    return (PACKAGING / "debian" / name).read_text()


def _copy(source: Path, target: Path) -> None:
    _write(target, source.read_text())


def _write(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def _write_gzip(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def _run(*command: str, folder: Path | None = None, **environment: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603
            command, cwd=folder, env=os.environ | environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise BuildError(f"{error.filename} is missing; install python3-venv, dpkg-dev") from error
    if done.returncode:
        raise BuildError(f"{' '.join(command[:5])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", nargs="?", type=Path, default=PACKAGING.parent / "dist")
    arguments = parser.parse_args()
    try:
        print(build(arguments.wheel.resolve(), arguments.folder))  # noqa: T201
    except BuildError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
