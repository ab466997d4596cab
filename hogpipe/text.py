"""PURE: untrusted text, escaped for a log line or a terminal, and the level of notices.

Names, paths and error messages may be hostile: an escape sequence must not move a cursor, a line
separator must not forge a line, and a bidirectional control must not reorder text.
"""

NOTICE = 25
"""The level of the few log lines about a normal run that need no option: above INFO, which needs
-v, and below WARNING."""


def printable(text: str) -> str:
    r"""Return `text` with every unprintable character escaped (`\n`, `\x1b`, `\u202e`).

    Unprintable (`str.isprintable`) are C0, DEL, C1, format and bidirectional controls, line
    separators, surrogates, private and unassigned code points.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def replace_unprintable(text: str, longest: int) -> str:
    """Return at most `longest` characters of `text`, with U+FFFD for each unprintable one.

    For labels: unlike escapes, a replacement is one character.
    """
    text = text[:longest]
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def describe_error(error: BaseException) -> str:
    """Return the type and the message of `error` in one printable line."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - str() of a plugin's own exception may raise
        message = "(its message cannot be read)"
    message = "; ".join(line.strip() for line in message.splitlines())
    name = type(error).__name__
    return printable(f"{name}: {message}" if message else name)
