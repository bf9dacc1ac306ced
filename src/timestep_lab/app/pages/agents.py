"""Agents; `/agents/<agent id>` opens one."""

from __future__ import annotations

from typing import Any

from timestep_lab.app.panel_server import page_argument
from timestep_lab.app.views.agents import AgentsPage


def page(lab: Any, *, is_owner: bool) -> Any:
    return AgentsPage(lab, selected=page_argument("id")).panel()
