"""Every notebook runs anew, cell by cell, and says what it said when it was saved (nbval); and it reads well as saved."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from timestep_lab.runtime.adapters import local as local_weights

ROOT = Path(__file__).parents[2]
SANITIZE = Path(__file__).with_name("sanitize.cfg")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 200_000
VIEWS_ONLY = "application/vnd.jupyter.widget-view+json"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_again_what_it_said(notebook: Path) -> None:
    command = [
        sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(ROOT), "-p", "nbval.plugin", "-p", "no:cacheprovider",
        "-W", "ignore", "--nbval", "--nbval-cell-timeout", "120", "--nbval-sanitize-with", str(SANITIZE), str(notebook),
    ]  # fmt: skip
    if notebook.stem == "08_a_real_small_model":
        local_weights.pull("smollm2-135m")
    # Nine times the seconds in which plugins import what they need.
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_saved_notebook_is_small_readable_and_keeps_no_widget_state(notebook: Path) -> None:
    assert notebook.stat().st_size < LARGEST
    saved = nbformat.read(notebook, as_version=4)
    assert "widgets" not in saved.metadata
    code = [cell for cell in saved.cells if cell.cell_type == "code"]
    assert all(cell.execution_count is not None for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    shown = [output.data for output in outputs if "data" in output]
    # Each live view is followed by its static copy, which is all that a reader without a kernel sees.
    for place, data in enumerate(shown):
        if VIEWS_ONLY in data:
            assert "data-tl-static" in shown[place + 1]["text/html"]
            assert "Still running" not in shown[place + 1]["text/html"]


def test_a_notebook_that_ran_where_nobody_looks_carries_the_static_copies_alone() -> None:
    cells = ["from timestep_lab import Lab\nlab = Lab(':memory:')", "lab.traces", "lab.chat()"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, store_widget_state=True).execute()  # As papermill and nbconvert do.
    assert "widgets" not in notebook.metadata
    shown = [[output.data for output in cell.outputs] for cell in notebook.cells[1:]]
    assert [len(outputs) for outputs in shown] == [1, 1]
    assert all("data-tl-static" in data["text/html"] for [data] in shown)
    assert len(nbformat.writes(notebook)) < 20_000


def test_a_layout_that_ran_where_nobody_looks_carries_static_copies_and_no_modules_of_its_views() -> None:
    cells = [
        "from ipywidgets import *\nfrom timestep_lab import Lab\nlab = Lab(':memory:')",
        "HBox([IntSlider(), lab.traces, lab.chat()])",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, store_widget_state=True).execute()
    layout, *copies = [output.data for output in notebook.cells[1].outputs]
    assert (
        layout[VIEWS_ONLY]["model_id"]
        in notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    )
    assert ["data-tl-static" in data["text/html"] for data in copies] == [True, True]
    assert len(nbformat.writes(notebook)) < 30_000
    # A notebook that was saved by JupyterLab has no widgets in it: only the copies are left, and nothing is said of them.
    del notebook.metadata["widgets"]
    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert page.count("data-tl-static=") == 2
    assert VIEWS_ONLY not in page
