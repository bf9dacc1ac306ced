"""MCP servers and their tools."""

from __future__ import annotations

from typing import Any

from timestep_lab.app.views.tools import ToolsPage


def page(lab: Any, *, is_owner: bool) -> Any:
    return ToolsPage(lab, may_start_commands=is_owner).panel()
