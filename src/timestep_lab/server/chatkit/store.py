"""`chatkit.store.Store` on top of a lab's store: threads and items are the same rows that everything else uses."""

from __future__ import annotations

import secrets
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from chatkit import store as ck_store
from chatkit import types as ck
from pydantic import TypeAdapter

from timestep_lab.model.clock import utc_now
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import NotFoundError
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import ThreadRecord
from timestep_lab.runtime import approvals
from timestep_lab.server.chatkit.items import to_item, to_local, to_record, to_utc
from timestep_lab.store.base import in_thread
from timestep_lab.store.store import Store
from timestep_lab.store.table import Table

if TYPE_CHECKING:
    from timestep_lab.model.records import AgentRecord
    from timestep_lab.server.labs import UserLab


# --- The context of one ChatKit request


@dataclass(slots=True)
class ChatKitContext:
    lab: UserLab
    """The lab of the calling user."""
    agent: AgentRecord
    """The agent named in the request's path."""
    base_url: str
    """The server's address as seen by the client, without a trailing slash."""
    kept: set[str] = field(default_factory=set)
    """Ids of items that a run has already stored; ChatKit must not store them again."""
    answering: bool = False
    """Whether this request contains a client tool's result."""
    answer: tuple[str, Json] | None = None
    """Call id and result of a client tool, from this request."""
    forgotten_runs: set[str] = field(default_factory=set)
    """Runs whose items this request removes."""


ATTACHMENT: TypeAdapter[ck.Attachment] = TypeAdapter(ck.Attachment)
IMAGE_DOMAINS = "allowed_image_domains"
"""Key in a thread's metadata; in ChatKit it is a separate field."""
OF_THE_RUNNER = ("approved_tools",)
"""Keys that runs write into a thread's metadata while ChatKit holds an older copy of it."""
PREFIXES = {
    "message": "msg", "tool_call": "tc", "task": "tsk", "workflow": "wf", "attachment": "atc", "sdk_hidden_context": "shcx",
}  # fmt: skip


C = TypeVar("C")
"""The context of a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachmentRecord:
    id: str
    user_id: str
    data: Mapping[str, Json]
    """The ChatKit JSON."""
    created_at: datetime = field(default_factory=utc_now)


class ChatKitStore(ck_store.Store[C]):
    """Subclasses determine the user of a request. Raises `chatkit.store.NotFoundError` for items the user does not
    have, and `ConflictError` for an item id that is taken."""

    @abstractmethod
    def rows(self, context: C) -> Store:
        """The store of the calling user."""

    def first_metadata(self, context: C) -> dict[str, Json]:
        """The initial metadata of a new thread."""
        return {}

    def attachments(self, context: C) -> Table[AttachmentRecord]:
        rows = self.rows(context)
        return Table(rows.db, rows.user_id, "chatkit_attachments", AttachmentRecord, noun="attachment")

    def generate_thread_id(self, context: C) -> str:
        return new_id("thread")

    def generate_item_id(self, item_type: ck_store.StoreItemType, thread: ck.ThreadMetadata, context: C) -> str:
        # The SDK's own ids have 32 random bits, too few to be unique.
        return f"{PREFIXES[item_type]}_{secrets.token_hex(12)}"

    # -- threads

    async def load_thread(self, thread_id: str, context: C) -> ck.ThreadMetadata:
        record = await in_thread(self.rows(context).threads.try_get, thread_id)
        if record is None:
            raise ck_store.NotFoundError(f"Thread {thread_id} not found.")
        return _thread(record)

    async def save_thread(self, thread: ck.ThreadMetadata, context: C) -> None:
        threads = self.rows(context).threads
        known = await in_thread(threads.try_get, thread.id)
        metadata = dict(thread.metadata)
        if thread.allowed_image_domains is not None:
            metadata[IMAGE_DOMAINS] = thread.allowed_image_domains
        status = thread.status.model_dump(mode="json", exclude_none=True)
        if known is None:
            record = ThreadRecord(
                id=thread.id, user_id=threads.user_id, title=thread.title, status=status,
                metadata={**metadata, **self.first_metadata(context)}, created_at=to_utc(thread.created_at),
            )  # fmt: skip
            if quota := self.rows(context).quota:
                await in_thread(quota.take_thread)
            await in_thread(threads.insert, record)
        else:
            metadata.update((name, known.metadata[name]) for name in OF_THE_RUNNER if name in known.metadata)
            await in_thread(
                threads.update, thread.id, title=thread.title, status=status, metadata=metadata, updated_at=utc_now()
            )

    async def load_threads(self, limit: int, after: str | None, order: str, context: C) -> ck.Page[ck.ThreadMetadata]:
        with _found():
            threads = self.rows(context).threads
            page = await in_thread(threads.page, after=after, limit=limit, newest_first=order == "desc")
        return ck.Page(data=[_thread(record) for record in page.data], has_more=page.has_more, after=page.after)

    async def delete_thread(self, thread_id: str, context: C) -> None:
        with _found():
            await in_thread(self.rows(context).threads.delete, thread_id)

    # -- items

    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: C
    ) -> ck.Page[ck.ThreadItem]:
        with _found():
            threads = self.rows(context).threads
            page = await in_thread(threads.items, thread_id, after, limit, newest_first=order == "desc")
        return ck.Page(data=[to_item(record) for record in page.data], has_more=page.has_more, after=page.after)

    async def add_thread_item(self, thread_id: str, item: ck.ThreadItem, context: C) -> None:
        """Add an item. The SDK adds a workflow again on every update, which replaces it; any other item must be new."""
        if isinstance(item, ck.WorkflowItem):
            await self.save_item(thread_id, item, context)
            return
        rows = self.rows(context)
        with _found():
            await in_thread(rows.threads.append_items, thread_id, [to_record(item, rows.user_id)])

    async def save_item(self, thread_id: str, item: ck.ThreadItem, context: C) -> None:
        rows = self.rows(context)
        with _found():
            await in_thread(rows.threads.save_item, to_record(item, rows.user_id))

    async def load_item(self, thread_id: str, item_id: str, context: C) -> ck.ThreadItem:
        with _found():
            record = await in_thread(self.rows(context).threads.get_item, item_id)
        if record.thread_id != thread_id:
            raise ck_store.NotFoundError(f"Thread {thread_id} has no item {item_id!r}.")
        return to_item(record)

    async def delete_thread_item(self, thread_id: str, item_id: str, context: C) -> None:
        await self.load_item(thread_id, item_id, context)
        await in_thread(self.rows(context).threads.delete_item, item_id)

    # -- attachments

    async def save_attachment(self, attachment: ck.Attachment, context: C) -> None:
        table = self.attachments(context)
        data = attachment.model_dump(mode="json")
        await in_thread(table.upsert, AttachmentRecord(id=attachment.id, user_id=table.user_id, data=data))

    async def load_attachment(self, attachment_id: str, context: C) -> ck.Attachment:
        with _found():
            record = await in_thread(self.attachments(context).get, attachment_id)
        return ATTACHMENT.validate_python(dict(record.data))

    async def delete_attachment(self, attachment_id: str, context: C) -> None:
        """Delete an attachment; does nothing if it does not exist."""
        with suppress(NotFoundError):
            await in_thread(self.attachments(context).delete, attachment_id)


def _thread(record: ThreadRecord) -> ck.ThreadMetadata:
    metadata = dict(record.metadata)
    domains = metadata.pop(IMAGE_DOMAINS, None)
    plain = {
        "id": record.id, "title": record.title, "created_at": to_local(record.created_at), "status": dict(record.status),
        "metadata": metadata, "allowed_image_domains": domains,
    }  # fmt: skip
    return ck.ThreadMetadata.model_validate(plain)


@contextmanager
def _found() -> Iterator[None]:
    """Translates errors into ChatKit's own NotFoundError."""
    try:
        yield
    except NotFoundError as error:
        raise ck_store.NotFoundError(str(error)) from error


