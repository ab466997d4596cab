"""`hogpipe top`: the traffic of a pipeline or of recorded windows on a screen (docs/top.md).

Windows pass these modules from the top:

    screen_sources.py   what a source of windows is; types only
    pipeline_source.py  a pipeline in this process; live_flows.py takes its aggregator's place,
                        live_windows.py makes windows of what that drains
    record_file.py      JSON lines, which record_windows.py parses
    history_source.py   a history
    traffic_table.py    PURE: connections in columns, and windows before and after the cursor;
                        described_flows.py is what a connection is, run_figures.py the stats
    player.py           moves the cursor through the windows
    row_groups.py       PURE: connections grouped, filtered and sorted as rows
    row_table.py        PURE: rows as lines of a table; health_line.py that of one row's health;
                        screen_text.py, screen_units.py the rest
    rows_screen.py      the screen; help_screen.py the keys; line_view.py draws lines
    top_app.py          the Textual application
    top_command.py      starts all of it; nothing imports Textual before
"""
