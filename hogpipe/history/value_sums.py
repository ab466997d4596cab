"""The sums of rows by the values of keys, in steps of time.

In: rows of counters by group, or by member; descriptions. Out: the rows of each step, the most
bytes first, equal ones by their values. Sums are made in columns; each description is read once.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hogpipe.history.answers import Point, Row, Value
from hogpipe.history.counters import COUNTERS, GroupSums, Integers, Totals
from hogpipe.history.descriptions import Descriptions
from hogpipe.history.members import Description, get_value

Where = Callable[[Description], bool]
"""Whether traffic counts, by its description: the record without stamp and counters."""

_BYTES = [COUNTERS.index("transmit_bytes"), COUNTERS.index("receive_bytes")]
_NOT_COUNTED = -1


class ValueSums:
    """Adds up rows by the values of the keys `by`, of traffic that `where` counts."""

    def __init__(self, descriptions: Descriptions, by: Sequence[str], where: Where | None) -> None:
        self._descriptions = descriptions
        self._by = by
        self._where = where
        self._by_group: defaultdict[int, GroupSums] = defaultdict(GroupSums)
        self._by_member: defaultdict[int, GroupSums] = defaultdict(GroupSums)
        self._group_of: dict[int, int] = {}
        """The group of each member."""
        self._numbers: dict[tuple[Value, ...], int] = {}
        """A number for each combination of values, in the order in which they were found."""

    def add(self, step_ms: int, groups: Integers, members: Integers | None, rows: Integers) -> None:
        """Add rows to the step that starts at `step_ms`, by member if these are given."""
        if members is None:
            self._by_group[step_ms].add(groups, rows)
        else:
            self._group_of.update(zip(members.tolist(), groups.tolist(), strict=True))
            self._by_member[step_ms].add(members, rows)

    def finish(self) -> list[Point]:
        """Return the rows of each step, in the order of time."""
        steps: defaultdict[int, GroupSums] = defaultdict(GroupSums)
        self._number_rows(self._by_group, self._descriptions.of_group, steps)
        self._number_rows(self._by_member, self._describe_member, steps)
        names = list(self._numbers)
        by_name = sorted(range(len(names)), key=lambda number: [str(one) for one in names[number]])
        rank = np.zeros(len(names), np.int64)
        rank[by_name] = np.arange(len(names))
        points = []
        for step_ms, sums in sorted(steps.items()):
            numbers, rows = sums.arrays()
            order = np.lexsort((rank[numbers], -rows[:, _BYTES].sum(axis=1)))
            sorted_rows = zip(numbers[order].tolist(), rows[order].tolist(), strict=True)
            shown = [Row(names[number], Totals(*row)) for number, row in sorted_rows]
            points.append(Point(step_ms, shown))
        return points

    def _number_rows(
        self,
        sums_by_step: Mapping[int, GroupSums],
        describe: Callable[[int], Description],
        steps: defaultdict[int, GroupSums],
    ) -> None:
        """Add sums to `steps`, by the numbers of their values."""
        number_of: dict[int, int] = {}
        for step_ms, sums in sums_by_step.items():
            groups, rows = sums.arrays()
            for group in groups.tolist():
                if group not in number_of:
                    number_of[group] = self._find_number(describe(group))
            numbers = np.array([number_of[group] for group in groups.tolist()], np.int64)
            counted = numbers != _NOT_COUNTED
            if counted.any():
                steps[step_ms].add(numbers[counted], rows[counted])

    def _describe_member(self, member: int) -> Description:
        return self._descriptions.of_member(member, self._group_of[member])

    def _find_number(self, description: Description) -> int:
        if self._where is not None and not self._where(description):
            return _NOT_COUNTED
        values = tuple(get_value(description, key) for key in self._by)
        return self._numbers.setdefault(values, len(self._numbers))
