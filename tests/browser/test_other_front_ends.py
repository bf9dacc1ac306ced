"""The same views where notebooks are not JupyterLab: marimo and Notebook 7."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Pages
from tests.browser.jupyter import JupyterLab

SETUP = """
    from tests.ui.sample_traces import SampleSource
    from timestep_lab.ui.explorer import TraceExplorer
    from timestep_lab.ui.trace_view import TraceView
    source = SampleSource.with_history(20)
    trace = TraceView(source, next(iter(source.rows)))
"""
MARIMO = f"""
import marimo
app = marimo.App()

@app.cell
def _():
    import marimo as mo
{SETUP}
    return TraceExplorer, mo, source, trace

@app.cell
def _(trace):
    trace

@app.cell
def _(TraceExplorer, mo, source):
    mo.ui.anywidget(TraceExplorer(source))
"""
STARTS_WITHIN_S = 120


@pytest.fixture
def marimo(tmp_path: Path) -> Iterator[str]:
    """The address of a marimo notebook that runs as an app."""
    notebook = tmp_path / "views.py"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    notebook.write_text(MARIMO, "utf-8")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "XDG_CONFIG_HOME": str(tmp_path)}
    command = [
        sys.executable,
        "-m",
        "marimo",
        "--yes",
        "run",
        str(notebook),
        "--headless",
        "--no-token",
        "-p",
        str(port),
    ]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(10 * STARTS_WITHIN_S):
            try:
                urllib.request.urlopen(address, timeout=2).close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(20)


def test_marimo_shows_a_bare_view_and_takes_one_as_a_widget(marimo: str, pages: Pages) -> None:
    page = pages.open(marimo)
    page.set_default_timeout(60_000)
    expect(page.locator(".tl-wf-row:visible").first).to_be_visible(timeout=120_000)
    expect(page.locator(".tl-list-row")).to_have_count(20, timeout=60_000)
    box = page.get_by_role("combobox", name="Filter")
    box.fill('status == "failed"')
    box.press("Enter")
    expect(page.locator(".tl-filter-facts")).to_contain_text("3 traces")


def test_notebook_7_shows_views_in_a_layout_of_widgets(jupyterlab: JupyterLab, pages: Pages) -> None:
    together = "from ipywidgets import VBox\nVBox([TraceExplorer(source), trace])"
    notebook = jupyterlab.open(pages, "layout", ["\n".join(map(str.strip, SETUP.splitlines())), together], classic=True)
    notebook.run_all()
    expect(notebook.page.locator(".tl-list-row")).to_have_count(20, timeout=60_000)
    expect(notebook.page.locator(".tl-wf-row:visible").first).to_be_visible()
    # Notebook 7 says these of its own parts, with or without our views.
    own = ("Cannot read properties of undefined (reading 'schema')", "Command 'filebrowser:open-path' not registered")
    pages.faults[:] = [fault for fault in pages.faults if not any(words in fault for words in own)]
