"""Loads programs of the BPF object and attaches them to a control group, and one to interfaces.

In: the path of the object, the names of the programs to attach, and the folder of the control
group. Out: `AttachedPrograms`, which owns the programs and their maps until it is closed. Every
failure is a BpfUnavailableError whose text names the remedy. A program for interfaces is loaded
with the others, and attached to one interface after the other (`attach_to_interface`).

Each attachment is a bpf_link: it coexists with the programs that others attached, and the kernel
detaches it when the process that holds it ends, however it ends. Attaching is all or nothing: when
one program fails, those attached before it are detached.
"""

import ctypes
import errno
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from hogpipe.errors import HogpipeError
from hogpipe.linux.bpf.btf import parse_btf
from hogpipe.linux.bpf.libbpf import load_library
from hogpipe.linux.bpf.obstacles import KERNEL_NEEDED, BpfUnavailableError, Obstacle
from hogpipe.linux.bpf.shapes import find_mismatch
from hogpipe.linux.capabilities import (
    in_initial_user_namespace,
    name_missing,
    parse_effective,
    read_thread_status,
)

log = logging.getLogger(__name__)

_NO_ROOM = {errno.ENOMEM, errno.E2BIG, errno.ENOSPC}
_NOT_PERMITTED = {errno.EPERM}
# include/uapi/linux/capability.h
_CAPABILITIES = {"CAP_BPF": 39, "CAP_PERFMON": 38, "CAP_NET_ADMIN": 12}
_SYS_ADMIN = 21
# elf(5): the magic number; the class, then the byte order (EI_DATA) follow it.
_ELF = b"\x7fELF"
_TCX_EGRESS = 47  # BPF_TCX_EGRESS of include/uapi/linux/bpf.h, Linux 6.6
_BYTE_ORDERS = {b"\1": "little", b"\2": "big"}


def check_object(path: Path) -> None:
    """Raise BpfUnavailableError if the file cannot be read, or is for the other byte order."""
    try:
        with path.open("rb") as file:
            head = file.read(len(_ELF) + 2)
    except OSError as error:
        text = f"eBPF: {path} cannot be read ({error.strerror}); reinstall hogpipe"
        raise BpfUnavailableError(Obstacle.OBJECT, text) from error
    order = _BYTE_ORDERS.get(head[-1:]) if head.startswith(_ELF) else None
    if order not in {None, sys.byteorder}:
        raise BpfUnavailableError(
            Obstacle.OBJECT,
            f"eBPF: {path} is for {order}-endian machines and this one is {sys.byteorder}-endian; "
            "compile it here with packaging/build_bpf.py of the sources of hogpipe",
        )


