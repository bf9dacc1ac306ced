"""Comparisons; `/compare/<comparison id>` opens one, `/compare?duel=<model>&duel=<model>` begins a live duel."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from timestep_lab.evals.scorers.registry import known
from timestep_lab.model.comparison import ComparisonRecord
from timestep_lab.model.errors import UsageError
from timestep_lab.model.records import Json
from timestep_lab.server.pages.page_view import Heading, PageView, Shown, looked_up
from timestep_lab.server.panel import page_argument, page_arguments
from timestep_lab.store.base import Topic
from timestep_lab.ui.view import handles

# --- The page of comparisons: those made so far, and a form for another. An opened one is the live matrix of `ui/grid.py`


NEED_MORE = frozenset({"function", "judge", "pairwise"})
"""Scorers that need more than a word: a Python function, or a model to judge."""
UNNAMED = "list"
"""What a comparison of plain cases is called when nobody names it."""
CHOSEN_AT_FIRST = "Personal Assistant"
"""The bare model has no tools, and most first questions need one."""


class ComparePage(PageView):
    stem = "pages/compare"
    title = "Compare"
    topics: ClassVar[frozenset[Topic]] = frozenset({"comparisons", "agents"})

    async def read(self) -> Json:
        return await self.in_turn(self._read)

    def _read(self) -> Json:
        rows = [
            {
                "id": r.id, "name": name_of(r), "status": r.status, "conclusion": r.conclusion, "created_at": r.created_at, "n_cases": r.n_cases,
                "candidates": [candidate["name"] for candidate in r.candidates], "epochs": r.epochs,
            }
            for r in self.lab.comparisons()
        ]  # fmt: skip
        return {
            "comparisons": rows,
            "agents": [record.name for record in self.lab.agents.list()],
            "chosen_agents": [CHOSEN_AT_FIRST],
            "scorers": [name for name in known() if name not in NEED_MORE],
            "default_model": self.lab.settings.default_model,
        }

    @handles("models")
    async def _models(self) -> list[str]:
        """Of every provider that is ready and answers. Asked apart, since a provider may take its time."""
        models: list[str] = await self.lab.router.list_models()
        return models

    @handles("plan")
    async def _plan(self, **form: Any) -> str:
        """What it would take, in words. Nothing is asked or written."""
        cases, options = _understood(**form)
        return str(await self.lab.plan(cases, **options))

    @handles("start")
    async def _start(self, **form: Any) -> str:
        """Begin, and answer with the id: it goes on when the page is left."""
        cases, options = _understood(**form)
        view = await self.lab.start_comparison(cases, **options)
        comparison_id: str = view.id_of_comparison
        return comparison_id


def name_of(record: ComparisonRecord) -> str:
    """Empty when nobody gave it one."""
    return "" if record.name == UNNAMED else record.name


def _understood(
    *, cases: str, models: list[str], agents: list[str], scorers: list[str], epochs: int, approve: bool
) -> tuple[list[Any], dict[str, Any]]:
    """The form as arguments of `lab.compare`. Raises `UsageError` that names the line or field."""
    lines = [line.strip() for line in cases.splitlines()]
    found = [_case(line, number) for number, line in enumerate(lines, 1) if line]
    if not found:
        raise UsageError("There is no case.", "Write at least one, each on a line of its own.", param="cases")
    options: dict[str, Any] = {"scorers": scorers, "epochs": epochs, "approve": "all" if approve else "none"}
    if models:
        options["models"] = models
    if agents:
        options["agents"] = agents
    return found, options


def _case(line: str, number: int) -> Any:
    """A line is a question, or a JSON object with `input` and what else a case may have."""
    if not line.startswith("{"):
        return line
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"Line {number} of the cases begins like JSON but is none: {error.msg} at column {error.colno}.",
            'Write {"input": "…", "expected": "…"}, or plain text.', param="cases",
        ) from error  # fmt: skip


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
