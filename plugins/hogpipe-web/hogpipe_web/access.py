"""PURE: who may read, from which pages.

In: the method and the headers of a request. Out: why it is refused, or that it is not; cookies.

- Its `Host` must be an address, `localhost`, the host of `listen` or one of `hosts`: a name of
  another site that resolves to this host (DNS rebinding) is refused.
- A request that another site makes is refused: `Sec-Fetch-Site` and `Origin` say so, and browsers
  let no script set them. Opening the page by a link of another site is allowed, as it has no data.
- With a token, data is only for requests that have it in `Authorization: Bearer`, or a cookie that
  a login gave. The cookie is the time of the login and its HMAC with the token as key, so that the
  server keeps no sessions, and another token ends all of them.

Tokens and cookies are compared in constant time, and are in no error text.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

SESSION_SECONDS = 7 * 86_400
_OWN_SITES = ("same-origin", "none")


class Access:
    """The rules of one server."""

    def __init__(self, host: str, port: int, token: str | None, hosts: tuple[str, ...]) -> None:
        self._hosts = {"localhost", host.lower(), *(name.lower() for name in hosts)}
        self._token = token
        # Cookies are not separate by port, so two servers on one host need two names.
        self._cookie = f"hogpipe-web-{port}"

    @property
    def needs_token(self) -> bool:
        """Whether data is only for those who know a token."""
        return self._token is not None

    def find_foreign(self, method: str, headers: Mapping[str, str], *, page: bool) -> str | None:
        """Return why a request is not one of this page; `page` if it only opens the page."""
        host = headers.get("host", "")
        if not self._is_own_host(host):
            return "another host name: use the address of hogpipe, or add the name to `hosts`"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return "a request of another site"
        site = headers.get("sec-fetch-site", "none")
        opens = page and method == "GET" and headers.get("sec-fetch-dest") == "document"
        if site not in _OWN_SITES and not opens:
            return "a request of another site"
        return None

    def is_authorized(self, headers: Mapping[str, str], now: float) -> bool:
        """Return whether a request may have data."""
        if self._token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if given and scheme.lower() == "bearer":
            return self.is_token(given.strip())
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return False
        return cookie is not None and self._is_session(cookie.value, now)

    def is_token(self, given: str) -> bool:
        """Return whether `given` is the token; the time does not depend on what is given."""
        expected = (self._token or "").encode()
        found = hmac.compare_digest(_digest(given.encode(errors="replace")), _digest(expected))
        return found and self._token is not None

    def make_cookie(self, now: float) -> str:
        """Return the `Set-Cookie` of a login."""
        value = f"{int(now)}.{self._sign(int(now))}"
        return f"{self._cookie}={value}; Max-Age={SESSION_SECONDS}; {_ATTRIBUTES}"

    def end_cookie(self) -> str:
        """Return the `Set-Cookie` of a logout."""
        return f"{self._cookie}=; Max-Age=0; {_ATTRIBUTES}"

    def _is_session(self, value: str, now: float) -> bool:
        made, _, signature = value.partition(".")
        if not made.isascii() or not made.isdecimal() or len(made) > 12:
            return False
        own = hmac.compare_digest(self._sign(int(made)).encode(), signature.encode())
        return own and int(made) <= now + 60 and now < int(made) + SESSION_SECONDS

    def _sign(self, made: int) -> str:
        key = (self._token or "").encode()
        return hmac.new(key, f"hogpipe-web session {made}".encode(), hashlib.sha256).hexdigest()

    def _is_own_host(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:  # a name
            return False
        return True


_ATTRIBUTES = "Path=/; HttpOnly; SameSite=Strict"


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()
