"""Settings for the tests of hogpipe.testing."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def _freeze_earlier_objects() -> Iterator[None]:
    """Exclude the objects of earlier tests from the garbage collections of the checks."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
