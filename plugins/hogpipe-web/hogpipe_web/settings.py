"""PURE: the settings of the sink type `web`, and their problems."""

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from hogpipe import Seconds, SettingProblem, SinkSettings, parse_listen

PORT = 9780
SHORTEST_TOKEN = 16


class WebSettings(SinkSettings, frozen=True, kw_only=True):
    """`type = "web"`."""

    listen: str = f"127.0.0.1:{PORT}"
    """The address of the page, HOST:PORT; `[::1]:9780` for IPv6."""
    token: str | None = None
    """What a reader has to know; required unless `listen` is a loopback address."""
    hosts: tuple[str, ...] = ()
    """Further names in the address bar of a browser, such as that of a proxy."""
    history: Path | None = None
    """The file of a sink `sqlite`, for ranges of time before the live one."""
    live: Annotated[Seconds, Meta(ge=1, le=86400)] = 600.0
    """The seconds that the page shows live."""
    max_groups: Annotated[int, Meta(ge=10, le=20_000)] = 5000
    """The most groups with rows of their own, live."""
    max_readers: Annotated[int, Meta(ge=1, le=100)] = 32
    """The most pages that are open at once."""


def find_problems(settings: WebSettings) -> Iterator[SettingProblem]:
    """Find an invalid address, an open page without a token, and a token that can be guessed."""
    try:
        host, port = parse_listen(settings.listen, PORT)
    except ValueError as error:
        yield SettingProblem(("listen",), f"{settings.listen}: {error}", str(error))
    else:
        if settings.token is None and not is_loopback(host):
            text = (
                "others can connect there, and the page shows who communicates with whom: set "
                f'token = {{file = "PATH"}}, or listen on 127.0.0.1:{port}'
            )
            yield SettingProblem(("listen",), f"{settings.listen}: {text}", text)
    if settings.token is not None:
        if len(settings.token) < SHORTEST_TOKEN:
            text = f"must have at least {SHORTEST_TOKEN} characters: openssl rand -hex 32 > PATH"
            yield SettingProblem(("token",), text)
        if not settings.token.isascii() or not settings.token.isprintable():
            yield SettingProblem(("token",), "must be printable ASCII")
        elif settings.token != settings.token.strip():
            yield SettingProblem(("token",), "must not begin or end with a space")
    for index, name in enumerate(settings.hosts):
        if not name or "/" in name or name != name.strip():
            text = "must be a host name without a scheme or path"
            yield SettingProblem(("hosts", index), f"{name}: {text}", text)


def is_loopback(host: str) -> bool:
    """Return whether only this host can connect to `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"
