"""Middleware in front of everything served: authentication, origin checks, size limits and rate limits. Pure ASGI, for
HTTP and websockets.

- A caller is identified by `Authorization: Bearer …` or by the browser's cookie.
- A browser that opens a page without a cookie is signed in as a new anonymous user if the server listens on loopback
  only (or `anonymous_pages` is set); otherwise it is asked first. An invalid sign-in link gets a page that says so.
- A request that changes something, and every websocket, must come from one of the lab's own pages if it has an
  `Origin`: a foreign origin is rejected. Cookies are also `SameSite=Lax`.
- A request with a foreign host name is rejected; see `answers_to`.
- Bodies are counted while they arrive and rejected at the limit.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from http.cookies import SimpleCookie
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit

import jwt

from timestep_lab.model.clock import utc_now
from timestep_lab.model.errors import (
    AuthError,
    BusyError,
    ForbiddenError,
    LabError,
    TooLargeError,
    TooSlowError,
)
from timestep_lab.model.ids import new_uuid
from timestep_lab.runtime.interchange import otlp_in
from timestep_lab.server.errors import error_response
from timestep_lab.server.fair_reads import Unread
from timestep_lab.service.sharing import PATHS as SHARED

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


# --- Host names that a served lab accepts
#
# With DNS rebinding, a page of another site whose name resolves to 127.0.0.1 would have the lab's own origin in the browser.
# Only the host name reveals it.


ANY = "*"


def answers_to(named: Sequence[str], *, loopback: bool) -> Callable[[str], bool]:
    """Returns a predicate for `Host` headers. `named` are the names in `TIMESTEP_LAB_HOSTS`; without any, a server that
    is not on loopback accepts all names.
    """
    if ANY in named or not (named or loopback):
        return lambda host: True
    known = {_name(host) for host in named} - {""}
    return lambda host: _name(host) in known or is_loopback(_name(host))


def is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """The host without port and brackets; empty if invalid."""
    if set(host) & set("/\\@?#"):
        return ""
    try:
        return (urlsplit(f"//{host.strip()}").hostname or "").rstrip(".")
    except ValueError:
        return ""


# --- Rate limits: a token bucket per user, and a stricter one for creating users


KEPT = 50_000
"""Number of buckets kept. The least recently used are dropped, and a returning caller starts with a full one."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class TokenBuckets:
    """Token buckets: `rate` calls per second on average, bursts of up to `burst`."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.burst, self._clock = rate, burst, clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key: str, what: str) -> None:
        """Take a token. Raises `BusyError` with the number of seconds to wait."""
        now = self._clock()
        bucket = self._buckets.setdefault(key, _Bucket(float(self.burst), now))
        self._buckets.move_to_end(key)
        if len(self._buckets) > KEPT:
            self._buckets.popitem(last=False)
        bucket.tokens = min(self.burst, bucket.tokens + (now - bucket.at) * self.rate)
        bucket.at = now
        if bucket.tokens < 1:
            wait = (1 - bucket.tokens) / self.rate
            raise BusyError(f"Too many {what}.", f"Try again in {max(1, round(wait))} s.", retry_after=wait)
        bucket.tokens -= 1


class RateLimits:
    def __init__(
        self, *, requests_per_second: float = 50, request_burst: int = 500, sign_ins_per_minute: float = 60,
        sign_in_burst: int = 200,
    ) -> None:  # fmt: skip
        self._users = TokenBuckets(requests_per_second, request_burst)
        self._sign_ins = TokenBuckets(sign_ins_per_minute / 60, sign_in_burst)
        self._shared = TokenBuckets(2, 60)

    def check_user(self, user_id: str) -> None:
        self._users.take(user_id, "requests")

    def check_sign_in(self, address: str) -> None:
        self._sign_ins.take(_network_of(address), "sign-ins from this address")

    def check_shared(self, address: str) -> None:
        self._shared.take(_network_of(address), "openings of shared links from this address")


def _network_of(address: str) -> str:
    """The network that is limited together: one IPv6 user has 2⁶⁴ addresses."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(ip_network((parsed, 64), strict=False)) if isinstance(parsed, IPv6Address) else address


# --- Authentication: signed tokens, issued and verified here
#
# A token is a JWT (RFC 7519) signed with HS256: `sub` is the user id, `aud` is `timestep-lab`, `exp` is checked. HS256 is the only
# accepted algorithm, so a token with another one (or `none`) is rejected first.


AUDIENCE = "timestep-lab"
ALGORITHM = "HS256"
LIFETIME = timedelta(days=30)
LEAST_SECRET_BYTES = 32
TOKENS_KEPT = 4_096
COOKIE = "timestep_lab"
"""Prefix of the cookie's name."""