# --- The ChatKit store of a served lab: items that a run has stored itself are not stored twice


class LabChatKitStore(ChatKitStore[ChatKitContext]):
    def rows(self, context: ChatKitContext) -> Store:
        return context.lab.store

    def first_metadata(self, context: ChatKitContext) -> dict[str, Json]:
        return {"agent_id": context.agent.id}

    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: ChatKitContext
    ) -> ck.Page[ck.ThreadItem]:
        """A page of items. The SDK expects the call that a client tool answers in the last item; ours may be followed
        by other calls of its turn.
        """
        if context.answering:
            if context.answer is not None:
                return ck.Page()  # It looks for unfinished calls, which are handled elsewhere.
            items = await in_thread(self.rows(context).threads.all_items, thread_id)
            calls = [i for i in items if i.type == "client_tool_call" and i.data["status"] == "pending"]
            return ck.Page(data=[to_item(call) for call in reversed(calls)][:limit])
        return await super().load_thread_items(thread_id, after, limit, order, context)

    async def add_thread_item(self, thread_id: str, item: ck.ThreadItem, context: ChatKitContext) -> None:
        if item.id not in context.kept:
            await super().add_thread_item(thread_id, item, context)

    async def save_item(self, thread_id: str, item: ck.ThreadItem, context: ChatKitContext) -> None:
        """Save an item. The result of a client tool is left to the waiting run, which stores it and continues in one
        step.
        """
        if item.id in context.kept:
            return
        if isinstance(item, ck.ClientToolCallItem) and item.status == "completed":
            known = await in_thread(self.rows(context).threads.get_item, item.id)
            if known.run_id and known.data["status"] == "pending":
                context.answer = (item.call_id, item.output)
                return
        await super().save_item(thread_id, item, context)

    async def delete_thread_item(self, thread_id: str, item_id: str, context: ChatKitContext) -> None:
        """Delete an item when a message is retried; rejected while the thread is being answered.

        With a client tool's result the SDK deletes all pending calls; those of a waiting run are kept.
        """
        if context.answering:
            return
        rows = self.rows(context)
        if not context.forgotten_runs and (busy := await in_thread(approvals.thread_is_busy, rows, thread_id)):
            raise busy
        known = await in_thread(rows.threads.get_item, item_id)
        if known.run_id:
            context.forgotten_runs.add(known.run_id)
        await super().delete_thread_item(thread_id, item_id, context)
