"""The Agents page; `/agents/<agent id>` opens one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from timestep_lab.model.clock import iso
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import ConflictError, LabError, SettingsError
from timestep_lab.model.records import LIMITS, AgentGraph, AgentRecord, differences
from timestep_lab.runtime.model_settings import EFFORTS
from timestep_lab.server.pages.page_view import PageView, Shown, looked_up
from timestep_lab.server.panel import page_argument
from timestep_lab.store.base import Topic, in_thread
from timestep_lab.ui.chat import Chat
from timestep_lab.ui.chat_state import Draft
from timestep_lab.ui.view import LatestOnly, handles

if TYPE_CHECKING:
    from timestep_lab.runtime.mcp.sdk_tools import ToolInfo
    from timestep_lab.server.labs import UserLab

# --- Cards of all agents; for the open one its fields, versions, handoffs, and a chat to try it


class AgentsPage(PageView):
    stem = "pages/agents"
    title = "Agents"
    topics: ClassVar[frozenset[Topic]] = frozenset({"agents", "mcp_servers"})

    def __init__(self, lab: UserLab, *, selected: str | None = None) -> None:
        super().__init__(lab)
        self._selected = selected
        self._chat: Chat | None = None
        self._is_new = False
        self._trials = LatestOnly()

    def post(self, message: Mapping[str, Json], buffers: Sequence[bytes]) -> None:
        """Messages of the embedded chat are sent through the page, which hosts it."""
        self.emit({"kind": "chat", "message": message}, buffers)

    def watched(self, now: bool) -> None:
        super().watched(now)
        if self._chat is not None:
            (self._chat.attach if now else self._chat.detach)(self)

    async def read(self) -> Json:
        records: list[AgentRecord] = await in_thread(self.lab.agents.list)
        used = await in_thread(self.lab.agents.last_used)
        tools, problems = await self.lab.toolbox.survey(retry_now=False)
        return {
            "agents": [
                {**_agent(record), "used_at": iso(used[record.id]) if record.id in used else None} for record in records
            ],
            "efforts": list(EFFORTS),
            "selected": self._selected,
            "tools": [*map(_tool, tools), *_client_tools()],
            "problems": [str(problem) for problem in problems],
            "default_model": self.lab.settings.default_model,
        }

    @handles("models")
    async def _models(self) -> list[str]:
        """The models of all providers that respond. Requested separately, because a provider may be slow."""
        models: list[str] = await self.lab.models.list_models()
        return models

    @handles("versions")
    async def _versions(self, agent_id: str) -> list[Json]:
        """Versions, newest first, each with what it changed and how it differs from the current one."""
        versions: list[AgentRecord] = await in_thread(self.lab.agents.versions, agent_id)
        return [
            {
                "version": one.version, "at": iso(one.updated_at), "by": one.saved_by,
                "changed": _parts(before, one) if before else None, "since": _parts(one, versions[0]),
            }
            for one, before in zip(versions, [*versions[1:], None], strict=True)
        ]  # fmt: skip

    @handles("restore")
    async def _restore(self, agent_id: str, version: int) -> None:
        await in_thread(self.lab.agents.restore, f"{agent_id}@{version}")
        await self._show()

    @handles("try")
    async def _try(self, agent_id: str | None = None) -> None:
        """Start a chat with the agent, or with a new unsaved one."""
        if self._chat is not None:
            self._chat.detach(self)
        is_latest = self._trials.ask()
        name = None if agent_id is None else (await in_thread(self.lab.agents.read, agent_id)).name
        if not is_latest():
            return
        chat: Chat = self.lab.chat(name, trace_base="/traces/")
        chat.attach(self)
        self._chat, self._is_new = chat, agent_id is None

    @handles("chat")
    async def _forward_to_chat(
        self, content: dict[str, Json], draft: dict[str, Json] | None = None, buffers: Sequence[bytes] = ()
    ) -> None:
        """Forward a message from the browser's chat. `draft`: unsaved fields of the form."""
        assert self._chat is not None
        self._chat.draft = None if draft is None else Draft(draft, is_new=self._is_new)
        self._chat.receive(self, content, buffers)

    @handles("graph")
    async def _graph(self, agent_id: str) -> Json:
        return asdict(await in_thread(self._graph_of, agent_id))

    def _graph_of(self, agent_id: str) -> AgentGraph:
        graph: AgentGraph = self.lab.handoffs(agent_id).graph
        declared = {node.path for node in graph.nodes if node.calls == 0} | {
            path for edge in graph.edges if edge.declared for path in (edge.from_path, edge.to_path)
        }
        root = self.lab.agents.get(agent_id).name
        paths = {node.path for node in graph.nodes if node.path in declared or node.name == root}
        return AgentGraph(
            nodes=tuple(node for node in graph.nodes if node.path in paths),
            edges=tuple(edge for edge in graph.edges if edge.from_path in paths and edge.to_path in paths),
        )

    @handles("save")
    async def _save(self, fields: dict[str, Any], agent_id: str | None = None) -> str:
        """Save the form. Nothing is changed if a field is invalid; the error says which and why."""
        try:
            if agent_id is None:
                record: AgentRecord = await in_thread(self.lab.agents.create, **fields)
            else:
                record = await in_thread(self.lab.agents.update, agent_id, **fields)
        except LabError as error:
            error.param = _field_of(error, fields)
            raise
        await self._show()
        return record.id

    @handles("delete")
    async def _delete(self, agent_id: str) -> None:
        await in_thread(self.lab.agents.delete, agent_id)
        await self._show()

    async def _show(self) -> None:
        """Send the new state before the handler's response, so that the browser continues with it."""
        await self.refresh()
        self.flush()


