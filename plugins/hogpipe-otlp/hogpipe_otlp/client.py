"""The HTTP client: one collector, one connection, one request at a time.

aiohttp can be cancelled at each await, and closes the connection then, so closing waits for no
collector. There are no retries and no redirects. After a failure the next request opens another
connection, for which certificates are read again.
"""

import os
import ssl

import aiohttp

from hogpipe import (
    ConfigurationError,
    DeliveryError,
    __version__,
    describe_connection_error,
    load_tls_context,
)
from hogpipe_otlp.answers import Answer
from hogpipe_otlp.settings import OtlpSettings

_LONGEST_BODY = 1 << 16  # of an answer, in bytes; the rest is not read
_HEADERS = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "gzip",
    "User-Agent": f"hogpipe-otlp/{__version__}",
}


class Client:
    """Posts requests; `place` is the name of the collector in messages."""

    def __init__(self, settings: OtlpSettings) -> None:
        self.place = settings.place
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    async def post(self, body: bytes) -> Answer:
        """Send a request and return the answer; raises DeliveryError without one."""
        if self._session is None:
            self._session = await self._connect()
        try:
            return await self._exchange(self._session, body)
        except aiohttp.ClientError as error:
            await self.close()
            raise DeliveryError(f"{self.place}: {_reason(error)}") from error

    async def close(self) -> None:
        """Close the connection without waiting for the collector."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _connect(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1, ssl=await self._load_context() or True),
            timeout=aiohttp.ClientTimeout(total=None),  # the sink has its own deadline
            headers={**self._settings.headers, **_HEADERS},
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def _load_context(self) -> ssl.SSLContext | None:
        try:
            return await load_tls_context(self._settings.encryption)
        except ConfigurationError as error:  # the files were usable when the run began
            raise DeliveryError("; ".join(error.problems)) from error

    async def _exchange(self, session: aiohttp.ClientSession, body: bytes) -> Answer:
        async with session.post(
            self._settings.endpoint,
            data=body,
            allow_redirects=False,
            server_hostname=tls.server_name if (tls := self._settings.encryption) else None,
        ) as response:
            received = bytearray()
            async for chunk in response.content.iter_any():
                received += chunk
                if len(received) > _LONGEST_BODY:
                    break
            return Answer(response.status, response.headers, bytes(received))


def _reason(error: aiohttp.ClientError) -> str:
    """Return why there is no answer, in one line without the address."""
    match error:
        case aiohttp.ClientConnectorCertificateError(certificate_error=cause):
            return describe_connection_error(cause) if isinstance(cause, OSError) else str(cause)
        case aiohttp.ClientConnectorError():
            return _explain_connecting(error.os_error)
        case aiohttp.ServerDisconnectedError():
            return "it closed the connection without an answer"
        # The texts of the following have the URL, query and all.
        case aiohttp.ClientOSError(errno=code):
            return f"the connection broke: {os.strerror(code)}" if code else "the connection broke"
        case aiohttp.ClientResponseError():
            return f"no answer in HTTP: {_first_line(error.message)}"
        case _:
            return f"no answer in HTTP: {type(error).__name__}"


def _explain_connecting(error: OSError) -> str:
    text = describe_connection_error(error)
    return text if isinstance(error, ssl.SSLError) else f"no connection: {text}"


def _first_line(text: str) -> str:
    return text.partition("\n")[0].rstrip(" :")
