"""`LabChatSource`: the data source of the chat component, for local and served labs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from timestep_lab.model.events import Event
from timestep_lab.model.records import Json, RunRecord, ThreadItem, ThreadRecord
from timestep_lab.runtime.approvals import read_decision
from timestep_lab.runtime.run import read_turn
from timestep_lab.runtime.tools.weather import widget_json
from timestep_lab.service.runs import MOST
from timestep_lab.service.threads import ThreadPage
from timestep_lab.store.base import Change, in_thread
from timestep_lab.ui.chat_state import AgentChoice, Draft

if TYPE_CHECKING:
    from timestep_lab.lab.lab import Lab
    from timestep_lab.service.models import Models


class LabChatSource:
    """Connects a chat to a lab. Runs continue when the reader disconnects, so closing a tab does not lose an answer."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._models: Models = lab.models

    @property
    def default_model(self) -> str:
        return self._lab.default_model

    async def agents(self) -> Sequence[AgentChoice]:
        return [AgentChoice(agent.name, agent.model) for agent in await in_thread(self._lab.agents.list)]

    async def models(self) -> Sequence[str]:
        return list(dict.fromkeys(await self._models.list()))

    async def check_model(self, name: str) -> str:
        return await self._models.check(name)

    async def threads(self, search: str = "", limit: int = 50) -> ThreadPage:
        return await in_thread(self._lab.threads.page, search=search, limit=limit, count=False, runs=True)

    async def thread(self, thread_id: str) -> ThreadRecord:
        return await in_thread(self._lab.threads.read, thread_id)

    async def items(self, thread_id: str) -> Sequence[ThreadItem]:
        return await in_thread(self._lab.threads.all_items, thread_id)

    async def runs(self, thread_id: str) -> Sequence[RunRecord]:
        views = await in_thread(self._lab.runs.list, thread_id=thread_id, limit=MOST)
        return [one.run for one in reversed(views)]

    def send(
        self,
        text: str,
        *,
        agent: str,
        model: str | None,
        thread_id: str | None,
        attachments: Sequence[Mapping[str, Json]],
        draft: Draft | None = None,
    ) -> AsyncIterator[Event]:
        files = [str(attachment["id"]) for attachment in attachments]
        who = None if draft is not None and draft.is_new else agent
        return self._lab.runs.start(
            text, agent=who, model=model, thread_id=thread_id, attachments=files, draft=draft.fields if draft else None
        )

    def decide(self, run_id: str, decisions: Mapping[str, Mapping[str, Json]]) -> AsyncIterator[Event]:
        given = {call_id: read_decision(call_id, decision) for call_id, decision in decisions.items()}
        return self._lab.runs.decide(run_id, given)

    def answer_client_tool(self, thread_id: str, call_id: str, output: Json) -> AsyncIterator[Event]:
        return self._lab.runs.answer_client_tool(thread_id, call_id, output)

    async def cancel(self, run_id: str) -> None:
        await self._lab.runs.cancel(run_id)

    async def rename(self, thread_id: str, title: str) -> None:
        await in_thread(self._lab.threads.rename, thread_id, title)

    async def delete(self, thread_id: str) -> None:
        await in_thread(self._lab.threads.delete, thread_id)

    async def attach(self, name: str, mime_type: str, content: bytes) -> Mapping[str, Json]:
        file = await in_thread(self._lab.files.add_bytes, name, content)
        return {"id": file.id, "name": file.filename, "mime_type": file.content_type, "size": file.bytes}

    async def branch(self, thread_id: str, before_item_id: str, goes_on: str = "") -> ThreadRecord:
        title = read_turn(goes_on).title if goes_on.strip() else None
        return await in_thread(self._lab.threads.branch, thread_id, before_item_id, title=title)

    def widget(self, output: Json) -> Mapping[str, Json] | None:
        return widget_json(output)

    def subscribe(self, callback: Callable[[str], None], listed: Callable[[], None]) -> Callable[[], None]:
        def changed(change: Change) -> None:
            if change.topic == "threads":
                callback(change.id)
            if change.topic in ("threads", "runs"):
                listed()

        return self._lab._subscribe(changed)
