"""The agents of a paused run as JSON, so that any process can build them again exactly as they were.

Servers are kept by id, name and order without their headers and environment, which are secrets: those are taken from the
server's row when the run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from timestep_lab.model.clock import iso, parse_iso
from timestep_lab.model.errors import RunError
from timestep_lab.model.records import AgentRecord, Json, McpServerRecord
from timestep_lab.runtime.agent_graph import is_client_tool

VERSION = 1
SAID = "replayed"
"""Of a fork: ids of the recorded answers that it had said when it paused."""
SECONDS = "seconds"
"""What the run had worked when it paused."""
_SECRET = ("headers", "env")


def freeze(
    records: Mapping[str, AgentRecord], root_id: str, servers: Sequence[McpServerRecord], run: Mapping[str, Json]
) -> dict[str, Json]:
    """`run` holds what was asked for this run alone (model, model settings, approve), to be kept when it goes on."""
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
    """For SDK `Agent` objects: code cannot be written down, so only that it was code, and its name."""
    return {"version": VERSION, "kind": "sdk", "root": root_name, "run": dict(run)}


def thaw(snapshot: Mapping[str, Json], run_id: str) -> tuple[dict[str, AgentRecord], str]:
    """The records of that run's agents, and the root's id. Raises `RunError` when the snapshot is not one of records that we can read."""
    if snapshot.get("version") != VERSION:
        raise RunError(
            f"This paused run was written by a later version (agent snapshot version {snapshot.get('version')!r}).",
            "Update timestep-lab, or start the run again.",
            code="damaged_state",
        )
    if snapshot.get("kind") != "records":
        raise RunError(
            f"This run was started with an SDK Agent object ({snapshot.get('root')!r}), which lives only in the process "
            "that made it.",
            f'Make the same Agent here and pass it: lab.approvals["{run_id}"].approve(agent=my_agent)',
            code="damaged_state",
        )
    try:
        records = {agent["id"]: _agent(agent) for agent in snapshot["agents"]}
        return records, records[snapshot["root"]].id
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"The agents of this paused run cannot be read ({error!r}).",
            "Reject it and start the run again.",
            code="damaged_state",
        ) from error


def thaw_servers(snapshot: Mapping[str, Json], current: Sequence[McpServerRecord]) -> list[McpServerRecord]:
    """The servers as the run knew them, in its order, with the secrets of today. Raises `RunError` naming a lost one."""
    today = {server.id: server for server in current}
    found = []
    for frozen in snapshot.get("servers", ()):
        now = today.get(frozen["id"])
        if now is None and frozen["has_secrets"]:
            raise RunError(
                f"The MCP server {frozen['name']!r} of this paused run was removed.",
                f"Add it again with its headers or environment under the same id, or reject the run. Id: {frozen['id']}",
                code="damaged_state",
            )
        kept = {f.name: frozen[f.name] for f in fields(McpServerRecord) if f.name in frozen}
        kept["command"] = tuple(kept["command"])
        kept["allowed_tools"] = None if kept["allowed_tools"] is None else tuple(kept["allowed_tools"])
        kept["created_at"] = parse_iso(kept["created_at"])
        found.append(replace(now, **kept) if now else McpServerRecord(**kept))
    return found


def same_servers(snapshot: Mapping[str, Json], current: Sequence[McpServerRecord]) -> bool:
    """Whether the servers the run uses are today as they were, in the same order."""
    ids = {frozen["id"] for frozen in snapshot.get("servers", ())}
    return [_frozen_server(server) for server in current if server.id in ids] == list(snapshot.get("servers", ()))


def _frozen_server(server: McpServerRecord) -> dict[str, Json]:
    plain = _plain(asdict(server))
    return {
        **{name: value for name, value in plain.items() if name not in _SECRET},
        "has_secrets": bool(server.headers or server.env),
    }


def _plain(values: dict[str, Any]) -> dict[str, Json]:
    plain: dict[str, Json] = {}
    for name, value in values.items():
        if name.endswith("_at"):
            value = iso(value)
        elif isinstance(value, tuple):
            value = list(value)
        plain[name] = value
    return plain


def _agent(plain: Mapping[str, Json]) -> AgentRecord:
    return AgentRecord(
        **{
            **plain,
            "tool_ids": tuple(plain["tool_ids"]),
            "handoff_ids": tuple(plain["handoff_ids"]),
            "created_at": parse_iso(plain["created_at"]),
            "updated_at": parse_iso(plain["updated_at"]),
        }
    )
