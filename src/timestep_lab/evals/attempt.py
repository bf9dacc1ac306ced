"""One answer: runs a candidate on a case, traced like any run, and collects its metrics and steps.

The SDK is called directly, without a thread: the cases of a comparison are not conversations, and the trace records
what happened.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, cast

import agents as sdk
from agents import RunConfig, RunResult, RunResultStreaming, RunState, TResponseInputItem

from timestep_lab.evals.datasets.case import Case, digest
from timestep_lab.evals.pipelines import Asked, Pipeline, PipelineAnswer, answer_of, trace_steps
from timestep_lab.evals.plan import DEFAULT_CONCURRENCY, MOST_CONCURRENCY, Candidate, Options
from timestep_lab.evals.results import ComparisonRows
from timestep_lab.model.clock import ms_between, utc_now
from timestep_lab.model.codec import Json
from timestep_lab.model.comparison import CellRecord, ScoreValue
from timestep_lab.model.errors import LabError, ProviderTimeoutError
from timestep_lab.model.ids import new_trace_id
from timestep_lab.model.spans import GenAI, Lab, SpanRecord, TraceStart
from timestep_lab.runtime.approvals import REJECTED
from timestep_lab.runtime.pricing import WATCH, LimitWatch
from timestep_lab.runtime.provider_errors import PAUSABLE_TIMEOUT, AdaptiveLimiter, PausableTimeout
from timestep_lab.runtime.run import RunLimits
from timestep_lab.runtime.run_hooks import TracingHooks, untie, watch_from_here
from timestep_lab.runtime.span_records import call_span_id, otel_span_id, parsed, sdk_trace_id
from timestep_lab.runtime.stream_items import as_lab_error, output_text
from timestep_lab.runtime.tape import Player, on_tape
from timestep_lab.runtime.tracing import StoreProcessor, TraceContext, note_error_class
from timestep_lab.store.base import in_thread
from timestep_lab.store.table import clean

if TYPE_CHECKING:
    from timestep_lab.runtime.router import Router
    from timestep_lab.runtime.tape import Tape
    from timestep_lab.store.trace_writer import TraceWriter

    SdkRunState: TypeAlias = RunState[Any]
    RunInput: TypeAlias = str | list[TResponseInputItem] | SdkRunState


# --- Writing cells to the store: all cells that finish during one transaction go into the next. They are reported only once durable


class CellWriter:
    """Writes cells in batches. `stored` is called on the event loop with each cell once it is durable. A store error
    ends the comparison.
    """

    def __init__(self, rows: ComparisonRows, comparison_id: str, stored: Callable[[CellRecord], None]) -> None:
        self._rows, self._comparison_id, self._stored = rows, comparison_id, stored
        self._cells: list[CellRecord] = []
        self._late: list[tuple[CellRecord, ScoreValue]] = []
        self._cache: list[tuple[str, CellRecord]] = []
        self._replies: list[tuple[str, str]] = []
        self._writing: asyncio.Task[None] | None = None

    def add(self, cell: CellRecord, cache_key: str | None = None) -> None:
        self._cells.append(cell)
        if cache_key is not None and cell.status == "done" and not cell.cached:
            self._cache.append((cache_key, cell))
        self._wake()

    def keep_answer(self, key: str, cell: CellRecord) -> None:
        """Add an answer to the cache, before its scores are known."""
        self._cache.append((key, cell))
        self._wake()

    def add_score(self, cell: CellRecord, score: ScoreValue) -> None:
        """Add a score that was computed after its cell was written."""
        self._late.append((cell, score))
        self._wake()

    def keep_reply(self, key: str, text: str) -> None:
        """Add a judge's reply to the cache."""
        self._replies.append((key, text))
        self._wake()

    async def flush(self) -> None:
        """Wait until everything added so far is durable. Raises what the store raised."""
        while self._writing is not None or self._unwritten:
            self._wake()
            if self._writing is not None:
                await asyncio.shield(self._writing)

    def check(self) -> None:
        """Raise the error of the store, if there was one."""
        if self._writing is not None and self._writing.done() and not self._writing.cancelled():
            self._writing.result()

    @property
    def _unwritten(self) -> bool:
        return bool(self._cells or self._late or self._cache or self._replies)

    def _wake(self) -> None:
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), name="timestep-lab cells")

    async def _write(self) -> None:
        while self._unwritten:
            cells, self._cells = self._cells, []
            late, self._late = self._late, []
            cache, self._cache = self._cache, []
            replies, self._replies = self._replies, []
            await in_thread(self._rows.add_cells, self._comparison_id, cells, late, cache, replies)
            for cell in cells:
                self._stored(cell)
        self._writing = None


