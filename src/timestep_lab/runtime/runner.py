"""Runs agents: each turn of a conversation is a stream of events, and every step is stored.

A thread has one active run at a time: starting a second one raises `ConflictError`. A run that waits for approval does not block its
thread; the conversation can continue, and the result of the approved call is inserted after its call.

A reader that leaves early (closes the stream, or is cancelled) cancels the run; output so far stays in the thread as incomplete.
With `keep_running` the run continues to its end without a reader.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import agents as sdk

from timestep_lab.model.arguments import messages_of
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import ConflictError, NotFoundError, RunError, UsageError
from timestep_lab.model.events import Event, ItemDone, RunStarted, ThreadCreated
from timestep_lab.model.ids import new_id, new_trace_id
from timestep_lab.model.records import AgentRecord, RunRecord, RunStateRecord, ThreadItem, ThreadRecord
from timestep_lab.model.spans import TraceStart
from timestep_lab.runtime import approvals
from timestep_lab.runtime import session as run_rows
from timestep_lab.runtime.agent_graph import REPLAYED, SECONDS, BuiltGraph, asked_under, from_sdk
from timestep_lab.runtime.approval_gate import finished_span, tool_key
from timestep_lab.runtime.attachments import with_content, with_files
from timestep_lab.runtime.live_run import First, LiveRun, RunServices, SdkInput
from timestep_lab.runtime.pricing import has_price
from timestep_lab.runtime.recorded import Changes
from timestep_lab.runtime.replay import offered_tools
from timestep_lab.runtime.run import (
    DEFAULT_MAX_TURNS,
    AnyAgent,
    Approve,
    Graphs,
    RunLimits,
    RunOptions,
    Snapshot,
    UserTurn,
    decisions_of,
    finished_call,
    last_agent,
    read_options,
    read_turn,
    restore_state,
    was_answered,
)
from timestep_lab.runtime.run_hooks import identify_by_name
from timestep_lab.runtime.session import complete_session
from timestep_lab.runtime.span_records import call_span_id, parsed
from timestep_lab.runtime.stream_items import output_text
from timestep_lab.runtime.tape import Player, Tape, check_on_miss, check_tools, named, on_tape, read_tape
from timestep_lab.runtime.tracing import TraceContext, install, uninstall
from timestep_lab.store.base import Change, in_thread

if TYPE_CHECKING:
    from timestep_lab.runtime.mcp.toolbox import Toolbox
    from timestep_lab.runtime.router import Router
    from timestep_lab.runtime.settings import Settings
    from timestep_lab.store.store import Store
    from timestep_lab.store.trace_writer import TraceWriter

KEPT_AGENTS = 1000
T = TypeVar("T")
NO_LIMITS = RunLimits()


@dataclass(frozen=True, slots=True)
class Fork:
    """A run that branches from another trace, at a span."""

    trace_id: str
    span_id: str | None
    model: str
    """Name of the model that answers first."""
    changes: Changes
    """Changes of this fork, including those of the forks it came from."""
    blueprint: Callable[[], Awaitable[tuple[BuiltGraph, Snapshot]]]
    versions: Mapping[str, int] | None = None
    """Versions of the run's stored agents, by id."""


def _keep(known: dict[str, T], run_id: str, value: T) -> None:
    known[run_id] = value
    if len(known) > KEPT_AGENTS:
        del known[next(iter(known))]


def _own(run: RunRecord) -> Mapping[str, Any]:
    """Returns the metadata of a run, to read what the lab itself stored there (`run_rows.RESERVED`)."""
    return run.metadata


