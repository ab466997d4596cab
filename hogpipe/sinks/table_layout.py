"""PURE: columns of text that fit a terminal.

In: rows of cells by the name of their column, and the width of the terminal. Out: lines in columns,
none wider than the terminal.

Fitting
    Numbers are never cut. If the columns do not fit even with each at its least width, optional
    ones are dropped, in the order of `DROPPED_FIRST`. Then the widest are narrowed until all fit.
    So the choice of columns does not change with the length of a name.

What is cut of a cell depends on its column: the end of a name, the beginning of a path, and the
middle of an address, so that its port stays.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from unicodedata import combining, east_asian_width

import msgspec

GAP = "  "
ELLIPSIS = "…"
_HARD_LEAST = 4


def fit(text: str, width: int) -> str:
    """Return `text` in exactly `width` columns: padded, or cut at its end."""
    missing = width - measure(text)
    if missing >= 0:
        return text + " " * missing
    kept, room = "", width - 1
    for char in text:
        room -= measure(char)
        if room < 0:
            break
        kept += char
    cut = f"{kept}{ELLIPSIS}"
    return cut + " " * (width - measure(cut))


def encode(text: str, encoding: str) -> str:
    """Return `text` with what the encoding does not have escaped."""
    return text if text.isascii() else text.encode(encoding, "backslashreplace").decode(encoding)


def replace_ellipsis(lines: Iterable[str], encoding: str) -> list[str]:
    """Return the lines with a tilde for each ellipsis, if the encoding has none."""
    ellipsis = ELLIPSIS if encode(ELLIPSIS, encoding) == ELLIPSIS else "~"
    return [line.replace(ELLIPSIS, ellipsis) for line in lines]


def fit_end(text: str, width: int) -> str:
    """Return `text` in exactly `width` columns: padded, or cut at its beginning."""
    missing = width - measure(text)
    if missing >= 0:
        return text + " " * missing
    cut, room = "", width - 1
    for char in reversed(text):
        room -= measure(char)
        if room < 0:
            break
        cut = char + cut
    cut = ELLIPSIS + cut
    return cut + " " * (width - measure(cut))


def fit_endpoint(text: str, width: int) -> str:
    """Return an endpoint in exactly `width` columns: padded, or with less of its address.

    An endpoint is an address, `IPV4:PORT` or `[IPV6]:PORT`.
    """
    if len(text) <= width:
        return text.ljust(width)
    address, bracket, port = text.rpartition("]:")
    if not bracket and text.count(":") == 1:
        address, bracket, port = text.rpartition(":")
    start, tail = ("[", bracket + port) if text.startswith("[") else ("", bracket + port)
    room = width - len(start) - len(tail)
    if not bracket:
        start, tail, room, address = "", "", width, text
    if room < 1:  # there is no room for an address
        return fit_end(text, width)
    return start + _cut_middle(address.removeprefix("["), room) + tail


def _cut_middle(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    after = (width - 1) // 2
    return text[: width - 1 - after] + ELLIPSIS + text[len(text) - after :]


def measure(text: str) -> int:
    """Return how many columns `text` takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text
    )


class Column(msgspec.Struct, frozen=True):
    """How a column is laid out; its name is its heading."""

    least: int | None = None
    """To how many columns it may be narrowed; None if it may not."""
    is_right: bool = False
    fit: Callable[[str, int], str] = fit


NUMBERS = ("TRANSMIT", "RECEIVE")
HEALTH = ("RETRANS", "RTT", "MIN RTT", "CONNS", "FAILED")
"""The health of TCP connections: a share, mean and least time, beginnings and failures."""
COLUMNS: Mapping[str, Column] = {
    "PID": Column(is_right=True),
    "USER": Column(8),
    "PROGRAM": Column(12),
    "PARENT": Column(12),
    "UNIT": Column(12),
    "CONTAINER": Column(12),
    "POD": Column(12),
    "CGROUP": Column(16, fit=fit_end),
    "INTERFACE": Column(9),
    "TYPE": Column(),
    "PROTO": Column(),
    "PORT": Column(is_right=True),
    "LOCAL": Column(15, fit=fit_endpoint),
    "NETWORK": Column(8),
    "DOMAIN": Column(12),
    "KNOWN BY": Column(),
    "REMOTE": Column(15, fit=fit_endpoint),
    **{name: Column(is_right=True) for name in NUMBERS},
    **{name: Column(is_right=True) for name in HEALTH},
}
"""All columns in their order."""
DROPPED_FIRST = ("POD", "UNIT", "CONTAINER", "USER")
"""Columns that are dropped where there is too little room, if they are optional."""

Row = Mapping[str, str]


def lay_out(
    rows: Sequence[Row], total: Row, label: str, width: int, optional: Collection[str]
) -> list[str]:
    """Return a heading, the rows, and `total` below them with its label.

    A column that is empty in all rows is left out, `NUMBERS` aside.
    """
    names = [
        name for name in COLUMNS if name in NUMBERS or any(row.get(name) for row in (*rows, total))
    ]  # fmt: skip
    natural = {
        name: max(measure(row.get(name, "")) for row in ({name: name}, *rows, total))
        for name in names
    }
    widths = _choose_widths(natural, width, optional)
    numbers = [name for name in (*NUMBERS, *HEALTH) if name in widths]
    texts = [name for name in widths if name not in numbers]
    label_width = sum(widths[name] for name in texts) + len(GAP) * max(0, len(texts) - 1)
    numbers_width = sum(len(GAP) + widths[name] for name in numbers)
    area = max(label_width, min(measure(label), width - numbers_width))
    lines = [_join(row, texts, widths) for row in ({name: name for name in widths}, *rows)]
    return [
        (fit(text, area) if area > 0 else "") + "".join(
            GAP + _align(row.get(name, ""), name, widths[name]) for name in numbers
        )
        for text, row in zip(
            [*lines, label], [{name: name for name in numbers}, *rows, total], strict=True
        )
    ]  # fmt: skip


def _choose_widths(
    natural: Mapping[str, int], width: int, optional: Collection[str]
) -> dict[str, int]:
    widths = dict(natural)
    droppable = [name for name in DROPPED_FIRST if name in widths and name in optional]
    while droppable and sum(_least(widths).values()) > _room(widths, width):
        del widths[droppable.pop(0)]
    _narrow(widths, _least(widths), _room(widths, width))
    hard = {
        name: width if COLUMNS[name].least is None else min(width, _HARD_LEAST)
        for name, width in widths.items()
    }
    _narrow(widths, hard, _room(widths, width))
    return widths


def _room(widths: Mapping[str, int], width: int) -> int:
    return width - len(GAP) * (len(widths) - 1)


def _least(widths: Mapping[str, int]) -> dict[str, int]:
    """Return the least width of each column; a heading is not cut."""
    return {
        name: width if (least := COLUMNS[name].least) is None else min(width, least)
        for name, width in widths.items()
    }


def _narrow(widths: dict[str, int], least: Mapping[str, int], room: int) -> None:
    """Narrow the widest columns until all fit or have their least width."""
    excess = sum(widths.values()) - room
    while excess > 0:
        narrowable = [name for name in widths if widths[name] > least[name]]
        if not narrowable:
            return
        widths[max(narrowable, key=widths.__getitem__)] -= 1
        excess -= 1


def _join(row: Row, names: Sequence[str], widths: Mapping[str, int]) -> str:
    return GAP.join(_align(row.get(name, ""), name, widths[name]) for name in names)


def _align(cell: str, name: str, width: int) -> str:
    column = COLUMNS[name]
    fitted = column.fit(cell, width)
    return fitted.strip().rjust(width) if column.is_right else fitted
