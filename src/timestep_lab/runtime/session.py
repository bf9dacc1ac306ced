"""Session memory of the model: the Agents SDK's `Session` protocol on top of a thread's session log.

The log is append-only. A late output (of a client tool, or of a call approved after the conversation continued) is appended when it
arrives, and presented to the model after its call, as every provider requires.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, TypedDict, cast

from agents.memory import SessionABC

from timestep_lab.model.clock import utc_now
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import ConflictError, UsageError
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import RunRecord, ThreadItem, ThreadRecord
from timestep_lab.model.spans import SpanRecord
from timestep_lab.runtime import approvals
from timestep_lab.runtime.agent_graph import asked_under
from timestep_lab.runtime.approval_gate import approved_tools, rejected_span
from timestep_lab.runtime.attachments import image_call
from timestep_lab.runtime.run import UserTurn
from timestep_lab.runtime.span_records import parsed
from timestep_lab.store.base import Change, Statement, append_soon, in_thread
from timestep_lab.store.store import ThreadTail

if TYPE_CHECKING:
    from agents import TResponseInputItem

    from timestep_lab.store.store import Store


Item = dict[str, Json]


class StoreSession(SessionABC):
    """The session log of one thread. `run_id` marks items added by this run; `said` is the current content of the log, if known."""

    def __init__(
        self,
        store: Store,
        thread_id: str,
        run_id: str | None = None,
        session_entries: Sequence[Mapping[str, Json]] | None = None,
        tail: ThreadTail | None = None,
    ) -> None:
        self.session_id = thread_id
        self.session_settings = None
        self.unanswered: set[str] = set()
        """Call ids whose output comes from the client; the placeholder output that ends the turn is not stored."""
        self._store, self._threads = store, store.threads
        self._tail = tail or ThreadTail(store.threads, thread_id, run_id)
        self._session_entries = session_entries
        self._unwritten: list[Item] = []
        """Latest output of the model without a call; written together with what follows. It is already stored in the thread."""

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        await self.write()
        known, self._session_entries = self._session_entries, None
        items: list[Item] = (
            await in_thread(self._threads.session_items, self.session_id, None)
            if known is None
            else deepcopy([dict(item) for item in known])
        )
        ordered = answers_behind_calls(items)
        return cast("list[TResponseInputItem]", ordered if limit is None else ordered[-limit:] if limit > 0 else [])

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        new = [cast(Item, item) for item in items]
        new = [item for item in new if not (is_output(item) and item["call_id"] in self.unanswered)]
        has_calls = any(item.get("call_id") for item in new)
        if has_calls:
            # A run resumed after a crash repeats items that the log may already have.
            known = keys(await in_thread(self._threads.session_items, self.session_id, None))
            new = [item for item in new if key(item) not in known]
        if new:
            self._session_entries = None
            self._unwritten += new
        if has_calls:
            await self.write()

    def unwritten(self) -> list[Item]:
        """Returns what is still to be written, for the transaction that ends the run."""
        items, self._unwritten = self._unwritten, []
        return items

    async def write(self) -> None:
        if not self._unwritten:
            return
        changes = self._threads.changes(self.session_id)
        try:
            await self._tail.append(session_entries=self.unwritten(), changes=changes)
        except ConflictError:
            raise self._threads.missing(self.session_id) from None

    async def pop_item(self) -> TResponseInputItem | None:
        await self.write()
        popped = await in_thread(self._threads.pop_session_item, self.session_id)
        return cast("TResponseInputItem | None", popped)

    async def clear_session(self) -> None:
        self._unwritten = []
        await in_thread(self._threads.clear_session, self.session_id)


def is_output(item: Item) -> bool:
    return str(item.get("type", "")).endswith("_output") and "call_id" in item


def key(item: Item) -> tuple[str, str] | None:
    """Returns what identifies a call or an output; None for messages."""
    return (str(item.get("type")), str(item["call_id"])) if item.get("call_id") else None


def keys(items: Iterable[Item]) -> set[tuple[str, str]]:
    return {item_key for item in items if (item_key := key(item))}


def answers_behind_calls(items: list[Item]) -> list[Item]:
    """Moves each output to the turn that made its call; everything else keeps its place."""
    late = _late_answers(items)
    if not late:
        return items
    moved = {id(answer) for answers in late.values() for answer in answers}
    ordered: list[Item] = []
    due: list[Item] = []
    for item in items:
        if id(item) in moved:
            continue
        if due and not (is_output(item) or key(item)):
            ordered += due
            due = []
        ordered.append(item)
        due += late.get(str(item.get("call_id")), []) if not is_output(item) else []
    return ordered + due


def _late_answers(items: list[Item]) -> dict[str, list[Item]]:
    """Maps a call id to the outputs that come after a later message."""
    messages = 0
    asked_at: dict[str, int] = {}
    late: dict[str, list[Item]] = {}
    for item in items:
        call_id = str(item.get("call_id") or "")
        if not call_id:
            messages += item.get("type", "message") == "message"
        elif not is_output(item):
            asked_at[call_id] = messages
        elif asked_at.get(call_id, messages) != messages:
            late.setdefault(call_id, []).append(item)
    return late


# --- Completion of the session log after a run that ended early
#
# The SDK writes a turn to the session when the turn is complete. A run that was cancelled, failed or killed during a turn leaves output
# in the thread that the model would not see, so that it might repeat it.


COMPLETED = "session_completed"
"""Key in the metadata of an interrupted run whose session was completed."""


def complete_session(store: Store, run: RunRecord) -> None:
    """Appends finished tool calls and answers of `run` that its session log lacks."""
    items = [item for item in store.threads.all_items(run.thread_id) if item.run_id == run.id]
    log = store.threads.session_items(run.thread_id)
    asked = {entry["call_id"] for entry in log if entry.get("call_id") and not is_output(entry)}
    answered = {entry["call_id"] for entry in log if is_output(entry)}
    made = {entry.get("id") for entry in log if entry.get("type") == "image_generation_call"}
    texts = [_text(entry) for entry in log if entry.get("role") == "assistant"]
    missing: list[Item] = []
    for item in items:
        if item.type == "tool_call" and (image := _generated_image(item)):
            if item.data["call_id"] not in made:
                missing.append(image)
            continue
        if item.type == "tool_call" and item.data["output"] is not None and item.data["call_id"] not in answered:
            missing += _call(item, asked=item.data["call_id"] in asked)
        elif item.type == "assistant_message" and item.data["text"]:
            # Compared as a multiset: the same text may occur twice.
            if item.data["text"] in texts:
                texts.remove(item.data["text"])
            else:
                missing.append({"role": "assistant", "content": item.data["text"]})
    store.threads.append_session_items(run.thread_id, missing, run_id=run.id)


def complete_interrupted(store: Store, thread_id: str) -> None:
    """Completes the session for every run of the thread whose process died."""
    for run in store.runs.find(thread_id=thread_id, status="interrupted"):
        if run.metadata.get(COMPLETED):
            continue
        try:
            store.runs.update(run.id, expect={"status": "interrupted"}, metadata={**run.metadata, COMPLETED: True})
        except ConflictError:
            continue
        complete_session(store, run)


def _call(item: ThreadItem, *, asked: bool) -> list[Item]:
    data = item.data
    call: Item = {
        "type": "function_call", "call_id": data["call_id"], "name": data["name"], "arguments": data["arguments"] or "{}",
    }  # fmt: skip
    answer: Item = {"type": "function_call_output", "call_id": data["call_id"], "output": data["output"]}
    return [answer] if asked else [call, answer]


def _generated_image(call: ThreadItem) -> Item | None:
    """Returns the output item of an image that the model made itself; None for any other call. The id of such a call is not a call's."""
    if call.data["name"] != "image_generation" or str(call.data["call_id"]).startswith("call_"):
        return None
    match parsed(call.data["output"]):
        case [{"type": "input_image", "image_url": str(address)}] if fields := image_call(address):
            return {**fields, "id": call.data["call_id"]}
    return None


