"""The Tools page: MCP servers and their tools."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from timestep_lab.model.codec import Json
from timestep_lab.model.errors import ForbiddenError
from timestep_lab.model.ids import BUILTIN_MCP_SERVER
from timestep_lab.model.records import McpServerRecord
from timestep_lab.server.pages.page_view import PageView
from timestep_lab.store.base import Topic, in_thread
from timestep_lab.ui.view import handles

if TYPE_CHECKING:
    from timestep_lab.runtime.mcp.sdk_tools import ToolInfo
    from timestep_lab.server.labs import UserLab

# -- The page: add, test and remove MCP servers, list their tools, and call a tool manually


class ToolsPage(PageView):
    """The page. `may_start_commands`: whether this user may start programs on the server; only the machine's owner may."""

    stem = "pages/tools"
    title = "Tools"
    topics: ClassVar[frozenset[Topic]] = frozenset({"mcp_servers"})

    def __init__(self, lab: UserLab, *, may_start_commands: bool = False) -> None:
        super().__init__(lab)
        self._may_start_commands = may_start_commands

    async def read(self) -> Json:
        records: list[McpServerRecord] = await in_thread(self.lab.mcp.list)
        tools, problems = await self.lab.toolbox.survey(retry_now=False)
        trouble = {problem.server: {"message": problem.message, "next_step": problem.next_step} for problem in problems}
        builtin: dict[str, Json] = {
            "id": BUILTIN_MCP_SERVER, "name": "lab", "place": "in this process", "builtin": True, "problem": None,
            "headers": [], "asks": False,
        }  # fmt: skip
        return {
            "servers": [builtin, *(_server(record, trouble.get(record.name)) for record in records)],
            "tools": [_tool(info) for info in tools],
            "may_start_commands": self._may_start_commands,
        }

    @handles("add")
    async def _add(
        self, name: str, url: str = "", command: str = "", headers: dict[str, str] | None = None, ask: bool = False
    ) -> str:
        """Add a server, then connect to it to show whether it responds."""
        if command and not self._may_start_commands:
            raise ForbiddenError(
                "Only the lab's own user, on the lab's own machine, may start programs.", "Add the server by its URL."
            )
        record: McpServerRecord = await in_thread(
            self.lab.mcp.add, name, command=command or None, url=url.strip() or None, headers=headers or None,
            require_approval="always" if ask else None,
        )  # fmt: skip
        await self.refresh()
        return record.id

    @handles("test")
    async def _test(self, server_id: str) -> Json:
        began = time.monotonic()
        tools = await self.lab.mcp.test(server_id)
        took_ms = (time.monotonic() - began) * 1000
        await self.refresh()
        return {"n_tools": len(tools), "took_ms": took_ms}

    @handles("remove")
    async def _remove(self, server_id: str) -> None:
        await in_thread(self.lab.mcp.remove, server_id)
        await self.refresh()

    @handles("call")
    async def _call_tool(self, tool_id: str, arguments: dict[str, Json]) -> Json:
        began = time.monotonic()
        output = await self.lab.mcp.call(tool_id, arguments)
        return {"output": output, "took_ms": (time.monotonic() - began) * 1000}


def _server(record: McpServerRecord, problem: Json) -> dict[str, Json]:
    """A server without the values of headers and environment variables."""
    return {
        "id": record.id, "name": record.name, "place": record.url or " ".join(record.command), "builtin": False,
        "problem": problem, "headers": sorted(record.headers), "asks": bool(record.require_approval),
    }  # fmt: skip


def _tool(info: ToolInfo) -> dict[str, Json]:
    return {
        "id": info.id, "server_id": info.server_id, "server": info.server, "name": info.name, "title": info.title,
        "description": info.description, "input_schema": dict(info.input_schema),
        "output_schema": dict(info.output_schema) if info.output_schema else None, "read_only": info.read_only,
    }  # fmt: skip


# --


def page(lab: UserLab, *, is_owner: bool) -> ToolsPage:
    return ToolsPage(lab, may_start_commands=is_owner)
