"""The client of a served lab: the service classes, with every operation sent to the server over HTTP."""

from __future__ import annotations

import json
import ssl
import threading
import types
import typing
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, TypeVar, Unpack
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
    from _typeshed import DataclassInstance
    from pydantic import BaseModel


# --- Server errors raised as the same class locally, and errors of the connection itself


def unsupported_remotely(what: str, next_step: str) -> UsageError:
    """The error for a part of the interface that a served lab does not have."""
    return UsageError(f"{what} is not available in a served lab.", next_step)


def error_of(status: int, body: bytes, url: str) -> LabError:
    try:
        error = json.loads(body)["error"]
        return error_of_json(error, status)
    except (ValueError, KeyError, TypeError, AttributeError):
        kind = BY_STATUS.get(status, StoreError)
        return kind(f"{url} answered {status}, but does not look like a served lab.", "Check the address.")


def unreachable(error: httpx.HTTPError | OSError, url: str) -> LabError:
    if isinstance(error, httpx.UnsupportedProtocol):
        return UsageError(f"{url} is not a valid address of a served lab.", "Write it as http://host:port.")
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return StoreUnavailableError(
            f"{url} cannot be reached ({str(error) or 'no answer'}).", "Start it with: timestep-lab serve. Or check the address."
        )  # fmt: skip
    if isinstance(error, httpx.TimeoutException):
        return StoreUnavailableError(f"{url} does not answer.", "Check its log, or try again.")
    return StoreUnavailableError(
        f"{url} closed the connection before the response was complete.",
        "The server may have been stopped. Try again; acknowledged changes are kept.",
    )


# --- Decoding of records and events: the inverse of `Event.to_json` and of the API's responses


R = TypeVar("R")
Decoder = Callable[[Any], Any]
COMPARISON_EVENTS: tuple[type[Event], ...] = (
    comparison.ComparisonStarted, comparison.CellStarted, comparison.CellDelta, comparison.CellDone,
    comparison.ComparisonProgress, comparison.ComparisonEnded,
)  # fmt: skip
EVENTS: Mapping[str, type[Event]] = {**EVENT_TYPES, **{kind.type: kind for kind in COMPARISON_EVENTS}}
TIMES = ("started_at", "ended_at", "created_at")


def record(kind: type[R], value: Mapping[str, object]) -> R:
    """Decode a record of this class. Unknown fields are ignored: the server may be newer."""
    hint: object = kind
    instance: R = _decoder(hint)(value)
    return instance


def records(kind: type[R], values: Iterable[Mapping[str, object]]) -> list[R]:
    return [record(kind, value) for value in values]


def event(value: Mapping[str, Any]) -> Event:
    kind = EVENTS.get(value["type"])
    if kind is None:
        raise StoreTooNewError(
            f"The served lab sent {value['type']!r}, which this version does not know.",
            "Upgrade with: pip install --upgrade timestep-lab",
        )
    return record(kind, value)


def row(value: Mapping[str, object]) -> dict[str, object]:
    """Decode a row of a view; times become aware UTC datetimes."""
    return {
        name: parse_iso(inner) if name in TIMES and isinstance(inner, str) else inner for name, inner in value.items()
    }


@cache
def _decoder(hint: object) -> Decoder:
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


def _dataclass(kind: type[DataclassInstance]) -> Decoder:
    hints = typing.get_type_hints(kind)
    decoders = {field.name: _decoder(hints[field.name]) for field in fields(kind)}

    def decode(value: Mapping[str, object]) -> object:
        return kind(**{name: decoders[name](inner) for name, inner in value.items() if name in decoders})

    return decode


def _same(value: object) -> object:
    return value


# --- The HTTP connection to one served lab with one token. Requests block and are thread-safe; event streams are async


