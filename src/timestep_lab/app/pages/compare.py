"""Comparisons; `/compare/<comparison id>` opens one, `/compare?duel=<model>&duel=<model>` begins a live duel."""

from __future__ import annotations

from typing import Any

from timestep_lab.app.panel_server import page_argument, page_arguments
from timestep_lab.app.views.compare import ComparePage


def page(lab: Any, *, is_owner: bool) -> Any:
    if models := page_arguments("duel"):
        named = page_argument("named") is not None
        return lab.chat(models=models, blind=not named, trace_base="/traces/").panel(sizing_mode="stretch_width")
    opened = page_argument("id")
    return ComparePage(lab).panel() if opened is None else lab.grid_view(opened).panel(sizing_mode="stretch_width")
