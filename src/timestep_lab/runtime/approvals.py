"""Paused runs: stored, claimed by one process, and resumed in any process.

A paused run is a row of `run_states` with the SDK's RunState, a snapshot of the agents and the pending calls. It is updated by
compare-and-set on `rev`, so when two people decide at once, one succeeds and the other gets an error. A claim has a lease that its
process renews; when that process dies, the run can be claimed again, and tool calls that had finished are answered from the thread
instead of being executed twice.

The state is only written and read here. It is never accepted from a client: clients send call ids and decisions only.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Literal, Required, TypedDict, cast, get_args
from urllib.parse import urlsplit

from timestep_lab.model.clock import iso, utc_now
from timestep_lab.model.codec import Json
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
from timestep_lab.model.records import Interruption, RunRecord, RunStateRecord
from timestep_lab.store.base import Change, Rows, Statement, in_thread
from timestep_lab.store.liveness import process_is_alive

if TYPE_CHECKING:
    from timestep_lab.store.store import Store


# --- Approval rules
#
# A rule is `"always"`, `"never"`, or an object that tests one argument of the call:
#
#     {"argument": "location", "contains": "berkeley"}    case-insensitive substring; for a list, in any of its strings
#     {"argument": "amount", "equals": 100}               same JSON value; strings compare case-insensitively
#
# A rule never matches an argument that the call does not have. Arguments that are not a JSON object always need approval.


Rule = Json
"""A value accepted by `check_rule`."""


class _Test(TypedDict, total=False):
    """A rule that tests one argument of the call."""

    argument: Required[str]
    contains: str
    equals: Json


_TESTS = ("contains", "equals")
_NEXT = 'Use "always", "never", or {"argument": "location", "contains": "berkeley"}.'


def check_rule(rule: Rule, where: str) -> Rule:
    """Returns `rule` if it is valid. `where` names it in error messages. Raises `SettingsError`."""
    if rule in ("always", "never"):
        return rule
    if not isinstance(rule, Mapping):
        raise SettingsError(f"The approval rule of {where} is {rule!r}, which is not valid.", _NEXT, param=where)
    unknown = sorted(set(rule) - {"argument", *_TESTS})
    if unknown:
        raise SettingsError(f"The approval rule of {where} has an unknown key {unknown[0]!r}.", _NEXT, param=where)
    if not isinstance(rule.get("argument"), str) or not rule["argument"]:
        raise SettingsError(f"The approval rule of {where} does not name an argument.", _NEXT, param=where)
    if sum(test in rule for test in _TESTS) != 1:
        raise SettingsError(f"The approval rule of {where} needs exactly one of contains, equals.", _NEXT, param=where)
    if "contains" in rule and (not isinstance(rule["contains"], str) or not rule["contains"]):
        raise SettingsError(f"In the approval rule of {where}, contains must be a string.", _NEXT, param=where)
    return rule


def validate_rules(rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """Validates a mapping of tools (or `*`) to rules. Raises `SettingsError` naming the tool."""
    return {tool: check_rule(rule, repr(tool)) for tool, rule in rules.items()}


def reason_to_ask(rule: Rule, arguments: Mapping[str, object] | str | None) -> str | None:
    """Returns why a call needs approval, such as `location contains "berkeley"`, or None when it does not.

    `arguments` is the object sent by the model, or its JSON text.
    """
    if rule == "never":
        return None
    if rule == "always":
        return "this tool always asks"
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except json.JSONDecodeError:
            return "its arguments cannot be read"
    if not isinstance(arguments, Mapping):
        return "its arguments cannot be read"
    test = cast("_Test", rule)
    name = test["argument"]
    if name not in arguments:
        return None
    if "contains" in test:
        return f'{name} contains "{test["contains"]}"' if _contains(arguments[name], test["contains"]) else None
    wanted = test["equals"]
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
    # In Python True == 1; in JSON they differ.
    return isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)


LEASE = timedelta(seconds=60)
"""How long a claim is valid without renewal."""
RENEW_EVERY_S = 20.0

REJECTED = "The user did not approve this tool call."
"""Output sent to the model when a call is rejected without a message."""


Word = Literal["approved", "rejected", "dismissed"]
"""Only a question of a tool's server can be dismissed: neither accepted nor declined (MCP's `cancel`)."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A person's decision on one call."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}

    decision: Word = "approved"
    message: str = ""
    always: bool = False
    """Do not ask again for this tool in this thread."""
    answer: Mapping[str, Json] = field(default_factory=dict)
    """Values for the form that a server asked to fill in."""

    def to_json(self) -> dict[str, Json]:
        filled = {"answer": dict(self.answer)} if self.answer else {}
        return {"decision": self.decision, "message": self.message, "always": self.always, **filled}


