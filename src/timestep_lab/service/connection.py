"""The wire to one served lab, for one token. Requests block and are safe from any thread; streams of events are async."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import AsyncGenerator, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from timestep_lab import __version__
from timestep_lab.model.errors import AuthError, StoreUnavailableError, UsageError
from timestep_lab.model.events import Event
from timestep_lab.model.shown_url import without_credentials
from timestep_lab.service import decode
from timestep_lab.service.failures import error_of, rebuilt, unreachable

CONNECT_S = 10.0
ANSWER_S = 120.0
"""A stream says at least every 15 s that it is alive; one question takes no longer than this, but for those that say so."""
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
                f"{without_credentials(address)} is no address of a served lab.", "Write it as http://host:port."
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
                    told = json.loads(text)
                    if told["type"] == "error":
                        raise rebuilt(told["error"])
                    yield decode.event(told)
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
