"""An active run: reads the SDK's stream in a task of its own, stores every step and emits events.

The task does not depend on a reader: everything is stored whether or not the events are read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import agents as sdk
from agents import RunConfig, RunContextWrapper, RunState, TResponseInputItem
from agents.items import ToolApprovalItem

from timestep_lab.model.clock import utc_now
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import BudgetError, ConflictError, LabError, StoreError, UsageError, drop_tracebacks
from timestep_lab.model.events import (
    AgentUpdated,
    Event,
    ItemUpdated,
    Progress,
    RunCancelled,
    RunCompleted,
    RunEnded,
    RunFailed,
    RunPaused,
    RunStopped,
)
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import Interruption, RunRecord, RunStateRecord, ThreadItem, Usage
from timestep_lab.runtime import approvals
from timestep_lab.runtime.agent_graph import ASKED_UNDER, REPLAYED, SECONDS, BuiltGraph
from timestep_lab.runtime.approval_gate import ApprovalGate
from timestep_lab.runtime.approvals import Decision
from timestep_lab.runtime.mcp.questions import ASKER, Question, Reply
from timestep_lab.runtime.pricing import LimitWatch, cost_so_far, counted
from timestep_lab.runtime.run import RunOptions, Snapshot
from timestep_lab.runtime.run_hooks import RecordingHooks, untie, watch_from_here
from timestep_lab.runtime.session import STOPPED_BY, StoreSession, complete_session
from timestep_lab.runtime.span_records import sdk_trace_id
from timestep_lab.runtime.stream_items import ItemLog, StreamItems, as_lab_error, error_json, output_text
from timestep_lab.runtime.tracing import StoreProcessor, TraceContext, note_error_class
from timestep_lab.store.base import in_thread
from timestep_lab.store.store import ThreadTail

if TYPE_CHECKING:
    from timestep_lab.runtime.mcp.sdk_tools import ToolSet
    from timestep_lab.runtime.mcp.toolbox import Toolbox
    from timestep_lab.runtime.router import Router
    from timestep_lab.store.store import Store

logger = logging.getLogger("timestep_lab")
LEFT_OPEN = "The run ended before this step did."

SdkInput = list[TResponseInputItem] | RunState
Blueprint = Callable[[], Awaitable[tuple[BuiltGraph, Snapshot]]]
First = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RunServices:
    """Services shared by all runs of a runner."""

    store: Store
    router: Router
    processor: StoreProcessor


class Unread:
    """Queue of events for the reader. Consecutive deltas of one text are merged, so that a slow reader catches up."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque()
        self._some = asyncio.Event()
        self._is_over = False

    def put(self, event: Event) -> None:
        last = self._waiting[-1] if self._waiting else None
        if (
            isinstance(event, ItemUpdated)
            and isinstance(last, ItemUpdated)
            and (last.item_id, last.field) == (event.item_id, event.field)
        ):
            self._waiting[-1] = ItemUpdated(item_id=last.item_id, field=last.field, delta=last.delta + event.delta)
        else:
            self._waiting.append(event)
        self._some.set()

    def end(self) -> None:
        self._is_over = True
        self._some.set()

    async def get(self) -> Event | None:
        """Returns the next event, or None at the end."""
        while not self._waiting:
            if self._is_over:
                return None
            self._some.clear()
            await self._some.wait()
        return self._waiting.popleft()


