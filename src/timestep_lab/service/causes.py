"""`lab.causes`: root-cause analysis of a run by replay, as event streams, and failed cases saved as tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Unpack, cast

from annotated_types import Gt, Interval, Len

from timestep_lab.evals.cause.findings import BlamePlan, Outlook, Why, WhyPlan
from timestep_lab.model.codec import Json, JsonObject, error_json, error_of_json, object_of
from timestep_lab.model.comparison import CellDone, ComparisonProgress
from timestep_lab.model.errors import NotFoundError, UsageError
from timestep_lab.model.events import CauseFound, CauseProgress, Event
from timestep_lab.model.records import AgentRecord, DatasetRecord
from timestep_lab.service import operation as op
from timestep_lab.service.agents import Instructions, ModelName
from timestep_lab.service.comparisons import Cases, How, ScorerSpecs
from timestep_lab.service.datasets import Datasets, Name
from timestep_lab.service.operation import Scope, TraceId
from timestep_lab.service.runs import Prompt
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from timestep_lab.evals.cause import Question
    from timestep_lab.evals.cause.blame import AnyAgent, Blame
    from timestep_lab.evals.cause.replays import Progress, Search
    from timestep_lab.evals.engine import Comparison
    from timestep_lab.evals.grid import Grid
    from timestep_lab.evals.scorers.base import Scorers
    from timestep_lab.runtime.warm_start import Replayed

R = TypeVar("R", Why, Outlook)
_RUNS_READ = 200
"""How many of an agent's newest runs are searched for one of a version."""
Criterion = Annotated[str, Len(1, 10_000)] | JsonObject
"""A text such as `contains:°F`, or a scorer as an object."""
Replays = Annotated[int, Interval(ge=2, le=200)]
Continuations = Annotated[int, Interval(ge=1, le=100)]
TapeName = Annotated[str, Len(1, 10_000)]
Way = Annotated[str, Len(1, 500)]
Usd = Annotated[float, Gt(0)]
AtOnce = Annotated[int, Interval(ge=1, le=64)]
AgentName = Annotated[str, Len(1, 500)]
"""`name` or `name@version`."""


def why_of(last: Event) -> Why:
    """The `Why` in the final event of a search."""
    return found_of(Why, last)


async def _why(causes: Causes, last: Event) -> Why:
    return why_of(last)


async def _outlook(causes: Causes, last: Event) -> Outlook:
    return found_of(Outlook, last)


async def _replayed(causes: Causes, last: Event) -> list[dict[str, Json]]:
    assert isinstance(last, CauseFound)
    return list(cast("list[dict[str, Json]]", last.found["replays"]))


async def _blamed(causes: Causes, last: Event) -> dict[str, Json]:
    assert isinstance(last, CauseFound)
    return dict(last.found)


def found_of(kind: type[R], last: Event) -> R:
    """The `Why` or `Outlook` in the final event of a search."""
    from timestep_lab.service.client import record

    assert isinstance(last, CauseFound)
    return record(kind, last.found)


