"""Implementation of `lab.compare`, live duels, `lab.score_traces` and `lab.watch`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, cast, get_args

from timestep_lab.evals.arena import length_difference
from timestep_lab.evals.over_traces import Scrubber
from timestep_lab.evals.results import ComparisonRows
from timestep_lab.lab.serving import LabChatSource
from timestep_lab.model.awaiting import interrupted_with
from timestep_lab.model.clock import utc_now
from timestep_lab.model.codec import Json
from timestep_lab.model.comparison import CandidateRecord, CaseRecord, CellRecord, ComparisonRecord
from timestep_lab.model.errors import LabError, UsageError
from timestep_lab.model.events import Event, RunStarted
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import AgentRecord, RunRecord, ThreadItem, VoteOutcome, VoteRecord
from timestep_lab.store.base import Change, in_event_loop, in_thread

if TYPE_CHECKING:
    import pandas
    from IPython.core.interactiveshell import InteractiveShell

    from timestep_lab.evals.engine import Comparison
    from timestep_lab.evals.grid import Grid
    from timestep_lab.evals.scorers.base import Scorers
    from timestep_lab.lab.lab import Lab
    from timestep_lab.model.comparison import GridLike
    from timestep_lab.ui.duel import ArenaView
    from timestep_lab.ui.grid import GridView


# --- A live duel in a local lab. Its messages, answers and votes are stored as the cases, cells and votes of a comparison, so the arena,
# the matrix and SQL read them like those of any other comparison.


class LocalDuelSource:
    """A duel between two models with the same agent. Raises `UsageError` unless two different models are given, and
    whatever the router raises for them.
    """

    def __init__(self, lab: Lab, agent: AgentRecord, models: Sequence[str]) -> None:
        if len(models) != 2 or models[0] == models[1]:
            raise UsageError(
                "A duel takes two different models.", 'For example: models=["demo/assistant", "demo/echo"]'
            )
        self._agent = agent
        self._models = {lab.router.resolve(model).full: model for model in models}
        self._chat = LabChatSource(lab)
        self._rows = ComparisonRows(lab.store.db, lab.store.user_id)
        self._scrubber = Scrubber([*models, *self._models])
        self._threads: dict[str, str] = {}
        self._outputs: dict[tuple[str, str], str] = {}
        self._record: ComparisonRecord | None = None

    @property
    def candidates(self) -> tuple[str, str]:
        return cast("tuple[str, str]", tuple(self._models))

    @property
    def comparison_id(self) -> str | None:
        return None if self._record is None else self._record.id

    async def begin(self, text: str) -> str:
        if self._record is None:
            self._record = await in_thread(self._begin)
        number = self._record.n_cases
        case = CaseRecord(comparison_id=self._record.id, case_id=new_id("case"), position=number, input=text)
        self._record = await in_thread(self._rows.add_case, self._record, case)
        return case.case_id

    def _begin(self) -> ComparisonRecord:
        candidates = tuple(
            asdict(CandidateRecord(name=name, model=name, agent_id=self._agent.id, agent=self._agent.name))
            for name in self._models
        )
        record = ComparisonRecord(
            id=new_id("comparison"), user_id=self._rows.user_id, name="Live duel", status="completed", dataset="live duel",
            candidates=candidates, settings={"live_duel": True}, ended_at=utc_now(),
        )  # fmt: skip
        self._rows.begin(record, ())
        return record

    async def ask(self, candidate: str, text: str, attachments: Sequence[Mapping[str, Json]]) -> AsyncIterator[Event]:
        events = self._chat.send(
            text, agent=self._agent.id, model=self._models[candidate], thread_id=self._threads.get(candidate),
            attachments=attachments,
        )  # fmt: skip
        async for event in events:
            if isinstance(event, RunStarted) and event.run.thread_id is not None:
                self._threads[candidate] = event.run.thread_id
            yield event

    def decide(self, run_id: str, decisions: Mapping[str, Mapping[str, Json]]) -> AsyncIterator[Event]:
        return self._chat.decide(run_id, decisions)

    async def cancel(self, run_id: str) -> None:
        await self._chat.cancel(run_id)

    async def finish(self, case_id: str, candidate: str, items: Sequence[ThreadItem], run: RunRecord) -> None:
        assert self._record is not None
        output = run.output
        failed = run.status not in ("completed", "cancelled") or output is None
        latency = None if run.ended_at is None else (run.ended_at - run.started_at).total_seconds() * 1000
        cell = CellRecord(
            comparison_id=self._record.id, case_id=case_id, candidate=candidate, epoch=0, status="error" if failed else "done",
            output=output, error=f"The run is {run.status}." if failed else None, error_type=run.status if failed else None,
            latency_ms=latency, ttft_ms=run.ttft_ms, input_tokens=run.usage.input_tokens, output_tokens=run.usage.output_tokens,
            cost_usd=run.cost_usd, trace_id=run.trace_id, run_id=run.id, steps=tuple(_steps(items)),
        )  # fmt: skip
        await in_thread(self._rows.add_cells, self._record.id, [cell])
        self._outputs[case_id, candidate] = output or ""

    async def vote(self, case_id: str, left: str, right: str, outcome: VoteOutcome) -> None:
        if outcome not in get_args(VoteOutcome):
            raise UsageError(f"{outcome!r} is not a valid vote.", f"Use one of: {', '.join(get_args(VoteOutcome))}.")
        assert self._record is not None
        record = VoteRecord(
            id=new_id("vote"), user_id=self._rows.user_id, comparison_id=self._record.id, case_id=case_id, epoch=0,
            left_candidate=left, right_candidate=right, outcome=outcome,
            length=length_difference(self._outputs.get((case_id, left), ""), self._outputs.get((case_id, right), "")),
        )  # fmt: skip
        await in_thread(self._rows.votes.insert, record)

    def votes(self) -> list[VoteRecord]:
        return [] if self._record is None else self._rows.votes.find(comparison_id=self._record.id)

    def scrub(self, value: Json) -> Json:
        return self._scrubber.value(value)

    async def attach(self, name: str, mime_type: str, content: bytes) -> Mapping[str, Json]:
        return await self._chat.attach(name, mime_type, content)

    def widget(self, output: Json) -> Mapping[str, Json] | None:
        return self._chat.widget(output)


def _steps(items: Sequence[ThreadItem]) -> list[dict[str, Json]]:
    """The run's tool calls and handoffs, as steps of a comparison cell."""
    steps: list[dict[str, Json]] = []
    for item in items:
        data = item.data
        if item.type == "tool_call":
            steps.append(
                {
                    "type": "tool", "name": data.get("name"), "arguments": data.get("arguments"), "agent": item.agent,
                    "approval": "rejected" if data.get("status") == "rejected" else "not_needed", "error": data.get("error"),
                }
            )  # fmt: skip
        elif item.type == "handoff":
            steps.append({"type": "handoff", "from": data.get("from_agent"), "to": data.get("to_agent")})
    return steps


