"""Branch a run: in a new thread with the same past, as a trace that names its parent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any

import agents as sdk
from agents import Agent, Model

from timestep_lab.runtime.agent_graph import BuiltGraph
from timestep_lab.runtime.branch import branch
from timestep_lab.runtime.replay import Changes, Recording, Span, ToolStub, fork_point, record, rewire
from timestep_lab.runtime.run_request import Approve, RunOptions
from timestep_lab.store.base import in_thread
from timestep_lab.types.errors import NotFoundError, RunError
from timestep_lab.types.events import Event
from timestep_lab.types.records import AgentRecord, RunRecord

if TYPE_CHECKING:
    from timestep_lab.runtime.runner import Runner
    from timestep_lab.store.store import Store


async def fork(
    runner: Runner,
    trace_id: str,
    span_id: str | None = None,
    *,
    prompt: str | None = None,
    model: str | None = None,
    instructions: str | None = None,
    tools: Mapping[str, ToolStub] | None = None,
    again: bool = False,
    approve: Approve = "ask",
    agent: Agent[Any] | None = None,
    keep_running: bool = False,
) -> AsyncGenerator[Event, None]:
    """Run the run behind `trace_id` again in a new thread, as a trace whose parent it is.

    What began before `span_id` is replayed as recorded; from there on it is live. Without `span_id` it is live from where the first change
    is felt; without a change (and without `again`, which goes live from the span although nothing changed) all is replayed, and no provider
    or tool is called.

    `prompt` replaces what the user said, `instructions` those of the first agent, `model` every agent's model. `tools`: tool name to what
    it says instead, a fixed result or a function of its arguments. `agent`: for a run of an SDK agent, that agent.

    Raises `NotFoundError` (trace, span, agent), `RunError` when the trace is not that of a run of this lab, and what `Runner.stream` raises.
    """
    from timestep_lab.runtime.run_rows import OPTIONS
    from timestep_lab.runtime.runner import Fork

    changes = Changes(prompt=prompt, model=model, instructions=instructions, tools=tools or {}, again=again)
    store, router = runner.store, runner.router
    run = await in_thread(_run_of, store, trace_id)
    spans = await in_thread(_spans, runner, trace_id)
    point = fork_point(spans, span_id, changes)
    recording = record(spans, point)
    known = agent or runner.sdk_agent(run.id)
    who: AgentRecord | Agent[Any] = known if known else await in_thread(_stored_agent, store, run)
    before = RunOptions.from_json(run.metadata.get(OPTIONS) or RunOptions().to_json())
    if changes.model:
        router.get_model(changes.model)
    thread_id, said = await in_thread(_past, store, run)

    def model_of(one: Agent[Any]) -> Model:
        chosen = changes.model or before.model or one.model
        return chosen if isinstance(chosen, sdk.Model) else router.get_model(chosen)

    async def rewired(graph: BuiltGraph) -> BuiltGraph:
        return await rewire(graph, recording, changes, model_of)

    stream = runner.stream(
        said if prompt is None else prompt,
        agent=who,
        thread_id=thread_id,
        model=changes.model or before.model,
        model_settings=before.model_settings,
        max_turns=before.max_turns,
        approve=approve,
        keep_running=keep_running,
        fork=Fork(trace_id, span_id, _first_model(recording, changes, run), rewired),
    )
    try:
        async for event in stream:
            yield event
    finally:
        await stream.aclose()


def _first_model(recording: Recording, changes: Changes, run: RunRecord) -> str:
    return str(run.model if recording.answers.get(run.agent) else changes.model or run.model)


def _run_of(store: Store, trace_id: str) -> RunRecord:
    found = store.runs.find(1, trace_id=trace_id)
    if not found:
        store.traces.get(trace_id)
        raise RunError(
            f"Trace {trace_id} is not that of a run of this lab, so there is nothing to run again.",
            "Fork a trace that lab.run made.",
        )
    return found[0]


def _spans(runner: Runner, trace_id: str) -> list[Span]:
    runner.writer.flush()
    traces = runner.store.traces
    ids = [span.span_id for span in traces.spans(trace_id)]
    return list(traces.payloads(trace_id, ids))


def _stored_agent(store: Store, run: RunRecord) -> AgentRecord:
    if run.agent_id is None:
        raise RunError(
            f"This run was started with an SDK Agent object ({run.agent!r}), which lives only in the process that made it.",
            "Make the same Agent here and pass it: runner.fork(trace_id, agent=my_agent)",
        )
    return store.agents.get(run.agent_id)


def _past(store: Store, run: RunRecord) -> tuple[str, list[dict[str, Any]]]:
    """A new thread with what came before the run, and what the user said to it, as the model got it."""
    items = [item for item in store.threads.all_items(run.thread_id) if item.run_id == run.id]
    if not items:
        raise NotFoundError(f"The thread of run {run.id} was deleted.", "Run it again with lab.run.")
    said = []
    for entry in store.threads.session_items(run.thread_id, run_id=run.id):
        if entry.get("role") != "user":
            break
        said.append(entry)
    return branch(store, run.thread_id, items[0].id).id, said
