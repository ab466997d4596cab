"""Free memory is released when most of what was held is gone, and not more often."""

import re
import subprocess
import sys
from pathlib import Path
from threading import Thread

from hogpipe.linux.memory import MemoryRelease, limit_free_memory


def test_memory_is_released_each_time_that_the_number_of_objects_has_halved() -> None:
    release = MemoryRelease()
    held = [10, 4000, 0, 40_000, 65_000, 40_000, 32_000, 30_000, 16_000, 8000, 0, 0, 100, 0]
    released = [number for number in held if release.update(number)]
    assert released == [32_000, 16_000, 8000, 0]


def test_memory_is_released_when_one_of_several_numbers_has_halved() -> None:
    release = MemoryRelease()
    held = [(0, 64), (30_000, 65_000), (4, 65_000), (4, 40_000), (5, 64)]
    released = [numbers for numbers in held if release.update(*numbers)]
    assert released == [(4, 65_000), (5, 64)]


def resident_mib() -> int:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found
    return int(found[1]) >> 10


def measure_what_stays() -> None:
    """Print how many MiB stay after a thread has freed blocks of 12 MiB, in this process."""
    limit_free_memory()
    before, after = resident_mib(), []

    def work() -> None:
        for _ in range(3):
            blocks = [b"x" * (12 << 20) for _ in range(4)]
            blocks.clear()
        after.append(resident_mib())

    thread = Thread(target=work)
    thread.start()
    thread.join()
    print(after[0] - before)


def test_large_blocks_are_returned_when_they_are_freed() -> None:
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 8


if __name__ == "__main__":
    measure_what_stays()