def _field_of(error: LabError, fields: Mapping[str, object]) -> str | None:
    """The form field of an error: the name if it is missing or taken; for approval rules, the tool they name."""
    if isinstance(error, ConflictError) or not str(fields.get("name", "")).strip():
        return "name"
    if error.param is None or error.param.partition(".")[0] in fields:
        return error.param
    return "approvals" if isinstance(error, SettingsError) and "approval rule" in error.message else None


def _parts(before: AgentRecord, after: AgentRecord) -> list[Json]:
    return [
        {"part": part, "before": left, "after": right} for part, (left, right) in differences(before, after).items()
    ]


def _agent(record: AgentRecord) -> dict[str, Json]:
    return {
        "id": record.id, "name": record.name, "description": record.description, "instructions": record.instructions,
        "model": record.model, "model_settings": dict(record.model_settings), "tools": list(record.tool_ids),
        "handoffs": list(record.handoff_ids), "approvals": dict(record.approvals), "tool_descriptions": dict(record.tool_descriptions),
        "updated_at": record.updated_at, "saved_by": record.saved_by, "version": record.version,
        **{name: getattr(record, name) for name in LIMITS},
    }  # fmt: skip


def _tool(info: ToolInfo) -> dict[str, Json]:
    return {
        "id": info.id,
        "name": info.name,
        "server": info.server,
        "description": info.description,
        "arguments": _arguments(info.input_schema),
    }


def _arguments(schema: Mapping[str, Json]) -> dict[str, Json]:
    """A tool's arguments with their types, where the schema has them."""
    properties = schema.get("properties")
    given = properties if isinstance(properties, Mapping) else {}
    return {name: spec.get("type") if isinstance(spec, Mapping) else None for name, spec in given.items()}


def _client_tools() -> list[dict[str, Json]]:
    from timestep_lab.runtime.tools.builtin import CLIENT_TOOLS

    return [
        {
            "id": name,
            "name": name,
            "server": "this page",
            "description": info.description,
            "arguments": _arguments(info.input_schema),
        }
        for name, info in CLIENT_TOOLS.items()
    ]


def page(lab: UserLab, *, is_owner: bool) -> AgentsPage | Shown:
    opened = page_argument("id")
    if opened is None:
        return AgentsPage(lab)
    with looked_up():
        agent = lab.agents.get(opened)
    return Shown(AgentsPage(lab, selected=agent.id), name=agent.name)
