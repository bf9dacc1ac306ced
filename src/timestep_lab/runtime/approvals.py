"""Runs that wait for a person: kept, claimed by one, resumed anywhere.

A paused run is a row of `run_states`: the SDK's RunState, the agents as they were, what waits. Changing it is a compare-and-set
on `rev`, so of two people who decide at once one wins and the other is told. A claim carries a lease which its process renews; when
that process dies, the run is offered again, and tool calls that had finished by then are answered from the thread
instead of being run a second time.

The state is written and read here. Nothing of it is ever taken from a client, who sends call ids and decisions only.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from timestep_lab.model.clock import iso, utc_now
from timestep_lab.model.errors import ConflictError, RunError, SettingsError, UsageError
from timestep_lab.model.events import (
    Event,
    RunCancelled,
    RunCompleted,
    RunEnded,
    RunFailed,
    RunPaused,
    RunStarted,
    RunStopped,
)
from timestep_lab.model.records import Interruption, Json, RunRecord, RunStateRecord
from timestep_lab.store.base import Change, Rows, Statement, in_thread
from timestep_lab.store.liveness import process_is_alive

if TYPE_CHECKING:
    from timestep_lab.store.store import Store


# --- When a tool call waits for a person
#
# A rule is `"always"`, `"never"`, or an object that looks at one argument of the call:
#
#     {"argument": "location", "contains": "berkeley"}    text contains text, whatever the case; a list contains such a text
#     {"argument": "amount", "equals": 100}               the same JSON value; texts whatever the case
#
# An argument that the call does not have matches no rule. Arguments that are not JSON object cannot be judged, so they ask.


Rule = Json
"""A value that `check_rule` accepts."""

_TESTS = ("contains", "equals")
_NEXT = 'Use "always", "never", or {"argument": "location", "contains": "berkeley"}.'


def check_rule(rule: Rule, where: str) -> Rule:
    """`rule` itself, when it is one. `where` names it in the message. Raises `SettingsError`."""
    if rule in ("always", "never"):
        return rule
    if not isinstance(rule, Mapping):
        raise SettingsError(f"The approval rule of {where} is {rule!r}, which is not a rule.", _NEXT, param=where)
    unknown = sorted(set(rule) - {"argument", *_TESTS})
    if unknown:
        raise SettingsError(f"The approval rule of {where} has an unknown key {unknown[0]!r}.", _NEXT, param=where)
    if not isinstance(rule.get("argument"), str) or not rule["argument"]:
        raise SettingsError(f"The approval rule of {where} does not name an argument.", _NEXT, param=where)
    if sum(test in rule for test in _TESTS) != 1:
        raise SettingsError(f"The approval rule of {where} needs exactly one of contains, equals.", _NEXT, param=where)
    if "contains" in rule and (not isinstance(rule["contains"], str) or not rule["contains"]):
        raise SettingsError(f"In the approval rule of {where}, contains must be a text.", _NEXT, param=where)
    return rule


def validate_rules(rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """All of `rules` (tool, or `*`, to rule), checked. Raises `SettingsError` naming the tool."""
    return {tool: check_rule(rule, repr(tool)) for tool, rule in rules.items()}


def reason_to_ask(rule: Rule, arguments: Mapping[str, object] | str | None) -> str | None:
    """Why this call must wait, such as `location contains "berkeley"`; None when it need not.

    `arguments` is the object the model gave, or its JSON text.
    """
    if rule == "never":
        return None
    if rule == "always":
        return "always asks"
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except json.JSONDecodeError:
            return "its arguments cannot be read"
    if not isinstance(arguments, Mapping):
        return "its arguments cannot be read"
    name = rule["argument"]
    if name not in arguments:
        return None
    if "contains" in rule:
        return f'{name} contains "{rule["contains"]}"' if _contains(arguments[name], rule["contains"]) else None
    wanted = rule["equals"]
    return f"{name} equals {json.dumps(wanted, ensure_ascii=False)}" if _equal(arguments[name], wanted) else None


def _contains(value: object, text: str) -> bool:
    if isinstance(value, str):
        return text.casefold() in value.casefold()
    if isinstance(value, list):
        return any(_contains(item, text) for item in value)
    if isinstance(value, Mapping):
        return any(_contains(item, text) for item in value.values())
    return text.casefold() in json.dumps(value).casefold()


def _equal(value: object, wanted: object) -> bool:
    if isinstance(value, str) and isinstance(wanted, str):
        return value.casefold() == wanted.casefold()
    # In Python True == 1; in JSON they are two values.
    return isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)


LEASE = timedelta(seconds=60)
"""How long a claim holds without being renewed."""
RENEW_EVERY_S = 20.0

REJECTED = "The user did not approve this tool call."
"""What the model reads when a person rejects without a word."""


Word = Literal["approved", "rejected"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person decided about one call."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}

    decision: Word = "approved"
    message: str = ""
    always: bool = False
    """Do not ask again for this tool in this thread."""
    answer: Mapping[str, Json] = field(default_factory=dict)
    """Of a form that a server asks to be filled in."""

    def to_json(self) -> dict[str, Json]:
        filled = {"answer": dict(self.answer)} if self.answer else {}
        return {"decision": self.decision, "message": self.message, "always": self.always, **filled}


def read_decisions(
    decisions: Mapping[str, Mapping[str, Json] | str | bool] | None, waiting: Sequence[Interruption]
) -> dict[str, Decision]:
    """Check what a person sent: `{call_id: {"decision": "approved" | "rejected", "message"?, "always"?, "answer"?}}`, or the bare word.

    `None` approves all that waits.
    Raises `UsageError` for a call that does not wait, an unknown word, an answer that the form does not take, or nothing at all.
    """
    known = [call.call_id for call in waiting]
    if decisions is None:
        decisions = dict.fromkeys(known, "approved")
    unknown = [call_id for call_id in decisions if call_id not in known]
    if unknown or not decisions:
        what = f"No call {', '.join(map(repr, unknown))} waits in this run." if unknown else "Nothing was decided."
        raise UsageError(what, f"It waits for: {', '.join(known)}.")
    read = {call_id: read_decision(call_id, answer) for call_id, answer in decisions.items()}
    for call in waiting:
        decision = read.get(call.call_id)
        if decision and decision.answer and call.form is None:
            raise UsageError(f"{call.name} has no form to be filled in.", "Leave the answer away.", param="answer")
        if decision and decision.decision == "approved" and call.form is not None:
            read[call.call_id] = replace(decision, answer=filled_in(call.form, decision.answer))
    return read


def read_decision(call_id: str, said: Mapping[str, Json] | str | bool) -> Decision:
    """One of them. Raises `UsageError` for an unknown word."""
    if isinstance(said, bool):
        said = "approved" if said else "rejected"
    plain = {"decision": said} if isinstance(said, str) else dict(said)
    word = plain.get("decision")
    if word not in ("approved", "rejected"):
        raise UsageError(
            f"{word!r} is not a decision about the call {call_id!r}.", "Say 'approved' or 'rejected'.", param="decision"
        )
    answer = plain.get("answer") or {}
    if not isinstance(answer, Mapping):
        raise UsageError(f"answer={answer!r} is no form.", 'Give a dict: answer={"name": "…"}.', param="answer")
    return Decision(cast("Word", word), str(plain.get("message") or ""), bool(plain.get("always")), dict(answer))


def filled_in(schema: Mapping[str, Any], given: Mapping[str, Json]) -> dict[str, Json]:
    """The form with the defaults of what was left out. Raises `UsageError` for what it does not have, needs, or takes in another form."""
    fields = schema.get("properties") or {}
    if strange := next((name for name in given if name not in fields), None):
        raise UsageError(f"The form has no field {strange!r}.", f"It has: {', '.join(fields)}.", param="answer")
    values = {name: spec["default"] for name, spec in fields.items() if isinstance(spec, Mapping) and "default" in spec}
    values |= given
    if missing := [name for name in schema.get("required") or () if name not in values]:
        raise UsageError(
            f"The form needs {', '.join(map(repr, missing))}.",
            f"Fill it in: answer={json.dumps(dict.fromkeys(missing, '…'), ensure_ascii=False)}",
            param="answer",
        )
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

    if fault := next(Draft202012Validator(dict(schema)).iter_errors(values), None):
        where = ".".join(str(part) for part in fault.absolute_path)
        raise UsageError(f"The form is not filled in as it asks: {where}: {fault.message[:300]}", param="answer")
    return values


def busy_guard(store: Store, thread_id: str, besides: str = "") -> list[Statement]:
    """Statements that let a transaction through only while no run (other than `besides`) goes on in the thread.

    The thread's row is touched first, so that two who come at once are served one after the other.
    """
    return [store.threads.touch_statement(thread_id), idle_statement(store, thread_id, besides)]


def idle_statement(store: Store, thread_id: str, besides: str = "") -> Statement:
    """`busy_guard` for a transaction that has touched the thread's row."""
    return Statement(
        "select id from runs where user_id = $1 and thread_id = $2 and status = 'running' and id <> $3",
        [store.user_id, thread_id, besides],
        expect=0,
    )


