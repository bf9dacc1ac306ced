"""`lab.agents` of a served lab."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from timestep_lab.lab.agents import Agents
from timestep_lab.lab.remote import decode
from timestep_lab.lab.remote.connection import Connection
from timestep_lab.lab.remote.failures import only_here
from timestep_lab.types.records import AgentRecord, Json, McpServerRecord

PATH = "/api/v1/agents"


class RemoteAgents(Agents):
    """Names are resolved, and fields checked, by the server."""

    def __init__(self, connection: Connection, servers: Callable[[], Sequence[McpServerRecord]]) -> None:
        self._connection, self._mcp_servers = connection, servers

    def list(self) -> builtins.list[AgentRecord]:
        return decode.records(AgentRecord, self._connection.get(PATH))

    def create(
        self,
        *,
        name: str,
        instructions: str = "",
        description: str = "",
        model: str | None = None,
        model_settings: Mapping[str, Json] | None = None,
        tools: Sequence[str] = (),
        handoffs: Sequence[str | AgentRecord] = (),
        approvals: Mapping[str, Json] | None = None,
        id: str | None = None,
    ) -> AgentRecord:
        if id is not None:
            raise only_here("An agent's id of your own choice", "Leave id away: the served lab gives one.")
        body = {
            "name": name, "instructions": instructions, "description": description, "model": model,
            "model_settings": dict(model_settings or {}), "tools": list(tools), "handoffs": _ids(handoffs),
            "approvals": dict(approvals or {}),
        }  # fmt: skip
        return decode.record(AgentRecord, self._connection.post(PATH, body))

    def update(self, name_or_id: str, **changes: Any) -> AgentRecord:
        self.refuse_unknown(changes)
        body = dict(changes)
        if "handoffs" in body:
            body["handoffs"] = _ids(body["handoffs"])
        changed = self._connection.ask("PUT", f"{PATH}/{self.get(name_or_id).id}", json=body)
        return decode.record(AgentRecord, changed)

    def delete(self, name_or_id: str) -> None:
        self._connection.ask("DELETE", f"{PATH}/{self.get(name_or_id).id}")

    def _servers(self) -> Sequence[McpServerRecord]:
        return self._mcp_servers()


def _ids(handoffs: Sequence[str | AgentRecord]) -> list[str]:
    return [one if isinstance(one, str) else one.id for one in handoffs]
