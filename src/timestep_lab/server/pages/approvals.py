"""The Approvals page: all tool calls that wait for a person."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, ClassVar

from timestep_lab.model.clock import iso, utc_now
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import LabError
from timestep_lab.model.events import Event, RunEnded
from timestep_lab.runtime.approvals import Decision, Word
from timestep_lab.server.pages.page_view import PageView
from timestep_lab.store.base import Topic, in_thread
from timestep_lab.ui.view import handles

if TYPE_CHECKING:
    from timestep_lab.server.labs import UserLab

# --- Tool calls that wait for a person, as plain rows


def waiting_calls(lab: UserLab) -> list[dict[str, Json]]:
    """Pending calls, oldest first, one row per call, from all processes. Blocks."""
    rows: list[dict[str, Json]] = []
    for run in lab.approvals.list():
        record = run.record
        about = {
            "run_id": record.id, "thread_id": record.thread_id, "trace_id": record.trace_id, "input": record.input[:400],
            "model": record.model, "since": iso(record.started_at),
        }  # fmt: skip
        rows += [
            {
                **about, "call_id": call.call_id, "name": call.name, "server": call.server, "arguments": call.arguments,
                "agent": call.agent, "reason": call.reason, "asks": call.asks, "form": call.form,
            }
            for call in run.interruptions
        ]  # fmt: skip
    return rows


def decided_calls(lab: UserLab, most: int) -> list[dict[str, Json]]:
    """Decided calls, newest first, from all processes. Blocks."""
    store = lab.store
    result = store.db.query(
        store.user_id,
        "select thread_id, run_id, trace_id, agent, data, created_at from thread_items where user_id = $1 and type = 'approval' "
        f"and data ->> 'decision' is not null order by created_at desc, id desc limit {most}",
        [store.user_id],
    )
    rows = []
    for thread_id, run_id, trace_id, agent, raw, asked_at in result.rows:
        data = json.loads(raw) if isinstance(raw, str) else raw
        rows.append(
            {
                "thread_id": thread_id, "run_id": run_id, "trace_id": trace_id, "agent": agent, "call_id": data["call_id"],
                "name": data["name"], "arguments": data["arguments"], "decision": data["decision"], "message": data["message"], "asks": data.get("asks"),
                "at": data.get("decided_at") or iso(asked_at),
            }
        )  # fmt: skip
    return rows


# -- The page: pending calls from all processes, and the results of decisions made here

_KEPT = 20


class ApprovalsPage(PageView):
    stem = "pages/approvals"
    title = "Approvals"
    topics: ClassVar[frozenset[Topic]] = frozenset({"approvals", "runs"})

    def __init__(self, lab: UserLab) -> None:
        super().__init__(lab)
        self._decided: list[dict[str, Json]] = []

    async def read(self) -> Json:
        here = self._decided[:_KEPT]
        known = {(row["run_id"], row["call_id"]) for row in here}
        earlier = [
            row
            for row in await in_thread(decided_calls, self.lab, _KEPT)
            if (row["run_id"], row["call_id"]) not in known
        ]
        return {"waiting": await in_thread(waiting_calls, self.lab), "decided": here, "earlier": earlier}

    @handles("decide")
    async def _decide(
        self, run_id: str, call_id: str, decision: Word, message: str = "", always: bool = False, answer: Mapping[str, Json] | None = None
    ) -> None:  # fmt: skip
        """Decide about a call. Returns when the decision is stored; the run continues in the background."""
        run = await in_thread(self.lab.approvals.__getitem__, run_id)
        call = next((c for c in run.interruptions if c.call_id == call_id), None)
        chosen = Decision(decision=decision, message=message, always=always, answer=answer or {})
        events = self.lab.runs.decide(run_id, {call_id: chosen})
        first = await anext(aiter(events))  # Raises if it cannot be decided, for example because someone else did.
        row: dict[str, Json] = {
            "run_id": run_id, "call_id": call_id, "agent": call.agent if call else "", "at": iso(utc_now()), "thread_id": run.record.thread_id, "trace_id": run.record.trace_id,
            "name": call.name if call else "", "arguments": call.arguments if call else "", "decision": decision,
            "message": message, "asks": call.asks if call else None, "outcome": "running", "error": None,
        }  # fmt: skip
        self._decided.insert(0, row)
        self.start(self._follow(first, events, row))
        await self.refresh()

    async def _follow(self, first: Event, events: AsyncIterator[Event], row: dict[str, Json]) -> None:
        last = first
        try:
            async for event in events:
                last = event
            if isinstance(last, RunEnded):
                row["outcome"], row["error"] = last.run.status, last.run.error
        except LabError as error:
            row["outcome"], row["error"] = "failed", str(error)
        await self.refresh()


# --


def page(lab: UserLab, *, is_owner: bool) -> ApprovalsPage:
    return ApprovalsPage(lab)
