"""`lab.compare` and what goes with it: candidates side by side on the same cases."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from timestep_lab.model.events import Event
from timestep_lab.store.base import Change

if TYPE_CHECKING:
    import asyncio

    from timestep_lab.evals.bench import Bench
    from timestep_lab.evals.engine import Comparison
    from timestep_lab.evals.grid import Grid
    from timestep_lab.evals.plan import Plan
    from timestep_lab.lab.lab import Lab
    from timestep_lab.model.comparison import GridLike
    from timestep_lab.ui.arena import ArenaView
    from timestep_lab.ui.grid import GridView

OnEvent = Callable[[Event], None]
_TWIN_CASES_RUNNING = 10
_live: weakref.WeakValueDictionary[tuple[str, str], GridView] = weakref.WeakValueDictionary()
"""Owner (`Lab._owner`) and comparison to the view of one that runs in this process."""

_under_way: set[asyncio.Task[None]] = set()
"""Comparisons in the background: a loop itself keeps no task alive."""


def bench_of(lab: Lab) -> Bench:
    from timestep_lab.evals.bench import Bench

    return Bench(lab.store, lab.router, lab.toolbox, lab.settings, lab.writer)


def named(lab: Lab, data: Any) -> Any:
    """A data set of the lab where a text names one and no file; traces as what was asked in each, and which it is. Blocks."""
    from pathlib import Path

    from timestep_lab.evals.datasets.load import is_query
    from timestep_lab.ui.explorer import TraceExplorer

    if isinstance(data, TraceExplorer):
        return data.df()[["trace_id", "input"]]

    if not isinstance(data, str | Path) or is_query(data) or Path(data).expanduser().exists():
        return data
    return lab.datasets.find(str(data)) or data


async def prepare(lab: Lab, data: Any, resume: str | None, options: dict[str, Any]) -> Comparison:
    """A comparison that is ready to run; agents may be named by name or id."""
    from timestep_lab.evals.compare import new_comparison, resume_comparison

    agents = options.pop("agents", None)
    if agents is not None:
        many = [agents] if isinstance(agents, str) or not isinstance(agents, list | tuple) else agents
        options["agents"] = [_agent(lab, agent) for agent in many]
    models = options.pop("models", None)
    if models is not None:
        several = list(models) if isinstance(models, list | tuple) else [models]
        options["models"] = [m if m is None or isinstance(m, str) else lab.router.add_model(m) for m in several]
    if resume is not None:
        return await resume_comparison(bench_of(lab), resume, **options)
    return await new_comparison(bench_of(lab), data, **options)


def _agent(lab: Lab, agent: Any) -> Any:
    """A stored agent by its name; an address is a service's."""
    if not isinstance(agent, str):
        return agent
    if agent.startswith(("http://", "https://")):
        from timestep_lab.evals.pipelines import Endpoint

        return Endpoint(agent)
    return lab.agents.get(agent)


async def run(lab: Lab, comparison: Comparison, on_event: OnEvent | None) -> Grid:
    """To the end; in a notebook the matrix is shown while it runs, unless somebody else listens."""
    if comparison.forecast and on_event is None:
        print(comparison.forecast)  # noqa: T201 - said before it runs, in a notebook or on a terminal
    if on_event is None and not is_notebook():
        grid = await comparison.run()
    elif on_event is not None:
        grid = await comparison.run(on_event)
    else:
        view = live_view(lab, comparison)
        view._ipython_display_()
        async with contextlib.aclosing(comparison.events(deltas=True)) as events:
            async for event in events:
                view.apply(event)
        grid = comparison.grid()
        grid.shown_by = NotebookDisplay(lab, view, _running_cell())
    grid.shown_by = grid.shown_by or NotebookDisplay(lab)
    return grid


