"""Conversion between stored thread items and ChatKit items.

An item written by ChatKit is stored with its complete JSON and returned unchanged; messages also have their text, under
the names used by other readers of a thread. An item written by a run is shown as the closest ChatKit item:

    tool_call            its widget if the result has one, else a workflow with one task
    handoff, error       a task
    reasoning            a workflow with a thought
    approval             a widget with buttons, without them once decided
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import cast

from chatkit import types as ck
from pydantic import TypeAdapter

from timestep_lab.model.codec import Json, objects_of
from timestep_lab.model.records import ThreadItem
from timestep_lab.runtime.tools.weather import widget_of

# --- ChatKit's datetimes are naive local time; the store's are aware UTC


def to_utc(value: datetime) -> datetime:
    return value.astimezone(UTC)


def to_local(value: datetime) -> datetime:
    return value.astimezone().replace(tzinfo=None)


# --- The approval card for a tool call, as a ChatKit widget


APPROVE, REJECT, ALWAYS = "approval.approve", "approval.reject", "approval.always"
DECISIONS: Mapping[str, Mapping[str, Json]] = {
    APPROVE: {"decision": "approved"},
    REJECT: {"decision": "rejected"},
    ALWAYS: {"decision": "approved", "always": True},
}
"""Action type to the decision passed to `runner.resume`."""


def approval_card(data: Mapping[str, Json]) -> dict[str, Json]:
    """The widget for the data of an `approval` item. A decided card has no buttons."""
    where = f" ({data['server']})" if data.get("server") else ""
    children: list[Json] = [
        {"type": "Title", "value": f"Call {data['name']}{where}?", "size": "sm"},
        {"type": "Markdown", "value": f"```json\n{_indented(_text(data, 'arguments'))}\n```"},
    ]
    if data.get("asks"):
        children[0] = {"type": "Title", "value": f"{data['name']}{where} asks you", "size": "sm"}
        children.append({"type": "Caption", "value": str(data["reason"])})
        if data.get("form"):
            filled = "Approving sends the form's defaults. To fill it in, open Approvals in the lab."
            children[1] = {"type": "Caption", "value": filled}
    elif data.get("reason"):
        children.append({"type": "Caption", "value": f"Asks because {data['reason']}"})
    decision = data.get("decision")
    children.append(_decided(decision, data.get("message")) if decision else _buttons(data))
    return {"type": "Card", "key": "approval", "size": "sm", "children": children}


def _buttons(data: Mapping[str, Json]) -> dict[str, Json]:
    named = {"run_id": data["run_id"], "call_id": data["call_id"]}

    def button(label: str, action: str, **look: Json) -> dict[str, Json]:
        click: dict[str, Json] = {"type": action, "payload": named, "handler": "server", "loadingBehavior": "container"}
        return {"type": "Button", "label": label, "onClickAction": click, **look}

    row = [
        button("Approve", APPROVE, style="primary"),
        button("Reject", REJECT, style="secondary"),
        *([] if data.get("asks") else [button("Always", ALWAYS, style="secondary", variant="ghost")]),
    ]
    return {"type": "Row", "gap": 2, "children": row}


def _decided(decision: Json, message: Json) -> dict[str, Json]:
    approved = decision == "approved"
    badge: dict[str, Json] = {
        "type": "Badge",
        "label": "Approved" if approved else "Rejected",
        "color": "success" if approved else "danger",
    }
    captions: list[dict[str, Json]] = [{"type": "Caption", "value": message}] if message else []
    return {"type": "Row", "gap": 2, "align": "center", "children": [badge, *captions]}


def _text(data: Mapping[str, Json], name: str) -> str:
    """A field of an item that is always text."""
    return cast("str", data[name])


def _indented(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments or "{}"), indent=2, ensure_ascii=False)
    except ValueError:
        return arguments


ITEM: TypeAdapter[ck.ThreadItem] = TypeAdapter(ck.ThreadItem)
WRITTEN_BY_CHATKIT = "created_at"
"""A key that occurs only in the JSON of ChatKit items."""
LONGEST = 4000
"""Maximum number of characters of a tool's arguments or result in a task."""


def to_record(item: ck.ThreadItem, user_id: str) -> ThreadItem:
    data: dict[str, Json] = item.model_dump(mode="json", by_alias=True)
    if isinstance(item, ck.UserMessageItem | ck.AssistantMessageItem):
        data = {"attachments": [], **data, "text": message_text(item), "status": "completed", "annotations": []}
    return ThreadItem(
        id=item.id, thread_id=item.thread_id, user_id=user_id, type=item.type, data=data,
        created_at=to_utc(item.created_at),
    )  # fmt: skip


