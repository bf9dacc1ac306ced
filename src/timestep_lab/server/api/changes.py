"""Change notifications: a websocket at `/api/v1/changes`, and server-sent events.

After every transaction that changed rows of the caller, in any process, the server sends one JSON text `[[topic, id],
…]`. An empty id means that notifications may have been lost: reload everything of that topic. The client sends nothing.
It authenticates with a bearer token or with the cookie of a page. `?topic=…`, once or repeated, restricts the topics.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, WebSocket, WebSocketDisconnect
from starlette.responses import StreamingResponse

from timestep_lab.model.errors import LabError
from timestep_lab.model.events import Event
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


async def event_stream(events: AsyncIterator[Event]) -> StreamingResponse:
    """Each event as JSON, then `data: [DONE]`. An error before the first event is an HTTP error; a later one is the
    event `{"type": "error"}`.
    """

    async def lines() -> AsyncIterator[bytes]:
        async for event in events:
            yield encode(event.to_json())
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
    telling = asyncio.create_task(_tell(socket, waiting, some))
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


async def _tell(socket: WebSocket, waiting: dict[tuple[str, str], None], some: asyncio.Event) -> None:
    """Queue changes without duplicates, so that the queue of a slow client stays bounded."""
    while True:
        await some.wait()
        await asyncio.sleep(GATHER_S)
        some.clear()
        batch = list(waiting)
        waiting.clear()
        await socket.send_text(json.dumps(batch))
