"""Builds Agents SDK agents from stored agents, and snapshots from which another process can build the same agents.

Cycles are allowed: all agents are created first and connected by handoffs afterwards.
"""

from __future__ import annotations

import dis
import hashlib
import inspect
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from datetime import datetime
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, TypedDict, cast

from agents import Agent, FunctionTool, Handoff, Model, Tool, handoff
from agents.agent import StopAtTools
from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticUserError

from timestep_lab.model.clock import iso, parse_iso
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import LabError, NotFoundError, RunError
from timestep_lab.model.records import AgentGraph, AgentRecord, GraphEdge, GraphNode, McpServerRecord
from timestep_lab.runtime.model_settings import validate_settings
from timestep_lab.runtime.span_records import jsonable
from timestep_lab.store.agent_graphs import SEPARATOR

if TYPE_CHECKING:
    from timestep_lab.runtime.mcp.sdk_tools import ToolSet
    from timestep_lab.runtime.mcp.toolbox import Definitions, Toolbox
    from timestep_lab.runtime.replay import Replay


MOST_DEPTH = 6
MAX_TOOL_NAME = 64
"""Maximum length of a function name that every provider accepts."""


@dataclass(frozen=True, slots=True)
class BuiltGraph:
    """Agents ready to run."""

    root: Agent
    agents: Mapping[str, Agent]
    """Agents by name. Names are unique in a graph, because the SDK identifies a paused run's agents by name."""
    tool_sets: Mapping[str, ToolSet] = field(default_factory=dict)
    """Maps an agent name to its tools. SDK agents have their own and are not included."""
    client_tools: frozenset[str] = frozenset()
    """Tools executed by the client; calling one ends the turn."""
    own_models: bool = False
    """The agents' models must not be replaced by the run's model (in a fork)."""
    replay: Replay | None = None
    """Replay state of a fork."""
    notices: tuple[LabError, ...] = ()
    """Errors of unavailable tools, each naming its server. The run continues without them."""
    stored: Mapping[str, AgentRecord] = field(default_factory=dict)
    """Stored agents by name; empty for SDK agents."""


def reachable(root: AgentRecord, find: Callable[[str], AgentRecord | None]) -> dict[str, AgentRecord]:
    """Returns `root` and all agents reachable by handoffs, by id, in breadth-first order. Raises `NotFoundError` for a missing target."""
    records = {root.id: root}
    waiting = [root]
    while waiting:
        agent = waiting.pop(0)
        for target_id in agent.handoff_ids:
            if target_id in records:
                continue
            target = find(target_id)
            if target is None:
                raise NotFoundError(
                    f"Agent {agent.name!r} hands off to the agent {target_id!r}, which does not exist.",
                    f"Change its handoffs: lab.agents.update({agent.name!r}, handoffs=[…])",
                )
            records[target_id] = target
            waiting.append(target)
    return records


async def build(
    records: Mapping[str, AgentRecord],
    root_id: str,
    toolbox: Toolbox | None,
    *,
    default_model: str,
    servers: Sequence[McpServerRecord] | None = None,
    recorded: Definitions | None = None,
    like: BuiltGraph | None = None,
) -> BuiltGraph:
    """Builds SDK agents for `records`. `servers`: the user's MCP servers, if just read; for `recorded` see `Toolbox.tools_for`. Returns
    `like`, a graph with the same root and default model, if it would be the same. Raises `SettingsError` for invalid model settings."""
    offered = {
        record.name: await toolbox.tools_for(record, servers, recorded)
        for record in records.values()
        if toolbox and record.tool_ids
    }
    if like is not None and list(like.stored.values()) == list(records.values()) and _same(like.tool_sets, offered):
        return like
    agents: dict[str, Agent] = {}
    notices: list[LabError] = []
    client_tools: set[str] = set()
    for record in records.values():
        tool_set = offered.get(record.name)
        own_client_tools = [tool for tool in record.tool_ids if is_client_tool(tool)]
        client_tools.update(own_client_tools)
        if tool_set:
            notices.extend(tool_set.missing)
        agents[record.id] = Agent(
            name=record.name,
            handoff_description=record.description or None,
            instructions=record.instructions or None,
            model=record.model or default_model,
            model_settings=validate_settings(dict(record.model_settings)) if record.model_settings else {},
            tools=list(tool_set.tools) if tool_set else [],
            mcp_servers=list(tool_set.mcp_servers) if tool_set else [],
            tool_use_behavior=(
                StopAtTools(stop_at_tool_names=own_client_tools) if own_client_tools else "run_llm_again"
            ),
        )
    names = handoff_names(record.name for record in records.values())
    for record in records.values():
        agents[record.id].handoffs = [
            handoff(agents[target], tool_name_override=names[records[target].name]) for target in record.handoff_ids
        ]
    return BuiltGraph(
        root=agents[root_id],
        agents={agent.name: agent for agent in agents.values()},
        tool_sets=offered,
        client_tools=frozenset(client_tools),
        notices=tuple(notices),
        stored={record.name: record for record in records.values()},
    )


