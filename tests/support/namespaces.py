"""Network namespaces that a test creates and removes, and work done inside them."""

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
    """Skip the test without root or `programs`; in CI, where all must be present, fail."""
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
        """Run `ip` inside, and return its output."""
        return subprocess.run(
            ["ip", "-n", self.name, *words], check=True, capture_output=True, text=True
        ).stdout

    def batch(self, *lines: str) -> None:
        """Run several `ip` commands without a pause between them."""
        command = ["ip", "-n", self.name, "-batch", "-"]
        subprocess.run(command, input="\n".join(lines) + "\n", check=True, text=True)

    def command(self, *words: str | Path) -> list[str]:
        """Return the command that runs `words` inside."""
        return ["ip", "netns", "exec", self.name, *map(str, words)]

    def enter(self, *words: str | Path) -> list[str]:
        """Return the command that runs `words` inside, with the mounts of this process.

        `ip netns exec` mounts a new /sys, which has no control group tree.
        """
        return ["nsenter", f"--net=/run/netns/{self.name}", *map(str, words)]

    def popen(self, *words: str | Path, **options: object) -> "subprocess.Popen[str]":
        """Start a program inside, with text pipes."""
        return subprocess.Popen(self.command(*words), text=True, **options)  # type: ignore[call-overload]

    def call(self, work: Callable[[], T]) -> T:
        """Return the result of `work` in a new thread inside the namespace."""
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
    """Move this thread into the namespace; Python 3.11 has no os.setns."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/run/netns/{name}").open("rb") as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def namespace() -> Iterator[Namespace]:
    """Create a namespace, and remove it at the end."""
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
    """Create two namespaces on one wire, with the interfaces `left` and `right`.

    The wire is a bridge in a third namespace without a process. Over a direct veth each namespace
    would lead to the other, as a host's interface leads to a container.
    """
    with ExitStack() as stack:
        left, right, wire = (stack.enter_context(namespace()) for _ in range(3))
        wire.call(lambda: Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1"))
        # A bridge with multicast snooping transmits queries itself (net/bridge/br_multicast.c).
        wire.ip("link", "add", "bridge", "type", "bridge", "mcast_snooping", "0")
        wire.ip("link", "set", "bridge", "up")
        for name, end in (("left", left), ("right", right)):
            end.ip("link", "add", name, "type", "veth", "peer", "name", name, "netns", wire.name)
            wire.ip("link", "set", name, "master", "bridge", "up")
        _configure(left, right, addresses)
        yield left, right


@contextmanager
def host_and_container(
    addresses: Sequence[tuple[str, str]],
) -> Iterator[tuple[Namespace, Namespace]]:
    """Create two namespaces joined by a veth: `left` of a host and `right` of a container."""
    with namespace() as host, namespace() as container:
        peer = ("peer", "name", "right", "netns", container.name)
        host.ip("link", "add", "left", "type", "veth", *peer)
        _configure(host, container, addresses)
        yield host, container


@contextmanager
def host_and_containers(host_address: str, addresses: Sequence[str]) -> Iterator[list[Namespace]]:
    """Create a namespace of a host, and of a container for each address behind the bridge `left`.

    The bridge has the host's address. The interface of each container is `right`.
    """
    with ExitStack() as stack:
        host = stack.enter_context(namespace())
        host.ip("link", "add", "left", "type", "bridge", "mcast_snooping", "0")
        host.ip("address", "add", host_address, "dev", "left")
        host.ip("link", "set", "left", "up")
        sides = [host]
        for number, address in enumerate(addresses):
            made = stack.enter_context(namespace())
            peer = ("peer", "name", "right", "netns", made.name)
            host.ip("link", "add", f"port{number}", "type", "veth", *peer)
            host.ip("link", "set", f"port{number}", "master", "left", "up")
            made.ip("address", "add", address, "dev", "right")
            made.ip("link", "set", "right", "up")
            sides.append(made)
        yield sides


def _configure(left: Namespace, right: Namespace, addresses: Sequence[tuple[str, str]]) -> None:
    """Add the addresses of each pair to `left` and `right`, and bring both up."""
    for where, name, own in ((left, "left", 0), (right, "right", 1)):
        for pair_of_addresses in addresses:
            address = pair_of_addresses[own]
            no_dad = ["nodad"] if ":" in address else []
            where.ip("address", "add", address, "dev", name, *no_dad)
        where.ip("link", "set", name, "up")
