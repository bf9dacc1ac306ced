"""The agents of a run: built from what the store says now, or from what it said when the run paused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import agents as sdk
from agents import RunState

from timestep_lab.model.errors import RunError
from timestep_lab.model.records import AgentRecord, Json, McpServerRecord, RunRecord, RunStateRecord, ThreadItem
from timestep_lab.runtime.agent_graph import BuiltGraph, build, from_sdk, reachable
from timestep_lab.runtime.agent_snapshot import freeze, freeze_sdk, same_servers, thaw, thaw_servers
from timestep_lab.runtime.approvals import REJECTED
from timestep_lab.runtime.run_request import RunOptions
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.runtime.mcp.toolbox import Definitions, Toolbox
    from timestep_lab.runtime.settings import Settings
    from timestep_lab.store.store import Store

AnyAgent = AgentRecord | sdk.Agent[Any]


@dataclass(slots=True)
class Graphs:
    """Builds the agents of one user's runs."""

    store: Store
    toolbox: Toolbox
    settings: Settings

    async def records(self, agent: AnyAgent) -> dict[str, AgentRecord]:
        """The stored agents that a run of `agent` may reach; none for an SDK agent. Raises `NotFoundError`."""
        if isinstance(agent, sdk.Agent):
            return {}
        return await in_thread(reachable, agent, self.store.agents.try_get)

    async def build(
        self,
        agent: AnyAgent,
        records: Mapping[str, AgentRecord],
        options: RunOptions,
        recorded: Definitions | None = None,
    ) -> tuple[BuiltGraph, dict[str, Json]]:
        """The agents, and the snapshot that a pause keeps of them. `recorded`: see `Toolbox.tools_for`."""
        if isinstance(agent, sdk.Agent):
            return from_sdk(agent), freeze_sdk(agent.name, options.to_json())
        servers = await self._servers()
        graph = await self._build(records, agent.id, self.toolbox, servers, recorded)
        return graph, freeze(records, agent.id, servers, options.to_json())

    async def rebuild(self, state: RunStateRecord, agent: sdk.Agent[Any] | None) -> tuple[BuiltGraph, Toolbox | None]:
        """The agents as they were at the pause, and the toolbox made for them if today's servers are others.

        Raises `RunError` when they cannot be had.
        """
        snapshot = state.agent_snapshot
        if snapshot.get("kind") == "sdk" and agent is not None:
            if agent.name != snapshot["root"]:
                raise RunError(
                    f"This run was started with the agent {snapshot['root']!r}, not with {agent.name!r}.",
                    "Pass the same agent.",
                    code="damaged_state",
                )
            return from_sdk(agent), None
        records, root_id = thaw(snapshot, state.run_id)
        servers = await self._servers()
        if same_servers(snapshot, servers):
            return await self._build(records, root_id, self.toolbox, servers), None
        toolbox = self.toolbox.with_servers(thaw_servers(snapshot, servers))
        return await self._build(records, root_id, toolbox), toolbox

    async def _build(
        self,
        records: Mapping[str, AgentRecord],
        root_id: str,
        toolbox: Toolbox,
        servers: Sequence[McpServerRecord] | None = None,
        recorded: Definitions | None = None,
    ) -> BuiltGraph:
        return await build(
            records, root_id, toolbox, default_model=self.settings.default_model, servers=servers, recorded=recorded
        )

    async def _servers(self) -> list[McpServerRecord]:
        return await in_thread(self.store.mcp_servers.find)


async def thaw_state(
    graph: BuiltGraph, state: RunStateRecord, items: list[ThreadItem], context: Any
) -> RunState[Any, Any]:
    """The SDK's state with every decision applied. A call that had finished before a crash is answered with what it said then.

    Raises `RunError` when the state cannot be read.
    """
    try:
        restored = await RunState.from_string(graph.root, state.state, context_override=context)
    except Exception as error:
        raise RunError(
            f"The state of run {state.run_id} cannot be read: {error}",
            "Cancel it with lab.cancel(run_id) and ask again.",
            code="damaged_state",
        ) from error
    for call in restored.get_interruptions():
        call_id = call.call_id or ""
        decision = state.decisions.get(call_id)
        if item := finished_call(items, call_id):
            # The SDK has no way to hand it a result; a refusal's message becomes the call's output word for word.
            restored.reject(call, rejection_message=item.data["output"])
        elif decision and decision["decision"] == "approved":
            restored.approve(call)
        elif decision:
            restored.reject(call, rejection_message=decision["message"] or REJECTED)
    return restored


def finished_call(items: Iterable[ThreadItem], call_id: str) -> ThreadItem | None:
    """The call's item, if its tool ran to an end."""
    for item in items:
        if item.type == "tool_call" and item.data["call_id"] == call_id:
            over = item.data["status"] in ("completed", "failed") and item.data["output"] is not None
            return item if over else None
    return None


def was_answered(state: RunStateRecord, session: list[dict[str, Any]]) -> bool:
    """Whether the model's log holds an answer to every call that waited: an earlier resume got past them and then died."""
    answered = {item.get("call_id") for item in session if str(item.get("type", "")).endswith("_output")}
    return all(call["call_id"] in answered for call in state.interruptions)


def last_agent(graph: BuiltGraph, run: RunRecord) -> sdk.Agent[Any]:
    return graph.agents.get(run.last_agent or run.agent, graph.root)
