"""The BPF object and its loader: what the kernel tells of sockets, and counts at them.

`hogpipe.bpf.c`, with what it includes, is compiled when the package is built (hatch_build.py);
`libbpf.py` calls the distribution's libbpf, `loader.py` loads and attaches, `cgroup_tree.py` finds
where to, `traffic.py`, `entries.py` and `shared_memory.py` read what was counted. What events mean
is known to `hogpipe.attribution.ledger`.
"""

from pathlib import Path

_OBJECT = Path(__file__).with_name("hogpipe.bpf.o")


def object_path() -> Path | None:
    """Return where the compiled object is, None where the package was built without clang."""
    try:
        return _OBJECT if _OBJECT.is_file() else None
    except PermissionError:
        return _OBJECT  # whoever opens it is told