class LiveRun:
    """An active run. `blueprint` builds the agents and their snapshot for a pause; `claim` is set when the run was paused before."""

    def __init__(
        self,
        services: RunServices,
        run: RunRecord,
        options: RunOptions,
        blueprint: Blueprint,
        *,
        route: TraceContext,
        claim: RunStateRecord | None = None,
        context: object = None,
        hooks: sdk.RunHooks | None = None,
        own_toolbox: Toolbox | None = None,
        seconds: float = 0.0,
        session_entries: Sequence[Mapping[str, Json]] | None = None,
        tail: ThreadTail | None = None,
    ) -> None:
        """`seconds`: working time of earlier parts. `said`: the content of the session log, if known. `tail`: what began the turn."""
        self.run, self._services, self._options, self._blueprint = run, services, options, blueprint
        self._route, self._claim, self._context, self._own_toolbox = route, claim, context, own_toolbox
        self._graph: BuiltGraph
        self._snapshot: Snapshot
        self._store = services.store
        self._sdk_trace = sdk_trace_id(run.trace_id)
        self._events = Unread()
        self._tail = tail or ThreadTail(self._store.threads, run.thread_id, run.id)
        self.log = ItemLog(self._store, run, self.emit, self._tail)
        self._items = StreamItems(self.log, self._is_client_tool, self._server_of, self._text_came)
        self.pauses = ApprovalGate(self._store, self._items, route, run, self._tool_set)
        self._items.on_permitted = lambda item: self.pauses.made_by_the_provider(item)
        self._watch = LimitWatch(options.limits, route, run, seconds)
        self._stopped: BudgetError | None = None
        self._hooks = RecordingHooks(self._items, services.processor, self.pauses.approval_of, self._watch, hooks)
        self._session = StoreSession(self._store, run.thread_id, run.id, session_entries, self._tail)
        self._speakers: list[str] = []
        self._began, self._ttft_ms = time.perf_counter(), run.ttft_ms
        self._usage_before = Usage()
        self._wrapper: RunContextWrapper | None = None
        self._task: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[RunEnded] | None = None
        self._cancelling = False
        self._over = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self._asked: dict[str, tuple[Interruption, asyncio.Future[Decision]]] = {}
        """Questions that MCP servers ask during a tool call, by id."""
        self._telling = asyncio.Lock()

    # -- used by the runner and the reader

    def start(self, given: SdkInput | None, first: First | None = None) -> asyncio.Task[None]:
        """Starts the task. `given` is the input of the SDK, None when the model has nothing to do yet. `first` runs before the SDK
        starts."""
        if not isinstance(given, RunState):
            self._usage_before = self.run.usage  # A `RunState` includes its own usage.
        self._task = asyncio.create_task(self._execute(given, first), name=f"timestep-lab {self.run.id}")
        return self._task

    def adopt(self, items: list[ThreadItem]) -> None:
        self._items.adopt(items)
        self._watch.tool_calls = sum(i.type == "tool_call" and i.data["duration_ms"] is not None for i in items)

    def pending_client_calls(self) -> list[str]:
        return [str(i.data["call_id"]) for i in self.log.mine("client_tool_call") if i.data["status"] == "pending"]

    def emit(self, event: Event) -> None:
        self._events.put(event)

    async def next_event(self) -> Event | None:
        """Returns the next event, or None at the end."""
        return await self._events.get()

    # -- questions of MCP servers during a tool call: the run stays in its task, and is shown as paused

    @property
    def asked(self) -> tuple[Interruption, ...]:
        """Pending questions during a tool call."""
        return tuple(question for question, _ in self._asked.values())

    def decide(self, decided: Mapping[str, Decision]) -> None:
        """Applies a person's decisions. Readers receive the events from here on."""
        self._events = Unread()
        for call_id, decision in decided.items():
            _, answered = self._asked.pop(call_id, (None, None))
            if answered is not None and not answered.done():
                answered.set_result(decision)
        if self._asked:
            self._pause_reader()

    def apply_stored_decisions(self, decided: Mapping[str, Decision]) -> None:
        """Same for decisions written by another process. Thread-safe."""

        async def take() -> None:
            async with self._telling:
                self._claim = await in_thread(self._store.run_states.get, self.run.id)
            self.decide({call_id: decision for call_id, decision in decided.items() if call_id in self._asked})

        asyncio.run_coroutine_threadsafe(take(), self.loop)

    async def _ask(self, question: Question) -> Reply:
        decision = Decision("rejected") if self._over.is_set() else await self._decision(question)
        if question.kind == "sampling" and decision.decision == "approved":
            return await self._sampled(question)
        return Reply(decision.decision, content=decision.answer)

    async def _decision(self, question: Question) -> Decision:
        if self._options.approve != "ask":
            return self._decided_without_asking(question)
        about: dict[str, Json] = {"url": question.url} if question.url else {}
        if question.kind == "sampling":
            model = self._model_to_ask()
            about = {
                "model": model if isinstance(model, str) else str(getattr(model, "full", type(model).__name__)),
                "instructions": question.instructions, "messages": question.messages, "max_tokens": question.max_tokens,
            }  # fmt: skip
        call = Interruption(
            call_id=new_id("call"), name=question.tool, server=question.server, arguments=json.dumps(about, ensure_ascii=False),
            agent=self._speakers[-1] if self._speakers else self.run.agent, reason=question.message, asks=question.kind, form=question.schema,
        )  # fmt: skip
        answered: asyncio.Future[Decision] = self.loop.create_future()
        self._asked[call.call_id] = (call, answered)
        began = time.perf_counter()
        try:
            item = await self.log.add_done("approval", self.pauses.approval_data(call, None, ""))
            await self._emit_questions()
            decision = await answered
            await self.log.change(item.id, decision=decision.decision, message=decision.message)
            await self._emit_questions()
            return decision
        finally:
            self._asked.pop(call.call_id, None)
            self._watch.waited(time.perf_counter() - began)

    def _decided_without_asking(self, question: Question) -> Decision:
        """Decides without asking anyone: with `approve="all"` a form is filled with its defaults, or rejected when it lacks some."""
        if self._options.approve == "none":
            return Decision("rejected")
        if question.schema is None:
            return Decision("approved")
        try:
            return Decision("approved", answer=approvals.filled_in(question.schema, {}))
        except UsageError:
            return Decision("rejected")

    async def _emit_questions(self) -> None:
        """Stores the pending questions, so that every process can see them."""
        async with self._telling:
            self.run, self._claim = await in_thread(
                approvals.keep_questions, self._store, self.run, self.asked, self._claim
            )
            if self._renewing is None:
                self._renewing = asyncio.create_task(self._renew())
        if self._asked:
            self._pause_reader()

    def _pause_reader(self) -> None:
        self.emit(RunPaused(run=self.run, interruptions=self.asked))
        self._events.end()

    def _model_to_ask(self) -> str | sdk.Model | None:
        """Returns the model of the active agent."""
        speaker = self._graph.agents.get(self._speakers[-1]) if self._speakers else self._graph.root
        return self._options.model or (speaker or self._graph.root).model

    async def _sampled(self, question: Question) -> Reply:
        """Asks the active agent's model on behalf of a server that was permitted to."""
        chosen = self._model_to_ask()
        model = chosen if isinstance(chosen, sdk.Model) else self._services.router.get_model(chosen)
        answer = await model.get_response(
            system_instructions=question.instructions, input=[dict(message) for message in question.messages],  # type: ignore[misc]
            model_settings=sdk.ModelSettings(max_tokens=question.max_tokens), tools=[], output_schema=None, handoffs=[],
            tracing=sdk.ModelTracing.ENABLED, previous_response_id=None, conversation_id=None, prompt=None,
        )  # fmt: skip
        text = "".join(sdk.ItemHelpers.extract_text(item) or "" for item in answer.output)
        cut = any(getattr(item, "status", None) == "incomplete" for item in answer.output)
        return Reply("approved", text=text, model=str(getattr(model, "full", type(model).__name__)), is_cut=cut)

    def cancel(self) -> None:
        """Cancels the run unless it is already ending. Idempotent and thread-safe."""
        with contextlib.suppress(RuntimeError):  # The event loop is closed, and the run has ended with it.
            self.loop.call_soon_threadsafe(self._cancel_here)

    def _cancel_here(self) -> None:
        if self._task and not self._cancelling and self._ending is None:
            self._cancelling = self._task.cancel()

    async def ended(self) -> None:
        """Returns when everything is stored."""
        if self.loop is asyncio.get_running_loop():
            await self._over.wait()
        elif self.loop.is_running():
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.ended(), self.loop))

    # -- the task

    async def _execute(self, given: SdkInput | None, first: First | None) -> None:
        self._services.processor.bind(self._sdk_trace, self._route)
        self._renewing = asyncio.create_task(self._renew()) if self._claim else None
        watch_from_here(self._watch)
        ASKER.set(self._ask)
        left = self._watch.seconds_left
        self._alarm = None if left is None else self.loop.call_later(left, self._time_is_up)
        try:
            last = await self._to_the_end(given, first)
        finally:
            if self._alarm:
                self._alarm.cancel()
            if self._renewing:
                self._renewing.cancel()
            if self._own_toolbox:
                await self._own_toolbox.aclose()
            self._services.processor.release(self._sdk_trace, LEFT_OPEN)
            self._events.end()
            self._over.set()
            # These refer to the run, and would keep it, with its payloads, until the next full garbage collection.
            self._task = self._renewing = self._ending = None
            del self.log, self._items, self.pauses, self._hooks, self._session
        logger.debug("run %s: %s", self.run.id, last.type)

    def _time_is_up(self) -> None:
        left = self._watch.seconds_left
        if self._asked or (left is not None and left > 0.01):  # Time spent waiting for people does not count.
            self._alarm = self.loop.call_later(left or 1.0, self._time_is_up)
        elif self._task and not self._cancelling and self._ending is None:
            self._stopped = self._watch.time_is_up()
            self._cancelling = self._task.cancel()

    async def _to_the_end(self, given: SdkInput | None, first: First | None) -> RunEnded:
        try:
            self._graph, self._snapshot = await self._blueprint()
            self._route.stored = self._graph.stored
            if self._graph.replay:
                self.pauses.recorded = self._graph.replay.decisions
            if first:
                await first()
            last = await (self._drive(given) if given is not None else self._end(self._complete(None)))
        except asyncio.CancelledError:
            stopped = self._stopped
            status, message = ("stopped", str(stopped)) if stopped else ("cancelled", "Cancelled.")
            last = await self._end_anyhow(status, message, stopped)
        except Exception as error:
            known = as_lab_error(error, speakers=self._speakers, max_turns=self._options.max_turns)
            if known.code == "unexpected":
                logger.error("run %s failed", self.run.id, exc_info=error)
            drop_tracebacks(error)
            last = await self._end_anyhow("stopped" if isinstance(known, BudgetError) else "failed", str(known), known)
        self.emit(last)
        return last

    async def _end_anyhow(self, status: str, message: str, error: LabError | None) -> RunEnded:
        """Ends the run, and reports an end even when the store fails (for example because the thread was deleted)."""
        self._ending = None
        try:
            return await self._end(self._end_early(status, message, error))
        except Exception as again:  # noqa: BLE001 - logged, and told to the reader
            known = as_lab_error(again, speakers=(), max_turns=None)
            logger.error("run %s: its final state could not be stored: %s", self.run.id, known)
            self.run = replace(self.run, status="failed", error_type=type(known).__name__, error=str(known))
            return RunFailed(run=self.run, error=error_json(known))

    async def _drive(self, given: SdkInput) -> RunEnded:
        for notice in self._graph.notices:
            logger.warning("run %s: %s", self.run.id, notice)
            self.emit(Progress(text=str(notice)))
        while True:
            result = sdk.Runner.run_streamed(
                self._graph.root,
                given,
                context=self._context,
                max_turns=self._options.max_turns,
                hooks=self._hooks,
                run_config=self._config(),
                session=self._session,
            )
            self._wrapper = result.context_wrapper
            answers_before = len(result.raw_responses)
            self._items.answers = 0
            try:
                async for event in result.stream_events():
                    if isinstance(event, sdk.AgentUpdatedStreamEvent):
                        await self._speaks(event.new_agent)
                    await self._items.take(event)
                    self._session.unanswered.update(self.pending_client_calls())
            except asyncio.CancelledError:
                result.cancel()
                if result.run_loop_task:
                    await asyncio.wait([result.run_loop_task])
                raise
            except Exception as error:
                # The SDK discards events that were still queued; its list of responses is complete.
                await self._items.catch_up(result.raw_responses[answers_before:], error)
                raise
            finally:
                untie(result)
            if not result.interruptions:
                return await self._end(self._complete(result))
            state = result.to_state()
            undecided = await self.pauses.decide(state, self._options.approve)
            if undecided:
                return await self._end(self._pause(state, undecided))
            given = state
            self._route.resumes = True

    def _config(self) -> RunConfig:
        return RunConfig(
            model=self._model_for_all(),
            model_provider=self._services.router,
            model_settings=dict(self._options.model_settings) if self._options.model_settings else None,
            workflow_name=self.run.agent,
            trace_id=self._sdk_trace,
            group_id=self.run.thread_id,
            trace_metadata={"run_id": self.run.id},
            tool_error_formatter=note_error_class,
            tool_not_found_behavior="return_error_to_model",
            tool_name_collision_policy="error",
        )

    def _model_for_all(self) -> str | None:
        """Returns the model that overrides every agent's. An agent without a model would get the settings of OpenAI's default model, which
        other providers reject; naming the lab's default model makes the SDK drop them."""
        if self._graph.own_models:
            return None
        if self._options.model is None and all(agent.model is None for agent in self._graph.agents.values()):
            return self._services.router.resolve(None).full
        return self._options.model

    # -- events during the run

    async def _speaks(self, agent: sdk.Agent) -> None:
        previous = self._speakers[-1] if self._speakers else None
        self._speakers.append(agent.name)
        if agent.name == previous:
            return
        if agent.name != self.run.last_agent:
            self.run = await in_thread(self._store.runs.update, self.run.id, last_agent=agent.name)
        self.emit(AgentUpdated(agent=agent.name, model=self._model_of(agent), previous=previous))

    def _model_of(self, agent: sdk.Agent) -> str:
        chosen = agent.model if self._graph.own_models else self._options.model or agent.model
        if isinstance(chosen, sdk.Model):
            return str(getattr(chosen, "full", None) or getattr(chosen, "model", None) or type(chosen).__name__)
        return self._services.router.resolve(chosen).full

    def _text_came(self) -> None:
        if self._ttft_ms is None:
            self._ttft_ms = (time.perf_counter() - self._began) * 1000.0

    def _is_client_tool(self, tool: str) -> bool:
        return tool in self._graph.client_tools

    def _server_of(self, tool: str) -> str | None:
        speaker = self._items.speaker
        tool_set = self._tool_set(speaker.name) if speaker else None
        return tool_set.server_of(tool) if tool_set else None

    def _tool_set(self, agent: str) -> ToolSet | None:
        return self._graph.tool_sets.get(agent)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(approvals.RENEW_EVERY_S)
            assert self._claim is not None
            if self._asked or self._telling.locked():
                continue  # There is no claim while a question is pending.
            try:
                await in_thread(approvals.renew, self._store, self._claim)
            except ConflictError:
                logger.error("run %s lost its claim and stops", self.run.id)
                self.cancel()
                return

    # -- end of the run

    async def _pause(self, state: RunState, undecided: list[ToolApprovalItem]) -> RunPaused:
        waiting = await self.pauses.ask(undecided)
        await self.log.close()
        text = state.to_string(context_serializer=lambda _: {})
        replay = self._graph.replay
        snapshot = {
            **self._snapshot(),
            SECONDS: self._watch.seconds,
            ASKED_UNDER: dict(self._route.turns),
            **({REPLAYED: list(replay.replayed)} if replay else {}),
        }
        paused_state = approvals.paused_state(self.run, text, snapshot, waiting, self._claim)
        await self._store_end(self._ended_run(status="needs_approval", ended_at=None), paused_state)
        return RunPaused(run=self.run, interruptions=waiting)

    async def _end(self, work: Coroutine[object, None, RunEnded]) -> RunEnded:
        """Ends the run exactly once; an end that has started cannot be cancelled."""
        if self._ending is None:
            self._ending = asyncio.create_task(work)
        else:
            work.close()
        while not self._ending.done():
            try:
                await asyncio.wait([self._ending])
            except asyncio.CancelledError:
                continue
        return self._ending.result()

    async def _complete(self, result: sdk.RunResultStreaming | None) -> RunCompleted | RunStopped:
        """Completes the run. The output of a turn that ended with a client tool call is the text before it, if any."""
        await self.log.close()
        final = None if result is None or self.pending_client_calls() else result.final_output
        output = self._output_so_far() if final is None else output_text(final)
        if passed := self._watch.passed(at_all=True):
            return await self._stop(passed, output)
        await self._store_end(self._ended_run(status="completed", output=output), None)
        return RunCompleted(run=self.run)

    async def _stop(self, error: BudgetError, output: str | None) -> RunStopped:
        plain, metadata = error_json(error), {**self.run.metadata, STOPPED_BY: error.code}
        await self.log.add_done("error", {"type": plain["type"], "message": str(error)})
        ended = self._ended_run(
            status="stopped", output=output, error_type=plain["type"], error=str(error), metadata=metadata
        )
        await self._store_end(ended, None)
        return RunStopped(run=self.run, limit=error.code, error=plain)  # type: ignore[arg-type]

    async def _end_early(
        self, status: str, message: str, error: LabError | None
    ) -> RunCancelled | RunFailed | RunStopped:
        """Ends the run early, and keeps its output: incomplete in the thread, and in the session so that the model sees it."""
        await self.log.close()
        await self._session.write()
        await in_thread(complete_session, self._store, self.run)
        self._services.processor.release(self._sdk_trace, message)
        if error is None:
            await self._store_end(self._ended_run(status=status, output=self._output_so_far()), None)
            return RunCancelled(run=self.run)
        if isinstance(error, BudgetError):
            return await self._stop(error, self._output_so_far())
        plain = error_json(error)
        await self.log.add_done("error", {"type": plain["type"], "message": message})
        run = self._ended_run(status=status, output=self._output_so_far(), error_type=plain["type"], error=message)
        await self._store_end(run, None)
        return RunFailed(run=self.run, error=plain)

    def _ended_run(self, **outcome: object) -> dict[str, object]:
        usage = self._usage_before + counted(self._wrapper) if self._wrapper else self.run.usage
        return {
            "last_agent": self._speakers[-1] if self._speakers else self.run.last_agent,
            "usage": usage, "cost_usd": cost_so_far(self.run, usage, self._route.costs), "ttft_ms": self._ttft_ms, "ended_at": utc_now(), **outcome,
        }  # fmt: skip

    async def _store_end(self, columns: dict[str, Any], kept: RunStateRecord | None) -> None:
        """Updates the run's row and its paused state in one transaction. Returns after these and all spans are durable, so that everything
        the run did can be read when its end is reported."""
        store, run = self._store, self.run
        self._services.processor.release(self._sdk_trace, LEFT_OPEN)
        spans = self._route.writer.barrier()
        statements = [store.runs.update_statement(run.id, answers=False, **columns)]
        if kept is not None and self._claim is None:
            statements.append(store.run_states.insert_statement(kept))
        elif self._claim is not None:
            row = (
                {"status": "done", "lease_until": None}
                if kept is None
                else {
                    "status": "pending", "state": kept.state, "agent_snapshot": kept.agent_snapshot,
                    "interruptions": kept.interruptions, "decisions": {}, "claimed_by": None, "lease_until": None,
                }
            )  # fmt: skip
            statements.append(
                store.run_states.update_statement(
                    run.id, expect={"rev": self._claim.rev}, rev=self._claim.rev + 1, updated_at=utc_now(), **row
                )
            )
        try:
            changes = store.runs.changes(run.id) if kept is self._claim is None else approvals.changes(store, run)
            await self._tail.append(session_entries=self._session.unwritten(), then=statements, changes=changes)
            self.run = replace(run, **columns)
        except ConflictError:
            logger.error(
                "run %s was taken over by another process while it was resumed here; its result here is discarded",
                run.id,
            )
            self.run = await in_thread(store.runs.get, run.id)
        try:
            await spans.reached()
        except StoreError as error:
            logger.error("run %s ended, but its trace is not readable yet: %s", run.id, error)
            self.emit(Progress(text=f"The trace of this run is not readable yet. {error}"))

    def _output_so_far(self) -> str | None:
        texts = [i.data["text"] for i in self.log.mine("assistant_message") if i.data["text"]]
        return str(texts[-1]) if texts else None