# --- `lab.score_traces` and `lab.watch`: scoring traces outside of comparisons


log = logging.getLogger("timestep_lab")

LOOK_EVERY_S = 5.0
"""Polling interval in seconds, in case a change notification is missed."""
SETTLE_S = 0.3
"""Delay in seconds between a change and the next check, so that many changes cause one check."""
_LATE = timedelta(minutes=5)
"""How long after it ended a trace may still arrive."""


def frame_of(rows: Sequence[Mapping[str, object]], names: Sequence[str]) -> pandas.DataFrame:
    import pandas

    return pandas.DataFrame(rows, columns=["trace_id", *names, "note"])


class Watch:
    """Scores traces as they end, until `await watch.stop()` or the end of `async with lab.watch(…) as watch`."""

    def __init__(self, lab: Lab, scorers: Scorers, sample: float, filter: str, budget_usd: float | None) -> None:
        from timestep_lab.evals.scorers.registry import make_scorers

        if not in_event_loop():
            raise UsageError("Watching needs a running event loop.", "Use it in a notebook or inside asyncio.run(…).")
        if not 0.0 < sample <= 1.0:
            raise UsageError(
                f"sample={sample!r} is out of range.", "Use a fraction above 0 and at most 1.", param="sample"
            )
        if not make_scorers(scorers):
            raise UsageError("No scorer was given.", "Pass scorers=[…].", param="scorers")
        self.scored = 0
        """Number of traces scored so far."""
        self.last_error: LabError | None = None
        """The error of the last check if it failed, else None. The next check tries again."""
        self._lab, self._scorers, self._sample, self._filter, self._budget = lab, scorers, sample, filter, budget_usd
        self._since = utc_now()
        self._seen: dict[str, datetime] = {}
        self._changed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def changed(change: Change) -> None:
            if change.topic == "traces" and not loop.is_closed():
                loop.call_soon_threadsafe(self._changed.set)

        self._unsubscribe = lab._subscribe(changed)
        self._task = loop.create_task(self._watch(), name="timestep-lab watch")

    async def stop(self) -> None:
        """Check for traces one last time, then stop."""
        if self._task.done():
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        self._unsubscribe()
        await self._look()

    async def __aenter__(self) -> Watch:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._changed.wait()
            except TimeoutError:
                pass
            else:
                await asyncio.sleep(SETTLE_S)
            self._changed.clear()
            await self._look()

    async def _look(self) -> None:
        try:
            ended = await in_thread(self._ended)
            if ended:
                await self._lab.score_traces(ended, scorers=self._scorers, budget_usd=self._budget)
            self.last_error = None
        except LabError as error:
            log.warning("Traces could not be scored as they ended: %s", error)
            self.last_error = error
            return
        self.scored += len(ended)
        self._seen |= dict.fromkeys(ended, utc_now())

    def _ended(self) -> list[str]:
        """Ids of recently ended traces that are in the sample, match the filter and have not been scored here."""
        from timestep_lab.model.comparison import JUDGE

        early = utc_now() - 2 * _LATE
        self._seen = {id: at for id, at in self._seen.items() if at > early}
        ended = self._lab.sql(
            "select trace_id from traces where status = 'completed' and ended_at >= $1 and workflow <> $2",
            [max(self._since, utc_now() - _LATE), JUDGE],
        )["trace_id"]
        unscored = [str(id) for id in ended if str(id) not in self._seen and in_sample(str(id), self._sample)]
        if unscored and self._filter:
            fitting = set(self._lab.trace_source.frame(filter=self._filter)["trace_id"])
            unscored = [id for id in unscored if id in fitting]
        return unscored

    def __repr__(self) -> str:
        return f"<Watch: {self.scored} traces scored, {'ended' if self._task.done() else 'going on'}>"


