"""A process whose sockets are not in the fd table of its first thread."""

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PROGRAM = """
import ctypes, os, platform, socket, sys, threading
CLONE_FILES, EXIT = 0x400, {"x86_64": 60}.get(platform.machine(), 93)
libc = ctypes.CDLL(None)
kind, port = sys.argv[1], int(sys.argv[2])
listening = threading.Event()

def serve():
    connections = []
    if kind == "own table":
        assert libc.unshare(CLONE_FILES) == 0
    listening.set()
    for line in os.fdopen(os.dup(0)):
        connections.append(socket.create_connection(("127.0.0.1", port)))
        local = connections[-1].getsockname()[1]
        print(local, os.fstat(connections[-1].fileno()).st_ino, flush=True)
    os._exit(0)

threading.Thread(target=serve).start()
for _ in range(3):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
listening.wait()
print("ready", flush=True)
if kind == "exited leader":
    libc.syscall(EXIT, 0)
threading.Event().wait()
"""
KINDS = ("exited leader", "own table")


@dataclass
class ThreadedProcess:
    """A process that connects to a port on request, in a thread."""

    process: "subprocess.Popen[str]"

    @property
    def pid(self) -> int:
        """The pid."""
        return self.process.pid

    def connect(self) -> tuple[int, int]:
        """Return the local port and the inode of a new connection."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        port, inode = self.process.stdout.readline().split()
        return int(port), int(inode)


@contextmanager
def threaded_process(kind: str, port: int) -> Iterator[ThreadedProcess]:
    """Run a process that connects to `port` of 127.0.0.1.

    It is of one of `KINDS`; if `kind` is another word, all its threads share the first one's table.
    """
    arguments = [sys.executable, "-c", PROGRAM, kind, str(port)]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield ThreadedProcess(process)
        assert process.stdin is not None
        process.stdin.close()


def raise_in(ident: int, kind: type[BaseException]) -> None:
    """Raise an exception in another thread, at the next line of Python that it runs."""
    set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
    assert set_exception(ctypes.c_ulong(ident), ctypes.py_object(kind)) == 1
