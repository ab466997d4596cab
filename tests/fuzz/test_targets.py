"""No input of a corpus, and none of a hundred mutated ones, breaks the invariant of its target."""

import pytest
from fuzz.inputs import list_inputs, mutate
from fuzz.targets import TARGETS

MUTATED = 100


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_breaks_the_invariant(name: str) -> None:
    inputs = list_inputs(name)
    for data in (*inputs, *mutate(inputs, MUTATED, seed=1)):
        TARGETS[name].run(data)
