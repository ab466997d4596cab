"""Memory that the allocator of libc holds although nothing uses it.

After a burst, freed memory stays with libc and counts as this process's. `MemoryRelease` has it
returned to the kernel (malloc_trim) once what was held is gone. That takes some milliseconds.

glibc itself returns the free end of a thread's heap once that is large, but what is large grows
with the largest block that was freed, up to 64 MiB, and malloc_trim leaves such ends alone. A
live run calls `limit_free_memory`. A replay does not: its batches are large, and end soon.

Other C libraries than glibc have neither; then nothing is done.

Known limits: objects of up to 512 bytes are in arenas of the interpreter, 1 MiB each, which it
returns only once they are empty. A few objects that are made in a flood and stay (a process, a
socket, a timer) pin most arenas. So what a flood makes is kept small and short-lived instead:
bounds of the flow cache, of pending flows and of the handoff, and tables of numbers instead of
objects where only the memory of something is needed.
"""

import ctypes
import gc

_WORTH_IT = 4096  # things; fewer take a few MiB
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGE = 4 << 20  # bytes


def limit_free_memory() -> None:
    """Have each block and each free end of a heap of `_LARGE` bytes returned as soon as it is free.

    For the whole process.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _LARGE)
        mallopt(_M_MMAP_THRESHOLD, _LARGE)


class MemoryRelease:
    """Releases free memory each time that a number of things held has halved."""

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._most: tuple[int, ...] = ()

    def update(self, *held: int) -> bool:
        """Take how many things of each kind are held now; return whether memory was released.

        The kinds are the same in each call.
        """
        self._most = tuple(map(max, self._most or held, held))
        if not any(map(_are_much_fewer, held, self._most)):
            return False
        self._most = held
        gc.collect()
        if self._trim is not None:
            self._trim(0)
        return True


def _are_much_fewer(held: int, most: int) -> bool:
    return most - held >= max(most // 2, _WORTH_IT)
