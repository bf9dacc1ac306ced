"""A kernel as notebooks have it: what an interrupt does, what a forgotten `await` shows, and what is saved of a layout of views."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from jupyter_client.manager import KernelManager, start_new_kernel

WIDGET = "application/vnd.jupyter.widget-view+json"
SLOW = "'hi', model='demo/slow?ttft=30000'"
WAITING = [
    f"await lab.run({SLOW})",
    f"[event async for event in lab.stream({SLOW})]",
    f"await asyncio.gather(*[lab.run({SLOW}) for _ in range(3)])",
    "await lab.compare(['hi'], models=['demo/slow?ttft=30000'])",
]


class Kernel:
    def __init__(self) -> None:
        started: tuple[KernelManager, Any] = start_new_kernel(kernel_name="python3")
        self.manager, self.client = started

    def run(self, code: str, *, interrupt: bool = False) -> tuple[float, list[dict[str, Any]]]:
        """Seconds until the cell ended, after it was interrupted if it was; and what it showed."""
        asked = self.client.execute(code)
        shown: list[dict[str, Any]] = []
        began = time.monotonic()
        while True:
            message = self.client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != asked:
                continue
            waits = (
                message["msg_type"] == "display_data"
                if "compare" in code
                else message["content"].get("text") == "waiting\n"
            )
            if interrupt and waits:
                interrupt = False
                time.sleep(0.5)
                began = time.monotonic()
                self.manager.interrupt_kernel()
            elif message["content"].get("execution_state") == "idle":
                return time.monotonic() - began, shown
            elif message["msg_type"] in ("error", "execute_result", "display_data"):
                shown.append(message["content"])


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    started = Kernel()
    started.run(
        "import asyncio\nfrom timestep_lab import Lab\nlab = Lab(':memory:')\nawait lab.run('x', model='demo/echo')"
    )
    yield started
    started.client.stop_channels()
    started.manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("code", WAITING)
def test_an_interrupt_ends_a_waiting_cell_at_once_and_leaves_one_line(kernel: Kernel, code: str) -> None:
    took, [*_, error] = kernel.run(f"print('waiting', flush=True)\n{code}", interrupt=True)
    assert took < 5
    assert error["ename"] == "CancelledError"
    [line] = error["traceback"]
    assert line.startswith("Interrupted. Completed work is kept")
    if "compare" in code:
        resume = line.rpartition(" to go on: ")[2]
        _, [refused] = kernel.run(resume.replace("compare(", "compare(['hi'], "))
        assert refused["evalue"].endswith(f"Omit data: {resume}")


def test_an_await_that_was_forgotten_is_told_where_its_result_is_used(kernel: Kernel) -> None:
    _, [shown] = kernel.run("lab.run('hi')")
    assert "Write: await lab.run(…)" in shown["data"]["text/plain"]
    for code in ("lab.run('hi').output", "lab.trace(lab.run('hi'))"):
        _, [error] = kernel.run(code)
        assert "lab.run(…) was not awaited" in error["evalue"]
        assert error["evalue"].endswith("Write: await lab.run(…)")
    for code in ("for x in lab.run('hi'): pass", "lab.run('hi')[0]", "lab.run('hi') + 1", "'a' in lab.run('hi')"):
        _, [error] = kernel.run(code)
        assert error["ename"] == "TypeError"
        assert error["evalue"].endswith("Write: await lab.run(…)")


LAYOUTS = {
    "VBox([lab.traces, lab.chat()])": 2,
    "Tab([HBox([IntSlider(), lab.traces]), VBox([lab.traces.widget, lab.traces])])": 1,
    "Card(slots={'body': [HBox([lab.traces])]})": 1,
    "lab.traces.widget": 1,
}
CARD = """
import traitlets
from ipywidgets import *
class Card(DOMWidget):
    "A container of another library."
    _view_name = traitlets.Unicode("Card").tag(sync=True)
    slots = traitlets.Dict().tag(sync=True, **widget_serialization)
"""


def test_a_layout_of_widgets_is_followed_by_the_static_copies_of_the_views_in_it(kernel: Kernel) -> None:
    kernel.run(CARD)
    for code, views in LAYOUTS.items():
        _, [layout, *copies] = kernel.run(code)
        assert WIDGET in layout["data"], code
        assert ["data-tl-static" in copy["data"]["text/html"] for copy in copies] == [True] * views, code
    _, [slider] = kernel.run("VBox([IntSlider()])")
    assert list(slider["data"]) == ["text/plain", WIDGET], "a layout without views is left alone"
    assert "execution_count" in slider
