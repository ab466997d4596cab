"""PURE: decodes BTF, the description of its C types that a BPF object carries.

In: the bytes of a .BTF section, in the byte order of the machine. Out: the layout of each struct
and the values of each enum, by name. Bytes that are no BTF, or that use a kind of type added after
this was written, raise ValueError.

Format (Documentation/bpf/btf.rst of the kernel): a header; one record for each type, of 12 bytes
and as many more as its kind asks for; a table of NUL-terminated names. Types refer to one another
by their position, counted from 1.
"""

import struct
from collections.abc import Iterator, Mapping

import msgspec

_MAGIC = 0xEB9F
_HEADER = struct.Struct("=HBBIIIII")  # magic, version, flags, header length, types, names
_TYPE = struct.Struct("=III")  # name, kind and number of entries, size or another type
_MEMBER = struct.Struct("=III")  # name, type, offset in bits
_ARRAY_PARTS = struct.Struct("=III")  # type of an element, type of an index, elements
_ENUMERATOR = struct.Struct("=Ii")

_POINTER, _ARRAY, _STRUCT, _ENUM = 2, 3, 4, 6
_ALIASES = {8, 9, 10, 11, 18}  # typedef, volatile, const, restrict, type tag
# Bytes after the first 12, by kind: for all of the type, and for each of its entries.
_MORE_BYTES = {1: 4, 3: 12, 14: 4, 17: 4}
_ENTRY_BYTES = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
_LAST_KIND = 19
_POINTER_BYTES = 8
_OFFSET_MASK = 0xFFFFFF  # the bits above are the length of a bit field


class Member(msgspec.Struct, frozen=True):
    """A member of a struct; `members` are its own if it is a struct itself."""

    offset: int
    """Bytes from the beginning of the struct."""
    size: int
    members: Mapping[str, "Member"]


class StructLayout(msgspec.Struct, frozen=True):
    """The size of a struct in bytes, and its members by name."""

    size: int
    members: Mapping[str, Member]


class Btf(msgspec.Struct, frozen=True):
    """The types of an object that have names."""

    structs: Mapping[str, StructLayout]
    enums: Mapping[str, Mapping[str, int]]


class _Type(msgspec.Struct, frozen=True):
    name: str
    kind: int
    size: int
    """In bytes; for some kinds another type instead."""
    rest: bytes
    """What follows the first 12 bytes."""


def parse_btf(raw: bytes) -> Btf:
    """Return the types in `raw`. Raises ValueError."""
    try:
        return _Parser(raw).parse()
    except (struct.error, IndexError, ValueError, RecursionError) as error:
        raise ValueError(f"no BTF: {error}") from error


class _Parser:
    def __init__(self, raw: bytes) -> None:
        magic, _, _, header, types_at, types_size, names_at, _ = _HEADER.unpack_from(raw)
        if magic != _MAGIC:
            raise ValueError(f"it begins with {magic:#x}")
        types_at += header
        self._raw = raw
        self._names_at = header + names_at
        self._types = [*self._parse_types(types_at, types_at + types_size)]

    def parse(self) -> Btf:
        structs, enums = {}, {}
        for one in self._types:
            if one.kind == _STRUCT:
                structs[one.name] = StructLayout(one.size, self._members(one))
            elif one.kind == _ENUM:
                enums[one.name] = {
                    self._name(at): value for at, value in _ENUMERATOR.iter_unpack(one.rest)
                }
        return Btf(structs, enums)

    def _parse_types(self, at: int, end: int) -> Iterator[_Type]:
        while at < end:
            name, info, size = _TYPE.unpack_from(self._raw, at)
            at += _TYPE.size
            kind, entries = info >> 24 & 0x1F, info & 0xFFFF
            if not 0 < kind <= _LAST_KIND:
                raise ValueError(f"unknown kind of type {kind}")
            more = _MORE_BYTES.get(kind, 0) + _ENTRY_BYTES.get(kind, 0) * entries
            yield _Type(self._name(name), kind, size, self._raw[at : at + more])
            at += more

    def _members(self, one: _Type) -> dict[str, Member]:
        members = {}
        for name, number, bits in _MEMBER.iter_unpack(one.rest):
            type_ = self._find(number)
            inner = self._members(type_) if type_.kind == _STRUCT else {}
            offset = (bits & _OFFSET_MASK) // 8
            members[self._name(name)] = Member(offset, self._size(type_), inner)
        return members

    def _find(self, number: int) -> _Type:
        """Return a type by its position, past any aliases."""
        found = self._types[number - 1]
        return self._find(found.size) if found.kind in _ALIASES else found

    def _size(self, one: _Type) -> int:
        if one.kind == _POINTER:
            return _POINTER_BYTES
        if one.kind == _ARRAY:
            element, _, elements = _ARRAY_PARTS.unpack(one.rest)
            return int(elements) * self._size(self._find(element))
        return one.size

    def _name(self, at: int) -> str:
        start = self._names_at + at
        return self._raw[start : self._raw.index(b"\0", start)].decode()
