"""`LabViews`: the part of `Lab` that shows things and writes files: chat, traces, handoffs, comparisons, exports."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload
from weakref import WeakKeyDictionary

from timestep_lab.lab.run import Run
from timestep_lab.model.arguments import (
    checks_arguments,
    checks_options,
    refuse_both,
    trace_id_of,
    trace_ids_of,
    with_signature_of,
)
from timestep_lab.model.awaiting import says_await
from timestep_lab.model.errors import NotFoundError, UsageError
from timestep_lab.model.records import AgentRecord
from timestep_lab.service.my_data import check_place
from timestep_lab.store.base import in_event_loop

if TYPE_CHECKING:
    import agents as sdk
    import pandas

    from timestep_lab.evals.cause import Blame, BlamePlan
    from timestep_lab.evals.engine import Comparison
    from timestep_lab.evals.grid import Grid
    from timestep_lab.evals.plan import AnyAgent, Cache, Plan
    from timestep_lab.evals.scorers.base import Scorers
    from timestep_lab.evals.stopping import AA
    from timestep_lab.lab.comparing import OnEvent, Watch
    from timestep_lab.lab.lab import Lab
    from timestep_lab.lab.serving import Serving
    from timestep_lab.model.codec import Json
    from timestep_lab.model.records import ScoreRecord
    from timestep_lab.runtime.interchange.files import Imported
    from timestep_lab.runtime.tape import Tape
    from timestep_lab.service.traces import Traces
    from timestep_lab.ui.chat import Chat
    from timestep_lab.ui.chat_state import ChatSource
    from timestep_lab.ui.duel import ArenaView, Duel
    from timestep_lab.ui.explorer import TraceExplorer
    from timestep_lab.ui.grid import GridView
    from timestep_lab.ui.handoff_graph import HandoffGraph
    from timestep_lab.ui.trace_view import TraceView

    AnyModel = str | sdk.Model
    ManyTraces = Iterable[Run | TraceView | str] | Run | TraceView | str

    from timestep_lab.store.trace_diff import DiffRow


# -- `lab.import_traces`, `lab.export`: traces from files and to files


def export(lab: Lab, path: Path, trace_ids: Sequence[str] | None, filter: str) -> int:
    """Write the traces to a file and return how many. Raises `NotFoundError` if none match, `UsageError` if the path is
    invalid.
    """
    refuse_both(trace_ids, filter)
    check_place(path, "traces.html")
    lab.flush()
    if trace_ids is None:
        trace_ids = list(lab.store.traces.frame(filter)["trace_id"])
    if not trace_ids:
        raise NotFoundError(
            "No trace matches, so no file was written.",
            "lab.traces shows all traces.",
            command="List the traces with: timestep-lab traces list",
        )
    if path.suffix == ".html":
        from timestep_lab.ui.html_export import export_html

        export_html(lab.trace_source, path, trace_ids=trace_ids, title=f"{len(trace_ids)} traces · Timestep Lab")
        return len(trace_ids)
    from timestep_lab.runtime.interchange.export import export_file

    export_file(path, lab.store, trace_ids)
    return len(trace_ids)


def diff_frame(lab: Lab, left: str, right: str) -> pandas.DataFrame:
    """One row per step: change, depth, kind, name, first_divergence, the fields that differ, and the differences in
    time, tokens and cost.
    """
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
    """Right minus left; None if either value is missing or unknown."""
    left, right = (getattr(side, name) if side else None for side in (row.left, row.right))
    return None if left is None or right is None else float(right - left)


# --

PLUMBING = frozenset({"writer", "toolbox", "runner", "chat_source", "trace_source", "grid_view", "duel", "explorer"})
"""Attributes of a lab that are for internal use and are left out of tab completion."""


def _compare(
    self: LabViews, data: object = None, *, models: Sequence[AnyModel] | AnyModel | None = None, agents: Sequence[AnyAgent | str] | AnyAgent | str | None = None,
    settings: Sequence[Mapping[str, Json]] | Mapping[str, Json] | None = None, prompts: Sequence[str] | str | None = None,
    scorers: Scorers = (), name: str | None = None, columns: Mapping[str, str] | None = None, limit: int | None = None,
    client: object = None, epochs: int = 1, group: str | None = None, concurrency: int | None = None, timeout_s: float = 120.0, retries: int = 2,
    budget_usd: float | None = None, budget_tokens: int | None = None, cache: Cache | bool = "models", max_turns: int = 10,
    budget_usd_per_answer: float | None = None, max_tokens_total: int | None = None, max_tool_calls: int | None = None,
    approve: Literal["all", "none"] = "none", seed: int = 0, tools: str | Tape | Sequence[str] | None = None, on_miss: str = "fail",
    ignore: Mapping[str, Sequence[str] | str] | None = None, near: Mapping[str, Sequence[str] | str] | None = None,
    stop: Literal["settled"] | None = None, margin: float | None = None,
    alpha: float = 0.05, open_ended: bool = False, resume: str | None = None, on_event: OnEvent | None = None,
) -> None:  # fmt: skip
    """The signature of `compare`. A resumed comparison keeps its original options unless others are given, so `compare`
    has to know which options were passed explicitly; that is why it takes `**options`."""


def _prepare(
    self: LabViews, data: object = None, *, models: Sequence[AnyModel] | AnyModel | None = None, agents: Sequence[AnyAgent | str] | AnyAgent | str | None = None,
    settings: Sequence[Mapping[str, Json]] | Mapping[str, Json] | None = None, prompts: Sequence[str] | str | None = None,
    scorers: Scorers = (), name: str | None = None, columns: Mapping[str, str] | None = None, limit: int | None = None,
    client: object = None, epochs: int = 1, group: str | None = None, concurrency: int | None = None, timeout_s: float = 120.0, retries: int = 2,
    budget_usd: float | None = None, budget_tokens: int | None = None, cache: Cache | bool = "models", max_turns: int = 10,
    budget_usd_per_answer: float | None = None, max_tokens_total: int | None = None, max_tool_calls: int | None = None,
    approve: Literal["all", "none"] = "none", seed: int = 0, tools: str | Tape | Sequence[str] | None = None, on_miss: str = "fail",
    ignore: Mapping[str, Sequence[str] | str] | None = None, near: Mapping[str, Sequence[str] | str] | None = None,
    stop: Literal["settled"] | None = None, margin: float | None = None,
    alpha: float = 0.05, open_ended: bool = False, resume: str | None = None,
) -> None:  # fmt: skip
    """The signature of `prepare_comparison`."""


def _plan(
    self: LabViews, data: object, *, models: Sequence[AnyModel] | AnyModel | None = None, agents: Sequence[AnyAgent | str] | AnyAgent | str | None = None,
    settings: Sequence[Mapping[str, Json]] | Mapping[str, Json] | None = None, prompts: Sequence[str] | str | None = None,
    scorers: Scorers = (), name: str | None = None, columns: Mapping[str, str] | None = None, limit: int | None = None,
    client: object = None, epochs: int = 1, group: str | None = None, concurrency: int | None = None, timeout_s: float = 120.0, retries: int = 2,
    budget_usd: float | None = None, budget_tokens: int | None = None, cache: Cache | bool = "models", max_turns: int = 10,
    budget_usd_per_answer: float | None = None, max_tokens_total: int | None = None, max_tool_calls: int | None = None,
    approve: Literal["all", "none"] = "none", seed: int = 0, tools: str | Tape | Sequence[str] | None = None, on_miss: str = "fail",
    ignore: Mapping[str, Sequence[str] | str] | None = None, near: Mapping[str, Sequence[str] | str] | None = None,
    stop: Literal["settled"] | None = None, margin: float | None = None,
    alpha: float = 0.05, open_ended: bool = False,
) -> None:  # fmt: skip
    """The signature of `plan` and `start_comparison`."""


@says_await("lab")
@checks_arguments("lab")
class LabViews:
    """The visual part of `Lab`. Each view is created on access and reads from the store."""

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
        self, agent: str | None = ..., *, models: Sequence[str], blind: bool = ..., height: int | None = ..., **options: Any
    ) -> Duel: ...  # fmt: skip
    @checks_options("theme", internal=("trace_base", "on_trace", "on_thread", "on_theme", "questions"))
    def chat(
        self, agent: str | None = None, *, model: str | None = None, models: Sequence[str] | None = None, blind: bool = True,
        thread: str | None = None, height: int | None = None, **options: Any,
    ) -> Chat | Duel:  # fmt: skip
        """A chat in the notebook, with the same component as the served app.

        Args:
            agent: Name or id. Default: the thread's agent, else Personal Assistant.
            model: Overrides the agent's model.
            models: Two models, for a live duel: both answer each message side by side, and votes are stored as in the arena.
            blind: In a duel, hide the model names until the vote.
            thread: Id of a thread to continue.
            height: Height in pixels.

        Raises `NotFoundError`, `UnknownPrefixError`, `UsageError`.
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
                raise UsageError(
                    "A duel takes two models and always starts a new conversation.", "Omit model and thread."
                )
            return self.duel(name or DEFAULT_AGENT, models, blind=blind, height=height, **options)
        if model is not None:
            self._lab.models.resolve(model)  # Raises if the prefix is unknown.
        if thread is not None:
            self._lab.threads[thread]  # Raises if the thread does not exist.
        return Chat(self.chat_source, agent=name, model=model, thread_id=thread, height=height, **options)

    def duel(self, agent: str, models: Sequence[str], **options: Any) -> Duel:
        """Implementation of `chat(agent, models=…)`."""
        from timestep_lab.lab.comparing import LocalDuelSource
        from timestep_lab.ui.duel import Duel

        return Duel(LocalDuelSource(self._lab, self._lab.agents.get(agent), models), **options)

    @cached_property
    def chat_source(self) -> ChatSource:
        """The data source of the chat component."""
        from timestep_lab.lab.serving import LabChatSource

        return LabChatSource(self._lab)

    @cached_property
    def trace_source(self) -> Traces:
        """The data source of the trace views."""
        from timestep_lab.service.traces import Traces

        source = Traces(self._lab)
        source.causes = lambda: self._lab.causes
        return source

    @property
    def traces(self) -> TraceExplorer:
        """The trace explorer: a live list of all traces, with the selected trace beside it. See `.filter`, `.search`,
        `.sql`, `.df()`, `.selection`, `[trace_id]`.

        It is also a sequence, newest first: `for trace in lab.traces`, `lab.traces[0]`, `lab.traces[:3]`,
        `len(lab.traces)`. The same explorer is returned each time, so `lab.traces.filter = …` applies until it is
        changed in code or on screen; use `lab.explorer()` for a separate one. In a served Panel app, each browser
        session has its own.
        """
        # Browser sessions share a lab but must not share a filter.
        panel = sys.modules.get("panel")
        page = None if panel is None else panel.state.curdoc
        explorers: WeakKeyDictionary[object, TraceExplorer] = self.__dict__.setdefault(
            "_explorers", WeakKeyDictionary()
        )
        key = self if page is None or page.session_context is None else page
        if key not in explorers:
            explorers[key] = self._lab.explorer()
        explorers[key].forget()
        return explorers[key]

    @checks_options("of", "since", "until", "last_s", "order", "live", "theme", "height", internal=("range", "unread"))
    def explorer(
        self, *, filter: str = "", search: str = "", selection: str | None = None, **options: Any
    ) -> TraceExplorer:
        """A new trace explorer with this filter, search and selected trace. Raises `FilterError`, `NotFoundError`."""
        from timestep_lab.ui.explorer import TraceExplorer

        lab = self._lab
        explorer = TraceExplorer(lab.trace_source, datasets=lab.datasets, filter=filter, search=search, **options)
        if (filter or search or options) and "unread" not in options:
            explorer.check()
        if selection is not None:
            explorer.selection = selection
        return explorer

    def trace(self, run: Run | TraceView | str) -> TraceView:
        """A view of one trace: waterfall, handoff graph, conversation. `run`: a `Run` or a trace id."""
        from timestep_lab.ui.trace_view import TraceView

        return TraceView(self._lab.trace_source, trace_id_of(run), datasets=self._lab.datasets)

    def score(
        self, target: Run | TraceView | str, name: str, value: float | None = None, *, label: str | None = None,
        note: str | None = None, span_id: str | None = None,
    ) -> ScoreRecord:  # fmt: skip
        """Annotate a trace, or one span of it: `lab.score(run, "helpful", 1, note="…")`. The annotation is a row of the
        view `scores`.

        Raises `NotFoundError` if the trace or span does not exist, and `UsageError` if neither `value` nor `label` is
        given.
        """
        trace_id = trace_id_of(target)
        if value is None and label is None:
            raise UsageError("A score needs a value or a label.", "Pass value=…, label=…, or both.", param="value")
        if span_id is None:
            return self._lab.trace_source.score("trace", trace_id, name, value, label=label, note=note)
        if not self._lab.trace_source.payloads(trace_id, [span_id]):
            raise NotFoundError(
                f"Trace {trace_id} has no span {span_id!r}.",
                f"List its spans with: timestep-lab traces show {trace_id}",
            )
        return self._lab.trace_source.score("span", span_id, name, value, label=label, note=note)

    def handoffs(
        self, agent: str | sdk.Agent | None = None, *, filter: str = "", traces: ManyTraces | None = None
    ) -> HandoffGraph:
        """The handoff graph: handoffs declared from `agent` are dashed, handoffs observed in the traces are solid.

        `agent`: name or id of a stored agent, or an Agents SDK `Agent`. `traces`: as for `export`; default: all traces
        that match `filter`.
        """
        from timestep_lab.ui.handoff_graph import HandoffGraph

        ids = None if traces is None else trace_ids_of(traces)
        root = agent if agent is None or isinstance(agent, str) else self._lab._agent(agent)
        if root is None or isinstance(root, str | AgentRecord):
            name = root.ref if isinstance(root, AgentRecord) else root
            try:
                if name is not None:
                    self._lab.agents.get(name)
            except NotFoundError as error:
                step = f"{error.next_step} For an Agents SDK agent, pass the Agent itself: lab.handoffs(my_agent)"
                raise NotFoundError(error.message, step, command=error.command) from None
            graph = self._lab.trace_source.handoffs(agent=name, filter=filter, trace_id=ids)
            return HandoffGraph(graph, title=graph.title)
        from timestep_lab.runtime.agent_graph import declared_graph, over

        self._lab.flush()
        observed = self._lab.store.traces.graph(ids, filter)
        return HandoffGraph(over(declared_graph(root), observed), title=f"Handoffs of {root.name}")

    def diff(self, left: Run | TraceView | str, right: Run | TraceView | str) -> pandas.DataFrame:
        """Align two traces, one row per step. `first_divergence` marks the step where they first differ."""
        return diff_frame(self._lab, trace_id_of(left), trace_id_of(right))

    # -- comparing

    @with_signature_of(_compare)
    async def compare(self, data: object = None, *, on_event: OnEvent | None = None, **options: object) -> Grid:
        """Run every candidate on every case and show the answers side by side; in a notebook the matrix updates while
        it runs.

        Args:
            data: The cases: strings, dicts, a DataFrame, a path, the name of a data set (`lab.datasets`), an SQL query over past traces, or
                traces (`lab.explorer(filter=…)`).
            on_event: Called with each event, instead of showing the matrix.
            models, agents, settings, prompts: The candidates are all combinations of these. `agents` may also contain functions (sync or
                async; they take the input and return a text, or an object with `output` and `steps`) and services (`https://…`, or an
                `Endpoint`); these are not combined with models and settings.
            scorers: What is measured on each answer: texts such as `"contains"` or `"judge:is polite"`, objects with a `type`, functions.
            columns: Which columns of `data` are `input`, `expected` and `id`.
            limit: Use only the first `limit` cases.
            epochs: Repeat every case this many times, without using the cache between repeats.
            tools: `"tape"` answers tool calls from recorded traces: those that the cases come from or name in a column `trace_id`. Also
                `"tape:<trace filter>"` or a `lab.tape(…)`.
            resume: Id of a comparison to continue, with its original options unless others are given.

        The other options are documented in `evals.plan.Options`. A case that fails becomes a cell with its error.

        Raises `DataError`, `UsageError`, `UnknownPrefixError` or `MissingKeyError` before any model is called.
        """
        from timestep_lab.lab import comparing

        return await comparing.run(self._lab, await self._prepared(await self._data(data), options), on_event)

    async def aa(
        self, data: object, *, model: str | None = None, agent: AnyAgent | str | None = None, scorers: Scorers = (),
        alpha: float = 0.05, runs: int = 1000, seed: int = 0, **options: Any,
    ) -> AA:  # fmt: skip
        """A/A test: run the same candidate twice on every case and measure the false positive rate of a comparison with
        early stopping.

        Any difference between the two is chance. `alpha`: the nominal false positive rate. `runs`: number of random
        reorderings that are tested. The other options are those of `compare`. Raises as `compare` does, and
        `UsageError` if no case was scored twice.
        """
        from timestep_lab.evals.stopping import aa
        from timestep_lab.store.base import in_thread

        if many := [name for name in ("models", "agents") if name in options]:
            raise UsageError(f"lab.aa compares one candidate with itself, and takes no {many[0]}=.", "Give model=… or agent=…, which may be a function.", param=many[0])  # fmt: skip
        grid = await self.compare(
            data, models=model, agents=agent, scorers=scorers, epochs=2, seed=seed, **options
        )  # fmt: skip
        return await in_thread(aa, grid, alpha, runs, seed)

    @with_signature_of(_plan)
    async def plan(self, data: object, **options: object) -> Plan:
        """Estimate what `compare` with the same arguments would need: calls, cache hits, cost and time. Spends nothing."""
        return await self._planned(await self._data(data), options)

    @with_signature_of(_prepare)
    async def prepare_comparison(self, data: object = None, **options: object) -> Comparison:
        """A comparison that is ready to run: `async for event in comparison.events()`, then `comparison.grid()`."""
        return await self._prepared(await self._data(data), options)

    @with_signature_of(_plan)
    async def start_comparison(self, data: object, **options: object) -> GridView:
        """`compare` in the background. Returns a live view with a Stop button; `lab.comparison(view.id_of_comparison)`
        reads the results.
        """
        from timestep_lab.lab import comparing

        comparison = await self._prepared(await self._data(data), options)
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

    async def _data(self, data: object) -> object:
        from timestep_lab.lab.comparing import named
        from timestep_lab.store.base import in_thread

        return await in_thread(named, self._lab, data)

    async def _prepared(self, data: object, options: dict[str, object]) -> Comparison:
        from timestep_lab.service.comparisons import prepare

        return await prepare(self._lab, data, cast("str | None", options.pop("resume", None)), options)

    async def _planned(self, data: object, options: dict[str, object]) -> Plan:
        return await (await self._prepared(data, options)).plan()

    async def blame(
        self, *, good: AnyAgent | str, bad: AnyAgent | str, cases: object, scorers: Scorers, plan: bool = False,
        budget_usd: float | None = None, on_progress: Callable[[int, int], None] | None = None, **options: object,
    ) -> Blame | BlamePlan:  # fmt: skip
        """Find the change that made an agent worse: `await lab.blame(good="Front desk@3", bad="Front desk@7", cases=…,
        scorers=…)`. Returns `.verdict`, `.effects`, `.culprits`.

        The differences between the two versions (instructions, model, each setting, tool, handoff and approval rule)
        are the factors of a fractional factorial design: for six changes, at most 24 of the 64 combinations are run.
        Each effect has a confidence interval; two changes that only matter together are reported as such, or as not
        separable. `good` and `bad` may also be Agents SDK `Agent` objects; then the code of tools, guardrails and dynamic
        instructions and the agents behind handoffs are compared too. Calls that fail count as a score of their own.

        `cases`, `scorers` and the other options are those of `compare`; the first scorer decides. `plan=True` returns
        the estimated cost instead. Raises as `compare` does, and `UsageError` if nothing differs.
        """
        from timestep_lab.service.causes import find_change, in_numbers, plan_of_change

        data = await self._data(cases)
        if plan:
            return await plan_of_change(self._lab, good, bad, data, scorers, **options)
        return await find_change(
            self._lab, good, bad, data, scorers, budget_usd=budget_usd, on_progress=in_numbers(on_progress), **options
        )

    def comparison(self, id: str) -> Grid:
        """A stored comparison. Raises `NotFoundError`."""
        from timestep_lab.lab.comparing import NotebookDisplay

        grid = self._lab.comparisons.rows(id).grid()
        grid.shown_by = NotebookDisplay(self._lab)
        return grid

    def _empty_grid(self, id: str) -> Grid:
        """A grid without its rows, for a view that reads them when it is shown. Raises `NotFoundError`."""
        from timestep_lab.evals.grid import Grid
        from timestep_lab.evals.results import ComparisonRows

        return Grid(ComparisonRows(self._lab.store.db, self._lab.store.user_id).comparisons.get(id), (), ())

    def grid_view(self, grid: Grid | str) -> GridView:
        """The matrix view of a comparison, given as a grid or an id; live while it runs. Raises `NotFoundError`."""
        from timestep_lab.lab import comparing

        return comparing.grid_view(self._lab, grid)

    def arena(self, grid: Grid | str, *, seed: int | None = None) -> ArenaView:
        """Blind pairwise voting on the answers of a comparison. `.ranking()` and `.votes` hold the results; votes are
        stored as rows.

        `seed` fixes the order of the pairs. Raises `NotFoundError`, and `UsageError` if no case has two answers.
        """
        from timestep_lab.lab import comparing

        return comparing.arena_view(self._lab, grid, seed)

    # -- scoring traces

    async def score_traces(
        self, which: str | Sequence[str] = "", *, scorers: Scorers, limit: int | None = None, keep: bool = True,
        again: bool = False, budget_usd: float | None = None,
    ) -> pandas.DataFrame:  # fmt: skip
        """Score existing traces; one row per trace. Scores are stored as rows of the view `scores`.

        Args:
            which: A filter (`agent == "Front desk"`), an SQL query that returns `trace_id` (and optionally `expected`), or ids. Empty: all
                completed traces.
            again: Score again instead of reusing the stored scores of the same scorers.
            keep: Store the scores.

        Raises `FilterError`, `QueryError`, `DataError`, `UsageError`.
        """
        from timestep_lab.evals.scorers.registry import make_scorers
        from timestep_lab.lab.comparing import frame_of

        rows = await self._score_traces(which, scorers, limit, keep, again, budget_usd)
        return frame_of(rows, [scorer.name for scorer in make_scorers(scorers)])

    async def _score_traces(
        self, which: str | Sequence[str], scorers: Scorers, limit: int | None, keep: bool, again: bool, budget_usd: float | None
    ) -> Sequence[Mapping[str, Json]]:  # fmt: skip
        from timestep_lab.evals.over_traces import score_traces
        from timestep_lab.service.comparisons import eval_context

        context = eval_context(self._lab)
        return await score_traces(context, which, scorers, limit=limit, keep=keep, again=again, budget_usd=budget_usd)

    def watch(
        self, *, scorers: Scorers, sample: float = 1.0, filter: str = "", budget_usd: float | None = None
    ) -> Watch:
        """Score new traces as they end. `sample`: the fraction of traces to score, in (0, 1]. `budget_usd`: limit in US
        dollars for each check. Traces of judges are excluded. Stop it with `await watch.stop()`. Raises `UsageError` if
        no event loop is running.
        """
        from timestep_lab.lab.comparing import Watch

        return Watch(self._lab, scorers, sample, filter, budget_usd)

    async def rescore(self, grid: Grid | str, *, scorers: Scorers, **options: object) -> Grid:
        """Score the stored answers of a comparison with additional scorers, or with changed ones of the same name; no
        candidate is run.

        `grid`: a comparison or its id. Raises `NotFoundError`, `UsageError`, and `ConflictError` while the comparison
        is running.
        """
        return await self._rescored(grid if isinstance(grid, str) else grid.id, scorers, options)

    async def _rescored(self, id: str, scorers: Scorers, options: Mapping[str, object]) -> Grid:
        from timestep_lab.evals.compare import rescored_comparison
        from timestep_lab.lab import comparing
        from timestep_lab.service.comparisons import eval_context

        comparison = await rescored_comparison(eval_context(self._lab), id, scorers, **options)
        return await comparing.run(self._lab, comparison, lambda event: None)

    # -- files

    def import_traces(self, path: str | Path) -> Imported:
        """Import traces: OTLP (protobuf, JSON, JSONL), OpenInference, Agents SDK exports, or a lab's own export.
        Importing a file twice adds nothing.

        The traces are in `lab.traces`, sorted by start; alone: `lab.explorer(filter='source == "imported"')`.
        """
        from timestep_lab.runtime.interchange.files import import_file

        return import_file(path, self._lab.store)

    def export(self, path: str | Path, *, trace_ids: ManyTraces | None = None, filter: str = "") -> int:
        """Write traces in the format of the path's suffix and return how many: `.json` (OTLP), `.jsonl`, `.parquet`,
        `.duckdb`, or `.html`, a self-contained page.

        `trace_ids`: ids, runs, or a column such as `lab.traces.df().trace_id`. Default: all traces that match `filter`.
        """
        return export(self._lab, Path(path), None if trace_ids is None else trace_ids_of(trace_ids), filter)

    def serve(self, *, host: str = "127.0.0.1", port: int = 8765) -> Serving | None:
        """Serve this lab over HTTP; port 0 picks a free port.

        In a notebook it runs in a child process with the environment's settings, until `.stop()` is called or the
        kernel ends, and the cell shows the link. In a script it blocks until interrupted. Raises `UsageError` if the
        port is in use.
        """
        if in_event_loop():
            from timestep_lab.lab.serving import Serving

            return Serving(self._lab._shared_name(), host, port)
        from timestep_lab.server.server import serve

        serve(self._lab, host=host, port=port, announce=print)
        return None
