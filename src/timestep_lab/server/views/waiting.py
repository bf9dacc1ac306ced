"""Every tool call that waits for a person, as plain rows."""

from __future__ import annotations

from typing import Any

from timestep_lab.model.clock import iso


def waiting_calls(lab: Any) -> list[dict[str, Any]]:
    """Oldest first, one row a call; started by whichever process. Blocks."""
    rows = []
    for run in lab.approvals.list():
        record = run.record
        about = {
            "run_id": record.id, "thread_id": record.thread_id, "trace_id": record.trace_id, "input": record.input[:400],
            "model": record.model, "since": iso(record.started_at),
        }  # fmt: skip
        rows += [
            {
                **about, "call_id": call.call_id, "name": call.name, "server": call.server, "arguments": call.arguments,
                "agent": call.agent, "reason": call.reason,
            }
            for call in run.interruptions
        ]  # fmt: skip
    return rows
