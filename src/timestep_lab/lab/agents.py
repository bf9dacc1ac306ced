"""`lab.agents`: the stored agents of one user, by name or id."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from timestep_lab.store.base import Statement
from timestep_lab.types.clock import utc_now
from timestep_lab.types.errors import ConflictError, NotFoundError, UsageError
from timestep_lab.types.ids import BUILTIN_MCP_SERVER, new_uuid
from timestep_lab.types.records import AgentRecord, Json, McpServerRecord
from timestep_lab.types.suggest import did_you_mean

if TYPE_CHECKING:
    import pandas

    from timestep_lab.store.store import Store

FIELDS = ("name", "instructions", "description", "model", "model_settings", "tools", "handoffs", "approvals")


class Agents:
    """Create, read, update and delete agents.

    Wherever an agent, a tool or a handoff is named, a name or an id will do. Tools: `get_weather` and `think` of the
    built-in server, `switch_theme`, or `server.tool` and `server.*` for an MCP server added with `lab.mcp.add`.
    """

    def __init__(self, store: Store, check_model: Callable[[str], object]) -> None:
        self._store = store
        self._check_model = check_model

    def list(self) -> builtins.list[AgentRecord]:
        """All agents, oldest first; the two built-in ones are made at first sight."""
        found = self._store.agents.find()
        if not found:
            from timestep_lab.runtime.default_agents import ensure_default_agents

            ensure_default_agents(self._store)
            found = self._store.agents.find()
        return found

    def get(self, name_or_id: str) -> AgentRecord:
        """Raises `NotFoundError`, which names the agents there are."""
        agents = self.list()
        for agent in agents:
            if name_or_id in (agent.id, agent.name):
                return agent
        folded = [a for a in agents if a.name.casefold() == name_or_id.casefold()]
        if len(folded) == 1:
            return folded[0]
        known = [agent.name for agent in agents]
        raise NotFoundError(
            f"There is no agent {name_or_id!r}.{did_you_mean(name_or_id, known)}",
            f"Known agents: {', '.join(known)}. Create one with lab.agents.create(name=…, instructions=…).",
        )

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
        """Store a new agent. `approvals` maps a tool to `"always"`, `"never"` or `{"argument": …, "contains": …}`.

        Raises `ConflictError` when the name is taken, `SettingsError`, `UnknownPrefixError` or `NotFoundError` for a field
        that names something wrong; nothing is stored then.
        """
        self._refuse_taken(name, None)
        record = AgentRecord(
            id=id or new_uuid(), user_id=self._store.user_id, name=name.strip(), instructions=instructions,
            description=description, **self._checked(model, model_settings, tools, handoffs, approvals),
        )  # fmt: skip
        return self._store.agents.insert(record)

    def update(self, name_or_id: str, **changes: Any) -> AgentRecord:
        """Change fields of `create`; those not named stay as they are."""
        agent = self.get(name_or_id)
        self.refuse_unknown(changes)
        if cleared := [field for field, value in changes.items() if value is None and field != "model"]:
            raise UsageError(
                f"{cleared[0]} of an agent cannot be None.", "Leave out what is to stay.", param=cleared[0]
            )
        columns: dict[str, Any] = {k: changes[k] for k in ("instructions", "description") if k in changes}
        if "name" in changes:
            self._refuse_taken(changes["name"], agent.id)
            columns["name"] = str(changes["name"]).strip()
        named = {"model": "model", "model_settings": "model_settings", "tools": "tool_ids", "handoffs": "handoff_ids"}
        checked = self._checked(
            changes.get("model"), changes.get("model_settings"), changes.get("tools", ()),
            changes.get("handoffs", ()), changes.get("approvals"),
        )  # fmt: skip
        for field, column in {**named, "approvals": "approvals"}.items():
            if field in changes:
                columns[column] = checked[column]
        return self._store.agents.update(agent.id, updated_at=utc_now(), **columns)

    def delete(self, name_or_id: str) -> None:
        """Delete an agent and every handoff that led to it. Its threads and traces stay."""
        agent = self.get(name_or_id)
        others = [a for a in self.list() if agent.id in a.handoff_ids]
        statements = [
            self._store.agents.update_statement(
                other.id, handoff_ids=tuple(h for h in other.handoff_ids if h != agent.id), updated_at=utc_now()
            )
            for other in others
        ]
        gone = Statement(
            "delete from agents where user_id = $1 and id = $2 returning id", [self._store.user_id, agent.id], expect=1
        )
        self._store.db.write(
            self._store.user_id, [*statements, gone], changes=self._store.agents.changes(agent.id)
        )  # fmt: skip

    def df(self) -> pandas.DataFrame:
        """One row an agent."""
        import pandas

        return pandas.DataFrame(
            [
                {
                    "id": a.id,
                    "name": a.name,
                    "model": a.model,
                    "tools": list(a.tool_ids),
                    "handoffs": list(a.handoff_ids),
                }
                for a in self.list()
            ],
            columns=["id", "name", "model", "tools", "handoffs"],
        )

    def __getitem__(self, name_or_id: str) -> AgentRecord:
        return self.get(name_or_id)

    def __iter__(self) -> Iterator[AgentRecord]:
        return iter(self.list())

    def __len__(self) -> int:
        return len(self.list())

    def __repr__(self) -> str:
        lines = [f"  {a.name}  ({a.model or 'default model'})" for a in self.list()]
        return "Agents:\n" + "\n".join(lines)

    @staticmethod
    def refuse_unknown(changes: Mapping[str, Any]) -> None:
        """Raises `UsageError` for a field that agents do not have."""
        if unknown := set(changes) - set(FIELDS):
            raise UsageError(f"An agent has no field {', '.join(sorted(unknown))}.", f"Fields: {', '.join(FIELDS)}.")

    # -- names to ids

    def tool_id(self, tool: str) -> str:
        """`get_weather` → `<built-in server id>.get_weather`; `server.tool` by the server's name or id. Raises `NotFoundError`."""
        from timestep_lab.runtime.mcp.builtin import builtin_record
        from timestep_lab.runtime.mcp.server_records import split_tool_id
        from timestep_lab.runtime.tools.switch_theme import CLIENT_TOOLS

        if tool in CLIENT_TOOLS:
            return tool
        if "." not in tool:
            return f"{BUILTIN_MCP_SERVER}.{tool}" if tool in _builtin_tools() else self._no_tool(tool)
        servers = [builtin_record(), *self._servers()]
        if found := split_tool_id(tool, servers):
            record, name = found
            if record.id == BUILTIN_MCP_SERVER and name != "*" and name not in _builtin_tools():
                return self._no_tool(tool)
            return f"{record.id}.{name}"
        server = tool.partition(".")[0]
        raise NotFoundError(
            f"There is no MCP server {server!r}, named by the tool {tool!r}.{did_you_mean(server, [s.name for s in servers])}",
            "Add it first: lab.mcp.add(name, command=[…]) or lab.mcp.add(name, url=…).",
        )

    def _servers(self) -> Sequence[McpServerRecord]:
        return self._store.mcp_servers.find()

    def _no_tool(self, tool: str) -> str:
        from timestep_lab.runtime.tools.switch_theme import CLIENT_TOOLS

        known = [*_builtin_tools(), *CLIENT_TOOLS]
        raise NotFoundError(
            f"There is no built-in tool {tool!r}.{did_you_mean(tool, known)}",
            f"Built in: {', '.join(known)}. A tool of another MCP server is written server.tool.",
        )

    def _checked(
        self,
        model: str | None,
        model_settings: Mapping[str, Json] | None,
        tools: Sequence[str],
        handoffs: Sequence[str | AgentRecord],
        approvals: Mapping[str, Json] | None,
    ) -> dict[str, Any]:
        from timestep_lab.runtime.model_settings import validate_settings
        from timestep_lab.runtime.tools.approval_rules import validate_rules

        if model is not None:
            self._check_model(model)
        targets = [h if isinstance(h, str) else h.id for h in handoffs]
        rules = {tool if tool == "*" else self.tool_id(tool): rule for tool, rule in (approvals or {}).items()}
        return {
            "model": model,
            "model_settings": validate_settings(dict(model_settings or {})),
            "tool_ids": tuple(dict.fromkeys(self.tool_id(tool) for tool in tools)),
            "handoff_ids": tuple(dict.fromkeys(self.get(target).id for target in targets)),
            "approvals": validate_rules(rules),
        }

    def _refuse_taken(self, name: str, own_id: str | None) -> None:
        if not name.strip():
            raise UsageError("An agent needs a name.", "Give name=… with at least one letter.")
        if any(a.name.casefold() == name.strip().casefold() and a.id != own_id for a in self.list()):
            raise ConflictError(
                f"There is already an agent {name.strip()!r}.",
                "Choose another name, or change it with lab.agents.update.",
            )


def _builtin_tools() -> tuple[str, ...]:
    from timestep_lab.runtime.mcp.builtin import BUILTIN_TOOLS

    return BUILTIN_TOOLS
