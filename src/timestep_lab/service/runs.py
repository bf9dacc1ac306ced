"""`lab.runs`: start, follow, approve and cancel runs."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, cast

from annotated_types import Gt, Interval, Len

from timestep_lab.model.codec import Json, JsonObject, JsonValue
from timestep_lab.model.errors import ConflictError, NotFoundError
from timestep_lab.model.events import Event, RunEnded, RunStarted
from timestep_lab.model.records import Interruption, RunRecord, RunStateRecord
from timestep_lab.runtime.approvals import Decision
from timestep_lab.service import operation as op
from timestep_lab.service.agents import AgentChanges, Instructions, ModelName
from timestep_lab.service.operation import Scope, TraceId
from timestep_lab.service.threads import ThreadId
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.runtime.forks import Branching
    from timestep_lab.store.store import Store


DEFAULT_AGENT = "Personal Assistant"
MOST = 500
"""Maximum number of rows per response."""
RunId = Annotated[str, Len(1, 200)]
CallId = Annotated[str, Len(1, 200)]
Prompt = Annotated[str, Len(0, 1_000_000)]
Usd = Annotated[float, Gt(0)]
Count = Annotated[int, Interval(ge=1)]
Seconds = Annotated[float, Gt(0)]
Calls = Annotated[int, Interval(ge=0)]
TapeName = Annotated[str, Len(0, 10_000)]
"""`tape`, or `tape:` followed by a trace filter: tools answer from recorded runs."""
OnMiss = Annotated[str, Len(0, 500)]
"""What happens on tape to a call that was never recorded: `fail`, `live-if-readonly`, `ask`, `simulate:<model>`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run's row and its pending approvals."""

    run: RunRecord
    interruptions: list[Interruption]


async def _ended(runs: Runs, last: Event) -> RunView:
    assert isinstance(last, RunEnded)
    return await in_thread(runs.read, last.run.id)


def _view(store: Store, record: RunRecord) -> RunView:
    state = store.run_states.try_get(record.id) if record.status == "needs_approval" else None
    return RunView(run=record, interruptions=interruptions_of(state) if state else [])


def interruptions_of(state: RunStateRecord) -> list[Interruption]:
    """The calls that a stored run waits for."""
    calls: Sequence[Mapping[str, Any]] = state.interruptions
    return [Interruption(**call) for call in calls]


