"""Forks of a run: a new thread with the same history, and a trace that refers to its parent."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, cast

import agents as sdk
from agents import Agent, Model

from timestep_lab.model import errors
from timestep_lab.model.clock import utc_now
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import LabError, NotFoundError, RunError, UsageError
from timestep_lab.model.events import Event
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import AgentRecord, RunRecord, ThreadRecord
from timestep_lab.model.spans import Lab
from timestep_lab.runtime.agent_graph import BuiltGraph
from timestep_lab.runtime.recorded import Changes, Point, Recorded, Span, ToolStub
from timestep_lab.runtime.replay import Offered, Replay, is_same_item, offered_tools, rewire
from timestep_lab.runtime.run import Approve, RunLimits, RunOptions, Snapshot
from timestep_lab.runtime.session import FORK, OPTIONS, STOPPED_BY, ForkData, is_output, versions_of
from timestep_lab.runtime.span_records import parsed
from timestep_lab.runtime.tape import Player, Tape, check_on_miss, named, read_tape, taped_tools
from timestep_lab.store.base import Statement, in_thread
from timestep_lab.store.store import Store

if TYPE_CHECKING:
    from timestep_lab.runtime.router import Router
    from timestep_lab.runtime.runner import Runner


# --- Branches: a new thread with a copy of everything before one item, for readers and for the model


def branch(store: Store, thread_id: str, before_item_id: str) -> ThreadRecord:
    """Copies everything before an item into a new thread. The original is unchanged; the copy refers to it.

    Raises `NotFoundError` when the thread or the item does not exist.
    """
    old = store.threads.get(thread_id)
    items = store.threads.all_items(thread_id)
    at = next((n for n, item in enumerate(items) if item.id == before_item_id), None)
    if at is None:
        raise NotFoundError(f"Thread {thread_id} has no item {before_item_id!r}.", "Reload the conversation.")
    now = utc_now()
    new = ThreadRecord(
        id=new_id("thread"), user_id=store.user_id, title=old.title, created_at=now, updated_at=now,
        metadata={**old.metadata, "branch_of": thread_id, "branched_before": before_item_id},
    )  # fmt: skip
    if store.quota:
        store.quota.take_thread()
    store.threads.insert(new)
    copies = [replace(item, id=new_id("item"), thread_id=new.id, item_index=-1) for item in items[:at]]
    # Calls pending in the old thread are decided there.
    kept = [copy for copy in copies if copy.type != "approval" or copy.data.get("decision")]
    store.threads.append_items(new.id, kept)
    first_run = items[at].run_id
    copied = Statement(
        "insert into session_items (user_id, thread_id, seq, item, run_id, created_at) "
        "select user_id, $3, row_number() over (order by seq) - 1, item, run_id, created_at from session_items "
        "where user_id = $1 and thread_id = $2 and seq < coalesce("
        "(select min(seq) from session_items where user_id = $1 and thread_id = $2 and run_id = $4), 9223372036854775807)",
        [store.user_id, thread_id, new.id, first_run],
    )
    counted = Statement(
        "update threads set next_session_seq = (select count(*) from session_items where user_id = $1 and thread_id = $2) "
        "where user_id = $1 and id = $2",
        [store.user_id, new.id],
    )
    store.db.write(store.user_id, [copied, counted], changes=store.threads.changes(new.id))
    return store.threads.get(new.id)


OnTools = str | Tape
"""`ask`, `live`, `tape`, `tape:<filter of traces>`, or a `Tape`."""


async def fork(
    runner: Runner,
    trace_id: str,
    span_id: str | None = None,
    *,
    prompt: str | None = None,
    model: str | Mapping[str, str] | None = None,
    instructions: str | Mapping[str, str] | None = None,
    tools: Mapping[str, ToolStub] | None = None,
    results: Mapping[str, ToolStub] | None = None,
    again: bool = False,
    on_tools: OnTools | None = None,
    on_miss: str = "fail",
    approve: Approve = "ask",
    agent: Agent | None = None,
    context: object = None,
    limits: Mapping[str, Json] | None = None,
    keep_running: bool = False,
) -> AsyncGenerator[Event, None]:
    """Runs the run of `trace_id` again in a new thread, as a child trace.

    Steps before `span_id` are replayed as recorded; from there on the run is live. Of several parallel calls, only the named one is live.
    Without `span_id` the run goes live where the first change takes effect; without a change (and without `again`, which goes live at the
    span even if nothing changed) everything is replayed, and no provider, tool or guardrail is called.

    `prompt` replaces the user's input. `instructions` is a text for the first agent, or texts by agent name; `model` is a name for all
    agents, or names by agent. `tools` maps a tool name to the result of its live calls: a fixed value or a function of the arguments.
    `results` maps the id of a recorded call to its new result. Replacements also apply to forks of the fork. `on_tools`: `ask` waits for
    approval before a live call of a tool with possible side effects, which is every tool not marked read-only (by `readOnlyHint` of its MCP
    server, or by `timestep_lab.read_only`); `live` asks only where the tool's own rule requires it. The default is `ask` with `again`,
    otherwise `live`. With `tape`, live calls are answered from recorded runs, preferably this one (`runtime.tape`), and `on_miss` decides
    what happens with a call that was never recorded. `agent`, `context`: for a run of an SDK agent, or with a context, that was started in
    another process. `limits` overrides limits by name.

    Raises before anything is written: `NotFoundError` (trace, span, agent), `UsageError` (a tool, agent or call that the run does not
    have), `RunError` when the trace does not belong to a run of this lab, and what `Runner.stream` raises.
    """
    from timestep_lab.runtime.runner import Fork

    changes = read_changes(prompt, model, instructions, tools, results, again, agent, on_tools)
    plan = await prepare(runner, trace_id, span_id, changes, agent, context, on_tools, on_miss)
    run, before = plan.run, plan.options
    replay = Replay(plan.recorded, plan.point, plan.changes)
    rewired = rewire(plan.graph, plan.tools(replay), replay, plan.model_of)
    thread_id, messages = await in_thread(_past, runner.store, run, plan.recorded)

    async def blueprint() -> tuple[BuiltGraph, Snapshot]:
        return rewired, plan.snapshot

    first = str(run.model if replay.answers.get(run.agent) else changes.model or run.model)
    with_limits: Callable[..., RunLimits] = replace
    stream = runner.stream(
        messages if prompt is None else prompt,
        agent=plan.who,
        thread_id=thread_id,
        model=before.model,
        model_settings=before.model_settings,
        max_turns=before.max_turns,
        limits=with_limits(before.limits, **(limits or {})),
        approve=approve,
        context=plan.context,
        keep_running=keep_running,
        fork=Fork(trace_id, span_id, first, plan.changes, blueprint, versions_of(run)),
    )
    try:
        async for event in stream:
            yield event
    finally:
        await stream.aclose()


@dataclass(frozen=True, slots=True)
class Branching:
    """A recorded run that is prepared to be run again with changes, once or many times."""

    run: RunRecord
    who: AgentRecord | Agent
    options: RunOptions
    """Options of the run, with the newly requested model."""
    recorded: Recorded
    point: Point | None
    changes: Changes
    """Changes of this fork, combined with those of the forks it came from."""
    graph: BuiltGraph
    snapshot: Snapshot
    offered: Offered
    model_of: Callable[[Agent], Model]
    context: object
    tape: Tape | None
    """Answers live calls; None calls the real tools."""
    router: Router

    def tools(self, replay: Replay) -> Offered:
        """Returns the agents' tools for one replay; on tape, replayed calls are skipped."""
        if self.tape is None:
            return self.offered
        assert self.changes.tape is not None
        on_miss = cast("str", self.changes.tape["on_miss"])
        player = Player(self.tape, on_miss, own=self.run.trace_id, model_of=self.router.get_model)
        offered = taped_tools(self.graph, self.offered, player)
        player.advance(replayed_calls(self.recorded, replay, self.graph.root.name))
        return offered


