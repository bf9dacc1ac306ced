"""Conversations (items in the order in which they were added, with their original ids) and stored responses."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from pydantic import Field

from timestep_lab.model.clock import to_naive_utc, utc_now
from timestep_lab.model.codec import Json, JsonObject, list_of, objects_of
from timestep_lab.model.errors import ConflictError, NotFoundError, UsageError
from timestep_lab.model.ids import new_id
from timestep_lab.server.api.operations import Strict
from timestep_lab.server.labs import CurrentLab
from timestep_lab.server.openai_api.calling import (
    After,
    Id,
    Include,
    Limit,
    Object,
    Order,
    check_include,
    content_of,
    deleted,
    listed,
    unix,
    window,
)
from timestep_lab.service.models import why_incomplete, why_unreadable
from timestep_lab.store.base import Statement, in_thread
from timestep_lab.store.table import Table, stored_json

if TYPE_CHECKING:
    from timestep_lab.store.store import Store


# --- Conversations and responses in the store. Everything here blocks


Item = Mapping[str, Json]
LONGEST_CHAIN = 1000
PREFIXES = {
    "message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationRecord:
    id: str
    user_id: str
    metadata: Mapping[str, Json] = field(default_factory=dict)
    created_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationItem:
    id: str
    user_id: str
    conversation_id: str
    position: int
    item: Mapping[str, Json]
    created_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseRecord:
    id: str
    user_id: str
    previous_id: str | None
    conversation_id: str | None
    input: tuple[Item, ...]
    """The items that this turn added, as Responses items."""
    output: tuple[Item, ...]
    response: Mapping[str, Json]
    """The response as sent to the caller."""
    created_at: datetime = field(default_factory=utc_now)


class Conversations:
    """A user's conversations. Items are ordered by insertion, independent of clocks."""

    def __init__(self, store: Store) -> None:
        self._db, self._user_id = store.db, store.user_id
        self.table = Table(store.db, store.user_id, "conversations", ConversationRecord, noun="conversation")
        self._items = Table(
            store.db, store.user_id, "conversation_items", ConversationItem, noun="conversation item", order="position"
        )

    def create(self, metadata: Mapping[str, Json], items: Sequence[Item]) -> ConversationRecord:
        record = ConversationRecord(id=new_id("conversation"), user_id=self._user_id, metadata=dict(metadata))
        try:
            self._db.write(self._user_id, [self.table.insert_statement(record), *self.appending(record.id, items)])
        except ConflictError as error:
            raise _taken() from error
        return record

    def delete(self, conversation_id: str) -> None:
        self.table.get(conversation_id)
        mine = [self._user_id, conversation_id]
        self._db.write(
            self._user_id,
            [
                Statement("delete from conversation_items where user_id = $1 and conversation_id = $2", mine),
                Statement("delete from conversations where user_id = $1 and id = $2", mine),
            ],
        )

    def items(self, conversation_id: str) -> list[Item]:
        """The items, oldest first. Raises `NotFoundError`."""
        self.table.get(conversation_id)
        return [record.item for record in self._items.find(conversation_id=conversation_id)]

    def item(self, conversation_id: str, item_id: str) -> Item:
        record = self._items.try_get(item_id)
        if record is None or record.conversation_id != conversation_id:
            raise NotFoundError(
                f"The conversation {conversation_id!r} has no item {item_id!r}.",
                "List the conversation's items to see its ids.",
            )
        return record.item

    def try_item(self, item_id: str) -> Item | None:
        """The item of any conversation."""
        record = self._items.try_get(item_id)
        return record.item if record else None

    def append(self, conversation_id: str, items: Sequence[Item]) -> None:
        """Append items, atomically. Raises `NotFoundError`, and `ConflictError` if an item id is taken."""
        self.table.get(conversation_id)
        try:
            self._db.write(self._user_id, self.appending(conversation_id, items))
        except ConflictError as error:
            self.table.get(conversation_id)  # Raises if it was deleted concurrently.
            raise _taken() from error

    def appending(self, conversation_id: str, items: Sequence[Item]) -> list[Statement]:
        """The statements of `append`, for a larger transaction."""
        if not items:
            return []
        now, count = to_naive_utc(utc_now()), len(items)
        taken = Statement(
            "update conversations set next_item = next_item + $3 where user_id = $1 and id = $2 returning id",
            [self._user_id, conversation_id, count],
            expect=1,
        )
        return [taken, *(self._insert(conversation_id, item, n - count, now) for n, item in enumerate(items))]

    def _insert(self, conversation_id: str, item: Item, offset: int, now: datetime) -> Statement:
        """An insert statement. `offset` counts back from the counter, which is already past the last item."""
        return Statement(
            "insert into conversation_items (id, user_id, conversation_id, position, item, created_at) "
            f"select $3, $1, $2, next_item + {offset}, $4, $5 from conversations where user_id = $1 and id = $2",
            [self._user_id, conversation_id, item["id"], json.dumps(item, ensure_ascii=False), now],
        )

    def delete_item(self, conversation_id: str, item_id: str) -> None:
        self.item(conversation_id, item_id)
        self._items.delete(item_id)