def thread_is_busy(store: Store, thread_id: str) -> ConflictError | None:
    """Who runs in the thread now, as the error to raise; None when nobody does."""
    running = store.runs.find(1, thread_id=thread_id, status="running")
    if not running:
        return None
    return ConflictError(
        f"Run {running[0].id} is still going on in this thread (in {who(store, running[0].process_id)}).",
        "Wait for it to end, cancel it, or say this in another thread.",
    )


def paused(store: Store, run: RunRecord) -> RunStateRecord:
    """Raises `ConflictError` when the run waits for nothing."""
    state = store.run_states.try_get(run.id)
    if state is None or state.status == "done":
        raise ConflictError(
            f"Run {run.id} waits for no approval: it is {run.status}.", "See lab.approvals for what waits."
        )
    return state


def claim(store: Store, run: RunRecord, decided: Mapping[str, Decision]) -> tuple[RunRecord, RunStateRecord]:
    """Take a paused run in order to resume it: its state `claimed`, the run `running` in this process.

    Raises `ConflictError` when it waits no more or somebody else is at it, saying who, or when its thread is busy.
    """
    state = paused(store, run)
    if state.status == "claimed" and not lease_is_over(state):
        raise _taken(store, state)
    merged = {**state.decisions, **{call_id: d.to_json() for call_id, d in decided.items()}}
    me, now = store.db.process_id, utc_now()
    statements = [
        *busy_guard(store, run.thread_id, besides=run.id),
        store.run_states.update_statement(
            run.id, expect={"rev": state.rev, "status": state.status}, status="claimed", rev=state.rev + 1, claimed_by=me,
            lease_until=now + LEASE, decisions=merged, updated_at=now,
        ),
        store.runs.update_statement(
            run.id, expect={"status": run.status}, status="running", process_id=me, ended_at=None, error_type=None, error=None
        ),
    ]  # fmt: skip
    try:
        results: list[Rows] = store.db.write(store.user_id, statements, changes=changes(store, run))
    except ConflictError:
        now_state = store.run_states.get(run.id)
        if now_state.rev != state.rev:
            if now_state.status == "claimed":
                raise _taken(store, now_state) from None
            raise ConflictError(
                f"Run {run.id} was decided by somebody else just now.", "See lab.approvals for what waits."
            ) from None
        raise thread_is_busy(store, run.thread_id) or ConflictError(
            f"Run {run.id} changed while it was being claimed.", "Try again."
        ) from None
    return store.runs.from_row(results[3].rows[0]), store.run_states.from_row(results[2].rows[0])


