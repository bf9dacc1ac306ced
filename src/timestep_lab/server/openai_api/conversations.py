"""Conversations of the caller: items in the order they were added, with the ids they came with."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import Field

from timestep_lab.server.api.schemas import Strict
from timestep_lab.server.labs import CurrentLab
from timestep_lab.server.openai_api.calling import After, Id, Limit, Object, Order, deleted, listed, unix, window
from timestep_lab.server.openai_api.kept import ConversationRecord, Conversations, normal_items
from timestep_lab.store.base import in_thread

router = APIRouter(prefix="/conversations")


class ConversationBody(Strict):
    items: list[dict[str, Any]] | None = Field(None, max_length=1000)
    metadata: dict[str, Any] | None = None


class ConversationPatch(Strict):
    metadata: dict[str, Any] | None


class ItemsBody(Strict):
    items: list[dict[str, Any]] = Field(max_length=1000)


@router.post("", response_model=Object)
async def create_conversation(lab: CurrentLab, body: ConversationBody | None = None) -> Object:
    given = body or ConversationBody()  # type: ignore[call-arg]
    conversations = Conversations(lab.store)
    return shown(await in_thread(conversations.create, given.metadata or {}, normal_items(given.items or [])))


@router.get("/{conversation_id}", response_model=Object)
async def get_conversation(conversation_id: Id, lab: CurrentLab) -> Object:
    return shown(await in_thread(Conversations(lab.store).table.get, conversation_id))


@router.post("/{conversation_id}", response_model=Object)
async def update_conversation(conversation_id: Id, body: ConversationPatch, lab: CurrentLab) -> Object:
    update = Conversations(lab.store).table.update
    return shown(await in_thread(update, conversation_id, metadata=body.metadata or {}))


@router.delete("/{conversation_id}", response_model=Object)
async def delete_conversation(conversation_id: Id, lab: CurrentLab) -> Object:
    await in_thread(Conversations(lab.store).delete, conversation_id)
    return deleted(conversation_id, "conversation.deleted")


@router.post("/{conversation_id}/items", response_model=Object)
async def add_items(conversation_id: Id, body: ItemsBody, lab: CurrentLab) -> Object:
    items = normal_items(body.items)
    await in_thread(Conversations(lab.store).append, conversation_id, items)
    return listed(items)


@router.get("/{conversation_id}/items", response_model=Object)
async def list_items(
    conversation_id: Id, lab: CurrentLab, limit: Limit = 20, after: After = None, order: Order = "desc"
) -> Object:
    items = await in_thread(Conversations(lab.store).items, conversation_id)
    return window(items, after=after, limit=limit, order=order)


@router.get("/{conversation_id}/items/{item_id}", response_model=Object)
async def get_item(conversation_id: Id, item_id: Id, lab: CurrentLab) -> Object:
    return dict(await in_thread(Conversations(lab.store).item, conversation_id, item_id))


@router.delete("/{conversation_id}/items/{item_id}", response_model=Object)
async def delete_item(conversation_id: Id, item_id: Id, lab: CurrentLab) -> Object:
    conversations = Conversations(lab.store)
    await in_thread(conversations.delete_item, conversation_id, item_id)
    return shown(await in_thread(conversations.table.get, conversation_id))


def shown(record: ConversationRecord) -> Object:
    return {
        "id": record.id, "object": "conversation", "created_at": unix(record.created_at), "metadata": dict(record.metadata),
    }  # fmt: skip
