"""A noun of a served lab: the same class, with every operation asked of the server."""

from __future__ import annotations

import json
import ssl
import threading
import types
import typing
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

import httpx

from timestep_lab import __version__
from timestep_lab.model import comparison
from timestep_lab.model.clock import parse_iso
from timestep_lab.model.codec import BY_STATUS, decoded, encoded, error_of_json
from timestep_lab.model.display import without_credentials
from timestep_lab.model.errors import (
    AuthError,
    LabError,
    StoreError,
    StoreTooNewError,
    StoreUnavailableError,
    TooLargeError,
    UsageError,
)
from timestep_lab.model.events import EVENT_TYPES, Event
from timestep_lab.service.operation import Operation, operations, wrapped
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from pydantic import BaseModel


# --- What went wrong on the other side, as the error it was there; and what keeps the other side from answering at all


def unsupported_remotely(what: str, next_step: str) -> UsageError:
    """For a part of the interface that a served lab does not have."""
    return UsageError(f"{what} is not available in a served lab.", next_step)


def error_of(status: int, body: bytes, url: str) -> LabError:
    try:
        error = json.loads(body)["error"]
        return error_of_json(error, status)
    except (ValueError, KeyError, TypeError, AttributeError):
        kind = BY_STATUS.get(status, StoreError)
        return kind(f"{url} answered {status}, and not as a served lab does.", "Check the address.")


def unreachable(error: httpx.HTTPError | OSError, url: str) -> LabError:
    if isinstance(error, httpx.UnsupportedProtocol):
        return UsageError(f"{url} is not an address of a served lab.", "Write it as http://host:port.")
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return StoreUnavailableError(
            f"{url} cannot be reached ({str(error) or 'no answer'}).", "Start it with: timestep-lab serve. Or check the address."
        )  # fmt: skip
    if isinstance(error, httpx.TimeoutException):
        return StoreUnavailableError(f"{url} does not answer.", "Look at its log, or try again.")
    return StoreUnavailableError(
        f"{url} broke off while it answered.", "It may have been stopped. Try again; what it acknowledged is kept."
    )


# --- Records and events out of JSON: the inverse of `Event.to_json` and of what the API answers with


R = TypeVar("R")
Decoder = Callable[[Any], Any]
COMPARISON_EVENTS: tuple[type[Event], ...] = (
    comparison.ComparisonStarted, comparison.CellStarted, comparison.CellDelta, comparison.CellDone,
    comparison.ComparisonProgress, comparison.ComparisonEnded,
)  # fmt: skip
EVENTS: Mapping[str, type[Event]] = {**EVENT_TYPES, **{kind.type: kind for kind in COMPARISON_EVENTS}}
TIMES = ("started_at", "ended_at", "created_at")


def record(kind: type[R], value: Mapping[str, Any]) -> R:
    """A record of this class. Fields that it does not know are left out: the server may be newer."""
    hint: Any = kind
    instance: R = _decoder(hint)(value)
    return instance


def records(kind: type[R], values: Iterable[Mapping[str, Any]]) -> list[R]:
    return [record(kind, value) for value in values]


def event(value: Mapping[str, Any]) -> Event:
    kind = EVENTS.get(value["type"])
    if kind is None:
        raise StoreTooNewError(
            f"The served lab tells of {value['type']!r}, which is not known here.",
            "Upgrade with: pip install --upgrade timestep-lab",
        )
    return record(kind, value)


