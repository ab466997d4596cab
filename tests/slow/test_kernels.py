"""Kernels of Debian, booted in an emulated machine: what hogpipe counts there, to the byte.

docs/kernels.md has the table that `-s` prints. The program inside is support/kernel_guest.py.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import build_dist
import pytest
from support import kernel_guest, kernel_packages, verifier, virtual_machine
from support.kernel_guest import COUNTS_SYN_ACKS, MARK, SYN_ACKS, parse_release
from support.kernel_packages import Kernel, unpack_kernel
from support.namespaces import require
from support.roots import DEBOOTSTRAP, chroot, unpack_debian
from support.verifier import LARGEST
from support.virtual_machine import pack_tree, run_machine

ROOT = Path(__file__).parents[2]
KERNELS = (
    Kernel("bullseye", "linux-image-amd64"),
    Kernel("bookworm", "linux-image-amd64"),
    Kernel("bookworm", "linux-image-cloud-amd64"),
    Kernel("bookworm", "linux-image-rt-amd64"),
    Kernel("bookworm", "linux-image-6.12-amd64"),
    Kernel("bookworm", "linux-image-6.12-cloud-amd64"),
    Kernel("bookworm", "linux-image-6.12-rt-amd64"),
    Kernel("trixie-backports", "linux-image-amd64", has_security=False),
)
PACKAGES = ("python3", "python3-venv", "libbpf1", "kmod", "iproute2")
INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 PYTHONPATH=/tests
exec /opt/hogpipe/bin/python /tests/support/kernel_guest.py
"""
UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/zoneinfo", "var/cache")
OLDEST_LEDGER = (5, 15)
ACK = 52  # over IPv4, with timestamps


@pytest.fixture(scope="module")
def root(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The archive of a root with hogpipe and the program of the guest."""
    require(*DEBOOTSTRAP, *virtual_machine.PROGRAMS, *kernel_packages.PROGRAMS)
    folder = tmp_path_factory.mktemp("guest")
    cache = request.config.cache
    assert cache is not None
    tree = unpack_debian(cache.mkdir("debian"), folder, PACKAGES, purpose="-guest")
    install_hogpipe(tree, folder)
    for name in UNUSED:
        shutil.rmtree(tree / name, ignore_errors=True)
    (tree / "tests/support").mkdir(parents=True)
    for module in (kernel_guest, verifier):
        shutil.copy(str(module.__file__), tree / "tests/support")
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    yield pack_tree(tree, folder / "guest.cpio")
    shutil.rmtree(folder)


def install_hogpipe(tree: Path, folder: Path) -> None:
    """Install hogpipe from its wheel, and what it requires with the configuration of pip here."""
    sources = build_dist.copy_tracked(ROOT, folder / "sources")
    _, wheel = build_dist.build_project(Path(sys.executable), sources, folder, "1800000000")
    packages = tree / "packages"
    subprocess.run(["/usr/bin/python3", "-m", "venv", folder / "pip"], check=True)
    download = ("-m", "pip", "download", "--quiet", "--dest", packages)
    subprocess.run([folder / "pip/bin/python", *download, wheel], check=True)
    environ = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/packages"}
    with chroot(tree, environ) as entered:
        entered.run("python3", "-m", "venv", "/opt/hogpipe")
        entered.run("/opt/hogpipe/bin/pip", "install", "--quiet", "hogpipe")
    shutil.rmtree(packages)


def parse_console(console: str) -> dict[str, Any]:
    """Return what the program of the guest reports, by name."""
    lines = (line.split(" ", 2) for line in console.splitlines() if line.startswith(MARK))
    return {name: json.loads(value) for _, name, value in lines}


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: f"{kernel.suite}-{kernel.package}")
def test_a_known_exchange_is_counted_to_the_byte(
    kernel: Kernel, root: Path, tmp_path: Path
) -> None:
    unpacked = unpack_kernel(kernel, tmp_path)
    modules = pack_tree(unpacked.modules, tmp_path / "modules.cpio")
    console = run_machine(unpacked.image, [root, modules], tmp_path)
    found = parse_console(console)
    assert found.get("exit") == 0, console
    release = parse_release(found["kernel"])
    print(f"\n| {found['kernel']} | {unpacked.version} | {describe(found)} |")
    assert_counted(found["procfs"])
    if release < OLDEST_LEDGER:
        assert_refused(found)
        return
    assert found["doctor"]["code"] == 0
    assert_counted(found["ledger"])
    if release < COUNTS_SYN_ACKS:
        forgive_surplus_ack(found["ebpf"])
    assert_counted(found["ebpf"], missing=0 if release >= COUNTS_SYN_ACKS else SYN_ACKS)
    assert found["payload"].get("moved") == found["payload"]["truth"], found["payload"]
    for name, counts in found["verifier"].items():
        assert all(counts.values())
        assert max(counts.values()) <= LARGEST[name]


def describe(found: dict[str, Any]) -> str:
    """Return the cells of the table: the verifier's instructions, and what has no owner."""
    counts = found["verifier"]
    if "text" in counts:
        return counts["text"]
    return "; ".join(
        f"{name} {sum(one.values()):,}, the largest {max(one.values()):,}"
        for name, one in counts.items()
    )


def assert_counted(found: dict[str, Any], missing: int = 0) -> None:
    """Assert that processes have their bytes, the server without those that are missing."""
    assert (found["code"], found["dropped"]) == (0, 0), found
    truth = dict(found["truth"])
    truth["server transmit"] -= missing
    assert found["moved"] == truth, found
    assert found["qualities"].keys() <= {"exact", "listener"}


def forgive_surplus_ack(found: dict[str, Any]) -> None:
    """Take away one ACK that is counted though none passed (docs/kernels.md, known limit)."""
    for end in ("server transmit", "client transmit"):
        missing = SYN_ACKS if end == "server transmit" else 0
        if found["moved"][end] == found["truth"][end] - missing + ACK:
            found["moved"][end] -= ACK
            print("one ACK too many", end=" ")
            return


def assert_refused(found: dict[str, Any]) -> None:
    """Assert that the kernel is named as too old, by the exit code and in one line."""
    assert found["verifier"]["obstacle"] == "kernel"
    for way in ("ledger", "ebpf"):
        assert found[way]["code"] == 78
        assert "Linux 5.15 is needed" in found[way]["lines"][-1]
    assert found["payload"]["code"] == 78
    assert "Linux 5.15 is needed" in found["payload"]["lines"][-1]
