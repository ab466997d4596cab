"""Sinks: where records go, and the contract by which plugins add others (docs/plugins.md).

In: windows of records, from delivery/. Out: documents at a receiver. Constraints: a sink never
changes a record; it keeps no queue and makes no retries, delivery/ does; built-in sinks are found
by the same hook as those of plugins.

The contract and the plugins:

    contract.py        Sink, SinkSettings, SinkType, SettingProblem
    hookspecs.py       the hook by which a plugin offers sink types
    registry.py        which sink types there are, and which plugins failed to load
    plugin_errors.py   an error of a plugin, with the line that raised it
    builtin.py         the plugin that hogpipe contains

Documents, in the order in which a record passes them (PURE):

    encoding.py        JsonEncoder: JSON documents in the configured layout and schema
    shaping.py         the layout `flat`
    ecs.py             the schema `ecs`
    table.py           a window as a table for a terminal
    table_layout.py    its columns, which fit the terminal

Receivers:

    stdout.py          a terminal, a pipe or a file that the process has open
    terminal_screen.py a terminal on which one table replaces the other
    jsonl/             files, with rotation and compression
    sqlite.py          a history, which hogpipe/history writes
    tcp/               a collector, with acknowledged lines
    tls.py             the `tls` table of a sink, and its client context
    connections.py     error texts and release of connections
    listening.py       the address of a sink that others connect to, and errors of listening there

For plugins that send over HTTP:

    http_addresses.py  PURE: URLs and headers, and what is wrong with them
    http_answers.py    PURE: what every answer of a server says
    http_client.py     the client: one server, one connection
"""