# --- The cache of answers and judgements. The key covers everything that can change an answer, including the epoch: repeats are independent


VERSION = 1
"""Increased when cached answers of an earlier format can no longer be used."""


class CachedAnswer(TypedDict, total=False):
    """The fields of a `CellRecord` that are kept in the cache."""

    output: str | None
    latency_ms: float | None
    ttft_ms: float | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    trace_id: str | None
    steps: Sequence[Json] | None


class CacheEntry(CachedAnswer, total=False):
    """An entry of the cache: an answer, or a judge's reply."""

    reply: str


def cache_key(candidate: Candidate, asked: Asked, epoch: int, options: Options, own: str | None = None) -> str | None:
    """The cache key of an answer; None if it must not be cached. `own`: on tape, the id of the preferred trace."""
    if options.cache == "off" or (options.cache == "models" and candidate.has_tools):
        return None
    # The fingerprint covers agents, tools, handoffs, model, settings, prompt and tape; `asked` is the rendered prompt.
    return digest(
        [
            VERSION,
            candidate.record.fingerprint,
            asked,
            epoch,
            options.max_turns,
            options.approve,
            *([options.limits.given()] if options.limits.given() else []),
            *([own] if own else []),
        ]
    )


def reply_key(model: str, instructions: str, prompt: str) -> str:
    """The cache key of a judge's reply. The prompt contains the rubric and the answer, so identical answers are judged
    once in all epochs.
    """
    return digest([VERSION, "judge", model, instructions, prompt])


def cell_from_cache(stored: CachedAnswer, comparison_id: str, case: Case, candidate: str, epoch: int) -> CellRecord:
    values: dict[str, Any] = {**stored, "steps": tuple(stored.get("steps") or ())}
    return CellRecord(
        comparison_id=comparison_id,
        case_id=case.id,
        candidate=candidate,
        epoch=epoch,
        status="done",
        cached=True,
        attempts=0,
        **values,
    )


# --- During a comparison the router limits concurrent calls to each provider


_comparing: list[int] = [0]
"""Number of running comparisons."""
_usual_thresholds: list[tuple[int, int, int]] = []
"""The garbage collector's thresholds before the first of them."""
_freezes = [False]
"""Whether they freeze objects, and unfreeze them."""
_THRESHOLDS = (50_000, 20, 100)


@contextmanager
def collecting_seldom() -> Iterator[None]:
    """Until the last running comparison ends, the garbage collector leaves out the objects that exist now (`gc.freeze`)
    and runs after 50,000 new ones instead of 700. Otherwise it takes a quarter of the time of a call: thousands of
    answers in progress and finished are scanned again and again, and hardly any of them is garbage."""
    if not _comparing[0]:
        _usual_thresholds[:] = [gc.get_threshold()]
        # A process without automatic collection stays without.
        gc.set_threshold(*(_THRESHOLDS if _usual_thresholds[0][0] else _usual_thresholds[0]))
        _freezes[0] = not gc.get_freeze_count()  # What a server has frozen stays so: `unfreeze` is for all objects.
    if _freezes[0]:
        gc.freeze()
    _comparing[0] += 1
    try:
        yield
    finally:
        _comparing[0] -= 1
        if not _comparing[0]:
            if _freezes[0]:
                gc.unfreeze()
            gc.set_threshold(*_usual_thresholds[0])


@contextmanager
def limited(router: Router, prefixes: Iterable[str], concurrency: int | None) -> Iterator[None]:
    """Limit concurrent calls per provider during a comparison. In-process models compute one answer at a time, so their
    calls queue here, where the wait is measured as such. Providers that are already limited (by another comparison)
    keep that limit."""
    ours: dict[str, AdaptiveLimiter] = {}
    for prefix in set(prefixes):
        if prefix not in router.limiters:
            most = concurrency or MOST_CONCURRENCY
            most = min(most, router.provider(prefix).most_at_once or most)
            limiter = AdaptiveLimiter(min(concurrency or DEFAULT_CONCURRENCY, most), maximum=most)
            ours[prefix] = router.limiters[prefix] = limiter
    try:
        yield
    finally:
        for prefix, limiter in ours.items():
            if router.limiters.get(prefix) is limiter:
                del router.limiters[prefix]


