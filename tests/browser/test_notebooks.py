"""The notebooks as their readers meet them: run in a real JupyterLab, and read as a page without a kernel, network or JavaScript.

Screenshots go to `test-artifacts/`, which continuous integration keeps.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Pages
from tests.browser.jupyter import JupyterLab
from timestep_lab.resources import notebooks_path

ARTIFACTS = Path(__file__).parents[2] / "test-artifacts"
NOTEBOOKS = sorted(path.stem for path in notebooks_path().glob("*.ipynb"))
SEEN = {
    "00_tour": (".tl-trace .tl-wf-row", ".tl-handoff-graph .tl-graph", ".tl-chat textarea"),
    "04_models_side_by_side": (".tl-comparison .tl-grid-lower",),
}
"""What a notebook must show in its cells, as live views."""
RUN_MS = 120_000
STATE = """() => {
  const cells = [...window.jupyterapp.shell.currentWidget.content.widgets].filter((cell) => cell.model.type === "code");
  return { waiting: cells.filter((cell) => cell.model.executionState !== "idle" || !cell.model.executionCount).length,
    errors: cells.flatMap((cell) => cell.model.outputs.toJSON()).filter((output) => output.output_type === "error") };
}"""


@pytest.mark.parametrize("name", SEEN)
def test_a_notebook_runs_to_its_end_in_jupyterlab(name: str, jupyterlab: JupyterLab, pages: Pages) -> None:
    notebook = jupyterlab.open(pages, name, [])
    page = notebook.page
    # Outputs of the saved run go first, so that what is seen afterwards was made now.
    page.evaluate("() => window.jupyterapp.commands.execute('editmenu:clear-all')")
    notebook.run_all()
    page.wait_for_function(f"({STATE})().waiting === 0", timeout=RUN_MS)
    assert page.evaluate(STATE)["errors"] == []
    for view in SEEN[name]:
        expect(page.locator(view).first).to_be_attached(timeout=RUN_MS)
    pictured(page, f"jupyterlab-{name}")
    assert notebook.execute("print(lab.store.db.dialect)").strip() == "duckdb"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_reads_well_as_a_page_without_javascript(name: str, pages: Pages, tmp_path: Path) -> None:
    from nbconvert import HTMLExporter

    html, _ = HTMLExporter().from_filename(str(notebooks_path() / f"{name}.ipynb"))
    file = tmp_path / f"{name}.html"
    file.write_text(html, "utf-8")
    page = pages.open(file.as_uri(), java_script_enabled=False, offline=True)
    assert page.locator("h1").count() == 1
    outputs = page.locator(".jp-OutputArea-output:visible")
    assert outputs.count() >= 3
    static_copies = page.locator("[data-tl-static]")
    assert static_copies.count() == html.count("data-tl-static=")
    for static_copy in static_copies.all():
        expect(static_copy).to_be_visible()
        assert len(static_copy.inner_text().split()) >= 5
    if name in SEEN:
        pictured(page, f"page-{name}")
    if name == "00_tour":
        for fact in ("Personal Assistant → Weather Assistant", "get_weather", "demo/assistant beats demo/echo", "°F"):
            expect(page.locator("body")).to_contain_text(fact)


def pictured(page: Page, name: str) -> None:
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=True)
