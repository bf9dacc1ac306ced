"""What changes, told as it happens: a websocket at `/api/v1/changes`.

After a transaction that changed rows of the caller, whichever process made it, comes one JSON text `[[topic, id], …]`. An empty id means
that some changes went unheard: read again whatever of that topic you show. The client sends nothing. It signs in with a bearer token,
or with the cookie of a page. With `?topic=…`, once or more, it hears of those topics only.
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

# --- Server-sent events of a run (WHATWG HTML, 9.2). One `data:` line an event, its `type` inside the JSON


HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
SSE: dict[int | str, dict[str, object]] = {
    200: {"content": {"text/event-stream": {}}, "description": "How it ended; with `stream`, its events as they come."}
}
ALIVE = b": alive\n\n"
"""A comment, which readers pass over: it tells a slow answer from a server that is gone."""


async def event_stream(events: AsyncIterator[Event]) -> StreamingResponse:
    """Each event as JSON, then `data: [DONE]`. What goes wrong before the first is answered as an error; after it, as `{"type": "error"}`."""

    async def lines() -> AsyncIterator[bytes]:
        async for event in events:
            yield encode(event.to_json())
        yield b"data: [DONE]\n\n"

    stream = await detached(lines(), _broken, alive=ALIVE)
    return StreamingResponse(stream, media_type="text/event-stream", headers=HEADERS)


def encode(value: object) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _broken(error: Exception) -> bytes:
    known = error if isinstance(error, LabError) else LabError("The lab met a fault of its own.", "Its log says more.")
    return encode({"type": "error", **error_object(known)})


router = APIRouter()
GATHER_S = 0.02


@router.websocket("/api/v1/changes")
async def changes(socket: WebSocket, lab: CurrentLab, topic: Annotated[list[Topic], Query()] = []) -> None:  # noqa: B006 - FastAPI copies it
    loop, waiting = asyncio.get_running_loop(), dict[tuple[str, str], None]()
    some = asyncio.Event()

    def note(change: Change) -> None:
        waiting[change.topic, change.id] = None
        some.set()

    def changed(change: Change) -> None:
        if topic and change.topic not in topic:
            return
        with contextlib.suppress(RuntimeError):  # The loop has closed: the server is gone, and so is the reader.
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
    """Many changes of one thing, while the reader is busy, are told once: what waits cannot grow beyond what there is."""
    while True:
        await some.wait()
        await asyncio.sleep(GATHER_S)
        some.clear()
        batch = list(waiting)
        waiting.clear()
        await socket.send_text(json.dumps(batch))
