"""The trace explorer; `/traces/<trace id>` opens one, `?filter=` sets the filter."""

from __future__ import annotations

from typing import Any

from timestep_lab.model.errors import NotFoundError
from timestep_lab.server.pages.page_view import Shown, looked_up
from timestep_lab.server.panel import page_argument


def page(lab: Any, *, is_owner: bool) -> Any:
    opened, name = page_argument("id"), None
    explorer = lab.explorer(filter=page_argument("filter") or "")
    if opened is not None:
        with looked_up():
            explorer.selection = opened
        name = _question(lab, opened)
    return Shown(explorer.panel(sizing_mode="stretch_width"), name=name)


def _question(lab: Any, trace_id: str) -> str:
    """Empty while nothing of it is stored yet."""
    try:
        trace = lab.store.traces.get(trace_id)
    except NotFoundError:
        return ""
    asked = trace["input"]
    return asked if isinstance(asked, str) and asked.strip() else str(trace["workflow"] or "")
