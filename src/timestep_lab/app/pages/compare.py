"""Comparisons; `/compare/<comparison id>` opens one."""

from __future__ import annotations

from typing import Any

from timestep_lab.app.panel_server import page_argument
from timestep_lab.app.views.compare import ComparePage


def page(lab: Any, *, is_owner: bool) -> Any:
    return ComparePage(lab, opened=page_argument("id")).panel()
