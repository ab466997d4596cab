"""PURE: foreign text made fit for a log line or a terminal.

Names, paths and error messages are hostile bytes: an escape sequence in one must not move a cursor,
a line separator must not forge a line, a bidirectional control must not turn text around.
"""


def printable(text: str) -> str:
    r"""Return `text` with everything that is not printable escaped (`\n`, `\x1b`, `\u202e`).

    Printable is what `str.isprintable` says: not C0, DEL, C1, format and bidirectional controls,
    line separators, surrogates, private or unassigned code points.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def describe_error(error: BaseException) -> str:
    """Return the type and the message of `error` in one printable line."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - a plugin's own exception may fail even at this
        message = "(its message cannot be read)"
    message = "; ".join(line.strip() for line in message.splitlines())
    name = type(error).__name__
    return printable(f"{name}: {message}" if message else name)
