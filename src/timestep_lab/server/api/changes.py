"""Change notifications: a websocket at `/api/v1/changes`, and server-sent events.

After every transaction that changed rows of the caller, in any process, the server sends one JSON text `[[topic, id],
…]`. An empty id means that notifications may have been lost: reload everything of that topic. The client sends nothing.
It authenticates with a bearer token or with the cookie of a page. `?topic=…`, once or repeated, restricts the topics.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

from fastapi import APIRouter, Query, WebSocket, WebSocketDisconnect
from starlette.responses import StreamingResponse

from timestep_lab.model.errors import LabError
from timestep_lab.model.events import Event, ItemUpdated
from timestep_lab.server.errors import error_object
from timestep_lab.server.labs import CurrentLab
from timestep_lab.server.panel import detached
from timestep_lab.store.base import Change, Topic

# --- Server-sent events of a run (WHATWG HTML, 9.2). Each event is one `data:` line, its `type` is in the JSON


HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
SSE: dict[int | str, dict[str, object]] = {
    200: {"content": {"text/event-stream": {}}, "description": "The final result; with `stream`, server-sent events."}
}
ALIVE = b": alive\n\n"
"""An SSE comment, ignored by clients, that shows that the connection is alive."""


LATE_S, GATHER_LATE_S = 0.02, 0.1
"""When the event loop is later than this, in seconds, the deltas of a stream are gathered for that long: sending each costs as much as
receiving it, and a server that sends every one of hundreds of streams falls behind further and further."""


class _Lateness:
    """How late the event loop is, in seconds, measured while there are streams. It falls slowly, so that streams do not alternate."""

    TICK_S, KEPT = 0.05, 0.95

    def __init__(self) -> None:
        self.seconds = 0.0
        self._streams = 0
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        self._streams += 1
        if self._task is None or self._task.done() or self._task.get_loop() is not asyncio.get_running_loop():
            self.seconds = 0.0
            self._task = asyncio.create_task(self._measure(), name="timestep-lab lateness")
        try:
            yield
        finally:
            self._streams -= 1

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        while self._streams:
            due = loop.time() + self.TICK_S
            await asyncio.sleep(self.TICK_S)
            self.seconds = max(loop.time() - due, self.seconds * self.KEPT)


_lateness = _Lateness()


async def event_stream(events: AsyncIterator[Event]) -> StreamingResponse:
    """Each event as JSON, then `data: [DONE]`. An error before the first event is an HTTP error; a later one is the
    event `{"type": "error"}`.
    """

    async def lines() -> AsyncIterator[bytes]:
        with _lateness.watched():
            async for event in events:
                yield encode(event.to_json())
                if isinstance(event, ItemUpdated) and _lateness.seconds > LATE_S:
                    await asyncio.sleep(GATHER_LATE_S)  # Meanwhile the run joins the deltas that follow.
        yield b"data: [DONE]\n\n"

    stream = await detached(lines(), _broken, alive=ALIVE)
    return StreamingResponse(stream, media_type="text/event-stream", headers=HEADERS)


def encode(value: object) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _broken(error: Exception) -> bytes:
    known = error if isinstance(error, LabError) else LabError("Internal error.", "See the server's log.")
    return encode({"type": "error", **error_object(known)})


router = APIRouter()
GATHER_S = 0.02


@router.websocket("/api/v1/changes")
async def changes(socket: WebSocket, lab: CurrentLab, topic: Annotated[list[Topic], Query()] = []) -> None:  # noqa: B006 - FastAPI copies the default
    loop, waiting = asyncio.get_running_loop(), dict[tuple[str, str], None]()
    some = asyncio.Event()

    def note(change: Change) -> None:
        waiting[change.topic, change.id] = None
        some.set()

    def changed(change: Change) -> None:
        if topic and change.topic not in topic:
            return
        with contextlib.suppress(
            RuntimeError
        ):  # The loop is closed: the server has stopped, and its clients are disconnected.
            loop.call_soon_threadsafe(note, change)

    end = lab.store.subscribe(changed)
    await socket.accept()
    telling = asyncio.create_task(_send(socket, waiting, some))
    try:
        while True:
            await socket.receive_text()
    except WebSocketDisconnect:
        pass
    finally:
        end()
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect):
            await telling


async def _send(socket: WebSocket, waiting: dict[tuple[str, str], None], some: asyncio.Event) -> None:
    """Queue changes without duplicates, so that the queue of a slow client stays bounded."""
    while True:
        await some.wait()
        await asyncio.sleep(GATHER_S)
        some.clear()
        batch = list(waiting)
        waiting.clear()
        await socket.send_text(json.dumps(batch))
