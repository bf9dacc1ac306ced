"""`lab.comparisons`: comparisons of candidates on the same cases: run, read, rescore, vote."""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, Unpack, cast

from annotated_types import Ge, Gt, Interval, Len

from timestep_lab.model.codec import Json, JsonObject
from timestep_lab.model.comparison import (
    CaseRecord,
    CellRecord,
    ComparisonEnded,
    ComparisonRecord,
    PlanRow,
)
from timestep_lab.model.errors import UsageError
from timestep_lab.model.events import Event
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import ScoreRecord, VoteOutcome, VoteRecord
from timestep_lab.service import operation as op
from timestep_lab.service.operation import Scope
from timestep_lab.service.runs import OnMiss, TapeName
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.evals.arena import Ranking
    from timestep_lab.evals.engine import Comparison
    from timestep_lab.evals.grid import Grid
    from timestep_lab.evals.results import ComparisonRows, EvalContext

ComparisonId = Annotated[str, Len(1, 200)]
Cases = Annotated[Sequence[JsonObject | str], Len(1, 10_000)]
ScorerSpecs = Sequence[JsonObject | str]
Columns = dict[str, list[str] | str]
LABELS = 100_000
"""Maximum number of annotations with one name that are read, newest first."""


class How(TypedDict, total=False):
    """The options of a comparison, see `evals.plan.Options`. Missing options take their default, or on resuming, the
    original value.
    """

    epochs: Annotated[int, Interval(ge=1, le=100)] | None
    group: Annotated[str, Len(1, 200)] | None
    concurrency: Annotated[int, Interval(ge=1, le=256)] | None
    timeout_s: Annotated[float, Interval(gt=0, le=86_400)] | None
    retries: Annotated[int, Interval(ge=0, le=20)] | None
    budget_usd: Annotated[float, Gt(0)] | None
    budget_tokens: Annotated[int, Gt(0)] | None
    cache: Literal["models", "all", "off"] | None
    max_turns: Annotated[int, Interval(ge=1, le=100)] | None
    budget_usd_per_answer: Annotated[float, Gt(0)] | None
    max_tokens_total: Annotated[int, Interval(ge=1)] | None
    max_tool_calls: Annotated[int, Interval(ge=0)] | None
    approve: Literal["all", "none"] | None
    seed: Annotated[int, Interval(ge=0, le=2**31)] | None
    stop: Literal["settled"] | None
    margin: Annotated[float, Ge(0)] | None
    alpha: Annotated[float, Interval(gt=0, le=0.5)] | None
    open_ended: bool | None
    tools: TapeName | Annotated[list[str], Len(0, 1000)] | None
    on_miss: OnMiss | None
    ignore: Columns | None
    near: Columns | None


class What(How, total=False):
    """What is compared (names of models and agents), and the options."""

    models: Sequence[str] | None
    agents: Sequence[str] | None
    settings: Sequence[JsonObject] | None
    prompts: Sequence[str] | None
    scorers: ScorerSpecs
    name: Annotated[str, Len(0, 500)] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRows:
    """The stored rows of a comparison; its results are computed from them."""

    comparison: ComparisonRecord
    cases: list[CaseRecord]
    cells: list[CellRecord]
    labels: list[ScoreRecord] = field(default_factory=list)
    """Human annotations of the answers' traces, by scorer name."""

    def grid(self) -> Grid:
        """The comparison as a `Grid`."""
        from timestep_lab.evals.grid import Grid

        seed = int(cast("int", self.comparison.settings.get("seed", 0)))
        return Grid(self.comparison, self.cases, self.cells, seed=seed, labels=self.labels)


def eval_context(scope: Scope) -> EvalContext:
    """The environment in which a comparison runs."""
    from timestep_lab.evals.results import EvalContext

    return EvalContext(scope.store, scope.router, scope.toolbox, scope.settings, scope.writer)


async def prepare(scope: Scope, data: object, resume: str | None, options: dict[str, Any]) -> Comparison:
    """A comparison that is ready to run. Agents may be given by name or id."""
    from timestep_lab.evals.compare import new_comparison, refuse_changes, resume_comparison

    if resume is not None:
        refuse_changes(resume, data=data, **options)
    agents = options.pop("agents", None)
    if agents is not None:
        many = [agents] if isinstance(agents, str) or not isinstance(agents, Iterable) else [*agents]
        options["agents"] = [agent_of(scope, agent) for agent in many]
    models = options.pop("models", None)
    if models is not None:
        several = [models] if isinstance(models, str) or not isinstance(models, Iterable) else [*models]
        options["models"] = [m if m is None or isinstance(m, str) else scope.router.add_model(m) for m in several]
    if resume is not None:
        return await resume_comparison(eval_context(scope), resume, **options)
    return await new_comparison(eval_context(scope), data, **options)


