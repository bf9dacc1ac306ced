"""Approval of a run's tool calls: decides calls that need no person, asks about the others, and records decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, TypedDict, cast

from agents import RunState
from agents.items import ToolApprovalItem

from timestep_lab.model.clock import iso, utc_now
from timestep_lab.model.codec import Json
from timestep_lab.model.records import Interruption, RunRecord, ThreadItem, ThreadRecord
from timestep_lab.model.spans import GenAI, Lab, SpanRecord
from timestep_lab.runtime.approvals import REJECTED, Decision
from timestep_lab.runtime.run import Approve
from timestep_lab.runtime.span_records import call_span_id, parsed
from timestep_lab.runtime.stream_items import StreamItems
from timestep_lab.runtime.tracing import TraceContext
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.runtime.mcp.sdk_tools import ToolSet
    from timestep_lab.store.store import Store

REFUSED_ALL = "Tools that need approval are rejected in this run."


class CallData(TypedDict):
    """`ThreadItem.data` of a tool call."""

    call_id: str
    name: str
    server: str | None
    arguments: str
    output: Json
    status: str
    duration_ms: float | None
    error: str | None


def call_data(item: ThreadItem) -> CallData:
    """Returns the data of a `tool_call` item."""
    return cast("CallData", item.data)


def approved_tools(thread: ThreadRecord) -> Sequence[str]:
    """Returns the keys (see `tool_key`) of the tools that are always approved in a thread."""
    return cast("Sequence[str]", thread.metadata.get("approved_tools", ()))


class ApprovalGate:
    """Handles the tool calls of a run that need approval. `tools_of` returns the tools of an agent by its name."""

    def __init__(
        self,
        store: Store,
        items: StreamItems,
        route: TraceContext,
        run: RunRecord,
        tools_of: Callable[[str], ToolSet | None],
    ) -> None:
        self._store, self._items, self._route, self._run = store, items, route, run
        self._log = items.log
        self._tools_of = tools_of
        self._approved: set[str] = set()
        self.recorded: Mapping[str, tuple[str, str]] = {}
        """For a fork: maps a call id to the decision in the replayed run and the message sent to the model on rejection."""

    def approve_calls(self, call_ids: Iterable[str]) -> None:
        """Adds calls that were approved before this process claimed the run."""
        self._approved.update(call_ids)

    def approval_of(self, call_id: str) -> str:
        return "approved" if call_id in self._approved else "not_needed"

    async def decide(self, state: RunState, approve: Approve) -> list[ToolApprovalItem]:
        """Decides calls that need no person, and returns the others."""
        thread = await in_thread(self._store.threads.get, self._run.thread_id)
        always = set(approved_tools(thread))
        undecided = []
        for item in state.get_interruptions():
            call = self._interruption(item)
            if call.call_id in self.recorded:
                word, message = self.recorded[call.call_id]
                if word == "approved":
                    await self._record(call, Decision("approved"))
                    state.approve(item)
                else:
                    await self._record(call, Decision("rejected", message))
                    state.reject(item, rejection_message=message)
            elif approve == "all" or tool_key(call) in always:
                await self._record(call, Decision("approved"))
                state.approve(item)
            elif approve == "none":
                await self._record(call, Decision("rejected", REFUSED_ALL))
                state.reject(item, rejection_message=REFUSED_ALL)
            else:
                undecided.append(item)
        return undecided

    async def ask(self, undecided: Sequence[ToolApprovalItem]) -> tuple[Interruption, ...]:
        """Marks each call as waiting for approval, in the thread and in the trace."""
        waiting = tuple(self._interruption(item) for item in undecided)
        for call in waiting:
            item = await self._call_item(call)
            if item.data["status"] != "needs_approval":
                await self._log.change(item.id, status="needs_approval", server=call.server)
            if self._asked(call) is None:
                await self._log.add_done("approval", self.approval_data(call, None, ""))
            self._route.writer.span_started(call_span(self._run, call, "pending", self._route.turn_of(call.agent)))
        return waiting

    async def record(self, waiting: Sequence[Interruption], decisions: Mapping[str, Decision]) -> None:
        """Records people's decisions."""
        for call in waiting:
            if call.call_id in decisions:
                await self._record(call, decisions[call.call_id])

    async def _record(self, call: Interruption, decision: Decision) -> None:
        item = await self._call_item(call)
        asked = self._asked(call)
        if asked:
            answer = {"decision": decision.decision, "message": decision.message, "decided_at": iso(utc_now())}
            await self._log.change(asked, **answer)
        else:
            await self._log.add_done("approval", self.approval_data(call, decision.decision, decision.message))
        if item.data["status"] in ("completed", "failed"):
            return  # It finished before a crash; a new decision does not execute it again.
        if decision.decision == "approved":
            self._approved.add(call.call_id)
            await self._log.change(item.id, status="in_progress", server=call.server)
            return
        message = decision.message or REJECTED
        await self._log.change(item.id, status="rejected", output=message, server=call.server)
        span = rejected_span(self._run, call, self._route.turn_of(call.agent))
        span = replace(span, span_id=self._route.row_of(call.call_id), output=message)
        self._route.writer.span_ended(span)

    async def _call_item(self, call: Interruption) -> ThreadItem:
        return await self._items.call_item(call.call_id, call.name, call.arguments, longest_wait_s=0)

    def _asked(self, call: Interruption) -> str | None:
        """Returns the id of the approval item of a call."""
        return next((i.id for i in self._log.mine("approval") if i.data["call_id"] == call.call_id), None)

    def made_by_the_provider(self, item: ThreadItem) -> None:
        """Ends the span of an approved call of a hosted MCP server, which the provider has made."""
        data, agent = call_data(item), item.agent or self._run.agent
        call = Interruption(
            call_id=data["call_id"], name=data["name"], server=data["server"], arguments=data["arguments"], agent=agent,
        )  # fmt: skip
        span = finished_span(self._run, call, item, self._route.turn_of(agent))
        self._route.writer.span_ended(replace(span, span_id=self._route.row_of(call.call_id)))

    def _interruption(self, item: ToolApprovalItem) -> Interruption:
        name, arguments, agent = item.name or "", item.arguments or "{}", item.agent.name
        tool_set = self._tools_of(agent)
        origin = item.tool_origin.mcp_server_name if item.tool_origin else None
        raw = item.raw_item
        hosted = raw.get("server_label") if isinstance(raw, Mapping) else getattr(raw, "server_label", None)
        return Interruption(
            call_id=item.call_id or "", name=name, server=(tool_set.server_of(name) if tool_set else None) or origin or hosted,
            arguments=arguments, agent=agent, reason=tool_set.reason_to_ask(name, arguments) if tool_set else "",
        )  # fmt: skip

    def approval_data(self, call: Interruption, decision: str | None, message: str) -> dict[str, Json]:
        return {
            "run_id": self._run.id, "call_id": call.call_id, "name": call.name, "server": call.server,
            "arguments": call.arguments, "reason": call.reason, "decision": decision, "message": message,
            **({"asks": call.asks, "form": call.form} if call.asks else {}),
            **({"decided_at": iso(utc_now())} if decision else {}),
        }  # fmt: skip


