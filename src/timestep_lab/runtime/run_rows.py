"""What a run writes at its beginning and around it. Everything here blocks and is called through `in_thread`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from timestep_lab.model.clock import utc_now
from timestep_lab.model.errors import ConflictError, UsageError
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import Json, RunRecord, ThreadItem, ThreadRecord
from timestep_lab.model.spans import SpanRecord
from timestep_lab.runtime import approvals
from timestep_lab.runtime.pauses import rejected_span
from timestep_lab.runtime.run_request import UserTurn
from timestep_lab.runtime.session_repair import COMPLETED, complete_interrupted
from timestep_lab.store.base import Change, Statement

if TYPE_CHECKING:
    from timestep_lab.store.store import Store

CANCEL = "cancel_requested"
"""In a run's metadata: some process asked for it to stop."""
OPTIONS = "options"
"""In a run's metadata: what was asked for this run alone, for when it goes on."""
FORK = "fork"
"""In a fork's metadata: the trace it replays and what is different in it, for when it goes on."""
CONTEXT = "context_type"
"""In a run's metadata: the class of the `context` it was given."""
STOPPED_BY = "stopped_by"
"""In a run's metadata: the limit that it reached."""
RESERVED = {CANCEL, OPTIONS, FORK, CONTEXT, COMPLETED, STOPPED_BY}
WITHDRAWN = "The run was cancelled before this was decided."


def refuse_reserved(metadata: Mapping[str, Json]) -> None:
    """Raises `UsageError` for a name under which the lab keeps something of its own."""
    for name in RESERVED & set(metadata):
        raise UsageError(
            f"The lab keeps something of its own as {name!r} in a run's metadata.",
            "Give it another name.",
            param="metadata",
        )


def begin(
    store: Store, run: RunRecord, thread: ThreadRecord, turn: UserTurn, *, is_new: bool, said: ThreadItem | None = None
) -> list[ThreadItem]:
    """Store the run, its thread if that is new, and what the user said; return the user's items. `said` is in the thread already
    and becomes the run's.

    Raises `ConflictError` when the thread has a run going on: then nothing was written.
    """
    if not is_new:
        complete_interrupted(store, thread.id)
    if store.quota:
        if is_new:
            store.quota.take_thread()
        store.quota.take_traces()
    items = [
        ThreadItem(
            id=new_id("message"), thread_id=thread.id, user_id=run.user_id, type=kind, data=data, run_id=run.id,
            trace_id=run.trace_id,
        )
        for kind, data in turn.thread_items
    ]  # fmt: skip
    shown = store.threads.append_statements(thread.id, items) if items else []
    statements = [
        *([store.threads.insert_statement(thread)] if is_new else approvals.busy_guard(store, thread.id)),
        store.runs.insert_statement(run),
        *store.threads.append_session_statements(thread.id, turn.session_items, run.id),
        *([] if said is None else [_adopt(store, run, said)]),
        *shown,
    ]
    changes = [*store.threads.changes(thread.id), *store.runs.changes(run.id)]
    try:
        results = store.db.write(store.user_id, statements, changes=changes)
    except ConflictError:
        raise approvals.thread_is_busy(store, thread.id) or store.threads.missing(thread.id) from None
    return store.threads.appended(thread.id, items, results[len(results) - len(shown) :]) if items else []


def _adopt(store: Store, run: RunRecord, said: ThreadItem) -> Statement:
    return Statement(
        "update thread_items set run_id = $3, trace_id = $4 where user_id = $1 and id = $2 and thread_id = $5 returning id",
        [store.user_id, said.id, run.id, run.trace_id, run.thread_id],
        expect=1,
    )


def reopen(store: Store, run: RunRecord) -> RunRecord:
    """A run that ended with a client tool's call goes on. Raises `ConflictError` when its thread is busy or it is paused."""
    statements = [
        *approvals.busy_guard(store, run.thread_id),
        store.runs.update_statement(
            run.id, expect={"status": "completed"}, status="running", ended_at=None, process_id=store.db.process_id
        ),
    ]
    try:
        results = store.db.write(store.user_id, statements, changes=store.runs.changes(run.id))
    except ConflictError:
        raise approvals.thread_is_busy(store, run.thread_id) or ConflictError(
            f"Run {run.id} cannot go on: it is {run.status}.", "Say something new in the thread."
        ) from None
    return store.runs.from_row(results[-1].rows[0])


def withdraw(store: Store, run: RunRecord) -> list[SpanRecord]:
    """Cancel a run that waits for approval; return the spans of the calls that will never run.

    Raises `ConflictError` when somebody decided it just now.
    """
    state = store.run_states.get(run.id)
    store.db.write(
        store.user_id,
        [
            store.run_states.update_statement(
                run.id, expect={"rev": state.rev, "status": "pending"}, status="done", rev=state.rev + 1, updated_at=utc_now()
            ),
            store.runs.update_statement(
                run.id, expect={"status": "needs_approval"}, status="cancelled", ended_at=utc_now()
            ),
        ],
        changes=approvals.changes(store, run),
    )  # fmt: skip
    waiting = {call.call_id for call in approvals.waiting_calls(state)}
    for item in store.threads.all_items(run.thread_id):
        if item.run_id != run.id or item.data.get("call_id") not in waiting:
            continue
        if item.type == "tool_call":
            store.threads.save_item(_with(item, status="rejected", output=WITHDRAWN))
        elif item.type == "approval" and item.data["decision"] is None:
            store.threads.save_item(_with(item, decision="rejected", message=WITHDRAWN))
    return [replace(rejected_span(run, call), output=WITHDRAWN) for call in approvals.waiting_calls(state)]


def request_cancel(store: Store, run: RunRecord) -> None:
    """Ask the process that has the run to stop it. Told as a change of `approvals`, which is about what people decide, so that
    runners need not look at every change of every run."""
    statement = store.runs.update_statement(run.id, metadata={**run.metadata, CANCEL: True})
    store.db.write(store.user_id, [statement], changes=[Change("approvals", store.user_id, run.id)])


def remember_approval(store: Store, thread_id: str, tool: str) -> None:
    """Do not ask again for `tool` in this thread."""
    thread = store.threads.get(thread_id)
    known = list(thread.metadata.get("approved_tools", ()))
    if tool not in known:
        store.threads.update(thread_id, metadata={**thread.metadata, "approved_tools": [*known, tool]})


def _with(item: ThreadItem, **data: object) -> ThreadItem:
    return replace(item, data={**item.data, **data})
