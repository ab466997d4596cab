"""PURE: the record, the one shape in which results leave hogpipe (docs/record.md).

    schema.py        the types: which keys there are, and in which order
    tcp_health.py    the health of TCP connections, as a record has it
    stamp.py         the window, run, sequence and host of a record
    groups.py        what a record says of its group, counters and stamp aside
    stats.py         the parts of a stats record, from the counters of the stages
    merged_stats.py  two stats records as one
    summary.py       the totals of a run, as one line for the user

A counter of a stage passes model/counts.py, schema.py and stats.py, a traffic counter passes
model/counts.py and schema.py. docs/record.schema.json describes both.
"""