@dataclass(frozen=True, slots=True)
class Caller:
    user_id: str
    anonymous: bool


class Tokens:
    """Issues and verifies tokens with one secret."""

    def __init__(self, secret: str) -> None:
        # A short secret is hashed, never padded with a constant: HS256 needs 32 bytes (RFC 7518, section 3.2).
        self._key = secret.encode()
        if len(self._key) < LEAST_SECRET_BYTES:
            self._key = hashlib.sha256(b"timestep-lab:" + self._key).digest()
        self.cookie = f"{COOKIE}_{hashlib.sha256(b'timestep-lab cookie:' + self._key).hexdigest()[:8]}"
        """Cookies are shared by all ports of a host, so the name contains a hash of the secret: two labs do not
        overwrite each other's cookies.
        """
        self._checked = lru_cache(TOKENS_KEPT)(self._check)

    def issue(self, user_id: str, *, anonymous: bool = True, lifetime: timedelta = LIFETIME) -> str:
        now = utc_now()
        claims = {"sub": user_id, "aud": AUDIENCE, "iat": now, "exp": now + lifetime, "is_anonymous": anonymous}
        return jwt.encode(claims, self._key, algorithm=ALGORITHM)

    def issue_anonymous(self) -> tuple[str, str]:
        """Create an anonymous user: its id and token."""
        user_id = new_uuid()
        return user_id, self.issue(user_id)

    def verify(self, token: str) -> Caller:
        """The caller of a token. Raises `AuthError` for a token that is forged, expired, for another audience, or
        malformed.
        """
        caller, expires_at = self._checked(token)
        if expires_at <= time.time():
            raise _expired()
        return caller

    def _check(self, token: str) -> tuple[Caller, float]:
        """The caller of a token, and the Unix time at which it expires. Checking a signature takes a fifth of the time
        of a small request, so that a valid token is checked once.
        """
        try:
            claims = jwt.decode(
                token, self._key, algorithms=[ALGORITHM], audience=AUDIENCE, options={"require": ["exp", "aud", "sub"]}
            )
        except jwt.ExpiredSignatureError as error:
            raise _expired() from error
        except jwt.InvalidTokenError as error:
            raise AuthError("This token is not valid.", "Sign in: POST /api/v1/auth/anonymous") from error
        if not isinstance(claims["sub"], str) or not claims["sub"]:
            raise AuthError("This token names no user.", "Sign in: POST /api/v1/auth/anonymous")
        return Caller(claims["sub"], bool(claims.get("is_anonymous", False))), float(claims["exp"])


def _expired() -> AuthError:
    return AuthError("This token has expired.", "Sign in again: POST /api/v1/auth/anonymous")


USER_HEADER = "x-timestep-user"
"""Set here for the pages behind this middleware; a client's own header of this name is dropped."""
OPEN_PATHS = {"/healthz", "/readyz", "/api/v1/auth/anonymous", "/favicon.ico", "/app.webmanifest", "/sw.js", "/offline"}
OPEN_PREFIXES = ("/static/", "/assets/", *SHARED)
API_PREFIXES = ("/api/", "/v1/", "/openai/", "/metrics")
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
PART_S, BODY_S = 30.0, 600.0
"""Time limits in seconds for the next part of a body, and for the whole body."""
MAX_BODY = 8 * 2**20
MAX_UPLOAD = 50 * 2**20
UPLOAD_ENVELOPE = 2**20
"""Additional size that a multipart form may have beyond its file."""
OTLP_PATHS = {"/v1/traces", "/v1/logs"}
"""OTLP paths accept larger bodies: exporters send hundreds of spans at once and drop a rejected batch."""

PAGE_PATH = re.compile(r"(/chat|/traces|/compare|/agents)/([A-Za-z0-9_-]{1,100})")
PANEL_PATHS = {"ws", "metadata"}

SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' ws: wss: blob:; worker-src 'self' blob:; "
        b"object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'",
    ),
)


