"""The classic BPF program on a socket: reading it, and attaching another one.

In: the descriptor of a socket. Instructions are (operation, skip if true, skip if false, operand),
as in struct sock_filter. Raises OSError, e.g. where the kernel rejects a program.
"""

import ctypes
import os
import socket
from collections.abc import Sequence

_SO_ATTACH_FILTER = _SO_GET_FILTER = 26  # include/uapi/asm-generic/socket.h

RawInstruction = tuple[int, int, int, int]


class _Instruction(ctypes.Structure):
    """A struct sock_filter, include/uapi/linux/filter.h."""

    _fields_ = (
        ("operation", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    """A struct sock_fprog."""

    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def read_filter(descriptor: int) -> list[RawInstruction]:
    """Return the program on a socket; empty if there is none."""
    libc = ctypes.CDLL(None, use_errno=True)
    # The length is in instructions, both ways; with 0 the kernel returns only that.
    length = ctypes.c_uint32(0)
    _check(
        libc.getsockopt(descriptor, socket.SOL_SOCKET, _SO_GET_FILTER, None, ctypes.byref(length))
    )
    program = (_Instruction * length.value)()
    if length.value:
        _check(
            libc.getsockopt(
                descriptor, socket.SOL_SOCKET, _SO_GET_FILTER, program, ctypes.byref(length)
            )
        )
    return [(one.operation, one.if_true, one.if_false, one.operand) for one in program]


def attach_filter(descriptor: int, program: Sequence[RawInstruction]) -> None:
    """Replace the program on a socket; every later packet passes the new one."""
    instructions = (_Instruction * len(program))(*(_Instruction(*one) for one in program))
    header = _Program(len(program), instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    _check(
        libc.setsockopt(
            descriptor,
            socket.SOL_SOCKET,
            _SO_ATTACH_FILTER,
            ctypes.byref(header),
            ctypes.sizeof(header),
        )
    )


def _check(code: int) -> None:
    if code:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