class Responses:
    def __init__(self, store: Store) -> None:
        self._db, self._user_id = store.db, store.user_id
        self.table = Table(store.db, store.user_id, "responses", ResponseRecord, noun="response")
        self._conversations = Conversations(store)

    def keep(self, record: ResponseRecord, *, store: bool) -> None:
        """Store a response and, in the same transaction, add its items to its conversation."""
        statements = [self.table.insert_statement(record)] if store else []
        if record.conversation_id:
            input_items = [{**item, "id": _item_id(item)} for item in record.input]
            statements += self._conversations.appending(record.conversation_id, [*input_items, *record.output])
        if not statements:
            return
        try:
            self._db.write(self._user_id, statements)
        except ConflictError as error:
            if record.conversation_id:
                self._conversations.table.get(record.conversation_id)  # Raises if it was deleted concurrently.
                raise _taken() from error
            raise

    def history(self, response_id: str) -> list[Item]:
        """All items up to and including this response, oldest first. Raises `NotFoundError` if one of the chain is
        missing.
        """
        turns: list[ResponseRecord] = []
        next_id: str | None = response_id
        while next_id is not None:
            if len(turns) == LONGEST_CHAIN:
                raise UsageError(f"The chain of responses is longer than {LONGEST_CHAIN}.", "Use a conversation.")
            turns.append(self.table.get(next_id))
            next_id = turns[-1].previous_id
        return [item for turn in reversed(turns) for item in (*turn.input, *turn.output)]

    def items(self, ids: Sequence[str]) -> dict[str, Item]:
        """The items with these ids in stored responses and in conversations; unknown ids are left out."""
        found: dict[str, Item] = {}
        for id in dict.fromkeys(ids):
            if (item := self._item(id)) is not None:
                found[id] = item
        return found

    def _item(self, id: str) -> Item | None:
        if (kept := self._conversations.try_item(id)) is not None:
            return kept
        # An item of a response has no row of its own. Outputs first: an item that was sent back is in many inputs.
        for column in ("output", "input"):
            rows = self._db.query(
                self._user_id,
                f"select {column} from responses where user_id = $1 and position($2 in cast({column} as text)) > 0 "
                "order by created_at limit 1",
                [self._user_id, json.dumps(id, ensure_ascii=False)],
            ).rows
            for item in objects_of(stored_json(rows[0][0])) if rows else ():
                if item.get("id") == id:
                    return item
        return None


def _taken() -> ConflictError:
    return ConflictError(
        "An item with this id is already in a conversation.", "Omit the ids of copied items.", param="items"
    )


def normal_items(
    given: str | Sequence[Mapping[str, object]], find: Callable[[Sequence[str]], Mapping[str, Item]] = lambda ids: {}
) -> list[Item]:
    """Normalised Responses items, with `type` and `id`, and message content as parts. Ids given by the caller are kept.
    References are replaced by the items that `find` returns.

    Raises `UsageError` for an invalid item, and `NotFoundError` for a reference to an unknown one.
    """
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    normal = [_normal(dict(item), n) for n, item in enumerate(items)]
    named = [str(item["id"]) for item in normal if item["type"] == REFERENCE]
    found = find(named) if named else {}
    if missing := next((id for id in named if id not in found), None):
        raise NotFoundError(f"There is no stored item {missing!r}.", "Send the item itself.", param="input")
    return [found[str(item["id"])] if item["type"] == REFERENCE else item for item in normal]


def _normal(item: dict[str, Any], place: int) -> Item:
    kind = item.get("type") or (REFERENCE if set(item) <= {"id", "type"} and item.get("id") else "message")
    if not isinstance(kind, str) or (kind == "message" and item.get("role") not in ROLES):
        raise UsageError(
            f"Item {place} is not a message and has no type.", f"A message has a role: {', '.join(ROLES)}.",
            param=f"input[{place}]",
        )  # fmt: skip
    known = str(item["id"]) if item.get("id") else _item_id({**item, "type": kind})
    item = {"id": known, "type": kind, **{name: value for name, value in item.items() if name not in ("id", "type")}}
    if kind == "message":
        content = content_of(item.get("content"), f"Item {place}", f"input[{place}]")
        item["content"] = _content(content, item["role"])
        item.setdefault("status", "completed")
    parts = [part for name in ("content", "output") for part in list_of(item.get(name))]
    if why := why_incomplete(item) or next(filter(None, map(why_unreadable, parts)), ""):
        raise UsageError(f"Item {place} is invalid: {why}.", "See the API reference.", param=f"input[{place}]")
    return item


ROLES = ("user", "assistant", "system", "developer")
REFERENCE = "item_reference"


def _content(content: str | list[Mapping[str, Json]], role: str) -> list[Json]:
    if isinstance(content, str):
        part: dict[str, Json] = {"type": "input_text", "text": content}
        return [{"type": "output_text", "text": content, "annotations": []} if role == "assistant" else part]
    return [*content]


def _item_id(item: Item) -> str:
    kind = str(item.get("type", "message"))
    return f"{PREFIXES.get(kind, 'itm')}_{secrets.token_hex(12)}"


router = APIRouter(prefix="/conversations")


class ConversationBody(Strict):
    items: list[JsonObject] | None = Field(None, max_length=1000)
    metadata: JsonObject | None = None


class ConversationPatch(Strict):
    metadata: JsonObject | None


class ItemsBody(Strict):
    items: list[JsonObject] = Field(max_length=1000)


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
async def add_items(conversation_id: Id, body: ItemsBody, lab: CurrentLab, include: Include = None) -> Object:
    check_include(include, "conversations")
    items = normal_items(body.items)
    await in_thread(Conversations(lab.store).append, conversation_id, items)
    return listed(items)


@router.get("/{conversation_id}/items", response_model=Object)
async def list_items(
    conversation_id: Id,
    lab: CurrentLab,
    limit: Limit = 20,
    after: After = None,
    order: Order = "desc",
    include: Include = None,
) -> Object:
    check_include(include, "conversations")
    items = await in_thread(Conversations(lab.store).items, conversation_id)
    return window(items, after=after, limit=limit, order=order)


@router.get("/{conversation_id}/items/{item_id}", response_model=Object)
async def get_item(conversation_id: Id, item_id: Id, lab: CurrentLab, include: Include = None) -> Object:
    check_include(include, "conversations")
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