class AttachedPrograms:
    """Programs that run until `close`. For one thread at a time.

    `programs` are names of functions in the object; the others are not loaded. `max_entries`
    overrides the size of maps, in entries (for a ring buffer: in bytes); a map of size 0 is not
    created. The one of `programs` that is `for_interfaces` is loaded only, and attached by
    `attach_to_interface`. `check_shapes` refuses an object whose structs, enums and maps are not
    those of shapes.py. Raises BpfUnavailableError.
    """

    def __init__(
        self,
        path: Path,
        programs: Sequence[str],
        cgroup_root: Path,
        *,
        max_entries: Mapping[str, int] | None = None,
        for_interfaces: str = "",
        check_shapes: bool = True,
    ) -> None:
        self.names = tuple(programs)
        self._for_interfaces = for_interfaces
        check_object(path)
        self._library = load_library()
        self._links: list[int] = []
        self._object: int | None = self._library.bpf_object__open_file(os.fsencode(path), None)
        if not self._object:
            raise BpfUnavailableError(
                Obstacle.OBJECT,
                f"eBPF: {path} cannot be opened ({_reason(ctypes.get_errno())}); reinstall hogpipe",
            )
        try:
            if check_shapes:
                self._check_shapes(path)
            self._select_programs(programs)
            self._size_maps(max_entries or {})
            self._load(path)
            at_cgroup = [name for name in programs if name != for_interfaces]
            self._attach(at_cgroup, cgroup_root)
        except BaseException:
            self.close()
            raise

    def map_fd(self, name: str) -> int:
        """Return the file descriptor of a map; `close` closes it. Raises KeyError."""
        return int(self._library.bpf_map__fd(self._find_map(name)))

    @property
    def has_interface_program(self) -> bool:
        """Whether there is a program for `attach_to_interface`."""
        return self._for_interfaces in self.names

    def attach_to_interface(self, index: int) -> int:
        """Attach the program for interfaces to what one transmits, behind those of others.

        Return a descriptor for `detach_from_interface`; the program is detached, too, when this
        process ends. The interface is one of the thread's network namespace. Raises OSError.
        """
        program = self._library.bpf_object__find_program_by_name(
            self._object, self._for_interfaces.encode()
        )
        program_fd = self._library.bpf_program__fd(program)
        link_fd = int(self._library.bpf_link_create(program_fd, index, _TCX_EGRESS, None))
        if link_fd < 0:
            raise OSError(-link_fd, os.strerror(-link_fd))
        return link_fd

    def detach_from_interface(self, link_fd: int) -> None:
        """Detach what `attach_to_interface` attached, and close the descriptor."""
        # A child that was forked meanwhile has the descriptor, too. An interface may be gone.
        self._library.bpf_link_detach(link_fd)
        os.close(link_fd)

    def max_entries(self, name: str) -> int:
        """Return the size of a map in entries, of a ring buffer in bytes. Raises KeyError."""
        return int(self._library.bpf_map__max_entries(self._find_map(name)))

    def close(self) -> None:
        """Detach and unload. May be called again."""
        while self._links:
            link = self._links.pop()
            # A child that was forked meanwhile has the link's descriptor, too.
            self._library.bpf_link__detach(link)
            self._library.bpf_link__destroy(link)
        if self._object:
            self._library.bpf_object__close(self._object)
            self._object = None

    def _check_shapes(self, path: Path) -> None:
        try:
            mismatch = find_mismatch(parse_btf(self._read_btf()), self._read_map_sizes())
        except ValueError as error:
            mismatch = str(error)
        if mismatch:
            raise BpfUnavailableError(
                Obstacle.OBJECT,
                f"eBPF: {path} is of another version of hogpipe: {mismatch}; reinstall hogpipe",
            )

    def _read_btf(self) -> bytes:
        size = ctypes.c_uint32(0)
        btf = self._library.bpf_object__btf(self._object)
        raw = self._library.btf__raw_data(btf, ctypes.byref(size)) if btf else None
        return ctypes.string_at(raw, size.value) if raw else b""

    def _read_map_sizes(self) -> dict[str, tuple[int, int]]:
        """Return the bytes of keys and values by the name of the map."""
        library, sizes = self._library, {}
        found = library.bpf_object__next_map(self._object, None)
        while found:
            size = library.bpf_map__key_size(found), library.bpf_map__value_size(found)
            sizes[library.bpf_map__name(found).decode()] = size
            found = library.bpf_object__next_map(self._object, found)
        return sizes

    def _select_programs(self, names: Sequence[str]) -> None:
        library = self._library
        program = library.bpf_object__next_program(self._object, None)
        while program:
            if library.bpf_program__name(program).decode() not in names:
                library.bpf_program__set_autoload(program, False)
            program = library.bpf_object__next_program(self._object, program)

    def _size_maps(self, max_entries: Mapping[str, int]) -> None:
        for name, entries in max_entries.items():
            found = self._find_map(name)
            if entries:
                self._library.bpf_map__set_max_entries(found, entries)
            else:
                self._library.bpf_map__set_autocreate(found, False)

    def _find_map(self, name: str) -> int:
        found = self._object and self._library.bpf_object__find_map_by_name(
            self._object, name.encode()
        )
        if not found:
            raise KeyError(name)
        return int(found)

    def _load(self, path: Path) -> None:
        code = -self._library.bpf_object__load(self._object)
        if code == 0:
            return
        # Without CAP_PERFMON the kernel loads programs but withholds some helpers, so that the
        # verifier's refusal, too, may be for want of a capability.
        missing = read_missing_capabilities()
        if missing or code in _NOT_PERMITTED:
            raise BpfUnavailableError(
                Obstacle.PRIVILEGES, f"eBPF: not permitted to load programs{_remedy(missing)}"
            )
        if code in _NO_ROOM:
            raise BpfUnavailableError(
                Obstacle.LIMITS,
                f"eBPF: the kernel has no room for the maps ({_reason(code)}); raise the memory "
                "limit of hogpipe's control group",
            )
        raise BpfUnavailableError(
            Obstacle.KERNEL,
            f"eBPF: this kernel refuses the programs of {path.name} ({_reason(code)}); "
            f"{KERNEL_NEEDED}; the verifier's reasons are in the log at level debug",
        )

    def _attach(self, programs: Sequence[str], cgroup_root: Path) -> None:
        try:
            folder = os.open(cgroup_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise BpfUnavailableError(
                Obstacle.CGROUP, f"eBPF: {cgroup_root} cannot be opened ({error.strerror})"
            ) from error
        try:
            for name in programs:
                self._links.append(self._attach_one(name, folder, cgroup_root))
        finally:
            os.close(folder)

    def _attach_one(self, name: str, folder: int, cgroup_root: Path) -> int:
        library = self._library
        program = library.bpf_object__find_program_by_name(self._object, name.encode())
        if not program:
            raise BpfUnavailableError(
                Obstacle.OBJECT,
                f"eBPF: the object has no program {name}; reinstall hogpipe",
            )
        link = library.bpf_program__attach_cgroup(program, folder)
        if link:
            return int(link)
        code = ctypes.get_errno()
        if code in _NOT_PERMITTED:
            raise BpfUnavailableError(
                Obstacle.PRIVILEGES,
                f"eBPF: not permitted to attach {name} at {cgroup_root}: CAP_NET_ADMIN is missing, "
                "or another program is attached there exclusively (bpftool cgroup tree shows it)",
            )
        if code in {errno.EBADF, errno.ENOTDIR}:
            raise BpfUnavailableError(
                Obstacle.CGROUP,
                f"eBPF: {cgroup_root} is no control group (v2); mount one: "
                "mount -t cgroup2 none /sys/fs/cgroup/unified",
            )
        raise BpfUnavailableError(
            Obstacle.KERNEL, f"eBPF: {name} cannot be attached at {cgroup_root} ({_reason(code)})"
        )


def attach_first(
    path: Path,
    choices: Sequence[Sequence[str]],
    cgroup_root: Path,
    *,
    max_entries: Mapping[str, int] | None = None,
    for_interfaces: str = "",
    check_shapes: bool = True,
) -> AttachedPrograms:
    """Attach the first of several sets of programs that the kernel accepts.

    The other arguments are those of `AttachedPrograms`. Raises BpfUnavailableError: for the last
    set if the kernel refuses all of them, and at once for any other obstacle.
    """
    attach = partial(
        AttachedPrograms,
        path,
        cgroup_root=cgroup_root,
        max_entries=max_entries,
        for_interfaces=for_interfaces,
        check_shapes=check_shapes,
    )
    *better, last = choices
    for programs in better:
        try:
            return attach(programs)
        except BpfUnavailableError as error:
            if error.obstacle is not Obstacle.KERNEL:
                raise
            log.debug("without %s: %s", ", ".join({*programs} - {*last}), error)
    return attach(last)


def parse_missing_capabilities(status: bytes) -> list[str]:
    """Return the capabilities that a process lacks to load the programs.

    `status` is its /proc/PID/status (proc(5)).
    """
    effective = parse_effective(status)
    if effective is None or effective >> _SYS_ADMIN & 1:
        return []
    return name_missing(effective, _CAPABILITIES)


def read_missing_capabilities() -> list[str]:
    """Return the capabilities that this process lacks to load the programs.

    Empty where /proc does not show them.
    """
    try:
        return parse_missing_capabilities(read_thread_status())
    except (HogpipeError, OSError):
        return []


def _remedy(missing: Sequence[str]) -> str:
    """Return the remedy where loading is not permitted, `missing` being the capabilities lacked.

    In a user namespace, /proc shows capabilities that the kernel does not accept: it checks CAP_BPF
    against the initial user namespace (capable(), kernel/bpf/syscall.c).
    """
    if not in_initial_user_namespace():
        needed = ", ".join(_CAPABILITIES)
        return (
            f": {needed} are needed on the host, and those of this user namespace do not count; "
            "run outside of it (in a container: one that is not rootless)"
        )
    if missing:
        return f"; grant {', '.join(missing)}, or run as root"
    return (
        " with all capabilities that this takes: something forbids bpf(2); allow it in the "
        "container's seccomp profile, the security module (see dmesg) or the kernel's lockdown"
    )


def _reason(code: int) -> str:
    return os.strerror(code)