class Gate:
    """The middleware. `upload_paths(path)` returns whether a path accepts bodies up to 50 MB. `owner_key(key)` returns
    a user id for a sign-in link, or None.
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: Tokens,
        *,
        anonymous_pages: bool,
        limits: RateLimits | None = None,
        upload_paths: Callable[[str], bool] = lambda path: path.endswith(("/upload", "/files", "/content", "/parts")),
        owner_key: Callable[[str], str | None] = lambda key: None,
        answers_to: Callable[[str], bool] = lambda host: True,
    ) -> None:
        self.app, self.tokens = app, tokens
        self.anonymous_pages, self.limits = anonymous_pages, limits or RateLimits()
        self.upload_paths, self.owner_key, self.answers_to = upload_paths, owner_key, answers_to
        self._unread = Unread()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._http(scope, receive, send)

    # -- websockets

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        try:
            self._check_host(headers)
            # Browsers always send an origin with websockets; clients that do not need a bearer token.
            if "origin" in headers and not _same_host(headers):
                raise ForbiddenError("This websocket comes from a page of another site.")
            caller = self._caller(headers)
        except AuthError as error:
            await receive()
            if "websocket.http.response" in scope.get("extensions", {}):
                await _send_denial(send, error)
            else:
                await send({"type": "websocket.close", "code": 1008, "reason": error.message})
            return
        _set_caller(scope, caller)
        await self.app(scope, receive, send)

    # -- HTTP

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, path, method = _headers(scope), scope["path"], scope["method"]
        send = _with_security_headers(send)
        try:
            self._check_host(headers)
        except ForbiddenError as error:
            await _respond(error, scope, receive, send)
            return
        try:
            if method not in SAFE_METHODS and "origin" in headers and not _same_host(headers):
                raise ForbiddenError(
                    "This request comes from a page of another site.", "Call from the lab's own pages."
                )
            if not _is_open(path):
                if method == "GET" and (key := _key(scope)) and await self._answer_key(key, scope, headers, send):
                    return
                caller = self._known_or_new(scope, headers)
                if isinstance(caller, str):
                    send = _with_cookie(send, self.tokens.cookie, caller, scope)
                    caller = self.tokens.verify(caller)
                _set_caller(scope, caller)
                self.limits.check_user(caller.user_id)
                if (address := _page_address(scope)) is not None:
                    await _redirect(send, address)
                    return
            elif path == "/api/v1/auth/anonymous":
                self.limits.check_sign_in(_address(scope))
            elif path.startswith(SHARED):
                self.limits.check_shared(_address(scope))
            if path in OTLP_PATHS:
                receive = _Counted(receive, headers, otlp_in.MAX_BODY, otlp_in.too_large)
            else:
                limit = MAX_UPLOAD + UPLOAD_ENVELOPE if self.upload_paths(path) else MAX_BODY
                receive = _Counted(receive, headers, limit, lambda: _too_large(limit))
        except LabError as error:
            if isinstance(error, AuthError) and method == "GET" and not path.startswith(API_PREFIXES):
                from timestep_lab.server.server import sign_in

                await _page(send, sign_in())
                return
            await _respond(error, scope, receive, send)
            return
        signed_in: Caller | None = scope.get("state", {}).get("caller")
        reader = signed_in.user_id if signed_in else _address(scope)
        limited = self._unread.limiting(send, reader, lambda error: _respond(error, scope, receive, send))
        await self.app(scope, receive, limited)

    def _check_host(self, headers: dict[str, str]) -> None:
        host = headers.get("host")
        # Every browser sends it.
        if host is not None and not self.answers_to(host):
            raise ForbiddenError(
                f"This lab does not accept the host name {host[:100]!r}.",
                "Use the address that `timestep-lab serve` printed, or add the host to TIMESTEP_LAB_HOSTS.",
            )

    def _caller(self, headers: dict[str, str]) -> Caller:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme:
            if scheme.lower() != "bearer":
                raise AuthError(
                    f"The authorization scheme {scheme!r} is not supported.", "Send: Authorization: Bearer <token>"
                )
            return self.tokens.verify(token.strip())
        cookie = SimpleCookie(headers.get("cookie", "")).get(self.tokens.cookie)
        if cookie is None:
            raise AuthError(
                "No token was sent.", "Sign in: POST /api/v1/auth/anonymous, then send Authorization: Bearer <token>"
            )
        return self.tokens.verify(cookie.value)

    def _known_or_new(self, scope: Scope, headers: dict[str, str]) -> Caller | str:
        """The caller, or the token of a user created for a browser that opened a page. Raises `BusyError` if there are
        too many of those.
        """
        path, method = scope["path"], scope["method"]
        try:
            return self._caller(headers)
        except AuthError:
            is_page = method == "GET" and not path.startswith(API_PREFIXES) and "authorization" not in headers
            if not (self.anonymous_pages and is_page):
                raise
            self.limits.check_sign_in(_address(scope))
            return self.tokens.issue_anonymous()[1]

    async def _answer_key(self, key: str, scope: Scope, headers: dict[str, str], send: Send) -> bool:
        """Respond to a sign-in link. Returns False if the request is not for a page and should be handled normally."""
        user_id, path = self.owner_key(key), scope["path"]
        if user_id:
            token = self.tokens.issue(user_id, anonymous=False)
            await _redirect_without_key(scope, send, _cookie_header(self.tokens.cookie, token, scope))
        elif path.startswith(API_PREFIXES):
            return False
        elif self._is_signed_in(headers):
            await _redirect_without_key(scope, send)
        else:
            from timestep_lab.server.server import expired_link

            await _page(send, expired_link(_own_path(scope)))
        return True

    def _is_signed_in(self, headers: dict[str, str]) -> bool:
        """Whether the request already has a valid account, so that an expired link does not matter."""
        try:
            return not self._caller(headers).anonymous
        except AuthError:
            return False


class _Counted:
    """Passes a body on, and stops it at the size or time limit. A declared length above the limit is rejected before a
    byte is read.
    """

    def __init__(
        self, receive: Receive, headers: dict[str, str], limit: int, too_large: Callable[[], TooLargeError]
    ) -> None:
        self._receive, self._limit, self._too_large, self._seen = receive, limit, too_large, 0
        self._whole, self._until = False, time.monotonic() + BODY_S
        announced = headers.get("content-length", "")
        if announced.isdigit() and int(announced) > limit:
            raise too_large()

    async def __call__(self) -> Message:
        if self._whole:  # Only a disconnect can follow.
            return await self._receive()
        try:
            async with asyncio.timeout(min(PART_S, self._until - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            raise TooSlowError(
                f"The next part of the request did not arrive within {PART_S:g} s, or all of it within {BODY_S:g} s.",
                "Send it again.",
            ) from None
        self._whole = not message.get("more_body", False)
        self._seen += len(message.get("body", b""))
        if self._seen > self._limit:
            raise self._too_large()
        return message


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(
        f"The request is larger than {limit // 2**20} MB.", "Send less. A file may have at most 50 MB, also in parts."
    )


def _page_address(scope: Scope) -> bytes | None:
    """Redirects `/traces/<id>` to the page `/traces` with the id as an argument, so that links to one item can be
    shared.

    It is a redirect because the addresses of a page's scripts and websocket are relative to its own.
    """
    match = PAGE_PATH.fullmatch(scope["path"])
    if match is None or match[2] in PANEL_PATHS or scope["method"] != "GET":
        return None
    query: bytes = scope.get("query_string", b"")
    return f"{match[1]}?id={match[2]}".encode() + (b"&" + query if query else b"")


def _own_path(scope: Scope) -> str:
    """The path with exactly one leading slash: two would make it the address of another host."""
    return "/" + str(scope["path"]).lstrip("/\\")


def _key(scope: Scope) -> str:
    query: bytes = scope.get("query_string", b"")
    return parse_qs(query.decode("latin-1")).get("key", [""])[0]


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _address(scope: Scope) -> str:
    """The client's address; behind a trusted proxy, the address that the proxy reports."""
    client: tuple[str, int] | None = scope.get("client")
    return client[0] if client else "unknown"


