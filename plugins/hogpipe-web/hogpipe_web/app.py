"""The application: what each path answers, and what all answers have in common.

    GET  /               the page; it has no data
    GET  /assets/NAME    its files (assets.py)
    POST /login          {"token": "…"} -> 204 and a cookie, or 401
    POST /logout         204, the cookie ends
    GET  /api/status     StatusAnswer: who runs here, what was counted, which dimensions there are
    GET  /api/events     ?by=&where= -> server-sent events: snapshot, window, gap, alive (hub.py)
    GET  /api/history    ?by=&where=&since=&until= -> Past (history.py)

Errors of /api and /login are `{"error": "…"}`: 400 a wrong question, 401 no token, 403 another
site, 404 no history is configured, 413 a body that is too long, 503 too many readers, or a history
that cannot be read; the text names the remedy.

Each answer has a Content-Security-Policy without inline code, and may be shown in no frame of
another page.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hogpipe import HogpipeError, __version__
from hogpipe_web.access import Access
from hogpipe_web.assets import Asset
from hogpipe_web.history import Archive, BusyError
from hogpipe_web.hub import Hub, Subscriber, TooManyError
from hogpipe_web.messages import describe_dimensions, parse_query

log = logging.getLogger(__name__)

BODY_SECONDS = 10.0
"""The time limit for a peer to send a body."""
LONGEST_BODY = 4096
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_COMMON = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class StatusAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of /api/status."""

    version: str
    host: str | None
    """The host that the newest record is of."""
    token: bool
    """Whether readers log in."""
    history: bool
    """Whether a history is configured."""
    live: float
    """The seconds that are shown live."""
    dimensions: list[dict[str, str]]
    counters: dict[str, int]


class _Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    token: str


class WebApp:
    """The ASGI application of one sink."""

    def __init__(
        self,
        *,
        access: Access,
        hub: Hub,
        archive: Archive | None,
        assets: dict[str, Asset],
        status: Callable[[], StatusAnswer],
    ) -> None:
        self._access = access
        self._hub = hub
        self._archive = archive
        self._assets = assets
        self._status = status
        self.refused = 0
        """Requests without a token, with a wrong one, or of another site, since the start."""
        self.failed = 0
        """Requests that ended with an unexpected error, since the start."""
        self._app: ASGIApp = Starlette(
            routes=[
                Route("/", self._page),
                Route("/assets/{name}", self._asset),
                Route("/login", self._login, methods=["POST"]),
                Route("/logout", self._logout, methods=["POST"]),
                Route("/api/status", self._answer_status),
                Route("/api/events", self._events),
                Route("/api/history", self._history),
            ],
        )
        self._app.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        sender = _add_headers(send)
        if (refusal := self._find_refusal(scope)) is not None:
            self.refused += 1
            await refusal(scope, receive, sender)
            return
        try:
            await self._app(scope, receive, sender)
        except (TimeoutError, ClientDisconnect, OSError):
            pass  # the peer left, or does not read: its connection is closed
        except Exception:
            self.failed += 1
            log.exception("a request to the page failed")

    def _find_refusal(self, scope: Scope) -> Response | None:
        headers, path = Headers(scope=scope), scope["path"]
        foreign = self._access.find_foreign(scope["method"], headers, page=path == "/")
        if foreign is not None:
            return _error(403, foreign)
        if path.startswith("/api/") and not self._access.is_authorized(headers, time.time()):
            answer = _error(401, "log in with the token of the sink")
            answer.headers["WWW-Authenticate"] = "Bearer"
            return answer
        return None

    async def _page(self, request: Request) -> Response:
        return _answer_asset(request, self._assets["index.html"])

    async def _asset(self, request: Request) -> Response:
        asset = self._assets.get(request.path_params["name"])
        return _error(404, "no such file") if asset is None else _answer_asset(request, asset)

    async def _login(self, request: Request) -> Response:
        body = b""
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > LONGEST_BODY:
                    return _error(413, "the body is too long")
        try:
            given = msgspec.json.decode(body, type=_Login).token
        except msgspec.DecodeError:
            return _error(400, 'the body must be {"token": "…"}')
        if not self._access.is_token(given):
            self.refused += 1
            return _error(401, "this is not the token of the sink")
        return Response(
            status_code=204, headers={"Set-Cookie": self._access.make_cookie(time.time())}
        )

    async def _logout(self, _request: Request) -> Response:
        return Response(status_code=204, headers={"Set-Cookie": self._access.end_cookie()})

    async def _answer_status(self, _request: Request) -> Response:
        return _json(self._status())

    async def _events(self, request: Request) -> Response:
        try:
            query = parse_query(
                request.query_params.get("by", ""), request.query_params.get("where", "")
            )
        except ValueError as error:
            return _error(400, str(error))
        return _EventStream(self._hub, lambda: self._hub.subscribe(query))

    async def _history(self, request: Request) -> Response:
        if self._archive is None:
            return _error(404, 'no history is configured: set history = "PATH" in the sink')
        given = request.query_params
        try:
            query = parse_query(given.get("by", ""), given.get("where", ""))
            since, until = float(given.get("since", "")), float(given.get("until", ""))
            return _json(await self._archive.read(query, since, until))
        except ValueError as error:
            return _error(400, str(error))
        except BusyError:
            return _error(503, "too many questions to the history at once: try again")
        except HogpipeError as error:
            return _error(503, str(error))


class _EventStream(Response):
    """The events of one subscriber, until either side leaves."""

    def __init__(self, hub: Hub, subscribe: Callable[[], Subscriber]) -> None:
        self.background = None
        self._hub = hub
        self._subscribe = subscribe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await Response(media_type="text/event-stream")(scope, receive, send)
            return
        try:
            subscriber = self._subscribe()
        except TooManyError:
            await _error(503, "too many pages are open: close one")(scope, receive, send)
            return
        watcher = asyncio.create_task(_close_on_disconnect(receive, subscriber))
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [
                        (b"content-type", b"text/event-stream; charset=utf-8"),
                        (b"cache-control", b"no-store"),
                    ],
                }
            )
            while (event := await subscriber.next_event()) is not None:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._hub.unsubscribe(subscriber)
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher


async def _close_on_disconnect(receive: Receive, subscriber: Subscriber) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    subscriber.close()


def _add_headers(send: Send) -> Callable[[Message], Awaitable[None]]:
    """Add the headers of all answers."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _COMMON.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return send_with_headers


def _answer_asset(request: Request, asset: Asset) -> Response:
    """Return a file; a browser asks each time whether it changed."""
    headers = {"ETag": asset.tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == asset.tag:
        return Response(status_code=304, headers=headers)
    return Response(asset.content, headers={**headers, "Content-Type": asset.content_type})


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


def _error(status: int, text: str) -> Response:
    return Response(msgspec.json.encode({"error": text}), status, media_type="application/json")


def make_status(
    *, access: Access, hub: Hub, archive: Archive | None, host: str | None, live: float,
    counters: dict[str, int],
) -> StatusAnswer:  # fmt: skip
    """Return the answer of /api/status."""
    counters = {
        **counters,
        "groups": len(hub.ring.groups),
        "groups_folded": hub.ring.groups.folded,
        "readers": len(hub),
        "readers_refused": hub.refused,
        "windows_lost": hub.lost,
    }
    return StatusAnswer(
        version=__version__,
        host=host,
        token=access.needs_token,
        history=archive is not None,
        live=live,
        dimensions=describe_dimensions(),
        counters=counters,
    )
