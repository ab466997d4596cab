"""The history: windows of records in an SQLite database, rolled up (docs/history.md).

In: windows of records, in any order of time. Out: totals, series and windows of any span. The sink
`sqlite` writes; `report`, `top --from` and other programs read, at the same time.

Schema, version 2 (`PRAGMA user_version`; `PRAGMA application_id` is 0x686F6770, "hogp"):

    runs      the runs that wrote, and the last sequence of each
    groups    what levels count by: the description of a group of records, as JSON
    members   what only windows distinguish: one process, one flow (members.py)
    windows   each window as it came: start_ms, end_ms, run_id, content (packing.py)
    minutes   start, group_id, COUNTERS: the sums of the windows that start in the minute
    hours     the same of the minutes
    days      the same of the hours, by UTC
    minutes_health, hours_health, days_health
              start, group_id, HEALTH_COUNTERS: of groups whose health of TCP connections is known
    spans     level, start: how many windows a bucket has, the time they cover, their stats
    levels    what each level holds: kept_ms, complete_ms (levels.py)

Times are Unix times, in milliseconds where the name says so. `used_until` is the time from which a
row is of no use once nothing older is kept.

Constraints: the rows of a level add up to the windows that they were rolled up from, always; the
file is whole after a kill at any time; a record counts once, however often it is delivered.

Modules:

    levels.py        PURE: levels, and which of them answer for a span
    counters.py      PURE: rows of counters, and their sums
    level_tables.py  PURE: the tables of a level, and the SQL of their columns
    members.py       PURE: the description of a record as group and member
    packing.py       PURE: a window as one row
    span_stats.py    PURE: the stats of a span
    history_file.py  the file: identity, schema, lock, connections
    interning.py     the ids of runs, groups and members
    level_states.py  the table `levels`
    rollup.py        windows -> minutes -> hours -> days
    expiry.py        what is deleted, by age and by size
    writer.py        HistoryWriter: one transaction a window
    descriptions.py  the descriptions of groups and members, for a reader
    answers.py       PURE: what a reader returns
    value_sums.py    sums of rows by the values of keys
    playback.py      windows as they were, or buckets as windows
    reader.py        HistoryReader: totals, series, windows
"""
