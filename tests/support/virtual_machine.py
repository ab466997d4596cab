"""Virtual machines that qemu emulates (TCG): a kernel, a root in memory, one program in it.

In: a kernel's image and trees of files. Out: what the machine prints on its serial line until it
switches itself off. No hardware virtualisation is needed, so it runs in a virtual machine, too; it
is some ten times slower. The machine has no network, no disk, and one processor.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

PROGRAMS = ("qemu-system-x86_64", "cpio", "find")
PATIENCE = 1200.0
_MEMORY_MIB = 1536  # the root is in it twice while it is unpacked
_PARAMETERS = "console=ttyS0 panic=-1 quiet"


def pack_tree(tree: Path, archive: Path) -> Path:
    """Pack a tree, without what is mounted in it, for the initial root; return the archive."""
    names = subprocess.run(
        ["find", ".", "-xdev", "-print0"], cwd=tree, capture_output=True, check=True
    ).stdout
    with archive.open("wb") as file:
        command = ["cpio", "--null", "--create", "--format=newc", "--quiet"]
        subprocess.run(command, cwd=tree, input=names, stdout=file, check=True)
    return archive


def run_machine(kernel: Path, archives: Sequence[Path], folder: Path) -> str:
    """Boot a kernel with the trees of these archives as its root; return what it prints."""
    root = folder / "root.cpio"
    with root.open("wb") as file:
        for archive in archives:
            file.write(archive.read_bytes())
    try:
        done = subprocess.run(
            [
                *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max"),
                *("-m", str(_MEMORY_MIB), "-nodefaults", "-display", "none", "-serial", "stdio"),
                *("-no-reboot", "-kernel", kernel, "-initrd", root, "-append", _PARAMETERS),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
    finally:
        root.unlink()
    assert done.returncode == 0, done.stderr
    return done.stdout
