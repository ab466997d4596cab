"""Free memory is released when most of what was held is gone, and not more often."""

from hogpipe.linux.memory import MemoryRelease


def test_memory_is_released_each_time_that_the_number_of_objects_has_halved() -> None:
    release = MemoryRelease()
    held = [10, 4000, 0, 40_000, 65_000, 40_000, 32_000, 30_000, 16_000, 8000, 0, 0, 100, 0]
    released = [number for number in held if release.update(number)]
    assert released == [32_000, 16_000, 8000, 0]
