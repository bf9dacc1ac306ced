"""The thread as a reader sees it, written while a run goes on.

Every change is in the store before the event that tells of it, except for growing text: that is told at once and written a few
times a second, so that a killed process leaves what it had said.

Writes happen one after the other and are not broken off: a run that is cancelled in the middle of one finds it done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from timestep_lab.model.errors import LabError
from timestep_lab.model.events import Event, ItemAdded, ItemDone, ItemReplaced, ItemUpdated
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import Json, RunRecord, ThreadItem
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.store.store import Store

T = TypeVar("T")
logger = logging.getLogger("timestep_lab")

WRITE_EVERY_S = 0.25
"""How old the stored text of a growing item may be."""

CUT_OFF = "The run ended before this call did."

ID_KIND = {
    "assistant_message": "message", "user_message": "message", "reasoning": "reasoning", "tool_call": "function_call",
    "client_tool_call": "client_tool_call",
}  # fmt: skip


class ItemLog:
    """The items of one run in one thread."""

    def __init__(self, store: Store, run: RunRecord, emit: Callable[[Event], None]) -> None:
        self._store, self._run, self._emit = store, run, emit
        self._items: dict[str, ThreadItem] = {}
        self._grown: dict[str, tuple[str, list[str]]] = {}
        """Item id to the field that grows and the pieces not yet part of it."""
        self._dirty: set[str] = set()
        """Ids of items whose stored text is behind."""
        self._one_at_a_time = asyncio.Lock()
        self._closing = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self.agent: str | None = run.agent

    def adopt(self, items: list[ThreadItem]) -> None:
        """Items that this run wrote earlier, before it was paused."""
        self._items.update((item.id, item) for item in items)

    def get(self, item_id: str) -> ThreadItem:
        if grown := self._grown.pop(item_id, None):
            item, (field, pieces) = self._items[item_id], grown
            text = f"{item.data.get(field, '')}{''.join(pieces)}"
            self._items[item_id] = replace(item, data={**item.data, field: text})
            self._dirty.add(item_id)
        return self._items[item_id]

    def mine(self, item_type: str) -> list[ThreadItem]:
        return [self.get(item.id) for item in list(self._items.values()) if item.type == item_type]

    async def add(self, item_type: str, data: dict[str, Json]) -> ThreadItem:
        """Open an item: stored, then told."""
        item = await _unbroken(self._append(item_type, data))
        self._emit(ItemAdded(item=item))
        return item

    async def add_done(self, item_type: str, data: dict[str, Json]) -> ThreadItem:
        """An item that is whole from the beginning."""
        item = await _unbroken(self._append(item_type, data))
        self._emit(ItemDone(item=item))
        return item

    def grow(self, item_id: str, delta: str, field: Literal["text", "arguments"] = "text") -> None:
        self._grown.setdefault(item_id, (field, []))[1].append(delta)
        self._emit(ItemUpdated(item_id=item_id, field=field, delta=delta))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_now_and_then())

    async def finish(self, item_id: str, **data: Json) -> ThreadItem:
        item = await _unbroken(self._change(item_id, data))
        self._emit(ItemDone(item=item))
        return item

    async def change(self, item_id: str, **data: Json) -> ThreadItem:
        """Change an item that was done."""
        item = await _unbroken(self._change(item_id, data))
        self._emit(ItemReplaced(item=item))
        return item

    async def close(self) -> None:
        """Write what is still unwritten; half-said messages and unfinished calls become what they are."""
        self._closing.set()
        if self._writer:
            await asyncio.wait([self._writer])
        async with self._one_at_a_time:
            left = [item for item in map(self.get, list(self._items)) if item.data.get("status") == "in_progress"]
        for item in left:
            if item.type == "tool_call":
                await self.change(item.id, status="failed", error=CUT_OFF)
            else:
                await self.finish(item.id, status="incomplete")
        self._closing.clear()

    async def _append(self, item_type: str, data: dict[str, Json]) -> ThreadItem:
        draft = ThreadItem(
            id=new_id(ID_KIND.get(item_type, "item")), thread_id=self._run.thread_id, user_id=self._run.user_id,
            type=item_type, data=data, run_id=self._run.id, trace_id=self._run.trace_id, agent=self.agent,
        )  # fmt: skip
        async with self._one_at_a_time:
            [item] = await in_thread(self._store.threads.append_items, self._run.thread_id, [draft])
            self._items[item.id] = item
        return item

    async def _change(self, item_id: str, data: dict[str, Json]) -> ThreadItem:
        async with self._one_at_a_time:
            known = self.get(item_id)
            item = replace(known, data={**known.data, **data})
            self._items[item_id] = item
            self._dirty.discard(item_id)
            await in_thread(self._store.threads.update_item, item)
        return item

    async def _write_now_and_then(self) -> None:
        while (self._grown or self._dirty) and not self._closing.is_set():
            await _at_most(WRITE_EVERY_S, self._closing)
            for item_id in dict.fromkeys([*self._grown, *self._dirty]):
                try:
                    await self._change(item_id, {})
                except LabError as error:  # The item's end is written too, and raises when that fails.
                    logger.warning("what run %s said so far could not be stored: %s", self._run.id, error)


async def _at_most(seconds: float, event: asyncio.Event) -> None:
    waiting = asyncio.ensure_future(event.wait())
    await asyncio.wait([waiting], timeout=seconds)
    waiting.cancel()


async def _unbroken(work: Coroutine[Any, Any, T]) -> T:
    return await asyncio.shield(asyncio.create_task(work))
