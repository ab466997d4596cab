"""An HTTP client for sinks: one server, one connection, one request at a time.

In: requests. Out: the answer of each, or DeliveryError in one line without the path and the query
of the URL, which may hold secrets. There are no retries, no redirects and no cookies.

A cancelled request closes its connection, and closing waits for no server. After a failure the next
request opens another connection, for which certificates are read again. A server that asks for a
pause (Retry-After) gets no request before its end, at most `LONGEST_WAIT` later.

aiohttp does the work. A plugin that uses this client requires it; hogpipe itself does not, so it is
imported when a client is made: before the event loop runs, which an import would block.
"""

import asyncio
import os
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING

from hogpipe.errors import ConfigurationError, DeliveryError
from hogpipe.sinks.connections import describe_connection_error
from hogpipe.sinks.http_addresses import name_place
from hogpipe.sinks.http_answers import HttpAnswer, parse_retry_after
from hogpipe.sinks.tls import TlsSettings, load_tls_context

if TYPE_CHECKING:
    import aiohttp

_LONGEST_ANSWER = 1 << 16
_UNKNOWN_AUTHORITY = (18, 19, 20, 21)  # X509_V_ERR_*: self-signed, or without its issuer
_WRONG_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


class HttpClient:
    """Posts requests to the server of `url`.

    With https it uses TLS, with `tls` or without. `headers` are sent with each request.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        tls: TlsSettings | None = None,
        longest_answer: int = _LONGEST_ANSWER,
    ) -> None:
        import_module("aiohttp")
        self.place = name_place(url)
        """HOST:PORT, for messages."""
        secure = url.startswith("https:")
        self._tls = (tls or TlsSettings()) if secure else None
        self._headers = dict(headers)
        self._longest_answer = longest_answer
        self._session: aiohttp.ClientSession | None = None
        self._not_before = 0.0
        """When, by the clock of the event loop, the server allows the next request."""

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> HttpAnswer:
        """Send a request and return the answer; raises DeliveryError without one."""
        import aiohttp

        self._check_wait()
        if self._session is None:
            self._session = await self._connect()
        try:
            answer = await self._exchange(self._session, url, body, headers or {})
        except aiohttp.ClientError as error:
            await self.close()
            raise DeliveryError(f"{self.place}: {_explain(error)}") from error
        loop = asyncio.get_running_loop()
        self._not_before = loop.time() + parse_retry_after(answer, datetime.now(UTC))
        return answer

    async def close(self) -> None:
        """Close the connection without waiting for the server."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _check_wait(self) -> None:
        left = self._not_before - asyncio.get_running_loop().time()
        if left > 0:
            raise DeliveryError(f"{self.place} wants to be left alone for {left:.0f} s")

    async def _connect(self) -> "aiohttp.ClientSession":
        import aiohttp

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1, ssl=await self._load_context() or True),
            timeout=aiohttp.ClientTimeout(total=None),  # the sink has its own deadline
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def _load_context(self) -> ssl.SSLContext | None:
        try:
            return await load_tls_context(self._tls)
        except ConfigurationError as error:  # the files were usable when the run began
            raise DeliveryError("; ".join(error.problems)) from error

    async def _exchange(
        self,
        session: "aiohttp.ClientSession",
        url: str,
        body: bytes,
        headers: Mapping[str, str],
    ) -> HttpAnswer:
        async with session.post(
            url,
            data=body,
            headers=headers,
            allow_redirects=False,
            server_hostname=self._tls.server_name if self._tls else None,
        ) as response:
            received = bytearray()
            async for chunk in response.content.iter_any():
                received += chunk
                if len(received) > self._longest_answer:
                    response.close()
                    break
            complete = len(received) <= self._longest_answer
            return HttpAnswer(response.status, response.headers, bytes(received), complete)


def _explain(error: "aiohttp.ClientError") -> str:
    """Return why there is no answer, in one line without the address."""
    import aiohttp

    match error:
        case aiohttp.ClientConnectorCertificateError(certificate_error=cause):
            return _explain_certificate(cause) if isinstance(cause, OSError) else str(cause)
        case aiohttp.ClientConnectorError():
            return _explain_connecting(error.os_error)
        case aiohttp.ServerDisconnectedError():
            text = "it closed the connection without an answer"
        # The texts of the following have the URL, query and all.
        case aiohttp.ClientOSError(errno=code):
            text = f"the connection broke: {os.strerror(code)}" if code else "the connection broke"
        case aiohttp.ClientResponseError():
            text = f"no answer in HTTP: {_first_line(error.message)}"
        case aiohttp.ClientPayloadError():
            text = "it closed the connection in the middle of its answer"
        case _:
            text = f"no answer in HTTP: {type(error).__name__}"
    return text


def _explain_certificate(error: OSError) -> str:
    """Return why a certificate is not accepted, with the setting that could change it."""
    text = describe_connection_error(error)
    code = error.verify_code if isinstance(error, ssl.SSLCertVerificationError) else 0
    if code in _WRONG_NAME:
        return f"{text}; correct the URL, or set `tls.server_name`"
    if code in _UNKNOWN_AUTHORITY:
        return f"{text}; set `tls.ca` to the certificate of its authority"
    return text


def _explain_connecting(error: OSError) -> str:
    text = describe_connection_error(error)
    return text if isinstance(error, ssl.SSLError) else f"no connection: {text}"


def _first_line(text: str) -> str:
    return text.partition("\n")[0].rstrip(" :")
