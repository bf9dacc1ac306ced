"""What a chat asks, answered by a served lab (`ui.chat_source.ChatSource`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from urllib.parse import quote

from timestep_lab.lab.remote import decode, runs
from timestep_lab.lab.remote import threads as remote_threads
from timestep_lab.lab.remote.changes import Changes
from timestep_lab.lab.remote.connection import Connection
from timestep_lab.lab.remote.files import RemoteFiles
from timestep_lab.runtime.run_request import read_turn
from timestep_lab.runtime.tools.widgets import widget_json
from timestep_lab.store.base import Change, in_thread
from timestep_lab.types.events import Event
from timestep_lab.types.records import AgentRecord, Json, RunRecord, ThreadItem, ThreadRecord
from timestep_lab.ui.chat_source import AgentChoice


class RemoteChatSource:
    """Runs are the server's: they go on to their end when this side leaves, or dies."""

    def __init__(self, connection: Connection, changes: Changes, files: RemoteFiles, default_model: str) -> None:
        self._connection, self._changes, self._files = connection, changes, files
        self.default_model = default_model

    async def agents(self) -> Sequence[AgentChoice]:
        told = await in_thread(self._connection.get, "/api/v1/agents")
        return [AgentChoice(agent.name, agent.model) for agent in decode.records(AgentRecord, told)]

    async def models(self) -> Sequence[str]:
        return list(dict.fromkeys(await in_thread(self._connection.get, "/api/v1/models")))

    async def check_model(self, name: str) -> str:
        told = await in_thread(self._connection.get, f"/api/v1/models/{quote(name)}")
        return f"{told['prefix']}/{told['model']}"

    async def threads(self, search: str = "", limit: int = 50) -> Sequence[ThreadRecord]:
        told = await in_thread(self._connection.get, remote_threads.PATH, search=search.strip() or None, limit=limit)
        return decode.records(ThreadRecord, told["data"])

    async def thread(self, thread_id: str) -> ThreadRecord:
        return await in_thread(remote_threads.thread_of, self._connection, thread_id)

    async def items(self, thread_id: str) -> Sequence[ThreadItem]:
        return await in_thread(remote_threads.items_of, self._connection, thread_id)

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
        path = f"{remote_threads.PATH}/{thread_id}/client-tools/{call_id}"
        return self._connection.events(path, {"output": output})

    async def cancel(self, run_id: str) -> None:
        await in_thread(runs.cancel, self._connection, run_id)

    async def rename(self, thread_id: str, title: str) -> None:
        await in_thread(remote_threads.rename, self._connection, thread_id, title)

    async def delete(self, thread_id: str) -> None:
        await in_thread(self._connection.ask, "DELETE", f"{remote_threads.PATH}/{thread_id}")

    async def attach(self, name: str, mime_type: str, content: bytes) -> Mapping[str, Json]:
        file = await in_thread(self._files.add_bytes, name, content)
        return {"id": file.id, "name": file.filename, "mime_type": file.content_type, "size": file.bytes}

    async def branch(self, thread_id: str, before_item_id: str, goes_on: str = "") -> ThreadRecord:
        path = f"{remote_threads.PATH}/{thread_id}/items/{before_item_id}/branch"
        made = decode.record(ThreadRecord, await in_thread(self._connection.post, path))
        if not goes_on.strip():
            return made
        return await in_thread(remote_threads.rename, self._connection, made.id, read_turn(goes_on).title or "")

    def widget(self, output: Json) -> Mapping[str, Json] | None:
        return widget_json(output)

    def subscribe(self, callback: Callable[[str], None]) -> Callable[[], None]:
        def changed(change: Change) -> None:
            if change.topic == "threads":
                callback(change.id)

        return self._changes.subscribe(changed)