def replayed_calls(recorded: Recorded, replay: Replay, root: str) -> list[tuple[str, str, Json]]:
    """Returns the recorded calls that are replayed instead of made: (path, tool, arguments)."""
    spans = [recorded.tools[i] for i in replay.calls if i in recorded.tools]
    return [(named(span["agent"], root), str(span["name"]), parsed(span["input"])) for span in spans]


async def prepare(
    runner: Runner, trace_id: str, span_id: str | None, changes: Changes, agent: Agent | None, context: object,
    on_tools: OnTools | None = None, on_miss: str = "fail",
) -> Branching:  # fmt: skip
    """Reads and validates everything that a fork needs, without writing. Raises what `fork` raises before it writes."""
    store, router = runner.store, runner.router
    run = await in_thread(_run_of, store, trace_id)
    if "" in changes.instructions:
        changes = replace(changes, instructions={run.agent: changes.instructions[""]})
    tape: Tape | None = None
    on_tape = changes.on_tools == "tape"
    check_on_miss(on_miss, may_ask=True, model_of=router.get_model, lacks=None if on_tape else "on_tools='tape'")
    if on_tape:
        assert on_tools is not None
        tape = await in_thread(lambda: read_tape(store, on_tools, agent=run.agent, own=trace_id))
        changes = replace(changes, tape=tape.spec(on_miss))
    earlier = runner.changes_of(run) or Changes()
    known = agent or runner.sdk_agent(run.id)
    who: AgentRecord | Agent = known if known else await in_thread(_stored_agent, store, run)
    before = _options_of(run)
    for name in filter(None, [changes.model, *changes.models.values()]):
        router.get_model(name)
    recorded = await in_thread(_recorded, runner, run)
    point = recorded.point(span_id, changes)
    effective = changes.over(earlier)
    options = replace(before, model=changes.model or before.model)
    definitions = {**(tape.definitions if tape else {}), **recorded.definitions}
    graph, snapshot = await runner.graphs.build(
        who, await runner.graphs.records(who, versions_of(run)), options, definitions
    )
    offered = await offered_tools(graph, effective, definitions)
    if tape:
        taped_tools(
            graph, offered, Player(tape, on_miss)
        )  # Raises for tools that a tape cannot answer, before anything is written.
    if point is not None:
        context = runner.context_of(run, context)
    return Branching(
        run, who, options, recorded, point, effective, graph, snapshot, offered,
        _models(runner, effective, options.model), context, tape, router,
    )  # fmt: skip


