"""One connection to a NATS server, through nats-py.

nats-py would reconnect by itself and keep messages for that, unseen by whoever has to say what was
delivered. Here a connection that breaks is over: whatever has no acknowledgement then is known to
have none, and the next write makes a new connection. Letting go never waits for the server.
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
"""For the client's own time-outs, in seconds: whoever calls has one already."""
_ID_HEADER = "Nats-Msg-Id"
_HEADER_FRAME = len(f"NATS/1.0\r\n{_ID_HEADER}: \r\n\r\n")
_NO_RESPONDERS = "503"
_WORDS = {
    "authorization violation": "the server refuses user, password, token or credentials",
    "secure connection not available": "the server offers no TLS",
    "no response from stream": "no stream takes the subject",
    "unexpected eof": "the server closed the connection",
}
"""What nats-py and the server say, in words that say more."""


class Message(NamedTuple):
    """What is to be published; by `id` the server knows whether it has the message already."""

    subject: str
    id: str
    payload: bytes

    @property
    def size(self) -> int:
        """Bytes, as the server counts them against `max_payload`: header and payload."""
        return _HEADER_FRAME + len(self.id) + len(self.payload)


class Connection(Client):
    """A client for one connection: `join`, `publish_all`, `close`. `place` is for messages."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place
        self.stream = JetStreamContext(self, timeout=_UNLIMITED)
        self._encrypted = False
        self._last_error: Exception | None = None
        self._inbox = ""
        self._published = 0
        self._unanswered: dict[str, asyncio.Future[None]] = {}
        """By the last part of the subject to which the answer is to come."""

    async def join(self, server: str, login: Login) -> None:
        """Connect to the URL `server`; raises OSError or an error of nats-py."""
        self._encrypted = login.tls is not None
        try:
            await self.connect(
                [server],
                error_cb=self._note,
                name="hogpipe",
                allow_reconnect=False,
                connect_timeout=_UNLIMITED,
                reconnect_time_wait=0,
                max_reconnect_attempts=1,  # the least that it counts
                pending_size=0,  # to publish without being connected is an error
                user=login.user,
                password=login.password,
                token=login.token,
                user_credentials=login.credentials,
                tls=login.tls,
            )
        except NoServersError as error:  # says nothing of the reason
            raise self._last_error or error from error
        if not self.is_connected:  # TLS 1.3: a client's certificate is looked at after all else
            raise self._last_error or ConnectionClosedError
        self._inbox = self.new_inbox()
        await self.subscribe(f"{self._inbox}.*", cb=self._take_answer)

    async def publish_all(
        self, messages: Sequence[Message], seconds: float
    ) -> list[Exception | None]:
        """Publish to the stream, in order; wait up to `seconds` for the acknowledgements.

        Returns what became of each message: None if the stream has it.
        """
        missing: Exception = TimeoutError(f"no acknowledgement within {seconds:g} s")
        answers: list[asyncio.Future[None]] = []
        try:
            for message in messages:  # those that went out count, also if a later one fails
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
        """Publish a message; return what its answer will be set in."""
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
        """Take what the stream answers; that it had the message already is fine, too."""
        answer = self._unanswered.get(message.subject.rpartition(".")[2])
        if answer is None or answer.done():
            return
        error = _error_in(message)
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)

    def _connect_command(self) -> bytes:
        """Return what logs in: with it goes the password, so only if encryption is as wanted."""
        if self._encrypted and not self._server_info.get("tls_required"):
            raise SecureConnWantedError
        return super()._connect_command()

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        """Let go of the connection at once; every way in which one ends leads through here.

        The client would first send what it still has, and then wait for the end of a transport that
        may never tell of it: of a broken one, or one whose TLS handshake has failed.
        """
        if self._flush_queue is None:  # never begun
            return
        self._pending, self._pending_data_size = [], 0
        writer: StreamWriter | None = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
        self._transport = None
        self._fail(self._last_error or ConnectionClosedError())
        await super()._close(status, do_cbs)

    async def _note(self, error: Exception) -> None:
        """Keep what the client met; it is all that a server says to what it does not permit."""
        self._last_error = error
        if "permissions" in str(error).lower():
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        for answer in self._unanswered.values():
            if not answer.done():
                answer.set_exception(error)


def describe(error: Exception) -> str:
    """Return what went wrong, in a few words of one line."""
    match error:
        case ssl.SSLError() | OSError(errno=int()):
            return describe_connection_error(error)
        case APIError(description=None):  # nobody answers to questions on streams
            return "the server has no JetStream for this user"
        case APIError():
            return f"{error.description} (error {error.err_code})"
        case _:
            text = str(error).removeprefix("nats: ").strip("'")
            return _WORDS.get(text.lower(), text) or type(error).__name__


def _error_in(message: Msg) -> Exception | None:
    """Return the error that an acknowledgement holds (docs.nats.io, JetStream wire API)."""
    if (message.headers or {}).get("Status") == _NO_RESPONDERS:
        return NoStreamResponseError()
    error = json.loads(message.data).get("error")
    if error is None:
        return None
    return APIError(error.get("code"), error.get("description"), error.get("err_code"))


def _outcome(answer: asyncio.Future[None], missing: Exception) -> Exception | None:
    """Return how an answer came out; it is given up if it has not come."""
    if answer.cancel() or answer.cancelled():
        return missing
    error = answer.exception()
    return error if error is None or isinstance(error, Exception) else missing
