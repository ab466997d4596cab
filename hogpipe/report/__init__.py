"""`hogpipe report`: totals and series of recorded traffic (docs/report.md).

In: files of records (JSON lines, plain or gzip; Parquet) or a history, and a question. Out: a
table, a chart, JSON lines, CSV, Parquet or an HTML page.

    record_columns.py  PURE: what traffic is grouped by, and where records have it
    filters.py         PURE: the selectors of `--only`
    times.py           PURE: `--since`, `--until` and the steps of a series
    question.py        PURE: a question, and its answer
    traffic_store.py   what answers it (Protocol)
    file_store.py      answers from files of records, by DuckDB
    history_store.py   answers from a history
    source_files.py    which of both the arguments name
    text_table.py      PURE: an answer as a table
    text_chart.py      PURE: a series as a chart of characters
    html_page.py       PURE: an answer as a page
    exports.py         JSON lines, CSV and Parquet
    output_file.py     a file that is whole or absent
    progress.py        a progress bar during a long query
    reporting.py       from the options to an output

Only file_store.py and exports.py need DuckDB, which the extra `report` installs.
"""
