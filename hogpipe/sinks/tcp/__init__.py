"""The `tcp` sink: lines to one of several collectors, acknowledged.

Modules, in the order in which a window passes them:

    tcp_sink.py      TcpSink and its settings: one connection at a time, and what is sent again
    endpoints.py     PURE: the collectors, and the order in which they are tried
    connector.py     name lookups and connections, within a time limit
    connection.py    one connection, and the lines that its peer has acknowledged
"""
