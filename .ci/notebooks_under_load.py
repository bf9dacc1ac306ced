"""Run each notebook several times from a fresh kernel, as *Run All* does, while another process keeps one core busy; ends with 1 if one failed.

python .ci/notebooks_under_load.py [TIMES] [NAME …]      # five times, all of them
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from timestep_lab.cli.serve import copy_notebooks

CELL_S = 300


class RunAll(NotebookClient):
    """With somebody who looks: the views are live widgets, as in JupyterLab."""

    async def async_start_new_kernel_client(self, **options: Any) -> Any:
        client = await super().async_start_new_kernel_client(**options)
        client.allow_stdin = True
        return client


def spin() -> None:
    while True:
        pass


def main(times: int, names: list[str]) -> int:
    busy = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
    busy.start()
    failures = 0
    try:
        with tempfile.TemporaryDirectory() as folder:
            copy_notebooks(Path(folder))
            for file in sorted(Path(folder).glob("*.ipynb")):
                if names and not any(file.stem.startswith(name) for name in names):
                    continue
                took = []
                for n in range(times):
                    began = time.monotonic()
                    try:
                        notebook = nbformat.read(file, as_version=4)
                        RunAll(notebook, timeout=CELL_S, resources={"metadata": {"path": folder}}).execute()
                    except CellExecutionError as error:
                        failures += 1
                        print(f"{file.stem}, run {n + 1} failed:\n{error}", flush=True)
                    took.append(time.monotonic() - began)
                print(f"{file.stem}: {times} runs, {min(took):.1f} to {max(took):.1f} s", flush=True)
    finally:
        busy.kill()
    print(f"{failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2:]))
