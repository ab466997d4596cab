"""Memory that the allocator of libc holds although nothing uses it.

After a burst, freed memory stays with libc and counts as this process's. `MemoryRelease` has it
returned to the kernel (malloc_trim) once what was held is gone. That takes some milliseconds.

Other C libraries than glibc have no malloc_trim; then nothing is done.

Known limits: objects of up to 512 bytes are in arenas of the interpreter, 1 MiB each, which it
returns only once they are empty. A few objects that are made in a flood and stay (a process, a
socket, a timer) pin most arenas. So what a flood makes is kept small and short-lived instead:
bounds of the flow cache, of pending flows and of the handoff, and tables of numbers instead of
objects where only the memory of something is needed.
"""

import ctypes
import gc

_WORTH_IT = 4096  # objects; fewer take a few MiB


class MemoryRelease:
    """Releases free memory each time that the number of objects held has halved."""

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._most = 0

    def update(self, held: int) -> bool:
        """Take the number of objects that are held now; return whether memory was released."""
        self._most = max(self._most, held)
        if self._most - held < max(self._most // 2, _WORTH_IT):
            return False
        self._most = held
        gc.collect()
        if self._trim is not None:
            self._trim(0)
        return True
