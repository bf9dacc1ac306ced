"""`lab.agents`: a user's stored agents, by name or id."""

from __future__ import annotations

import builtins
import contextlib
import getpass
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypedDict, Unpack

from annotated_types import Len

from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.clock import to_aware_utc, utc_now
from timestep_lab.model.codec import Json, JsonObject, Ref
from timestep_lab.model.errors import ConflictError, NotFoundError, UsageError
from timestep_lab.model.ids import BUILTIN_MCP_SERVER, PERSONAL_ASSISTANT, WEATHER_ASSISTANT, new_uuid
from timestep_lab.model.records import LIMITS, AgentRecord, McpServerRecord, differences
from timestep_lab.service import operation as op
from timestep_lab.service.operation import Scope
from timestep_lab.store.base import Statement

if TYPE_CHECKING:
    import pandas
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

    from timestep_lab.store.store import Store


# -- The two agents that every new user gets. Their ids are fixed, so that links and notebooks can refer to them

GET_WEATHER = f"{BUILTIN_MCP_SERVER}.get_weather"
THINK = f"{BUILTIN_MCP_SERVER}.think"
SWITCH_THEME = "switch_theme"


def default_agents(user_id: str) -> tuple[AgentRecord, AgentRecord]:
    """Personal Assistant and Weather Assistant, as created for a new user."""
    settings: dict[str, Json] = {"temperature": 0, "tool_choice": "auto"}
    personal = AgentRecord(
        id=PERSONAL_ASSISTANT,
        user_id=user_id,
        name="Personal Assistant",
        description="Answers questions of every kind and calls in other assistants.",
        instructions=(
            "You are a personal assistant. Answer briefly and truthfully, in the user's language.\n"
            "Hand off every question about weather, now or to come, to the Weather Assistant.\n"
            "Use the think tool before an answer that takes several steps.\n"
            "Use switch_theme when the user asks for a light or a dark theme."
        ),
        model_settings=settings,
        tool_ids=(THINK, SWITCH_THEME),
        handoff_ids=(WEATHER_ASSISTANT,),
    )
    weather = AgentRecord(
        id=WEATHER_ASSISTANT,
        user_id=user_id,
        name="Weather Assistant",
        description="Knows the weather, now and for the next hours, anywhere.",
        instructions=(
            "You are a weather assistant. Call get_weather for each place that is asked for, then answer in one or two "
            "sentences with temperature and conditions.\n"
            "Never guess the weather. If a call is refused, say that you may not look it up."
        ),
        model_settings=settings,
        tool_ids=(GET_WEATHER, THINK),
        approvals={GET_WEATHER: {"argument": "location", "contains": "berkeley"}},
    )
    return personal, weather


def ensure_default_agents(store: Store) -> None:
    """Create the two default agents for a user who has none. A default agent that the user deleted is not created
    again.
    """
    if store.agents.count():
        return
    agents = default_agents(store.user_id)
    # Another process may create them at the same time; then nothing is left to do.
    with contextlib.suppress(ConflictError):
        store.db.write(
            store.user_id,
            [table.insert_statement(agent) for agent in agents for table in (store.agents, store.agent_versions)],
            changes=[change for agent in agents for change in store.agents.changes(agent.id)],
        )


# --

AgentId = Annotated[str, Len(1, 200)]
Name = Annotated[str, Len(1, 200)]
Instructions = Annotated[str, Len(0, 200_000)]
Description = Annotated[str, Len(0, 10_000)]
ModelName = Annotated[str, Len(0, 500)]
AgentRef = Annotated[str | AgentRecord, Ref()]