class Runner:
    """Runs the agents of one user. Events and their order are documented in `model.events`."""

    def __init__(
        self, store: Store, router: Router, toolbox: Toolbox, settings: Settings, *, writer: TraceWriter
    ) -> None:
        self.store, self.router, self.writer = store, router, writer
        self.graphs = Graphs(store, toolbox, settings.default_model)
        self._services = RunServices(store, router, install(writer))
        identify_by_name()
        self._live: dict[str, LiveRun] = {}
        self._sdk_agents: dict[str, sdk.Agent] = {}
        """Maps a run id to its SDK agent, for the newest `KEPT_AGENTS` runs of this process."""
        self._contexts: dict[str, object] = {}
        """Maps a run id to its context, with the same limit."""
        self._changes: dict[str, Changes] = {}
        """Maps the run id of a fork to its changes, with the same limit. Replacement functions exist only here."""
        self._unsubscribe = store.subscribe(self._changed)

    # -- turns

    async def stream(
        self,
        input: str | Sequence[Mapping[str, Json]],
        *,
        agent: AnyAgent,
        thread_id: str | None = None,
        model: str | None = None,
        model_settings: Mapping[str, Json] | None = None,
        max_turns: int = DEFAULT_MAX_TURNS,
        limits: RunLimits = NO_LIMITS,
        approve: Approve = "ask",
        attachments: Sequence[Mapping[str, Json]] = (),
        metadata: Mapping[str, Json] | None = None,
        context: object = None,
        hooks: sdk.RunHooks | None = None,
        keep_running: bool = False,
        fork: Fork | None = None,
        tape: Tape | None = None,
        on_miss: str = "fail",
        user_item: ThreadItem | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Runs one turn. `input` is a string or Responses input items, which can refer to files of the lab by `file_id`; for `attachments`
        see `run.read_turn`.

        `approve`: `ask` pauses before a tool that needs approval, `all` approves, `none` rejects. `context` and `hooks` are passed to the
        SDK unchanged. With a `tape`, tool calls are answered from recorded runs, and `on_miss` decides what happens with a call that was
        never recorded (`lab.run`). `fork` is for `runtime.forks.fork`. `said` is the user's item if the caller has already stored it in the
        thread.

        Raises before anything is written: `UsageError`, `SettingsError`, `UnknownPrefixError`, `MissingKeyError`,
        `NotFoundError` (thread, handoff target), `ConflictError` (the thread has an active run).
        """
        from timestep_lab.runtime.files.files import Files

        if not isinstance(input, str):
            input = await with_files(Files(self.store), messages_of(input))
        attachments = await with_content(Files(self.store), attachments)
        if fork is None:  # A fork keeps the limits of its run.
            limits = limits.over(RunLimits.of_agent(agent))
        turn = read_turn(input, attachments)
        turn = turn if user_item is None else replace(turn, thread_items=())
        run_rows.refuse_reserved({} if metadata is None else metadata)
        if self.store.quota:
            self.store.quota.check_runs(len(self._live))
        lacks = "tools='tape'" if tape is None else None
        check_on_miss(on_miss, may_ask=True, model_of=self.router.get_model, lacks=lacks)
        if tape is not None and isinstance(agent, sdk.Agent):
            check_tools({name: one.tools for name, one in from_sdk(agent).agents.items()})
        options = read_options(
            model=model, model_settings=model_settings, max_turns=max_turns, approve=approve, limits=limits,
            tape=None if tape is None else tape.spec(on_miss),
        )  # fmt: skip
        records = await self.graphs.records(agent, fork.versions if fork else None)
        self._check_prices(options, agent, records)
        model_name = fork.model if fork else self._checked_model(options, agent)
        thread, is_new = await self._thread(thread_id, turn, agent, options)
        run_metadata: dict[str, Json] = {} if options == RunOptions() else {run_rows.OPTIONS: options.to_json()}
        if fork:
            run_metadata[run_rows.FORK] = {
                "trace_id": fork.trace_id,
                "span_id": fork.span_id,
                "changes": fork.changes.to_json(),
            }
        if records:
            run_metadata[run_rows.AGENT_VERSIONS] = {record.id: record.version for record in records.values()}
        if context is not None:
            run_metadata[run_rows.CONTEXT] = type(context).__name__
        run = RunRecord(
            id=new_id("run"), user_id=self.store.user_id, thread_id=thread.id, trace_id=new_trace_id(),
            agent_id=agent.id if isinstance(agent, AgentRecord) else None, agent=agent.name, last_agent=agent.name,
            model=model_name, input=turn.text, process_id=self.store.db.process_id, metadata={**(metadata or {}), **run_metadata},
        )  # fmt: skip
        shown, tail = await run_rows.begin(self.store, run, thread, turn, is_new=is_new, user_item=user_item)
        self._announce(run, fork)
        if isinstance(agent, sdk.Agent):
            _keep(self._sdk_agents, run.id, agent)
        if context is not None:
            _keep(self._contexts, run.id, context)
        if fork:
            _keep(self._changes, run.id, fork.changes)

        async def blueprint() -> tuple[BuiltGraph, Snapshot]:
            if fork:
                return await fork.blueprint()
            if tape is None:
                return await self.graphs.build(agent, records, options, shared=hooks is None)
            graph, snapshot = await self.graphs.build(agent, records, options, tape.definitions)
            return await self._on_tape(graph, tape, options, ()), snapshot

        live = LiveRun(
            self._services, run, options, blueprint, route=self._route(run), context=context, hooks=hooks,
            session_entries=turn.session_items if is_new else None, tail=tail,
        )  # fmt: skip
        head: list[Event] = [RunStarted(run=run), *([ThreadCreated(thread=thread)] if is_new else [])]
        head += [ItemDone(item=item) for item in shown]
        self._start(live, head, [])
        try:
            while event := await live.next_event():
                yield event
        finally:
            await self._left(live, keep_running)

    async def resume(
        self,
        run_id: str,
        decisions: Mapping[str, Mapping[str, Json] | str | bool] | None,
        *,
        agent: sdk.Agent | None = None,
        context: object = None,
        hooks: sdk.RunHooks | None = None,
        keep_running: bool = False,
    ) -> AsyncGenerator[Event, None]:
        """Resumes a run that waits for approval, whichever process started it.

        `decisions` maps a call id to `{"decision": "approved" | "rejected", "message": str, "always": bool}`; calls without a decision keep
        waiting, and None approves all. `agent`: the same agent, created in this process, for a run of an SDK agent that another process
        started.

        Raises `NotFoundError`, `UsageError` (a decision on a call that is not pending), `ConflictError` (the run is no longer paused, or
        another process, named in the message, is resuming it), `RunError` (its agents or servers are not available; it stays paused).
        """
        store = self.store
        run = await in_thread(store.runs.get, run_id)
        state = await in_thread(approvals.paused, store, run)
        waiting = approvals.waiting_calls(state)
        decided = await in_thread(approvals.read_decisions, decisions, waiting)
        if state.agent_snapshot.get("kind") == approvals.ASKED:
            async for update in self._answered(run, state, decided, keep_running):
                yield update
            return
        run, state = await in_thread(approvals.claim, store, run, decided)
        try:
            live, given = await self._restore(run, state, agent or self._sdk_agents.get(run_id), context, hooks)
        except BaseException:
            await asyncio.shield(in_thread(approvals.give_back, store, run, state))
            raise

        async def first() -> None:
            for call in waiting:
                if call.call_id in decided and decided[call.call_id].always:
                    await in_thread(run_rows.remember_approval, store, run.thread_id, tool_key(call))
            await live.pauses.record(waiting, decided)

        head: list[Event] = [RunStarted(run=run, resumed=True)]
        self._start(live, head, given, first)
        try:
            while event := await live.next_event():
                yield event
        finally:
            await self._left(live, keep_running)

    async def _answered(
        self, run: RunRecord, state: RunStateRecord, decided: Mapping[str, approvals.Decision], keep_running: bool
    ) -> AsyncGenerator[Event, None]:
        """Passes a person's answer to a question of an MCP server to the process that waits for it during a tool call."""
        live = self._live.get(run.id)
        if live is not None:
            live.decide(decided)
            yield RunStarted(run=replace(live.run, status="running"), resumed=True)
            try:
                while event := await live.next_event():
                    yield event
            finally:
                await self._left(live, keep_running)
            return
        async for update in approvals.answered_elsewhere(self.store, run, state, decided):
            yield update

    async def client_tool_output(
        self,
        thread_id: str,
        call_id: str,
        output: Json,
        *,
        agent: sdk.Agent | None = None,
        keep_running: bool = False,
    ) -> AsyncGenerator[Event, None]:
        """Stores the output of a client tool, and continues the run when all client calls have one.

        Raises `NotFoundError` when the thread has no such call, `ConflictError` when it already has an output or the thread is
        busy.
        """
        store = self.store
        items = await in_thread(store.threads.all_items, thread_id)
        item = next((i for i in items if i.type == "client_tool_call" and i.data["call_id"] == call_id), None)
        if item is None or item.run_id is None:
            raise NotFoundError(
                f"Thread {thread_id} has no client tool call {call_id!r}.", "It may belong to another thread."
            )
        if item.data["status"] != "pending":
            raise ConflictError(
                f"The client tool call {call_id} already has an output.", "Its output is in the thread."
            )
        run = await in_thread(store.runs.get, item.run_id)
        worked = (run.ended_at - run.started_at).total_seconds() if run.ended_at else 0.0
        options = RunOptions.from_json(_own(run).get(run_rows.OPTIONS) or RunOptions().to_json())
        known = agent or self._sdk_agents.get(run.id)
        speaker: AnyAgent = known if known else await in_thread(self._stored_speaker, run)
        records = await self.graphs.records(speaker, _own(run).get(run_rows.AGENT_VERSIONS))
        run = await in_thread(run_rows.reopen, store, run)
        graph, snapshot = await self.graphs.build(speaker, records, options)
        mine = [i for i in items if i.run_id == run.id]
        graph = await self._again_on_tape(await self._as_forked(run, graph, ()), options, mine)

        async def blueprint() -> tuple[BuiltGraph, Snapshot]:
            return graph, snapshot

        answer = {"type": "function_call_output", "call_id": call_id, "output": output_text(output)}
        await in_thread(store.threads.append_session_items, thread_id, [answer], run_id=run.id)
        live = LiveRun(
            self._services,
            run,
            options,
            blueprint,
            route=self._route(run, resumes=True),
            seconds=worked,
        )
        live.adopt(mine)
        waits_for_more = live.pending_client_calls() != [call_id]

        async def first() -> None:
            await live.log.change(item.id, status="completed", output=output)

        head: list[Event] = [RunStarted(run=run, resumed=True)]
        given: SdkInput | None = None if waits_for_more else []
        self._start(live, head, given, first)
        try:
            while event := await live.next_event():
                yield event
        finally:
            await self._left(live, keep_running)

    def sdk_agent(self, run_id: str) -> sdk.Agent | None:
        """Returns the SDK agent with which this process started the run."""
        return self._sdk_agents.get(run_id)

    def context_of(self, run: RunRecord, given: object = None) -> object:
        """Returns the context of a run that is resumed or forked: `given`, or the one it has in this process.

        Raises `RunError` when it had a context that this process does not have.
        """
        context = given if given is not None else self._contexts.get(run.id)
        if context is None and run.metadata.get(run_rows.CONTEXT):
            raise RunError(
                f"Run {run.id} was given a context ({run.metadata[run_rows.CONTEXT]}), which exists only in the process that created it.",
                "Create it again here and pass it: context=…",
            )
        return context

    def changes_of(self, run: RunRecord) -> Changes | None:
        """Returns the changes of a fork; None for other runs. Raises `RunError` when they are not available in this process."""
        fork_data = _own(run).get(run_rows.FORK)
        return None if fork_data is None else self._changes.get(run.id) or Changes.from_json(fork_data["changes"])

    async def _as_forked(self, run: RunRecord, graph: BuiltGraph, replayed: Sequence[str]) -> BuiltGraph:
        """Returns the agents of a resumed fork, with all its replacements."""
        if run.metadata.get(run_rows.FORK) is None:
            return graph
        from timestep_lab.runtime.forks import rewire_again

        return await rewire_again(self, run, graph, replayed)

    async def _on_tape(
        self, graph: BuiltGraph, tape: Tape, options: RunOptions, done: Sequence[ThreadItem]
    ) -> BuiltGraph:
        """Returns the agents with tools answered from `tape`, after the calls in `done`."""
        assert options.tape is not None
        player = Player(tape, cast(str, options.tape["on_miss"]), model_of=self.router.get_model)
        taped = on_tape(graph, await offered_tools(graph, Changes(), tape.definitions), player)
        root = graph.root.name
        player.advance(
            (named(item.agent, root), cast(str, item.data["name"]), parsed(item.data["arguments"]))
            for item in done
            if item.type == "tool_call" and item.data["status"] in ("completed", "failed")
        )
        return taped

    async def _again_on_tape(self, graph: BuiltGraph, options: RunOptions, items: Sequence[ThreadItem]) -> BuiltGraph:
        """Returns the agents of a resumed run on its original tape. Those of a fork already are."""
        if options.tape is None or graph.replay is not None:
            return graph
        return await self._on_tape(graph, await in_thread(read_tape, self.store, options.tape), options, items)

    def fork(self, trace_id: str, span_id: str | None = None, **changes: Any) -> AsyncGenerator[Event, None]:
        """Runs the run of `trace_id` again, replaying it up to `span_id`; see `runtime.forks.fork` for the parameters."""
        from timestep_lab.runtime.forks import fork

        return fork(self, trace_id, span_id, **changes)

    # -- stopping

    async def cancel(self, run_id: str) -> None:
        """Cancels a run in any process; returns when it has stopped here, or was requested to stop elsewhere.

        Output so far is kept as incomplete. Cancelling a run that waits for approval withdraws it. Raises `NotFoundError`, and
        `ConflictError` for a run that has ended.
        """
        run = await in_thread(self.store.runs.get, run_id)
        if live := self._live.get(run_id):
            live.cancel()
            await live.ended()
        elif run.status == "running":
            await in_thread(run_rows.request_cancel, self.store, run)
        elif run.status == "needs_approval":
            for span in await in_thread(run_rows.withdraw, self.store, run):
                self.writer.span_ended(span)
            await self.writer.barrier().reached()
        else:
            raise ConflictError(f"Run {run_id} has already ended: it is {run.status}.", "There is nothing to cancel.")

    async def aclose(self) -> None:
        """Cancels the active runs of this process, and unsubscribes from the store."""
        self._unsubscribe()
        await self.stop_all()
        uninstall(self.writer)

    @property
    def is_busy(self) -> bool:
        """True when a run is active in this process."""
        return bool(self._live)

    async def stop_all(self) -> None:
        """Cancels every active run of this process and returns when all have stopped. Output so far is kept as incomplete."""
        running = list(self._live.values())
        for live in running:
            live.cancel()
        for live in running:
            await live.ended()

    def _changed(self, change: Change) -> None:
        """Handles a change in the store, on a thread of the store: another process may have requested that one of our runs stop."""
        if change.topic != "approvals":
            return
        for run_id in [change.id] if change.id else list(self._live):
            live = self._live.get(run_id)
            if live is None:
                continue
            run = self.store.runs.try_get(run_id)
            if run is None or run.metadata.get(run_rows.CANCEL):
                live.cancel()
            elif live.asked and (decisions := decisions_of(self.store.run_states.get(run_id))):
                live.apply_stored_decisions(
                    {call_id: approvals.Decision(**decision) for call_id, decision in decisions.items()}
                )

    # -- parts

    def _start(self, live: LiveRun, head: list[Event], given: SdkInput | None, first: First | None = None) -> None:
        """Starts the run in its own task."""
        for event in head:
            live.emit(event)
        self._live[live.run.id] = live
        live.start(given, first).add_done_callback(lambda _: self._live.pop(live.run.id, None))

    async def _left(self, live: LiveRun, keep_running: bool) -> None:
        """Called when the reader is gone, at the run's end or before."""
        if not keep_running and not live.asked:
            live.cancel()
            await asyncio.shield(live.ended())

    async def _restore(
        self,
        run: RunRecord,
        state: RunStateRecord,
        agent: sdk.Agent | None,
        context: object,
        hooks: sdk.RunHooks | None,
    ) -> tuple[LiveRun, SdkInput]:
        snapshot: Mapping[str, Any] = state.agent_snapshot
        graph, own_toolbox = await self.graphs.rebuild(state, agent)
        graph = await self._as_forked(run, graph, snapshot.get(REPLAYED) or ())
        context = context if context is not None else self._contexts.get(run.id)
        items = [i for i in await in_thread(self.store.threads.all_items, run.thread_id) if i.run_id == run.id]
        options = RunOptions.from_json(snapshot["run"])
        graph = await self._again_on_tape(graph, options, items)
        given: SdkInput
        if was_answered(state, await in_thread(self.store.threads.session_items, run.thread_id)):
            await in_thread(complete_session, self.store, run)
            graph, given = replace(graph, root=last_agent(graph, run)), []
        else:
            given = await restore_state(graph, state, items, context)

        async def blueprint() -> tuple[BuiltGraph, Snapshot]:
            return graph, lambda: snapshot

        route = self._route(run, resumes=True)
        route.turns = asked_under(snapshot)
        route.closed_calls = await in_thread(self._settle_rows, run, state, items)
        live = LiveRun(
            self._services, run, options, blueprint, route=route, claim=state, context=context, hooks=hooks,
            own_toolbox=own_toolbox, seconds=float(snapshot.get(SECONDS) or 0.0),
        )  # fmt: skip
        live.adopt(items)
        live.pauses.approve_calls([c for c, d in decisions_of(state).items() if d["decision"] == "approved"])
        return live, given

    def _checked_model(self, options: RunOptions, agent: AnyAgent) -> str:
        """Returns the name of the model that answers first. Raises what the router raises, before anything is written."""
        model = options.model or agent.model
        if isinstance(model, sdk.Model):
            return str(getattr(model, "full", None) or getattr(model, "model", None) or type(model).__name__)
        return self.router.get_model(model).full

    async def check_prices(self, options: RunOptions, agent: AnyAgent) -> None:
        """Raises `UsageError` for a cost budget when the price of a model is unknown."""
        self._check_prices(options, agent, await self.graphs.records(agent))

    def _check_prices(self, options: RunOptions, agent: AnyAgent, records: Mapping[str, AgentRecord]) -> None:
        """Raises `UsageError` for a cost budget when the price of a model is unknown."""
        if options.limits.budget_usd is None:
            return
        agents: Iterable[AnyAgent] = (
            from_sdk(agent).agents.values() if isinstance(agent, sdk.Agent) else records.values()
        )
        unknown = []
        for model in [options.model] if options.model else [one.model for one in agents]:
            ref = None if isinstance(model, sdk.Model) else self.router.resolve(model)
            if ref is None or not has_price(ref.prefix, ref.model):
                unknown.append(type(model).__name__ if ref is None else ref.full)
        if unknown:
            raise UsageError(
                f"The price of {', '.join(dict.fromkeys(unknown))} is not known, so budget_usd cannot be enforced.",
                "Set max_tokens_total instead.",
                param="budget_usd",
            )

    async def _thread(
        self, thread_id: str | None, turn: UserTurn, agent: AnyAgent, options: RunOptions
    ) -> tuple[ThreadRecord, bool]:
        if thread_id is not None:
            return await in_thread(self.store.threads.get, thread_id), False
        metadata = {"agent_id": agent.id} if isinstance(agent, AgentRecord) else {}
        if options.model:
            metadata["model"] = options.model
        thread = ThreadRecord(id=new_id("thread"), user_id=self.store.user_id, title=turn.title, metadata=metadata)
        return thread, True

    def _stored_speaker(self, run: RunRecord) -> AgentRecord:
        """Returns the stored agent that was active last in `run`."""
        versions = _own(run).get(run_rows.AGENT_VERSIONS) or {}
        for id, version in versions.items():
            known = self.store.agent(id, version)
            if known is not None and known.name == (run.last_agent or run.agent):
                return known
        agents = self.store.agents.find(1, name=run.last_agent or run.agent)
        return agents[0] if agents else self.store.agents.get(run.agent_id or run.agent)

    def _settle_rows(self, run: RunRecord, state: RunStateRecord, items: list[ThreadItem]) -> set[str]:
        """Returns the pending calls without an open row in the trace, and writes rows that a dead process finished but did not write."""
        self.writer.flush()
        try:
            spans = self.store.traces.spans(run.trace_id)
        except NotFoundError:  # The process died before its spans were written: the trace starts here.
            self._announce(run, None)
            spans = []
        open_rows = {span.span_id for span in spans if span.ended_at is None}
        closed = set()
        for call in approvals.waiting_calls(state):
            if call_span_id(run.trace_id, call.call_id) not in open_rows:
                closed.add(call.call_id)
            elif item := finished_call(items, call.call_id):
                turns = asked_under(state.agent_snapshot)
                self.writer.span_ended(finished_span(run, call, item, turns.get(call.agent) or turns.get("")))
        return closed

    def _route(self, run: RunRecord, *, resumes: bool = False) -> TraceContext:
        return TraceContext(
            self.writer, run.user_id, run.trace_id, thread_id=run.thread_id, run_id=run.id, resumes=resumes
        )

    def _announce(self, run: RunRecord, fork: Fork | None) -> None:
        metadata = {name: value for name, value in run.metadata.items() if name not in run_rows.RESERVED}
        version = (_own(run).get(run_rows.AGENT_VERSIONS) or {}).get(run.agent_id)
        if version is not None:
            metadata["agent_version"] = version
        self.writer.trace_started(
            TraceStart(
                trace_id=run.trace_id, user_id=run.user_id, workflow=run.agent, thread_id=run.thread_id,
                started_at=run.started_at, metadata={**metadata, "run_id": run.id},
                parent_trace_id=fork.trace_id if fork else None, fork_span_id=fork.span_id if fork else None,
            )
        )  # fmt: skip
