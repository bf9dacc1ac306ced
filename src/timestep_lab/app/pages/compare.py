"""Comparisons; `/compare/<comparison id>` opens one."""

from __future__ import annotations

from typing import Any

from timestep_lab.app.panel_server import page_argument
from timestep_lab.app.views.compare import ComparePage


def page(lab: Any, *, is_owner: bool) -> Any:
    opened = page_argument("id")
    return ComparePage(lab).panel() if opened is None else lab.grid_view(opened).panel(sizing_mode="stretch_width")