def in_sample(trace_id: str, share: float) -> bool:
    """Whether the trace is in a random sample of this size. Deterministic: the same in every process."""
    return int(hashlib.sha256(trace_id.encode()).hexdigest()[:12], 16) < share * 16**12


OnEvent = Callable[[Event], None]
_STATIC_CASES_RUNNING = 10
_live: weakref.WeakValueDictionary[tuple[str, str], GridView] = weakref.WeakValueDictionary()
"""Views of the comparisons that run in this process, by owner (`Lab._owner`) and comparison id."""


def named(lab: Lab, data: object) -> object:
    """Resolves `data`: a stored data set if the string names one and is not a file; an explorer as its traces' inputs
    and ids. Blocks.
    """
    from pathlib import Path

    from timestep_lab.evals.datasets.load import is_query
    from timestep_lab.ui.explorer import TraceExplorer

    if isinstance(data, TraceExplorer):
        return data.df()[["trace_id", "input"]]

    if not isinstance(data, str | Path) or is_query(data) or Path(data).expanduser().exists():
        return data
    return lab.datasets.find(str(data)) or data


async def run(lab: Lab, comparison: Comparison, on_event: OnEvent | None) -> Grid:
    """Run a comparison to the end. In a notebook the matrix is shown while it runs, unless `on_event` is given."""
    if comparison.forecast and on_event is None:
        print(comparison.forecast)  # noqa: T201 - printed before the run, in a notebook or a terminal
    with interrupted_with(
        f'Interrupted. Completed work is kept; to go on: await lab.compare(resume="{comparison.record.id}")'
    ):
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
    """A view of a comparison that is about to run; pass its events to `apply`. The Stop button cancels it."""
    from timestep_lab.evals.results import cut
    from timestep_lab.ui.grid import GridView

    loop = asyncio.get_running_loop()
    view = GridView(
        lab.trace_source, comparison.grid(), static_copy=_static_copy, cut=cut, stop=lambda: _in(loop, comparison.cancel)
    )  # fmt: skip
    _live[lab._owner, comparison.record.id] = view
    return view


