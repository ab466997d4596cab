"""Answers and results of SQL as JSON lines, CSV and Parquet.

In: names of columns and rows. Out: text, or a Parquet file, which DuckDB writes. JSON is ASCII, so
that a name controls no terminal; in CSV, control characters are escaped.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from hogpipe.errors import HogpipeError
from hogpipe.history.counters import HEALTH_COUNTERS, LEAST, Totals
from hogpipe.report.question import Answer, Series
from hogpipe.report.traffic_store import Table
from hogpipe.text import describe_error, printable

_PARQUET_OPTIONS = "FORMAT parquet, USE_TMP_FILE false"
"""How DuckDB writes into a file that is there, with the rights that the file has."""


def tabulate(answer: Answer, series: Series | None) -> Table:
    """Return the rows of an answer; with a series, each of its steps that has traffic."""
    names = [column.name for column in answer.columns]
    counters = answer.counters
    if series is None:
        rows = [(*row.values, *_list(row.totals, counters)) for row in answer.rows]
        return [*names, *counters], rows
    rows = [
        (round(series.start + series.step * place, 3), *row.values, *_list(totals, counters))
        for place in range(len(series.total))
        for row, steps in zip(answer.rows, series.rows, strict=True)
        if (totals := steps[place]).bytes or totals.flows or totals.health_records
    ]
    return ["start_unix", *names, *counters], rows


def encode_json(table: Table) -> Iterator[str]:
    """Yield a JSON object for each row, as a line."""
    names, rows = table
    for row in rows:
        yield json.dumps(dict(zip(names, row, strict=True)), default=str) + "\n"


def encode_csv(table: Table) -> Iterator[str]:
    """Yield a line of CSV for the names, and for each row."""
    names, rows = table
    for line in chain([names], rows):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(
            [printable(cell) if isinstance(cell, str) else cell for cell in line]
        )
        yield text.getvalue()


def write_parquet(table: Table, path: Path) -> None:
    """Write a Parquet file. Raises HogpipeError without DuckDB, or if it cannot be written."""
    try:
        import duckdb
    except ImportError as error:
        raise HogpipeError("Parquet needs DuckDB: pip install 'hogpipe[report]'") from error
    names, rows = table[0], list(table[1])
    columns = ", ".join(
        f'"{name}" {_find_type(name, [row[place] for row in rows])}'
        for place, name in enumerate(names)
    )
    try:
        with duckdb.connect(":memory:") as database:
            database.execute(f"CREATE TABLE report ({columns})")
            if rows:
                marks = ", ".join("?" for _ in names)
                database.executemany(f"INSERT INTO report VALUES ({marks})", rows)
            database.execute(make_copy("report", path))
    except duckdb.Error as error:
        raise HogpipeError(f"report: {describe_error(error)}") from error


def make_copy(source: str, path: Path) -> str:
    """Return the statement that writes a table, or a query in brackets, to a Parquet file."""
    return f"COPY {source} TO '{quote_text(path)}' ({_PARQUET_OPTIONS})"


def quote_text(text: object) -> str:
    """Return a text as it stands between the quotes of SQL."""
    return str(text).replace("'", "''")


def _find_type(name: str, cells: Sequence[object]) -> str:
    """Return the type of a column: text if one of its cells is."""
    if name == "start_unix":
        return "DOUBLE"
    return "VARCHAR" if any(isinstance(cell, str) for cell in cells) else "BIGINT"


def _list(totals: Totals, counters: Sequence[str]) -> tuple[int | None, ...]:
    """Return counters; those of unknown health, and an unknown least time, are None."""
    cells = {name: int(getattr(totals, name)) for name in counters}
    is_unknown = set(() if totals.health_records else HEALTH_COUNTERS[1:])
    if not totals.rtt_min_us:
        is_unknown.add(LEAST)
    return tuple(None if name in is_unknown else size for name, size in cells.items())