def to_item(record: ThreadItem) -> ck.ThreadItem:
    if WRITTEN_BY_CHATKIT in record.data:
        return ITEM.validate_python(dict(record.data))
    plain = _SHOWN.get(record.type, _unknown)(record)
    ids = {"id": record.id, "thread_id": record.thread_id, "created_at": to_local(record.created_at)}
    return ITEM.validate_python({**plain, **ids})


def message_text(item: ck.UserMessageItem | ck.AssistantMessageItem) -> str:
    """The text of a message. Tags become `@name`; quoted text comes first, marked as a quotation."""
    parts = [f"@{p.text}" if isinstance(p, ck.UserMessageTagContent) else p.text for p in item.content]
    quoted = item.quoted_text if isinstance(item, ck.UserMessageItem) else None
    quote = "\n".join(f"> {line}" for line in quoted.splitlines()) + "\n\n" if quoted else ""
    return quote + "".join(parts)


# -- stored items as ChatKit's JSON


def _user_message(record: ThreadItem) -> dict[str, Json]:
    files = [
        {"type": "file", "id": a["id"], "name": a["name"], "mime_type": a["mime_type"]}
        for a in objects_of(record.data.get("attachments"))
        if a.get("id")
    ]
    content = [{"type": "input_text", "text": record.data["text"]}]
    return {"type": "user_message", "content": content, "attachments": files, "inference_options": {}}


def _assistant_message(record: ThreadItem) -> dict[str, Json]:
    text = record.data["text"]
    content = [{"type": "output_text", "text": text, "annotations": citations(record)}] if text else []
    return {"type": "assistant_message", "content": content}


def citations(record: ThreadItem) -> list[Json]:
    """Links cited by the model."""
    return [
        {"type": "annotation", "source": {"type": "url", "url": a["url"], "title": a.get("title") or a["url"]}, "index": a.get("end_index")}
        for a in objects_of(record.data.get("annotations"))
        if a.get("url")
    ]  # fmt: skip


def _reasoning(record: ThreadItem) -> dict[str, Json]:
    tasks = [{"type": "thought", "content": record.data["text"]}] if record.data["text"] else []
    return {"type": "workflow", "workflow": {"type": "reasoning", "tasks": tasks}}


def _tool_call(record: ThreadItem) -> dict[str, Json]:
    data = record.data
    output = data["output"]
    widget = widget_of(output) if data["status"] == "completed" and isinstance(output, str) else None
    if widget:
        return {"type": "widget", "widget": widget.root, "copy_text": widget.copy_text}
    working: dict[Json, str] = {"in_progress": "loading", "needs_approval": "none"}
    task = {
        "type": "custom", "title": _title(data), "icon": "bolt", "content": _call_text(data),
        "status_indicator": working.get(data["status"], "complete"),
    }  # fmt: skip
    return {"type": "workflow", "workflow": {"type": "custom", "tasks": [task], "summary": {"title": _title(data)}}}


def _title(data: Mapping[str, Json]) -> str:
    where = f" ({data['server']})" if data.get("server") else ""
    ended: dict[Json, str] = {
        "failed": ": failed",
        "rejected": ": rejected",
        "needs_approval": ": waiting for approval",
    }
    return f"{data['name']}{where}{ended.get(data['status'], '')}"


def _call_text(data: Mapping[str, Json]) -> str:
    parts = [_cut(str(data[name])) for name in ("arguments", "output") if data.get(name)]
    return "\n\n".join(parts)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _handoff(record: ThreadItem) -> dict[str, Json]:
    title = f"{record.data['from_agent']} handed off to {record.data['to_agent']}"
    return {"type": "task", "task": {"type": "custom", "title": title, "icon": "agent"}}


def _approval(record: ThreadItem) -> dict[str, Json]:
    return {"type": "widget", "widget": approval_card(record.data)}


def _as_it_is(record: ThreadItem) -> dict[str, Json]:
    return {**record.data, "type": record.type}


def _error(record: ThreadItem) -> dict[str, Json]:
    return {"type": "task", "task": {"type": "custom", "title": record.data["message"], "icon": "info"}}


def _unknown(record: ThreadItem) -> dict[str, Json]:
    return {"type": "task", "task": {"type": "custom", "title": record.type.replace("_", " ")}}


_SHOWN: Mapping[str, Callable[[ThreadItem], dict[str, Json]]] = {
    "user_message": _user_message,
    "assistant_message": _assistant_message,
    "reasoning": _reasoning,
    "tool_call": _tool_call,
    "handoff": _handoff,
    "approval": _approval,
    "widget": _as_it_is,
    "client_tool_call": _as_it_is,
    "error": _error,
}
