"""Addresses as they may be shown: whoever reads a message, a trace or a page need not know what lets somebody in."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlsplit

_ADDRESS = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*:)?//)([^\s'\"<>]*)")
_VALUE = re.compile(r"(?<=[?&])([^=&#\s]*)=[^&#\s]*")


def without_credentials(text: str) -> str:
    """`text`, with user, password and the values of the query left out of each address in it."""
    return _ADDRESS.sub(lambda found: found[1] + _shown(found[2]), text)


def shown_url(url: str) -> str:
    """The same for text that is one address, or was to be one."""
    return without_credentials(url) if "//" in url else without_credentials(f"//{url}")[2:]


def credentials_in(url: str) -> tuple[str, ...]:
    """What `without_credentials` leaves out of it, as written and as sent, if it is long enough to be told from a word."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ()
    # A user's name without a password is a key; with one it is a name, and may be a word of the language.
    values = [parts.password or parts.username or "", *(value for _, value in parse_qsl(parts.query))]
    return tuple(sorted({v for value in values for v in (value, unquote(value)) if len(v) >= 4}, key=len, reverse=True))


def _shown(rest: str) -> str:
    """What follows the `//`."""
    end = re.search(r"[/?#]", rest)
    host = rest[: end.start()] if end else rest
    # A password that holds a slash as it is ends the host too early; then all up to the last @ is cut.
    cut = host.rfind("@") if _is_host(host.rpartition("@")[2]) else rest.rfind("@")
    rest = rest[cut + 1 :]
    return _VALUE.sub(r"\1=***", rest)


def _is_host(host: str) -> bool:
    return re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(:\d*)?", host) is not None
