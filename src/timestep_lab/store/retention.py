"""`db prune`: forget traces that are older than so many days. Threads, runs and what people wrote stay.

Whole days go: on Postgres by dropping their partitions. Bodies of shared messages stay too, because a running process may remember
that they are stored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from timestep_lab.model.clock import to_naive_utc, utc_now
from timestep_lab.model.errors import UsageError
from timestep_lab.store.base import SYSTEM_USER, Change, Database, Statement

_UNITS = {"d": 1, "w": 7, "m": 30, "y": 365}


@dataclass(frozen=True, slots=True)
class Pruned:
    """`before`: traces that began earlier are gone; midnight UTC."""

    before: datetime
    traces: int
    spans: int


def parse_age(text: str) -> timedelta:
    """`30d`, `8w`, `6m` (of 30 days), `1y`. Raises `UsageError`."""
    found = re.fullmatch(r"(\d+)\s*([dwmy])", text.strip().lower())
    if not found or not int(found[1]):
        raise UsageError(f"{text!r} is no age.", "Write a number and d, w, m or y, such as 30d.")
    return timedelta(days=int(found[1]) * _UNITS[found[2]])


def prune(db: Database, older_than: timedelta, *, dry_run: bool = False) -> Pruned:
    """All users' traces that began on a day before `older_than` ago. With `dry_run`, only count them.

    Raises `StoreError`; then everything is as it was.
    """
    before = (to_naive_utc(utc_now()) - older_than).replace(hour=0, minute=0, second=0, microsecond=0)
    source = "core.trace_rollups" if db.dialect == "postgres" else "core.trace_deltas"
    old = f"select user_id, trace_id from {source} group by user_id, trace_id having min(started_at) < $1"
    # A trace may have spans on the days that stay, and one that stays none on the days that go.
    spans_of_old = "(user_id, trace_id) in (select user_id, trace_id from old)"
    counts = db.query(
        SYSTEM_USER,
        f"with old as ({old}) select (select count(*) from old), (select count(*) from core.spans_raw where {spans_of_old}), "
        "(select count(distinct user_id) from old)",
        [before],
    ).rows[0]
    pruned = Pruned(before, int(counts[0]), int(counts[1]))
    if dry_run or not pruned.traces:
        return pruned
    users = db.query(SYSTEM_USER, f"with old as ({old}) select distinct user_id from old", [before]).rows
    among_old = f"(user_id, trace_id) in ({old})"
    statements = [
        Statement(
            "delete from core.score_rows where target = 'span' and (user_id, target_id) in "
            f"(select user_id, span_id from core.spans_raw where {among_old})",
            [before],
        ),
        Statement(f"delete from core.score_rows where target = 'trace' and (user_id, target_id) in ({old})", [before]),
    ]
    if db.dialect == "postgres":
        statements.append(Statement("select core.drop_days_before($1)", [before.date()]))
    statements += [
        Statement(f"delete from core.{table} where {among_old}", [before])
        for table in ("spans_raw", "open_spans", "traces_raw", "repeated_calls", source.removeprefix("core."))
    ]
    statements.append(Statement("delete from core.waiting_events where received_at < $1", [before]))
    db.write(SYSTEM_USER, statements, changes=[Change("traces", user_id, "") for (user_id,) in users])
    return pruned
