"""The page of comparisons: those made so far, and the opened one with its verdict, its numbers and its answers."""

from __future__ import annotations

from typing import Any, ClassVar

from timestep_lab.app.views.page_view import PageView
from timestep_lab.store.base import Topic, in_thread
from timestep_lab.types.comparison import headline
from timestep_lab.types.records import Json

SHOWN_CASES = 200
_CLIP = 2000


class ComparePage(PageView):
    stem = "pages/compare"
    title = "Compare"
    topics: ClassVar[frozenset[Topic]] = frozenset({"comparisons"})

    def __init__(self, lab: Any, *, opened: str | None = None) -> None:
        super().__init__(lab)
        self._opened = opened

    async def read(self) -> Json:
        return await in_thread(self._read)

    def _read(self) -> Json:
        rows = [
            {
                "id": r.id, "name": r.name, "status": r.status, "created_at": r.created_at,
                "candidates": [candidate["name"] for candidate in r.candidates], "epochs": r.epochs,
            }
            for r in self.lab.comparisons()
        ]  # fmt: skip
        return {"comparisons": rows, "opened": None if self._opened is None else self._grid(self._opened)}

    def _grid(self, comparison_id: str) -> Json:
        grid = self.lab.comparison(comparison_id)
        cells: dict[str, dict[str, list[Json]]] = {}
        shown = grid.cases[:SHOWN_CASES]
        wanted = {case.case_id for case in shown}
        for cell in grid.cells:
            if cell.case_id in wanted:
                cells.setdefault(cell.case_id, {}).setdefault(cell.candidate, []).append(_cell(cell))
        return {
            "id": grid.id, "name": grid.record.name, "status": grid.status, "headline": headline(grid),
            "scorers": grid.scorers, "summary": grid.to_json()["candidates"], "candidates": grid.candidates,
            "n_cases": len(grid.cases),
            "cases": [{"id": c.case_id, "input": c.input[:_CLIP], "cells": cells.get(c.case_id, {})} for c in shown],
        }  # fmt: skip


def _cell(cell: Any) -> Json:
    return {
        "output": (cell.output or "")[:_CLIP], "error": cell.error, "latency_ms": cell.latency_ms, "cost_usd": cell.cost_usd,
        "trace_id": cell.trace_id, "scores": [{"scorer": s.scorer, "value": s.value, "note": s.note} for s in cell.scores],
    }  # fmt: skip