CONNECT_S = 10.0
ANSWER_S = 120.0
"""Default timeout in seconds. Streams send a keep-alive at least every 15 s."""
CLOSE_S = 5.0
LONG_S = 600.0
"""Timeout in seconds for whole files, which may be large."""
MOST_BYTES = 50 * 2**20
COOKIE = "timestep_lab_"
"""Prefix of the name of a lab's cookie."""
Param: TypeAlias = str | int | float | bool | None
"""A value in the query of an address."""


class Content(TypedDict, total=False):
    """The parts of a request, as in httpx."""

    params: Mapping[str, Param | Sequence[Param]]
    json: object
    content: bytes
    headers: Mapping[str, str]


class Timeout(TypedDict, total=False):
    timeout_s: float
    """Default: `ANSWER_S`."""


class Sent(Content, Timeout, total=False):
    """A request and its timeout."""


class _ClientOptions(TypedDict):
    base_url: str
    verify: ssl.SSLContext | bool
    headers: dict[str, str]


class Connection:
    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url, token
        self._lock, self._closed = threading.Condition(), False
        self._made: httpx.Client | None = None
        self._n_pending = 0

    @classmethod
    def open(cls, address: str, token: str | None) -> Connection:
        """Open a connection. `address` may also be the sign-in link that `timestep-lab serve` prints. Raises
        `UsageError`, `AuthError`, `StoreUnavailableError`.
        """
        parts = urlsplit(address)
        if not parts.netloc or parts.username:
            raise UsageError(
                f"{without_credentials(address)} is not a valid address of a served lab.",
                "Write it as http://host:port.",
            )
        url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        key = parse_qs(parts.query).get("key", [""])[0]
        if token is None and key:
            token = _token_for(cls(url, ""), key)
        if token is None:
            raise AuthError(
                f"{url} needs a token.",
                "Pass token=…, or set TIMESTEP_LAB_TOKEN; on the lab's machine `timestep-lab token` prints one.",
            )
        return cls(url, token)

    # -- single requests

    def get(self, path: str, **params: Param) -> Any:
        return self.ask("GET", path, params={name: value for name, value in params.items() if value is not None})

    def post(self, path: str, body: object = None, **options: Unpack[Timeout]) -> Any:
        return self.ask("POST", path, json={} if body is None else body, **options)

    def ask(self, method: str, path: str, **options: Unpack[Sent]) -> Any:
        """The JSON of the response; None if it has no content. Raises what the server raised, and
        `StoreUnavailableError`.
        """
        answer = self.raw(method, path, **options)
        try:
            return json.loads(answer) if answer else None
        except ValueError as error:
            raise error_of(200, answer, self.url) from error

    def raw(self, method: str, path: str, *, timeout_s: float = ANSWER_S, **options: Unpack[Content]) -> bytes:
        try:
            with self._client() as client:
                answer = client.request(method, path, timeout=httpx.Timeout(timeout_s, connect=CONNECT_S), **options)
        except httpx.HTTPError as error:
            raise unreachable(error, self.url) from error
        if answer.status_code >= 300:
            raise error_of(answer.status_code, answer.content, self.url)
        return answer.content

    # -- event streams

    async def events(self, path: str, body: Mapping[str, object]) -> AsyncGenerator[Event, None]:
        """Events of a stream. Raises what the server raised, before the first event or later, and
        `StoreUnavailableError` if the connection is lost.
        """
        timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S)
        try:
            # A separate client: its connections belong to the event loop in which they are created.
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

    @contextmanager
    def _client(self) -> Iterator[httpx.Client]:
        # A view on another thread may send a request while the lab is being closed; that must not open a new connection.
        with self._lock:
            if self._closed:
                raise StoreUnavailableError(
                    f"The lab at {self.url} was closed by this process.", "Open it again with Lab(…)."
                )
            if self._made is None:
                self._made = httpx.Client(**self._options)
            made = self._made
            self._n_pending += 1
        try:
            yield made
        finally:
            with self._lock:
                self._n_pending -= 1
                self._lock.notify_all()

    @cached_property
    def _options(self) -> _ClientOptions:
        # Loading certificates takes time, and plain http does not need them.
        trusted: ssl.SSLContext | bool = ssl.create_default_context() if self.url.startswith("https://") else False
        headers = {"User-Agent": f"timestep-lab/{__version__}"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        return {"base_url": self.url, "verify": trusted, "headers": headers}

    def close(self) -> None:
        """Close the connection, after up to `CLOSE_S` for pending requests: closing a socket does not wake the thread that reads from it,
        which would wait until its timeout, and the interpreter or the event loop for the thread."""
        with self._lock:
            self._closed = True
            self._lock.wait_for(lambda: self._n_pending == 0, CLOSE_S)
            if self._made is not None:
                self._made.close()

    def __repr__(self) -> str:
        return f"Connection({self.url!r})"


def _token_for(connection: Connection, key: str) -> str:
    """Exchange the key of a sign-in link for a token (the browser's cookie)."""
    try:
        with connection._client() as client:
            answer = client.get("/", params={"key": key})
    except httpx.HTTPError as error:
        raise unreachable(error, connection.url) from error
    finally:
        connection.close()
    given = [value for name, value in answer.cookies.items() if name.startswith(COOKIE)]
    token = given[0] if given and answer.status_code == 303 else None
    if not token:
        raise AuthError(
            "This sign-in link is not valid.", "Use the link that the running server printed; it changes with each start."
        )  # fmt: skip
    return token


N = TypeVar("N")
PREFIX = "/api/v1"


def remote(noun: type[N], connection: Connection, **parts: object) -> N:
    """A subclass of this service class whose operations are sent to the server. Its other methods are inherited.

    `parts` are set as attributes, for methods that are not operations.
    """
    made: N = object.__new__(_remote_class(noun))  # type: ignore[arg-type]  # mypy: a type[N] is hashable
    vars(made).update(parts, _connection=connection)
    return made


@cache
def _remote_class(noun: type) -> type:
    asking = {name: wrapped(one, partial(_ask, one)) for name, one in operations(noun).items()}
    return type(f"Remote{noun.__name__}", (noun,), {**asking, "__doc__": noun.__doc__, "__module__": noun.__module__})


def _ask(operation: Operation, noun: Any, request: BaseModel) -> Any:
    """Send validated arguments and decode the response; awaitable for async operations, an event stream for streams."""
    given = {name: getattr(request, name) for name in request.model_fields_set}
    for name, instead in operation.local.items():
        if given.pop(name, None):
            raise unsupported_remotely(f"The argument {name!r} of lab.{operation.name}", instead)
    safe = "/" if ":path}" in operation.path else ""
    named = {name: quote(str(given.pop(name)), safe=safe) for name in operation.in_path}
    path = PREFIX + operation.path.replace(":path}", "}").format(**named)
    options: Content = {}
    wait_s = ANSWER_S
    if operation.content is not None:
        content = given.pop(operation.content)
        if len(content) > MOST_BYTES:
            raise TooLargeError(
                f"This request has {len(content) / 2**20:.1f} MB; a served lab accepts at most {MOST_BYTES // 2**20} MB.",
                "Split it, or omit parts.",
            )
        options, wait_s = {"content": content}, LONG_S
    fields = {name: encoded(value, type(request).model_fields[name].annotation) for name, value in given.items()}
    if operation.is_stream:
        return noun._connection.events(path, fields)
    if operation.has_query:
        options["params"] = {name: value for name, value in fields.items() if value is not None}
    else:
        options["json"] = fields

    def ask(connection: Connection) -> object:
        if operation.answer is bytes:
            return connection.raw(operation.method, path, timeout_s=LONG_S, **options)
        answer = connection.ask(operation.method, path, timeout_s=wait_s, **options)
        return None if operation.answer in (None, type(None)) else decoded(operation.answer, answer)

    return in_thread(ask, noun._connection) if operation.is_async else ask(noun._connection)