@op.noun("runs")
class Runs:
    """A user's runs. A run started here continues even if nobody reads its events; `cancel` stops it."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    @op.get("/runs")
    def list(
        self,
        *,
        status: Annotated[str, Len(1, 32)] | None = None,
        thread_id: ThreadId | None = None,
        limit: Annotated[int, Interval(ge=1, le=MOST)] = 50,
    ) -> builtins.list[RunView]:
        """Newest first."""
        where = {name: value for name, value in (("status", status), ("thread_id", thread_id)) if value}
        return [
            _view(self._scope.store, record)
            for record in self._scope.store.runs.find(limit, newest_first=True, **where)
        ]

    @op.stream("/runs", ended=_ended)
    async def start(
        self,
        prompt: Prompt | Annotated[Sequence[JsonObject], Len(0, 10_000)],
        *,
        agent: Annotated[str, Len(1, 220)] | None = None,
        model: ModelName | None = None,
        model_settings: JsonObject | None = None,
        thread_id: ThreadId | None = None,
        approve: Literal["ask", "all", "none"] = "ask",
        max_turns: Annotated[int, Interval(ge=1, le=100)] = 10,
        attachments: Annotated[Sequence[str], Len(0, 100)] = (),
        metadata: Mapping[str, Json] | None = None,
        budget_usd: Usd | None = None,
        max_tokens_total: Count | None = None,
        timeout_s: Seconds | None = None,
        max_tool_calls: Calls | None = None,
        tools: TapeName | None = None,
        on_miss: OnMiss = "fail",
        draft: JsonObject | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Run one turn; with `stream`, events are sent as they happen. `attachments`: ids of files. `draft`: unsaved
        changes to the agent, as in `agents.draft`; without `agent`, the fields of a new one. The other arguments are
        those of `lab.run`.

        Raises `NotFoundError`, `UnknownPrefixError`, `MissingKeyError`, `SettingsError` or `ConflictError` before
        anything is written.
        """
        from timestep_lab.runtime.attachments import with_content
        from timestep_lab.runtime.run import RunLimits
        from timestep_lab.runtime.tape import read_tape

        scope = self._scope
        if draft is None:
            record = await in_thread(scope.agents.get, agent or DEFAULT_AGENT)
        else:
            saved = None if agent is None else (await in_thread(scope.agents.get, agent)).id
            record = await in_thread(scope.agents.draft, saved, **cast("AgentChanges", draft))
        tape = None
        if tools is not None:
            await in_thread(scope.flush)
            tape = await in_thread(read_tape, scope.store, tools, agent=record.name)
        limits = RunLimits.read(
            budget_usd=budget_usd, max_tokens_total=max_tokens_total, timeout_s=timeout_s, max_tool_calls=max_tool_calls
        )
        files = await with_content(scope.files, [{"id": file_id} for file_id in attachments]) if attachments else []
        async for event in scope.runner.stream(
            prompt, agent=record, model=model, model_settings=model_settings, thread_id=thread_id, approve=approve, max_turns=max_turns,
            limits=limits, attachments=files, metadata=metadata, keep_running=True, tape=tape, on_miss=on_miss,
        ):  # fmt: skip
            yield event

    @op.get("/runs/{run_id}")
    def read(self, run_id: RunId) -> RunView:
        """One run. Raises `NotFoundError`."""
        record = self._scope.store.runs.try_get(run_id)
        if record is None:
            raise NotFoundError(
                f"There is no run {run_id!r}.",
                "lab.approvals lists the runs that are waiting.",
                command="List the runs that are waiting with: timestep-lab approve",
            )
        return _view(self._scope.store, record)

    @op.stream("/runs/{run_id}/approve", ended=_ended)
    async def decide(
        self, run_id: RunId, decisions: Mapping[str, Decision] | None = None
    ) -> AsyncGenerator[Event, None]:
        """Decide about pending approvals and continue the run. `decisions` is keyed by call id; if empty, all pending
        calls are approved. If two users decide at the same time, only one succeeds.

        Raises `NotFoundError`, `UsageError` for a call that is not waiting, `ConflictError`.
        """
        given = None if decisions is None else {call: decision.to_json() for call, decision in decisions.items()}
        async for event in self._scope.runner.resume(run_id, given, keep_running=True):
            yield event

    @op.post("/runs/{run_id}/cancel")
    async def cancel(self, run_id: RunId) -> RunView:
        """Stop the run. Its partial output is kept. Raises `NotFoundError`, and `ConflictError` if the run has ended."""
        await self._scope.runner.cancel(run_id)
        return await in_thread(self.read, run_id)

    @op.stream("/threads/{thread_id}/client-tools/{call_id}", ended=_ended)
    async def answer_client_tool(
        self, thread_id: ThreadId, call_id: CallId, output: JsonValue = None
    ) -> AsyncGenerator[Event, None]:
        """Return the result of a client tool to the agent and continue the run. Raises `NotFoundError`,
        `ConflictError`.
        """
        async for event in self._scope.runner.client_tool_output(thread_id, call_id, output, keep_running=True):
            yield event

    @op.stream("/traces/{trace_id}/fork", ended=_ended)
    async def fork(
        self,
        trace_id: TraceId,
        span_id: Annotated[str, Len(0, 200)] | None = None,
        *,
        prompt: Prompt | None = None,
        model: ModelName | Mapping[str, str] | None = None,
        instructions: Instructions | Mapping[str, str] | None = None,
        tools: JsonObject | None = None,
        results: JsonObject | None = None,
        again: bool = False,
        on_tools: TapeName | None = None,
        on_miss: OnMiss = "fail",
        budget_usd: Usd | None = None,
        max_tokens_total: Count | None = None,
        timeout_s: Seconds | None = None,
        max_tool_calls: Calls | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Run again: replay the recording up to `span_id`, or up to the first step that a change affects, then run
        live.

        Changes as in `lab.fork`. Raises `NotFoundError`, `UsageError`, `RunError`.
        """
        from timestep_lab.runtime.run import RunLimits

        limits = RunLimits.read(
            budget_usd=budget_usd, max_tokens_total=max_tokens_total, timeout_s=timeout_s, max_tool_calls=max_tool_calls
        )
        await in_thread(self._scope.flush)
        async for event in self._scope.runner.fork(
            trace_id, span_id, prompt=prompt, model=model, instructions=instructions, tools=tools, results=results, again=again,
            on_tools=on_tools, on_miss=on_miss, limits=limits.given(), keep_running=True,
        ):  # fmt: skip
            yield event

    @op.post("/flush", status=204)
    def flush(self) -> None:
        """Wait until all spans of finished runs are stored."""
        self._scope.flush()

    # --

    async def until_left(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        """The events of a run that is stopped when its reader leaves early. A lost connection does not stop it."""
        run_id = ""
        try:
            async for event in events:
                if isinstance(event, RunStarted):
                    run_id = event.run.id
                elif isinstance(event, RunEnded):
                    run_id = ""
                yield event
        except (GeneratorExit, asyncio.CancelledError):
            if run_id:
                with contextlib.suppress(ConflictError, NotFoundError):  # It has just ended.
                    await asyncio.shield(self.cancel(run_id))
            raise
        finally:
            await events.aclose()

    def __repr__(self) -> str:
        lines = [f"  {one.run.id}  {one.run.status}  {one.run.agent}" for one in self.list(limit=10)]
        return "Runs, newest first:\n" + "\n".join(lines) if lines else "No runs yet. Start one: await lab.run('…')"


# --- "Run again": replays a recorded run with changes. `plan` describes what would be replayed and what would run live;
# `start` begins.


Text = Annotated[str, Len(0, 200_000)]
AgainTools = Literal["ask", "live", "tape"]


class AgainChanges(TypedDict, total=False):
    """The changes to apply, as in `lab.fork`."""

    span_id: Annotated[str, Len(1, 200)]
    """The step from which the run is live. Default: the first step that a change affects."""
    prompt: Text
    model: Annotated[str, Len(1, 300)]
    instructions: Text | Mapping[str, Text]
    """Instructions for the first agent, or a mapping of agent names to instructions."""
    tools: JsonObject
    """Tool name to the result that replaces its live calls."""
    results: JsonObject
    """Id of a recorded call to the result that replaces it."""
    again: bool
    """Run live even if nothing is changed."""
    on_tools: AgainTools


@dataclass(frozen=True, slots=True, kw_only=True)
class AgainPlan:
    """What running again would do. `steps` of `of_steps` responses and tool calls are replayed as recorded.
    `live_model` is None if all are.
    """

    steps: int
    of_steps: int
    live_agent: str | None
    live_model: str | None
    on_tools: AgainTools
    replaced: tuple[str, ...]
    """Tools whose results are given by the user; they are never called."""
    text: str
    """A description in one sentence or two."""


async def plan_again(scope: Scope, trace_id: str, changes: AgainChanges) -> AgainPlan:
    """Plan a run without writing anything or calling a model or a tool. Raises what `start` would raise before it
    begins.
    """
    from timestep_lab.runtime.forks import prepare, read_changes

    span_id, on_tools = changes.get("span_id"), changes.get("on_tools")
    read = read_changes(
        changes.get("prompt"), changes.get("model"), changes.get("instructions"), changes.get("tools"), changes.get("results"),
        changes.get("again", False), None, on_tools,
    )  # fmt: skip
    await in_thread(scope.flush)
    branching = await prepare(scope.runner, trace_id, span_id, read, None, None, on_tools)
    return _plan_of(branching)


def _plan_of(branching: Branching) -> AgainPlan:
    from timestep_lab.runtime.replay import Replay

    recorded, point, changes = branching.recorded, branching.point, branching.changes
    calls = [span for call_id, span in recorded.tools.items() if call_id in recorded.turn_of]
    of_steps = len(recorded.answers) + len(calls)
    on_tools = cast("AgainTools", changes.on_tools)
    replaced = tuple(
        dict.fromkeys(
            [*changes.tools, *(str(recorded.tools[i]["name"]) for i in changes.results if i in recorded.tools)]
        )
    )
    if point is None:
        return AgainPlan(
            steps=of_steps, of_steps=of_steps, live_agent=None, live_model=None, on_tools=on_tools, replaced=replaced,
            text=f"Replays all {of_steps} steps as recorded. Asks no model and calls no tool.",
        )  # fmt: skip
    replay = Replay(recorded, point, changes)
    steps = point.answers + len(replay.calls)
    nxt = recorded.answers[min(point.answers, len(recorded.answers) - 1)] if recorded.answers else None
    agent = str(nxt["agent"]) if nxt else branching.run.agent
    model = _model(branching, agent)
    begin = "Replays no step" if not steps else f"Replays {'1 step' if steps == 1 else f'{steps} steps'} as recorded"
    says = (
        f" {_listed(replaced)} {'returns' if len(replaced) == 1 else 'return'} the result you entered."
        if replaced
        else ""
    )
    others = "Other tools" if replaced else "Tools"
    how = {
        "ask": f"{others} that may have side effects wait for your approval.",
        "live": f"{others} are called for real.",
        "tape": f"{others} answer from recorded runs; none is called.",
    }[on_tools]
    return AgainPlan(
        steps=steps, of_steps=of_steps, live_agent=agent, live_model=model, on_tools=on_tools, replaced=replaced,
        text=f"{begin}, then asks {model} as {agent}.{says} {how}",
    )  # fmt: skip


def _model(branching: Branching, agent: str) -> str:
    own = branching.graph.agents[agent].model if agent in branching.graph.agents else None
    model = branching.changes.models.get(agent) or branching.options.model or own or branching.run.model
    return model if isinstance(model, str) else str(branching.run.model or "the agent's model")


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


async def run_again(scope: Scope, trace_id: str, changes: AgainChanges) -> RunRecord:
    """Start the run and return as soon as it is stored. It continues in the background."""
    await in_thread(scope.flush)
    events = scope.runner.fork(trace_id, keep_running=True, **changes)
    try:
        async for event in events:
            if isinstance(event, RunStarted):
                return event.run
    finally:
        await events.aclose()
    raise AssertionError("a run begins with its start")