def _text(entry: Item) -> str:
    content = cast("str | Sequence[Mapping[str, str]] | None", entry.get("content"))
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())


# --- Writes at the start of a run and around it. Functions that are not coroutines block, and are called with `in_thread`


CANCEL = "cancel_requested"
"""Metadata key of a run: a process requested it to stop."""
OPTIONS = "options"
"""Metadata key of a run: its options, for resuming."""
FORK = "fork"
"""Metadata key of a fork: the replayed trace and the changes, for resuming."""
CONTEXT = "context_type"
"""Metadata key of a run: class name of its `context`."""
AGENT_VERSIONS = "agent_versions"
"""Metadata key of a run: maps the id of each reachable stored agent to its version, for forks."""
STOPPED_BY = "stopped_by"
"""Metadata key of a run: the limit that it reached."""
RESERVED = {CANCEL, OPTIONS, FORK, CONTEXT, COMPLETED, STOPPED_BY, AGENT_VERSIONS}
WITHDRAWN = "The run was cancelled before this was decided."


class ForkData(TypedDict):
    """Value of `FORK`."""

    trace_id: str
    span_id: str | None
    changes: Mapping[str, Json]
    """`Changes.to_json`."""


def versions_of(run: RunRecord) -> Mapping[str, int] | None:
    """Returns the value of `AGENT_VERSIONS`, or None for a run without stored agents."""
    return cast("Mapping[str, int] | None", run.metadata.get(AGENT_VERSIONS))


