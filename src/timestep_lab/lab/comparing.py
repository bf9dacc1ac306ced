"""`lab.compare` and what goes with it: candidates side by side on the same cases."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from timestep_lab.types.events import Event

if TYPE_CHECKING:
    from timestep_lab.evals.bench import Bench
    from timestep_lab.evals.engine import Comparison
    from timestep_lab.evals.grid import Grid
    from timestep_lab.evals.plan import Plan
    from timestep_lab.lab.lab import Lab

OnEvent = Callable[[Event], None]


def bench_of(lab: Lab) -> Bench:
    from timestep_lab.evals.bench import Bench

    return Bench(lab.store, lab.router, lab.toolbox, lab.settings, lab.writer)


async def prepare(lab: Lab, data: Any, resume: str | None, options: dict[str, Any]) -> Comparison:
    """A comparison that is ready to run; agents may be named by name or id."""
    from timestep_lab.evals.compare import new_comparison, resume_comparison

    agents = options.pop("agents", None)
    if agents is not None:
        many = [agents] if isinstance(agents, str) or not isinstance(agents, list | tuple) else agents
        options["agents"] = [lab.agents.get(agent) if isinstance(agent, str) else agent for agent in many]
    if resume is not None:
        return await resume_comparison(bench_of(lab), resume, **options)
    return await new_comparison(bench_of(lab), data, **options)


async def run(comparison: Comparison, on_event: OnEvent | None) -> Grid:
    """To the end; in a notebook with a progress bar where nobody else listens."""
    with contextlib.ExitStack() as stack:
        listener = on_event or stack.enter_context(notebook_progress())
        return await comparison.run(listener)


@contextlib.contextmanager
def notebook_progress() -> Any:
    """One line that is rewritten while a comparison runs in a cell, and gone at its end. Silent elsewhere."""
    from timestep_lab.types.comparison import ComparisonProgress

    handle = _display_handle()

    def show(event: Event) -> None:
        if handle is not None and isinstance(event, ComparisonProgress):
            p = event.progress
            handle.update({"text/plain": f"{p.done} of {p.total} answers · {p.errors} errors"}, raw=True)

    try:
        yield show
    finally:
        if handle is not None:
            handle.update({"text/plain": "", "text/html": ""}, raw=True)


def _display_handle() -> Any:
    import sys

    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is None:
        return None
    return display({"text/plain": "Comparing …"}, raw=True, display_id=True)  # type: ignore[no-untyped-call]


async def plan(lab: Lab, data: Any, options: dict[str, Any]) -> Plan:
    return await (await prepare(lab, data, None, options)).plan()
