"""PURE: the URL and the headers of a sink that sends over HTTP, and what is wrong with them.

A URL may hold a secret in its path or query, and a header in its value: no text here quotes one.
"""

import re
from collections.abc import Container, Iterator, Mapping
from urllib.parse import urlencode, urlsplit, urlunsplit

from hogpipe.sinks.contract import SettingProblem

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # section 5.5


def name_place(url: str) -> str:
    """Return HOST:PORT of a URL, for messages."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def extend_url(url: str, path: str = "", query: Mapping[str, str] | None = None) -> str:
    """Return `url` with `path` appended to its path, and `query` to its query."""
    parts = urlsplit(url)
    queries = [text for text in (parts.query, urlencode(query or {})) if text]
    joined = parts.path.rstrip("/") + path if path else parts.path
    return urlunsplit((parts.scheme, parts.netloc, joined or "/", "&".join(queries), ""))


def find_url_problem(url: str) -> str | None:
    """Return what is wrong with the URL of a server, None if it can be used."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        (parts.hostname or "").encode("idna")
    except ValueError:  # of which UnicodeError is one
        valid = False
    if not valid or not url.isprintable() or " " in url:
        return "must be http:// or https://, HOST[:PORT] and a path"
    if "@" in parts.netloc:
        return "must hold no user or password"
    return None


def find_header_problems(
    headers: Mapping[str, str], reserved: Container[str] = ()
) -> Iterator[SettingProblem]:
    """Find the headers that cannot be sent; `reserved` has names, in lower case, of other ones."""
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            text = "a header's name may hold letters, digits and -_ only"
        elif name.lower() in _OWN_HEADERS or name.lower() in reserved:
            text = "hogpipe sets this header itself"
        elif not _HEADER_VALUE.fullmatch(value):
            text = "may hold no line end or other control character"
        else:
            continue
        yield SettingProblem(("headers", name), text, text)


_OWN_HEADERS = {
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
    "user-agent",
}