def refuse_reserved(metadata: Mapping[str, Json]) -> None:
    """Raises `UsageError` for metadata that is no mapping, and for keys that the lab uses itself."""
    if not isinstance(metadata, Mapping):
        raise UsageError(f"{metadata!r:.80} is not metadata.", "Pass a dict of names and values.", param="metadata")
    for name in RESERVED & set(metadata):
        raise UsageError(
            f"The metadata key {name!r} is reserved by the lab.",
            "Use another key.",
            param="metadata",
        )


async def begin(
    store: Store,
    run: RunRecord,
    thread: ThreadRecord,
    turn: UserTurn,
    *,
    is_new: bool,
    user_item: ThreadItem | None = None,
) -> tuple[list[ThreadItem], ThreadTail]:
    """Stores the run, its thread if new, and the user's input; returns the user's items and what appends to the thread. `said` is already
    in the thread and is assigned to the run.

    Raises `ConflictError`, without writing anything, when the thread has an active run.
    """
    if not is_new or store.quota:
        await in_thread(_make_ready, store, thread.id, is_new)
    items = [
        ThreadItem(
            id=new_id("message"), thread_id=thread.id, user_id=run.user_id, type=kind, data=data, run_id=run.id,
            trace_id=run.trace_id, item_index=index if is_new else -1,
        )
        for index, (kind, data) in enumerate(turn.thread_items)
    ]  # fmt: skip
    tail = ThreadTail(store.threads, thread.id, run.id)
    adopted = [] if user_item is None else [_adopt(store, run, user_item)]
    changes = [*store.threads.changes(thread.id), *store.runs.changes(run.id)]
    if is_new:
        rows = store.threads.new_rows(thread, items, turn.session_items, run.id)
        rows = {**rows, store.runs.name: (store.runs.columns, [store.runs.to_row(run)])}
        await append_soon(store.db, store.user_id, rows, then=adopted, changes=changes)
        tail.ends_at(len(items), len(turn.session_items))
        return items, tail
    idle = approvals.idle_statement(store, thread.id)
    try:
        items = await tail.append(
            items, turn.session_items, then=[idle, store.runs.insert_statement(run), *adopted], changes=changes
        )
    except ConflictError:
        busy = await in_thread(approvals.thread_is_busy, store, thread.id)
        raise busy or store.threads.missing(thread.id) from None
    return items, tail


def _make_ready(store: Store, thread_id: str, is_new: bool) -> None:
    if not is_new:
        complete_interrupted(store, thread_id)
    if store.quota:
        if is_new:
            store.quota.take_thread()
        store.quota.take_traces()


def _adopt(store: Store, run: RunRecord, user_item: ThreadItem) -> Statement:
    return Statement(
        "update thread_items set run_id = $3, trace_id = $4 where user_id = $1 and id = $2 and thread_id = $5 returning id",
        [store.user_id, user_item.id, run.id, run.trace_id, run.thread_id],
        expect=1,
    )


def reopen(store: Store, run: RunRecord) -> RunRecord:
    """Reopens a run that ended with a client tool call. Raises `ConflictError` when its thread is busy or it is paused."""
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
            f"Run {run.id} cannot be continued: it is {run.status}.", "Start a new run in the thread."
        ) from None
    return store.runs.from_row(results[-1].rows[0])


def withdraw(store: Store, run: RunRecord) -> list[SpanRecord]:
    """Cancels a run that waits for approval; returns the spans of the calls that will not be executed.

    Raises `ConflictError` when another client has just decided.
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
    turns = asked_under(state.agent_snapshot)
    return [
        replace(rejected_span(run, call, turns.get(call.agent) or turns.get("")), output=WITHDRAWN)
        for call in approvals.waiting_calls(state)
    ]


def request_cancel(store: Store, run: RunRecord) -> None:
    """Requests the process that executes the run to stop it. Published as a change of `approvals`, so that runners need not watch every
    change of every run."""
    statement = store.runs.update_statement(run.id, metadata={**run.metadata, CANCEL: True})
    store.db.write(store.user_id, [statement], changes=[Change("approvals", store.user_id, run.id)])


def remember_approval(store: Store, thread_id: str, tool: str) -> None:
    """Remembers not to ask again for `tool` in this thread."""
    thread = store.threads.get(thread_id)
    known = list(approved_tools(thread))
    if tool not in known:
        store.threads.update(thread_id, metadata={**thread.metadata, "approved_tools": [*known, tool]})


def _with(item: ThreadItem, **data: Json) -> ThreadItem:
    return replace(item, data={**item.data, **data})
