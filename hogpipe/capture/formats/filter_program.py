"""PURE: a compiled packet filter (classic BPF) applied to many frames at once.

In: the instructions that libpcap compiled, and a batch. Out: which frames match. The result is that
of libpcap's interpreter for each frame, with the frame's original length as `len`.

Algorithm
    In a pass over the instructions, each is executed for all frames that have reached it, with a
    register as a column. One pass is enough, unless an instruction jumps back: libpcap compiles
    `protochain` to a loop, one round for each header. A read beyond the captured bytes, or a
    division by zero, ends a frame's run without a match.

Known limit: a frame with more than `_MAX_PASSES` headers does not match `protochain`.

Codes are those of libpcap's pcap/bpf.h.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hogpipe.capture.decode.columns import FrameBatch, Indices, gather_values

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, constant, as in struct bpf_insn."""
_Words = NDArray[np.uint32]
_Wide = NDArray[np.uint64]


class _Kind(IntEnum):
    """The class of an instruction, the lower three bits of its code."""

    LOAD = 0
    LOAD_X = 1
    STORE = 2
    STORE_X = 3
    COMPUTE = 4
    JUMP = 5
    RETURN = 6
    MOVE = 7


_IMMEDIATE, _ABSOLUTE, _INDIRECT, _MEMORY, _LENGTH, _HEADER_LENGTH = range(0, 0xC0, 0x20)
_WIDTHS: dict[int, np.dtype[np.unsignedinteger[Any]]] = {
    0x00: np.dtype(">u4"),
    0x08: np.dtype(">u2"),
    0x10: np.dtype("u1"),
}
_OCTET = _WIDTHS[0x10]
_BY_X = 0x08
_RETURN_A = 0x10
_X_TO_A = 0x80
_JUMP_ALWAYS = 0x00
_DIVISIONS = frozenset({0x30, 0x90})
_WORD_BITS = np.uint64(32)
_MAX_PASSES = 64

_COMPARISONS: dict[int, Callable[[_Words, _Words | np.uint32], NDArray[np.bool_]]] = {
    0x10: lambda a, b: a == b,
    0x20: lambda a, b: a > b,
    0x30: lambda a, b: a >= b,
    0x40: lambda a, b: (a & b) != 0,
}
# Of 64 bits, of which the lower 32 are kept.
_OPERATIONS: dict[int, Callable[[_Wide, _Wide], _Wide]] = {
    0x00: lambda a, b: a + b,
    0x10: lambda a, b: a - b,
    0x20: lambda a, b: a * b,
    0x30: lambda a, b: a // b,
    0x40: lambda a, b: a | b,
    0x50: lambda a, b: a & b,
    0x60: lambda a, b: a << np.minimum(b, _WORD_BITS),
    0x70: lambda a, b: a >> np.minimum(b, _WORD_BITS),
    0x80: lambda a, _b: ~a + np.uint64(1),
    0x90: lambda a, b: a % b,
    0xA0: lambda a, b: a ^ b,
}


class FilterProgram:
    """The `instructions` of one link type."""

    def __init__(self, instructions: Sequence[Instruction]) -> None:
        self._instructions = [
            (code, if_true, if_false, constant & 0xFFFFFFFF)
            for code, if_true, if_false, constant in instructions
        ]

    def matches(self, batch: FrameBatch) -> NDArray[np.bool_]:
        """Return which frames of `batch`, which has original lengths, the filter matches."""
        run = _Run(batch, len(self._instructions))
        for _ in range(_MAX_PASSES):
            for at, instruction in enumerate(self._instructions):
                rows = run.take_rows(at)
                if len(rows):
                    _execute(run, rows, at, instruction)
            if run.has_ended:
                break
        return run.matched


def _execute(run: "_Run", rows: Indices, at: int, instruction: Instruction) -> None:
    """Execute the instruction at `at` for `rows`, and move them to the next one."""
    code, if_true, if_false, constant = instruction
    kind = code & 7
    if kind == _Kind.RETURN:
        run.end(rows, code, constant)
    elif kind != _Kind.JUMP:
        run.move(run.execute(rows, code, constant), at + 1)
    elif code & 0xF0 == _JUMP_ALWAYS:
        distance = constant - (1 << 32) if constant >> 31 else constant
        run.move(rows, at + 1 + distance)
    else:
        taken = run.compare(rows, code, constant)
        run.move(rows[taken], at + 1 + if_true)
        run.move(rows[~taken], at + 1 + if_false)