def call_span(run: RunRecord, call: Interruption, approval: str, parent_id: str | None) -> SpanRecord:
    """Returns the span of a call that was not executed."""
    attributes: dict[str, Json] = {
        GenAI.OPERATION: "execute_tool", GenAI.TOOL_NAME: call.name, GenAI.TOOL_CALL_ID: call.call_id,
        GenAI.AGENT_NAME: call.agent, Lab.APPROVAL: approval,
    }  # fmt: skip
    if call.server:
        attributes[Lab.SERVER] = call.server
    return SpanRecord(
        trace_id=run.trace_id, span_id=call_span_id(run.trace_id, call.call_id), parent_id=parent_id,
        user_id=run.user_id, kind="tool", name=call.name, agent=call.agent, started_at=utc_now(), attributes=attributes,
        input=parsed(call.arguments),
    )  # fmt: skip


def finished_span(run: RunRecord, call: Interruption, item: ThreadItem, parent_id: str | None) -> SpanRecord:
    """Returns the span of an approved call that the thread has as finished but the trace does not."""
    now, data = utc_now(), call_data(item)
    return replace(
        call_span(run, call, "approved", parent_id),
        status="error" if data["error"] else "ok",
        error=data["error"],
        output=data["output"],
        started_at=now - timedelta(milliseconds=data["duration_ms"] or 0),
        ended_at=now,
    )


def rejected_span(run: RunRecord, call: Interruption, parent_id: str | None) -> SpanRecord:
    return replace(call_span(run, call, "rejected", parent_id), status="rejected", ended_at=utc_now())


def tool_key(call: Interruption) -> str:
    """Returns the key that "always" decisions are stored under: the tool of a specific server, not any tool of that name."""
    return f"{call.server}.{call.name}" if call.server else call.name
