"""Denied system calls fail, in the thread that denied them and those that it starts."""

import os
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


NAMESPACES = """
import ctypes, errno, os, subprocess, sys, threading
from hogpipe.linux.credentials import forbid_new_privileges
from hogpipe.linux.seccomp import deny_calls

libc = ctypes.CDLL(None, use_errno=True)
SIGCHLD = 17
FLAGS = {
    "fork": 0, "mount": 1 << 17, "cgroup": 1 << 25, "uts": 1 << 26, "ipc": 1 << 27,
    "user": 1 << 28, "pid": 1 << 29, "net": 1 << 30, "user and net": 1 << 30 | 1 << 28,
}

def clone(flags):
    pid = libc.syscall(CLONE, *ARGUMENTS(flags | SIGCHLD))
    if pid == 0:
        os._exit(0)
    if pid < 0:
        return errno.errorcode[ctypes.get_errno()]
    os.waitpid(pid, 0)
    return "made"

def clone3():
    arguments = (ctypes.c_uint64 * 11)(1 << 28, 0, 0, 0, SIGCHLD)
    libc.syscall(435, arguments, ctypes.sizeof(arguments))
    return errno.errorcode[ctypes.get_errno()]

CLONE = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
ARGUMENTS = lambda flags: (ctypes.c_ulong(flags), None, None, None, None)
forbid_new_privileges()
deny_calls([])
for name, flags in FLAGS.items():
    print(name, clone(flags), flush=True)
print("clone3", clone3(), flush=True)

seen = []
thread = threading.Thread(target=seen.append, args=("ran",))
thread.start()
thread.join()
print("thread", *seen)
for options in ({}, {"close_fds": False}, {"start_new_session": True}, {"preexec_fn": int}):
    print("program", subprocess.run([sys.executable, "-c", "print(1)"], **options).returncode)
print("spawn", os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)[1])
print("shell", os.system("exit 0"))
print("unshare", subprocess.run(["unshare", "--user", "true"], capture_output=True).returncode)
"""


@pytest.mark.skipif(
    os.uname().machine not in {"x86_64", "aarch64"}, reason="the call's number is not known"
)
def test_no_namespace_can_be_made_and_threads_and_programs_still_start() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NAMESPACES], capture_output=True, text=True, check=True
    )
    kinds = ["mount", "cgroup", "uts", "ipc", "user", "pid", "net", "user and net"]
    assert [line for line in done.stdout.splitlines() if line != "1"] == [
        "fork made",
        *(f"{kind} EPERM" for kind in kinds),
        "clone3 ENOSYS",
        "thread ran",
        *(["program 0"] * 4),
        "spawn 0",
        "shell 0",
        "unshare 1",
    ]


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
