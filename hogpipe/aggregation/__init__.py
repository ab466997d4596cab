"""PURE: from flows with their owners to the bodies of records, window by window.

windows.py     where windows begin and end, by the clock or by packet time
dimensions.py  the dimensions that traffic is grouped by, in one table
selectors.py   `only`: which owners get records of their own
window_aggregator.py  what a pipeline needs of an aggregator
aggregator.py  adds up what flows moved by group
window_groups.py  the groups of a window, and the bodies of their records
group_table.py  their sums, in columns
counted_flows.py  which flows are counted in which groups
flow_columns.py  flows in columns, and keys of their fields
latest_processes.py  the processes of attributions as they are described last
"""
