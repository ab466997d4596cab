"""The output streams of the command line: no text controls the terminal, whoever wrote it.

In: text that logs, click, tracebacks, warnings and plugins write to `sys.stdout` and `sys.stderr`.
Out: the same text with every unprintable character escaped (text.py), except line ends. The sinks
for stdout write to its descriptor, and escape on their own.

Known limit: what a library in C writes to the descriptors is not escaped.
"""

import io
import sys
from typing import TextIO

from hogpipe.text import printable


class PrintableStream(io.TextIOWrapper):
    """Escapes what is written to the buffer of another stream."""

    def write(self, text: str, /) -> int:
        """Write `text`; return its length, as if nothing had been escaped."""
        super().write("\n".join(map(printable, text.split("\n"))))
        return len(text)


def make_streams_printable() -> None:
    """Replace `sys.stdout` and `sys.stderr`, where they are open."""
    sys.stdout = _wrap(sys.stdout)
    sys.stderr = _wrap(sys.stderr)


def _wrap(stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper) or isinstance(stream, PrintableStream):
        return stream  # None if it was never open
    stream.flush()
    return PrintableStream(
        stream.buffer,
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering or stream is sys.stderr,
        write_through=stream.write_through,
    )
