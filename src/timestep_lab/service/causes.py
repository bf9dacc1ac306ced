"""`lab.causes`: why a run went wrong, found by replaying it, as events of long work; and the case of it kept as a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from annotated_types import Gt, Interval, Len

from timestep_lab.evals.cause.findings import Outlook, Why, WhyPlan
from timestep_lab.model.codec import JsonObject
from timestep_lab.model.errors import NotFoundError, UsageError
from timestep_lab.model.events import CauseFound, CauseProgress, Event
from timestep_lab.model.records import DatasetRecord
from timestep_lab.service import operation as op
from timestep_lab.service.datasets import Datasets, Name
from timestep_lab.service.operation import Scope, TraceId
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.evals.cause import Question

R = TypeVar("R", Why, Outlook)
Said = Annotated[str, Len(1, 10_000)] | JsonObject
"""A text such as `contains:°F`, or a scorer as an object."""
Replays = Annotated[int, Interval(ge=2, le=200)]
Continuations = Annotated[int, Interval(ge=1, le=100)]
TapeName = Annotated[str, Len(1, 10_000)]
Way = Annotated[str, Len(1, 500)]
Usd = Annotated[float, Gt(0)]
AtOnce = Annotated[int, Interval(ge=1, le=64)]


def why_of(last: Event) -> Why:
    """What a search for the cause found, from the event that tells it."""
    return found_of(Why, last)


async def _why(causes: Causes, last: Event) -> Why:
    return why_of(last)


async def _outlook(causes: Causes, last: Event) -> Outlook:
    return found_of(Outlook, last)


def found_of(kind: type[R], last: Event) -> R:
    """A `Why` or an `Outlook` from the event that tells it."""
    from timestep_lab.service.client import record

    assert isinstance(last, CauseFound)
    return record(kind, last.found)


@op.noun("causes")
class Causes:
    """Replays of the runs of one user. Leaving the events of a search stops it; each replay is kept, so that it goes on without paying twice."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    @op.stream("/traces/{trace_id}/why", ended=_why)
    async def why(
        self,
        trace_id: TraceId,
        *,
        wrong: Said | None = None,
        right: Said | None = None,
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
        """Which step made a run go wrong, found by replaying it with and without each suspect. What it takes is as in `lab.why`.

        Raises before anything is replayed: `NotFoundError`, `UsageError`, `RunError`.
        """
        from timestep_lab.evals import cause

        question = await self._asked(trace_id, wrong, right, tools, on_miss)

        async def search(on_progress: Callable[[int, int], None]) -> Any:
            return await cause.why(
                self._scope.runner, question, replays=replays, k=k, corrections=corrections, instructions=instructions, models=models,
                concurrency=concurrency, budget_usd=budget_usd, approve_all=approve_all, on_progress=on_progress,
            )  # fmt: skip

        async for event in _events(search):
            yield event

    @op.post("/traces/{trace_id}/why/plan")
    async def plan(
        self,
        trace_id: TraceId,
        *,
        wrong: Said | None = None,
        right: Said | None = None,
        replays: Replays = 10,
        k: Continuations = 8,
        tools: TapeName = "tape",
        on_miss: Way = "fail",
        corrections: JsonObject | None = None,
        instructions: Mapping[str, Sequence[str]] | None = None,
        models: Mapping[str, Sequence[str]] | None = None,
    ) -> WhyPlan:
        """What `why` would take at most. Nothing is replayed. Raises as it does."""
        from timestep_lab.evals import cause

        question = await self._asked(trace_id, wrong, right, tools, on_miss)
        found = await cause.why(
            self._scope.runner, question, replays=replays, k=k, corrections=corrections, instructions=instructions, models=models, plan=True
        )  # fmt: skip
        assert isinstance(found, WhyPlan)
        return found

    @op.stream("/traces/{trace_id}/outlook", ended=_outlook)
    async def outlook(
        self,
        trace_id: TraceId,
        *,
        wrong: Said | None = None,
        right: Said | None = None,
        k: Continuations = 8,
        tools: TapeName = "tape",
        on_miss: Way = "fail",
        budget_usd: Usd | None = None,
        concurrency: AtOnce = 16,
        approve_all: bool = False,
    ) -> AsyncGenerator[Event, None]:
        """From each decision of a run on: how many of `k` continuations come out right. What it takes is as in `lab.outlook`. Raises as `why`."""
        from timestep_lab.evals import cause

        question = await self._asked(trace_id, wrong, right, tools, on_miss)

        async def search(on_progress: Callable[[int, int], None]) -> Any:
            return await cause.outlook(
                self._scope.runner, question, k=k, concurrency=concurrency, budget_usd=budget_usd, approve_all=approve_all,
                on_progress=on_progress,
            )  # fmt: skip

        async for event in _events(search):
            yield event

    @op.post("/traces/{trace_id}/keep-as-test", status=201)
    def keep(
        self, trace_id: TraceId, name: Name, *, wrong: Said | None = None, right: Said | None = None
    ) -> DatasetRecord:
        """Add what was asked in a trace to a data set, as a new version or its first: with the assertion that `wrong` or `right` says, and
        with the trace, from which its tools answer (`tools="tape"`). The same case again adds nothing. Raises `NotFoundError`, `UsageError`."""
        from timestep_lab.evals.datasets.case import Case

        if wrong is not None and right is not None:
            raise UsageError("wrong= and right= were both given.", "Say one of them.", param="wrong")
        self._scope.flush()
        trace = self._scope.store.traces.get(trace_id)
        asked = trace["input"]
        if not isinstance(asked, str) or not asked.strip():
            raise UsageError(
                "Nothing was asked in this trace.", "Keep one that began with a question.", param="trace_id"
            )
        case = Case(
            input=asked, expected=right if isinstance(right, str) else None, assertions=_assertions(wrong, right),
            metadata={"trace_id": trace_id, "agent": trace["workflow"]},
        )  # fmt: skip
        datasets = Datasets(self._scope)
        try:
            return datasets.extend(name, [case])
        except NotFoundError:
            return datasets.create(name, [case])

    async def _asked(self, trace_id: str, wrong: Any, right: Any, tools: str, on_miss: str) -> Question:
        from timestep_lab.evals import cause

        await in_thread(self._scope.flush)
        return await cause.ask(self._scope.runner, trace_id, wrong=wrong, right=right, tools=tools, on_miss=on_miss)


def _assertions(wrong: Any, right: Any) -> tuple[JsonObject, ...]:
    from timestep_lab.evals.scorers.registry import make_scorer, to_spec

    if right is not None:
        said = {"type": "contains", "value": right} if isinstance(right, str) else right
        return (to_spec(make_scorer(said)),)
    if wrong is None:
        return ()
    spec = to_spec(make_scorer(wrong))
    # A text says what holds of wrong answers; a scorer gives wrong ones less than ½, which is what an assertion does.
    return ({**spec, "negate": not spec.get("negate", False)},) if isinstance(wrong, str) else (spec,)


async def _events(search: Callable[[Callable[[int, int], None]], Awaitable[Any]]) -> AsyncGenerator[Event, None]:
    """How far it is, as it goes, and what was found. Leaving stops it."""
    changed, told = asyncio.Event(), (0, 0)

    def on_progress(done: int, planned: int) -> None:
        nonlocal told
        told = (done, planned)
        changed.set()

    task = asyncio.ensure_future(search(on_progress))
    task.add_done_callback(lambda _: changed.set())
    try:
        while True:
            await changed.wait()
            changed.clear()
            if task.done():
                break
            yield CauseProgress(done=told[0], planned=told[1])
        yield CauseFound(found=asdict(task.result()))
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
