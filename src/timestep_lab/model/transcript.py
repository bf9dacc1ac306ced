"""A conversation as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from timestep_lab.model.records import ThreadItem


def transcript(items: Iterable[ThreadItem], title: str | None = None) -> str:
    lines = [f"# {title}"] if title else []
    return "\n\n".join([*lines, *(line for item in items if (line := transcript_line(item)))])


def transcript_line(item: ThreadItem) -> str:
    data = item.data
    if item.type == "user_message":
        return f"**You:** {data.get('text', '')}"
    if item.type == "assistant_message":
        cut = " *(incomplete)*" if data.get("status") == "incomplete" else ""
        return f"**{item.agent or 'Assistant'}:** {data.get('text', '')}{cut}"
    if item.type == "tool_call":
        return f"- `{data.get('name')}({data.get('arguments') or ''})` → {data.get('status')}"
    if item.type == "handoff":
        return f"- {data.get('from_agent')} handed off to {data.get('to_agent')}"
    if item.type == "approval":
        return f"- approval of `{data.get('name')}`: {data.get('decision') or 'waiting'}"
    if item.type == "widget":
        return str(data.get("copy_text") or "")
    return ""
