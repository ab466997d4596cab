"""The functions of libbpf (version 1, bpf/libbpf.h and bpf/bpf.h) that hogpipe calls, over ctypes.

Pointers are opaque integers. A failed call that returns a pointer returns None and sets errno; a
failed call that returns an int returns the negative errno.
"""

import ctypes
import logging
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_bool,
    c_char_p,
    c_int,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)
from functools import cache

from hogpipe.linux.bpf.obstacles import BpfUnavailableError, Obstacle
from hogpipe.linux.distribution import choose_libbpf_command, read_os_release

log = logging.getLogger(__name__)

LIBRARY = "libbpf.so.1"
_OLD_LIBRARY = "libbpf.so.0"

_PrintCallback = CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
_LONGEST_MESSAGE = 1 << 16  # the verifier's log is one message

_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "bpf_object__open_file": (c_void_p, [c_char_p, c_void_p]),
    "bpf_object__btf": (c_void_p, [c_void_p]),
    "bpf_object__load": (c_int, [c_void_p]),
    "bpf_object__close": (None, [c_void_p]),
    "bpf_object__find_program_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_object__next_program": (c_void_p, [c_void_p, c_void_p]),
    "bpf_object__find_map_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_object__next_map": (c_void_p, [c_void_p, c_void_p]),
    "bpf_program__name": (c_char_p, [c_void_p]),
    "bpf_program__set_autoload": (c_int, [c_void_p, c_bool]),
    "bpf_program__attach_cgroup": (c_void_p, [c_void_p, c_int]),
    "bpf_program__fd": (c_int, [c_void_p]),
    "bpf_link_create": (c_int, [c_int, c_int, c_int, c_void_p]),
    "bpf_link__detach": (c_int, [c_void_p]),
    "bpf_link_detach": (c_int, [c_int]),
    "bpf_link__destroy": (c_int, [c_void_p]),
    "bpf_map__name": (c_char_p, [c_void_p]),
    "bpf_map__fd": (c_int, [c_void_p]),
    "bpf_map__key_size": (c_uint32, [c_void_p]),
    "bpf_map__value_size": (c_uint32, [c_void_p]),
    "bpf_map__set_autocreate": (c_int, [c_void_p, c_bool]),
    "bpf_map__max_entries": (c_uint32, [c_void_p]),
    "bpf_map__set_max_entries": (c_int, [c_void_p, c_uint32]),
    "bpf_map_update_elem": (c_int, [c_int, c_void_p, c_void_p, c_uint64]),
    "bpf_map_lookup_elem": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_map_lookup_and_delete_batch": (
        c_int,
        [c_int, c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_uint32), c_void_p],
    ),
    "bpf_map_delete_batch": (c_int, [c_int, c_void_p, POINTER(c_uint32), c_void_p]),
    "bpf_prog_query": (
        c_int,
        [c_int, c_int, c_uint32, POINTER(c_uint32), c_void_p, POINTER(c_uint32)],
    ),
    "btf__raw_data": (c_void_p, [c_void_p, POINTER(c_uint32)]),
}


@cache
def load_library() -> ctypes.CDLL:
    """Return libbpf with the signatures of `_SIGNATURES`; its messages go to the debug log.

    Raises BpfUnavailableError.
    """
    try:
        library = ctypes.CDLL(LIBRARY, use_errno=True)
    except OSError as error:
        command = choose_libbpf_command(read_os_release())
        text = f"eBPF: {LIBRARY} cannot be loaded; install it: {command}"
        if _has_old_library():
            text = (
                f"eBPF: this host has libbpf 0, and {LIBRARY} is needed: {command}, or where the "
                "distribution has only the old one, its next release"
            )
        raise BpfUnavailableError(Obstacle.LIBRARY, text) from error
    try:
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise BpfUnavailableError(
            Obstacle.LIBRARY,
            f"eBPF: this {LIBRARY} is too old ({error}); install version 1.0 or later",
        ) from error
    library.libbpf_set_print(_print)
    return library


def _has_old_library() -> bool:
    try:
        ctypes.CDLL(_OLD_LIBRARY)
    except OSError:
        return False
    return True


@_PrintCallback  # type: ignore[untyped-decorator]
def _print(_level: int, template: bytes, arguments: int) -> int:
    """Log a message of libbpf; `arguments` is a va_list, which Linux ABIs pass as one argument."""
    if log.isEnabledFor(logging.DEBUG):
        text = ctypes.create_string_buffer(_LONGEST_MESSAGE)
        ctypes.CDLL(None).vsnprintf(
            text, c_size_t(_LONGEST_MESSAGE), c_char_p(template), c_void_p(arguments)
        )
        log.debug("%s", text.value.decode("utf-8", "backslashreplace").rstrip())
    return 0
