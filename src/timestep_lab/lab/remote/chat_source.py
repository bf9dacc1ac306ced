"""What a chat asks, answered by a served lab (`ui.chat_source.ChatSource`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from timestep_lab.lab.chat_source import LocalChatSource
from timestep_lab.lab.remote import runs
from timestep_lab.model.events import Event
from timestep_lab.model.records import Json, RunRecord
from timestep_lab.service import client as decode
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.lab.remote.lab import RemoteLab


class RemoteChatSource(LocalChatSource):
    """Runs are the server's: they go on to their end when this side leaves, or dies."""

    def __init__(self, lab: RemoteLab) -> None:
        super().__init__(lab)
        self._connection = lab.connection

    async def models(self) -> Sequence[str]:
        return list(dict.fromkeys(await in_thread(self._connection.get, "/api/v1/models")))

    async def check_model(self, name: str) -> str:
        told = await in_thread(self._connection.get, f"/api/v1/models/{quote(name)}")
        return f"{told['prefix']}/{told['model']}"

    async def runs(self, thread_id: str) -> Sequence[RunRecord]:
        told = await in_thread(self._connection.get, runs.PATH, thread_id=thread_id, limit=runs.MOST)
        return [decode.record(RunRecord, one["run"]) for one in reversed(told)]

    def send(
        self,
        text: str,
        *,
        agent: str,
        model: str | None,
        thread_id: str | None,
        attachments: Sequence[Mapping[str, Json]],
    ) -> AsyncIterator[Event]:
        body = runs.run_body(text, attachments, agent=agent, model=model, thread_id=thread_id)
        return self._connection.events(runs.PATH, body)

    def decide(self, run_id: str, decisions: Mapping[str, Mapping[str, Json]]) -> AsyncIterator[Event]:
        body = {"decisions": {call_id: dict(decision) for call_id, decision in decisions.items()}}
        return self._connection.events(f"{runs.PATH}/{run_id}/approve", body)

    def answer_client_tool(self, thread_id: str, call_id: str, output: Json) -> AsyncIterator[Event]:
        path = f"/api/v1/threads/{thread_id}/client-tools/{call_id}"
        return self._connection.events(path, {"output": output})

    async def cancel(self, run_id: str) -> None:
        await in_thread(runs.cancel, self._connection, run_id)