def read_decisions(
    decisions: Mapping[str, Mapping[str, Json] | str | bool] | None, waiting: Sequence[Interruption]
) -> dict[str, Decision]:
    """Validates decisions: `{call_id: {"decision": "approved" | "rejected" | "dismissed", "message"?, "always"?, "answer"?}}`, or just the decision.

    None approves all pending calls.
    Raises `UsageError` for a call that is not pending, an unknown decision, an answer that does not fit the form, or an empty mapping.
    """
    known = [call.call_id for call in waiting]
    if decisions is None:
        decisions = dict.fromkeys(known, "approved")
    unknown = [call_id for call_id in decisions if call_id not in known]
    if unknown or not decisions:
        what = (
            f"Call {', '.join(map(repr, unknown))} is not pending in this run." if unknown else "There is no decision."
        )
        raise UsageError(what, f"Pending calls: {', '.join(known)}.")
    read = {call_id: read_decision(call_id, answer) for call_id, answer in decisions.items()}
    for call in waiting:
        decision = read.get(call.call_id)
        if decision and decision.answer and call.form is None:
            raise UsageError(f"{call.name} has no form to be filled in.", "Omit the answer.", param="answer")
        if decision and decision.decision == "dismissed" and call.asks is None:
            raise UsageError(f"{call.name} asks no question to dismiss.", "Approve or reject it.", param="decision")
        if decision and decision.decision == "approved" and call.form is not None:
            read[call.call_id] = replace(decision, answer=filled_in(call.form, decision.answer))
    return read


def read_decision(call_id: str, given_decision: Mapping[str, Json] | str | bool) -> Decision:
    """Validates the decision on one call. Raises `UsageError` for an unknown decision."""
    if isinstance(given_decision, bool):
        given_decision = "approved" if given_decision else "rejected"
    plain = {"decision": given_decision} if isinstance(given_decision, str) else dict(given_decision)
    word = plain.get("decision")
    if word not in get_args(Word):
        raise UsageError(
            f"{word!r} is not a valid decision on the call {call_id!r}.",
            "Use 'approved' or 'rejected'; for a question also 'dismissed'.",
            param="decision",
        )
    answer = plain.get("answer") or {}
    if not isinstance(answer, Mapping):
        raise UsageError(f"answer={answer!r} is not a form.", 'Pass a dict: answer={"name": "…"}.', param="answer")
    return Decision(cast("Word", word), str(plain.get("message") or ""), bool(plain.get("always")), dict(answer))


def _is_email(text: str) -> bool:
    name, at, host = text.rpartition("@")
    return bool(at and name and "." in host.strip(".")) and not re.search(r"\s|@", name + host)


def _is_uri(text: str) -> bool:
    parts = urlsplit(text)
    return bool(parts.scheme and (parts.netloc or parts.path)) and not re.search(r"\s", text)


def _is_time(text: str) -> bool:
    return "T" in text.upper() and datetime.fromisoformat(text).tzinfo is not None


def _is_date(text: str) -> bool:
    return bool(re.fullmatch(r"\d{4}-\d\d-\d\d", text) and datetime.fromisoformat(text))


FORMATS: Mapping[str, Callable[[str], bool]] = {
    "email": _is_email,
    "uri": _is_uri,
    "date": _is_date,
    "date-time": _is_time,
}
"""Formats of texts in a form, as MCP has them. A check returns False, or raises `ValueError`, for a text in another format."""


class _Form(TypedDict, total=False):
    """The parts of a form's JSON schema that `filled_in` reads."""

    properties: Mapping[str, Json]
    required: Sequence[str]


def filled_in(schema: Mapping[str, Json], given: Mapping[str, Json]) -> dict[str, Json]:
    """Returns the values of a form, with defaults for missing ones. Raises `UsageError` for unknown, missing or invalid fields."""
    form = cast("_Form", schema)
    fields = form.get("properties") or {}
    if unknown_field := next((name for name in given if name not in fields), None):
        raise UsageError(f"The form has no field {unknown_field!r}.", f"It has: {', '.join(fields)}.", param="answer")
    values = {name: spec["default"] for name, spec in fields.items() if isinstance(spec, Mapping) and "default" in spec}
    values |= given
    if missing := [name for name in form.get("required") or () if name not in values]:
        raise UsageError(
            f"The form needs {', '.join(map(repr, missing))}.",
            f"Fill it in: answer={json.dumps(dict.fromkeys(missing, '…'), ensure_ascii=False)}",
            param="answer",
        )
    from jsonschema import Draft202012Validator, FormatChecker  # type: ignore[import-untyped]

    checker = FormatChecker(formats=())
    for name, check in FORMATS.items():
        checker.checks(name, raises=ValueError)(lambda value, check=check: not isinstance(value, str) or check(value))
    if fault := next(Draft202012Validator(dict(schema), format_checker=checker).iter_errors(values), None):
        where = ".".join(str(part) for part in fault.absolute_path)
        raise UsageError(f"The form is not valid: {where}: {fault.message[:300]}", param="answer")
    return values


def busy_guard(store: Store, thread_id: str, besides: str = "") -> list[Statement]:
    """Returns statements that abort a transaction while another run (other than `besides`) is active in the thread.

    The thread's row is updated first, so that concurrent transactions are serialized.
    """
    return [store.threads.touch_statement(thread_id), idle_statement(store, thread_id, besides)]


