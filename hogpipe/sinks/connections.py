"""What sinks with a connection have in common: the text of its errors, and its release.

`describe_connection_error` takes an error of a socket, a name lookup or TLS and returns one line
for the user. `run_shielded` releases a connection although the caller is cancelled.
"""

import asyncio
import os
import ssl
from collections.abc import Coroutine


def describe_connection_error(error: OSError) -> str:
    """Return why a connection failed: one line without error numbers, addresses or source lines."""
    if isinstance(error, ssl.SSLError):
        return _describe_tls_error(error)
    # The text of asyncio repeats the address; the error codes of getaddrinfo are negative.
    code = error.errno or 0
    if code > 0:
        return os.strerror(code)
    if text := error.strerror or str(error):
        return text
    return "no answer in time" if isinstance(error, TimeoutError) else "the connection was closed"


def _describe_tls_error(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message.rstrip('.')}"
    reason = (error.reason or "").replace("_", " ").lower()
    if "protocol version" in reason or reason == "unsupported protocol":
        return "it speaks no TLS 1.2 or later"
    if "alert" in reason:
        return f"it refuses this host's TLS: {reason.rpartition('alert ')[2]}"
    return f"no TLS: {reason or error}"


async def run_shielded(coroutine: Coroutine[object, object, None]) -> None:
    """Run `coroutine` to its end, then pass on a cancellation that arrived meanwhile.

    For the release of a connection, which takes a few turns of the event loop and waits for no
    peer: cancelled half-way, it would leave a task or a socket behind.
    """
    task = asyncio.create_task(coroutine)
    try:
        await asyncio.shield(task)
    finally:
        await asyncio.wait({task})
