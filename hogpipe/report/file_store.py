"""Answers from files of records, by DuckDB: JSON lines, plain or gzip, and Parquet.

In: paths. Out: answers. A file is read once for each answer, in bounded memory: beyond
`_MEMORY_LIMIT`, DuckDB uses a temporary folder.

Rows
    Each record becomes a row of the view `records`, whose columns are those of docs/report.md
    ("Columns"). Its column `type` is NULL for what is not a record of the default layout, such as a
    torn line, and for traffic whose times or bytes no run writes (`_LAST_TIME`, `_MOST_BYTES`).
    These rows are counted and skipped.

Steps
    A step is a number of milliseconds, as are the times of records: the number of a window's step
    is a division of integers.

Filters
    The sums are kept apart by the columns that filters need, too. Then each combination of these
    columns' values is tested in Python, so that a filter means the same for files and histories.

Known limits: records of the layouts `flat` and `ecs` are not read; a line of more than 16 MiB ends
the report; a gzip file that is cut is refused.
"""

import gzip
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import orjson

from hogpipe.errors import HogpipeError
from hogpipe.history.counters import (
    ALL_COUNTERS,
    HEALTH_COUNTERS,
    LEAST,
    QUALITIES,
    Totals,
)
from hogpipe.records.tcp_health import CONNECTIONS
from hogpipe.report.exports import make_copy, quote_text
from hogpipe.report.progress import Waiter
from hogpipe.report.question import Answer, Question, Row, Series, build_series, check_steps
from hogpipe.report.record_columns import COLUMNS, NUMERIC, Column
from hogpipe.report.traffic_store import Skipped, Table
from hogpipe.text import printable

_MEMORY_LIMIT = "300MB"
_PART = 1000  # rows that are fetched at a time
_SHAPE = """{
    type: 'VARCHAR',
    "window": 'STRUCT(start_unix DOUBLE, end_unix DOUBLE)',
    run: 'VARCHAR',
    sequence: 'BIGINT',
    host: 'STRUCT(name VARCHAR)',
    process: 'STRUCT(
        pid BIGINT, name VARCHAR, command VARCHAR, owner VARCHAR, executable STRUCT(path VARCHAR),
        parent STRUCT(command VARCHAR, name VARCHAR),
        "user" STRUCT(id BIGINT), linux STRUCT(cgroup VARCHAR))',
    systemd: 'STRUCT(unit VARCHAR)', kernel: 'STRUCT(name VARCHAR)',
    container: 'STRUCT(id VARCHAR, name VARCHAR, image STRUCT(name VARCHAR))',
    k8s: 'STRUCT(pod STRUCT(uid VARCHAR, name VARCHAR), namespace STRUCT(name VARCHAR))',
    server: 'STRUCT(port BIGINT)',
    network: 'STRUCT(
        flows BIGINT, transport VARCHAR, type VARCHAR, interface STRUCT(name VARCHAR),
        "local" STRUCT(address VARCHAR, port BIGINT),
        peer STRUCT(
            address VARCHAR, port BIGINT, network VARCHAR, domain VARCHAR, domain_quality VARCHAR
        ),
        io STRUCT(
            transmit STRUCT(bytes BIGINT, packets BIGINT, payload_bytes BIGINT),
            receive STRUCT(bytes BIGINT, packets BIGINT, payload_bytes BIGINT)),
        tcp STRUCT(
            retransmits BIGINT, rtt STRUCT(samples BIGINT, sum_us BIGINT, min_us BIGINT),
            connections STRUCT(
                opened BIGINT, accepted BIGINT, refused BIGINT, timed_out BIGINT,
                unreachable BIGINT, abandoned BIGINT, "reset" BIGINT, closed BIGINT,
                opening_us BIGINT, lifetime_us BIGINT)))',
    attribution: 'STRUCT("exact" BIGINT, listener BIGINT, inferred BIGINT, "none" BIGINT)',
    remainder: 'BOOLEAN',
    capture: 'STRUCT(dropped STRUCT(kernel BIGINT, interface BIGINT))'
}"""
"""The keys of records that are read; all others are skipped."""
_COUNTER_PATHS = {
    "transmit_bytes": "network.io.transmit.bytes",
    "transmit_packets": "network.io.transmit.packets",
    "receive_bytes": "network.io.receive.bytes",
    "receive_packets": "network.io.receive.packets",
    "flows": "network.flows",
    **{name: f"attribution.{name}" for name in QUALITIES},
}
_HEALTH_PATHS = {
    **{name: f"network.tcp.connections.{name}" for name in CONNECTIONS},
    "transmit_payload_bytes": "network.io.transmit.payload_bytes",
    "receive_payload_bytes": "network.io.receive.payload_bytes",
    "retransmits": "network.tcp.retransmits",
    "rtt_sum_us": "network.tcp.rtt.sum_us",
    "rtt_samples": "network.tcp.rtt.samples",
    "rtt_min_us": "network.tcp.rtt.min_us",
}
_REQUIRED = ("start_unix", "end_unix", "transmit_bytes", "receive_bytes")
_LAST_TIME = 253_402_300_799  # 9999-12-31T23:59:59Z, the last second that datetime has
_MOST_BYTES = 2**62 - 1  # both directions add up within 64 bits
_MILLI = 1000


