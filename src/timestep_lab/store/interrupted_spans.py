"""Closing what a dead process left open: its spans end as errors, and their traces as interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from timestep_lab.model.clock import to_naive_utc
from timestep_lab.store.base import Statement

ERROR = "interrupted: the process that ran this ended"


def close_open_spans(process_ids: Sequence[str], moment: datetime) -> list[Statement]:
    """Statements for one transaction, over all users: run them as `SYSTEM_USER` when these processes are known to be dead."""
    if not process_ids:
        return []
    places = ", ".join(f"${n}" for n in range(1, len(process_ids) + 1))
    of_dead = f"from core.open_spans where process_id in ({places})"
    error, now = f"${len(process_ids) + 1}", f"${len(process_ids) + 2}"
    params = [*process_ids, ERROR, to_naive_utc(moment)]
    return [
        Statement(
            "insert into core.spans_raw (user_id, trace_id, span_id, parent_id, kind, name, agent, status, error, model, "
            "provider, started_at, ended_at, server, approval, to_agent, io_json, attributes, input) "
            "select user_id, trace_id, span_id, parent_id, kind, name, agent, 'error', cast("
            f"{error} as varchar), model, provider, started_at, greatest(started_at, cast({now} as timestamp)), server, "
            f"approval, to_agent, io_json, attributes, input {of_dead}",
            params,
        ),
        Statement(
            "insert into core.trace_deltas (user_id, trace_id, started_at, ended_at, n_spans, n_open, n_errors, n_turns, "
            "n_generations, n_unpriced, root_error, interrupted) "
            f"select user_id, trace_id, min(started_at), greatest(min(started_at), cast({now} as timestamp)), 0, -count(*), count(*), 0, "
            f"0, 0, bool_or(parent_id is null), cast({error} as varchar) is not null {of_dead} group by user_id, trace_id",
            params,
        ),
        Statement(f"delete {of_dead}", list(process_ids)),
    ]
