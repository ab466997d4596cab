"""Kernels of Debian's packages: looks them up, downloads them, and takes out what a guest boots.

In: a suite and the name of a metapackage, which depends on the newest kernel of its kind. Out: a
folder with `vmlinuz` and a tree of those modules that hogpipe makes the kernel load. apt reads a
list of sources made here, so that suites other than the machine's can be asked; nothing is
installed. What fails raises CalledProcessError.
"""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

PROGRAMS = ("apt-get", "apt-cache", "dpkg-deb", "tar", "depmod")
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_DEBIAN, _SECURITY = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"
# sock_diag, which `ebpf` and lookups ask; Debian's kernels have all else built in.
_MODULES = ("inet_diag", "tcp_diag", "udp_diag", "raw_diag", "netlink_diag")
_PARTS = ("*/vmlinuz*", "*/modules.builtin*", "*/modules.order", *(f"*/{n}.ko*" for n in _MODULES))
_DEPENDS = re.compile(r"^\s*Depends: (linux-(?:image|binary|modules)-\d\S*)$", re.MULTILINE)


class Kernel(NamedTuple):
    """A kind of kernel: its suite, with or without a suite of security updates, and metapackage."""

    suite: str
    package: str
    has_security: bool = True


class Unpacked(NamedTuple):
    """What a guest boots, and the version of the package."""

    image: Path
    modules: Path
    """A tree with lib/modules."""
    version: str


def unpack_kernel(kernel: Kernel, folder: Path) -> Unpacked:
    """Download the newest kernel of a kind, and unpack it into an empty folder."""
    options = _write_apt(kernel, folder / "apt")
    _run(folder, "apt-get", *options, "update", "--quiet")
    (image,) = _list_parts(kernel.package, options, folder)
    parts = [image, *_list_parts(image, options, folder)]
    _run(folder, "apt-get", *options, "download", "--quiet", *parts)
    modules = folder / "modules"
    modules.mkdir()
    for package in folder.glob("*.deb"):
        _extract(package, modules)
    (vmlinuz,) = modules.rglob("vmlinuz*")
    (release,) = {path.parent.name for path in modules.rglob("lib/modules/*/kernel")}
    image_file = vmlinuz.rename(folder / "vmlinuz")
    if not (modules / "usr/lib/modules").exists():  # as guests of a merged /usr have it
        (modules / "usr/lib").mkdir(parents=True)
        (modules / "lib/modules").rename(modules / "usr/lib/modules")
        (modules / "lib").rmdir()
    _run(folder, "depmod", "--basedir", str(modules / "usr"), release)
    return Unpacked(image_file, modules, _read_version(image, options, folder))


def _write_apt(kernel: Kernel, folder: Path) -> list[str]:
    """Make a state of apt with the sources of a suite; return the options that name it."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    lines = [f"deb [signed-by={_KEYRING}] {_DEBIAN} {kernel.suite} main"]
    if kernel.has_security:
        lines.append(f"deb [signed-by={_KEYRING}] {_SECURITY} {kernel.suite}-security main")
    (folder / "sources.list").write_text("\n".join(lines) + "\n")
    options = {
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "-",
        "Dir::State": folder / "state",
        "Dir::Cache": folder / "cache",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",
        "APT::Architecture": "amd64",
    }
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]


def _list_parts(package: str, options: list[str], folder: Path) -> list[str]:
    """Return the packages of the kernel itself that one of its packages depends on."""
    return _DEPENDS.findall(_run(folder, "apt-cache", *options, "depends", package))


def _read_version(package: str, options: list[str], folder: Path) -> str:
    shown = _run(folder, "apt-cache", *options, "show", "--no-all-versions", package)
    found = re.search(r"^Version: (.+)$", shown, re.MULTILINE)
    assert found
    return found[1]


def _extract(package: Path, folder: Path) -> None:
    """Unpack the parts that a guest needs; 300 MB of other modules stay packed."""
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE
    ) as contents:
        # It fails for a pattern without a match, and each package has some of the parts.
        command = ["tar", "-x", "--wildcards", *_PARTS]
        subprocess.run(
            command, cwd=folder, stdin=contents.stdout, stderr=subprocess.DEVNULL, check=False
        )
    assert contents.returncode == 0


def _run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout
