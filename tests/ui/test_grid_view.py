"""The matrix without a browser: what it tells, and how changes are joined."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.ui import sample_grid
from tests.ui.sample_grid import MODELS, cell, running
from tests.ui.sample_traces import SampleSource
from timestep_lab import Lab
from timestep_lab.evals.exports import grid_html
from timestep_lab.evals.grid import Grid
from timestep_lab.model.comparison import CellDelta, CellDone, CellStarted, GridLike
from timestep_lab.ui.grid import PREVIEW, GridState, GridView


def view_of(grid: GridLike) -> GridView:
    return GridView(SampleSource.with_history(1), grid, static_copy=grid_html)


def gathered(view: GridView) -> list[dict[str, Any]]:
    """What waits to be sent."""
    return [op for op, _ in view._ops]


def test_the_static_copy_reads_without_javascript() -> None:
    static_copy = view_of(sample_grid.grid(cases=60)).static_html()
    for fact in ("openai/gpt-4.1 beats anthropic/claude-sonnet-4", "In Berkeley there is", "✕ No answer within 120 s.", "10 more cases"):  # fmt: skip
        assert fact in static_copy
    assert "<script" not in static_copy


def test_a_state_built_from_events_is_the_grid_built_from_its_cells() -> None:
    whole = sample_grid.grid()
    state = GridState.of(running().empty)
    for place in reversed(range(12)):
        for column in range(2):
            state.apply(CellDone(cell=cell(place, column)))
    assert [c.key for c in state.cells] == [c.key for c in whole.cells]
    assert (state.scorers, state.deciding_scorer) == (whole.scorers, whole.deciding_scorer)


def test_a_flood_of_words_is_one_change_and_no_longer_than_a_cell_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    view = view_of(running().empty)
    monkeypatch.setattr(view, "in_loop", lambda *_: None)  # The 30 ms of gathering do not end.
    for name in MODELS[:2]:
        view.apply(CellStarted(case_id="case0", candidate=name, epoch=0))
    for _ in range(500):
        for name in MODELS[:2]:
            view.apply(CellDelta(case_id="case0", candidate=name, epoch=0, delta="word "))
    [op] = gathered(view)
    assert set(op["cells"]) == {"0,0,0", "0,1,0"}
    assert op["cells"]["0,0,0"]["more"] == ("word " * 500)[:PREVIEW]
    whole = view._case(0)
    assert len(whole["answers"][0]["output"]) == 2500


def test_a_running_comparison_has_no_verdict_yet() -> None:
    grid = sample_grid.grid()
    half = Grid(running().record, grid.cases, grid.cells)
    state = GridState.of(half)
    assert (state.verdict, state.pair_rows) == ("", ())


def test_long_answers_are_sent_short_and_opened_whole() -> None:
    grid = sample_grid.grid(cases=1)
    grid.cells = (cell(0, 0, output="x" * 100_000),)
    view = view_of(grid)
    reply = view.snapshot()
    assert len(reply.buffers[0]) < 2000
    assert len(json.loads(reply.buffers[0])["cells"]) == 1
    assert len(view._case(0)["answers"][0]["output"]) == 100_000


async def test_a_comparison_that_is_opened_says_its_conclusion_before_its_answers_are_read() -> None:
    async with Lab(":memory:") as lab:
        grid = await lab.compare(["Hello", "Goodbye"], models=["demo/echo", "demo/assistant"], scorers=["contains"])
        view = lab.grid_view(grid.id)
        head = view.snapshot().value
        assert head["unread"]
        assert head["conclusion"] == grid.conclusion != ""
