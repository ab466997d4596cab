"""BTF: layouts of structs and values of enums, from bytes that may be anything."""

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.linux.bpf.btf import Member, StructLayout, parse_btf

INT, POINTER, ARRAY, STRUCT, ENUM, TYPEDEF, CONST = 1, 2, 3, 4, 6, 8, 10
BIT_FIELD = 1 << 24  # the length of a bit field in the offset of its member
NAMES = ["", "u32", "u8", "inner", "one", "outer", "values", "alias", "pointer", "kind", "FIRST"]
NAME_AT = {name: len("".join(f"{one}\0" for one in NAMES[:at])) for at, name in enumerate(NAMES)}


def type_(name: str, kind: int, size: int, *rest: int, entries: int = 0) -> bytes:
    return struct.pack(f"=III{len(rest)}i", NAME_AT[name], kind << 24 | entries, size, *rest)


def member(name: str, number: int, offset: int) -> tuple[int, int, int]:
    return NAME_AT[name], number, offset * 8


def btf(*types: bytes) -> bytes:
    all_types = b"".join(types)
    names = "".join(f"{name}\0" for name in NAMES).encode()
    header = struct.pack(
        "=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(all_types), len(all_types), len(names)
    )
    return header + all_types + names


TYPES = (
    type_("u32", INT, 4, 32),  # 1
    type_("u8", INT, 1, 8),  # 2
    type_("", ARRAY, 0, 2, 1, 16),  # 3: u8[16]
    type_("inner", STRUCT, 8, *member("one", 1, 4), entries=1),  # 4
    type_("alias", TYPEDEF, 6),  # 5
    type_("", CONST, 4),  # 6: const struct inner
    type_("", POINTER, 1),  # 7
    type_("kind", ENUM, 1, NAME_AT["FIRST"], -1, entries=1),  # 8
    type_(
        "outer", STRUCT, 40,
        *member("one", 1, 0), *member("values", 3, 4), *member("inner", 5, 20),
        *member("pointer", 7, 28), NAME_AT["kind"], 8, 36 * 8 | 8 * BIT_FIELD,
        entries=5,
    ),
)  # fmt: skip
LOOP = btf(type_("alias", TYPEDEF, 1), type_("one", STRUCT, 4, *member("one", 1, 0), entries=1))


def test_members_have_their_offsets_and_sizes_through_aliases_and_arrays() -> None:
    inner = {"one": Member(4, 4, {})}
    assert parse_btf(btf(*TYPES)).structs == {
        "inner": StructLayout(8, inner),
        "outer": StructLayout(
            40,
            {
                "one": Member(0, 4, {}),
                "values": Member(4, 16, {}),
                "inner": Member(20, 8, inner),
                "pointer": Member(28, 8, {}),
                "kind": Member(36, 1, {}),
            },
        ),
    }


def test_enums_have_their_values() -> None:
    assert parse_btf(btf(*TYPES)).enums == {"kind": {"FIRST": -1}}


@pytest.mark.parametrize(
    "raw", [b"", bytes(24), btf(*TYPES)[:-60], btf(type_("u8", 31, 0)), btf(*TYPES)[:60], LOOP]
)
def test_what_is_no_btf_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="BTF"):
        parse_btf(raw)


@given(st.data())
def test_damaged_bytes_are_parsed_or_refused(data: st.DataObject) -> None:
    raw = bytearray(btf(*TYPES))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ValueError):
        parse_btf(bytes(raw))
