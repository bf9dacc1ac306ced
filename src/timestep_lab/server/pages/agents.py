"""Agents; `/agents/<agent id>` opens one."""

from __future__ import annotations

from typing import Any

from timestep_lab.server.pages.shown import Shown, looked_up
from timestep_lab.server.panel_server import page_argument
from timestep_lab.server.views.agents import AgentsPage


def page(lab: Any, *, is_owner: bool) -> Any:
    opened = page_argument("id")
    if opened is None:
        return AgentsPage(lab).panel()
    with looked_up():
        agent = lab.agents.get(opened)
    return Shown(AgentsPage(lab, selected=agent.id).panel(), name=agent.name)
