"""The `tcp` sink: lines to one of several collectors, acknowledged."""
