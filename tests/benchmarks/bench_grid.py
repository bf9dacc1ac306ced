"""A comparison of 1,000 cases × 6 candidates in the browser: from mounting to a matrix one can work with, and frames while scrolling.

Frames per second and milliseconds are printed and held to; on a busy machine look at the main thread's own time a frame, which other
work does not change. Baselines of the same run: a comparison of 20 cases, and a page that only writes new words into as many rows each frame.
Run: `pytest tests/benchmarks/bench_grid.py -m benchmark -s`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from tests.benchmarks.bench_waterfall import WORDS, frames
from tests.browser.conftest import browser, page_host, pages, show  # noqa: F401 - fixtures
from tests.ui import sample_grid
from tests.ui.sample_grid import MODELS, cell
from tests.ui.sample_traces import SampleSource

from timestep_lab.evals.exports import grid_html
from timestep_lab.evals.grid import Grid
from timestep_lab.model.comparison import CellDelta, CellDone, CellStarted, ComparisonStarted
from timestep_lab.ui.grid import GridView

pytestmark = pytest.mark.benchmark
USABLE_S = 1.0
FPS = 57.0
"""Sixty, less what measuring two seconds of frames costs."""
CASES = 1000
SCROLL = (
    "const box = document.querySelector('.tl-mx'); box.scrollTop = (box.scrollHeight - box.clientHeight) * k / 120;"
)
LINES = "const box = document.querySelector('.tl-mx'); box.scrollTop += 51;"
USABLE = """() => new Promise((done) => {
  const look = () => document.querySelector('.tl-mx-cell') && document.querySelector('.tl-verdict').textContent
    ? setTimeout(() => done(performance.now() - window.mounted)) : requestAnimationFrame(look);
  look(); })"""


def view_of(grid: Grid) -> GridView:
    return GridView(SampleSource.with_history(2), grid, static_copy=grid_html)


def test_six_thousand_cells(show: Callable[..., Page]) -> None:  # noqa: F811
    measured, usable, figured = {}, {}, {}
    for cases in (20, CASES):
        grid = sample_grid.grid(MODELS, cases=cases)
        assert len(grid.cells) == 6 * cases
        began = time.perf_counter()
        view = view_of(grid)
        figured[cases] = time.perf_counter() - began
        usable[cases] = min(_usable_s(show, view) for _ in range(3))
        page = show(view)
        expect(page.get_by_role("grid")).to_have_attribute("aria-rowcount", str(cases + 1))
        page.wait_for_selector(".tl-mx-cell")
        asked = time.perf_counter()
        page.locator(".tl-mx-cell").nth(1).click()
        page.get_by_role("region", name="Opened case").get_by_role("article").first.wait_for()
        opened_s = time.perf_counter() - asked
        page.keyboard.press("Escape")
        print(
            f"\n{cases:>5} × 6: statistics {figured[cases]:.2f} s, usable {usable[cases] * 1000:.0f} ms after mounting, a case opens in {opened_s * 1000:.0f} ms"
        )
        for name, step in (("through all", SCROLL), ("line by line", LINES), ("plain rows", WORDS)):
            measured[cases, name] = frames(page, step)
    print(f"{'cases':>6} {'':>13} {'fps':>5} {'p95':>8} {'busy a frame':>13}")
    for (cases, name), (fps, p95_ms, busy_ms) in measured.items():
        print(f"{cases:>6} {name:>13} {fps:>5.0f} {p95_ms:>5.0f} ms {busy_ms:>10.1f} ms")
    assert usable[CASES] < USABLE_S
    for name in ("through all", "line by line"):
        fps, _, busy_ms = measured[CASES, name]
        assert busy_ms < 1000 / 60, "a frame has 16.7 ms"
        assert fps >= min(FPS, 0.95 * measured[CASES, "plain rows"][0]), "as smooth as this machine's browser can be"


def _usable_s(show: Callable[..., Page], view: GridView) -> float:  # noqa: F811
    """From mounting the component to verdict and first cells painted, in the page's own clock."""
    return float(show(view).evaluate(USABLE)) / 1000.0


def test_streaming_into_all_columns_leaves_a_frame_its_time(show: Callable[..., Page]) -> None:  # noqa: F811
    """Six answers grow by a word each frame's time, others end, and the reader scrolls."""
    started = sample_grid.running(MODELS, cases=CASES)
    view = GridView(SampleSource.with_history(2), started.empty, static_copy=grid_html)
    page = show(view)
    view.apply(ComparisonStarted(comparison=started.record, cases=started.cases))
    page.wait_for_selector(".tl-mx-cell")
    began = time.perf_counter()
    for place in range(200):
        for column, name in enumerate(MODELS):
            view.apply(CellStarted(case_id=f"case{place}", candidate=name, epoch=0))
            for word in ("In", " Oakland", " there", " is", " fog."):
                view.apply(CellDelta(case_id=f"case{place}", candidate=name, epoch=0, delta=word))
            view.apply(CellDone(cell=cell(place, column, candidates=MODELS)))
    told = time.perf_counter() - began
    fps, p95_ms, busy_ms = frames(page, LINES)
    print(
        f"\n8,400 events told in {told:.2f} s; meanwhile {fps:.0f} fps, p95 {p95_ms:.0f} ms, {busy_ms:.1f} ms busy a frame"
    )
    assert busy_ms < 1000 / 60
