"""Delivery: from the records of a window to calls of the sinks.

In: one window of records at a time. Out: `write` calls of each sink, and its counts. Constraints: a
sink that is slow, failing or dead delays neither the capture nor another sink; no byte is lost
while the queue can coalesce; each bound is a setting, and a counter reports when it applies.

Modules, in the order in which a window passes them:

    dispatch.py          Dispatcher: every window to every sink
    sink_worker.py       SinkWorker: the queue and the task of one sink
    stats_pace.py        PURE: how often a sink gets stats
    coalescing.py        PURE: the queue in memory and its overflow policy
    merging.py           PURE: windows as sums, which add up
    window_queue.py      the queue in memory, with merge jobs in a thread
    disk_queue.py        the queue on disk, with its work in a thread
    spool/               the files of the queue on disk
    opening.py           a sink is opened with the run, later, and again on SIGHUP
    retry.py             one window in as many attempts as it takes; backoff
    partial_delivery.py  PURE: which records remain after an attempt
    isolation.py         one call of a sink: its time limit, and errors that it may not pass on
    loop_watch.py        which call blocks the event loop, and for how long
    health.py            counts and log lines of one sink

Known limits: a record may be delivered twice if a sink fails after it has sent it (`run` with
`sequence` identify it). A sink that blocks the event loop itself delays the whole run; it is named
in the log, and the other sinks still get their records.
"""
