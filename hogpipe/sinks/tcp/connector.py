"""How a `tcp` sink connects: name lookups, then each endpoint in turn, within a time limit.

In: endpoints in the order of preference. Out: a connection, or a DeliveryError that names the
reason for each endpoint. The endpoints that remain share the remaining time, and so do the
addresses of one name.

A lookup blocks a thread until the name servers answer. It has threads of its own, at most one for
each endpoint, and continues after its time limit: the next attempt uses its result.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address

from hogpipe.errors import DeliveryError
from hogpipe.sinks.connections import describe_connection_error
from hogpipe.sinks.tcp.connection import Connection, SocketAddress, Tls, open_connection
from hogpipe.sinks.tcp.endpoints import Endpoint
from hogpipe.sinks.tls import TlsSettings, load_tls_context

_Found = asyncio.Future[list[SocketAddress]]


class Connector:
    """Connects to one of `endpoints` within `timeout` seconds."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        tls: TlsSettings | None,
        timeout: float,
        user_timeout: float,
    ) -> None:
        self._endpoints = endpoints
        self._tls = tls
        self._timeout = timeout
        self._user_timeout = user_timeout
        self._threads = ThreadPoolExecutor(len(endpoints), thread_name_prefix="hogpipe-lookup")
        self._lookups: dict[Endpoint, _Found] = {}

    async def connect(self, order: Sequence[int]) -> tuple[int, Connection]:
        """Return the index of an endpoint and its connection, the first that succeeds.

        Tries each index of `order` once. Raises DeliveryError, and ConfigurationError if the files
        for TLS cannot be used.
        """
        context = await load_tls_context(self._tls)
        loop = asyncio.get_running_loop()
        end = loop.time() + self._timeout
        failures = []
        cause: OSError | None = None
        for position, index in enumerate(order):
            share = (end - loop.time()) / (len(order) - position)
            endpoint = self._endpoints[index]
            try:
                return index, await self._connect(endpoint, context, share)
            except OSError as error:
                cause = error
                failures.append(f"{endpoint}: {describe_connection_error(error)}")
        raise DeliveryError(f"no connection to {'; '.join(failures)}") from cause

    async def probe(self) -> str:
        """Connect to every endpoint at the same time; return which work, and why others do not.

        Raises DeliveryError if none works, and ConfigurationError like `connect`.
        """
        context = await load_tls_context(self._tls)
        probes = [self._probe(endpoint, context) for endpoint in self._endpoints]
        outcomes = await asyncio.gather(*probes, return_exceptions=True)
        found, failures = [], []
        cause: OSError | None = None
        for endpoint, outcome in zip(self._endpoints, outcomes, strict=True):
            if isinstance(outcome, OSError):
                cause = outcome
                failures.append(f"{endpoint}: {describe_connection_error(outcome)}")
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                found.append(f"{endpoint}{outcome}")
        failed = f"no connection to {'; '.join(failures)}"
        if not found:
            raise DeliveryError(failed) from cause
        connected = f"connected to {', '.join(found)}"
        return f"{connected}; {failed}" if failures else connected

    def close(self) -> None:
        """Cancel the lookups that are not finished."""
        for lookup in self._lookups.values():
            lookup.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _probe(self, endpoint: Endpoint, context: ssl.SSLContext | None) -> str:
        """Return what distinguishes a connection: its address unless configured, and TLS."""
        connection = await self._connect(endpoint, context, self._timeout)
        try:
            address = connection.peer_address
            parts = [address] if address not in (None, endpoint.host) else []
            parts += [connection.tls_version] if connection.tls_version else []
        finally:
            await connection.close()
        return f" ({', '.join(map(str, parts))})" if parts else ""

    async def _connect(
        self, endpoint: Endpoint, context: ssl.SSLContext | None, share: float
    ) -> Connection:
        loop = asyncio.get_running_loop()
        end = loop.time() + share
        tls = None
        if self._tls and context:
            tls = Tls(context, self._tls.server_name or endpoint.host)
        async with _limit(share):
            addresses = await self._look_up(endpoint)
        for position, address in enumerate(addresses, start=1):
            left = len(addresses) - position + 1
            try:
                async with _limit((end - loop.time()) / left):
                    return await open_connection(address, tls, self._user_timeout)
            except OSError:
                if left == 1:
                    raise
        raise OSError("it has no address")

    async def _look_up(self, endpoint: Endpoint) -> list[SocketAddress]:
        """Return the addresses in the order of RFC 6724; raises OSError."""
        try:
            ip_address(endpoint.host)
        except ValueError:
            pass
        else:
            return find_addresses(endpoint, socket.AI_NUMERICHOST)
        lookup = self._lookups.get(endpoint)
        if lookup is None:
            find = partial(find_addresses, endpoint)
            lookup = asyncio.get_running_loop().run_in_executor(self._threads, find)
            lookup.add_done_callback(_retrieve_error)
            self._lookups[endpoint] = lookup
        try:
            return await asyncio.shield(lookup)
        finally:
            if lookup.done():
                del self._lookups[endpoint]


def find_addresses(endpoint: Endpoint, flags: int = 0) -> list[SocketAddress]:
    """Return the result of getaddrinfo(3); raises OSError, and blocks."""
    found = socket.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=flags
    )
    return [(family, address) for family, _type, _protocol, _name, address in found]


def _retrieve_error(lookup: _Found) -> None:
    """Retrieve the error of a lookup that timed out: asyncio would log it otherwise."""
    if not lookup.cancelled():
        lookup.exception()


@asynccontextmanager
async def _limit(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError as error:
        if limit.expired():
            raise TimeoutError(f"no answer within {seconds:.2g} s") from error
        raise