def _same_host(headers: dict[str, str]) -> bool:
    return urlsplit(headers["origin"]).netloc == headers.get("host", "")


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)


def _set_caller(scope: Scope, caller: Caller) -> None:
    scope.setdefault("state", {})["caller"] = caller
    scope["headers"] = [
        *((name, value) for name, value in scope["headers"] if name.lower() != USER_HEADER.encode()),
        (USER_HEADER.encode(), caller.user_id.encode()),
    ]


def _with_security_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message.get("headers", [])}
            message["headers"] = [*message.get("headers", []), *(h for h in SECURITY_HEADERS if h[0] not in present)]
        await send(message)

    return wrapped


def _cookie_header(name: str, token: str, scope: Scope) -> tuple[bytes, bytes]:
    secure = "; Secure" if scope.get("scheme") == "https" else ""
    age = int(LIFETIME.total_seconds())
    return b"set-cookie", f"{name}={token}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax{secure}".encode()


def _with_cookie(send: Send, name: str, token: str, scope: Scope) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), _cookie_header(name, token, scope)]
        await send(message)

    return wrapped


async def _redirect_without_key(scope: Scope, send: Send, *more: tuple[bytes, bytes]) -> None:
    """Redirect to the same address without the key, which must not stay in the browser's history or in a shared link."""
    await _redirect(send, quote(_own_path(scope)).encode(), *more)


async def _redirect(send: Send, location: bytes, *more: tuple[bytes, bytes]) -> None:
    headers: list[tuple[bytes, bytes]] = [(b"location", location), (b"cache-control", b"no-store"), *more]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _page(send: Send, page: bytes) -> None:
    headers = [(b"content-type", b"text/html; charset=utf-8"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": page})


async def _respond(error: LabError, scope: Scope, receive: Receive, send: Send) -> None:
    retry_after = error.retry_after if isinstance(error, BusyError) else None
    await error_response(error, retry_after=retry_after)(scope, receive, send)


async def _send_denial(send: Send, error: AuthError) -> None:
    body = error_response(error).body
    headers = [(b"content-type", b"application/json")]
    await send({"type": "websocket.http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