class RecordFile(msgspec.Struct, frozen=True):
    """A file of records."""

    path: Path
    is_parquet: bool = False
    is_gzip: bool = False
    name: str | None = None
    """What messages call it, if that is not the path."""

    @property
    def label(self) -> str:
        """Its name in a message."""
        return printable(self.name or str(self.path))


class RecordFiles:
    """A TrafficStore of files of records; `folder` is for temporary files."""

    def __init__(self, files: Sequence[RecordFile], folder: Path, waiter: Waiter) -> None:
        self._files = files
        self._waiter = waiter
        self._database = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": _MEMORY_LIMIT,
                "temp_directory": str(folder),
                # A query installs nothing.
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
            },
        )
        self._skipped = 0
        try:
            with self._errors_named():
                # DuckDB measures its progress only then, and progress.py shows it.
                self._database.execute("SET enable_progress_bar = true")
                self._database.execute("SET enable_progress_bar_print = false")
                self._make_views()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def answer(self, question: Question) -> Answer:
        """Return the totals of each group."""
        self._sum_up(question, None)
        return self._build_answer(question)

    def answer_over_time(self, question: Question, step: float) -> Series:
        """Return the totals of each group in steps."""
        self._sum_up(question, step)
        answer = self._build_answer(question)
        ((first, last),) = self._fetch("SELECT min(step), max(step) FROM selected")
        if first is not None:
            check_steps(last - first + 1, len(answer.rows), step)
        total = self._fetch(
            "SELECT step, sum(transmit_bytes + receive_bytes)::HUGEINT FROM selected GROUP BY step"
        )
        names = _list_names(question.columns)
        found = self._fetch(
            f"SELECT step, {_join(names)} {_sum_of_sums(question)} FROM selected "
            f"WHERE EXISTS (FROM shown WHERE {_match(names, 'selected', 'shown')}) GROUP BY ALL"
        )
        width = len(names) + 1
        rows = {(row[0], row[1:width]): Totals(*row[width:]) for row in found}
        return build_series(answer, dict(total), rows, step)

    def query(self, statement: str) -> Table:
        """Run a statement over the views `traffic` and `stats`; the rows are read as needed."""
        self._execute(statement)
        return [name for name, *_ in self._database.description or ()], self._fetch_parts()

    def export(self, statement: str, path: Path) -> None:
        """Write what a statement over the views returns to a Parquet file."""
        bare = statement.rstrip().rstrip(";")
        # The line end also ends a comment.
        self._execute(make_copy(f"({bare}\n)", path))

    def find_skipped(self) -> Skipped | None:
        """Return what the last answer skipped; the first such line is searched for again."""
        if not self._skipped:
            return None
        first = next(filter(None, map(_find_bad_line, self._files)), "")
        ((records,),) = self._fetch("SELECT count(*) FROM sums WHERE type IS NOT NULL")
        return Skipped(self._skipped, first, bool(records))

    def _make_views(self) -> None:
        parts = []
        for gzipped in (False, True):
            if paths := self._list_paths(is_parquet=False, is_gzip=gzipped):
                compression = "gzip" if gzipped else "uncompressed"
                parts.append(
                    f"SELECT {_list_record_columns()} FROM read_json({paths}, "
                    f"format = 'newline_delimited', compression = '{compression}', "
                    f"ignore_errors = true, columns = {_SHAPE})"
                )
        if paths := self._list_paths(is_parquet=True, is_gzip=False):
            parts.append(
                f"SELECT {self._list_parquet_columns(paths)} "
                f"FROM read_parquet({paths}, union_by_name = true)"
            )
        self._database.execute(f"CREATE VIEW records AS {' UNION ALL BY NAME '.join(parts)}")
        stats = "start_unix, end_unix, host, run, sequence, dropped_packets"
        self._database.execute(
            f"CREATE VIEW stats AS SELECT {stats} FROM records WHERE type = 'stats'"
        )
        self._database.execute(
            "CREATE VIEW traffic AS SELECT * EXCLUDE (type, dropped_packets) FROM records "
            "WHERE type = 'traffic'"
        )

    def _list_paths(self, *, is_parquet: bool, is_gzip: bool) -> str:
        """Return a list of SQL with the paths of one kind; empty if there are none."""
        files = [
            file
            for file in self._files
            if file.is_parquet == is_parquet and file.is_gzip == is_gzip
        ]
        paths = ", ".join(f"'{quote_text(_escape_glob(file.path))}'" for file in files)
        return f"[{paths}]" if paths else ""

    def _list_parquet_columns(self, paths: str) -> str:
        """Return the columns of `records`, as expressions over those of Parquet files.

        Raises HogpipeError if some are absent.
        """
        self._database.execute(
            f"DESCRIBE SELECT * FROM read_parquet({paths}, union_by_name = true)"
        )
        there = {name for name, *_ in self._database.fetchall()}
        if missing := [name for name in _REQUIRED if name not in there]:
            raise HogpipeError(
                f"a Parquet file has no column {missing[0]}: a report reads those that "
                "`hogpipe report --sql 'FROM traffic' --format parquet` writes"
            )
        known = {column.name: _type_of(column) for column in COLUMNS}
        known |= dict.fromkeys(("start_unix", "end_unix"), "DOUBLE")
        known |= {"run": "VARCHAR", "sequence": "BIGINT", "remainder": "BOOLEAN"}
        known |= dict.fromkeys(ALL_COUNTERS, "BIGINT")
        columns = [
            f"{_quote(name) if name in there else 'NULL'}::{kind} AS {_quote(name)}"
            for name, kind in known.items()
        ]
        bytes_ = "transmit_bytes + receive_bytes AS bytes"
        required = {name: f"{_quote(name)}::{known[name]}" for name in _REQUIRED}
        kind = f"CASE WHEN {_make_range_test(required)} THEN 'traffic' END AS type"
        return ", ".join([kind, *columns, bytes_, "NULL::BIGINT AS dropped_packets"])

    def _sum_up(self, question: Question, step: float | None) -> None:
        """Make the table `selected`: the sums of each group, and of each step if there is one."""
        columns = dict.fromkeys((*question.columns, *question.filters.columns))
        names = _list_names(columns)
        tests = [
            *([f"start_unix >= {question.since!r}"] if question.since is not None else ()),
            *([f"start_unix < {question.until!r}"] if question.until is not None else ()),
        ]
        within = " AND ".join(tests) or "true"
        number = "NULL::BIGINT"
        if step is not None:
            start_ms = f"TRY_CAST(round(start_unix * {_MILLI}) AS BIGINT)"
            number = f"CASE WHEN type = 'traffic' THEN {start_ms} // {round(step * _MILLI)} END"
        self._execute(
            f"CREATE OR REPLACE TEMP TABLE sums AS SELECT type, {number} AS step, "
            f"{_join(names)} {_name_sums(question)}, "
            "min(start_unix) AS first, max(end_unix) AS last, count(*) AS records, "
            "sum(dropped_packets) AS dropped "
            f"FROM records WHERE type IS NULL OR {within} GROUP BY ALL"
        )
        ((skipped,),) = self._fetch("SELECT sum(records) FROM sums WHERE type IS NULL")
        self._skipped = int(skipped or 0)
        self._select(question)

    def _select(self, question: Question) -> None:
        """Make the table `selected`: the sums of traffic that the filters choose."""
        wanted = "type = 'traffic'"
        if decisive := question.filters.columns:
            names = _list_names(decisive)
            self._execute(
                "CREATE OR REPLACE TEMP TABLE candidates AS "
                f"SELECT DISTINCT {', '.join(names)} FROM sums WHERE {wanted}"
            )
            self._execute(f"SELECT rowid, {', '.join(names)} FROM candidates")
            chosen = [
                number
                for number, *row in self._fetch_parts()
                if question.filters.select(dict(zip(decisive, row, strict=True)))
            ]
            self._execute("CREATE OR REPLACE TEMP TABLE chosen (number BIGINT)")
            for start in range(0, len(chosen), _PART):
                part = chosen[start : start + _PART]
                self._execute("INSERT INTO chosen SELECT unnest(?::BIGINT[])", [part])
            wanted += (
                " AND EXISTS (FROM candidates JOIN chosen ON candidates.rowid = chosen.number "
                f"WHERE {_match(names, 'sums', 'candidates')})"
            )
        self._execute(f"CREATE OR REPLACE TEMP TABLE selected AS SELECT * FROM sums WHERE {wanted}")

    def _build_answer(self, question: Question) -> Answer:
        names = _list_names(question.columns)
        ((first, last),) = self._fetch("SELECT min(first), max(last) FROM selected")
        ((dropped,),) = self._fetch("SELECT sum(dropped) FROM sums WHERE type = 'stats'")
        self._execute(
            "CREATE OR REPLACE TEMP TABLE grouped AS SELECT "
            f"{_join(names)} {_sum_of_sums(question)} FROM selected "
            f"{'GROUP BY ' + ', '.join(names) if names else ''}"
        )
        ((groups,),) = self._fetch("SELECT count(*) FROM grouped")
        order = ", ".join(
            ["transmit_bytes + receive_bytes DESC", *(f"{one}::VARCHAR" for one in names)]
        )
        limit = "" if question.top is None else f"LIMIT {question.top}"
        self._execute(
            "CREATE OR REPLACE TEMP TABLE shown AS "
            f"SELECT * FROM grouped ORDER BY {order} NULLS LAST {limit}"
        )
        found = self._fetch(f"SELECT * FROM shown ORDER BY {order} NULLS LAST")
        rows = (
            [Row(tuple(row[: len(names)]), Totals(*row[len(names) :])) for row in found]
            if first is not None
            else []
        )
        others = Totals()
        if rows and len(rows) < groups:
            (rest,) = self._fetch(
                f"SELECT {_sum_of_sums(question)} FROM "
                f"(FROM grouped ORDER BY {order} NULLS LAST OFFSET {len(rows)})"
            )
            others = Totals(*rest)
        return Answer(
            question.columns,
            rows,
            others,
            groups if rows else 0,
            None if first is None else (first, last),
            int(dropped or 0),
            question.counters,
        )

    def _fetch_parts(self) -> Iterator[tuple[Any, ...]]:
        with self._errors_named():
            while rows := self._database.fetchmany(_PART):
                yield from rows

    def _fetch(self, statement: str) -> list[tuple[Any, ...]]:
        self._execute(statement)
        with self._errors_named():
            return self._database.fetchall()

    def _execute(self, statement: str, parameters: Sequence[object] = ()) -> None:
        """Run a statement in a thread, so that a signal can interrupt it."""
        with self._errors_named():
            self._waiter.wait(
                lambda: self._database.execute(statement, parameters),
                self._database.query_progress,
                self._database.interrupt,
            )

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            text = str(error).strip().split("\n\n")[0].replace("\n", " ")
            raise HogpipeError(f"report: {printable(text)}") from error


