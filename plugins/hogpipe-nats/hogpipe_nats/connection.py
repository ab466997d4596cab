"""One connection to a NATS server, through nats-py.

nats-py reconnects by itself and buffers messages meanwhile, so a caller would not know which were
delivered. Here a connection that breaks is closed: messages without an acknowledgement are known,
and the next write opens another connection. Closing never waits for the server.
"""

import asyncio
import json
import ssl
from asyncio import StreamWriter
from collections.abc import Sequence
from typing import NamedTuple

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, NoServersError, SecureConnWantedError
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import APIError, NoStreamResponseError

from hogpipe import describe_connection_error
from hogpipe_nats.login import Login

_UNLIMITED = 3600
"""For the client's own time-outs, in seconds: the caller has one."""
_ID_HEADER = "Nats-Msg-Id"
_HEADER_FRAME = len(f"NATS/1.0\r\n{_ID_HEADER}: \r\n\r\n")
_NO_RESPONDERS = "503"
_WORDS = {
    "authorization violation": "the server refuses user, password, token or credentials",
    "secure connection not available": "the server offers no TLS",
    "no response from stream": "no stream takes the subject",
    "unexpected eof": "the server closed the connection",
}
"""Texts for errors of nats-py and the server."""


class Message(NamedTuple):
    """A message to publish; the server drops a message whose `id` it has already."""

    subject: str
    id: str
    payload: bytes

    @property
    def size(self) -> int:
        """The bytes that count towards the server's `max_payload`: header and payload."""
        return _HEADER_FRAME + len(self.id) + len(self.payload)


class Connection(Client):
    """A client for one connection: `join`, `publish_all`, `close`. Error texts name `place`."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place
        self.stream = JetStreamContext(self, timeout=_UNLIMITED)
        self._encrypted = False
        self._last_error: Exception | None = None
        self._inbox = ""
        self._published = 0
        self._unanswered: dict[str, asyncio.Future[None]] = {}
        """By the last token of the subject of the answer."""

    async def join(self, server: str, login: Login) -> None:
        """Connect to the URL `server`; raises OSError or an error of nats-py."""
        self._encrypted = login.tls is not None
        try:
            await self.connect(
                [server],
                error_cb=self._keep_error,
                name="hogpipe",
                allow_reconnect=False,
                connect_timeout=_UNLIMITED,
                reconnect_time_wait=0,
                max_reconnect_attempts=1,  # the smallest number that has an effect
                pending_size=0,  # publishing without a connection is an error
                user=login.user,
                password=login.password,
                token=login.token,
                user_credentials=login.credentials,
                tls=login.tls,
            )
        except NoServersError as error:  # does not have the reason
            raise self._last_error or error from error
        if not self.is_connected:  # with TLS 1.3 the server verifies a client's certificate last
            raise self._last_error or ConnectionClosedError
        self._inbox = self.new_inbox()
        await self.subscribe(f"{self._inbox}.*", cb=self._take_answer)

    async def publish_all(
        self, messages: Sequence[Message], seconds: float
    ) -> list[Exception | None]:
        """Publish to the stream, in order; wait up to `seconds` for the acknowledgements.

        Returns the outcome of each message: None if the stream has it.
        """
        missing: Exception = TimeoutError(f"no acknowledgement within {seconds:g} s")
        answers: list[asyncio.Future[None]] = []
        try:
            for message in messages:  # keeps the published ones if a later one fails
                answers.append(await self._publish(message))  # noqa: PERF401
            if answers:
                await asyncio.wait(answers, timeout=seconds)
        except NatsError as error:  # the connection broke
            missing = error
        finally:
            self._unanswered = {}
            outcomes = [_outcome(answer, missing) for answer in answers]
        return outcomes + [missing] * (len(messages) - len(answers))

    async def _publish(self, message: Message) -> asyncio.Future[None]:
        """Publish a message; return the future of its answer."""
        self._published += 1
        token = str(self._published)
        answer = asyncio.get_running_loop().create_future()
        self._unanswered[token] = answer
        await self.publish(
            message.subject,
            message.payload,
            reply=f"{self._inbox}.{token}",
            headers={_ID_HEADER: message.id},
        )
        return answer

    async def _take_answer(self, message: Msg) -> None:
        """Process an answer of the stream; a repeat counts as acknowledged."""
        answer = self._unanswered.get(message.subject.rpartition(".")[2])
        if answer is None or answer.done():
            return
        error = _error_in(message)
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)

    def _connect_command(self) -> bytes:
        """Return the CONNECT command, which has the password: only if TLS is as configured."""
        if self._encrypted and not self._server_info.get("tls_required"):
            raise SecureConnWantedError
        return super()._connect_command()

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        """Close the connection at once; every end of a connection calls this.

        The client would first flush its buffer, and then wait for a transport that may never report
        its end: a broken one, or one whose TLS handshake failed.
        """
        if self._flush_queue is None:  # not connected yet
            return
        self._pending, self._pending_data_size = [], 0
        writer: StreamWriter | None = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
        self._transport = None
        self._fail(self._last_error or ConnectionClosedError())
        await super()._close(status, do_cbs)

    async def _keep_error(self, error: Exception) -> None:
        """Keep an error of the client; a missing permission is reported only here."""
        self._last_error = error
        if "permissions" in str(error).lower():
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        for answer in self._unanswered.values():
            if not answer.done():
                answer.set_exception(error)


def describe(error: Exception) -> str:
    """Return the reason of an error in one line."""
    match error:
        case ssl.SSLError() | OSError(errno=int()):
            return describe_connection_error(error)
        case APIError(description=None):  # no answer to requests on streams
            return "the server has no JetStream for this user"
        case APIError():
            return f"{error.description} (error {error.err_code})"
        case _:
            text = str(error).removeprefix("nats: ").strip("'")
            return _WORDS.get(text.lower(), text) or type(error).__name__


def _error_in(message: Msg) -> Exception | None:
    """Return the error in an acknowledgement (docs.nats.io, JetStream wire API)."""
    if (message.headers or {}).get("Status") == _NO_RESPONDERS:
        return NoStreamResponseError()
    error = json.loads(message.data).get("error")
    if error is None:
        return None
    return APIError(error.get("code"), error.get("description"), error.get("err_code"))


def _outcome(answer: asyncio.Future[None], missing: Exception) -> Exception | None:
    """Return the outcome of an answer; one that has not come is cancelled."""
    if answer.cancel() or answer.cancelled():
        return missing
    error = answer.exception()
    return error if error is None or isinstance(error, Exception) else missing
