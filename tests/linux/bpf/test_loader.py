"""Loading and attaching on the running kernel, and each obstacle to it."""

import ctypes
import logging
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from build_bpf import compile_object
from support.bpf import ATTACH_TYPES, all_attached, attached, control_group, require_bpf
from support.namespaces import require

from hogpipe.linux.bpf import object_path
from hogpipe.linux.bpf.libbpf import load_library
from hogpipe.linux.bpf.loader import AttachedPrograms, attach_first, check_object
from hogpipe.linux.bpf.maps import Losses, read_losses
from hogpipe.linux.bpf.obstacles import BpfUnavailableError, Obstacle

PROGRAMS = tuple(ATTACH_TYPES)

# Prints "loaded", or the obstacle, the exit code and the text of the error.
TRY = """
from hogpipe.linux.bpf.obstacles import BpfUnavailableError
from hogpipe.linux.bpf.programs import attach_ledger_programs
try:
    attach_ledger_programs().close()
    print("loaded")
except BpfUnavailableError as error:
    print(error.obstacle, error.exit_code, error)
"""


BAD = """
__attribute__((section("cgroup/sock_create"), used))
int bad(struct context *context) { return *(volatile int *)0; }
"""
GOOD = """
__attribute__((section("cgroup/sock_release"), used))
int good(struct context *context) { return 1; }
"""


def compile_program(folder: Path, text: str) -> Path:
    """Return an object with these functions."""
    source, compiled = folder / "test.bpf.c", folder / "test.bpf.o"
    licence = 'char LICENSE[] __attribute__((section("license"), used)) = "MIT";'
    source.write_text(f"struct context;\n{licence}\n{text}")
    compile_object(source, compiled, ["-Wno-unused-parameter"])
    return compiled


def try_attaching(*prefix: str) -> str:
    """Return what a new process, started through `prefix`, prints about attaching."""
    command = [*prefix, sys.executable, "-c", TRY]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1, done.stdout
    return done.stdout


def after(preparation: str) -> tuple[str, ...]:
    """Return a prefix that runs a command in a mount namespace, after a shell command there."""
    return ("unshare", "--mount", "sh", "-ec", f'{preparation}; exec "$@"', "sh")


def test_programs_coexist_with_those_of_others_and_detach_alone() -> None:
    path = require_bpf()
    with control_group() as folder:
        others = AttachedPrograms(path, PROGRAMS, folder)
        before = all_attached(folder)
        ours = AttachedPrograms(path, PROGRAMS, folder)
        assert [len(attached(folder, kind)) for kind in ATTACH_TYPES.values()] == [2] * len(
            PROGRAMS
        )
        ours.close()
        ours.close()
        assert all_attached(folder) == before
        others.close()
        assert all_attached(folder) == set()


def test_no_program_stays_attached_if_the_last_one_fails() -> None:
    path = require_bpf()
    with control_group() as folder:
        with pytest.raises(BpfUnavailableError, match="no_such_program") as caught:
            AttachedPrograms(path, (*PROGRAMS, "no_such_program"), folder)
        assert caught.value.obstacle is Obstacle.OBJECT
        assert all_attached(folder) == set()


def test_a_hook_with_an_exclusive_program_is_reported_and_nothing_stays_attached() -> None:
    path = require_bpf()
    with control_group() as folder, control_group(folder) as inner:
        program = AttachedPrograms(path, ("ledger_release",), folder)
        attach_exclusively(program, "ledger_release", inner)
        with pytest.raises(BpfUnavailableError, match="attached there exclusively") as caught:
            AttachedPrograms(path, PROGRAMS, inner)
        assert caught.value.obstacle is Obstacle.PRIVILEGES
        assert len(all_attached(inner)) == 1
        program.close()


def attach_exclusively(programs: AttachedPrograms, name: str, folder: Path) -> None:
    """Attach a program without BPF_F_ALLOW_MULTI, so that no other can be attached."""
    library = load_library()
    library.bpf_program__fd.argtypes = [ctypes.c_void_p]
    found = library.bpf_object__find_program_by_name(programs._object, name.encode())
    descriptor = os.open(folder, os.O_RDONLY)
    code = library.bpf_prog_attach(
        library.bpf_program__fd(found), descriptor, ATTACH_TYPES[name], 0
    )
    os.close(descriptor)
    assert code == 0


def test_a_folder_that_is_no_control_group_is_reported(tmp_path: Path) -> None:
    path = require_bpf()
    with pytest.raises(BpfUnavailableError, match="no control group") as caught:
        AttachedPrograms(path, PROGRAMS, tmp_path)
    assert caught.value.obstacle is Obstacle.CGROUP


def test_a_damaged_object_is_reported(tmp_path: Path) -> None:
    require_bpf()
    damaged = tmp_path / "damaged.o"
    damaged.write_bytes(b"\x7fELF and nothing else")
    with pytest.raises(BpfUnavailableError, match=str(damaged)) as caught:
        AttachedPrograms(damaged, PROGRAMS, tmp_path)
    assert caught.value.obstacle is Obstacle.OBJECT


def test_maps_too_large_for_the_kernel_are_reported() -> None:
    path = require_bpf()
    with control_group() as folder:
        with pytest.raises(BpfUnavailableError, match="no room for the maps") as caught:
            AttachedPrograms(path, PROGRAMS, folder, max_entries={"losses": 0xFFFFFFFF})
        assert caught.value.obstacle is Obstacle.LIMITS
        assert all_attached(folder) == set()


