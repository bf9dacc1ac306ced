"""After a run that ended early, the model's log is brought up to what the reader's thread says.

The SDK writes a turn to the session when the turn is through. A run that was cancelled, failed or killed inside one leaves in the thread
what was already said and done; without it the model would not know, and might do it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timestep_lab.model.errors import ConflictError
from timestep_lab.model.records import RunRecord, ThreadItem
from timestep_lab.runtime.session import is_output

if TYPE_CHECKING:
    from timestep_lab.store.store import Store

COMPLETED = "session_completed"
"""Marks, in a run's metadata, an interrupted run whose session was completed."""


def complete_session(store: Store, run: RunRecord) -> None:
    """Append the finished tool calls and the answers of `run` that its session does not hold."""
    items = [item for item in store.threads.all_items(run.thread_id) if item.run_id == run.id]
    log = store.threads.session_items(run.thread_id)
    asked = {entry["call_id"] for entry in log if entry.get("call_id") and not is_output(entry)}
    answered = {entry["call_id"] for entry in log if is_output(entry)}
    said = [_text(entry) for entry in log if entry.get("role") == "assistant"]
    missing: list[dict[str, Any]] = []
    for item in items:
        if item.type == "tool_call" and item.data["output"] is not None and item.data["call_id"] not in answered:
            missing += _call(item, asked=item.data["call_id"] in asked)
        elif item.type == "assistant_message" and item.data["text"]:
            # Compared as a multiset: the same sentence may have been said twice.
            if item.data["text"] in said:
                said.remove(item.data["text"])
            else:
                missing.append({"role": "assistant", "content": item.data["text"]})
    store.threads.append_session_items(run.thread_id, missing, run_id=run.id)


def complete_interrupted(store: Store, thread_id: str) -> None:
    """Do so for every run of the thread whose process died."""
    for run in store.runs.find(thread_id=thread_id, status="interrupted"):
        if run.metadata.get(COMPLETED):
            continue
        try:
            store.runs.update(run.id, expect={"status": "interrupted"}, metadata={**run.metadata, COMPLETED: True})
        except ConflictError:
            continue
        complete_session(store, run)


def _call(item: ThreadItem, *, asked: bool) -> list[dict[str, Any]]:
    data = item.data
    call = {
        "type": "function_call", "call_id": data["call_id"], "name": data["name"], "arguments": data["arguments"] or "{}",
    }  # fmt: skip
    answer = {"type": "function_call_output", "call_id": data["call_id"], "output": data["output"]}
    return [answer] if asked else [call, answer]


def _text(entry: dict[str, Any]) -> str:
    content = entry.get("content")
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())
