"""The ChatKit store of a served lab: what a run has stored itself is not stored twice."""

from __future__ import annotations

from typing import Any

from chatkit import types as ck

from timestep_lab.model.records import Json
from timestep_lab.runtime import approvals
from timestep_lab.server.chatkit.context import ChatKitContext
from timestep_lab.server.chatkit.items import to_item
from timestep_lab.server.chatkit.store import ChatKitStore
from timestep_lab.store.base import in_thread
from timestep_lab.store.store import Store


class LabChatKitStore(ChatKitStore):
    def rows(self, context: ChatKitContext) -> Store:
        store: Store = context.lab.store
        return store

    def first_metadata(self, context: ChatKitContext) -> dict[str, Json]:
        return {"agent_id": context.agent.id}

    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: ChatKitContext
    ) -> ck.Page[Any]:
        """The SDK looks for the call that a client answers in the last item; ours may stand before other calls of its turn."""
        if context.answering:
            if context.answer is not None:
                return ck.Page()  # It looks for calls left over, which are none of its business here.
            items = await in_thread(self.rows(context).threads.all_items, thread_id)
            calls = [i for i in items if i.type == "client_tool_call" and i.data["status"] == "pending"]
            return ck.Page(data=[to_item(call) for call in reversed(calls)][:limit])
        return await super().load_thread_items(thread_id, after, limit, order, context)

    async def add_thread_item(self, thread_id: str, item: Any, context: ChatKitContext) -> None:
        if item.id not in context.kept:
            await super().add_thread_item(thread_id, item, context)

    async def save_item(self, thread_id: str, item: Any, context: ChatKitContext) -> None:
        """What a client's tool gave is left to the run that waits for it: it stores the answer and goes on in one step."""
        if item.id in context.kept:
            return
        if isinstance(item, ck.ClientToolCallItem) and item.status == "completed":
            known = await in_thread(self.rows(context).threads.get_item, item.id)
            if known.run_id and known.data["status"] == "pending":
                context.answer = (item.call_id, item.output)
                return
        await super().save_item(thread_id, item, context)

    async def delete_thread_item(self, thread_id: str, item_id: str, context: ChatKitContext) -> None:
        """Items are taken back when a message is answered anew; while the thread is being answered, that is refused.

        With a client's answer the SDK deletes all calls still pending; the run that waits for them needs them.
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