def test_the_verifiers_log_is_in_the_debug_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    require_bpf()
    compiled = compile_program(tmp_path, BAD)
    with control_group() as folder, caplog.at_level(logging.DEBUG, "hogpipe.linux.bpf"):
        with pytest.raises(BpfUnavailableError, match="kernel refuses") as caught:
            AttachedPrograms(compiled, ("bad",), folder, check_shapes=False)
        assert caught.value.obstacle is Obstacle.KERNEL
        assert caught.value.exit_code == 78
    assert "BEGIN PROG LOAD LOG" in caplog.text


def test_the_first_set_of_programs_that_the_kernel_accepts_is_attached(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    require_bpf()
    compiled = compile_program(tmp_path, BAD + GOOD)
    with control_group() as folder, caplog.at_level(logging.DEBUG, "hogpipe.linux.bpf.loader"):
        attach = partial(attach_first, compiled, cgroup_root=folder, check_shapes=False)
        programs = attach([("bad", "good"), ("good",)])
        assert programs.names == ("good",)
        assert len(all_attached(folder)) == 1
        assert "without bad: eBPF: this kernel refuses" in caplog.text
        programs.close()
        with pytest.raises(BpfUnavailableError, match="kernel refuses"):
            attach([("bad", "good"), ("bad",)])
        with pytest.raises(BpfUnavailableError, match="no_such_program"):
            attach([("no_such_program",), ("good",)])
        assert all_attached(folder) == set()


def test_counters_are_read_until_the_programs_are_closed() -> None:
    path = require_bpf()
    with control_group() as folder:
        programs = AttachedPrograms(path, ("ledger_create",), folder)
        assert read_losses(programs.map_fd("losses")) == Losses(0, 0, 0)
        with pytest.raises(KeyError):
            programs.map_fd("no_such_map")
        programs.close()
        with pytest.raises(KeyError):
            programs.map_fd("losses")


def test_without_privileges_the_capabilities_are_named() -> None:
    require_bpf()
    require("setpriv")
    said = try_attaching("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    assert said.startswith("privileges 77 ")
    assert "CAP_BPF" in said


@pytest.mark.parametrize("missing", ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"])
def test_each_capability_is_needed_and_named(missing: str) -> None:
    require_bpf()
    require("setpriv")
    names = {"CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"} - {missing}
    kept = ",".join("+" + name.removeprefix("CAP_").lower() for name in names)
    said = try_attaching("setpriv", f"--bounding-set=-all,{kept}", f"--inh-caps=-all,{kept}")
    assert said.startswith("privileges 77 ")
    assert f"grant {missing}," in said


def test_the_named_capabilities_suffice() -> None:
    require_bpf()
    require("setpriv")
    kept = "+bpf,+perfmon,+net_admin"
    said = try_attaching("setpriv", f"--bounding-set=-all,{kept}", f"--inh-caps=-all,{kept}")
    assert said == "loaded\n"


def test_in_a_user_namespace_the_error_names_the_host() -> None:
    require_bpf()
    require("unshare")
    said = try_attaching("unshare", "--user", "--map-root-user")
    assert said.startswith("privileges 77 ")
    assert "CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN are needed on the host" in said
    assert "run outside of it" in said


def test_without_libbpf_the_package_is_named() -> None:
    require_bpf()
    require("unshare", "mount")
    load_library()
    maps = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    (library,) = {name for name in maps if "/libbpf.so" in name}
    said = try_attaching(*after(f"mount --bind /dev/null {library}"))
    assert said.startswith("libbpf 78 ")
    assert "libbpf1" in said


def test_without_a_control_group_tree_or_the_right_to_mount_one_the_remedy_is_named() -> None:
    require_bpf()
    require("unshare", "umount", "setpriv")
    kept = "--bounding-set=-sys_admin --inh-caps=-sys_admin"
    said = try_attaching(*after(f'umount --all --types cgroup2; set -- setpriv {kept} "$@"'))
    assert said.startswith("cgroup 78 ")
    assert "mount -t cgroup2" in said


def test_for_a_damaged_object_the_remedy_is_named() -> None:
    path = require_bpf()
    require("unshare", "mount")
    said = try_attaching(*after(f"mount --bind /dev/null {path}"))
    assert said.startswith(f"object 78 eBPF: {path} cannot be opened (")
    assert said.endswith("; reinstall hogpipe\n")


def test_for_a_missing_object_the_remedy_is_named(tmp_path: Path) -> None:
    path = tmp_path / "hogpipe.bpf.o"
    with pytest.raises(BpfUnavailableError) as caught:
        check_object(path)
    assert caught.value.obstacle is Obstacle.OBJECT
    text = f"eBPF: {path} cannot be read (No such file or directory); reinstall hogpipe"
    assert str(caught.value) == text


def test_an_object_of_the_other_byte_order_is_refused_with_the_command_to_compile_it(
    tmp_path: Path,
) -> None:
    header = bytearray(object_path().read_bytes()[:64])
    assert header[5] in {1, 2}
    header[5] = 3 - header[5]  # EI_DATA
    path = tmp_path / "hogpipe.bpf.o"
    path.write_bytes(header)
    with pytest.raises(BpfUnavailableError) as caught:
        check_object(path)
    assert caught.value.obstacle is Obstacle.OBJECT
    assert re.fullmatch(
        rf"eBPF: {path} is for (big|little)-endian machines and this one is {sys.byteorder}-endian"
        "; compile it here with packaging/build_bpf.py of the sources of hogpipe",
        str(caught.value),
    )