def renew(store: Store, state: RunStateRecord) -> None:
    """Keep a claim. Raises `ConflictError` when it was lost."""
    store.run_states.update(state.run_id, expect={"rev": state.rev, "status": "claimed"}, lease_until=utc_now() + LEASE)


def give_back(store: Store, run: RunRecord, state: RunStateRecord) -> None:
    """Undo a claim that led to nothing: the run waits again, with no decision made."""
    store.db.write(
        store.user_id,
        [
            store.run_states.update_statement(
                run.id, expect={"rev": state.rev}, status="pending", rev=state.rev + 1, claimed_by=None, lease_until=None,
                decisions={}, updated_at=utc_now(),
            ),
            store.runs.update_statement(run.id, status="needs_approval"),
        ],
        changes=changes(store, run),
    )  # fmt: skip


def lease_is_over(state: RunStateRecord) -> bool:
    return state.lease_until is None or state.lease_until <= utc_now()


def who(store: Store, process_id: str | None) -> str:
    """A process as people know it."""
    if process_id == store.db.process_id:
        return "this process"
    row = store.db.query(store.user_id, "select host, pid from processes where process_id = $1", [process_id]).one()
    return f"process {row[1]} on {row[0]}" if row else f"process {process_id}"


def waiting_calls(state: RunStateRecord) -> tuple[Interruption, ...]:
    return tuple(Interruption(**call) for call in state.interruptions)


def paused_state(
    run: RunRecord,
    state: str,
    snapshot: Mapping[str, Json],
    waiting: Sequence[Interruption],
    before: RunStateRecord | None,
) -> RunStateRecord:
    """The row for a run that pauses now, for the first time or again."""
    calls = tuple(
        {name: value for name, value in asdict(call).items() if value is not None or name not in ("asks", "form")}
        for call in waiting
    )
    fresh = RunStateRecord(
        run_id=run.id, user_id=run.user_id, thread_id=run.thread_id, state=state, agent_snapshot=snapshot, interruptions=calls
    )  # fmt: skip
    return fresh if before is None else replace(fresh, rev=before.rev + 1, created_at=before.created_at)