def _same(some: Mapping[str, ToolSet], others: Mapping[str, ToolSet]) -> bool:
    """Returns whether these are the same objects; `Toolbox.tools_for` returns another one when something has changed."""
    return some.keys() == others.keys() and all(some[name] is others[name] for name in some)


def is_client_tool(tool_id: str) -> bool:
    """Returns whether a tool is executed by the client: a bare name, unlike `<server id>.<name>` of an MCP server's tool."""
    return "." not in tool_id


def from_sdk(root: Agent) -> BuiltGraph:
    """Returns the graph of an SDK agent and all agents reachable by its handoffs."""
    agents = {root.name: root}
    waiting = [root]
    while waiting:
        for target in _targets(waiting.pop(0)):
            if target.name not in agents:
                agents[target.name] = target
                waiting.append(target)
    return BuiltGraph(root=root, agents=agents)


def handoff_names(names: Iterable[str]) -> dict[str, str]:
    """Maps an agent name to its handoff tool name: ASCII, at most 64 characters, unique.

    Such as `transfer_to_weather_assistant`; names without Latin letters become `transfer_to_agent`, `transfer_to_agent_2` and so on.
    """
    taken: dict[str, str] = {}
    used: set[str] = set()
    for name in names:
        ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
        slug = re.sub(r"[^a-z0-9]+", "_", ascii_name).strip("_") or "agent"
        base = f"transfer_to_{slug}"[: MAX_TOOL_NAME - 4].rstrip("_")
        candidate, n = base, 1
        while candidate in used:
            n += 1
            candidate = f"{base}_{n}"
        used.add(candidate)
        taken[name] = candidate
    return taken


def handoff_targets(agent: Agent) -> dict[str, str]:
    """Maps the names of an agent's handoff tools to the names of the target agents."""
    return {
        (handoff_.tool_name if isinstance(handoff_, Handoff) else Handoff.default_tool_name(handoff_)): (
            handoff_.agent_name if isinstance(handoff_, Handoff) else handoff_.name
        )
        for handoff_ in agent.handoffs
    }


# --- What an SDK agent consists of, as JSON: equal for equal code, in every process


def definition_of(agent: Agent, *, code: bool = True, inside: frozenset[str] = frozenset()) -> dict[str, Json]:
    """Returns everything of an SDK agent that can affect an answer, in a form that can be compared. `code`: with the functions of its
    tools. `inside`: names of the agents that it is a tool of."""
    made = {one.name: getattr(agent, one.name) for one in fields(agent) if one.name not in ("tools", "handoffs")}
    return {
        **{name: identity(value) for name, value in made.items()},
        "tools": [tool_definition(tool, code=code, inside=inside | {agent.name}) for tool in agent.tools],
        "handoffs": [handoff_definition(way) for way in agent.handoffs],
    }  # fmt: skip


