"""What is fuzzed: one parser and its invariant."""

from collections.abc import Callable
from typing import NamedTuple


class Target(NamedTuple):
    """`run` raises on an input that breaks the invariant; `seeds` are inputs to mutate."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
