"""The inputs of a target: its seeds, and the corpus that fuzzing has found.

A corpus is a text file with an input in hexadecimal digits a line, so that a change can be read.
`corpus/NAME.txt` has inputs that reach code that the seeds do not, and those that once broke an
invariant. `mutate` makes further ones without coverage; the same for the same seed.
"""

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
_TELLING = (0, 1, 0x0F, 0x20, 0x28, 0x29, 0x3A, 0x45, 0x60, 0x7F, 0x80, 0xFF)  # often matter
_MOST_CHANGES = 4


def read_corpus(name: str) -> list[bytes]:
    """Return the corpus of a target, without its seeds."""
    path = CORPUS / f"{name}.txt"
    return [bytes.fromhex(line) for line in path.read_text().splitlines()] if path.exists() else []


def add_to_corpus(name: str, inputs: Iterable[bytes], most: int) -> None:
    """Add the shortest of these inputs, at most so many, to the corpus of a target."""
    known = read_corpus(name)
    new = set(inputs) - {*TARGETS[name].seeds, *known, b""}
    added = sorted(new, key=lambda one: (len(one), one))[:most]
    CORPUS.mkdir(exist_ok=True)
    (CORPUS / f"{name}.txt").write_text("".join(one.hex() + "\n" for one in (*known, *added)))


def list_inputs(name: str) -> list[bytes]:
    """Return the seeds and the corpus of a target."""
    return [b"", *TARGETS[name].seeds, *read_corpus(name)]


def mutate(inputs: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Yield `count` changed inputs: bytes set, inserted and removed, ends cut, two joined."""
    chance = random.Random(seed)
    for _ in range(count):
        data = bytearray(chance.choice(inputs))
        for _ in range(chance.randint(1, _MOST_CHANGES)):
            _change(data, inputs, chance)
        yield bytes(data)


def _change(data: bytearray, inputs: list[bytes], chance: random.Random) -> None:
    at = chance.randint(0, len(data))
    octet = chance.choice(_TELLING) if chance.random() < 0.5 else chance.randrange(256)
    match chance.randrange(5):
        case 0:
            data[at : at + 1] = bytes([octet])
        case 1:
            data[at:at] = bytes([octet]) * chance.choice([1, 1, 4, 16])
        case 2:
            del data[at : at + chance.choice([1, 1, 4, 16])]
        case 3:
            del data[at:]
        case _:
            data[at:] = chance.choice(inputs)[at:]
