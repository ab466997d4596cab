"""What `hogpipe report` does: from its options to a question, and from the answer to an output.

In: the options of the command. Out: lines on the standard output, or files. Raises click's errors
for options that are wrong, and HogpipeError for what cannot be read or written.
"""

import logging
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from hogpipe.config.durations import parse_seconds
from hogpipe.errors import HogpipeError
from hogpipe.report.exports import encode_csv, encode_json, tabulate, write_parquet
from hogpipe.report.filters import parse_filters
from hogpipe.report.html_page import render_page
from hogpipe.report.output_file import replacing
from hogpipe.report.progress import Waiter
from hogpipe.report.question import Answer, Question, Series
from hogpipe.report.record_columns import list_columns
from hogpipe.report.source_files import open_store
from hogpipe.report.text_chart import most_steps, render_series
from hogpipe.report.text_table import render_answer, render_rows, render_span
from hogpipe.report.times import choose_step, parse_time
from hogpipe.report.traffic_store import Table, TrafficStore
from hogpipe.signals import StopSignals
from hogpipe.text import printable

log = logging.getLogger(__name__)

_AUTO = "auto"
_LONGEST_STEP = 10 * 365 * 86_400
_MILLI = 1000
_ROUNDING = 1e-4  # of a millisecond, by floating point


class Request(msgspec.Struct, frozen=True):
    """The options, as they were written."""

    sources: tuple[str, ...]
    by: str
    since: str | None
    until: str | None
    only: tuple[str, ...]
    top: int
    step: str | None
    format: str
    output: Path | None
    html: Path | None
    sql: str | None
    health: bool


def parse_request(options: Mapping[str, object]) -> Request:
    """Return the request that the options of the command make."""
    request = msgspec.convert(options, Request, dec_hook=lambda _type, path: path)
    if request.format == "parquet" and request.output is None:
        raise click.UsageError("--format parquet needs --output FILE")
    if request.sql is not None and (request.html or request.step):
        raise click.UsageError("--sql excludes --html and --step")
    return request


def run_report(request: Request, signals: StopSignals) -> None:
    """Answer a request."""
    question = _make_question(request)
    step = _parse_step(request.step or (_AUTO if request.html else None))
    waiter = Waiter()
    signals.set_stop_action(waiter.stop)
    with open_store(request.sources, waiter) as store, _named_errors():
        if request.sql is not None:
            _answer_sql(store, request.sql, request)
            return
        answer, series = _ask(store, question, step)
        _check_skipped(store, answer)
        _check_dimensions(request.by, answer)
        if request.html is not None:
            _write([render_page(answer, series)], request.html)
        shown = series if request.step else None
        if request.format == "table":
            _write((f"{line}\n" for line in _render(answer, shown)), request.output)
        else:
            _write_rows(tabulate(answer, shown), request)


def _make_question(request: Request) -> Question:
    now = datetime.now(UTC)
    with _option("--by"):
        columns = list_columns([name.strip() for name in request.by.split(",")])
    with _option("--only"):
        filters = parse_filters(request.only)
    with _option("--since"):
        first = _parse_unix(request.since, now)
    with _option("--until"):
        last = _parse_unix(request.until, now)
    if first is not None and last is not None and first >= last:
        raise click.UsageError("--since is not before --until")
    return Question(columns, filters, first, last, request.top, request.health)


def _parse_unix(text: str | None, now: datetime) -> float | None:
    return None if text is None else parse_time(text, now).timestamp()


def _parse_step(text: str | None) -> float | None:
    """Return a step in seconds, 0 for one that fits, or None for no series."""
    if text is None:
        return None
    if text == _AUTO:
        return 0.0
    with _option("--step"):
        seconds = parse_seconds(text)
        if not 0 < seconds < _LONGEST_STEP:
            raise ValueError("must be more than 0, and less than ten years")
        if abs(seconds * _MILLI - round(seconds * _MILLI)) > _ROUNDING or seconds < 1 / _MILLI:
            raise ValueError("must be a whole number of milliseconds")
    return seconds


@contextmanager
def _option(name: str) -> Iterator[None]:
    """Report a ValueError as one of this option."""
    try:
        yield
    except ValueError as error:
        raise click.BadParameter(printable(str(error)), param_hint=name) from error


def _ask(
    store: TrafficStore, question: Question, step: float | None
) -> tuple[Answer, Series | None]:
    if step is None:
        return store.answer(question), None
    most = most_steps(shutil.get_terminal_size().columns)
    if not step:
        answer = store.answer(question)
        if answer.span is None:
            return answer, None
        step = choose_step(answer.span[1] - answer.span[0], most)
    series = store.answer_over_time(question, step)
    return series.answer, series


def _check_dimensions(by: str, answer: Answer) -> None:
    """Report the dimensions that no record has, as the run did not group by them.

    Groups without a row may have what the rows lack; then nothing is reported.
    """
    if answer.groups > len(answer.rows):
        return
    known = {
        column
        for row in answer.rows
        for column, value in zip(answer.columns, row.values, strict=True)
        if value is not None
    }
    for name in dict.fromkeys(one.strip() for one in by.split(",")):
        columns = list_columns([name])
        if answer.rows and columns and known.isdisjoint(columns):
            log.warning("no record has a %s: a run records it if it is in group_by", name)


def _check_skipped(store: TrafficStore, answer: Answer) -> None:
    """Report what was no record; raise HogpipeError if nothing else was there."""
    skipped = store.find_skipped()
    if skipped is None:
        return
    lines = "1 line" if skipped.lines == 1 else f"{skipped.lines} lines"
    if answer.span is None and not skipped.has_records:
        raise HogpipeError(
            f"{skipped.first}: not a record of hogpipe, nor is any other line; a report reads the "
            'default layout of records (layout = "nested", schema = "otel")'
        )
    first = skipped.first or "a line that has changed since"
    log.warning("%s: not a record of hogpipe; %s skipped", first, lines)


def _render(answer: Answer, series: Series | None) -> list[str]:
    width, encoding = shutil.get_terminal_size().columns, sys.stdout.encoding or "ascii"
    if series is None:
        return render_answer(answer, width, encoding)
    return [*render_span(answer, width), *render_series(series, width, encoding)]


def _answer_sql(store: TrafficStore, statement: str, request: Request) -> None:
    if request.format == "parquet" and request.output is not None:
        with replacing(request.output) as path:
            store.export(statement, path)
    else:
        _write_rows(store.query(statement), request)


def _write_rows(table: Table, request: Request) -> None:
    if request.format == "parquet" and request.output is not None:
        with replacing(request.output) as path:
            write_parquet(table, path)
    elif request.format == "table":
        lines = render_rows(*table, sys.stdout.encoding or "ascii")
        _write((f"{line}\n" for line in lines), request.output)
    elif request.format == "json":
        _write(encode_json(table), request.output)
    else:
        _write(encode_csv(table), request.output)


def _write(texts: Iterable[str], output: Path | None) -> None:
    if output is None:
        for text in texts:
            click.echo(text, nl=False)
        return
    with replacing(output) as path, path.open("w", encoding="utf-8") as file:
        file.writelines(texts)


@contextmanager
def _named_errors() -> Iterator[None]:
    """Report what prevents writing to a file; a closed pipe is click's affair."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        place = f"{printable(str(error.filename))}: " if error.filename else ""
        raise HogpipeError(f"{place}{error.strerror}") from error
