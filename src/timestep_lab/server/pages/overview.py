"""The landing page; `?period=` is 1h, 24h, 7d, 30d or all."""

from __future__ import annotations

from typing import Any

from timestep_lab.server.panel_server import page_argument
from timestep_lab.server.views.overview import PERIODS, Overview


def page(lab: Any, *, is_owner: bool) -> Any:
    period = page_argument("period")
    return Overview(lab, period=period if period in PERIODS else "24h").panel()
