"""What sinks share that others connect to: their address, and why listening there failed."""

import errno
from urllib.parse import urlsplit

from hogpipe.errors import ConfigurationError, DeliveryError, HogpipeError, InUseError
from hogpipe.sinks.connections import describe_connection_error

_REMEDIES = {
    errno.EADDRINUSE: "something else listens there; end it, or choose another port",
    errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE; choose another port",
}


def parse_listen(listen: str, example_port: int) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`. Raises ValueError, with an example."""
    try:
        url = urlsplit(f"//{listen}")
        host, port = url.hostname, url.port
        (host or "").encode("idna")
    except ValueError:  # of which UnicodeError is one
        host = port = None
    if not host or not port or url.netloc != listen or "@" in listen:
        raise ValueError(
            f"must be HOST:PORT, such as 127.0.0.1:{example_port} or [::1]:{example_port}"
        )
    return host, port


def explain_listen_error(error: OSError, listen: str) -> HogpipeError:
    """Return the error for `open` of a sink that cannot listen at `listen`.

    InUseError for a port in use, DeliveryError for an address that may appear later, and
    ConfigurationError.
    """
    if remedy := _REMEDIES.get(error.errno or 0):
        kind = InUseError if error.errno == errno.EADDRINUSE else ConfigurationError
        return kind(f"listen {listen}: {remedy}")
    return DeliveryError(f"cannot listen at {listen}: {describe_connection_error(error)}")
