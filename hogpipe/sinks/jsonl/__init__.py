"""The `jsonl` sink: records as JSON lines in a file, with rotation and compression.

Modules, in the order in which a window passes them:

    jsonl_sink.py     JsonlSink, its settings and their checks; all file work in a thread
    rotating_file.py  the current file: when it is rotated, reopened and synced
    line_file.py      one file of whole lines: lock, repair after a crash, append, roll back
    rotation.py       PURE: when a file is full, and the names of closed files
    closed_files.py   closed files: compressed and deleted, in a thread of low priority

Constraint: a file holds whole lines of whole windows only, after any error, cancellation or kill.
"""