@op.noun("causes")
class Causes:
    """Replay-based analysis of a user's runs. Closing an event stream stops the search; every replay is stored, so a
    repeated search does not pay twice.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    @op.stream("/traces/{trace_id}/why", ended=_why)
    async def why(
        self,
        trace_id: TraceId,
        *,
        wrong: Criterion | None = None,
        right: Criterion | None = None,
        replays: Replays = 10,
        k: Continuations = 8,
        tools: TapeName = "tape",
        on_miss: Way = "fail",
        corrections: JsonObject | None = None,
        instructions: Mapping[str, Sequence[str]] | None = None,
        models: Mapping[str, Sequence[str]] | None = None,
        budget_usd: Usd | None = None,
        concurrency: AtOnce = 16,
        approve_all: bool = False,
    ) -> AsyncGenerator[Event, None]:
        """Find the step that made a run go wrong, by replaying it with and without each suspect. Arguments as in
        `lab.why`.

        Raises `NotFoundError`, `UsageError` or `RunError` before anything is replayed.
        """
        from timestep_lab.evals import cause

        question = await self._asked(trace_id, wrong, right, tools, on_miss)

        async def search(on_step: OnProgress) -> DataclassInstance:
            return await cause.why(
                self._scope.runner, question, replays=replays, k=k, corrections=corrections, instructions=instructions, models=models,
                concurrency=concurrency, budget_usd=budget_usd, approve_all=approve_all, on_progress=_as_events(on_step),
            )  # fmt: skip

        async for event in _events(search):
            yield event

    @op.post("/traces/{trace_id}/why/plan")
    async def plan(
        self,
        trace_id: TraceId,
        *,
        wrong: Criterion | None = None,
        right: Criterion | None = None,
        replays: Replays = 10,
        k: Continuations = 8,
        tools: TapeName = "tape",
        on_miss: Way = "fail",
        corrections: JsonObject | None = None,
        instructions: Mapping[str, Sequence[str]] | None = None,
        models: Mapping[str, Sequence[str]] | None = None,
    ) -> WhyPlan:
        """The maximum cost of `why`. Nothing is replayed. Raises as `why`."""
        from timestep_lab.evals import cause

        question = await self._asked(trace_id, wrong, right, tools, on_miss)
        why_plan = await cause.why(
            self._scope.runner, question, replays=replays, k=k, corrections=corrections, instructions=instructions, models=models, plan=True
        )  # fmt: skip
        assert isinstance(why_plan, WhyPlan)
        return why_plan

    @op.stream("/traces/{trace_id}/outlook", ended=_outlook)
    async def outlook(
        self,
        trace_id: TraceId,
        *,
        scorer: Criterion | None = None,
        wrong: Criterion | None = None,
        right: Criterion | None = None,
        k: Continuations = 8,
        tools: TapeName = "tape",
        on_miss: Way = "fail",
        budget_usd: Usd | None = None,
        concurrency: AtOnce = 16,
        approve_all: bool = False,
    ) -> AsyncGenerator[Event, None]:
        """How many of `k` continuations succeed after each decision of a run. Arguments as in `lab.outlook`. Raises as
        `why`.
        """
        from timestep_lab.evals import cause

        question = await self._asked(trace_id, wrong, right, tools, on_miss, scorer)

        async def search(on_step: OnProgress) -> DataclassInstance:
            return await cause.outlook(
                self._scope.runner, question, k=k, concurrency=concurrency, budget_usd=budget_usd, approve_all=approve_all,
                on_progress=_as_events(on_step),
            )  # fmt: skip

        async for event in _events(search):
            yield event

    @op.stream("/traces/{trace_id}/replay", ended=_replayed)
    async def replay(
        self,
        trace_id: TraceId,
        span_id: Annotated[str, Len(0, 200)] | None = None,
        *,
        times: Annotated[int, Interval(ge=1, le=1000)] = 1,
        concurrency: AtOnce = 8,
        approve_all: bool = False,
        keep_traces: bool = False,
        prompt: Prompt | None = None,
        model: ModelName | Mapping[str, str] | None = None,
        instructions: Instructions | Mapping[str, str] | None = None,
        tools: JsonObject | None = None,
        results: JsonObject | None = None,
        on_tools: TapeName | None = None,
        on_miss: Way = "fail",
        budget_usd: Usd | None = None,
        max_tokens_total: Annotated[int, Interval(ge=1)] | None = None,
        timeout_s: Annotated[float, Gt(0)] | None = None,
        max_tool_calls: Annotated[int, Interval(ge=0)] | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Run the rest of a recorded run `times` times. Changes as in `lab.replay`. Raises what `fork` raises."""
        from timestep_lab.runtime.warm_start import replay_many, warm_start

        await in_thread(self._scope.flush)
        start = await warm_start(
            self._scope.runner, trace_id, span_id, prompt=prompt, model=model, instructions=instructions, tools=tools, results=results,
            on_tools=on_tools, on_miss=on_miss, budget_usd=budget_usd, max_tokens_total=max_tokens_total, timeout_s=timeout_s,
            max_tool_calls=max_tool_calls,
        )  # fmt: skip

        async def search(on_step: OnProgress) -> dict[str, Json]:
            replayed = await replay_many(
                start, times, concurrency=concurrency, approve_all=approve_all, keep_traces=keep_traces,
                on_progress=lambda done, planned: on_step(CauseProgress(done=done, planned=planned)),
            )  # fmt: skip
            return {"replays": [replayed_json(one) for one in replayed]}

        async for event in _events(search):
            yield event

    @op.stream("/blame", ended=_blamed)
    async def blame(
        self, good: AgentName, bad: AgentName, cases: Cases, scorers: Annotated[ScorerSpecs, Len(1)], **how: Unpack[How]
    ) -> AsyncGenerator[Event, None]:
        """Find the change that made an agent worse. `good` and `bad` are `name` or `name@version`; `cases` is a list of
        case objects. The other arguments are those of `lab.blame`.

        Raises `NotFoundError` or `UsageError` before any model is called.
        """
        options: dict[str, Any] = {name: value for name, value in how.items() if value is not None}

        async def search(on_step: OnProgress) -> dict[str, Json]:
            result = await find_change(
                self._scope, good, bad, [*cases], [*scorers], on_progress=_as_events(on_step), **options
            )
            return result.to_json()

        async for event in _events(search):
            yield event

    @op.post("/blame/plan")
    async def plan_blame(
        self, good: AgentName, bad: AgentName, cases: Cases, scorers: Annotated[ScorerSpecs, Len(1)], **how: Unpack[How]
    ) -> BlamePlan:
        """The estimated cost of `blame`. No model is called. Raises as `blame`."""
        options: dict[str, Any] = {name: value for name, value in how.items() if value is not None}
        return await plan_of_change(self._scope, good, bad, [*cases], [*scorers], **options)

    @op.post("/traces/{trace_id}/keep-as-test", status=201)
    def keep(
        self, trace_id: TraceId, name: Name, *, wrong: Criterion | None = None, right: Criterion | None = None
    ) -> DatasetRecord:
        """Add the input of a trace to a data set, as its next (or first) version, with the assertion given by `wrong`
        or `right` and the id of the trace, so that tools can answer from it (`tools="tape"`). Adding the same case
        again changes nothing. Raises `NotFoundError`, `UsageError`."""
        from timestep_lab.evals.datasets.case import Case

        if wrong is not None and right is not None:
            raise UsageError("wrong= and right= were both given.", "Pass only one of them.", param="wrong")
        self._scope.flush()
        trace = self._scope.store.traces.get(trace_id)
        asked = trace["input"]
        if not isinstance(asked, str) or not asked.strip():
            raise UsageError("This trace has no input.", "Choose a trace that has an input.", param="trace_id")
        case = Case(
            input=asked, expected=right if isinstance(right, str) else None, assertions=_assertions(wrong, right),
            metadata={"trace_id": trace_id, "agent": trace["workflow"]},
        )  # fmt: skip
        datasets = Datasets(self._scope)
        try:
            return datasets.extend(name, [case])
        except NotFoundError:
            return datasets.create(name, [case])

    async def _asked(
        self,
        trace_id: str,
        wrong: Criterion | None,
        right: Criterion | None,
        tools: str,
        on_miss: str,
        scorer: Criterion | None = None,
    ) -> Question:
        from timestep_lab.evals import cause

        await in_thread(self._scope.flush)
        return await cause.ask(
            self._scope.runner, trace_id, scorer=scorer, wrong=wrong, right=right, tools=tools, on_miss=on_miss
        )


