"""Runs that waited for approval and whose resume died: they wait again.

What had finished by then is in the thread and is not done again; what had not is asked about anew.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from timestep_lab.store.base import SYSTEM_USER, Database, Statement
from timestep_lab.types.clock import to_naive_utc, utc_now

RunKey = tuple[str, str]
"""(user_id, run_id)"""


@dataclass(frozen=True, slots=True)
class Claim:
    """`calls`: ids of the calls that waited."""

    calls: frozenset[str]
    lease_until: datetime | None


def claimed_runs(db: Database) -> Mapping[RunKey, Claim]:
    """Runs that somebody is resuming, over all users."""
    rows = db.query(
        SYSTEM_USER, "select user_id, run_id, interruptions, lease_until from core.run_states where status = 'claimed'"
    ).rows
    return {
        (user_id, run_id): Claim(frozenset(call["call_id"] for call in _json(calls)), lease_until)
        for user_id, run_id, calls, lease_until in rows
    }


def offer_again(
    db: Database, user_id: str, thread_id: str, run_id: str, process_id: str | None, calls: Collection[str]
) -> list[Statement]:
    """Statements that put a run back to where it waits for approval, if it still runs under `process_id`."""
    now = to_naive_utc(utc_now())
    statements = [
        Statement(
            "update core.run_states set status = 'pending', rev = rev + 1, claimed_by = null, lease_until = null, decisions = '{}', "
            "updated_at = $3 where user_id = $1 and run_id = $2 and status = 'claimed' and exists (select 1 from core.runs "
            "where user_id = $1 and id = $2 and status = 'running' and process_id = $4)",
            [user_id, run_id, now, process_id],
        ),
        Statement(
            "update core.runs set status = 'needs_approval' "
            "where user_id = $1 and id = $2 and process_id = $3 and status = 'running'",
            [user_id, run_id, process_id],
        ),
    ]
    rows = db.query(
        SYSTEM_USER,
        "select id, type, data from core.thread_items where user_id = $1 and thread_id = $2 and run_id = $3",
        [user_id, thread_id, run_id],
    ).rows
    for item_id, kind, stored in rows:
        data: dict[str, Any] = dict(_json(stored))
        if kind == "tool_call" and data["call_id"] in calls and data.get("output") is None:
            data |= {"status": "needs_approval"}
        elif kind == "tool_call" and data.get("status") == "in_progress":
            data |= {"status": "failed", "error": "The process that ran this ended before the call did."}
        elif kind == "approval" and data["call_id"] in calls:
            data |= {"decision": None, "message": ""}
        elif data.get("status") == "in_progress":
            data |= {"status": "incomplete"}
        else:
            continue
        statements.append(
            Statement(
                "update core.thread_items set data = $3 where user_id = $1 and id = $2",
                [user_id, item_id, json.dumps(data, ensure_ascii=False, separators=(",", ":"))],
            )
        )
    return statements


def _json(stored: Any) -> Any:
    return json.loads(stored) if isinstance(stored, str | bytes) else stored
