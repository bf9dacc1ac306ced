"""The trace explorer; `/traces/<trace id>` opens one, `?filter=` sets the filter."""

from __future__ import annotations

from typing import Any

from timestep_lab.app.panel_server import page_argument


def page(lab: Any, *, is_owner: bool) -> Any:
    explorer = lab.explorer(filter=page_argument("filter") or "", selection=page_argument("id"))
    return explorer.panel(sizing_mode="stretch_width")