OnDelta = Callable[[str], None]
OWN_TRACE = "tape_trace_id"
"""Label of a trial on tape: the trace whose recorded results are preferred."""
_WORKING = frozenset({"generation", "tool", "guardrail", "retrieval"})


@dataclass(frozen=True, slots=True)
class Asker:
    """What all trials of a comparison share."""

    router: Router
    processor: StoreProcessor
    writer: TraceWriter
    user_id: str
    max_turns: int
    approve: str
    timeout_s: float
    tape: Tape | None = None
    on_miss: str = "fail"
    limits: RunLimits = field(default_factory=RunLimits)
    """Limits of each answer, overriding those of a stored agent."""


@dataclass(slots=True)
class Measured:
    """Metrics collected from a trial's spans as they end."""

    started_at: datetime = field(default_factory=utc_now)
    began: float = field(default_factory=time.perf_counter)
    generations: list[SpanRecord] = field(default_factory=list)
    steps: list[dict[str, Json]] = field(default_factory=list)
    root: SpanRecord | None = None
    """The ended root span."""
    report: PipelineAnswer | None = None
    """What a function or a service reported about itself."""
    called_ms: float | None = None
    """How long the function or service took, in ms."""
    busy_from: datetime | None = None
    """When a model, tool or guardrail first started; before that, the run was being set up."""
    busy_until: datetime | None = None
    overhead_ms: float = 0.0
    """Time in ms that this process added to the durations of generations."""

    def take(self, span: SpanRecord) -> None:
        if span.parent_id is None:
            self.root = span
        if span.kind in _WORKING and span.ended_at is not None:
            self.busy_from = min(self.busy_from or span.started_at, span.started_at)
            self.busy_until = max(self.busy_until or span.ended_at, span.ended_at)
        if span.kind == "generation":
            overhead = cast(float, span.attributes.get(Lab.OVERHEAD_MS, 0.0))
            self.overhead_ms += overhead
            self.generations.append(replace(span, input=None, output=None, attributes={Lab.OVERHEAD_MS: overhead}))
        elif step := step_of(span):
            self.steps.append(step)

    def latency_ms(self) -> float:
        """Time from the first to the last activity, without waits and without overhead of this process."""
        if self.busy_from is None or self.busy_until is None:
            return (time.perf_counter() - self.began) * 1000.0
        waited = sum((g.queue_ms or 0.0) + (g.rate_limit_ms or 0.0) for g in self.generations)
        return max(0.0, ms_between(self.busy_from, self.busy_until) - waited - self.overhead_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The outcome of one attempt. `error` is None if there is an `output`."""

    trace_id: str
    output: str | None
    error: LabError | None
    steps: tuple[Mapping[str, Json], ...]
    latency_ms: float
    queue_ms: float
    rate_limit_ms: float
    ttft_ms: float | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None


async def attempt(
    asker: Asker,
    candidate: Candidate,
    input: Asked,
    labels: Mapping[str, Json],
    on_delta: OnDelta | None = None,
) -> Attempt:
    """Run a candidate once. Any exception of a model, tool or guardrail becomes the `error`; only cancellation
    propagates.
    """
    trace_id = new_trace_id()
    measured = Measured()
    route = TraceContext(
        asker.writer, asker.user_id, trace_id, run_id=trace_id, only_ended=True, on_span=measured.take, stored=candidate.graph.stored
    )  # fmt: skip
    asker.processor.bind(sdk_trace_id(trace_id), route)
    asker.writer.trace_started(
        TraceStart(
            trace_id=trace_id, user_id=asker.user_id, workflow=candidate.record.agent or candidate.name, thread_id=None,
            started_at=measured.started_at, metadata={**labels, Lab.SDK_ID: sdk_trace_id(trace_id)},
        )
    )  # fmt: skip
    output: str | None = None
    failure: LabError | None = None
    limits = asker.limits.over(RunLimits.of_agent(candidate.agent))
    watch = LimitWatch(limits, route)
    watch_from_here(watch)
    in_time = min(asker.timeout_s, limits.timeout_s or asker.timeout_s)
    try:
        async with asyncio.timeout(in_time) as limit:
            PAUSABLE_TIMEOUT.set(PausableTimeout(limit))
            if candidate.pipeline is not None:
                called = time.perf_counter()
                try:
                    measured.report = await _called(candidate.pipeline, candidate.name, input, trace_id, on_delta)
                    output = measured.report.output
                finally:
                    measured.called_ms = (time.perf_counter() - called) * 1000.0
            else:
                output = await _drive(asker, candidate, input, trace_id, route, measured, labels, on_delta, watch)
            if passed := watch.passed(at_all=True):
                output, failure = None, passed
    except TimeoutError:
        failure = (
            watch.time_is_up()
            if in_time < asker.timeout_s
            else ProviderTimeoutError(
                f"{candidate.name} gave no answer within {asker.timeout_s:g} s.",
                "Increase the limit with timeout_s=…",
                provider=candidate.model.prefix,
            )
        )
    except Exception as error:  # noqa: BLE001 - any exception of a model, tool or guardrail is the outcome of this case
        failure = as_lab_error(error, speakers=(), max_turns=asker.max_turns)
    except asyncio.CancelledError:
        failure = LabError("The comparison was stopped before this answer was complete.")
        raise
    finally:
        PAUSABLE_TIMEOUT.set(None)
        WATCH.set(None)
        asker.processor.release(sdk_trace_id(trace_id), "The case ended before this step did.")
        if failure is not None and measured.root is not None and measured.root.status != "error":
            # The SDK ends its spans without an error when it is cancelled or times out.
            asker.writer.span_ended(replace(measured.root, status="error", error=failure.message))
    return _attempt_of(trace_id, output, failure, measured)


async def _called(
    pipeline: Pipeline, name: str, input: Asked, trace_id: str, on_delta: OnDelta | None
) -> PipelineAnswer:
    """Call a function or a service within its own span; SDK calls that it makes are nested below."""
    with (
        sdk.trace(name, trace_id=sdk_trace_id(trace_id)),
        sdk.custom_span(name, {"input": input}) as span,
    ):
        try:
            answer = await answer_of(pipeline, input, f"00-{trace_id}-{otel_span_id(span.span_id)}-01", on_delta)
        except Exception as error:
            span.set_error({"message": f"{type(error).__name__}: {error}", "data": None})
            raise
        trace_steps(answer.steps)
        span.span_data.data["output"] = answer.output
        return answer


async def _drive(
    asker: Asker,
    candidate: Candidate,
    input: Asked,
    trace_id: str,
    route: TraceContext,
    measured: Measured,
    labels: Mapping[str, Json],
    on_delta: OnDelta | None,
    watch: LimitWatch,
) -> str:
    # The SDK keeps hooks on agent objects, shared by all runs that use them: a copy makes each run independent.
    graph = candidate.graph
    if asker.tape is not None:
        own = cast("str | None", labels.get(OWN_TRACE))
        graph = on_tape(
            graph, candidate.offered, Player(asker.tape, asker.on_miss, own=own, model_of=asker.router.get_model)
        )
    root = graph.root if len(graph.agents) > 1 else copy.copy(graph.root)
    hooks = TracingHooks(asker.processor, graph.tool_sets, watch)
    config = RunConfig(
        model=candidate.model.full if candidate.record.model or candidate.agent is None else None,
        model_provider=asker.router,
        model_settings=dict(candidate.record.model_settings) or None,
        workflow_name=candidate.name,
        trace_id=sdk_trace_id(trace_id),
        tool_error_formatter=note_error_class,
        tool_not_found_behavior="return_error_to_model",
        tool_name_collision_policy="error",
    )
    given = cast("RunInput", input)
    while True:
        if on_delta is None:
            result: RunResult | RunResultStreaming = await sdk.Runner.run(
                root, given, max_turns=asker.max_turns, hooks=hooks, run_config=config
            )
        else:
            result = await _streamed(root, given, asker.max_turns, hooks, config, on_delta)
        if not result.interruptions:
            return output_text(result.final_output)
        given = _decided(asker, result.to_state(), hooks, trace_id, route, measured)


async def _streamed(
    root: sdk.Agent, given: RunInput, max_turns: int, hooks: TracingHooks, config: RunConfig, on_delta: OnDelta
) -> RunResultStreaming:
    result = sdk.Runner.run_streamed(root, given, max_turns=max_turns, hooks=hooks, run_config=config)
    try:
        async for event in result.stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                on_delta(event.data.delta)
    except asyncio.CancelledError:
        result.cancel()
        if result.run_loop_task:
            await asyncio.wait([result.run_loop_task])
        raise
    finally:
        untie(result)
    return result


def _decided(
    asker: Asker, state: SdkRunState, hooks: TracingHooks, trace_id: str, route: TraceContext, measured: Measured
) -> SdkRunState:
    """Decide pending approvals without a person: all are approved or rejected, as the comparison specifies."""
    for item in state.get_interruptions():
        call_id, name, arguments = item.call_id or "", item.name or "", item.arguments or "{}"
        if asker.approve == "all":
            hooks.approved.add(call_id)
            state.approve(item)
            continue
        state.reject(item, rejection_message=REJECTED)
        now = utc_now()
        span = SpanRecord(
            trace_id=trace_id, span_id=call_span_id(trace_id, call_id), parent_id=route.turn_of(item.agent.name), user_id=asker.user_id, kind="tool",
            name=name, agent=item.agent.name, status="rejected", started_at=now, ended_at=now, input=parsed(arguments), output=REJECTED,
            attributes={GenAI.TOOL_NAME: name, GenAI.TOOL_CALL_ID: call_id, Lab.APPROVAL: "rejected"},
        )  # fmt: skip
        asker.writer.span_ended(span)
        measured.take(span)
    return state


def step_of(span: SpanRecord) -> dict[str, Json] | None:
    """A tool call or a handoff as a step; None for other spans."""
    if span.kind == "tool":
        arguments = parsed(span.input) if isinstance(span.input, str) else span.input
        return {
            "type": "tool", "name": span.name, "arguments": arguments, "agent": span.agent,
            "approval": span.attributes.get(Lab.APPROVAL, "not_needed"), "error": span.error,
            **({"tape": how} if (how := span.attributes.get(Lab.TAPE)) else {}),
        }  # fmt: skip
    if span.kind == "handoff":
        return {
            "type": "handoff",
            "from": span.attributes.get(Lab.FROM_AGENT, span.agent),
            "to": span.attributes.get(Lab.TO_AGENT),
        }
    return None


def _attempt_of(trace_id: str, output: str | None, failure: LabError | None, measured: Measured) -> Attempt:
    generations = measured.generations
    priced = [g.cost_usd for g in generations]
    counted_in = [g.input_tokens for g in generations if g.input_tokens is not None]
    counted_out = [g.output_tokens for g in generations if g.output_tokens is not None]
    reported = measured.report or PipelineAnswer("")
    cost = sum(c for c in priced if c is not None) if priced and None not in priced else None
    waited = sum((g.queue_ms or 0.0) + (g.rate_limit_ms or 0.0) for g in generations)
    took = measured.latency_ms() if measured.called_ms is None else max(0.0, measured.called_ms - waited)
    first = _ttft_ms(measured)
    if reported.first_after_s is not None:
        first = min(reported.first_after_s * 1000.0, took)
    elif first is not None:
        took = max(took, first)  # Both are differences of several clock readings.
    return Attempt(
        trace_id=trace_id, output=None if output is None else clean(output), error=failure, steps=tuple(measured.steps), latency_ms=took,
        queue_ms=sum(g.queue_ms or 0.0 for g in generations), rate_limit_ms=sum(g.rate_limit_ms or 0.0 for g in generations),
        ttft_ms=first,
        input_tokens=sum(counted_in) if counted_in and reported.input_tokens is None else reported.input_tokens,
        output_tokens=sum(counted_out) if counted_out and reported.output_tokens is None else reported.output_tokens,
        cost_usd=cost if reported.cost_usd is None else reported.cost_usd,
    )  # fmt: skip


def _ttft_ms(measured: Measured) -> float | None:
    """Time from the first activity to the first content of the final answer, in ms, with the same exclusions as
    `latency_ms`.
    """
    if not measured.generations or measured.busy_from is None or measured.generations[-1].ttft_ms is None:
        return None
    *before, last = measured.generations
    left_out = sum((g.queue_ms or 0.0) + (g.rate_limit_ms or 0.0) for g in before)
    left_out += sum(cast(float, g.attributes[Lab.OVERHEAD_MS]) for g in before)
    return max(0.0, ms_between(measured.busy_from, last.started_at) - left_out) + (last.ttft_ms or 0.0)
