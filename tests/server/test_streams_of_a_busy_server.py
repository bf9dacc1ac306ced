"""Server-sent events of a run while the event loop keeps up, and while it does not."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest

from timestep_lab.model.events import Event, ItemUpdated
from timestep_lab.runtime.live_run import Unread
from timestep_lab.server.api.changes import event_stream

WORDS = [f"{n} " for n in range(20)]


async def said(blocked_s: float) -> list[str]:
    """The deltas that a reader gets while each word comes after 5 ms and something else blocks the loop again and again."""
    unread = Unread()

    async def events() -> AsyncIterator[Event]:
        while (event := await unread.get()) is not None:
            yield event

    async def speak() -> None:
        for word in WORDS:
            unread.put(ItemUpdated(item_id="m", field="text", delta=word))
            await asyncio.sleep(0.005)
        unread.end()

    async def block() -> None:
        while True:
            time.sleep(blocked_s)
            await asyncio.sleep(0)

    blocking = [asyncio.create_task(block())] if blocked_s else []
    speaking = asyncio.create_task(speak())
    response = await event_stream(events())
    pieces = [bytes(piece).decode() async for piece in response.body_iterator]  # type: ignore[arg-type]
    await speaking
    for task in blocking:
        task.cancel()
    assert pieces.pop() == "data: [DONE]\n\n"
    return [json.loads(piece.removeprefix("data: "))["delta"] for piece in pieces]


@pytest.mark.parametrize(
    ("blocked_s", "most"), [(0.0, len(WORDS)), (0.04, len(WORDS) * 3 // 4)], ids=["in time", "late"]
)
async def test_a_server_that_is_late_sends_words_together_and_leaves_none_out(blocked_s: float, most: int) -> None:
    deltas = await said(blocked_s)
    assert "".join(deltas) == "".join(WORDS)
    assert len(deltas) <= most
    assert blocked_s or len(deltas) > 1