def row(value: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a view; its times are aware UTC again."""
    return {
        name: parse_iso(inner) if name in TIMES and isinstance(inner, str) else inner for name, inner in value.items()
    }


@cache
def _decoder(hint: Any) -> Decoder:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        some = [part for part in typing.get_args(hint) if part is not types.NoneType]
        inner = _decoder(some[0]) if len(some) == 1 else _same
        return inner if inner is _same else lambda value: None if value is None else inner(value)
    if hint is datetime:
        return parse_iso
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        inner = _decoder(parts[0]) if parts else _same
        return lambda value: tuple(map(inner, value))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping) and len(parts) == 2:
        inner = _decoder(parts[1])
        return dict if inner is _same else lambda value: {key: inner(one) for key, one in value.items()}
    return _dataclass(hint) if is_dataclass(hint) and isinstance(hint, type) else _same


def _dataclass(kind: type[Any]) -> Decoder:
    hints = typing.get_type_hints(kind)
    decoders = {field.name: _decoder(hints[field.name]) for field in fields(kind)}

    def decode(value: Mapping[str, Any]) -> Any:
        return kind(**{name: decoders[name](inner) for name, inner in value.items() if name in decoders})

    return decode


def _same(value: Any) -> Any:
    return value


# --- The wire to one served lab, for one token. Requests block and are safe from any thread; streams of events are async


CONNECT_S = 10.0
ANSWER_S = 120.0
"""A stream says at least every 15 s that it is alive; one question takes no longer than this, but for those that say so."""
LONG_S = 600.0
"""For whole files, which may be large."""
MOST_BYTES = 50 * 2**20
COOKIE = "timestep_lab_"
"""How the name of a lab's cookie begins."""


class Connection:
    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url, token
        self._lock, self._closed = threading.Lock(), False
        self._made: httpx.Client | None = None

    @classmethod
    def open(cls, address: str, token: str | None) -> Connection:
        """`address` may be the sign-in link that `timestep-lab serve` prints. Raises `UsageError`, `AuthError`, `StoreUnavailableError`."""
        parts = urlsplit(address)
        if not parts.netloc or parts.username:
            raise UsageError(
                f"{without_credentials(address)} is not an address of a served lab.", "Write it as http://host:port."
            )
        url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        key = parse_qs(parts.query).get("key", [""])[0]
        if token is None and key:
            token = _token_for(cls(url, ""), key)
        if token is None:
            raise AuthError(
                f"{url} is asked without a token.",
                "Give token=…, or set TIMESTEP_LAB_TOKEN; on the lab's machine `timestep-lab token` prints one.",
            )
        return cls(url, token)

    # -- one question, one answer

    def get(self, path: str, **params: Any) -> Any:
        return self.ask("GET", path, params={name: value for name, value in params.items() if value is not None})

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        return self.ask("POST", path, json={} if body is None else body, **options)

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """The answer's JSON; None where there is none. Raises what the server raised, and `StoreUnavailableError`."""
        answer = self.raw(method, path, **options)
        try:
            return json.loads(answer) if answer else None
        except ValueError as error:
            raise error_of(200, answer, self.url) from error

    def raw(self, method: str, path: str, *, timeout_s: float = ANSWER_S, **options: Any) -> bytes:
        try:
            answer = self._client.request(method, path, timeout=httpx.Timeout(timeout_s, connect=CONNECT_S), **options)
        except httpx.HTTPError as error:
            raise unreachable(error, self.url) from error
        if answer.status_code >= 300:
            raise error_of(answer.status_code, answer.content, self.url)
        return answer.content

    # -- events as they come

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
        """Raises what the server raised, before the first event or later, and `StoreUnavailableError` when it breaks off."""
        timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S)
        try:
            # A client of its own: connections belong to the event loop that they were made in.
            async with (
                httpx.AsyncClient(timeout=timeout, **self._options) as client,
                client.stream("POST", path, json={**body, "stream": True}) as answer,
            ):
                if answer.status_code >= 300:
                    raise error_of(answer.status_code, await answer.aread(), self.url)
                async for line in answer.aiter_lines():
                    if not line.startswith("data: "):
                        continue
                    text = line.removeprefix("data: ")
                    if text == "[DONE]":
                        return
                    payload = json.loads(text)
                    if payload["type"] == "error":
                        raise error_of_json(payload["error"])
                    yield event(payload)
        except httpx.HTTPError as error:
            raise unreachable(error, self.url) from error
        raise unreachable(httpx.ReadError("the stream ended early"), self.url)

    # --

    @property
    def _client(self) -> httpx.Client:
        # A view may ask once more, from another thread, while the lab is being closed: that must open no new connection.
        with self._lock:
            if self._closed:
                raise StoreUnavailableError(f"The lab at {self.url} was closed here.", "Open it again with Lab(…).")
            if self._made is None:
                self._made = httpx.Client(**self._options)
            return self._made

    @cached_property
    def _options(self) -> dict[str, Any]:
        # Certificates take a moment to load, and plain http has no use for them.
        trusted: Any = ssl.create_default_context() if self.url.startswith("https://") else False
        headers = {"User-Agent": f"timestep-lab/{__version__}"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        return {"base_url": self.url, "verify": trusted, "headers": headers}

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._made is not None:
                self._made.close()

    def __repr__(self) -> str:
        return f"Connection({self.url!r})"


def _token_for(connection: Connection, key: str) -> str:
    """The token that a sign-in link is worth: the browser's cookie."""
    try:
        answer = connection._client.get("/", params={"key": key})
    except httpx.HTTPError as error:
        raise unreachable(error, connection.url) from error
    finally:
        connection.close()
    given = [value for name, value in answer.cookies.items() if name.startswith(COOKIE)]
    token = given[0] if given and answer.status_code == 303 else None
    if not token:
        raise AuthError(
            "This sign-in link is not valid.", "Take the one that the running server printed: it changes with each start."
        )  # fmt: skip
    return token


N = TypeVar("N")
PREFIX = "/api/v1"


def remote(noun: type[N], connection: Connection, **parts: Any) -> N:
    """The noun as this connection's user sees it. Its plain methods are inherited, its operations raise what the server raised.

    `parts` are set as attributes, for methods that are no operations.
    """
    made: N = object.__new__(_remote_class(noun))  # type: ignore[arg-type]  # mypy: a type[N] is hashable
    vars(made).update(parts, _connection=connection)
    return made


@cache
def _remote_class(noun: type) -> type[Any]:
    asking = {name: wrapped(one, partial(_ask, one)) for name, one in operations(noun).items()}
    return type(f"Remote{noun.__name__}", (noun,), {**asking, "__doc__": noun.__doc__, "__module__": noun.__module__})


def _ask(operation: Operation, noun: Any, request: BaseModel) -> Any:
    """Send checked arguments, read the answer; awaitable where the operation is async, events where it is a stream."""
    given = {name: getattr(request, name) for name in request.model_fields_set}
    for name, instead in operation.local.items():
        if given.pop(name, None):
            raise unsupported_remotely(f"{name!r} of lab.{operation.name}", instead)
    safe = "/" if ":path}" in operation.path else ""
    named = {name: quote(str(given.pop(name)), safe=safe) for name in operation.in_path}
    path = PREFIX + operation.path.replace(":path}", "}").format(**named)
    options: dict[str, Any] = {}
    if operation.content is not None:
        content = given.pop(operation.content)
        if len(content) > MOST_BYTES:
            raise TooLargeError(
                f"This has {len(content) / 2**20:.1f} MB; a served lab takes {MOST_BYTES // 2**20} MB at once.",
                "Split it, or leave parts out.",
            )
        options = {"content": content, "timeout_s": LONG_S}
    fields = {name: encoded(value, type(request).model_fields[name].annotation) for name, value in given.items()}
    if operation.is_stream:
        return noun._connection.events(path, fields)
    if operation.has_query:
        options["params"] = {name: value for name, value in fields.items() if value is not None}
    else:
        options["json"] = fields

    def ask(connection: Connection) -> Any:
        if operation.answer is bytes:
            return connection.raw(operation.method, path, timeout_s=LONG_S, **options)
        answer = connection.ask(operation.method, path, **options)
        return None if operation.answer in (None, type(None)) else decoded(operation.answer, answer)

    return in_thread(ask, noun._connection) if operation.is_async else ask(noun._connection)
