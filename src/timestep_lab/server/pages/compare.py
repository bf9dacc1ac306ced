"""Comparisons; `/compare/<comparison id>` opens one, `/compare?duel=<model>&duel=<model>` begins a live duel."""

from __future__ import annotations

from typing import Any

from timestep_lab.model.comparison import ComparisonRecord
from timestep_lab.server.pages.shown import Heading, Shown, looked_up
from timestep_lab.server.panel_server import page_argument, page_arguments
from timestep_lab.server.views.compare import ComparePage, name_of


def page(lab: Any, *, is_owner: bool) -> Any:
    if models := page_arguments("duel"):
        named = page_argument("named") is not None
        duel = lab.chat(models=models, blind=not named, trace_base="/traces/")
        return Shown(duel.panel(sizing_mode="stretch_width"), name="Live duel")
    opened = page_argument("id")
    if opened is None:
        return ComparePage(lab).panel()
    with looked_up():
        grid = lab.grid_view(opened)
    title = name_of(grid.record) or _against(grid.record)
    return Shown(grid.panel(sizing_mode="stretch_width"), name=title, heading=_heading(grid.record, title))


def _heading(record: ComparisonRecord, title: str) -> Heading:
    cases = f"{record.n_cases:,} {'case' if record.n_cases == 1 else 'cases'}"
    facts = [] if title == _against(record) else [_against(record)]
    facts.append(cases if record.epochs == 1 else f"{cases}, {record.epochs} times each")
    export = f"/api/v1/compare/{record.id}/export?format="
    files = [(f"{export}csv", "CSV"), (f"{export}jsonl", "JSONL"), (f"{export}html", "HTML")]
    return Heading(title, " · ".join(facts), record.created_at, ("/compare", "All comparisons"), files)


def _against(record: ComparisonRecord) -> str:
    return " against ".join(str(candidate["name"]) for candidate in record.candidates)