ASKED = "asked"
"""Kind of the snapshot of a run whose process waits, in the middle of a tool's call, for what the tool's server asks."""


def keep_questions(
    store: Store, run: RunRecord, waiting: Sequence[Interruption], before: RunStateRecord | None
) -> tuple[RunRecord, RunStateRecord]:
    """Write down what a run asks while it goes on, for whoever decides; without questions, that it goes on in this process.

    `before`: its row as this process wrote or claimed it last. Raises `ConflictError` when it was changed since.
    """
    asking = bool(waiting)
    row = replace(
        paused_state(run, "", {"version": 1, "kind": ASKED}, waiting, before), status="pending" if asking else "claimed",
        claimed_by=store.db.process_id, lease_until=None if asking else utc_now() + LEASE, updated_at=utc_now(),
    )  # fmt: skip
    columns = {
        name: getattr(row, name)
        for name in ("status", "state", "agent_snapshot", "interruptions", "claimed_by", "lease_until", "rev")
    }
    statements = [
        store.runs.update_statement(run.id, status="needs_approval" if asking else "running"),
        store.run_states.insert_statement(row)
        if before is None
        else store.run_states.update_statement(run.id, expect={"rev": before.rev}, decisions={}, updated_at=utc_now(), **columns),
    ]  # fmt: skip
    results = store.db.write(store.user_id, statements, changes=changes(store, run))
    return store.runs.from_row(results[0].rows[0]), store.run_states.get(run.id)


async def answered_elsewhere(
    store: Store, run: RunRecord, state: RunStateRecord, decided: Mapping[str, Decision]
) -> AsyncGenerator[Event, None]:
    """Tell the process that waits what was decided, and follow the run to its end or its next pause.

    Raises `ConflictError` when somebody else was faster, `RunError` when that process is gone: the run is over then.
    """
    if not await in_thread(process_is_alive, store.db, state.claimed_by):
        await in_thread(_end_lost, store, run, state)
        raise RunError(LOST, "Run it again.", code="damaged_state")
    await in_thread(_write_decisions, store, run, state, decided)
    yield RunStarted(run=replace(run, status="running"), resumed=True)
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        run = await in_thread(store.runs.get, run.id)
        now = await in_thread(store.run_states.get, run.id)
        if run.status == "needs_approval" and not now.decisions:
            yield RunPaused(run=run, interruptions=waiting_calls(now))
            return
        if run.status not in ("running", "needs_approval"):
            yield _end_of(run)
            return


LOOK_EVERY_S = 0.3
"""How often it is looked how a run goes on in another process."""
LOST = "The process that asked is gone, and the tool's call with it."


def _end_of(run: RunRecord) -> RunEnded:
    if run.status == "completed":
        return RunCompleted(run=run)
    if run.status == "cancelled":
        return RunCancelled(run=run)
    error: dict[str, Json] = {"type": run.error_type, "message": run.error}
    if run.status == "stopped":
        return RunStopped(run=run, limit=run.metadata["stopped_by"], error=error)
    return RunFailed(run=run, error=error)


def _end_lost(store: Store, run: RunRecord, state: RunStateRecord) -> None:
    statements = [
        store.run_states.update_statement(
            run.id, expect={"rev": state.rev}, status="done", rev=state.rev + 1, updated_at=utc_now()
        ),
        store.runs.update_statement(
            run.id, status="interrupted", error_type="RunError", error=LOST, ended_at=utc_now()
        ),
    ]
    store.db.write(store.user_id, statements, changes=changes(store, run))


def _write_decisions(store: Store, run: RunRecord, state: RunStateRecord, decided: Mapping[str, Decision]) -> None:
    merged = {**state.decisions, **{call_id: decision.to_json() for call_id, decision in decided.items()}}
    statement = store.run_states.update_statement(
        run.id,
        expect={"rev": state.rev, "status": "pending"},
        rev=state.rev + 1,
        decisions=merged,
        updated_at=utc_now(),
    )
    store.db.write(store.user_id, [statement], changes=changes(store, run))


def changes(store: Store, run: RunRecord) -> list[Change]:
    return [*store.runs.changes(run.id), *store.run_states.changes(run.id)]


def _taken(store: Store, state: RunStateRecord) -> ConflictError:
    since = iso(state.updated_at)
    return ConflictError(
        f"Run {state.run_id} is being resumed by {who(store, state.claimed_by)} since {since}.",
        "Wait for it to end; its answer comes to the same thread.",
    )
