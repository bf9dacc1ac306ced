"""Agents; `/agents/<agent id>` opens one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar

from timestep_lab.model.errors import ConflictError, LabError, SettingsError
from timestep_lab.model.records import LIMITS, AgentGraph, AgentRecord, Json
from timestep_lab.server.pages.page_view import PageView, Shown, looked_up
from timestep_lab.server.panel import page_argument
from timestep_lab.store.base import Topic, in_thread
from timestep_lab.ui.view import handles

# --- The page of agents: each with every field to change, and the handoffs that lead from it


class AgentsPage(PageView):
    stem = "pages/agents"
    title = "Agents"
    topics: ClassVar[frozenset[Topic]] = frozenset({"agents", "mcp_servers"})

    def __init__(self, lab: Any, *, selected: str | None = None) -> None:
        super().__init__(lab)
        self._selected = selected

    async def read(self) -> Json:
        records: list[AgentRecord] = await in_thread(self.lab.agents.list)
        tools, problems = await self.lab.toolbox.survey(retry_now=False)
        return {
            "agents": [_agent(record) for record in records],
            "selected": self._selected,
            "tools": [*map(_tool, tools), *_client_tools()],
            "problems": [str(problem) for problem in problems],
            "default_model": self.lab.settings.default_model,
        }

    @handles("models")
    async def _models(self) -> list[str]:
        """Of every provider that is ready and answers. Asked apart, since a provider may take its time."""
        models: list[str] = await self.lab.router.list_models()
        return models

    @handles("graph")
    async def _graph(self, agent_id: str) -> Json:
        return asdict(await in_thread(self._graph_of, agent_id))

    def _graph_of(self, agent_id: str) -> AgentGraph:
        graph: AgentGraph = self.lab.handoffs(agent_id).graph
        declared = {node.path for node in graph.nodes if node.calls == 0} | {
            path for edge in graph.edges if edge.declared for path in (edge.from_path, edge.to_path)
        }
        root = self.lab.agents.get(agent_id).name
        kept = {node.path for node in graph.nodes if node.path in declared or node.name == root}
        return AgentGraph(
            nodes=tuple(node for node in graph.nodes if node.path in kept),
            edges=tuple(edge for edge in graph.edges if edge.from_path in kept and edge.to_path in kept),
        )

    @handles("save")
    async def _save(self, fields: dict[str, Json], agent_id: str | None = None) -> str:
        """Nothing is changed when a field cannot be taken; the error says which and why."""
        try:
            if agent_id is None:
                record: AgentRecord = await in_thread(self.lab.agents.create, **fields)
            else:
                record = await in_thread(self.lab.agents.update, agent_id, **fields)
        except LabError as error:
            error.param = _field_of(error, fields)
            raise
        await self.refresh()
        return record.id

    @handles("delete")
    async def _delete(self, agent_id: str) -> None:
        await in_thread(self.lab.agents.delete, agent_id)
        await self.refresh()


def _field_of(error: LabError, fields: dict[str, Json]) -> str | None:
    """The field of the form: a name is what is missing or taken already, and rules name the tool they are about."""
    if isinstance(error, ConflictError) or not str(fields.get("name", "")).strip():
        return "name"
    if error.param is None or error.param.partition(".")[0] in fields:
        return error.param
    return "approvals" if isinstance(error, SettingsError) and "approval rule" in error.message else None


def _agent(record: AgentRecord) -> dict[str, Json]:
    return {
        "id": record.id, "name": record.name, "description": record.description, "instructions": record.instructions,
        "model": record.model, "model_settings": dict(record.model_settings), "tools": list(record.tool_ids),
        "handoffs": list(record.handoff_ids), "approvals": dict(record.approvals), "updated_at": record.updated_at,
        **{name: getattr(record, name) for name in LIMITS},
    }  # fmt: skip


def _tool(info: Any) -> dict[str, Json]:
    return {"id": info.id, "name": info.name, "server": info.server, "description": info.description}


def _client_tools() -> list[dict[str, Json]]:
    from timestep_lab.runtime.tools.switch_theme import CLIENT_TOOLS

    return [
        {"id": name, "name": name, "server": "this page", "description": info.description}
        for name, info in CLIENT_TOOLS.items()
    ]


def page(lab: Any, *, is_owner: bool) -> Any:
    opened = page_argument("id")
    if opened is None:
        return AgentsPage(lab)
    with looked_up():
        agent = lab.agents.get(opened)
    return Shown(AgentsPage(lab, selected=agent.id), name=agent.name)