def tool_definition(tool: Tool, *, code: bool = True, inside: frozenset[str] = frozenset()) -> Json:
    """Returns what a model is told of a tool and, with `code`, what it does. An agent used as a tool is included."""
    if not isinstance(tool, FunctionTool):
        return identity(tool)
    does = identity(getattr(tool, "__wrapped__", None)) if code else None
    inner = getattr(tool, "_agent_instance", None)
    agents = from_sdk(inner).agents.values() if isinstance(inner, Agent) else ()
    behind = [definition_of(one, code=code, inside=inside) for one in agents if one.name not in inside]
    return [type(tool).__name__, tool.name, tool.description, jsonable(tool.params_json_schema), does, behind]


def handoff_definition(way: Agent | Handoff) -> Json:
    """Returns what a model is told of a handoff, and its filter; not the agent that it leads to."""
    if isinstance(way, Agent):
        return [Handoff.default_tool_name(way), way.handoff_description]
    parts = [way.tool_name, way.tool_description, jsonable(way.input_json_schema), way.agent_name]
    return [*parts, identity(way.input_filter), identity(way.nest_handoff_history), identity(way.is_enabled)]


def agents_behind(way: Agent | Handoff, root: str) -> list[Agent]:
    """Returns the agents that a handoff leads to, directly or through others, without the agent named `root`."""
    target = _target(way)
    return [one for one in from_sdk(target).agents.values() if one.name != root] if target else []


