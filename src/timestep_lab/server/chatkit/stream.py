"""Translates a run's events into ChatKit events. Items are already stored; their ids are added to `context.kept`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from chatkit import types as ck

from timestep_lab.model.events import (
    Event,
    ItemAdded,
    ItemDone,
    ItemReplaced,
    ItemUpdated,
    Progress,
    RunCancelled,
    RunFailed,
    RunStopped,
)
from timestep_lab.model.records import ThreadItem
from timestep_lab.server.chatkit.items import to_item
from timestep_lab.server.chatkit.store import ChatKitContext

THOUGHT_STEP = 80
"""A thought is sent again after this many new characters, or a quarter more: each update contains the whole text."""


async def chatkit_events(events: AsyncIterator[Event], context: ChatKitContext) -> AsyncIterator[Any]:
    translation = Translation(context)
    async for event in events:
        for shown in translation.of(event):
            yield shown
    for shown in translation.rest():
        yield shown


class Translation:
    """The state of the translation of one stream."""

    def __init__(self, context: ChatKitContext) -> None:
        self._kept = context.kept
        self._growing: dict[str, ThreadItem] = {}
        self._text: dict[str, str] = {}
        self._thought_shown: dict[str, int] = {}
        self._for_client: dict[str, ThreadItem] = {}
        """Calls of client tools; they are executed when the stream ends, so they are sent last."""

    def of(self, event: Event) -> Iterator[Any]:
        if isinstance(event, ItemAdded):
            yield from self._added(event.item)
        elif isinstance(event, ItemUpdated):
            yield from self._updated(event)
        elif isinstance(event, ItemDone):
            yield from self._done(event.item)
        elif isinstance(event, ItemReplaced):
            yield from self._replaced(event.item)
        elif isinstance(event, Progress):
            yield ck.ProgressUpdateEvent(text=event.text)
        elif isinstance(event, RunFailed):
            message = " ".join(str(event.error[part]) for part in ("message", "next_step") if event.error.get(part))
            yield ck.ErrorEvent(code="custom", message=message, allow_retry=True)
        elif isinstance(event, RunStopped):
            yield ck.NoticeEvent(level="warning", message=str(event.error["message"]))
        elif isinstance(event, RunCancelled):
            yield ck.NoticeEvent(level="info", message="Stopped.")

    def rest(self) -> Iterator[Any]:
        for item in self._for_client.values():
            yield ck.ThreadItemDoneEvent(item=to_item(item))

    def _added(self, item: ThreadItem) -> Iterator[Any]:
        self._kept.add(item.id)
        if item.type != "client_tool_call":
            self._growing[item.id] = item
            yield ck.ThreadItemAddedEvent(item=to_item(item))

    def _updated(self, event: ItemUpdated) -> Iterator[Any]:
        item = self._growing.get(event.item_id)
        if item is None or event.field != "text":
            return
        before = self._text.get(item.id, "")
        text = self._text[item.id] = before + event.delta
        if item.type == "assistant_message":
            if not before:
                yield _update(item, ck.AssistantMessageContentPartAdded(content_index=0, content=_content("")))
            yield _update(item, ck.AssistantMessageContentPartTextDelta(content_index=0, delta=event.delta))
        elif item.type == "reasoning":
            yield from self._thought(item, text)

    def _thought(self, item: ThreadItem, text: str) -> Iterator[Any]:
        shown = self._thought_shown.get(item.id)
        task = ck.ThoughtTask(content=text)
        if shown is None:
            yield _update(item, ck.WorkflowTaskAdded(task_index=0, task=task))
        elif len(text) >= max(shown + THOUGHT_STEP, shown * 1.25):
            yield _update(item, ck.WorkflowTaskUpdated(task_index=0, task=task))
        else:
            return
        self._thought_shown[item.id] = len(text)

    def _done(self, item: ThreadItem) -> Iterator[Any]:
        if item.type == "user_message":
            return  # ChatKit announced it before the run started.
        self._kept.add(item.id)
        if item.type == "client_tool_call":
            self._for_client[item.id] = item
            return
        shown = to_item(item)
        if self._text.get(item.id) and isinstance(shown, ck.AssistantMessageItem) and shown.content:
            yield _update(item, ck.AssistantMessageContentPartDone(content_index=0, content=shown.content[0]))
        yield ck.ThreadItemDoneEvent(item=shown)

    def _replaced(self, item: ThreadItem) -> Iterator[Any]:
        self._kept.add(item.id)
        if item.id in self._for_client:
            self._for_client[item.id] = item
        else:
            yield ck.ThreadItemReplacedEvent(item=to_item(item))


def _content(text: str) -> ck.AssistantMessageContent:
    return ck.AssistantMessageContent(text=text)


def _update(item: ThreadItem, update: Any) -> ck.ThreadItemUpdatedEvent:
    return ck.ThreadItemUpdatedEvent(item_id=item.id, update=update)
