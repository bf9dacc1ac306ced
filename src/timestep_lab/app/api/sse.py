"""Server-sent events of a run (WHATWG HTML, 9.2). One `data:` line an event, its `type` inside the JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse

from timestep_lab.types.events import Event

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def event_stream(events: AsyncIterator[Event]) -> StreamingResponse:
    """Each event as JSON, then `data: [DONE]`. The run goes on if the reader leaves; what was said is kept."""

    async def lines() -> AsyncIterator[bytes]:
        async for event in events:
            yield encode(event.to_json())
        yield b"data: [DONE]\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers=HEADERS)


def encode(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
