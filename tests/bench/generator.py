"""generator.c, compiled when it is needed: datagrams at a rate, a server.

The compiler is that of the package `ziglang`, as for the BPF object; it takes five seconds. The
program runs where it is built and is removed at the end of the context.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.namespaces import Namespace
from support.running import Running, running

SOURCE = Path(__file__).with_suffix(".c")
OPTIONS = ("-O2", "-Wall", "-Wextra", "-Werror")
MOST_SOCKETS = 15_000  # of a process, below the usual hard limit of descriptors
FIRST_PORT = 10_000
IP_AND_UDP = 28  # bytes of the headers


@dataclass(frozen=True)
class Sent:
    """A load as it was: datagrams that passed, those that the kernel refused, and the duration."""

    packets: int
    failed: int
    seconds: float


class Role:
    """A running role of the generator."""

    def __init__(self, run: Running) -> None:
        self._run = run
        self._read()

    @property
    def pid(self) -> int:
        return self._run.process.pid

    def ask(self, line: str) -> None:
        self._run.process.stdin.write(line + "\n")
        self._run.process.stdin.flush()

    def answer(self) -> list[int]:
        """Wait for the numbers that answer `ask`."""
        return [int(word) for word in self._read().split()]

    def _read(self) -> str:
        line = self._run.process.stdout.readline()
        if not line:
            self._run.wait()
            raise ValueError("the generator ended: " + "".join(self._run.errors).strip())
        return line


@dataclass(frozen=True)
class Sender:
    """Flows of one host, spread over as many processes as their descriptors need."""

    roles: Sequence[Role]

    @property
    def pids(self) -> frozenset[int]:
        return frozenset(role.pid for role in self.roles)

    def send(self, rate: float, seconds: float) -> Sent:
        """Send `rate` datagrams a second, 0 for as many as possible, and wait for the end."""
        for role in self.roles:
            role.ask(f"{rate / len(self.roles)} {seconds}")
        answers = [role.answer() for role in self.roles]
        packets, failed, nanoseconds = zip(*answers, strict=True)
        return Sent(sum(packets), sum(failed), max(nanoseconds) / 1e9)


@contextmanager
def built() -> Iterator[Path]:
    """Compile the generator; yield the program. Raises ValueError with the compiler's text."""
    with tempfile.TemporaryDirectory(prefix="hogpipe-generator-") as folder:
        program = Path(folder, "generator")
        caches = {"ZIG_LOCAL_CACHE_DIR": folder, "ZIG_GLOBAL_CACHE_DIR": folder}
        done = subprocess.run(
            [sys.executable, "-m", "ziglang", "cc", *OPTIONS, SOURCE, "-o", program],
            env=os.environ | caches, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ValueError(f"generator.c does not compile: {done.stderr.strip()}")
        yield program


@contextmanager
def role(where: Namespace, program: Path, *words: object) -> Iterator[Role]:
    """Run a role until the end of the context."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with running(where, program, *map(str, words), **pipes) as run:
        yield Role(run)


@contextmanager
def sockets(  # noqa: PLR0917
    where: Namespace, program: Path, local: str, remote: tuple[str, int], payload: int, flows: int
) -> Iterator[Sender]:
    """Open `flows` connected sockets to one remote port."""
    with ExitStack() as stack:
        first, roles = FIRST_PORT, []
        for share in split(flows, MOST_SOCKETS):
            words = ("send", local, first, *remote, payload, share, "sockets")
            roles.append(stack.enter_context(role(where, program, *words)))
            first += share
        yield Sender(roles)


def split(number: int, most: int) -> list[int]:
    """Return equal parts of a number, each at most `most`."""
    parts = -(-number // most)
    return [number // parts + (part < number % parts) for part in range(parts)]
