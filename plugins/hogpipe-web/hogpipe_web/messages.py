"""PURE: what the server sends to the page, as JSON, and what the page asks.

`Snapshot` is the whole picture of a span, live or of a history, and `Change` what one further
window changed. Times are seconds since the epoch, numbers are bytes unless their name says
otherwise. Group 0 is all traffic without a group of its own.

    groups   [id, label, detail, values]: `values` identify the group in a `Query`
    rows     [id, transmit, receive, then sums of the span: transmit, receive, listener, inferred,
             none]: the first two are those of the newest window, and zero in a history
    top      [id, [transmit of each window], [receive of each window]], the most bytes first
    sums     transmit, receive, listener, inferred, none of the span
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from hogpipe_web.dimensions import DIMENSIONS, Dimension, Value, Values
from hogpipe_web.losses import Losses

LONGEST_QUERY = 4000
"""The most characters of a filter."""
MOST_FILTERS = 8
REST_ID = 0

Group = tuple[int, str, str, Values]
Row = Sequence[int]
Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Query:
    """Which traffic, by what: `where` has the values that dimensions must have."""

    by: str
    where: tuple[tuple[str, Values], ...] = ()


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What one window changed."""

    window: Span
    expired: int
    """How many of the oldest windows are no longer part of the span."""
    removed: Sequence[int]
    groups: Sequence[Group]
    """New ones."""
    rows: Sequence[Row]
    """Those that differ from before, or have traffic in the window."""
    total: Sequence[int]
    """Bytes transmitted and received in the window."""
    sums: Sequence[int]
    losses: Losses | None
    present: Sequence[str]


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The whole picture of a span."""

    by: str
    windows: Sequence[Span]
    totals: tuple[Sequence[int], Sequence[int]]
    """Bytes transmitted, and received, in each window."""
    top: Sequence[tuple[int, Sequence[int], Sequence[int]]]
    groups: Sequence[Group]
    rows: Sequence[Row]
    sums: Sequence[int]
    losses: Losses | None
    present: Sequence[str]
    """The dimensions of which there are values."""


def parse_query(by: str, where: str) -> Query:
    """Return a query: a dimension, and a JSON object of values by dimension. Raises ValueError."""
    if by not in DIMENSIONS:
        raise ValueError("by: not a dimension")
    if len(where) > LONGEST_QUERY:
        raise ValueError("where: too long")
    try:
        found = msgspec.json.decode(where or "{}", type=dict[str, list[Value]])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ValueError("where: not an object of values by dimension") from error
    if len(found) > MOST_FILTERS:
        raise ValueError("where: too many dimensions")
    for name, values in found.items():
        dimension = DIMENSIONS.get(name)
        if dimension is None or len(values) != len(dimension.keys) + 1:
            raise ValueError("where: not a dimension with its values")
    return Query(by, tuple((name, tuple(values)) for name, values in found.items()))


def describe_group(number: int, dimension: Dimension, picked: Values) -> Group:
    """Return a group as it is sent."""
    return (number, *dimension.label(picked), picked)


def describe_dimensions() -> list[dict[str, str]]:
    """Return what the page needs to offer the dimensions."""
    return [
        {"name": one.name, "title": one.title, "needs": one.needs} for one in DIMENSIONS.values()
    ]