def agent_of(scope: Scope, agent: object) -> Any:
    """A stored agent by its name, or a service by its address."""
    if not isinstance(agent, str):
        return agent
    if agent.startswith(("http://", "https://")):
        from timestep_lab.evals.pipelines import Endpoint

        return Endpoint(agent)
    return scope.agents.get(agent)


async def _ended(comparisons: Comparisons, last: Event) -> dict[str, Json]:
    assert isinstance(last, ComparisonEnded)
    return await in_thread(comparisons.read, last.comparison.id)


async def _events(comparison: Comparison) -> AsyncGenerator[Event, None]:
    async with contextlib.aclosing(comparison.events(deltas=True)) as events:
        async for event in events:
            yield event


@op.noun("comparisons")
class Comparisons:
    """A user's comparisons: `lab.comparisons()` lists them. `lab.compare` runs one, `lab.comparison(id)` opens one."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    @op.get("/compare")
    def list(self, *, limit: Annotated[int, Interval(ge=1, le=500)] = 50) -> builtins.list[ComparisonRecord]:
        """Newest first."""
        return self._rows().comparisons.find(limit, newest_first=True)

    @op.stream("/compare", ended=_ended)
    async def start(self, cases: Cases, **what: Unpack[What]) -> AsyncGenerator[Event, None]:
        """Run a comparison. With `stream`, events are sent as they happen, and closing the stream stops it (it can be
        resumed). `cases` is a list of case objects; a server does not read file paths of its clients. The other
        arguments are those of `lab.compare`."""
        async for event in _events(await self._new(cases, what)):
            yield event

    @op.post("/compare/plan")
    async def plan(self, cases: Cases, **what: Unpack[What]) -> builtins.list[PlanRow]:
        """The estimated cost, one row per candidate. Nothing is run or written."""
        comparison = await self._new(cases, what)
        return [*(await comparison.plan()).rows]

    @op.stream("/compare/{comparison_id}/resume", ended=_ended)
    async def resume(self, comparison_id: ComparisonId, **how: Unpack[How]) -> AsyncGenerator[Event, None]:
        """Continue a comparison that ended early, retrying its failed answers. Raises `NotFoundError`, `ConflictError`."""
        async for event in _events(await prepare(self._scope, None, comparison_id, _given(how))):
            yield event

    @op.post("/compare/{comparison_id}/rescore")
    async def rescore(
        self, comparison_id: ComparisonId, scorers: Annotated[ScorerSpecs, Len(1)], *, budget_usd: Annotated[float, Gt(0)] | None = None
    ) -> dict[str, Json]:  # fmt: skip
        """Score the stored answers with additional scorers, or with changed ones of the same name. No candidate is run.

        Raises `NotFoundError`, `UsageError`, and `ConflictError` while the comparison is running.
        """
        from timestep_lab.evals.compare import rescored_comparison

        limits = {} if budget_usd is None else {"budget_usd": budget_usd}
        comparison = await rescored_comparison(eval_context(self._scope), comparison_id, [*scorers], **limits)
        return await in_thread((await comparison.run()).to_json)

    @op.get("/compare/{comparison_id}/grid", costly=True)
    def rows(self, comparison_id: ComparisonId) -> GridRows:
        """All cases and answers with their scores. Raises `NotFoundError`."""
        rows = self._rows()
        record = rows.get(comparison_id)
        cells = [*rows.cells(comparison_id)]
        judged = {score.scorer for cell in cells for score in cell.scores if score.source == "judge"}
        traces = {cell.trace_id for cell in cells if cell.trace_id} if judged else set()
        labels = [
            label for name in sorted(judged)
            for label in self._scope.store.scores.find(LABELS, newest_first=True, target="trace", name=name, source="human")
            if label.target_id in traces
        ]  # fmt: skip
        return GridRows(comparison=record, cases=[*rows.cases(comparison_id)], cells=cells, labels=labels)

    @op.get("/compare/{comparison_id}/votes")
    def votes(self, comparison_id: ComparisonId) -> builtins.list[VoteRecord]:
        """Votes of the arena, oldest first. Raises `NotFoundError`."""
        rows = self._rows()
        rows.comparisons.get(comparison_id)
        return rows.votes.find(comparison_id=comparison_id)

    @op.get("/votes", costly=True)
    def all_votes(self, *, limit: Annotated[int, Interval(ge=1, le=100_000)] = 10_000) -> builtins.list[VoteRecord]:
        """The newest votes from all comparisons and duels, newest first."""
        return self._rows().votes.find(limit, newest_first=True)

    @op.post("/compare/{comparison_id}/votes", status=201)
    def vote(
        self,
        comparison_id: ComparisonId,
        *,
        case_id: Annotated[str, Len(1, 200)],
        left_candidate: Annotated[str, Len(0, 2000)],
        right_candidate: Annotated[str, Len(0, 2000)],
        outcome: VoteOutcome,
        epoch: Annotated[int, Interval(ge=0, le=100)] = 0,
        length: Annotated[float, Interval(ge=-1, le=1)] = 0.0,
    ) -> VoteRecord:
        """Store an arena vote on two answers to one case. Raises `NotFoundError`."""
        rows = self._rows()
        rows.comparisons.get(comparison_id)
        return rows.votes.insert(
            VoteRecord(
                id=new_id("vote"), user_id=rows.user_id, comparison_id=comparison_id, case_id=case_id, epoch=epoch,
                left_candidate=left_candidate, right_candidate=right_candidate, outcome=outcome, length=length,
            )
        )  # fmt: skip

    @op.get("/compare/{comparison_id}", costly=True)
    def read(self, comparison_id: ComparisonId, *, by: Annotated[str, Len(1, 200)] | None = None) -> dict[str, Json]:
        """Candidates with scores and confidence intervals, and their pairwise differences: the output of `timestep-lab
        compare --json`. `by`: a column to slice by.

        Raises `NotFoundError`.
        """
        return self.rows(comparison_id).grid().to_json(by=by)

    @op.post("/traces/score")
    async def score_traces(
        self,
        which: Annotated[str, Len(0, 100_000)] | Sequence[str] = "",
        *,
        scorers: Annotated[ScorerSpecs, Len(1)],
        limit: Annotated[int, Interval(ge=1, le=100_000)] | None = None,
        keep: bool = True,
        again: bool = False,
        budget_usd: Annotated[float, Gt(0)] | None = None,
    ) -> builtins.list[dict[str, Json]]:
        """Score existing traces; one row per trace with each scorer's value, or why it could not score. The scores are
        stored.

        `which`: a filter, an SQL query that returns `trace_id`, or ids. Empty: all completed traces.
        """
        from timestep_lab.evals.over_traces import score_traces

        return await score_traces(
            eval_context(self._scope), which, [*scorers], limit=limit, keep=keep, again=again, budget_usd=budget_usd
        )

    # --

    def __call__(self, limit: int = 50) -> builtins.list[ComparisonRecord]:
        """Stored comparisons, newest first."""
        return self.list(limit=limit)

    def ratings(self) -> Ranking:
        """A rating of all candidates from all votes, with confidence intervals, best first."""
        from timestep_lab.evals.arena import ranking_of

        return ranking_of(self.all_votes())

    def __repr__(self) -> str:
        lines = [f"  {one.id}  {one.status}  {one.name}" for one in self.list(limit=10)]
        return (
            "Comparisons, newest first:\n" + "\n".join(lines) if lines else "No comparisons yet: await lab.compare(…)"
        )

    # -- within an operation

    def _rows(self) -> ComparisonRows:
        from timestep_lab.evals.results import ComparisonRows

        return ComparisonRows(self._scope.store.db, self._scope.store.user_id)

    async def _new(self, cases: Cases, what: What) -> Comparison:
        address = next((a for a in what.get("agents") or () if a.startswith(("http://", "https://"))), None)
        if address is not None:
            # A server does not connect to addresses given by its clients.
            raise UsageError(
                f"{address} is a service, and a served lab does not call services.",
                "Run the comparison in your own process.",
                param="agents",
            )
        return await prepare(self._scope, [*cases], None, _given(what))


def _given(options: How) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}


class ArenaVotes:
    """The storage of the arena's votes (implements `evals.arena.ArenaRows`)."""

    def __init__(self, comparisons: Comparisons, user_id: str) -> None:
        self.user_id, self.votes = user_id, self
        self._comparisons = comparisons

    def find(self, *, comparison_id: str) -> list[VoteRecord]:
        """Votes of a comparison, oldest first."""
        return self._comparisons.votes(comparison_id)

    def insert(self, vote: VoteRecord, /) -> VoteRecord:
        """Store a vote."""
        return self._comparisons.vote(
            vote.comparison_id, case_id=vote.case_id, epoch=vote.epoch, left_candidate=vote.left_candidate,
            right_candidate=vote.right_candidate, outcome=vote.outcome, length=vote.length,
        )  # fmt: skip
