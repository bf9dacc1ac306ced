"""Server-sent events of a run (WHATWG HTML, 9.2). One `data:` line an event, its `type` inside the JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse

from timestep_lab.model.errors import LabError
from timestep_lab.model.events import Event
from timestep_lab.server.detached import detached
from timestep_lab.server.error_response import error_object

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
SSE: dict[int | str, dict[str, Any]] = {
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


def encode(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _broken(error: Exception) -> bytes:
    known = error if isinstance(error, LabError) else LabError("The lab met a fault of its own.", "Its log says more.")
    return encode({"type": "error", **error_object(known)})