async def rewire_again(runner: Runner, run: RunRecord, graph: BuiltGraph, replayed: Sequence[str]) -> BuiltGraph:
    """Returns `graph` for a fork that resumes after a pause: it replays what is left, with the fork's replacements.

    `said`: ids of the recorded answers already replayed. Raises `RunError` when the parent run is no longer available.
    """
    fork_data = cast("ForkData", run.metadata[FORK])
    changes = runner.changes_of(run)
    assert changes is not None
    try:
        parent = await in_thread(_run_of, runner.store, fork_data["trace_id"])
        recorded = await in_thread(_recorded, runner, parent)
        own = await in_thread(_spans, runner, run.trace_id)
    except (NotFoundError, RunError) as error:
        raise RunError(
            f"This run is a fork of trace {fork_data['trace_id']}, which no longer exists, so the fork cannot continue.",
            "Cancel it with lab.cancel(run_id), and run it again with lab.run.",
        ) from error
    since = [_replayed_span(span) for span in own if span["kind"] == "generation"]
    point = recorded.point(fork_data["span_id"], changes)
    replay = Replay(recorded, point, changes, list(dict.fromkeys([*replayed, *filter(None, since)])))
    options = _options_of(run)
    offered = await offered_tools(graph, changes, recorded.definitions)
    if changes.tape is not None:
        tape = await in_thread(read_tape, runner.store, changes.tape)
        on_miss = cast("str", changes.tape["on_miss"])
        player = Player(tape, on_miss, own=parent.trace_id, model_of=runner.router.get_model)
        offered = taped_tools(graph, offered, player)
        root = graph.root.name
        player.advance(replayed_calls(recorded, replay, root))
        player.advance(
            (named(s["agent"], root), str(s["name"]), parsed(s["input"]))
            for s in own
            if s["kind"] == "tool" and s["attributes"].get(Lab.TAPE)
        )
    return rewire(graph, offered, replay, _models(runner, changes, options.model))


def _replayed_span(answer: Span) -> str | None:
    """Returns the id of the recorded answer that an answer repeats; None for a live one."""
    config = cast("Mapping[str, str]", answer["attributes"].get("model_config", {}))
    return config.get("replayed_span")


def _options_of(run: RunRecord) -> RunOptions:
    return RunOptions.from_json(cast("Mapping[str, Json]", run.metadata.get(OPTIONS) or RunOptions().to_json()))


def read_changes(
    prompt: str | None,
    model: str | Mapping[str, str] | None,
    instructions: str | Mapping[str, str] | None,
    tools: Mapping[str, ToolStub] | None,
    results: Mapping[str, ToolStub] | None,
    again: bool,
    agent: Agent | None,
    on_tools: OnTools | None,
) -> Changes:
    """Validates the changes of a fork. Instructions for the first agent, whose name is unknown here, get the key ''. Raises
    `UsageError`."""
    if agent is not None and not isinstance(agent, Agent):
        raise UsageError(
            f"agent={agent!r} is not an Agent of the Agents SDK; a fork's agents are those of the run.",
            "Omit agent=, or start a new run with another agent: lab.run(prompt, agent=…).",
            param="agent",
        )
    taped = isinstance(on_tools, Tape) or str(on_tools).partition(":")[0] == "tape"
    if on_tools not in (None, "ask", "live") and not taped:
        raise UsageError(
            f"on_tools={on_tools!r} is not known.",
            "Use 'ask', 'live', 'tape' or 'tape:<filter of traces>'.",
            param="on_tools",
        )
    for param, value in [("model", model), ("instructions", instructions)]:
        texts = list(value.values()) if isinstance(value, Mapping) else [value]
        if not all(text is None or isinstance(text, str) for text in texts):
            raise UsageError(
                f"{param}={value!r} is neither a string nor a mapping of agent names to strings.",
                f"For example {param}='…'.",
                param=param,
            )
    for param, stubs in [("tools", tools), ("results", results)]:
        if not isinstance(stubs or {}, Mapping):
            raise UsageError(f"{param}={stubs!r} is not a mapping of names to results.", "Pass a dict.", param=param)
        for name, stub in (stubs or {}).items():
            if not callable(stub):
                _check_json(param, name, stub)
    by_agent = model if isinstance(model, Mapping) else {}
    return Changes(
        prompt=prompt,
        model=model if isinstance(model, str) and model else None,
        models=dict(by_agent),
        instructions={"": instructions} if isinstance(instructions, str) else dict(instructions or {}),
        tools=dict(tools or {}),
        results=dict(results or {}),
        again=again,
        on_tools="tape" if taped else str(on_tools or ("ask" if again else "live")),
    )


