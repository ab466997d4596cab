"""Network namespaces that a test makes and removes, and work done inside them."""

import ctypes
import itertools
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_numbers = itertools.count(1)


def require(*programs: str) -> None:
    """Skip the test without root or `programs`; in CI, where all must be there, fail."""
    missing = [program for program in programs if shutil.which(program) is None]
    if os.geteuid() == 0 and not missing:
        return
    reason = f"needs root and {', '.join(programs)}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


class Namespace:
    """A network namespace with its loopback up."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ip(self, *words: str) -> str:
        """Run `ip` inside, and return what it prints."""
        return subprocess.run(
            ["ip", "-n", self.name, *words], check=True, capture_output=True, text=True
        ).stdout

    def batch(self, *lines: str) -> None:
        """Run several `ip` commands in one go, without a pause between them."""
        command = ["ip", "-n", self.name, "-batch", "-"]
        subprocess.run(command, input="\n".join(lines) + "\n", check=True, text=True)

    def command(self, *words: str | Path) -> list[str]:
        """Return the command that runs `words` inside."""
        return ["ip", "netns", "exec", self.name, *map(str, words)]

    def enter(self, *words: str | Path) -> list[str]:
        """Return the command that runs `words` inside, with the mounts that are here.

        `ip netns exec` mounts a new /sys, in which there is no control group tree.
        """
        return ["nsenter", f"--net=/run/netns/{self.name}", *map(str, words)]

    def popen(self, *words: str | Path, **options: object) -> "subprocess.Popen[str]":
        """Start a program inside, with text pipes."""
        return subprocess.Popen(self.command(*words), text=True, **options)  # type: ignore[call-overload]

    def call(self, work: Callable[[], T]) -> T:
        """Return what `work` returns in a thread of its own inside the namespace."""
        results: list[T] = []
        errors: list[BaseException] = []

        def enter() -> None:
            try:
                _enter(self.name)
                results.append(work())
            except BaseException as error:  # noqa: BLE001  it is raised again in the caller
                errors.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]


def _enter(name: str) -> None:
    """Move this thread into the namespace; os.setns comes with Python 3.12."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/run/netns/{name}").open("rb") as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def namespace() -> Iterator[Namespace]:
    """Make a namespace and remove it."""
    name = f"hogpipe-test-{os.getpid()}-{next(_numbers)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        made = Namespace(name)
        made.ip("link", "set", "lo", "up")
        yield made
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@contextmanager
def pair(addresses: Sequence[tuple[str, str]] = ()) -> Iterator[tuple[Namespace, Namespace]]:
    """Make two namespaces on one wire, `left` in one and `right` in the other.

    The wire is a bridge in a third one, which no process is in. Joined directly, each would have
    the other for a guest of its own, as a host has a container.
    """
    with ExitStack() as stack:
        left, right, wire = (stack.enter_context(namespace()) for _ in range(3))
        wire.call(lambda: Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1"))
        # One that snoops on multicasts sends some of its own (net/bridge/br_multicast.c).
        wire.ip("link", "add", "bridge", "type", "bridge", "mcast_snooping", "0")
        wire.ip("link", "set", "bridge", "up")
        for name, end in (("left", left), ("right", right)):
            end.ip("link", "add", name, "type", "veth", "peer", "name", name, "netns", wire.name)
            wire.ip("link", "set", name, "master", "bridge", "up")
        for one, other in addresses:
            left.ip("address", "add", one, "dev", "left", *_no_dad(one))
            right.ip("address", "add", other, "dev", "right", *_no_dad(other))
        left.ip("link", "set", "left", "up")
        right.ip("link", "set", "right", "up")
        yield left, right


@contextmanager
def host_and_guest(addresses: Sequence[tuple[str, str]]) -> Iterator[tuple[Namespace, Namespace]]:
    """Make two namespaces that a veth joins directly: `left` of the host and `right` of a guest."""
    with namespace() as host, namespace() as guest:
        host.ip("link", "add", "left", "type", "veth", "peer", "name", "right", "netns", guest.name)
        for one, other in addresses:
            host.ip("address", "add", one, "dev", "left", *_no_dad(one))
            guest.ip("address", "add", other, "dev", "right", *_no_dad(other))
        host.ip("link", "set", "left", "up")
        guest.ip("link", "set", "right", "up")
        yield host, guest


def _no_dad(address: str) -> list[str]:
    return ["nodad"] if ":" in address else []
