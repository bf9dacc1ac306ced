"""Repeated replays of the rest of a recorded run, starting from the model's recorded input at a step, without a conversation.

A fork is a run for people: it has a thread, a row and a session. A replay is for statistics. It starts with the recorded input of its
first turn, so earlier turns cost nothing, and stores nothing unless its trace is requested.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import agents as sdk
from agents import Agent, RunConfig, RunErrorDetails, RunResult, RunState, TResponseInputItem
from agents.exceptions import AgentsException
from agents.items import ToolApprovalItem

from timestep_lab.model.arguments import check_whole
from timestep_lab.model.clock import utc_now
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import LabError, UsageError
from timestep_lab.model.ids import new_trace_id
from timestep_lab.model.records import Usage
from timestep_lab.model.spans import Lab, TraceStart
from timestep_lab.runtime.agent_graph import BuiltGraph
from timestep_lab.runtime.approval_gate import REFUSED_ALL
from timestep_lab.runtime.forks import Branching, OnTools, prepare, read_changes, user_input_of
from timestep_lab.runtime.pricing import WATCH, LimitWatch, counted
from timestep_lab.runtime.recorded import Point, Recorded, ToolStub
from timestep_lab.runtime.replay import Replay, rewire
from timestep_lab.runtime.run import RunLimits
from timestep_lab.runtime.run_hooks import TracingHooks, watch_from_here
from timestep_lab.runtime.span_records import sdk_trace_id
from timestep_lab.runtime.stream_items import as_lab_error, output_text
from timestep_lab.runtime.tape import check_on_miss
from timestep_lab.runtime.tracing import StoreProcessor, TraceContext, install, note_error_class, uninstall
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.runtime.runner import Runner

LEFT_OPEN = "The replay ended before this step did."


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """Result of one replay. `error` is None when there is an `output`."""

    output: str | None
    error: LabError | None
    items: tuple[Json, ...]
    """Messages, calls and outputs from its first turn on, as Responses input items."""
    agent: str
    """The agent that was active last."""
    usage: Usage
    """Usage of the live part."""
    cost_usd: float | None
    """None unless every price is known."""
    trace_id: str | None
    """None when its trace was not stored."""
    followed: int = 0
    """Number of further recorded turns that it reached with the model reading what was recorded there. Counted with `follow`."""


class WarmStart:
    """A recorded run that can be replayed from one of its steps. Created by `warm_start`; `replay` can be called concurrently."""

    def __init__(
        self, runner: Runner, plan: Branching, point: Point, span_id: str | None, given: Sequence[Mapping[str, object]],
        turn: int | None = None,
    ) -> None:  # fmt: skip
        self._runner, self._plan, self._point, self._span_id = runner, plan, point, span_id
        self.turn = plan.recorded.warm_start(point) if turn is None else turn
        """Index of the first turn to run, from 0."""
        self.input = given
        """Input of the model at that turn."""
        self._used = plan.recorded.used_tools(self.turn)
        # Read once, and not for each replay: it costs as much as a third of a short one.
        self._settings = RunConfig(model_settings=dict(plan.options.model_settings)).model_settings

    @property
    def plan(self) -> Branching:
        """The prepared run and its changes."""
        return self._plan

    @property
    def recorded(self) -> Recorded:
        """The recorded run."""
        return self._plan.recorded

    def at(self, turn: int) -> WarmStart:
        """Returns a start at a turn, whose answer is generated again."""
        return self._from(turn, Point(turn), self._plan)

    def with_answer(self, turn: int, output: Sequence[Mapping[str, object]]) -> WarmStart:
        """Returns a start at a turn with the given answer; calls that differ from the recorded ones are made."""
        recorded = self.recorded.with_answer(turn, output)
        changed = frozenset(i for i in recorded.asked[turn] if i not in recorded.calls)
        return self._from(turn, Point(turn + 1, changed), replace(self._plan, recorded=recorded))

    def with_call_again(self, call_id: str) -> WarmStart:
        """Returns a start at a call, which is made again."""
        turn = self.recorded.turn_of[call_id]
        return self._from(turn, Point(turn + 1, frozenset({call_id})), self._plan)

    def with_result(self, call_id: str, stub: ToolStub) -> WarmStart:
        """Returns a start at a call, with the given result."""
        start = self.with_call_again(call_id)
        changes = replace(start._plan.changes, results={**start._plan.changes.results, call_id: stub})
        return self._from(start.turn, start._point, replace(start._plan, changes=changes))

    def with_instructions(self, turn: int, agent: str, text: str) -> WarmStart:
        """Returns a start at a turn, with other instructions for one agent."""
        changes = replace(self._plan.changes, instructions={**self._plan.changes.instructions, agent: text})
        return self._from(turn, Point(turn), replace(self._plan, changes=changes))

    def with_model(self, turn: int, agent: str, model: str) -> WarmStart:
        """Returns a start at a turn, with another model for one agent. Raises what the router raises."""
        chosen, before = self._runner.router.get_model(model), self._plan.model_of
        changes = replace(self._plan.changes, models={**self._plan.changes.models, agent: model})

        def model_of(one: Agent) -> sdk.Model:
            return chosen if one.name == agent else before(one)

        return self._from(turn, Point(turn), replace(self._plan, changes=changes, model_of=model_of))

    def with_input(self, turn: int, given: Sequence[Mapping[str, object]]) -> WarmStart:
        """Returns a start at a turn, with another input of the model."""
        start = self.at(turn)
        start.input = [dict(item) for item in given]
        return start

    def _from(self, turn: int, point: Point, plan: Branching) -> WarmStart:
        return WarmStart(
            self._runner, plan, point, plan.recorded.answers[turn]["span_id"], plan.recorded.input_of(turn), turn
        )

    async def replay(self, *, approve_all: bool = False, keep_trace: bool = False, follow: bool = False) -> Replayed:
        """Runs one replay. An exception of a model, tool or guardrail becomes its `error`; only cancellation propagates.

        Nobody can be asked: calls that need approval are decided as recorded, and live ones are rejected unless
        `approve_all`. `keep_trace` stores the spans, as a child trace of the recorded one. `follow` counts `Replayed.followed`.
        """
        plan = self._plan
        span_ids = [span["span_id"] for span in plan.recorded.answers[: self.turn]]
        replay = Replay(plan.recorded, self._point, plan.changes, span_ids)
        if follow:
            replay.expected = deque(plan.recorded.answers[self.turn :])
        graph = rewire(plan.graph, plan.tools(replay), replay, plan.model_of)
        root = self._prepared(graph)
        watch = LimitWatch(plan.options.limits, replay)
        watch.tool_calls = sum(len(calls) for calls in plan.recorded.asked[: self.turn])
        if not keep_trace:
            return await self._run(root, replay, None, TracingHooks(None, graph.tool_sets, watch), approve_all, watch)
        processor = install(self._runner.writer)
        try:
            trace_id = self._announce(processor)
            try:
                return await self._run(
                    root, replay, trace_id, TracingHooks(processor, graph.tool_sets, watch), approve_all, watch
                )
            finally:
                processor.release(sdk_trace_id(trace_id), LEFT_OPEN)
                await self._runner.writer.barrier().reached()
        finally:
            uninstall(self._runner.writer)

    def _prepared(self, graph: BuiltGraph) -> Agent:
        """Returns the agent of the first turn. What the SDK would derive from earlier turns is set on the agents instead: an agent that has
        called a tool is not forced to call one again, and input guardrails have passed."""
        for agent in graph.agents.values():
            settings = agent.model_settings.resolve(self._settings)
            if agent.reset_tool_choice and agent.name in self._used:
                settings = replace(settings, tool_choice=None)
            agent.model_settings = settings
            if self.turn > 0:
                agent.input_guardrails = []
        return graph.agents[str(self._plan.recorded.answers[self.turn]["agent"])]

    async def _run(
        self, root: Agent, replay: Replay, trace_id: str | None, hooks: TracingHooks, approve_all: bool, watch: LimitWatch
    ) -> Replayed:  # fmt: skip
        config = RunConfig(
            model_provider=self._runner.router,
            workflow_name=self._plan.run.agent,
            tracing_disabled=trace_id is None,
            trace_id=None if trace_id is None else sdk_trace_id(trace_id),
            tool_error_formatter=note_error_class,
            tool_not_found_behavior="return_error_to_model",
            tool_name_collision_policy="error",
        )
        given: list[TResponseInputItem] | RunState = cast(
            "list[TResponseInputItem]", [dict(item) for item in self.input]
        )
        max_turns = self._plan.options.max_turns
        result: RunResult | RunErrorDetails | None = None
        failure: LabError | None = None
        watched = watch_from_here(watch)
        try:
            async with asyncio.timeout(watch.seconds_left):
                while True:
                    result = await sdk.Runner.run(
                        root, given, context=self._plan.context, max_turns=max(1, max_turns - self.turn), hooks=hooks, run_config=config
                    )  # fmt: skip
                    if not result.interruptions:
                        break
                    given = _decided(result, replay.decisions, hooks, approve_all)
            if passed := watch.passed(at_all=True):
                raise passed
        except TimeoutError as error:
            up = watch.time_is_up() if watch.seconds_left == 0 else error
            failure = as_lab_error(up, speakers=(), max_turns=max_turns)
        except Exception as error:  # noqa: BLE001 - whatever a model, a tool or a guardrail raised is how this replay ended
            failure = as_lab_error(error, speakers=(), max_turns=max_turns)
            result = error.run_data if isinstance(error, AgentsException) else result
        finally:
            WATCH.reset(watched)
        usage = counted(result.context_wrapper) if result else Usage()
        costs = replay.costs
        return Replayed(
            output=output_text(result.final_output) if isinstance(result, RunResult) and failure is None else None,
            error=failure,
            items=tuple(
                cast("Json", item.to_input_item())
                for item in (result.new_items if result else ())
                if not isinstance(item, ToolApprovalItem)
            ),
            agent=result.last_agent.name if result else root.name,
            usage=usage,
            cost_usd=None if None in costs else sum(cost for cost in costs if cost is not None),
            trace_id=trace_id,
            followed=max(0, replay.followed - 1),
        )

    def _announce(self, processor: StoreProcessor) -> str:
        trace_id, run, writer = new_trace_id(), self._plan.run, self._runner.writer
        route = TraceContext(
            writer, run.user_id, trace_id, run_id=trace_id, only_ended=True, stored=self._plan.graph.stored
        )
        processor.bind(sdk_trace_id(trace_id), route)
        writer.trace_started(
            TraceStart(
                trace_id=trace_id, user_id=run.user_id, workflow=run.agent, thread_id=None, started_at=utc_now(),
                metadata={Lab.SDK_ID: sdk_trace_id(trace_id), **({Lab.WARM_START: True} if self.turn else {})},
                parent_trace_id=run.trace_id, fork_span_id=self._plan.recorded.answers[self.turn]["span_id"] if self.turn else self._span_id,
            )
        )  # fmt: skip
        return trace_id


def _decided(
    result: RunResult, recorded: Mapping[str, tuple[str, str]], hooks: TracingHooks, approve_all: bool
) -> RunState:
    state = result.to_state()
    for item in state.get_interruptions():
        call_id = item.call_id or ""
        word, message = recorded.get(call_id, ("approved" if approve_all else "rejected", REFUSED_ALL))
        if word == "approved":
            hooks.approved.add(call_id)
            state.approve(item)
        else:
            state.reject(item, rejection_message=message)
    return state


async def warm_start(
    runner: Runner,
    trace_id: str,
    span_id: str | None = None,
    *,
    prompt: str | None = None,
    model: str | Mapping[str, str] | None = None,
    instructions: str | Mapping[str, str] | None = None,
    tools: Mapping[str, ToolStub] | None = None,
    results: Mapping[str, ToolStub] | None = None,
    on_tools: OnTools | None = None,
    on_miss: str = "fail",
    agent: Agent | None = None,
    context: object = None,
    **limits: object,
) -> WarmStart:
    """Prepares a replay of the run of `trace_id` from the step `span_id`, or from where the first change takes effect; without either, from
    its start. Accepts the changes and limits of `lab.fork`, and raises what it raises. Writes nothing.
    """
    given_limits = RunLimits.read(**limits)
    changes = read_changes(prompt, model, instructions, tools, results, False, agent, on_tools)
    if changes.on_tools == "tape":
        check_on_miss(on_miss, may_ask=False)
    changes = replace(changes, again=changes.none)
    plan = await prepare(runner, trace_id, span_id, changes, agent, context, on_tools, on_miss)
    options = replace(plan.options, limits=given_limits.over(plan.options.limits))
    await runner.check_prices(options, plan.who)
    plan = replace(plan, options=options)
    assert plan.point is not None
    if not plan.recorded.answers:
        raise UsageError(
            f"The run of trace {trace_id} has no recorded answer of a model.",
            "A model object that traces nothing can be recorded once it is added: model=lab.router.add_model(my_model).",
        )
    if away := sorted({str(answer["agent"]) for answer in plan.recorded.answers} - set(plan.graph.agents)):
        raise UsageError(
            f"{plan.graph.root.name!r} does not lead to {', '.join(map(repr, away))}, which answered in this run.",
            f"Pass the agent that the run started with, {plan.run.agent!r}, with all of its handoffs.",
            param="agent",
        )
    given = plan.recorded.input_of(plan.recorded.warm_start(plan.point))
    if prompt is not None:
        messages = await in_thread(user_input_of, runner.store, plan.run, plan.recorded)
        given = [*given[: len(given) - len(messages)], {"role": "user", "content": prompt}]
    return WarmStart(runner, plan, plan.point, span_id, given)


async def replay_many(
    start: WarmStart, times: int, *, concurrency: int, approve_all: bool = False, keep_traces: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Replayed]:  # fmt: skip
    """Runs `times` replays, at most `concurrency` at once. `on_progress` is called with the number done and the total. Raises
    `UsageError`."""
    check_whole(1, times=times, concurrency=concurrency)
    gate, done = asyncio.Semaphore(concurrency), 0

    async def one() -> Replayed:
        nonlocal done
        async with gate:
            replayed = await start.replay(approve_all=approve_all, keep_trace=keep_traces)
        done += 1
        if on_progress:
            on_progress(done, times)
        return replayed

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one()) for _ in range(times)]
    return [task.result() for task in tasks]
