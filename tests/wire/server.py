"""The loopback server itself: a real HTTP server in a thread, which plays its script and remembers what it was sent."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.wire.script import AtOnce, Cut, Fault, FaultInStream, Instead, Raw, Reply, Silence, Step


class Protocol_(Protocol):
    """A module of this package."""

    PATH: str
    """Where answers are asked for, by POST."""
    MODELS_PATH: str
    MEDIA_TYPE: str

    def pieces(self, reply: Reply, request: Mapping[str, Any]) -> Iterator[bytes]: ...
    def fault_piece(self, fault: FaultInStream) -> bytes: ...
    def fault_body(self, fault: Fault) -> dict[str, Any]: ...
    def models_body(self, names: list[str]) -> dict[str, Any]: ...
    def at_once(self, reply: Reply, request: Mapping[str, Any]) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Recorded:
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


class ConnectionLost(Exception):
    """Raised in the middle of a response: the server then drops the connection."""


class WireServer:
    """One protocol on one port. Steps are played in order; with none left, the last one is played again."""

    def __init__(self, protocol: Any, *, prefix: str = "") -> None:
        self._protocol = protocol
        self._steps: deque[Step] = deque()
        self.requests: list[Recorded] = []
        self.models = ["model-a", "model-b"]
        self.client_left = threading.Event()
        """Set when a client hung up before its answer was complete."""
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        routes = [
            Route(prefix + protocol.PATH, self._answer, methods=["POST"]),
            Route(prefix + protocol.MODELS_PATH, self._list, methods=["GET"]),
        ]
        config = uvicorn.Config(Starlette(routes=routes), log_level=60, lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def will(self, *steps: Step) -> WireServer:
        self._steps.extend(steps)
        return self

    def forget(self) -> WireServer:
        """Ready for the next test."""
        self._steps.clear()
        self.requests.clear()
        self.client_left.clear()
        return self

    def __enter__(self) -> WireServer:
        self._socket.listen(128)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()

    def _serve(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    async def _list(self, request: Request) -> Response:
        self.requests.append(Recorded(request.url.path, dict(request.headers), {}))
        return JSONResponse(self._protocol.models_body(self.models))

    async def _answer(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.requests.append(Recorded(request.url.path, dict(request.headers), body))
        step = self._steps.popleft() if len(self._steps) > 1 else self._steps[0]
        if isinstance(step, Fault):
            return JSONResponse(self._protocol.fault_body(step), step.status, headers=dict(step.headers))
        if isinstance(step, Instead):
            return Response(step.body, step.status, media_type=step.media_type)
        if isinstance(step, AtOnce):
            return JSONResponse(self._protocol.at_once(step.reply, body))
        if isinstance(step, Raw):
            return StreamingResponse(self._raw(step), media_type=self._protocol.MEDIA_TYPE)
        return StreamingResponse(self._stream(step, body), media_type=self._protocol.MEDIA_TYPE)

    async def _stream(self, step: Step, body: dict[str, Any]) -> AsyncIterator[bytes]:
        if isinstance(step, Silence) and step.after is None:
            await self._unless_left(asyncio.sleep(step.seconds))
        assert not isinstance(step, Fault | Instead | AtOnce | Raw)
        reply = step if isinstance(step, Reply) else step.then if isinstance(step, Silence) else step.reply
        for number, piece in enumerate(self._protocol.pieces(reply, body)):
            if number and reply.pause_s:
                await self._unless_left(asyncio.sleep(reply.pause_s))
            if isinstance(step, Silence) and number == step.after:
                await self._unless_left(asyncio.sleep(step.seconds))
            if isinstance(step, Cut) and number == step.after:
                raise ConnectionLost
            if isinstance(step, FaultInStream) and number == step.after:
                yield self._protocol.fault_piece(step)
                return
            yield piece

    async def _raw(self, step: Raw) -> AsyncIterator[bytes]:
        for piece in step.pieces:
            yield piece
            if step.apart_s:
                await self._unless_left(asyncio.sleep(step.apart_s))
        if step.silent_s:
            await self._unless_left(asyncio.sleep(step.silent_s))
        if step.abrupt:
            raise ConnectionLost

    async def _unless_left(self, waiting: Any) -> None:
        try:
            await waiting
        except asyncio.CancelledError:
            self.client_left.set()
            raise


def sse(data: Any, event: str | None = None) -> bytes:
    """One server-sent event."""
    head = f"event: {event}\n" if event else ""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"{head}data: {text}\n\n".encode()