def in_background(lab: Lab, comparison: Comparison) -> tuple[GridView, asyncio.Task[None]]:
    """Run the comparison as a task of the running loop; returns its live view and the task.

    The Stop button of the view, or cancelling the task, ends the comparison.
    """
    view = live_view(lab, comparison)

    async def feed() -> None:
        async with contextlib.aclosing(comparison.events(deltas=True)) as events:
            async for event in events:
                view.apply(event)

    return view, asyncio.get_running_loop().create_task(feed(), name=f"comparison {comparison.record.id}")


def grid_view(lab: Lab, grid: Grid | str) -> GridView:
    """A view of a comparison: the live view if it runs in this process; otherwise the store is followed for changes.

    Given an id, the comparison is read when the view is first shown. Raises `NotFoundError`.
    """
    from timestep_lab.evals.grid import Grid
    from timestep_lab.evals.results import cut
    from timestep_lab.ui.grid import GridView

    live = _live.get((lab._owner, grid if isinstance(grid, str) else grid.id))
    if live is not None and live.is_running:
        return live
    shown = grid if isinstance(grid, Grid) else lab._empty_grid(grid)
    return GridView(
        lab.trace_source, shown, static_copy=_static_copy, cut=cut, read=lambda: lab.comparison(shown.id), subscribe=lambda notify: _following(lab, shown.id, notify)
    )  # fmt: skip


def arena_view(lab: Lab, grid: Grid | str, seed: int | None) -> ArenaView:
    from timestep_lab.evals.arena import Arena
    from timestep_lab.service.comparisons import ArenaVotes
    from timestep_lab.ui.duel import ArenaView

    shown = lab.comparison(grid) if isinstance(grid, str) else grid
    return ArenaView(Arena(ArenaVotes(lab.comparisons, shown.record.user_id), shown, seed=seed))


class NotebookDisplay:
    """Displays a grid as the matrix in a notebook, but not a second time in the cell that showed it while it ran."""

    def __init__(self, lab: Lab, view: GridView | None = None, cell: str | None = None) -> None:
        self._lab, self._view, self._cell = lab, view, cell

    def __call__(self, grid: Grid) -> None:
        if self._cell is not None and self._cell == _running_cell():
            return
        self.view(grid)._ipython_display_()

    def view(self, grid: Grid) -> GridView:
        self._view = self._view or self._lab.grid_view(grid)
        return self._view


def is_notebook() -> bool:
    """Whether this is a Jupyter kernel, which can show widgets; IPython in a terminal cannot."""
    return getattr(_shell(), "kernel", None) is not None


def _shell() -> InteractiveShell | None:
    import sys

    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    shell: InteractiveShell | None = get_ipython()
    return shell


def _running_cell() -> str | None:
    """The message id of the request that runs the cell. Execution counts do not work: clients without history do not
    increment them.
    """
    kernel = getattr(_shell(), "kernel", None)
    return None if kernel is None else str(kernel.get_parent()["header"]["msg_id"])


def _static_copy(grid: GridLike) -> str:
    """The static HTML copy of a grid. It is rebuilt every half second during a run, so then it shows only a few cases."""
    from timestep_lab.evals.exports import SHOWN_CASES, grid_html

    return grid_html(grid, cases=_STATIC_CASES_RUNNING if grid.record.status == "running" else SHOWN_CASES)


def _in(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """Call `function` on the loop's thread: widget callbacks of a notebook may arrive on another thread."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(function)


def _following(lab: Lab, comparison_id: str, notify: Callable[[], None]) -> Callable[[], None]:
    def changed(change: Change) -> None:
        if change.topic == "comparisons" and change.id in (comparison_id, ""):
            notify()

    return lab._subscribe(changed)
