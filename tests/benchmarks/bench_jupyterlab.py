"""A trace of 100,000 spans in a real JupyterLab: from running the cell to painted, and frames while flinging, scrolling and zooming.

The trace lies in a DuckDB store; the cell is `lab.trace(trace_id)`, so reading, packing, the way through the kernel, drawing and
painting all count. The clock is the page's: from the moment that the cell is told to run to the frame after the rows are there.
Baselines of the same run: a trace of 10 spans through the same cell, and an empty cell.
Run: `pytest tests/benchmarks/bench_jupyterlab.py -m benchmark -s`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page
from tests.benchmarks.bench_waterfall import STEPS, frames
from tests.benchmarks.trace_data import NOW, TraceData
from tests.browser import jupyter
from tests.browser.conftest import Pages, browser, pages  # noqa: F401 - fixtures
from tests.browser.jupyter import JupyterLab

from timestep_lab.store.store import open_store
from timestep_lab.store.trace_import import TraceImport

pytestmark = pytest.mark.benchmark
PAINTED_MS, FRAMES_A_SECOND = 300.0, 60.0
TIMES = 7
SETUP = "from timestep_lab import Lab\nlab = Lab('lab.duckdb')\nlab.trace_source\nimport numpy, anywidget"

RUN = """async (index) => {
  const panel = window.jupyterapp.shell.currentWidget, { notebook } = panel.content ? { notebook: panel.content } : {};
  notebook.activeCellIndex = index;
  const cell = notebook.widgets[index];
  const began = performance.now();
  let painted = 0;
  const seen = new Promise((done) => {
    const look = () => {
      // Rows that nothing fills have no number.
      if (cell.node.querySelector(".tl-wf-row[aria-rowindex]:not([hidden]) .tl-wf-bar")) {
        // A frame is painted between its callbacks and a task that one of them queues.
        setTimeout(() => { painted = performance.now(); done(); });
      } else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  });
  const ran = window.jupyterapp.commands.execute("notebook:run-cell");
  await Promise.all([ran, %s]);
  return (painted || performance.now()) - began;
}"""
CLEAR = """() => window.jupyterapp.commands.execute("notebook:clear-cell-output")"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterLab]:
    folder = tmp_path_factory.mktemp("jupyterlab")
    store = open_store(folder / "lab.duckdb")
    data, importer = TraceData(store.user_id), TraceImport(store.db)
    for number, n in ((1, 100_000), (2, 10)):
        start, spans = data.trace(number, NOW, n)
        importer.rows(store.user_id, spans, [start])
    store.close()
    yield from jupyter.running(folder)


def painted_ms(page: Page, index: int, *, draws: bool = True) -> float:
    """Median over runs of the cell, each from an empty output."""
    taken = []
    for _ in range(TIMES):
        page.evaluate(CLEAR)
        page.wait_for_timeout(400)
        taken.append(float(page.evaluate(RUN % ("seen" if draws else "null"), index)))
    return sorted(taken)[TIMES // 2]


def test_a_cell_with_a_hundred_thousand_spans_is_painted_at_once(lab: JupyterLab, pages: Pages) -> None:  # noqa: F811
    cells = [SETUP, "pass", *(f"lab.trace('{TraceData.trace_id(number)}')" for number in (2, 1))]
    notebook = lab.open(pages, "large", cells)
    page = notebook.page
    notebook.run_all()
    page.wait_for_selector(".tl-wf-row")
    times = {
        "an empty cell": painted_ms(page, 1, draws=False),
        "10 spans": painted_ms(page, 2),
        "100,000 spans": painted_ms(page, 3),
    }
    print()
    for name, ms in times.items():
        print(f"{name:>16}: {ms:5.0f} ms from running the cell to painted")
    page.wait_for_selector('.tl-wf-scroll[aria-rowcount="100001"]')
    measured = {name: frames(page, step) for name, step in STEPS.items()}
    print(f"{'':>16} {'fps':>5} {'p95':>8} {'busy a frame':>13}")
    for name, (fps, p95_ms, busy_ms) in measured.items():
        print(f"{name:>16} {fps:>5.1f} {p95_ms:>5.0f} ms {busy_ms:>10.1f} ms")
    assert times["100,000 spans"] < PAINTED_MS
    for name in ("fling", "wheel", "zoom"):
        assert measured[name][0] > 0.95 * FRAMES_A_SECOND, name