def _find_bad_line(file: RecordFile) -> str | None:
    """Return where the first line is that is no record, by file and number."""
    if file.is_parquet:
        return None
    with gzip.open(file.path) if file.is_gzip else file.path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip() and not _is_record(line):
                return f"{file.label}:{number}"
    return None


def _is_record(line: bytes) -> bool:
    """Return whether a line is a record of the default layout, as `records` sees it."""
    with suppress(orjson.JSONDecodeError, KeyError, TypeError):
        record = orjson.loads(line)
        if record["type"] == "stats":
            return True
        window, io = record["window"], record["network"]["io"]
        times = (window["start_unix"], window["end_unix"])
        sizes = (io["transmit"]["bytes"], io["receive"]["bytes"])
        return (
            record["type"] == "traffic"
            and all(_is_between(one, _LAST_TIME) for one in times)
            and all(_is_between(one, _MOST_BYTES) for one in sizes)
        )
    return False


def _is_between(value: float | str, most: int) -> bool:
    """Return whether a value is a number from 0 to `most`; text may be one, as for DuckDB."""
    try:
        return 0 <= (value if isinstance(value, int) else float(value)) <= most
    except ValueError:
        return False


def _list_record_columns() -> str:
    """Return the columns of `records`, as expressions over the keys of a record."""
    times = {name: f'"window".{name}' for name in ("start_unix", "end_unix")}
    paths = {name: _path(path) for name, path in _COUNTER_PATHS.items()}
    kind = (
        "CASE WHEN type = 'stats' THEN 'stats' "
        f"WHEN type = 'traffic' AND {_make_range_test(times | paths)} THEN 'traffic' END AS type"
    )
    values = [
        f"coalesce({', '.join(f'{_path(path)}::{_type_of(column)}' for path in column.paths)}) "
        f"AS {_quote(column.name)}"
        for column in COLUMNS
    ]
    counters = [f"{path} AS {_quote(name)}" for name, path in paths.items()]
    counters.append("CASE WHEN network.tcp IS NOT NULL THEN 1::BIGINT END AS health_records")
    counters += [f"{_path(_HEALTH_PATHS[name])} AS {_quote(name)}" for name in HEALTH_COUNTERS[1:]]
    both = f"{paths['transmit_bytes']} + {paths['receive_bytes']}"
    dropped = (
        "TRY_CAST(capture.dropped.kernel::HUGEINT + capture.dropped.interface AS BIGINT) "
        "AS dropped_packets"
    )
    return ", ".join(
        [
            kind,
            *(f"{path} AS {name}" for name, path in times.items()),
            "run",
            "sequence",
            *values,
            *counters,
            f"{both} AS bytes",
            "remainder",
            dropped,
        ]
    )


