"""The trace explorer; `/traces/<trace id>` opens one, `?filter=`, `search=`, `source=`, `order=`, `since=` … say which are listed and how."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from timestep_lab.model.clock import parse_iso, utc_now
from timestep_lab.model.errors import NotFoundError
from timestep_lab.server.pages.page_view import Shown, looked_up
from timestep_lab.server.panel import page_argument
from timestep_lab.store.trace_selection import COMPUTED, TRACE_COLUMNS


def page(lab: Any, *, is_owner: bool) -> Any:
    opened, name = page_argument("id"), None
    explorer = lab.explorer(**_asked())
    if opened is not None:
        with looked_up():
            explorer.selection = opened
        name = _question(lab, opened)
    return Shown(explorer, name=name)


def _asked() -> dict[str, Any]:
    """What the address says of which traces, in what order. What cannot be read is as if it were not there."""
    said = {
        name: page_argument(name) or "" for name in ("filter", "search", "source", "order", "range", "since", "until")
    }
    found: dict[str, Any] = {"filter": said["filter"], "search": said["search"], "of": "live"}
    if said["source"] in SOURCES:
        found["of"] = SOURCES[said["source"]]
    if said["order"].partition(" ")[0] in (*TRACE_COLUMNS, *COMPUTED):
        found["order"] = said["order"]
    for bound in ("since", "until"):
        with suppress(ValueError):
            found[bound] = parse_iso(said[bound])
    if said["range"] in RANGES:
        found["since"], found["until"], found["range"] = *RANGES[said["range"]](utc_now()), said["range"]
    with suppress(ValueError):
        found["last_s"] = float(page_argument("since_s") or "")
    return found


def _days(first: int, last: int) -> Callable[[datetime], tuple[datetime, datetime]]:
    """Whole days, counted from today; in UTC until the browser has said what its own are."""

    def between(now: datetime) -> tuple[datetime, datetime]:
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)
        return today + timedelta(days=first), today + timedelta(days=last)

    return between


def _last_week(now: datetime) -> tuple[datetime, datetime]:
    return _days(-now.weekday() - 7, -now.weekday())(now)


SOURCES = {"all": "", "live": "live", "evaluation": "evaluation", "imported": "imported"}
RANGES = {"today": _days(0, 1), "yesterday": _days(-1, 0), "last week": _last_week}


def _question(lab: Any, trace_id: str) -> str:
    """Empty while nothing of it is stored yet."""
    try:
        trace = lab.store.traces.get(trace_id)
    except NotFoundError:
        return ""
    asked = trace["input"]
    return asked if isinstance(asked, str) and asked.strip() else str(trace["workflow"] or "")