async def find_change(
    scope: Scope, good: object, bad: object, cases: object, scorers: Scorers, *, budget_usd: float | None = None,
    on_progress: Progress | None = None, **options: Any,
) -> Blame:  # fmt: skip
    """See `lab.blame`. Every row of the design is a candidate of one comparison."""
    from timestep_lab.evals.cause import blame as search

    left, right, shown = await _versions(scope, good, bad)
    work = Combinations(search.rows_of(len(search.changes_of(left, right)))[1])

    async def ask(agents: Sequence[AnyAgent], names: Sequence[str], left_usd: float | None) -> Grid:
        made = await _comparison(scope, cases, agents, names, scorers, budget_usd=left_usd, **options)
        before_usd = work.begin(made)
        if on_progress:
            on_progress(work)

        def count(event: Event) -> None:
            if isinstance(event, CellDone):
                work.done += 1
            elif isinstance(event, ComparisonProgress):
                work.spent_usd = before_usd + event.progress.spent_usd
            if work.is_stopped:
                made.cancel()
            if on_progress:
                on_progress(work)

        return await made.run(count)

    return await search.blame(left, right, ask, shown, budget_usd=budget_usd)


@dataclass(slots=True)
class Combinations:
    """The search of `find_change` while it runs: answers, and what they have cost."""

    most_rows: int
    done: int = 0
    planned: int = 0
    spent_usd: float = 0.0
    is_stopped: bool = False
    _comparison: Comparison | None = None

    def begin(self, comparison: Comparison) -> float:
        """Another comparison begins. Returns what the earlier ones have cost."""
        self._comparison = comparison
        self.planned = self.most_rows * comparison.record.n_cases * comparison.record.epochs
        return self.spent_usd

    def stop(self) -> None:
        """End it with what is known. Finished answers are kept and not asked for again."""
        self.is_stopped = True  # Also of a comparison that is only about to start.
        if self._comparison is not None:
            self._comparison.cancel()


