"""hogpipe tells which process on a Linux host sends and receives which bytes."""

__version__ = "0.1.0"
