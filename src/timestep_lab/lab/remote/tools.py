"""`lab.mcp` of a served lab: what belongs to one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from timestep_lab.model.records import Json
from timestep_lab.service.client import unsupported_remotely
from timestep_lab.service.mcp import Mcp

if TYPE_CHECKING:
    from agents import FunctionTool


class RemoteMcp(Mcp):
    """Servers come without the values of their headers: those stay with the served lab."""

    def add_function(
        self, function: Callable[..., Any] | FunctionTool, *, server: str = "functions", require_approval: Json = None
    ) -> NoReturn:
        """A function is served by the process that it is in."""
        raise unsupported_remotely(
            "A function of this process",
            "Add it where the lab is served, or as an MCP server with an address of its own: lab.mcp.add(name, url=…)",
        )

    def close(self) -> None:
        """Nothing is served from here."""