def idle_statement(store: Store, thread_id: str, besides: str = "") -> Statement:
    """Same as `busy_guard`, for a transaction that has already updated the thread's row."""
    return Statement(
        "select id from runs where user_id = $1 and thread_id = $2 and status = 'running' and id <> $3",
        [store.user_id, thread_id, besides],
        expect=0,
    )


def thread_is_busy(store: Store, thread_id: str) -> ConflictError | None:
    """Returns the error to raise when a run is active in the thread; None when none is."""
    running = store.runs.find(1, thread_id=thread_id, status="running")
    if not running:
        return None
    return ConflictError(
        f"Run {running[0].id} is still active in this thread (in {who(store, running[0].process_id)}).",
        "Wait for it to end, cancel it, or use another thread.",
    )


def paused(store: Store, run: RunRecord) -> RunStateRecord:
    """Returns the state of a paused run. Raises `ConflictError` when the run is not paused."""
    state = store.run_states.try_get(run.id)
    if state is None or state.status == "done":
        raise ConflictError(
            f"Run {run.id} is not waiting for approval; its status is {run.status}.",
            "lab.approvals lists the runs that are waiting.",
        )
    return state


def claim(store: Store, run: RunRecord, decided: Mapping[str, Decision]) -> tuple[RunRecord, RunStateRecord]:
    """Claims a paused run in order to resume it: its state becomes `claimed`, and the run `running` in this process.

    Raises `ConflictError` when it is no longer paused, when another process (which the message names) has claimed it, or when its thread
    is busy.
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
                f"Run {run.id} was just decided by another client.", "See lab.approvals for pending calls."
            ) from None
        raise thread_is_busy(store, run.thread_id) or ConflictError(
            f"Run {run.id} changed while it was being claimed.", "Try again."
        ) from None
    return store.runs.from_row(results[3].rows[0]), store.run_states.from_row(results[2].rows[0])


def renew(store: Store, state: RunStateRecord) -> None:
    """Renews a claim. Raises `ConflictError` when it was lost."""
    store.run_states.update(state.run_id, expect={"rev": state.rev, "status": "claimed"}, lease_until=utc_now() + LEASE)


def give_back(store: Store, run: RunRecord, state: RunStateRecord) -> None:
    """Releases a claim without effect: the run is paused again, without decisions."""
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
    """Returns a readable name of a process."""
    if process_id == store.db.process_id:
        return "this process"
    row = store.db.query(store.user_id, "select host, pid from processes where process_id = $1", [process_id]).one()
    return f"process {row[1]} on {row[0]}" if row else f"process {process_id}"


def waiting_calls(state: RunStateRecord) -> tuple[Interruption, ...]:
    make: Callable[..., Interruption] = Interruption  # The stored fields are not checked again.
    return tuple(make(**call) for call in state.interruptions)


def paused_state(
    run: RunRecord,
    state: str,
    snapshot: Mapping[str, Json],
    waiting: Sequence[Interruption],
    before: RunStateRecord | None,
) -> RunStateRecord:
    """Returns the state row of a run that pauses, for the first time or again."""
    calls = tuple(
        {name: value for name, value in asdict(call).items() if value is not None or name not in ("asks", "form")}
        for call in waiting
    )
    fresh = RunStateRecord(
        run_id=run.id, user_id=run.user_id, thread_id=run.thread_id, state=state, agent_snapshot=snapshot, interruptions=calls
    )  # fmt: skip
    return fresh if before is None else replace(fresh, rev=before.rev + 1, created_at=before.created_at)


ASKED = "asked"
"""Kind of the snapshot of a run whose process waits, during a tool call, for the answer to a question of the tool's server."""


def keep_questions(
    store: Store, run: RunRecord, waiting: Sequence[Interruption], before: RunStateRecord | None
) -> tuple[RunRecord, RunStateRecord]:
    """Stores the questions that an active run asks, so that they can be decided; without questions, marks the run as active in this
    process.

    `before` is the state row as last written or claimed by this process. Raises `ConflictError` when it was changed since.
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
    """Passes decisions to the process that waits for them, and follows the run to its end or its next pause.

    Raises `ConflictError` when another client decided first, and `RunError` when that process has died, which ends the run.
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
"""Polling interval for a run in another process, in seconds."""
LOST = "The process that asked has ended, and the tool call with it."
Limit = Literal["budget_usd", "max_tokens_total", "timeout_s", "max_tool_calls"]


def _end_of(run: RunRecord) -> RunEnded:
    if run.status == "completed":
        return RunCompleted(run=run)
    if run.status == "cancelled":
        return RunCancelled(run=run)
    error: dict[str, Json] = {"type": run.error_type, "message": run.error}
    if run.status == "stopped":
        return RunStopped(run=run, limit=cast("Limit", run.metadata["stopped_by"]), error=error)
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
        "Wait for it to end; its answer appears in the same thread.",
    )
