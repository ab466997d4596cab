"""`hogpipe top`: the traffic of a pipeline or of recorded windows on a screen (docs/top.md).

source                    table                      screen
screen_sources  --------> traffic_table  ----------> rows_screen, help_screen
live_flows                (described_flows,          (row_groups, row_table,
record_windows             run_figures)               screen_text, screen_units)
                     player moves the cursor

top_command      starts it all; the only way in
top_app          the Textual application; with line_view and the screens all of Textual
"""
