"""A drained ring buffer; a file in memory, which the test writes to, takes the place of the map."""

import mmap
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.shortage import no_descriptors

from hogpipe.linux.bpf.obstacles import BpfUnavailableError
from hogpipe.linux.bpf.ring_buffer import RingBuffer

SAMPLE = 20
STEP = 32  # 8 bytes before the sample, and all of it a multiple of 8
BUSY, DISCARDED = 1 << 31, 1 << 30
PAGE = mmap.PAGESIZE


class Producer:
    """The kernel's side of a ring of `size` bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.fd = os.memfd_create("ring", os.MFD_CLOEXEC)
        os.truncate(self.fd, 2 * PAGE + 2 * size)
        self._memory = mmap.mmap(self.fd, 0)
        self._mapped_before = 0
        self._mapped_before = self.mapped()
        self._position = 0

    def close(self) -> None:
        self._memory.close()
        os.close(self.fd)

    def put(self, *samples: bytes, flag: int = 0) -> None:
        for sample in samples:
            self._write(self._position, (len(sample) | flag).to_bytes(4, sys.byteorder))
            self._write(self._position + 8, sample)
            self._position += STEP
        os.pwrite(self.fd, self._position.to_bytes(8, sys.byteorder), PAGE)

    def finish(self, steps_back: int) -> None:
        """Finish a sample that is being written."""
        length = SAMPLE.to_bytes(4, sys.byteorder)
        self._write(self._position - STEP * steps_back, length)

    @property
    def free(self) -> int:
        """How many further samples have room."""
        consumed = int.from_bytes(os.pread(self.fd, 8, 0), sys.byteorder)
        return (self.size - (self._position - consumed)) // STEP

    def mapped(self) -> int:
        """Return how many bytes of the ring are mapped to drain it."""
        lines = Path("/proc/self/maps").read_text().splitlines()
        bounds = [line.split(maxsplit=1)[0].split("-") for line in lines if "memfd:ring" in line]
        return sum(int(end, 16) - int(start, 16) for start, end in bounds) - self._mapped_before

    def _write(self, position: int, data: bytes) -> None:
        """Write to both copies of the data."""
        at = position % self.size
        for copy in (2 * PAGE, 2 * PAGE + self.size):
            for start, part in (
                (copy + at, data[: self.size - at]),
                (copy, data[self.size - at :]),
            ):
                self._memory[start : start + len(part)] = part


@pytest.fixture(params=[PAGE])
def producer(request: pytest.FixtureRequest) -> Iterator[Producer]:
    made = Producer(request.param)
    yield made
    made.close()


def sample(number: int) -> bytes:
    return number.to_bytes(SAMPLE, "little")


def test_samples_are_drained_in_order_and_once(producer: Producer) -> None:
    ring = RingBuffer(producer.fd, producer.size, SAMPLE)
    assert ring.drain() == b""
    producer.put(sample(1), sample(2))
    assert ring.drain() == sample(1) + sample(2)
    assert ring.drain() == b""
    assert producer.free == producer.size // STEP


def test_a_sample_that_is_being_written_keeps_back_those_after_it(producer: Producer) -> None:
    ring = RingBuffer(producer.fd, producer.size, SAMPLE)
    producer.put(sample(1))
    producer.put(sample(2), flag=BUSY)
    producer.put(sample(3))
    assert ring.drain() == sample(1)
    assert ring.drain() == b""
    producer.finish(2)
    assert ring.drain() == sample(2) + sample(3)


def test_a_sample_that_was_given_up_is_left_out(producer: Producer) -> None:
    ring = RingBuffer(producer.fd, producer.size, SAMPLE)
    producer.put(sample(1), flag=DISCARDED)
    others = [sample(number) for number in range(2, 100)]
    producer.put(*others)
    assert ring.drain() == b"".join(others)


@pytest.mark.parametrize("producer", [PAGE, 1 << 18], indirect=True)
def test_each_sample_is_whole_wherever_it_is_in_the_ring(producer: Producer) -> None:
    ring, numbers = RingBuffer(producer.fd, producer.size, SAMPLE), random.Random(producer.size)
    put = 0
    for _round in range(8):
        samples = [sample(put + more) for more in range(numbers.randint(0, producer.free))]
        producer.put(*samples)
        put += len(samples)
        assert ring.drain() == b"".join(samples)
    assert put > producer.size // STEP


@pytest.mark.parametrize("producer", [1 << 18], indirect=True)
def test_a_part_of_a_large_ring_is_mapped_and_another_needs_no_descriptor(
    producer: Producer,
) -> None:
    ring = RingBuffer(producer.fd, producer.size, SAMPLE)
    samples = [sample(number) for number in range(producer.free)]
    producer.put(*samples)
    with no_descriptors():
        assert ring.drain() == b"".join(samples)
    assert producer.mapped() == (1 << 17) + 3 * PAGE
    ring.close()
    ring.close()
    assert producer.mapped() == 0


def test_a_ring_that_cannot_be_mapped_is_an_obstacle(producer: Producer) -> None:
    with no_descriptors(), pytest.raises(BpfUnavailableError, match="cannot be mapped"):
        RingBuffer(producer.fd, producer.size, SAMPLE)
    assert producer.mapped() == 0
