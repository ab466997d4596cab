"""Roots of Debian for tests: one that debootstrap makes, layers over it, programs inside it.

In: a folder for the cache, where the root is kept as one archive, since debootstrap takes minutes.
Out: a folder that programs see as /, by chroot or as a booted container (systemd-nspawn). Each
user of a root gets a layer of its own in memory, which ends with its context. Needs root.
"""

import platform
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

DEBOOTSTRAP = ("debootstrap", "tar", "mount", "chroot")
CONTAINER = ("systemd-nspawn", "nsenter", "mount")
# What README.md asks for, a load, and what a container boots. No compiler, no headers.
PACKAGES = ("python3", "python3-venv", "libbpf1", "curl", "systemd", "systemd-sysv", "dbus")
PATIENCE = 60.0
_ENVIRON = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}


def unpack_debian(
    cache: Path, folder: Path, packages: Sequence[str] = PACKAGES, *, purpose: str = ""
) -> Path:
    """Unpack a root of this machine's distribution, which debootstrap makes if it is not cached.

    A root with other packages has a `purpose`, by which it is cached.
    """
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    archive = cache / f"{suite}{purpose}.tar"
    if not archive.exists():
        made, partial = folder / "made", archive.with_suffix(".partial")
        include = f"--include={','.join(packages)}"
        _run("debootstrap", "--variant=minbase", include, suite, str(made))
        _run("tar", "--one-file-system", "-C", str(made), "-cf", str(partial), ".")
        _run("rm", "-r", "--one-file-system", str(made))
        partial.rename(archive)
    root = folder / suite
    root.mkdir()
    _run("tar", "-C", str(root), "-xf", str(archive))
    return root


@contextmanager
def overlay(lower: Path, folder: Path) -> Iterator[Path]:
    """Mount a root with changes kept in memory."""
    with ExitStack() as stack:
        _mount(stack, folder, "-t", "tmpfs", "none")
        for name in ("upper", "work", "root"):
            (folder / name).mkdir()
        layers = f"lowerdir={lower},upperdir={folder}/upper,workdir={folder}/work"
        _mount(stack, folder / "root", "-t", "overlay", "-o", layers, "overlay")
        yield folder / "root"


class Chroot:
    """A root with the kernel's file systems mounted, in which programs run on this machine."""

    def __init__(self, path: Path, environ: dict[str, str]) -> None:
        self.path = path
        self._environ = _ENVIRON | environ

    def command(self, *words: str | Path) -> list[str]:
        """Return the command that runs `words` inside, with the environment of the root alone."""
        environ = (f"{name}={value}" for name, value in self._environ.items())
        return ["env", "-i", *environ, "chroot", str(self.path), *map(str, words)]

    def run(self, *words: str | Path) -> str:
        """Return the output of a program, which must succeed."""
        return _run(*self.command(*words))

    def list_files(self) -> set[str]:
        """Return the paths of everything in the root, mounted file systems aside."""
        found = _run("find", str(self.path), "-xdev", "-printf", r"/%P\n")
        return set(found.splitlines())


@contextmanager
def chroot(root: Path, environ: dict[str, str]) -> Iterator[Chroot]:
    """Mount what programs expect, and unmount it at the end."""
    with ExitStack() as stack:
        _mount(stack, root / "proc", "-t", "proc", "proc")
        for name in ("sys", "dev"):
            _mount(stack, root / name, "--rbind", "--make-rslave", f"/{name}")
        yield Chroot(root, environ)


class Container:
    """A booted container; `run` runs a command in it."""

    def __init__(self, init: int) -> None:
        self._enter = ("nsenter", "-t", str(init), *("-m", "-p", "-u", "-i", "-n"), "--")

    def run(self, *words: str) -> str:
        done = subprocess.run(
            [*self._enter, *words], capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        return done.stdout.strip()

    def show(self, name: str) -> str:
        """Return a property of the service."""
        return self.run("systemctl", "show", "hogpipe", "--value", "--property", name)

    def wait_until(self, name: str, value: str) -> None:
        patience = time.monotonic() + PATIENCE
        while not re.fullmatch(value, self.show(name)):
            assert time.monotonic() < patience, self.run("journalctl", "-u", "hogpipe")
            time.sleep(0.2)


@contextmanager
def boot(root: Path, *network: str) -> Iterator[Container]:
    """Boot a root, by default in a network of its own."""
    (root / "etc/machine-id").unlink(missing_ok=True)
    words = ("--register=no", "--keep-unit", "--capability=all", "--boot")
    landlock = "landlock_create_ruleset landlock_add_rule landlock_restrict_self"
    calls = f"--system-call-filter=bpf perf_event_open kcmp {landlock}"
    nspawn = subprocess.Popen(
        [
            *("systemd-nspawn", *words, calls, *(network or ("--private-network",))),
            *("--directory", root),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children")
        patience = time.monotonic() + PATIENCE
        while not children.read_text().split():
            assert time.monotonic() < patience
            time.sleep(0.1)
        yield Container(int(children.read_text().split()[0]))
    finally:
        nspawn.terminate()
        nspawn.wait(PATIENCE)


def _mount(stack: ExitStack, target: Path, *words: str) -> None:
    """Mount until the end of the context; what still uses the mount does not delay that."""
    _run("mount", *words, str(target))
    stack.callback(_run, "umount", "--recursive", "--lazy", str(target))


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout
