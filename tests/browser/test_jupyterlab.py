"""The views in a real JupyterLab."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.browser.conftest import Pages
from tests.browser.jupyter import JupyterLab

SETUP = """
from datetime import timedelta
from tests.ui.sample_traces import SampleSource, weather_run
from timestep_lab.model.clock import utc_now
from timestep_lab.ui.explorer import TraceExplorer
from timestep_lab.ui.trace_view import TraceView
source = SampleSource.with_history(20)
"""


def test_the_explorer_lives_in_a_cell_and_its_filter_goes_both_ways(jupyterlab: JupyterLab, pages: Pages) -> None:
    notebook = jupyterlab.open(pages, "explorer", [SETUP, "explorer = TraceExplorer(source)\nexplorer"])
    notebook.run_all()
    page = notebook.page
    expect(page.locator(".tl-list-row")).to_have_count(20)
    expect(page.locator("[data-tl-static]")).to_be_hidden()
    box = page.get_by_role("combobox", name="Filter")
    box.fill('status == "failed"')
    box.press("Enter")
    expect(page.locator(".tl-filter-facts")).to_contain_text("3 traces")
    assert notebook.execute("print(explorer.filter, len(explorer.df()))") == 'status == "failed" 3\n'
    notebook.execute('explorer.filter = ""')
    expect(page.locator(".tl-list-row")).to_have_count(20)
    assert "FilterError" in notebook.execute('explorer.filter = "statsu == 3"')
    page.evaluate("document.body.dataset.jpThemeLight = 'false'")
    expect(page.locator(".tl-root")).to_have_attribute("data-tl-theme", "dark")


def test_a_run_is_followed_live_and_remains_readable_without_kernel(jupyterlab: JupyterLab, pages: Pages) -> None:
    begin = "row, spans = weather_run(77, utc_now())\nrunning = {**row, 'status': 'running'}\nsource.add(running, spans[:2])"
    notebook = jupyterlab.open(pages, "live", [SETUP + begin, "view = TraceView(source, row['trace_id'])\nview"])
    notebook.run_all()
    rows = notebook.page.locator(".tl-wf-row:visible")
    expect(rows).to_have_count(2)
    notebook.execute("import threading; threading.Thread(target=source.add, args=(running, spans[:5])).start()")
    expect(rows).to_have_count(5)
    notebook.execute("source.add(row, spans)")
    expect(rows).to_have_count(10)
    notebook.page.wait_for_timeout(1200)
    saved = notebook.save_and_stop()
    notebook.page.context.close()
    assert "widgets" not in saved["metadata"]
    assert len(str(saved)) < 60_000
    again = jupyterlab.open(pages, "live", []).page
    instead_of_the_widget = again.locator(".jp-OutputArea-output.jupyter-widgets")
    expect(instead_of_the_widget).to_have_text("Error displaying widget: model not found", timeout=60_000)
    expect(instead_of_the_widget).to_be_hidden()
    pages.faults[:] = [fault for fault in pages.faults if "widget model not found" not in fault]  # JupyterLab's own.
    static_copy = again.locator("[data-tl-static]")
    expect(static_copy).to_be_visible(timeout=60_000)
    for fact in ("get_weather", "█", "✓ done"):
        expect(static_copy).to_contain_text(fact)
    static_copy.locator("summary").click()
    expect(static_copy).to_contain_text("handed off from Personal Assistant")


def test_a_layout_of_views_remains_readable_without_kernel(jupyterlab: JupyterLab, pages: Pages) -> None:
    trace = "trace = TraceView(source, next(iter(source.rows)))\n"
    layout = f"from ipywidgets import HBox, VBox\n{trace}VBox([HBox([trace]), TraceExplorer(source)])"
    notebook = jupyterlab.open(pages, "reopened", [SETUP, layout])
    notebook.run_all()
    expect(notebook.page.locator(".tl-list-row")).to_have_count(20)
    expect(notebook.page.locator("[data-tl-static]").locator("visible=true")).to_have_count(0)
    notebook.save_and_stop()
    notebook.page.context.close()
    again = jupyterlab.open(pages, "reopened", []).page
    instead_of_the_layout = again.locator(".jp-OutputArea-output.jupyter-widgets")
    expect(instead_of_the_layout).to_have_text("Error displaying widget: model not found", timeout=60_000)
    expect(instead_of_the_layout).to_be_hidden()
    pages.faults[:] = [fault for fault in pages.faults if "widget model not found" not in fault]  # JupyterLab's own.
    expect(again.locator("[data-tl-static]").locator("visible=true")).to_have_count(2)


def test_a_trace_is_drawn_while_its_cell_still_runs(jupyterlab: JupyterLab, pages: Pages) -> None:
    big = "from tests.ui.sample_traces import big_trace\nrow, spans = weather_run(78, utc_now())\nsource.add(row, spans)\n"
    big += "source.spans_of[row['trace_id']] = big_trace(5_000)\n"
    big += "import time\nfrom pathlib import Path\n"
    show = "display(TraceView(source, row['trace_id']))\n"
    show += (
        "until = time.monotonic() + 20\nwhile not Path('go-on').exists() and time.monotonic() < until: time.sleep(0.05)"
    )
    notebook = jupyterlab.open(pages, "early", [SETUP + big, show])
    notebook.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")  # Not waited for.
    rows = notebook.page.locator(".tl-wf-row[aria-rowindex]:visible")
    expect(rows.first).to_be_visible()
    grid = notebook.page.get_by_role("treegrid")
    early = int(grid.get_attribute("aria-rowcount") or 0)
    first = rows.first.inner_text()
    (jupyterlab.folder / "go-on").touch()
    expect(grid).to_have_attribute("aria-rowcount", "5001")
    assert 20 < early < 200
    assert rows.first.inner_text().split("\n")[0] == first.split("\n")[0]


WHERE = """() => { const at = document.activeElement, notebook = window.jupyterapp.shell.currentWidget.content;
  return { mode: notebook.mode, cells: notebook.widgets.length, active: notebook.activeCellIndex, inView: Boolean(at.closest(".tl-root")),
    cell: at.classList.contains("jp-Cell"), outline: getComputedStyle(at).outlineStyle }; }"""


def test_keys_pressed_in_the_explorer_are_its_own_and_escape_gives_them_back_to_the_notebook(
    jupyterlab: JupyterLab, pages: Pages
) -> None:
    notebook = jupyterlab.open(pages, "keys", [SETUP, "explorer = TraceExplorer(source)\nexplorer", "'last'"])
    notebook.run_all()
    page, press = notebook.page, notebook.page.keyboard.press
    rows = page.locator(".tl-list-row")
    expect(rows).to_have_count(20)
    expect(page.locator(".jp-OutputArea-executeResult")).to_contain_text("'last'")
    page.get_by_role("combobox", name="Filter").focus()
    press("Escape")  # Closes the suggestions, if they are there already.
    page.get_by_role("grid", name="Traces").focus()
    # In the notebook's command mode these would make, cut, delete, merge and run cells, and save.
    for key in ("a", "b", "x", "d", "d", "m", "Shift+M", "ArrowDown", "j", "ArrowDown"):
        press(key)
    expect(rows.nth(1)).to_have_attribute("aria-selected", "true")
    where = page.evaluate(WHERE)
    assert (where["cells"], where["inView"], where["outline"]) == (3, True, "solid"), "and the focus can be seen"
    press("Enter")
    expect(page.locator(".tl-wf-row:visible").first).to_be_visible()
    assert page.evaluate(WHERE)["mode"] == "command", "Enter opened the trace, not the cell's editor"
    press("Control+Enter")  # Which is the notebook's: it runs the cell again.
    expect(page.locator(".jp-InputPrompt").nth(1)).to_have_text("[4]:")
    expect(rows).to_have_count(20)
    page.get_by_role("grid", name="Traces").focus()
    press("/")
    expect(page.get_by_role("combobox", name="Filter")).to_be_focused()
    page.keyboard.type('status == "failed"')
    press("Enter")
    expect(page.locator(".tl-filter-facts")).to_contain_text("3 traces")
    assert notebook.execute("print(explorer.filter)") == 'status == "failed"\n'
    page.get_by_role("grid", name="Traces").focus()
    active = page.evaluate(WHERE)["active"]
    press("Escape")
    page.wait_for_function("() => !document.activeElement.closest('.tl-root')")
    where = page.evaluate(WHERE)
    assert (where["mode"], where["cell"], where["active"]) == ("command", True, active)
    press("ArrowDown")
    assert page.evaluate(WHERE)["active"] == active + 1, "the notebook has its keys again"
