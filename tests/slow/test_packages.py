"""Installations in a fresh root of Debian without a compiler: from a clone, a wheel, a .deb.

Each way of installation must show the ledger at work: of a loop of short connections at least
99.9 % of the bytes belong to the program by its name, exactly.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import build_dist
import pytest
from support.bpf import require_bpf
from support.namespaces import Namespace, pair, require
from support.roots import (
    CONTAINER,
    DEBOOTSTRAP,
    Chroot,
    Container,
    boot,
    chroot,
    overlay,
    unpack_debian,
)
from support.running import read_records, running, traffic_of, wait_until
from support.service_unit import NO_OWNER, STATE, confined, read_unit

ROOT = Path(__file__).parents[2]
OBJECT = "hogpipe/linux/bpf/hogpipe.bpf.o"
EPOCH = "1800000000"
SERVER, PORT = "10.77.0.2", 8080
URL = f"http://{SERVER}:{PORT}/"
CONNECTIONS = 500
CURLS = f"for i in $(seq {CONNECTIONS}); do curl -s -o /dev/null {URL} || exit 1; done"
FROM_LEDGER = r"owners come from the ledger \(eBPF\)"
COMPILERS = ("cc", "gcc", "clang", "zig")


class Built(NamedTuple):
    """What is installed: the wheel, the .deb, and a folder of wheels that pip installs from."""

    wheel: Path
    deb: Path
    wheels: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build the packages, and download what they require, with the configuration of pip here."""
    require(*DEBOOTSTRAP, "dpkg-shlibdeps", "unshare", "findmnt")
    folder = tmp_path_factory.mktemp("built")
    tree = build_dist.copy_tracked(ROOT, folder / "tree")
    _, wheel = build_dist.build_project(Path(sys.executable), tree, folder, EPOCH)
    build_deb = ["/usr/bin/python3", ROOT / "packaging/build_deb.py", wheel, folder]
    subprocess.run(build_deb, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["/usr/bin/python3", "-m", "venv", folder / "pip"], check=True)
    download = ("-m", "pip", "download", "--quiet", "--dest", folder / "wheels")
    subprocess.run([folder / "pip/bin/python", *download, wheel, "hatchling"], check=True)
    (deb,) = folder.glob("*.deb")
    return Built(wheel, deb, folder / "wheels")


