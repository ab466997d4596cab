"""What a thread may write and connect to, on a kernel with Landlock and without."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hogpipe.linux import landlock

SCRIPT = """
import os, socket, sys, threading
from pathlib import Path
from hogpipe.linux.credentials import forbid_new_privileges
from hogpipe.linux.landlock import restrict_thread

folder, port, other = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

def attempt(name, work):
    try:
        work()
        print(name, "done")
    except OSError as error:
        print(name, error.strerror)

def connect(port):
    socket.create_connection(("127.0.0.1", port)).close()

def work():
    forbid_new_privileges()
    restrict_thread([folder / "own", folder / "file", folder / "absent"], [port])
    thread = threading.Thread(target=try_all)
    thread.start()
    thread.join()

def try_all():
    attempt("create", (folder / "own/new").touch)
    attempt("rename", lambda: (folder / "own/new").rename(folder / "own/newer"))
    attempt("write", lambda: (folder / "file").write_text("x"))
    attempt("read", (folder / "other/there").read_text)
    attempt("write elsewhere", lambda: (folder / "other/there").write_text("x"))
    attempt("create elsewhere", (folder / "other/new").touch)
    attempt("remove elsewhere", (folder / "other/there").unlink)
    attempt("execute", lambda: os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", "0"))
    attempt("connect", lambda: connect(port))
    attempt("connect elsewhere", lambda: connect(other))

thread = threading.Thread(target=work)
thread.start()
thread.join()
attempt("write in the thread before", lambda: (folder / "other/there").write_text("x"))
"""


def test_a_thread_writes_and_connects_to_what_it_is_left(tmp_path: Path) -> None:
    version = landlock.read_version()
    if not version:
        with pytest.raises(OSError, match="the kernel has no Landlock"):
            landlock.restrict_thread([tmp_path])
        return
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
    for name in ("file", "other/there"):
        (tmp_path / name).touch()
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as two:
        ports = [str(server.getsockname()[1]) for server in (one, two)]
        words = [sys.executable, "-c", SCRIPT, str(tmp_path), *ports]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    refused = "Permission denied"
    assert done.stdout.splitlines() == [
        "create done",
        "rename done",
        "write done",
        "read done",
        f"write elsewhere {refused}",
        f"create elsewhere {refused}",
        f"remove elsewhere {refused}",
        "execute done",
        "connect done",
        f"connect elsewhere {refused if version >= 4 else 'done'}",
        "write in the thread before done",
    ]
