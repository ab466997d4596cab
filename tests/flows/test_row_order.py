"""Equal rows are found whatever they are, in the order in which they came."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hogpipe.flows.row_order import find_groups, find_heads


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=60))
def test_groups_have_the_first_row_of_each_key_and_the_place_of_each_row(
    keys: list[tuple[int, int, int]],
) -> None:
    rows = np.array(keys, np.uint64)
    heads, places = find_groups(rows)
    distinct = list(dict.fromkeys(keys))
    assert heads.tolist() == [keys.index(key) for key in distinct]
    assert places.tolist() == [distinct.index(key) for key in keys]
    assert find_heads(rows).tolist() == heads.tolist()