class _ToolName:
    """The type of a tool name. A Python function in its place raises an error that explains how to register it."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema as schema

        return schema.no_info_before_validator_function(_refuse_function, handler(source))


ToolName = Annotated[str, _ToolName()]


class AgentChanges(TypedDict, total=False):
    """The fields of an agent to change. None resets `model` to the default model, and removes a limit."""

    name: Name
    instructions: Instructions
    description: Description
    model: ModelName | None
    model_settings: JsonObject
    tools: Sequence[ToolName]
    handoffs: Sequence[AgentRef]
    approvals: JsonObject
    tool_descriptions: Mapping[str, Description]
    budget_usd: float | None
    max_tokens_total: int | None
    timeout_s: float | None
    max_tool_calls: int | None


@op.noun("agents")
class Agents:
    """Create, read, update and delete agents.

    Agents, tools and handoffs can be given by name or id. Tools are `get_weather` and `think` of the built-in server,
    `switch_theme`, or `server.tool` and `server.*` of an MCP server added with `lab.mcp.add`. `lab.mcp.add_function(f)`
    registers a Python function and returns its tool name.

    Every save that changes something creates a version. Versions never change: `versions(name)` lists them, and
    `name@3` refers to one wherever an agent is named. The handoffs of a version go to the current versions of the other
    agents.

    Example:
        lab.agents.create(name="Billing", instructions="Answer questions about invoices.", model="demo/echo")
        lab.agents.create(name="Triage", instructions="Send people on.", handoffs=["Billing"], model="demo/assistant")
        run = await lab.run("hand off to Billing", agent="Triage")
        lab.agents.delete("Triage")
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    @op.get("/agents")
    def list(self) -> builtins.list[AgentRecord]:
        """All agents, oldest first. On a user's first access the two default agents are created."""
        store = self._scope.store
        agents = store.agents.find()
        if not agents:
            ensure_default_agents(store)
            agents = store.agents.find()
        return agents

    @op.post("/agents", status=201, local={"id": "Omit id: the served lab assigns one."})
    def create(
        self,
        *,
        name: Name,
        instructions: Instructions = "",
        description: Description = "",
        model: ModelName | None = None,
        model_settings: JsonObject | None = None,
        tools: Sequence[ToolName] = (),
        handoffs: Sequence[AgentRef] = (),
        approvals: JsonObject | None = None,
        tool_descriptions: Mapping[str, Description] | None = None,
        budget_usd: float | None = None,
        max_tokens_total: int | None = None,
        timeout_s: float | None = None,
        max_tool_calls: int | None = None,
        id: AgentId | None = None,
    ) -> AgentRecord:
        """Store a new agent: `lab.agents.create(name="Triage", instructions="…", tools=["get_weather"], handoffs=["Billing"])`.

        `tools`: names of built-in tools, `server.tool` or `server.*` of an MCP server, or what `lab.mcp.add_function(f)` returns for a
        function of yours. `handoffs`: names or ids of existing agents. `approvals` maps a tool to `"always"`, `"never"` or
        `{"argument": …, "contains": …}`; `tool_descriptions` maps one to the description that this agent is given of it, instead of
        the server's. The limits, as in `lab.run`, are the defaults for each run that starts with this agent.

        Raises `ConflictError` if the name is taken, and `SettingsError`, `UnknownPrefixError` or `NotFoundError` for an
        invalid field; nothing is stored then.
        """
        self._refuse_taken(name, None)
        given: AgentChanges = {
            "model": model, "model_settings": model_settings or {}, "tools": tools, "handoffs": handoffs, "approvals": approvals or {},
            "tool_descriptions": tool_descriptions or {},
            "budget_usd": budget_usd, "max_tokens_total": max_tokens_total, "timeout_s": timeout_s, "max_tool_calls": max_tool_calls,
        }  # fmt: skip
        record = AgentRecord(
            id=id or new_uuid(), user_id=self._scope.store.user_id, name=name.strip(), instructions=instructions,
            description=description, saved_by=self._author(), **self._columns(given),
        )  # fmt: skip
        store = self._scope.store
        if store.quota:
            store.quota.take_agent()
        made = [table.insert_statement(record) for table in (store.agents, store.agent_versions)]
        store.db.write(store.user_id, made, changes=store.agents.changes(record.id))
        return record

    @op.get("/agents/{agent_id}")
    def read(self, agent_id: AgentId) -> AgentRecord:
        """An agent; `id@3` is its third version. Raises `NotFoundError`."""
        return self.get(agent_id)

    @op.get("/agents/{agent_id}/versions")
    def all_versions(self, agent_id: AgentId) -> builtins.list[AgentRecord]:
        """All versions of an agent, newest first. Raises `NotFoundError`."""
        agent = _named(self.list(), agent_id)
        return self._scope.store.agent_versions.find(newest_first=True, id=agent.id)

    @op.post("/agents/draft")
    def draft(self, agent_id: AgentId | None = None, **changes: Unpack[AgentChanges]) -> AgentRecord:
        """An agent with these changes, or a new one, validated but not saved (its version is 0). Raises as `create`,
        and `NotFoundError`."""
        if agent_id is None:
            name = changes.get("name", "").strip() or "Draft"
            agent = AgentRecord(id=new_uuid(), user_id=self._scope.store.user_id, name=name)
        else:
            agent = _named(self.list(), agent_id)
        return replace(agent, **self._changed(agent, changes), version=0)

    @op.get("/agent-uses")
    def last_used(self) -> dict[str, datetime]:
        """When the newest run of each agent started, by agent id. Agents that never ran are not included."""
        store = self._scope.store
        result = store.db.query(
            store.user_id,
            "select agent_id, max(started_at) from runs where user_id = $1 and agent_id is not null group by agent_id",
            [store.user_id],
        )
        return {agent_id: to_aware_utc(at) for agent_id, at in result.rows}

    @op.put("/agents/{agent_id}")
    def change(self, agent_id: AgentId, **changes: Unpack[AgentChanges]) -> AgentRecord:
        """Save the given fields as a new version; a save that changes nothing creates none. `model: null` resets to the
        default model, and a limit of `null` removes it. Raises as `create`, and `NotFoundError`."""
        agent = _named(self.list(), agent_id)
        columns = self._changed(agent, changes)
        if all(getattr(agent, name) == value for name, value in columns.items()):
            return agent
        store = self._scope.store
        columns["saved_by"] = self._author()
        store.db.write(store.user_id, _saved(store, agent.id, columns), changes=store.agents.changes(agent.id))
        return store.agents.get(agent.id)

    @op.delete("/agents/{agent_id}")
    def remove(self, agent_id: AgentId) -> None:
        """Delete an agent, its versions, and all handoffs to it. Its threads and traces are kept. Raises
        `NotFoundError`.
        """
        store = self._scope.store
        agents = self.list()
        agent = _named(agents, agent_id)
        unlinked = [
            statement
            for other in agents
            if agent.id in other.handoff_ids
            for statement in _saved(
                store,
                other.id,
                {"handoff_ids": tuple(h for h in other.handoff_ids if h != agent.id), "saved_by": self._author()},
            )
        ]
        deleted = Statement(
            "delete from agents where user_id = $1 and id = $2 returning id", [store.user_id, agent.id], expect=1
        )
        versions = Statement("delete from agent_versions where user_id = $1 and id = $2", [store.user_id, agent.id])
        store.db.write(store.user_id, [*unlinked, deleted, versions], changes=store.agents.changes(agent.id))

    @op.get("/tool-ids")
    def tool_id(self, tool: Annotated[str, Len(1, 1000)]) -> str:
        """The stored id of a tool: `get_weather` → `<built-in server id>.get_weather`; `server.tool` by the server's
        name or id. Raises `NotFoundError`.
        """
        from timestep_lab.runtime.mcp.server_records import split_tool_id
        from timestep_lab.runtime.tools.builtin import CLIENT_TOOLS, builtin_record

        if tool in CLIENT_TOOLS:
            return tool
        servers = [builtin_record(), *self._scope.store.mcp_servers.find()]
        if "." not in tool:
            return f"{BUILTIN_MCP_SERVER}.{tool}" if tool in _builtin_tools() else _no_tool(tool, servers)
        if split := split_tool_id(tool, servers):
            record, name = split
            if record.id == BUILTIN_MCP_SERVER and name != "*" and name not in _builtin_tools():
                return _no_tool(tool, servers)
            return f"{record.id}.{name}"
        server = tool.partition(".")[0]
        raise NotFoundError(
            f"There is no MCP server {server!r}, which the tool {tool!r} refers to.{did_you_mean(server, [s.name for s in servers])}",
            "Add it first: lab.mcp.add(name, command=[…]) or lab.mcp.add(name, url=…).",
            command="Add it first: timestep-lab mcp add NAME -- COMMAND, or timestep-lab mcp add NAME --url URL",
        )

    # -- by name

    def get(self, name_or_id: str) -> AgentRecord:
        """An agent, or with `name@3` its third version. Raises `NotFoundError`, listing the existing agents."""
        agents = self.list()
        name, version = _split(agents, name_or_id)
        agent = _named(agents, name)
        if version in (None, agent.version):
            return agent
        record = next((one for one in self.all_versions(agent.id) if one.version == version), None)
        if record is None:
            raise NotFoundError(
                f"The agent {agent.name!r} has no version {version}.",
                f"The newest version is {agent.name}@{agent.version}.",
            )
        return record

    def versions(self, name_or_id: str) -> builtins.list[AgentRecord]:
        """All versions of an agent, newest first. Raises `NotFoundError`."""
        return self.all_versions(self.get(name_or_id).id)

    def diff(self, before: str | AgentRecord, after: str | AgentRecord) -> pandas.DataFrame:
        """The differences between two versions, as in `lab.agents.diff("Front desk@3", "Front desk@7")`: one row per
        part (the instructions, a model setting, a tool, a handoff, …) with its old and new value. Empty if nothing
        differs.
        """
        import pandas

        left, right = (one if isinstance(one, AgentRecord) else self.get(one) for one in (before, after))
        rows = [[part, *sides] for part, sides in differences(left, right).items()]
        return pandas.DataFrame(rows, columns=["part", "before", "after"], dtype=object)

    def update(self, name_or_id: str, **changes: Unpack[AgentChanges]) -> AgentRecord:
        """Change some fields of `create` and save a new version; the other fields are kept. Raises as `create`, and
        `UsageError` for an unknown field."""
        return self.change(self._newest(name_or_id).id, **changes)

    def restore(self, version: str) -> AgentRecord:
        """Save an earlier version, `name@3`, as the newest one. Raises `NotFoundError`, and as `create` if it refers to
        something that was deleted.
        """
        agent = self.get(version)
        return self.change(
            agent.id, name=agent.name, instructions=agent.instructions, description=agent.description, model=agent.model,
            model_settings=dict(agent.model_settings), tools=[*agent.tool_ids], handoffs=[*agent.handoff_ids],
            approvals=dict(agent.approvals), tool_descriptions=dict(agent.tool_descriptions), budget_usd=agent.budget_usd, max_tokens_total=agent.max_tokens_total,
            timeout_s=agent.timeout_s, max_tool_calls=agent.max_tool_calls,
        )  # fmt: skip

    def delete(self, name_or_id: str) -> None:
        """Delete an agent, its versions, and all handoffs to it. Its threads and traces are kept."""
        self.remove(self._newest(name_or_id).id)

    def df(self) -> pandas.DataFrame:
        """One row per agent."""
        import pandas

        return pandas.DataFrame(
            [
                {
                    "id": a.id,
                    "name": a.name,
                    "version": a.version,
                    "model": a.model,
                    "tools": list(a.tool_ids),
                    "handoffs": list(a.handoff_ids),
                }
                for a in self.list()
            ],
            columns=["id", "name", "version", "model", "tools", "handoffs"],
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

    def _newest(self, name_or_id: str) -> AgentRecord:
        agents = self.list()
        name, version = _split(agents, name_or_id)
        if version is not None:
            raise UsageError(
                f"{name_or_id} is a version, and versions cannot be changed.", f"Use the agent's name, {name!r}, or lab.agents.restore({name_or_id!r})."
            )  # fmt: skip
        return _named(agents, name)

    # -- within an operation

    def _author(self) -> str:
        if self._scope.store.quota is not None:
            return "guest"
        try:
            return getpass.getuser()
        except (OSError, KeyError, ImportError):
            return ""  # A container may run as a number without a name.

    def _changed(self, agent: AgentRecord, changes: AgentChanges) -> dict[str, Any]:
        """The new values of the columns that are affected by the changes."""
        columns = self._columns(changes)
        if "name" in changes:
            if changes["name"].strip() != agent.name:
                self._refuse_taken(changes["name"], agent.id)
            columns["name"] = changes["name"].strip()
        return columns

    def _columns(self, given: AgentChanges) -> dict[str, Any]:
        """Fields as columns of a record: validated, with names replaced by ids."""
        from timestep_lab.runtime.approvals import validate_rules
        from timestep_lab.runtime.model_settings import validate_settings
        from timestep_lab.runtime.run import RunLimits

        columns: dict[str, object] = {
            name: given[name] for name in ("instructions", "description", "model") if name in given
        }
        if given.get("model") is not None:
            self._scope.router.resolve(given["model"])
        if "model_settings" in given:
            columns["model_settings"] = validate_settings(dict(given["model_settings"]))
        if "tools" in given:
            columns["tool_ids"] = tuple(dict.fromkeys(self.tool_id(tool) for tool in given["tools"]))
        if "handoffs" in given:
            agents = self.list()
            columns["handoff_ids"] = tuple(dict.fromkeys(_named(agents, str(name)).id for name in given["handoffs"]))
        if "approvals" in given:
            rules = {tool if tool == "*" else self.tool_id(tool): rule for tool, rule in given["approvals"].items()}
            columns["approvals"] = validate_rules(rules)
        if "tool_descriptions" in given:
            columns["tool_descriptions"] = {
                self.tool_id(tool): text for tool, text in given["tool_descriptions"].items()
            }
        limits = {name: given.get(name) for name in LIMITS if name in given}
        RunLimits.read(**limits)
        return {**columns, **limits}

    def _refuse_taken(self, name: str, own_id: str | None) -> None:
        if not name.strip():
            raise UsageError("An agent needs a name.", "Pass name=… with at least one letter.")
        if _VERSION.search(name):
            raise UsageError(
                f"{name.strip()!r} looks like a version of another agent.",
                "Remove the @ and the number.",
                param="name",
            )
        if any(a.name.casefold() == name.strip().casefold() and a.id != own_id for a in self.list()):
            raise ConflictError(
                f"An agent named {name.strip()!r} already exists.",
                "Choose another name, or change it with lab.agents.update.",
                command="Choose another name, or remove it first: timestep-lab agents remove NAME",
            )


_VERSION = re.compile(r"@(\d{1,9})\s*$")


def _split(agents: Sequence[AgentRecord], ref: str) -> tuple[str, int | None]:
    """`name@3` as name and version; None for the newest version. An agent whose name itself ends that way (from before
    versions existed) takes precedence.
    """
    match = _VERSION.search(ref)
    if match is None or any(ref in (agent.id, agent.name) for agent in agents):
        return ref, None
    return ref[: match.start()], int(match[1])


def _saved(store: Store, agent_id: str, columns: Mapping[str, Any]) -> builtins.list[Statement]:
    """Statements that save these columns as the next version."""
    changed = store.agents.update_statement(agent_id, updated_at=utc_now(), **columns)
    numbered = changed.sql.replace(" set ", " set version = version + 1, ", 1)
    names = ", ".join(store.agents.columns)
    insert = f"insert into agent_versions ({names}) select {names} from agents where user_id = $1 and id = $2"
    return [Statement(numbered, changed.params, expect=1), Statement(insert, [store.user_id, agent_id])]


def _named(agents: Sequence[AgentRecord], name_or_id: str) -> AgentRecord:
    """The agent with this id or name, or with this name in a different case if it is unique. Raises `NotFoundError`."""
    for agent in agents:
        if name_or_id in (agent.id, agent.name):
            return agent
    folded = [agent for agent in agents if agent.name.casefold() == name_or_id.casefold()]
    if len(folded) == 1:
        return folded[0]
    known = [agent.name for agent in agents]
    raise NotFoundError(
        f"There is no agent {name_or_id!r}.{did_you_mean(name_or_id, known)}",
        f"Known agents: {', '.join(known)}. Create one with lab.agents.create(name=…, instructions=…).",
        command=f"Known agents: {', '.join(known)}. Create one with: timestep-lab agents add NAME",
    )


def _refuse_function(tool: object) -> object:
    """Raises `UsageError` for a Python function or an Agents SDK tool object."""
    name = getattr(tool, "name", None) or getattr(tool, "__name__", None)
    if isinstance(tool, str) or name is None:
        return tool
    raise UsageError(
        f"{name} is a Python object. A stored agent outlives this process, so it refers to tools by name.",
        f"Serve it from this process and use its name: tools=[lab.mcp.add_function({name})]. Or create an Agents SDK Agent(tools=[{name}]), which "
        "lab.run accepts directly.",
        param="tools",
    )


def _builtin_tools() -> tuple[str, ...]:
    from timestep_lab.runtime.tools.builtin import BUILTIN_TOOLS

    return BUILTIN_TOOLS


def _no_tool(tool: str, servers: Iterable[McpServerRecord]) -> NoReturn:
    from timestep_lab.runtime.tools.builtin import CLIENT_TOOLS

    known = [*_builtin_tools(), *CLIENT_TOOLS]
    # The rules of a server of functions name each of them.
    served = [f"{server.name}.{name}" for server in servers for name in server.require_approval if name == tool]
    meant = f" Did you mean {served[0]!r}?" if served else did_you_mean(tool, known)
    raise NotFoundError(
        f"There is no built-in tool {tool!r}.{meant}",
        f"Built-in tools: {', '.join(known)}. Write a tool of another MCP server as server.tool.",
    )
