"""`lab.mcp` and `lab.router` of a served lab: which tools and which models it reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from timestep_lab.model.errors import ToolError, UsageError
from timestep_lab.model.ids import BUILTIN_MCP_SERVER
from timestep_lab.model.records import Json, McpServerRecord
from timestep_lab.runtime.mcp.sdk_tools import ToolInfo
from timestep_lab.runtime.mcp.toolbox import McpCatalog, Problems, Tools
from timestep_lab.runtime.router import ModelRef, ProviderStatus
from timestep_lab.service import client as decode
from timestep_lab.service.client import Connection, rebuilt, unsupported_remotely
from timestep_lab.store.base import in_thread

Servers: TypeAlias = "list[McpServerRecord]"
PATH = "/api/v1/mcp"


class RemoteMcp(McpCatalog):
    """Servers come without the values of their headers: those stay with the served lab."""

    def __init__(self, connection: Connection, user_id: str) -> None:
        self._connection, self._user_id = connection, user_id

    def add(
        self,
        name: str,
        *,
        command: Sequence[str] | str | None = None,
        env: Mapping[str, str] | None = None,
        url: str | None = None,
        headers: Mapping[str, str] | None = None,
        allowed_tools: Sequence[str] | None = None,
        require_approval: Mapping[str, Json] | str | None = None,
        timeout_s: float = 30.0,
    ) -> McpServerRecord:
        if command or env:
            raise unsupported_remotely(
                "An MCP server that is started by a command",
                "Give url=…, or add it on the lab's own machine: timestep-lab mcp add.",
            )
        rules = {"*": require_approval} if isinstance(require_approval, str) else dict(require_approval or {})
        body = {
            "name": name, "url": url, "headers": dict(headers or {}), "require_approval": rules, "timeout_s": timeout_s,
            "allowed_tools": None if allowed_tools is None else list(allowed_tools),
        }  # fmt: skip
        return self._record(self._connection.post(PATH, body))

    def add_function(self, function: Any, *, server: str = "functions", require_approval: Json = None) -> str:
        raise unsupported_remotely(
            "A function of this process",
            "Add it where the lab is served, or as an MCP server with an address of its own: lab.mcp.add(name, url=…)",
        )

    def close(self) -> None:
        """Nothing is served from here."""

    def list(self) -> Servers:
        return [self._record(told) for told in self._connection.get(PATH)]

    def remove(self, name: str) -> None:
        record = self.get(name)
        if record.id == BUILTIN_MCP_SERVER:
            raise UsageError("The built-in MCP server stays.", "Take its tools from an agent instead.")
        self._connection.ask("DELETE", f"{PATH}/{record.id}")

    async def _survey(self) -> tuple[Tools, Problems]:
        told = await in_thread(self._connection.get, f"{PATH}/survey")
        problems = [error for error in map(rebuilt, told["problems"]) if isinstance(error, ToolError)]
        return decode.records(ToolInfo, told["tools"]), problems

    def _record(self, told: Mapping[str, Any]) -> McpServerRecord:
        headers = dict.fromkeys(told["header_names"], "")
        return decode.record(McpServerRecord, {**told, "user_id": self._user_id, "headers": headers})


class RemoteRouter:
    """Which providers the served lab reaches, and their models."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def resolve(self, name: str | None) -> ModelRef:
        """Raises `UnknownPrefixError`."""
        return decode.record(ModelRef, self._connection.get(f"/api/v1/models/{name or ''}"))

    def providers(self) -> list[ProviderStatus]:
        return decode.records(ProviderStatus, self._connection.get("/api/v1/providers")["providers"])

    async def list_models(self, prefix: str | None = None) -> list[str]:
        """As `Router.list_models`; the served lab asks its providers."""
        if prefix is not None:
            return list(await in_thread(self._connection.get, f"/api/v1/providers/{prefix}/models"))
        return list(await in_thread(self._connection.get, "/api/v1/models"))

    def add(self, kind: Any) -> None:
        raise unsupported_remotely("A provider of your own", "Install it as an entry point where the lab is served.")