def _check_json(param: str, name: str, stub: Json) -> None:
    try:
        json.dumps(stub)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{param}[{name!r}] cannot be encoded as JSON: {error}.", "Pass a string, JSON, or a function.", param=param
        ) from None


def _models(runner: Runner, changes: Changes, for_all: str | None) -> Callable[[Agent], Model]:
    def model_of(one: Agent) -> Model:
        chosen = changes.models.get(one.name) or for_all or one.model
        return chosen if isinstance(chosen, sdk.Model) else runner.router.get_model(chosen)

    return model_of


def _run_of(store: Store, trace_id: str) -> RunRecord:
    runs = store.runs.find(1, trace_id=trace_id)
    if not runs:
        store.traces.get(trace_id)
        raise RunError(
            f"Trace {trace_id} does not belong to a run of this lab, so it cannot be replayed.",
            "Only runs of lab.run can: run the same input again with lab.run.",
        )
    return runs[0]


def _recorded(runner: Runner, run: RunRecord) -> Recorded:
    log = runner.store.threads.session_items(run.thread_id, run_id=run.id)
    heard = {cast("str", item["call_id"]): item["output"] for item in log if is_output(item)}
    return Recorded(_spans(runner, run.trace_id), heard, _end_of(run), is_over=run.status != "needs_approval")


def _end_of(run: RunRecord) -> LabError | None:
    """Returns the error of a run that did not complete, to end a replay in the same way."""
    if run.status not in ("stopped", "failed", "cancelled", "interrupted"):
        return None
    kind: type[LabError] = getattr(errors, run.error_type or "", RunError)
    message = run.error or f"The recorded run was {run.status} here."
    if kind is errors.BudgetError:
        return errors.BudgetError(message, code=cast("str | None", run.metadata.get(STOPPED_BY)))
    return RunError(message) if kind is errors.MissingExtraError else kind(message)


def _spans(runner: Runner, trace_id: str) -> list[Span]:
    runner.writer.flush()
    traces = runner.store.traces
    ids = [span.span_id for span in traces.spans(trace_id)]
    return cast("list[Span]", traces.payloads(trace_id, ids))


def _stored_agent(store: Store, run: RunRecord) -> AgentRecord:
    if run.agent_id is None:
        raise RunError(
            f"This run was started with an SDK Agent object ({run.agent!r}), which exists only in the process that created it.",
            "Create the same Agent here and pass it: lab.fork(trace_id, agent=my_agent)",
        )
    agent = store.agent(run.agent_id, (versions_of(run) or {}).get(run.agent_id))
    agent = agent or store.agents.try_get(run.agent_id)
    if agent is None:
        raise NotFoundError(
            f"The agent of this run, {run.agent!r}, was deleted.", "Pass one like it as an SDK Agent: agent=my_agent."
        )
    return agent


def _past(store: Store, run: RunRecord, recorded: Recorded) -> tuple[str, list[dict[str, Json]]]:
    """Returns a new thread with the history before the run, and the user's input as sent to the model."""
    items = [item for item in store.threads.all_items(run.thread_id) if item.run_id == run.id]
    if not items:
        raise NotFoundError(f"The thread of run {run.id} was deleted.", "Run it again with lab.run.")
    return branch(store, run.thread_id, items[0].id).id, user_input_of(store, run, recorded)


def user_input_of(store: Store, run: RunRecord, recorded: Recorded) -> list[dict[str, Json]]:
    """Returns the user's input to a run, as sent to the model: what its first answer read last. It may be a whole conversation."""
    entries = [dict(entry) for entry in store.threads.session_items(run.thread_id, run_id=run.id)]
    read = recorded.input_of(0) if recorded.answers else entries
    for count in range(min(len(entries), len(read)), 0, -1):
        if all(map(is_same_item, entries[:count], read[-count:])):
            return entries[:count]
    return list(takewhile(lambda entry: entry.get("role") == "user", entries))