def live_view(lab: Lab, comparison: Comparison) -> GridView:
    """A view of a comparison that is about to run: give it the events. Its Stop button cancels."""
    import asyncio

    from timestep_lab.ui.grid import GridView

    loop = asyncio.get_running_loop()
    view = GridView(
        lab.trace_source, comparison.grid(), twin=_twin, stop=lambda: _in(loop, comparison.cancel)
    )  # fmt: skip
    _live[lab._owner, comparison.record.id] = view
    return view


def in_background(lab: Lab, comparison: Comparison) -> GridView:
    """Run it as a task of the running loop; its view is live, and its Stop button cancels."""
    import asyncio

    view = live_view(lab, comparison)

    async def feed() -> None:
        async with contextlib.aclosing(comparison.events(deltas=True)) as events:
            async for event in events:
                view.apply(event)

    task = asyncio.get_running_loop().create_task(feed(), name=f"comparison {comparison.record.id}")
    _under_way.add(task)
    task.add_done_callback(_under_way.discard)
    return view


def grid_view(lab: Lab, grid: Grid | str) -> GridView:
    """A view of a comparison: the live one while it runs here; one that runs in another process is followed through the store.

    By its id, the comparison is read when somebody looks. Raises `NotFoundError`.
    """
    from timestep_lab.evals.grid import Grid
    from timestep_lab.ui.grid import GridView

    live = _live.get((lab._owner, grid if isinstance(grid, str) else grid.id))
    if live is not None and live.is_running:
        return live
    shown = grid if isinstance(grid, Grid) else lab._empty_grid(grid)
    return GridView(
        lab.trace_source, shown, twin=_twin, read=lambda: lab.comparison(shown.id), subscribe=lambda told: _following(lab, shown.id, told)
    )  # fmt: skip


def arena_view(lab: Lab, grid: Grid | str, seed: int | None) -> ArenaView:
    from timestep_lab.evals.arena import Arena
    from timestep_lab.evals.rows import ComparisonRows
    from timestep_lab.ui.arena import ArenaView

    shown = lab.comparison(grid) if isinstance(grid, str) else grid
    return ArenaView(Arena(ComparisonRows(lab.store.db, lab.store.user_id), shown, seed=seed))


class NotebookDisplay:
    """How a grid shows itself in a notebook: as the matrix. Not a second time in the cell that showed it while it ran."""

    def __init__(self, lab: Lab, view: GridView | None = None, cell: str | None = None) -> None:
        self._lab, self._view, self._cell = lab, view, cell

    def __call__(self, grid: Grid) -> None:
        if self._cell is not None and self._cell == _running_cell():
            return
        (self._view or self._lab.grid_view(grid))._ipython_display_()


def is_notebook() -> bool:
    """There is a kernel whose cells can show widgets; a terminal's IPython cannot."""
    return getattr(_shell(), "kernel", None) is not None


def _shell() -> Any:
    import sys

    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    return get_ipython()


def _running_cell() -> str | None:
    """The id of the request that the cell runs for. Its number would not do: clients that keep no history do not count."""
    kernel = getattr(_shell(), "kernel", None)
    return None if kernel is None else str(kernel.get_parent()["header"]["msg_id"])


def _twin(grid: GridLike) -> str:
    """While it runs the copy is renewed every half second, so it is kept short."""
    from timestep_lab.evals.grid_html import SHOWN_CASES, grid_html

    return grid_html(grid, cases=_TWIN_CASES_RUNNING if grid.record.status == "running" else SHOWN_CASES)


def _in(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """Browsers of a notebook may speak on another thread than the one that compares."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(function)


def _following(lab: Lab, comparison_id: str, told: Callable[[], None]) -> Callable[[], None]:
    def changed(change: Change) -> None:
        if change.topic == "comparisons" and change.id in (comparison_id, ""):
            told()

    return lab._subscribe(changed)


async def plan(lab: Lab, data: Any, options: dict[str, Any]) -> Plan:
    return await (await prepare(lab, data, None, options)).plan()
