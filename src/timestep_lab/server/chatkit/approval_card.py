"""The card that asks a person whether a tool may be called, as a ChatKit widget."""

from __future__ import annotations

import json
from collections.abc import Mapping

from timestep_lab.model.records import Json

APPROVE, REJECT, ALWAYS = "approval.approve", "approval.reject", "approval.always"
DECISIONS: Mapping[str, Mapping[str, Json]] = {
    APPROVE: {"decision": "approved"},
    REJECT: {"decision": "rejected"},
    ALWAYS: {"decision": "approved", "always": True},
}
"""Action type to what `runner.resume` takes."""


def approval_card(data: Mapping[str, Json]) -> dict[str, Json]:
    """`data` is that of an `approval` item. A decided card has no buttons."""
    where = f" ({data['server']})" if data.get("server") else ""
    children: list[Json] = [
        {"type": "Title", "value": f"Call {data['name']}{where}?", "size": "sm"},
        {"type": "Markdown", "value": f"```json\n{_indented(data['arguments'])}\n```"},
    ]
    if data.get("reason"):
        children.append({"type": "Caption", "value": f"Asks because {data['reason']}"})
    decision = data.get("decision")
    children.append(_decided(decision, data.get("message")) if decision else _buttons(data))
    return {"type": "Card", "key": "approval", "size": "sm", "children": children}


def _buttons(data: Mapping[str, Json]) -> dict[str, Json]:
    named = {"run_id": data["run_id"], "call_id": data["call_id"]}

    def button(label: str, action: str, **look: Json) -> dict[str, Json]:
        click = {"type": action, "payload": named, "handler": "server", "loadingBehavior": "container"}
        return {"type": "Button", "label": label, "onClickAction": click, **look}

    row = [
        button("Approve", APPROVE, style="primary"),
        button("Reject", REJECT, style="secondary"),
        button("Always", ALWAYS, style="secondary", variant="ghost"),
    ]
    return {"type": "Row", "gap": 2, "children": row}


def _decided(decision: str, message: str | None) -> dict[str, Json]:
    approved = decision == "approved"
    badge = {
        "type": "Badge",
        "label": "Approved" if approved else "Rejected",
        "color": "success" if approved else "danger",
    }
    said = [{"type": "Caption", "value": message}] if message else []
    return {"type": "Row", "gap": 2, "align": "center", "children": [badge, *said]}


def _indented(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments or "{}"), indent=2, ensure_ascii=False)
    except ValueError:
        return arguments
