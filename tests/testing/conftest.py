"""What the tests of the kit have in common."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def _nothing_old_to_look_through() -> Iterator[None]:
    """Spare the checks' garbage collections what all modules and tests before have left."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
