"""The Traces page; `/traces/<trace id>` opens one; `?filter=`, `search=`, `source=`, `order=`, `since=` … select and
sort the list.

Invalid parameters are reported above the list, with a correction.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.clock import parse_iso, utc_now
from timestep_lab.model.errors import NotFoundError, UsageError
from timestep_lab.server.pages.page_view import Shown, looked_up
from timestep_lab.server.panel import page_argument, page_argument_names
from timestep_lab.store.trace_selection import Order
from timestep_lab.ui.explorer import LONGEST_S

if TYPE_CHECKING:
    from timestep_lab.server.labs import ExplorerOptions, UserLab
    from timestep_lab.service.traces import Source


def page(lab: UserLab, *, is_owner: bool) -> Shown:
    opened, name = page_argument("id"), None
    explorer = lab.explorer(**_asked())
    if opened is not None:
        with looked_up():
            explorer.selection = opened
        name = _question(lab, opened)
    return Shown(explorer, name=name)


KNOWN = ("id", "filter", "search", "source", "order", "range", "since", "until", "since_s")
BOUNDS: tuple[Literal["since", "until"], ...] = ("since", "until")


def _asked() -> ExplorerOptions:
    """The selection and order in the page's address; `unread`: its invalid parameters and how to fix them."""
    arguments = {name: page_argument(name) or "" for name in KNOWN}
    asked: ExplorerOptions = {"filter": arguments["filter"], "search": arguments["search"], "of": "live"}
    unread = [
        f"Unknown URL parameter {name!r}.{did_you_mean(name, KNOWN)}"
        for name in page_argument_names()
        if name not in KNOWN
    ]
    if arguments["source"] and arguments["source"] not in SOURCES:
        unread.append(
            f"Unknown source {arguments['source']!r}.{did_you_mean(arguments['source'], SOURCES)} Choose one of: {', '.join(SOURCES)}."
        )
    asked["of"] = SOURCES.get(arguments["source"], "live")
    if arguments["order"]:
        try:
            Order.read(arguments["order"])
            asked["order"] = arguments["order"]
        except UsageError as error:
            # With a suggestion, the list of alternatives is not needed.
            unread.append(error.message if "Did you mean" in error.message else f"{error.message} {error.next_step}")
    for bound in BOUNDS:
        try:
            asked[bound] = parse_iso(arguments[bound]) if arguments[bound] else None
        except ValueError:
            unread.append(
                f"{bound}={arguments[bound]} is not a valid time. Use a format like {bound}=2026-11-29T10:00:00Z, or choose it under Time."
            )
    if arguments["range"] in RANGES:
        asked["since"], asked["until"], asked["range"] = *RANGES[arguments["range"]](utc_now()), arguments["range"]
    elif arguments["range"]:
        unread.append(
            f"Unknown time range {arguments['range']!r}.{did_you_mean(arguments['range'], RANGES)} Choose one of: {', '.join(RANGES)}."
        )
    if arguments["since_s"]:
        if (seconds := _number(arguments["since_s"])) is not None and 0 < seconds <= LONGEST_S:
            asked["last_s"] = seconds
        else:
            unread.append(
                f"since_s={arguments['since_s']} is not a number of seconds. For example, use since_s=3600 for the last hour."
            )
    since, until = asked.get("since"), asked.get("until")
    if since and until and until <= since:
        unread.append("The time range ends before it starts. Change it under Time.")
    return {**asked, "unread": unread}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _days(first: int, last: int) -> Callable[[datetime], tuple[datetime, datetime]]:
    """Whole days counted from today; in UTC until the browser has sent its time zone."""

    def between(now: datetime) -> tuple[datetime, datetime]:
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)
        return today + timedelta(days=first), today + timedelta(days=last)

    return between


def _last_week(now: datetime) -> tuple[datetime, datetime]:
    return _days(-now.weekday() - 7, -now.weekday())(now)


SOURCES: dict[str, Source] = {"all": "", "live": "live", "evaluation": "evaluation", "imported": "imported"}
RANGES = {"today": _days(0, 1), "yesterday": _days(-1, 0), "last week": _last_week}


def _question(lab: UserLab, trace_id: str) -> str:
    """The input of a trace; empty if nothing is stored yet."""
    try:
        trace = lab.trace_source.read(trace_id)
    except NotFoundError:
        return ""
    asked = trace["input"]
    return asked if isinstance(asked, str) and asked.strip() else str(trace["workflow"] or "")