def identity(value: object, depth: int = 0) -> Json:
    """Returns a description of a value, which for a function is its code with what it has bound. Objects that are neither data nor code
    are described by their class, and so is what is nested more deeply than `MOST_DEPTH`, such as an object that contains itself."""
    if value is None or isinstance(value, str | int | float):
        return value if not isinstance(value, float) or math.isfinite(value) else str(value)
    if isinstance(value, FunctionType):
        return _function(value)
    if isinstance(value, type):
        try:
            return [value.__qualname__, TypeAdapter(value).json_schema()]
        except (PydanticUserError, TypeError, NameError):
            return value.__qualname__
    if depth > MOST_DEPTH:
        return _class_of(value)
    inside = partial(identity, depth=depth + 1)
    if isinstance(value, Mapping):
        return {str(name): inside(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [inside(inner) for inner in value]
    if isinstance(value, MethodType):
        return [_class_of(value.__self__), inside(value.__func__)]
    if isinstance(value, partial):
        return [inside(value.func), inside(value.args), inside(value.keywords)]
    if is_dataclass(value) or isinstance(value, BaseModel):
        names = type(value).model_fields if isinstance(value, BaseModel) else [one.name for one in fields(value)]
        return [_class_of(value), {name: inside(getattr(value, name, None)) for name in names}]
    if isinstance(value, Model):
        model, client = getattr(value, "model", None), getattr(value, "_client", None)
        return [_class_of(value), model if isinstance(model, str) else id(value), str(getattr(client, "base_url", ""))]
    called = inspect.getattr_static(value, "__call__", None)
    named = [str(getattr(value, name)) for name in ("name", "params") if hasattr(value, name)]
    return [_class_of(value), *named, *([_function(called)] if isinstance(called, FunctionType) else [])]


def _class_of(value: object) -> str:
    return type(value).__qualname__


def _function(function: FunctionType) -> Json:
    bound: dict[str, Json] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            inner = cell.cell_contents
        except ValueError:  # Not bound yet.
            continue
        # What changes from call to call is no part of the code: a counter, or a list that is appended to.
        if isinstance(inner, FunctionType) and inner is not function:
            bound[name] = _code(inner.__code__)
        elif inner is None or (isinstance(inner, str | int | float | type) and name not in _rebound(function.__code__)):
            bound[name] = identity(inner)
    defaults = [identity(function.__defaults__), identity(function.__kwdefaults__)]
    return [function.__qualname__, _code(function.__code__), bound, *defaults]


def _rebound(code: CodeType) -> set[str]:
    return {one.argval for one in dis.get_instructions(code) if one.opname == "STORE_DEREF"}


def _code(code: CodeType) -> Json:
    constants = [_code(one) if isinstance(one, CodeType) else _constant(one) for one in code.co_consts]
    return [hashlib.sha256(code.co_code).hexdigest(), list(code.co_names), list(code.co_varnames), constants]


def _constant(value: object) -> str:
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def declared_graph(root: AgentRecord | Agent, records: Mapping[str, AgentRecord] | None = None) -> AgentGraph:
    """Returns the declared handoffs as a graph. A node's path is the shortest chain of names from the root, joined by `/`."""
    if isinstance(root, AgentRecord):
        known = records or {root.id: root}
        start: tuple[str, str] = (root.id, root.name)
        ways = {r.id: [(known[t].id, known[t].name) for t in r.handoff_ids if t in known] for r in known.values()}
    else:
        built = from_sdk(root)
        start = (root.name, root.name)
        ways = {
            name: [(target, target) for target in handoff_targets(agent).values()]
            for name, agent in built.agents.items()
        }
    paths = {start[0]: start[1]}
    nodes, edges, waiting = [GraphNode(path=start[1], name=start[1])], [], [start[0]]
    while waiting:
        here = waiting.pop(0)
        for key, name in ways.get(here, []):
            if key not in paths:
                paths[key] = f"{paths[here]}/{name}"
                nodes.append(GraphNode(path=paths[key], name=name))
                waiting.append(key)
            edges.append(GraphEdge(from_path=paths[here], to_path=paths[key], declared=True))
    return AgentGraph(nodes=tuple(nodes), edges=tuple(edges))


def declared_graph_of(roots: Iterable[AgentRecord], agents: Iterable[AgentRecord]) -> AgentGraph:
    """Returns the union of the declared graphs of the roots, among these agents."""
    roots = list(roots)
    records = {record.id: record for record in [*agents, *roots]}
    graphs = [declared_graph(root, records) for root in roots]
    nodes = {node.path: node for graph in graphs for node in graph.nodes}
    edges = {(edge.from_path, edge.to_path): edge for graph in graphs for edge in graph.edges}
    return AgentGraph(nodes=tuple(nodes.values()), edges=tuple(edges.values()))


def over(declared: AgentGraph, observed: AgentGraph) -> AgentGraph:
    """Returns the declared graph with the observed numbers, plus the undeclared handoffs observed from its agents on. Other observed agents
    are left out."""
    ways = {(edge.from_path, edge.to_path): edge for edge in observed.edges}
    edges = dict(ways)
    for edge in declared.edges:
        key = (edge.from_path, edge.to_path)
        edges[key] = replace(ways[key], declared=True) if key in ways else edge
    nodes = {node.path: node for node in declared.nodes} | {node.path: node for node in observed.nodes}
    waiting = [node.path for node in declared.nodes]
    reached = set(waiting)
    while waiting:
        here = waiting.pop()
        found = {end for start, end in edges if start == here} | {path for path in nodes if path.startswith(f"{here}/")}
        waiting += found - reached
        reached |= found
    return AgentGraph(
        nodes=tuple(node for path, node in nodes.items() if path in reached),
        edges=tuple(edge for (start, _), edge in edges.items() if start in reached),
    )


def with_declared(observed: AgentGraph, declared: AgentGraph) -> AgentGraph:
    """Merges both graphs. Declared agents are matched by path or, if paths differ, by a name that only one observed node has."""
    place = {node.path: node.path for node in observed.nodes}
    declared = _without_echoes(declared, place.keys())
    names = [node.name for node in observed.nodes]
    alone = {node.name: node.path for node in observed.nodes if names.count(node.name) == 1}
    nodes = [*observed.nodes]
    for node in declared.nodes:
        if node.path not in place:
            place[node.path] = alone.get(node.name, node.path)
            if node.name not in alone:
                nodes.append(GraphNode(path=node.path, name=node.name))
    edges = {(edge.from_path, edge.to_path): edge for edge in observed.edges}
    for edge in declared.edges:
        handoff_ = (place.get(edge.from_path, edge.from_path), place.get(edge.to_path, edge.to_path))
        edges[handoff_] = (
            replace(edges[handoff_], declared=True)
            if handoff_ in edges
            else GraphEdge(from_path=handoff_[0], to_path=handoff_[1], declared=True)
        )
    return AgentGraph(nodes=tuple(nodes), edges=tuple(edges.values()))


def _without_echoes(declared: AgentGraph, observed: Set[str]) -> AgentGraph:
    """Removes duplicates: an agent that others hand off to appears below them and as a root of its own. Roots where no observed run
    started are removed."""
    below: dict[str, set[str]] = {node.path: set() for node in declared.nodes if SEPARATOR not in node.path}
    for node in declared.nodes:
        if SEPARATOR in node.path:
            below.setdefault(node.path.split(SEPARATOR)[0], set()).add(node.name)
    reached = set().union(*below.values())
    roots = {root for root in below if root not in reached or root in observed}
    for root in below:  # A cycle without another root: the first agent stands for the rest.
        if root not in roots and not any(root in below[other] for other in roots):
            roots.add(root)
    return AgentGraph(
        nodes=tuple(node for node in declared.nodes if node.path.split(SEPARATOR)[0] in roots),
        edges=tuple(edge for edge in declared.edges if edge.from_path.split(SEPARATOR)[0] in roots),
    )


def _targets(agent: Agent) -> Sequence[Agent]:
    """Returns the target agents of an SDK agent's handoffs."""
    return [target for way in agent.handoffs if (target := _target(way)) is not None]


def _target(way: Agent | Handoff) -> Agent | None:
    # A `Handoff` exposes its agent's name publicly, and the agent itself only through this weak reference.
    target = way if isinstance(way, Agent) else (way._agent_ref() if way._agent_ref else None)
    return target if isinstance(target, Agent) else None


# --- Snapshot of a paused run's agents as JSON, from which any process can rebuild them
#
# Servers are stored by id, name and order, without their headers and environment, which are secrets: those are read from the
# server's row when the run resumes.


VERSION = 1
REPLAYED = "replayed"
"""For a fork: ids of the recorded answers replayed before the pause."""
SECONDS = "seconds"
"""Working time of the run before the pause, in seconds."""
ASKED_UNDER = "asked_under"
"""Span ids of the agents' latest turns at the pause: the parents of the rows of their pending calls."""
_SECRET = ("headers", "env")


class _FrozenAgent(TypedDict):
    """The fields of an `AgentRecord` in a snapshot that have another type in JSON, and its id."""

    id: str
    tool_ids: Sequence[str]
    handoff_ids: Sequence[str]
    created_at: str
    updated_at: str


class _FrozenServer(TypedDict):
    """Those of an `McpServerRecord`, and what is needed to find its secrets."""

    id: str
    name: str
    has_secrets: bool
    command: Sequence[str]
    allowed_tools: Sequence[str] | None
    created_at: str


def asked_under(snapshot: Mapping[str, Json]) -> dict[str, str]:
    """Returns the row ids of the latest turns at the pause, in the form of `TraceContext.turns`."""
    turns = cast("str | Mapping[str, str]", snapshot.get(ASKED_UNDER) or {})
    return {"": turns} if isinstance(turns, str) else {str(name): str(row) for name, row in dict(turns).items()}


def freeze(
    records: Mapping[str, AgentRecord], root_id: str, servers: Sequence[McpServerRecord], run: Mapping[str, Json]
) -> dict[str, Json]:
    """Returns the snapshot of stored agents. `run` holds the options of this run (model, model settings, approve)."""
    used = {tool.partition(".")[0] for r in records.values() for tool in r.tool_ids if not is_client_tool(tool)}
    return {
        "version": VERSION,
        "kind": "records",
        "root": root_id,
        "agents": [_plain(asdict(record)) for record in records.values()],
        "servers": [_frozen_server(server) for server in servers if server.id in used],
        "run": dict(run),
    }


def freeze_sdk(root_name: str, run: Mapping[str, Json]) -> dict[str, Json]:
    """Returns the snapshot of an SDK agent: only its name, because code cannot be stored."""
    return {"version": VERSION, "kind": "sdk", "root": root_name, "run": dict(run)}


def restore(snapshot: Mapping[str, Json], run_id: str) -> tuple[dict[str, AgentRecord], str]:
    """Returns the agent records of a snapshot and the id of the root. Raises `RunError` when the snapshot cannot be read."""
    if snapshot.get("version") != VERSION:
        raise RunError(
            f"This paused run was written by a newer version (agent snapshot version {snapshot.get('version')!r}).",
            "Update timestep-lab, or start the run again.",
            code="damaged_state",
        )
    if snapshot.get("kind") != "records":
        raise RunError(
            f"This run was started with an SDK Agent object ({snapshot.get('root')!r}), which exists only in the process "
            "that created it.",
            f'Create the same Agent here and pass it: lab.approvals["{run_id}"].approve(agent=my_agent)',
            code="damaged_state",
        )
    try:
        records = {agent["id"]: _agent(agent) for agent in cast("Sequence[_FrozenAgent]", snapshot["agents"])}
        return records, records[cast("str", snapshot["root"])].id
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"The agents of this paused run cannot be read ({error!r}).",
            "Reject it and start the run again.",
            code="damaged_state",
        ) from error


def restore_servers(snapshot: Mapping[str, Json], current: Sequence[McpServerRecord]) -> list[McpServerRecord]:
    """Returns the servers as in the snapshot, with their current secrets. Raises `RunError` naming a server that was removed."""
    today = {server.id: server for server in current}
    known = {f.name for f in fields(McpServerRecord)}
    servers = []
    for frozen in _servers(snapshot):
        now = today.get(frozen["id"])
        if now is None and frozen["has_secrets"]:
            raise RunError(
                f"The MCP server {frozen['name']!r} of this paused run was removed.",
                f"Add it again with its headers or environment under the same id, or reject the run. Id: {frozen['id']}",
                code="damaged_state",
            )
        allowed = frozen["allowed_tools"]
        values = {
            **{name: value for name, value in frozen.items() if name in known},
            "command": tuple(frozen["command"]),
            "allowed_tools": None if allowed is None else tuple(allowed),
            "created_at": parse_iso(frozen["created_at"]),
        }
        make: Callable[..., McpServerRecord] = partial(replace, now) if now else McpServerRecord
        servers.append(make(**values))
    return servers


def same_servers(snapshot: Mapping[str, Json], current: Sequence[McpServerRecord]) -> bool:
    """Returns whether the servers that the run uses are unchanged since the snapshot, in the same order."""
    frozen = _servers(snapshot)
    ids = {server["id"] for server in frozen}
    return [_frozen_server(server) for server in current if server.id in ids] == list(frozen)


def _servers(snapshot: Mapping[str, Json]) -> Sequence[_FrozenServer]:
    return cast("Sequence[_FrozenServer]", snapshot.get("servers", ()))


def _frozen_server(server: McpServerRecord) -> dict[str, Json]:
    plain = _plain(asdict(server))
    return {
        **{name: value for name, value in plain.items() if name not in _SECRET},
        "has_secrets": bool(server.headers or server.env),
    }


def _plain(values: Mapping[str, Json | datetime]) -> dict[str, Json]:
    plain: dict[str, Json] = {}
    for name, value in values.items():
        if isinstance(value, datetime):
            value = iso(value)
        elif isinstance(value, tuple):
            value = list(value)
        plain[name] = value
    return plain


def _agent(plain: _FrozenAgent) -> AgentRecord:
    make: Callable[..., AgentRecord] = AgentRecord
    return make(
        **{
            **plain,
            "tool_ids": tuple(plain["tool_ids"]),
            "handoff_ids": tuple(plain["handoff_ids"]),
            "created_at": parse_iso(plain["created_at"]),
            "updated_at": parse_iso(plain["updated_at"]),
        }
    )
