"""A comparison in the short form that a browser draws the matrix from; whole answers are fetched when opened."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict
from typing import Any

from timestep_lab.model.comparison import CaseRecord, CellRecord, headline
from timestep_lab.model.records import Json
from timestep_lab.ui.grid_state import GridState, Key
from timestep_lab.ui.json_safe import json_safe

PREVIEW = 260
"""Characters of an answer that three lines of a cell can show."""
_ASKED, _EXPECTED = 300, 120


def head(state: GridState) -> dict[str, Json]:
    """Everything but cases and cells."""
    record = state.record
    return {
        "id": record.id, "name": record.name, "status": record.status, "headline": headline(state), "epochs": state.epochs,
        "candidates": [_candidate(candidate) for candidate in record.candidates], "scorers": state.scorers,
        "deciding": state.deciding_scorer, "summary": [asdict(row) for row in state.candidate_rows],
        "pairs": [asdict(pair) for pair in state.pair_rows],
        "decision": [{**asdict(row), "words": row.words} for row in state.decision],
        "progress": None if state.progress is None else asdict(state.progress), "n_cases": len(state.cases),
    }  # fmt: skip


def body(state: GridState) -> bytes:
    """Cases and cells as UTF-8 JSON: `{"cases": [[input, expected]], "cells": [[row, column, epoch, …cell_row]]}`.

    One text instead of nested messages: 6,000 cells are encoded once and parsed once.
    """
    cells = [
        [*place, *cell_row(cell)] for cell in state.cells if (place := state.place(cell.key)) is not None
    ]  # fmt: skip
    growing = [
        [*place, *partial_row(text)] for key, text in state.partial.items() if (place := state.place(key)) is not None
    ]
    whole = {"cases": [_case_row(case) for case in state.cases], "cells": cells + growing}
    try:
        return _encoded(whole)
    except (
        ValueError
    ):  # An answer with half a character, a score that is no number: rare, and making sure takes longer than all else.
        return _encoded(json_safe(whole))


def _encoded(value: Json) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def cell_row(cell: CellRecord) -> list[Json]:
    """`[status, text, ms, tokens, usd, is_cached, text_hash, scores, has_trace]`; `text_hash` is equal for equal answers."""
    text = (cell.output or "") if cell.status == "done" else (cell.error or "failed")
    tokens = None if cell.input_tokens is None and cell.output_tokens is None else sum(_known(cell))
    return [
        cell.status, text[:PREVIEW], _round(cell.latency_ms), tokens, cell.cost_usd, cell.cached,
        zlib.crc32(" ".join(text.split()).encode("utf-8", "replace")), {s.scorer: s.value for s in cell.scores}, bool(cell.trace_id),
    ]  # fmt: skip


def partial_row(text: str) -> list[Json]:
    return ["running", text[:PREVIEW]]


def opened_case(state: GridState, place: int) -> dict[str, Json]:
    """One row of the matrix with all there is to know. Raises `UsageError`."""
    case = state.case_at(place)
    answers = []
    for column, name in enumerate(state.candidates):
        for epoch in range(state.epochs):
            key: Key = (case.case_id, name, epoch)
            cell = state.cell(key)
            if cell is not None:
                answers.append({"column": column, **asdict(cell)})
            elif key in state.partial:
                answers.append({"column": column, "epoch": epoch, "status": "running", "output": state.partial[key]})
    return {"place": place, "case": asdict(case), "answers": answers}


def _candidate(candidate: Any) -> dict[str, Json]:
    return {name: candidate.get(name) for name in ("name", "model", "agent", "prompt", "model_settings")}


def _case_row(case: CaseRecord) -> list[Json]:
    asked = case.input or ", ".join(f"{name}={value}" for name, value in case.vars.items() if not name.startswith("__"))
    expected = None if case.expected is None else _said(case.expected)[:_EXPECTED]
    return [asked[:_ASKED], expected]


def _said(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(json_safe(value), ensure_ascii=False)


def _known(cell: CellRecord) -> list[int]:
    return [count for count in (cell.input_tokens, cell.output_tokens) if count is not None]


def _round(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 1)