def in_numbers(on_progress: Callable[[int, int], None] | None) -> Progress | None:
    """Progress as the number done and the number planned at most."""

    def on_step(search: Search) -> None:
        assert on_progress is not None
        on_progress(search.done, search.planned)

    return on_step if on_progress else None


async def plan_of_change(
    scope: Scope, good: object, bad: object, cases: object, scorers: Scorers, **options: Any
) -> BlamePlan:
    """The estimated cost of `find_change`."""
    from timestep_lab.evals.cause import blame as search

    left, right, shown = await _versions(scope, good, bad)
    parts = search.changes_of(left, right)
    least, most = search.rows_of(len(parts))
    agents, names = search.rows_as_agents(left, right, shown)
    plan = await (await _comparison(scope, cases, agents, names, scorers, **options)).plan()
    return BlamePlan(
        changes=tuple(shown.get(part, part) for part in parts), calls=plan.calls, most_calls=plan.calls * most // least, cost_usd=plan.cost_usd
    )  # fmt: skip


async def _versions(scope: Scope, good: object, bad: object) -> tuple[AnyAgent, AnyAgent, dict[str, str]]:
    """The good and the bad version, and display names for the parts that differ, where they have one."""
    from timestep_lab.evals.cause import blame as search
    from timestep_lab.service.comparisons import agent_of

    left, right = await in_thread(agent_of, scope, good), await in_thread(agent_of, scope, bad)
    if isinstance(left, AgentRecord) and isinstance(right, AgentRecord):
        left, right = await _as_described(scope, left, right)
    shown = {part: await in_thread(_part_name, scope, part) for part in search.changes_of(left, right)}
    return left, right, shown if len(set(shown.values())) == len(shown) else {}


async def _as_described(scope: Scope, *versions: AgentRecord) -> tuple[AgentRecord, ...]:
    """Pins the descriptions of tools that differ between the versions: those of a version's newest run, or the current ones if it never ran."""
    latest = [
        await in_thread(_descriptions_in_traces, scope, one) or await _descriptions_now(scope, one) for one in versions
    ]
    changed = {tool for tool in set.intersection(*map(set, latest)) if len({one[tool] for one in latest}) > 1}
    return tuple(
        replace(one, tool_descriptions={**{tool: mine[tool] for tool in sorted(changed)}, **one.tool_descriptions})
        for one, mine in zip(versions, latest, strict=True)
    )


async def _descriptions_now(scope: Scope, agent: AgentRecord) -> dict[str, str]:
    tool_set = await scope.toolbox.tools_for(agent)
    return {info.id: info.description for info in tool_set.infos.values()}


