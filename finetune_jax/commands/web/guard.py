"""Who may ask the app: browsers on this machine, or those that bring its token."""

import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

COOKIE = "finetune_jax_token"
MARK = "X-Finetune-Jax"
"""A header that only the app's own pages send: another site's page may not, so it cannot make a browser do anything."""

_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def is_local(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine alone.

    >>> is_local("127.0.0.1"), is_local("::1"), is_local("localhost"), is_local("0.0.0.0"), is_local("")
    (True, True, True, False, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(24)


class Guard:
    """Decides about every request before anything else looks at it.

    Attributes:
        token: that a browser must bring; empty asks for none.
    """

    def __init__(self, host: str, token: str) -> None:
        """For a server that listens on ``host``."""
        self._names = {*_LOCAL_NAMES, host} if is_local(host) else None
        self.token = token

    def knows_host(self, header: str | None) -> bool:
        """Whether a ``Host`` header names this machine.

        A page of another site whose name was made to point to this machine (DNS rebinding) sends its own name.
        """
        if (
            self._names is None
        ):  # other addresses are reached by names that are not known here, and ask for the token
            return bool(header)
        try:
            return urlsplit(f"//{header or ''}").hostname in self._names
        except ValueError:
            return False

    def knows_token(self, headers: Mapping[str, str], query: Mapping[str, str]) -> bool:
        """Whether a request brings the token, in its address or in the cookie."""
        if not self.token:
            return True
        tokens = [query.get("token", "")]
        try:
            cookie = SimpleCookie(headers.get("Cookie") or "")
        except CookieError:
            cookie = SimpleCookie()
        if COOKIE in cookie:
            tokens.append(cookie[COOKIE].value)
        return any(hmac.compare_digest(text.encode(), self.token.encode()) for text in tokens)

    def cookie(self) -> str:
        """The ``Set-Cookie`` header that keeps the token out of addresses from then on."""
        return f"{COOKIE}={self.token}; Path=/; HttpOnly; SameSite=Strict"
