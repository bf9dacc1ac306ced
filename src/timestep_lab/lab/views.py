"""What a lab shows and what it writes out: chat, traces, handoffs, comparisons, files."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload
from weakref import WeakKeyDictionary

from timestep_lab.lab.run import Run
from timestep_lab.model.arguments import checks_keywords, trace_id_of, trace_ids_of, with_signature_of
from timestep_lab.model.awaiting import says_await
from timestep_lab.model.errors import NotFoundError, UsageError
from timestep_lab.store.base import in_event_loop

if TYPE_CHECKING:
    import agents as sdk
    import pandas

    from timestep_lab.evals.cause import Blame, BlamePlan
    from timestep_lab.evals.engine import Comparison
    from timestep_lab.evals.grid import Grid
    from timestep_lab.evals.plan import AnyAgent, Cache, Plan
    from timestep_lab.evals.stopping import AA
    from timestep_lab.lab.comparing import OnEvent, Watch
    from timestep_lab.lab.lab import Lab
    from timestep_lab.lab.serving import Serving
    from timestep_lab.model.records import Json, ScoreRecord
    from timestep_lab.runtime.interchange.files import Imported
    from timestep_lab.runtime.tape import Tape
    from timestep_lab.service.traces import Traces
    from timestep_lab.ui.arena import ArenaView
    from timestep_lab.ui.chat import Chat
    from timestep_lab.ui.chat_state import ChatSource
    from timestep_lab.ui.duel import Duel
    from timestep_lab.ui.explorer import TraceExplorer
    from timestep_lab.ui.grid import GridView
    from timestep_lab.ui.handoff_graph import HandoffGraph
    from timestep_lab.ui.trace_view import TraceView

    ManyTraces = Iterable[Run | TraceView | str] | Run | TraceView | str

    from timestep_lab.store.trace_diff import DiffRow


# -- `lab.import_traces`, `lab.export`: traces from files and to files


def export(lab: Lab, path: Path, trace_ids: Sequence[str] | None, filter: str) -> int:
    """Write the traces; how many. Raises `NotFoundError` when none match, `UsageError` for a name that cannot be."""
    if not path.parent.is_dir():
        raise UsageError(f"The folder {path.parent} does not exist.", f"Create it with: mkdir -p {path.parent}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder.", f"Name a file in it, such as: {path / 'traces.html'}")
    lab.flush()
    if trace_ids is None:
        trace_ids = list(lab.store.traces.frame(filter)["trace_id"])
    if not trace_ids:
        raise NotFoundError(
            "No trace matches, so nothing was written.",
            "Look at lab.traces.",
            command="Look with: timestep-lab traces list",
        )
    if path.suffix == ".html":
        from timestep_lab.ui.html_export import export_html

        export_html(lab.trace_source, path, trace_ids=trace_ids, title=f"{len(trace_ids)} traces · Timestep Lab")
        return len(trace_ids)
    from timestep_lab.runtime.interchange.export import export_file

    export_file(path, lab.store, trace_ids)
    return len(trace_ids)


def diff_frame(lab: Lab, left: str, right: str) -> pandas.DataFrame:
    """One row a step: change, depth, kind, name, first_divergence, what differs, and the differences of time, tokens and cost."""
    import pandas

    lab.flush()
    rows = [
        {
            "change": row.change, "depth": row.depth, "kind": row.kind, "name": row.name, "first_divergence": row.first_divergence,
            "fields": ", ".join(row.fields), "duration_ms": _change(row, "duration_ms"), "input_tokens": _change(row, "input_tokens"),
            "output_tokens": _change(row, "output_tokens"), "cost_usd": _change(row, "cost_usd"),
        }
        for row in lab.trace_source.diff(left, right)
    ]  # fmt: skip
    return pandas.DataFrame(rows)


def _change(row: DiffRow, name: str) -> float | None:
    """Right minus left; None where one side is missing or unknown."""
    left, right = (getattr(side, name) if side else None for side in (row.left, row.right))
    return None if left is None or right is None else float(right - left)


# --

PLUMBING = frozenset({"writer", "toolbox", "runner", "chat_source", "trace_source", "grid_view", "duel", "explorer"})
"""What the other parts of a lab use of it: there, but not offered to who completes `lab.`."""


def _compare(
    self: LabViews, data: object = None, *, models: Sequence[str] | str | None = None, agents: Sequence[AnyAgent | str] | AnyAgent | str | None = None,
    settings: Sequence[Mapping[str, Json]] | Mapping[str, Json] | None = None, prompts: Sequence[str] | str | None = None,
    scorers: Sequence[object] | object = (), name: str | None = None, columns: Mapping[str, str] | None = None, limit: int | None = None,
    client: object = None, epochs: int = 1, group: str | None = None, concurrency: int | None = None, timeout_s: float = 120.0, retries: int = 2,
    budget_usd: float | None = None, budget_tokens: int | None = None, cache: Cache | bool = "models", max_turns: int = 10,
    budget_usd_per_answer: float | None = None, max_tokens_total: int | None = None, max_tool_calls: int | None = None,
    approve: Literal["all", "none"] = "none", seed: int = 0, tools: str | Tape | Sequence[str] | None = None, on_miss: str = "fail",
    ignore: Mapping[str, Sequence[str] | str] | None = None, near: Mapping[str, Sequence[str] | str] | None = None,
    stop: Literal["settled"] | None = None, margin: float | None = None,
    alpha: float = 0.05, open_ended: bool = False, resume: str | None = None, on_event: OnEvent | None = None,
) -> None:  # fmt: skip
    """What `compare` takes. A resumed comparison keeps the options it began with unless others are given, so `compare` must know which
    were; that is why it does not take them one by one."""


def _prepare(
    self: LabViews, data: object = None, *, models: Sequence[str] | str | None = None, agents: Sequence[AnyAgent | str] | AnyAgent | str | None = None,
    settings: Sequence[Mapping[str, Json]] | Mapping[str, Json] | None = None, prompts: Sequence[str] | str | None = None,
    scorers: Sequence[object] | object = (), name: str | None = None, columns: Mapping[str, str] | None = None, limit: int | None = None,
    client: object = None, epochs: int = 1, group: str | None = None, concurrency: int | None = None, timeout_s: float = 120.0, retries: int = 2,
    budget_usd: float | None = None, budget_tokens: int | None = None, cache: Cache | bool = "models", max_turns: int = 10,
    budget_usd_per_answer: float | None = None, max_tokens_total: int | None = None, max_tool_calls: int | None = None,
    approve: Literal["all", "none"] = "none", seed: int = 0, tools: str | Tape | Sequence[str] | None = None, on_miss: str = "fail",
    ignore: Mapping[str, Sequence[str] | str] | None = None, near: Mapping[str, Sequence[str] | str] | None = None,
    stop: Literal["settled"] | None = None, margin: float | None = None,
    alpha: float = 0.05, open_ended: bool = False, resume: str | None = None,
) -> None:  # fmt: skip
    """What `prepare_comparison` takes."""


def _plan(
    self: LabViews, data: object, *, models: Sequence[str] | str | None = None, agents: Sequence[AnyAgent | str] | AnyAgent | str | None = None,
    settings: Sequence[Mapping[str, Json]] | Mapping[str, Json] | None = None, prompts: Sequence[str] | str | None = None,
    scorers: Sequence[object] | object = (), name: str | None = None, columns: Mapping[str, str] | None = None, limit: int | None = None,
    client: object = None, epochs: int = 1, group: str | None = None, concurrency: int | None = None, timeout_s: float = 120.0, retries: int = 2,
    budget_usd: float | None = None, budget_tokens: int | None = None, cache: Cache | bool = "models", max_turns: int = 10,
    budget_usd_per_answer: float | None = None, max_tokens_total: int | None = None, max_tool_calls: int | None = None,
    approve: Literal["all", "none"] = "none", seed: int = 0, tools: str | Tape | Sequence[str] | None = None, on_miss: str = "fail",
    ignore: Mapping[str, Sequence[str] | str] | None = None, near: Mapping[str, Sequence[str] | str] | None = None,
    stop: Literal["settled"] | None = None, margin: float | None = None,
    alpha: float = 0.05, open_ended: bool = False,
) -> None:  # fmt: skip
    """What `plan` and `start_comparison` take."""


@says_await("lab")
class LabViews:
    """The part of `Lab` that people look at. Every view is made when asked for and reads the store each time."""

    @property
    def _lab(self) -> Lab:
        return cast("Lab", self)

    def __dir__(self) -> list[str]:
        return sorted(set(super().__dir__()) - PLUMBING)

    @overload
    def chat(
        self, agent: str | None = ..., *, model: str | None = ..., models: None = ..., thread: str | None = ..., height: int | None = ...,
        **options: Any,
    ) -> Chat: ...  # fmt: skip
    @overload
    def chat(
        self,
        agent: str | None = ...,
        *,
        models: Sequence[str],
        blind: bool = ...,
        height: int | None = ...,
        **options: Any,
    ) -> Duel: ...
    def chat(
        self,
        agent: str | None = None,
        *,
        model: str | None = None,
        models: Sequence[str] | None = None,
        blind: bool = True,
        thread: str | None = None,
        height: int | None = None,
        **options: Any,
    ) -> Chat | Duel:
        """A chat in the cell: the same component as in the served app. `agent`: Personal Assistant, unless another is named or the
        thread was with another. `thread`: the id of one to go on in.

        With two `models`, a live duel: both answer each message side by side, without names unless `blind=False`, and votes are kept
        as in the arena. Raises `NotFoundError`, `UnknownPrefixError`, `UsageError`.
        """
        from timestep_lab.service.runs import DEFAULT_AGENT
        from timestep_lab.ui.chat import Chat

        name = None
        if agent is not None:
            found = self._lab.agents.get(agent)
            version = f"@{found.version}"
            name = f"{found.name}{version}" if agent.endswith(version) and agent != found.name else found.name
        if models is not None:
            if model is not None or thread is not None:
                raise UsageError("A duel has two models and begins anew.", "Leave model and thread out.")
            return self.duel(name or DEFAULT_AGENT, models, blind=blind, height=height, **options)
        if model is not None:
            self._lab.models.resolve(model)  # Raises for a prefix that is not known.
        if thread is not None:
            self._lab.threads[thread]  # Raises for one that is not there.
        return Chat(self.chat_source, agent=name, model=model, thread_id=thread, height=height, **options)

    def duel(self, agent: str, models: Sequence[str], **options: Any) -> Duel:
        """What `chat(agent, models=…)` shows."""
        from timestep_lab.lab.comparing import LocalDuelSource
        from timestep_lab.ui.duel import Duel

        return Duel(LocalDuelSource(self._lab, self._lab.agents.get(agent), models), **options)

    @cached_property
    def chat_source(self) -> ChatSource:
        """What a chat asks."""
        from timestep_lab.lab.chat_source import LabChatSource

        return LabChatSource(self._lab)

    @cached_property
    def trace_source(self) -> Traces:
        """What the trace views read from."""
        from timestep_lab.service.traces import Traces

        source = Traces(self._lab)
        source.causes = lambda: self._lab.causes
        return source

    @property
    def traces(self) -> TraceExplorer:
        """The explorer: all traces, live, the opened one beside the list. `.filter`, `.search`, `.sql`, `.df()`, `.selection`, `[trace_id]`.

        A sequence, too, newest first: `for trace in lab.traces`, `lab.traces[0]`, `lab.traces[:3]`, `len(lab.traces)`. It is the same one
        each time, so `lab.traces.filter = …` holds until it is changed, here or on the screen; `lab.explorer()` is another of its own.
        In a served Panel page, each browser's session has its own.
        """
        # Sessions share a lab, and must not share what each of them has filtered.
        panel = sys.modules.get("panel")
        page = None if panel is None else panel.state.curdoc
        explorers: WeakKeyDictionary[Any, TraceExplorer] = self.__dict__.setdefault("_explorers", WeakKeyDictionary())
        key = self if page is None or page.session_context is None else page
        if key not in explorers:
            explorers[key] = self._lab.explorer()
        explorers[key].forget()
        return explorers[key]

    def explorer(
        self, *, filter: str = "", search: str = "", selection: str | None = None, **options: Any
    ) -> TraceExplorer:
        """The same, opened at a filter or a trace. Raises `FilterError`, `NotFoundError`."""
        from timestep_lab.ui.explorer import TraceExplorer

        lab = self._lab
        explorer = TraceExplorer(lab.trace_source, datasets=lab.datasets, filter=filter, search=search, **options)
        if selection is not None:
            explorer.selection = selection
        return explorer

    def trace(self, run: Run | TraceView | str) -> TraceView:
        """One trace: waterfall, handoff graph, conversation. `run`: a `Run`, or a trace's id."""
        from timestep_lab.ui.trace_view import TraceView

        return TraceView(self._lab.trace_source, trace_id_of(run), datasets=self._lab.datasets)

    @checks_keywords
    def score(
        self,
        target: Run | TraceView | str,
        name: str,
        value: float | None = None,
        *,
        label: str | None = None,
        note: str | None = None,
        span_id: str | None = None,
    ) -> ScoreRecord:
        """Annotate a run's trace, or one span of it: `lab.score(run, "helpful", 1, note="…")`. It is a row of the view `scores`.

        Raises `NotFoundError` for a trace or a span that is not there, `UsageError` without a value and a label.
        """
        trace_id = trace_id_of(target)
        if value is None and label is None:
            raise UsageError("A score has a value or a label.", "Give value=…, label=…, or both.", param="value")
        if span_id is None:
            return self._lab.trace_source.score("trace", trace_id, name, value, label=label, note=note)
        if not self._lab.trace_source.payloads(trace_id, [span_id]):
            raise NotFoundError(
                f"Trace {trace_id} has no span {span_id!r}.", f"See: timestep-lab traces show {trace_id}"
            )
        return self._lab.trace_source.score("span", span_id, name, value, label=label, note=note)

    def handoffs(
        self, agent: str | sdk.Agent[Any] | None = None, *, filter: str = "", traces: ManyTraces | None = None
    ) -> HandoffGraph:
        """The handoff graph: ways declared from `agent` dashed, ways travelled solid, over the given traces or all that match.

        `agent`: a stored one by name or id, or an Agents SDK `Agent` itself. `traces`: as for `export`."""
        from timestep_lab.ui.handoff_graph import HandoffGraph

        ids = None if traces is None else trace_ids_of(traces)
        if agent is None or isinstance(agent, str):
            try:
                graph = self._lab.trace_source.handoffs(agent=agent, filter=filter, trace_id=ids)
            except NotFoundError as error:
                step = f"{error.next_step} For an Agents SDK agent pass the Agent itself: lab.handoffs(my_agent)"
                raise NotFoundError(error.message, step, command=error.command) from None
            return HandoffGraph(graph, title=graph.title)
        from timestep_lab.runtime.agent_graph import declared_graph, over

        self._lab.flush()
        observed = self._lab.store.traces.graph(ids, filter)
        return HandoffGraph(over(declared_graph(agent), observed), title=f"Handoffs of {agent.name}")

    def diff(self, left: Run | TraceView | str, right: Run | TraceView | str) -> pandas.DataFrame:
        """Two traces aligned, one row a step; `first_divergence` marks where they first differ."""
        return diff_frame(self._lab, trace_id_of(left), trace_id_of(right))

    # -- comparing

    @with_signature_of(_compare)
    async def compare(self, data: Any = None, *, on_event: OnEvent | None = None, **options: Any) -> Grid:
        """Ask every candidate every case and show the answers side by side; in a notebook while they come.

        `data`: strings, dicts, a DataFrame, a path, a data set's name (`lab.datasets`), a query over past traces, or traces themselves (`lab.explorer(filter=…)`). Candidates are all combinations of `models`, `agents`,
        `settings` and `prompts`; among `agents` may also stand functions (async or not, that take what is asked and return a text, or
        an object with `output` and `steps`) and services (`https://…`, or an `Endpoint`), which models and settings do not multiply; `scorers` judge; `epochs` repeats honestly. `columns` names the columns of `data` that are `input`,
        `expected` and `id`; `limit` takes the first cases only. `resume` goes on with one by its id, with the options it began with
        unless others are given. `tools="tape"` lets the tools answer from recorded traces instead of being called: those that the
        cases are or name (a column `trace_id`), or `"tape:<filter>"`, `lab.tape(…)`. What the other options mean is said in `evals.options.Options`.

        Raises `DataError`, `UsageError`, `UnknownPrefixError`, `MissingKeyError` before anything is asked. A case that
        fails is a cell with its error.
        """
        from timestep_lab.lab import comparing

        return await comparing.run(self._lab, await self._prepared(await self._data(data), **options), on_event)

    async def aa(
        self, data: Any, *, model: str | None = None, agent: AnyAgent | str | None = None, scorers: Sequence[Any] | Any = (),
        alpha: float = 0.05, runs: int = 1000, seed: int = 0, **options: Any,
    ) -> AA:  # fmt: skip
        """The same model (or agent) twice on every case: how often would a comparison that stops itself have called one of the two better?

        What differs between the two is chance. `alpha` is what is allowed; `runs` is how often the two are told apart anew, in random order.
        The other options are those of `compare`. Raises as `compare` does, and `UsageError` when nothing was scored twice.
        """
        from timestep_lab.evals.stopping import aa
        from timestep_lab.store.base import in_thread

        grid = await self.compare(
            data, models=model, agents=agent, scorers=scorers, epochs=2, seed=seed, **options
        )  # fmt: skip
        return await in_thread(aa, grid, alpha, runs, seed)

    @with_signature_of(_plan)
    async def plan(self, data: object, **options: object) -> Plan:
        """What `compare` with the same arguments would take: calls, cache hits, cost and time, before anything is spent."""
        return await self._planned(await self._data(data), options)

    @with_signature_of(_prepare)
    async def prepare_comparison(self, data: Any = None, **options: Any) -> Comparison:
        """A comparison ready to run: `async for event in comparison.events()`, then `comparison.grid()`."""
        return await self._prepared(await self._data(data), **options)

    @with_signature_of(_plan)
    async def start_comparison(self, data: Any, **options: Any) -> GridView:
        """`compare` in the background: the view is live, its Stop button ends it, `lab.comparison(view.id_of_comparison)` reads it."""
        from timestep_lab.lab import comparing

        comparison = await self._prepared(await self._data(data), **options)
        view, task = comparing.in_background(self._lab, comparison)
        self._background[task] = comparison
        task.add_done_callback(self._background.pop)
        return view

    @cached_property
    def _background(self) -> dict[asyncio.Task[None], Comparison]:
        """Comparisons that `start_comparison` began and that have not ended. An event loop itself keeps no task alive."""
        return {}

    async def _end_background(self) -> None:
        """Cancel them, and wait until what is finished is stored and their views say so."""
        here = asyncio.get_running_loop()
        ending = {task: comparison for task, comparison in self._background.items() if task.get_loop() is here}
        await asyncio.sleep(0)  # One that has just been created starts.
        for comparison in ending.values():
            comparison.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _data(self, data: object) -> Any:
        from timestep_lab.lab.comparing import named
        from timestep_lab.store.base import in_thread

        return await in_thread(named, self._lab, data)

    async def _prepared(self, data: object, *, resume: str | None = None, **options: object) -> Comparison:
        from timestep_lab.service.comparisons import prepare

        return await prepare(self._lab, data, resume, options)

    async def _planned(self, data: object, options: dict[str, Any]) -> Plan:
        return await (await self._prepared(data, **options)).plan()

    async def blame(
        self, *, good: AnyAgent | str, bad: AnyAgent | str, cases: object, scorers: Sequence[object] | object, plan: bool = False,
        budget_usd: float | None = None, on_progress: Callable[[int, int], None] | None = None, **options: object,
    ) -> Blame | BlamePlan:  # fmt: skip
        """Which change made an agent worse: `await lab.blame(good="Front desk@3", bad="Front desk@7", cases=…, scorers=…)`. `.verdict`,
        `.effects`, `.culprits`.

        What differs (instructions, model, each setting, tool, handoff and approval) is mixed in a fractional factorial: with six changes
        at most 24 of the 64 combinations. Each effect has an interval; two changes that only do it together are named, or said to be not
        separable. `cases`, `scorers` and the other options are those of `compare`; the first scorer decides. Two Agents SDK `Agent` objects
        are compared likewise, and what models read of their tools too. `plan=True` says what it would take. Raises as `compare` does, and
        `UsageError` where nothing differs.
        """
        from timestep_lab.service.causes import find_change, plan_of_change

        data = await self._data(cases)
        if plan:
            return await plan_of_change(self._lab, good, bad, data, scorers, **options)
        return await find_change(
            self._lab, good, bad, data, scorers, budget_usd=budget_usd, on_progress=on_progress, **options
        )

    def comparison(self, id: str) -> Grid:
        """A comparison made earlier. Raises `NotFoundError`."""
        from timestep_lab.lab.comparing import NotebookDisplay

        grid = self._lab.comparisons.rows(id).grid()
        grid.shown_by = NotebookDisplay(self._lab)
        return grid

    def _empty_grid(self, id: str) -> Grid:
        """Of a comparison that is read when somebody looks. Raises `NotFoundError`."""
        from timestep_lab.evals.grid import Grid
        from timestep_lab.evals.results import ComparisonRows

        return Grid(ComparisonRows(self._lab.store.db, self._lab.store.user_id).comparisons.get(id), (), ())

    def grid_view(self, grid: Grid | str) -> GridView:
        """The matrix of a comparison, by itself or by its id; live while it runs. Raises `NotFoundError`."""
        from timestep_lab.lab import comparing

        return comparing.grid_view(self._lab, grid)

    def arena(self, grid: Grid | str, *, seed: int | None = None) -> ArenaView:
        """Blind duels between the answers of a comparison. `.ranking()` and `.votes` hold what came of them; votes are rows.

        `seed` fixes the order of the duels. Raises `NotFoundError`, and `UsageError` when no case has two answers.
        """
        from timestep_lab.lab import comparing

        return comparing.arena_view(self._lab, grid, seed)

    # -- scoring what happened

    async def score_traces(
        self, which: str | Sequence[str] = "", *, scorers: Sequence[object] | object, limit: int | None = None, keep: bool = True,
        again: bool = False, budget_usd: float | None = None,
    ) -> pandas.DataFrame:  # fmt: skip
        """Score traces that are there, one row a trace. `which`: a filter (`agent == "Front desk"`), an SQL query that gives `trace_id` (and may
        give `expected`), or ids; empty: all that completed. Scores are kept as rows of the view `scores`. What these scorers said before
        is taken as it is, unless `again`. Raises `FilterError`, `QueryError`, `DataError`, `UsageError`.
        """
        from timestep_lab.evals.scorers.registry import make_scorers
        from timestep_lab.lab.comparing import frame_of

        rows = await self._score_traces(which, scorers, limit=limit, keep=keep, again=again, budget_usd=budget_usd)
        return frame_of(rows, [scorer.name for scorer in make_scorers(scorers)])

    async def _score_traces(
        self, which: str | Sequence[str], scorers: Sequence[Any] | Any, **how: Any
    ) -> list[dict[str, Any]]:
        from timestep_lab.evals.over_traces import score_traces
        from timestep_lab.service.comparisons import eval_context

        return await score_traces(eval_context(self._lab), which, scorers, **how)

    def watch(
        self,
        *,
        scorers: Sequence[object] | object,
        sample: float = 1.0,
        filter: str = "",
        budget_usd: float | None = None,
    ) -> Watch:
        """Score new traces as they end, the share `sample` of them: `await watch.stop()` ends it. `budget_usd` is for one look. Judges' own
        traces are left out. Raises `UsageError` outside of an event loop.
        """
        from timestep_lab.lab.comparing import Watch

        return Watch(self._lab, scorers, sample, filter, budget_usd)

    async def rescore(self, grid: Grid | str, *, scorers: Sequence[object] | object, **options: object) -> Grid:
        """Score the answers of a comparison with further scorers, or with changed ones of the same name; no candidate is asked.

        `grid`: a comparison, or its id. Raises `NotFoundError`, `UsageError`, `ConflictError` while it goes on.
        """
        return await self._rescored(grid if isinstance(grid, str) else grid.id, scorers, options)

    async def _rescored(self, id: str, scorers: Sequence[object] | object, options: dict[str, Any]) -> Grid:
        from timestep_lab.evals.compare import rescored_comparison
        from timestep_lab.lab import comparing
        from timestep_lab.service.comparisons import eval_context

        comparison = await rescored_comparison(eval_context(self._lab), id, scorers, **options)
        return await comparing.run(self._lab, comparison, lambda event: None)

    # -- files

    def import_traces(self, path: str | Path) -> Imported:
        """Read OTLP (protobuf, JSON, JSONL), OpenInference, Agents SDK exports, or a lab's own. The same file twice adds nothing."""
        from timestep_lab.runtime.interchange.files import import_file

        return import_file(path, self._lab.store)

    def export(self, path: str | Path, *, trace_ids: ManyTraces | None = None, filter: str = "") -> int:
        """Write traces by the path's ending: `.json` (OTLP), `.jsonl`, `.parquet`, `.duckdb`, or `.html` that opens anywhere; how many.

        `trace_ids`: ids, runs, or a column such as `lab.traces.df().trace_id`; without it, all that match `filter`."""
        return export(self._lab, Path(path), None if trace_ids is None else trace_ids_of(trace_ids), filter)

    def serve(self, *, host: str = "127.0.0.1", port: int = 8765) -> Serving | None:
        """Serve this lab; port 0 is a free one.

        In a notebook: in a process beside the kernel, with the environment's settings, until `.stop()` or the kernel's end; the cell
        shows the link. In a script: until interrupted. Raises `UsageError` when the port is taken.
        """
        if in_event_loop():
            from timestep_lab.lab.serving import Serving

            return Serving(self._lab._shared_name(), host, port)
        from timestep_lab.server.server import serve

        serve(self._lab, host=host, port=port, announce=print)
        return None