def _descriptions_in_traces(scope: Scope, agent: AgentRecord) -> dict[str, str]:
    """Maps tool ids to the descriptions recorded in the newest run of this version; empty if there is none. Blocks."""
    from timestep_lab.runtime.mcp.server_records import split_tool_id
    from timestep_lab.runtime.recorded import definitions_of
    from timestep_lab.runtime.session import AGENT_VERSIONS
    from timestep_lab.runtime.tools.builtin import builtin_record

    store = scope.store
    runs = store.runs.find(_RUNS_READ, newest_first=True, agent_id=agent.id)
    run = next(
        (one for one in runs if object_of(one.metadata.get(AGENT_VERSIONS)).get(agent.id) == agent.version), None
    )
    if run is None:
        return {}
    spans = [s for s in store.traces.spans(run.trace_id) if s.kind == "generation" and s.agent == agent.name]
    offered = definitions_of(store.traces.payloads(run.trace_id, [span.span_id for span in spans]))
    servers = [builtin_record(), *store.mcp_servers.find()]
    descriptions = {}
    for server, definitions in offered.items():
        for definition in definitions:
            if split := split_tool_id(f"{server}.{definition['server_tool']}", servers):
                descriptions[f"{split[0].id}.{split[1]}"] = str(definition.get("description") or "")
    return descriptions


async def _comparison(
    scope: Scope, cases: object, agents: Sequence[AnyAgent], names: Sequence[str], scorers: Scorers, **options: Any
) -> Comparison:
    from timestep_lab.evals.compare import new_comparison
    from timestep_lab.service.comparisons import eval_context

    if not scorers:
        raise UsageError("Nothing says which answers are good.", "Name a scorer: scorers='contains'.", param="scorers")
    given = {name: value for name, value in options.items() if value is not None}
    return await new_comparison(eval_context(scope), cases, agents=[*agents], names=[*names], scorers=scorers, **given)


def _part_name(scope: Scope, part: str) -> str:
    """The display name of a part: names of tools and handoff targets instead of ids. Blocks."""
    what, _, id = part.partition(" ")
    if what == "handoff":
        agent = scope.store.agents.try_get(id)
        return part if agent is None else f"handoff to {agent.name}"
    if what in ("tool", "approval", "description"):
        head, _, tool = part.rpartition(" ")
        return f"{head} {tool.partition('.')[2] or tool}"
    return part


def replayed_json(one: Replayed) -> dict[str, Json]:
    return {**asdict(replace(one, error=None)), "error": None if one.error is None else error_json(one.error)}


def read_replayed(stored: Mapping[str, Any]) -> Replayed:
    """The inverse of `replayed_json`."""
    from timestep_lab.runtime.warm_start import Replayed
    from timestep_lab.service.client import record

    error = None if stored["error"] is None else error_of_json(stored["error"])
    return replace(record(Replayed, {**stored, "error": None}), error=error)


def _assertions(wrong: Criterion | None, right: Criterion | None) -> tuple[JsonObject, ...]:
    from timestep_lab.evals.scorers.registry import make_scorer, to_spec

    if right is not None:
        scorer = {"type": "contains", "value": right} if isinstance(right, str) else right
        return (to_spec(make_scorer(scorer)),)
    if wrong is None:
        return ()
    spec = to_spec(make_scorer(wrong))
    # A text describes wrong answers. A scorer gives wrong answers less than ½, which is how assertions work, too.
    return ({**spec, "negate": not spec.get("negate", False)},) if isinstance(wrong, str) else (spec,)


OnProgress = Callable[[CauseProgress], None]


def _as_events(on_step: OnProgress) -> Progress:
    return lambda work: on_step(CauseProgress(done=work.done, planned=work.planned, spent_usd=work.spent_usd))


async def _events(
    search: Callable[[OnProgress], Awaitable[DataclassInstance | dict[str, Json]]],
) -> AsyncGenerator[Event, None]:
    """Progress events while the search runs, then the result. Closing the generator stops the search."""
    changed, latest = asyncio.Event(), CauseProgress(done=0, planned=0)

    def on_step(progress: CauseProgress) -> None:
        nonlocal latest
        latest = progress
        changed.set()

    task = asyncio.ensure_future(search(on_step))
    task.add_done_callback(lambda _: changed.set())
    try:
        while True:
            await changed.wait()
            changed.clear()
            if task.done():
                break
            yield latest
        result = task.result()
        yield CauseFound(found=result if isinstance(result, dict) else asdict(result))
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
