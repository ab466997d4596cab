"""The shapes that C and Python share: both sides state the same, and a difference is refused."""

import re
import struct
from pathlib import Path

import numpy as np
import pytest
from build_bpf import CompileError
from support.bpf import all_attached, compile_changed, control_group, list_sources, require_bpf

from hogpipe.linux.bpf.loader import AttachedPrograms
from hogpipe.linux.bpf.obstacles import BpfUnavailableError, Obstacle
from hogpipe.linux.bpf.shapes import SOCKET_EVENT, STRUCTS, format_of, offset_of

C_TEXT = "".join(path.read_text() for path in list_sources())
SIZE_IS = re.compile(r"SIZE_IS\(struct (\w+), (\d+)\)")
OFFSET_IS = re.compile(r"OFFSET_IS\(struct (\w+), ([\w.]+), (\d+)\)")


def test_the_assertions_in_c_have_the_sizes_of_the_shapes() -> None:
    asserted = {name: int(size) for name, size in SIZE_IS.findall(C_TEXT)}
    assert asserted.items() <= {name: one.itemsize for name, one in STRUCTS.items()}.items()


@pytest.mark.parametrize("name", STRUCTS)
def test_the_assertions_in_c_have_the_offsets_of_the_shapes(name: str) -> None:
    """Of a struct inside another one the path is asserted, whose last part is the member's name."""
    shape = STRUCTS[name]
    asserted = {
        path.rsplit(".", 1)[-1]: int(offset)
        for owner, path, offset in OFFSET_IS.findall(C_TEXT)
        if owner == name
    }
    expected = {member: offset_of(shape, member) for member in shape.names or ()}
    expected.pop("padding", None)
    assert expected.items() <= asserted.items()


ADDED_MEMBER = (r"(struct traffic_row \{)", r"\1 __u64 added;")


def test_a_struct_that_changes_in_c_alone_does_not_compile(tmp_path: Path) -> None:
    with pytest.raises(CompileError) as caught:
        compile_changed(tmp_path, *ADDED_MEMBER, with_assertions=True)
    assert "struct traffic_row: not the size in shapes.py" in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "new", "text"),
    [
        (*ADDED_MEMBER, "values of map connections have 144 bytes, expected 136"),
        (
            r"(__u64 parity;)", r"\1 __u64 added;",
            "keys of map row_index have 64 bytes, expected 56",
        ),
        (r"(&|\} )rows_used\b", r"\1taken_rows", "there is no map rows_used"),
        (
            r"(__u64 transmit_packets;)\s*(__u64 receive_bytes;)", r"\2 \1",
            "receive_bytes of struct traffic_counts is 8 bytes at 8, expected 8 bytes at 16",
        ),
        (
            r"\bawaited_sequence\b", "sequence",
            "sequence of struct traffic_row is 4 bytes at 92, expected absent",
        ),
        (
            r"(struct process_event \{)", r"\1 __u64 added;",
            "struct process_event has 24 bytes, expected 16",
        ),
        (r"DESCRIBE\(socket_event\);", "", "there is no struct socket_event"),
        (r"SOCKET_RELEASED = 6", "SOCKET_RELEASED = 7", "'SOCKET_RELEASED': 7}, expected"),
    ],
)  # fmt: skip
def test_an_object_of_other_shapes_is_refused(
    tmp_path: Path, pattern: str, new: str, text: str
) -> None:
    require_bpf()
    compiled = compile_changed(tmp_path, pattern, new)
    with control_group() as folder:
        with pytest.raises(BpfUnavailableError) as caught:
            AttachedPrograms(compiled, ("ledger_create",), folder)
        assert all_attached(folder) == set()
    assert caught.value.obstacle is Obstacle.OBJECT
    assert text in str(caught.value)
    assert str(caught.value).startswith(f"eBPF: {compiled} ")
    assert str(caught.value).endswith("; reinstall hogpipe")
    assert "\n" not in str(caught.value)


def test_formats_unpack_what_the_shapes_describe() -> None:
    assert struct.calcsize(format_of(SOCKET_EVENT)) == SOCKET_EVENT.itemsize
    made = np.zeros(1, SOCKET_EVENT)
    made["cookie"], made["kind"], made["command"] = 7, 3, b"curl"
    assert struct.unpack(format_of(SOCKET_EVENT, "cookie", "kind"), made.tobytes()) == (7, 3)
    assert struct.unpack(format_of(SOCKET_EVENT), made.tobytes())[-1] == b"curl" + bytes(12)
