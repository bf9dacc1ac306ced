"""Events and links of spans: kept as attributes, and the messages that events carry made the messages of their span.

Events come within their span, or as log records of their own, before the span or after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from timestep_lab.model.spans import GenAI, Lab, OpenInference
from timestep_lab.runtime.interchange.conventions import kind_of, span_row
from timestep_lab.runtime.interchange.messages import event_message, plain
from timestep_lab.store.json_text import from_json, to_json
from timestep_lab.store.span_rows import AT, INPUT_IS_JSON, OUTPUT_IS_JSON, Row

_LIFTED = (
    GenAI.INPUT_MESSAGES, GenAI.OUTPUT_MESSAGES, GenAI.SYSTEM_INSTRUCTIONS, GenAI.PROMPT_DEPRECATED, GenAI.COMPLETION_DEPRECATED,
)  # fmt: skip
"""What an event may carry in the place of its span."""
_ROLES = {f"gen_ai.{role}.message": role for role in ("system", "user", "assistant", "tool")}
_CHOICE = "gen_ai.choice"


def span_event(name: str, time: int, attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "time_unix_nano": str(time), "attributes": attributes}


def span_link(trace_id: str, span_id: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"trace_id": trace_id, "span_id": span_id, "attributes": attributes}


def keep_events(
    attributes: dict[str, Any],
    events: list[dict[str, Any]],
    links: list[dict[str, Any]],
    name: str,
    scope: str,
    parent_id: str | None,
) -> None:
    """Events and links as attributes; messages that events carry as the attributes that carry messages, unless the span has those."""
    if links:
        attributes[Lab.LINKS] = links
    if not events:
        return
    attributes[Lab.EVENTS] = events
    if Lab.KIND in attributes:
        return  # Exported from a lab, with its input and output.
    asked: list[dict[str, Any]] = []
    answered: list[dict[str, Any]] = []
    for event in events:
        said = event["attributes"]
        if (role := _ROLES.get(event["name"])) is not None:
            asked.append(event_message(role, said, said.get("content")))
        elif event["name"] == _CHOICE:
            answered.append(event_message("assistant", said, said.get("message", said.get("content"))))
        else:
            for lifted in _LIFTED:
                if lifted in said:
                    attributes.setdefault(lifted, said[lifted])
    kind = kind_of(name, attributes, scope, parent_id)
    if kind == "tool":
        for messages, key in ((asked, GenAI.TOOL_CALL_ARGUMENTS), (answered, GenAI.TOOL_CALL_RESULT)):
            if messages:
                attributes.setdefault(key, plain(messages[-1]))
        return
    generation = kind == "generation"
    into = GenAI.INPUT_MESSAGES if generation else OpenInference.INPUT
    out = GenAI.OUTPUT_MESSAGES if generation else OpenInference.OUTPUT
    for messages, key in ((asked, into), (answered, out)):
        if messages:
            attributes.setdefault(key, messages)


def exception_text(events: Iterable[Mapping[str, Any]]) -> str:
    for event in events:
        if event["name"] == "exception":
            attributes = event["attributes"]
            kind, message = attributes.get("exception.type"), attributes.get("exception.message")
            return ": ".join(str(part) for part in (kind, message) if part) or "error"
    return "error"


def with_events(row: Row, events: Iterable[Mapping[str, Any]]) -> Row:
    """A finished span's row with events that came apart from it; the same row when it has them all."""
    attributes = from_json(row[AT["attributes"]] or "{}")
    known: list[dict[str, Any]] = attributes.get(Lab.EVENTS, [])
    new = [dict(event) for event in events if event not in known]
    if not new:
        return row
    every = sorted([*known, *new], key=lambda event: (int(event["time_unix_nano"]), to_json(event)))
    before, after = _carried(row, known), _carried(row, every)
    changed = list(row)
    attributes[Lab.EVENTS] = every
    changed[AT["attributes"]] = to_json(attributes)
    for side, bit in (("input", INPUT_IS_JSON), ("output", OUTPUT_IS_JSON)):
        # Unless the span itself says it.
        if row[AT[side]] is None or row[AT[side]] == before[AT[side]]:
            changed[AT[side]] = after[AT[side]]
            changed[AT["io_json"]] = (changed[AT["io_json"]] & ~bit) | (after[AT["io_json"]] & bit)
    changed[AT["stop_reason"]] = row[AT["stop_reason"]] or after[AT["stop_reason"]]
    return tuple(changed)


def _carried(row: Row, events: list[dict[str, Any]]) -> Row:
    """The span as it would be if it said nothing but these events."""
    operation = GenAI.OPERATION_OF.get(row[AT["kind"]])
    attributes: dict[str, Any] = {} if operation is None else {GenAI.OPERATION: operation}
    name = row[AT["name"]]
    keep_events(attributes, events, [], name, "", row[AT["parent_id"]])
    ids = row[AT["user_id"]], row[AT["trace_id"]], row[AT["span_id"]], row[AT["parent_id"]]
    return span_row(*ids, name, row[AT["started_at"]], row[AT["ended_at"]], None, attributes)