@pytest.fixture(scope="module")
def debian(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A root that was never used."""
    require(*DEBOOTSTRAP)
    folder = tmp_path_factory.mktemp("debian")
    cache = request.config.cache
    assert cache is not None
    yield unpack_debian(cache.mkdir("debian"), folder)
    shutil.rmtree(folder)


@contextmanager
def fresh(debian: Path, built: Built, folder: Path) -> Iterator[Path]:
    """A layer over the root, with what is installed in /packages."""
    with overlay(debian, folder) as root:
        shutil.copytree(built.wheels, root / "packages")
        shutil.copy(built.deb, root / "packages/hogpipe.deb")
        yield root


@pytest.fixture
def root(debian: Path, built: Built, tmp_path: Path) -> Iterator[Chroot]:
    """A fresh root in which pip has the wheels of `built` and no network."""
    environ = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/packages"}
    (tmp_path / "layer").mkdir()
    with fresh(debian, built, tmp_path / "layer") as path, chroot(path, environ) as entered:
        for compiler in COMPILERS:
            assert not (path / "usr/bin" / compiler).exists()
        yield entered


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Namespace]:
    """A namespace on one wire with an HTTP server."""
    require("ip", "nsenter")
    require_bpf()
    (tmp_path / "page").mkdir()
    (tmp_path / "page/index.html").write_text("x" * 2000)
    server = ("-m", "http.server", "--bind", SERVER, str(PORT))
    # Without IPv6, whose neighbour discovery is traffic without a process; with so few ports that
    # several processes use each.
    settings = {
        "ipv6/conf/all/disable_ipv6": "1",
        "ipv4/ip_local_port_range": "40000 40399",
        "ipv4/tcp_tw_reuse": "1",
    }
    with pair([("10.77.0.1/24", f"{SERVER}/24")]) as (left, right):
        for name, value in settings.items():
            left.call(partial(Path("/proc/sys/net", name).write_text, value))
        with running(
            right, sys.executable, *server, cwd=tmp_path / "page", stdout=subprocess.DEVNULL
        ):
            wait_until(lambda: left.call(answers))
            yield left


def answers() -> bool:
    """Return whether the server accepts connections from this namespace."""
    try:
        socket.create_connection((SERVER, PORT), 1).close()
    except OSError:
        return False
    return True


def find_share(records: Path) -> float:
    """Return the share of all bytes that belong to curl exactly."""
    found: Counter[tuple[str | None, str]] = Counter()
    for one in traffic_of(read_records(records)):
        name = one.get("process", {}).get("name")
        found.update({(name, quality): size for quality, size in one["attribution"].items()})
    assert found.total() > CONNECTIONS * 2000
    print(dict(found), end=" ")
    return found["curl", "exact"] / found.total()


def measure(root: Chroot, where: Namespace, records: str, command: list[str]) -> float:
    """Run hogpipe and the loop in a namespace, and return the share of curl in the records.

    What hogpipe prints is in the file `printed` of the root.
    """
    with (
        (root.path / "printed").open("wb") as printed,
        running(None, *where.enter(*command), stdout=printed) as run,
    ):
        run.wait_for(FROM_LEDGER)
        subprocess.run(where.enter(*root.command("sh", "-c", CURLS)), check=True)
        assert run.end() == 0, run.errors
    return find_share(root.path / records)


def test_the_readmes_run_command_has_the_ledger(root: Chroot, served: Namespace) -> None:
    build_dist.copy_tracked(ROOT, root.path / "clone")
    readme = (ROOT / "README.md").read_text()
    found = re.search(r"<!-- run -->\n```sh\n(.*) && sudo (.*)\n```", readme)
    assert found
    root.run("sh", "-c", f"cd /clone && {found[1]}")
    command = root.command("sh", "-c", f"cd /clone && exec {found[2]}")
    assert measure(root, served, "clone/hogpipe.jsonl", command) >= 0.999


def test_the_wheel_alone_has_the_ledger(root: Chroot, served: Namespace) -> None:
    root.run("python3", "-m", "venv", "/opt/hogpipe")
    root.run("/opt/hogpipe/bin/pip", "install", "--quiet", "hogpipe")
    command = root.command("/opt/hogpipe/bin/hogpipe", "run")
    assert measure(root, served, "printed", command) >= 0.999


def test_the_deb_has_the_ledger_for_root_and_with_the_restrictions_of_its_unit(
    root: Chroot, served: Namespace
) -> None:
    root.run("dpkg", "--install", "/packages/hogpipe.deb")
    assert measure(root, served, "printed", root.command("hogpipe", "run")) >= 0.999
    state = root.path / STATE
    state.mkdir()
    os.chown(state, NO_OWNER, NO_OWNER)
    command = confined(root, *read_unit()["ExecStart"].split())
    assert measure(root, served, f"{STATE}/records.jsonl", command) >= 0.999


def test_a_wheel_built_without_a_compiler_holds_the_same_object(root: Chroot) -> None:
    build_dist.copy_tracked(ROOT, root.path / "clone")
    root.run("python3", "-m", "venv", "/venv")
    root.run("/venv/bin/pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "/out", "/clone")
    (wheel,) = (root.path / "out").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(OBJECT) == (ROOT / OBJECT).read_bytes()


def test_a_purge_leaves_nothing_and_a_removal_leaves_what_the_administrator_owns(
    root: Chroot,
) -> None:
    before = root.list_files()
    root.run("dpkg", "--install", "/packages/hogpipe.deb")
    assert root.run("dpkg", "--verify", "hogpipe") == ""
    assert root.run("hogpipe", "--version").startswith("hogpipe, version ")
    root.run("hogpipe", "check", "/etc/hogpipe/config.toml")
    for path in (
        "usr/share/man/man1/hogpipe.1.gz",
        "usr/share/bash-completion/completions/hogpipe",
        "usr/share/zsh/vendor-completions/_hogpipe",
        "usr/share/fish/vendor_completions.d/hogpipe.fish",
        "usr/lib/systemd/system/hogpipe.service",
        "usr/share/doc/hogpipe/copyright",
    ):
        assert (root.path / path).stat().st_size
    config = root.path / "etc/hogpipe/config.toml"
    config.write_text(f"# changed\n{config.read_text()}")
    root.run("dpkg", "--install", "/packages/hogpipe.deb")
    assert config.read_text().startswith("# changed\n")
    root.run("dpkg", "--remove", "hogpipe")
    left = {path for path in root.list_files() - before if "/var/lib/" not in path}
    assert left == {"/etc/hogpipe", "/etc/hogpipe/config.toml"}
    root.run("dpkg", "--purge", "hogpipe")
    assert root.list_files() == before


@pytest.fixture
def container(debian: Path, built: Built, served: Namespace, tmp_path: Path) -> Iterator[Container]:
    """A booted root with a network, and the .deb installed.

    It has a pid namespace of its own, in which there is no ledger.
    """
    require(*CONTAINER)
    (tmp_path / "layer").mkdir()
    network = f"--network-namespace-path=/run/netns/{served.name}"
    with fresh(debian, built, tmp_path / "layer") as path, boot(path, network) as booted:
        wait_until(lambda: booted.run("systemctl", "is-system-running") in {"running", "degraded"})
        booted.run("dpkg", "--install", "/packages/hogpipe.deb")
        yield booted


def test_the_service_of_the_deb_is_started_by_the_administrator_and_ends_with_the_package(
    container: Container, tmp_path: Path
) -> None:
    assert container.show("ActiveState") == "inactive"
    assert container.show("UnitFileState") == "disabled"
    container.run("systemctl", "enable", "--now", "hogpipe")
    container.wait_until("ActiveState", "active")
    container.run("sh", "-c", CURLS)
    pid = container.show("MainPID")
    container.run("dpkg", "--install", "/packages/hogpipe.deb")
    container.wait_until("ActiveState", "active")
    assert container.show("MainPID") not in {pid, "0"}
    container.run("dpkg", "--remove", "hogpipe")
    container.wait_until("ActiveState", "inactive")
    state = tmp_path / "layer/root/var/lib/private/hogpipe"
    assert traffic_of(read_records(state / "records.jsonl"))
    container.run("dpkg", "--purge", "hogpipe")
    assert not state.exists()
    link = "etc/systemd/system/multi-user.target.wants/hogpipe.service"
    assert not (tmp_path / "layer/root" / link).is_symlink()
