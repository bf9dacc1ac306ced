"""A conversation as rows: for the browser's copy, and for the twin that needs no JavaScript."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping

from timestep_lab.model.numbers import cost_text, duration_text, tokens_text
from timestep_lab.model.records import Json, RunRecord, ThreadItem, ThreadRecord
from timestep_lab.model.transcript import transcript_line

Widget = Mapping[str, Json]
"""`{"root": a ChatKit widget's JSON, "copy_text": str}`."""


def item_json(item: ThreadItem, widget: Widget | None = None) -> dict[str, Json]:
    shown = {"widget": dict(widget)} if widget else {}
    return {
        **shown,
        "id": item.id,
        "type": item.type,
        "data": dict(item.data),
        "agent": item.agent,
        "run_id": item.run_id,
    }


def thread_row(thread: ThreadRecord) -> dict[str, Json]:
    return {"id": thread.id, "title": thread.title, "at": thread.updated_at.timestamp() * 1000}


def run_json(run: RunRecord) -> dict[str, Json]:
    tokens = run.usage.input_tokens + run.usage.output_tokens or None  # A stopped run was never told what it took.
    duration = (run.ended_at - run.started_at).total_seconds() * 1000 if run.ended_at else None
    return {
        "id": run.id, "status": run.status, "model": run.model, "duration_ms": duration, "ttft_ms": run.ttft_ms,
        "tokens": tokens, "cost_usd": run.cost_usd if tokens else None, "trace_id": run.trace_id,
    }  # fmt: skip


def run_facts(run: RunRecord) -> str:
    """The line under an answer, for the twin."""
    facts = run_json(run)
    return " · ".join(
        part
        for part in (
            run.model,
            duration_text(facts["duration_ms"]),
            tokens_text(facts["tokens"]),
            cost_text(facts["cost_usd"]),
        )
        if part
    )


def twin_row(item: ThreadItem) -> str:
    data, who, text = item.data, "", ""
    if item.type == "user_message":
        who, text = "You", str(data.get("text", ""))
    elif item.type == "assistant_message":
        who, text = item.agent or "Assistant", str(data.get("text", ""))
    else:
        text = transcript_line(item).replace("`", "").removeprefix("- ")
    if not text:
        return ""
    body = html.escape(text).replace("\n", "<br>")
    return (
        f'<tr><td style="vertical-align:top;text-align:left"><b>{html.escape(who)}</b></td>'
        f'<td style="text-align:left">{body}</td></tr>'
    )


def twin(thread: ThreadRecord | None, items: Iterable[ThreadItem]) -> str:
    """The conversation as an HTML table."""
    rows = "".join(twin_row(item) for item in items)
    title = html.escape((thread.title if thread else None) or "Conversation")
    return f"<h4>{title}</h4><table><tbody>{rows or '<tr><td>Nothing was said yet.</td></tr>'}</tbody></table>"
