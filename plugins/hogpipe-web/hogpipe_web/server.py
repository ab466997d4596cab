"""Serves an ASGI application with uvicorn's HTTP protocol, in the event loop of the run.

uvicorn's own server is not used: it takes the signals of the process over, and stops in its own
time. Here connections are bounded in number and time, and stopping waits for no peer: at most
`MOST_CONNECTIONS`, of which a new one replaces the oldest that has no request; a request has
`HEAD_SECONDS` to arrive, and a peer that reads nothing for `STALL_SECONDS` is disconnected.
"""

import asyncio
import logging
from itertools import count
from typing import Any

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

MOST_CONNECTIONS = 256
"""The most open connections."""
HEAD_SECONDS = 10.0
"""The time limit for a request's line and headers to arrive."""
STALL_SECONDS = 30.0
"""The time limit for a peer to read what the kernel does not take any more."""
LONGEST_HEAD = 16_384

_quiet = logging.getLogger("hogpipe_web.uvicorn")
_quiet.setLevel(logging.CRITICAL)  # what it has to say is what peers do wrong


class WebServer:
    """Serves `app`."""

    def __init__(self, app: ASGIApp) -> None:
        self._config = Config(
            app, http="h11", ws="none", lifespan="off", interface="asgi3", log_config=None,
            access_log=False, proxy_headers=False, h11_max_incomplete_event_size=LONGEST_HEAD,
        )  # fmt: skip
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self._numbers = count()
        self.refused = 0
        """Connections that were closed because there were too many, since the start."""

    async def start(self, host: str, port: int) -> None:
        """Listen on all addresses of `host`; raises OSError."""
        if not self._config.loaded:
            self._config.load()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self._make_protocol, host, port, start_serving=False)
        # Stored without an await after it was bound: a cancellation from here on leaks no socket.
        self._server = server
        await server.start_serving()

    async def stop(self) -> None:
        """Stop listening, and end all connections and requests."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._state.connections):
            connection.transport.abort()
        tasks = list(self._state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _make_protocol(self) -> asyncio.Protocol:
        return _Connection(self._config, self._state, {}, self)

    def next_number(self) -> int:
        """Return the number of another connection: later ones have greater numbers."""
        return next(self._numbers)

    def make_room(self, new: "_Connection") -> bool:
        """Close the oldest connection without a request if there are too many."""
        if len(self._state.connections) <= MOST_CONNECTIONS:
            return True
        self.refused += 1
        idle = [
            one
            for one in self._state.connections
            if isinstance(one, _Connection) and one is not new and not one.is_answering
        ]
        if not idle:
            return False
        min(idle, key=lambda one: one.number).transport.abort()
        return True


class _Connection(H11Protocol):
    """One connection, with a time limit for the head of each request."""

    def __init__(
        self, config: Config, state: ServerState, app_state: dict[str, Any], server: WebServer
    ) -> None:
        super().__init__(config, state, app_state)
        self.logger = _quiet
        self.access_log = False
        self._web_server = server
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self.number = server.next_number()

    @property
    def is_answering(self) -> bool:
        """Whether a request has arrived that is not answered yet."""
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn types it as never None
        return cycle is not None and not cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit."""
        super().connection_made(transport)
        if not self._web_server.make_room(self):
            transport.abort()
            return
        self._limit_head()

    def data_received(self, data: bytes) -> None:
        """End the time limit once the head has arrived."""
        super().data_received(data)
        if self.is_answering:
            self._end_limit()
        elif self._head_timer is None:
            self._limit_head()

    def on_response_complete(self) -> None:
        """Leave an idle connection to uvicorn's own time limit."""
        super().on_response_complete()
        self._end_limit()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up."""
        self._end_limit()
        self._end_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the time limit for the peer to read, also after the answer has ended."""
        super().pause_writing()
        self._end_stall()
        self._stall_timer = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """End the time limit: the peer has read."""
        self._end_stall()
        super().resume_writing()

    def _end_stall(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _limit_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _end_limit(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
