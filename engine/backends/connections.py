"""What the endpoints share: a pool of connections, and what its failures and refusals mean.

Knows no dialect: neither where a provider keeps its text nor how it words an error.
"""

import ipaddress
import re
from collections.abc import Iterable
from http import HTTPStatus
from urllib.parse import urlsplit

import httpx2

from engine.backends.bodies import item
from engine.backends.faults import (
    Broken,
    Busy,
    Closed,
    EndpointFault,
    Impossible,
    Unreachable,
)
from engine.backends.keys import scrub
from stores.errors import BackendError

CONNECT_S = 10.0
"""No connection takes longer to open where anybody answers at all."""
DAY_QUOTA_S = 3600.0
"""A server that asks for a longer wait than this has used up a quota of the day."""

LOST = (httpx2.HTTPError, OSError, UnicodeDecodeError)
"""What ends a try besides an error that the server states. Some errors of TLS are OSErrors."""

_BUSY = {429, 503, 529}
_TRANSIENT = {408, 409, 425}
_CLOSED = {401, 402, 403, 404}


def open_client(base_url: str, *, workers: int, timeout_s: float) -> httpx2.AsyncClient:
    """A pool of at most `workers` connections, for one event loop, each for one request.

    A connection on which an answer came twice stays one answer behind for ever: used again, it
    would give every later request the answer of another. Follows no redirects, which would carry a
    key to another host, and uses no proxy on the way to this machine.
    """

    async def limit_connecting(request: httpx2.Request) -> None:
        # Less than a whole try may take, so that nobody there is not taken for a slow answer.
        limits = {"connect": min(timeout_s / 2, CONNECT_S)}
        request.extensions["timeout"] = request.extensions.get("timeout", {}) | limits

    return httpx2.AsyncClient(
        limits=httpx2.Limits(max_connections=workers, max_keepalive_connections=0),
        headers={"Connection": "close"},
        timeout=timeout_s,
        follow_redirects=False,
        trust_env=not _is_loopback(base_url),
        event_hooks={"request": [limit_connecting]},
    )


def address(base_url: str) -> str:
    """A base URL without credentials and closing slash. Raises BackendError if it is none."""
    try:
        url = urlsplit(base_url)
        known = url.scheme in {"http", "https"} and url.hostname and url.port != 0
    except ValueError:
        known = False
    if not known or url.query or url.fragment:
        raise BackendError(
            f"{base_url.rpartition('@')[2].partition('?')[0]}: not the base address of a server; "
            "write http:// or https://, a host and maybe a path"
        )
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path.rstrip('/')}"


def secrets_of(key: str, base_url: str) -> tuple[str, ...]:
    """What must never be written down. Raises BackendError for a key that cannot be sent."""
    if not (key.isascii() and key.isprintable()):
        raise BackendError(
            "the API key holds a character that no HTTP header may hold; "
            "copy it again, without line breaks and typographic quotes"
        )
    return (key, urlsplit(base_url).password or "")


def fold_seed(seed: int) -> int:
    """A seed in 31 bits, the widest that every known server takes."""
    return seed % 2**31


def lost(error: BaseException, timeout_s: float, secrets: Iterable[str]) -> EndpointFault:
    """The fault behind one of LOST."""
    said = str(error) or type(error).__name__
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return Unreachable(scrub(f"no connection: {said}", secrets))
    if isinstance(error, TimeoutError | httpx2.TimeoutException):
        return Broken(f"timeout after {timeout_s:g} s")
    if isinstance(error, UnicodeDecodeError):
        return Broken("unreadable answer")
    return Broken(scrub(f"connection lost: {said}", secrets))


def refusal(
    status: int, message: str | None, delay_s: float | None, secrets: Iterable[str]
) -> EndpointFault:
    """The fault behind an HTTP status other than success.

    `message` is the provider's own word; None says that something else answered in its place.
    """
    reason = scrub(f"{status} {_phrase(status)}: {message or ''}".rstrip(": "), secrets)
    if delay_s is not None and delay_s > DAY_QUOTA_S and status in _BUSY:
        return Closed(reason, quota=True)
    if status == 503 and message is None and delay_s is None:
        return Broken(reason)
    if status in _BUSY:
        return Busy(reason, delay_s)
    if status in _TRANSIENT or status >= 500:
        return Broken(reason)
    if status in _CLOSED or status < 400:
        return Closed(reason, quota=status == 402)
    return Impossible(reason)


def stated_status(error: object) -> int:
    """The HTTP status that an error inside a successful answer stands for."""
    code = str(item(error, "code"))
    return int(code) if re.fullmatch("[45][0-9][0-9]", code) else 500


def _phrase(status: int) -> str:
    known = {429: "rate limit", 529: "overloaded"}
    try:
        return known.get(status) or HTTPStatus(status).phrase
    except ValueError:
        return "error"


def _is_loopback(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
