"""PURE: from flows with their owners to the bodies of records, window by window.

windows.py     where windows begin and end, by the clock or by packet time
dimensions.py  the dimensions that traffic is grouped by, in one table
selectors.py   `only`: which owners get records of their own
aggregator.py  adds up what flows moved by group
window_aggregator.py  what a pipeline needs of an aggregator
"""