def _make_range_test(expressions: Mapping[str, str]) -> str:
    """Return the condition that the times and bytes of traffic are there and such as runs write."""
    most = dict(zip(_REQUIRED, [_LAST_TIME] * 2 + [_MOST_BYTES] * 2, strict=True))
    return " AND ".join(f"{expressions[name]} BETWEEN 0 AND {most[name]}" for name in _REQUIRED)


def _match(names: Sequence[str], left: str, right: str) -> str:
    """Return the condition that two tables have the same values."""
    return (
        " AND ".join(f"{left}.{name} IS NOT DISTINCT FROM {right}.{name}" for name in names)
        or "true"
    )


def _escape_glob(path: Path) -> str:
    """Return a path for DuckDB, which takes any path for a glob, and ~ for the home folder."""
    return re.sub(r"([*?[])", r"[\1]", str(path.absolute()))


def _path(path: str) -> str:
    return ".".join(map(_quote, path.split(".")))


def _quote(name: str) -> str:
    return f'"{name}"'


def _type_of(column: Column) -> str:
    return "BIGINT" if column in NUMERIC else "VARCHAR"


def _list_names(columns: "Sequence[Column] | dict[Column, None]") -> list[str]:
    return [_quote(column.name) for column in columns]


def _join(names: Sequence[str]) -> str:
    """Return names with a comma after each."""
    return "".join(f"{name}, " for name in names)


def _name_sums(question: Question) -> str:
    return ", ".join(
        f"{_sum_up(name, f'coalesce({_quote(name)}, 0)')} AS {_quote(name)}"
        for name in question.counters
    )


def _sum_of_sums(question: Question) -> str:
    return ", ".join(
        f"{_sum_up(name, _quote(name))}::HUGEINT AS {_quote(name)}" for name in question.counters
    )


def _sum_up(name: str, value: str) -> str:
    """Return the sum of a counter; of the least time, the least that is known, 0 if none is."""
    return f"coalesce(min(nullif({value}, 0)), 0)" if name == LEAST else f"sum({value})"
