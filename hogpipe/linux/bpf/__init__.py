"""The BPF object and its loader: what the kernel reports about sockets, and counts at them.

- `hogpipe.bpf.c` and its headers: the programs, compiled when the package is built
  (hatch_build.py).
- `programs`: the two sets of programs, and how many entries their maps have.
- `loader`: loads and attaches programs; `obstacles`: why that may fail, and the remedy.
- `libbpf`: the functions of the distribution's libbpf that are called, over ctypes.
- `maps`: counters, ring buffers and arrays, read through their file descriptors.
- `traffic_maps`, `traffic_rows`: the traffic programs' maps, and the rows in them.

The ledger's events are decoded by `hogpipe.attribution.ledger.socket_events`.
"""

from pathlib import Path

_OBJECT = Path(__file__).with_name("hogpipe.bpf.o")


def object_path() -> Path | None:
    """Return where the compiled object is, None where the package was built without clang."""
    try:
        return _OBJECT if _OBJECT.is_file() else None
    except PermissionError:
        return _OBJECT  # opening it fails, with an error that names it
