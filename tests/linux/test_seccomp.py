"""Denied system calls fail, in the thread that denied them and those that it starts."""

import subprocess
import sys

import pytest

from hogpipe.linux import seccomp
from hogpipe.linux.capabilities import Capability
from hogpipe.security.denied_calls import DENIED_TO_SINKS, list_denied

SCRIPT = """
import ctypes, os, threading
from hogpipe.linux.credentials import forbid_new_privileges
from hogpipe.linux.seccomp import deny_calls

libc = ctypes.CDLL(None, use_errno=True)

def try_it(where):
    print(where, libc.unshare(0), flush=True)

def in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

def deny():
    forbid_new_privileges()
    deny_calls(["unshare", "no_such_call"])
    try_it("denied")
    in_thread(lambda: try_it("inherited"))

in_thread(deny)
try_it("main")
"""


def test_calls_are_denied_to_a_thread_and_those_that_it_starts() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["denied -1", "inherited -1", "main 0"]


def test_without_the_library_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "LIBRARY", "libabsent.so.7")
    seccomp._load_library.cache_clear()
    try:
        with pytest.raises(OSError, match=r"libabsent\.so\.7 cannot be loaded; install"):
            seccomp.deny_calls(["unshare"])
    finally:
        seccomp._load_library.cache_clear()


def test_threads_that_enter_containers_keep_that_call_alone() -> None:
    without, entering = list_denied(()), list_denied({Capability.CAP_SYS_ADMIN})
    assert {*without} - {*entering} == {"setns"}
    assert {"setns", "bpf", "ptrace"} <= {*DENIED_TO_SINKS}
    assert "bpf" not in without
    assert not {"execve", "execveat"} & {*DENIED_TO_SINKS}