class _Run:
    """The registers of all frames of a batch, and which frames are at which instruction."""

    def __init__(self, batch: FrameBatch, instructions: int) -> None:
        assert batch.original_lengths is not None
        count = len(batch)
        self.matched = np.zeros(count, np.bool_)
        self._a = np.zeros(count, np.uint32)
        self._x = np.zeros(count, np.uint32)
        self._cells: dict[int, _Words] = {}
        self._data = batch.data
        self._start = batch.records[:, 2].astype(np.int64)
        self._size = batch.records[:, 3].astype(np.int64)
        self._length = batch.original_lengths
        self._at: list[list[Indices]] = [[] for _ in range(instructions)]
        self.move(np.arange(count), 0)

    @property
    def has_ended(self) -> bool:
        """Whether no frame is at any instruction."""
        return not any(self._at)

    def take_rows(self, instruction: int) -> Indices:
        """Return the frames that have reached `instruction`, and are no longer there."""
        arrived, self._at[instruction] = self._at[instruction], []
        if len(arrived) == 1:
            return arrived[0]
        return np.concatenate([np.empty(0, np.int64), *arrived])

    def move(self, rows: Indices, instruction: int) -> None:
        """Have `rows` go on at `instruction`; where there is none, nothing matches."""
        if len(rows) and 0 <= instruction < len(self._at):
            self._at[instruction].append(rows)

    def compare(self, rows: Indices, code: int, constant: int) -> NDArray[np.bool_]:
        """Return for which of `rows` the condition of a jump is true."""
        operand = self._x[rows] if code & _BY_X else np.uint32(constant)
        return _COMPARISONS[code & 0xF0](self._a[rows], operand)

    def end(self, rows: Indices, code: int, constant: int) -> None:
        """End the run of `rows`: 0 is no match."""
        self.matched[rows] = self._a[rows] != 0 if code & _RETURN_A else constant != 0

    def execute(self, rows: Indices, code: int, constant: int) -> Indices:
        """Execute an instruction that only changes registers; return the frames that go on."""
        match code & 7:
            case _Kind.LOAD:
                return self._load(self._a, rows, code, constant)
            case _Kind.LOAD_X:
                return self._load(self._x, rows, code, constant)
            case _Kind.STORE:
                self._cell(constant)[rows] = self._a[rows]
            case _Kind.STORE_X:
                self._cell(constant)[rows] = self._x[rows]
            case _Kind.COMPUTE:
                return self._compute(rows, code, constant)
            case _ if code & _X_TO_A:
                self._a[rows] = self._x[rows]
            case _:
                self._x[rows] = self._a[rows]
        return rows

    def _cell(self, number: int) -> _Words:
        """Return the column of a cell of the scratch memory."""
        return self._cells.setdefault(number, np.zeros(len(self._a), np.uint32))

    def _load(self, register: _Words, rows: Indices, code: int, constant: int) -> Indices:
        mode = code & 0xE0
        if mode == _IMMEDIATE:
            register[rows] = constant
        elif mode == _MEMORY:
            register[rows] = self._cell(constant)[rows]
        elif mode == _LENGTH:
            register[rows] = self._length[rows]
        else:
            width = _OCTET if mode == _HEADER_LENGTH else _WIDTHS[code & 0x18]
            offset = self._x[rows].astype(np.int64) if mode == _INDIRECT else np.zeros_like(rows)
            offset += constant
            captured = offset + width.itemsize <= self._size[rows]
            if not captured.all():
                rows, offset = rows[captured], offset[captured]
            if not len(rows):
                return rows
            values = gather_values(self._data, self._start[rows] + offset, width)
            register[rows] = (values & 0xF) << 2 if mode == _HEADER_LENGTH else values
        return rows

    def _compute(self, rows: Indices, code: int, constant: int) -> Indices:
        operation = code & 0xF0
        operand = self._x[rows] if code & _BY_X else np.full(len(rows), constant, np.uint32)
        if operation in _DIVISIONS:
            rows, operand = rows[operand != 0], operand[operand != 0]
        result = _OPERATIONS[operation](self._a[rows].astype(np.uint64), operand.astype(np.uint64))
        self._a[rows] = result.astype(np.uint32)
        return rows
