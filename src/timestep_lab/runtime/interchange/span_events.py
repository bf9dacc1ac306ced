"""Events and links of spans: stored as attributes; messages carried by events become the messages of their span.

Events arrive inside their span, or as separate log records, before or after the span.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from timestep_lab.model.spans import GenAI, Lab, OpenInference
from timestep_lab.runtime.interchange.conventions import Attributes, kind_of, span_row
from timestep_lab.runtime.interchange.messages import (
    Message,
    event_fields,
    event_message,
    found_document,
    plain,
    say_nothing,
)
from timestep_lab.store.spans import AT, INPUT_IS_JSON, OUTPUT_IS_JSON, Row, StoredEvent, StoredLink, events_of
from timestep_lab.store.table import from_json, to_json

_LIFTED = (
    GenAI.INPUT_MESSAGES, GenAI.OUTPUT_MESSAGES, GenAI.SYSTEM_INSTRUCTIONS, GenAI.PROMPT_DEPRECATED, GenAI.COMPLETION_DEPRECATED,
)  # fmt: skip
"""Attributes that an event may carry instead of its span."""
_ROLES = {f"gen_ai.{role}.message": role for role in ("system", "user", "assistant", "tool")}
_CHOICE = "gen_ai.choice"
_FOUND = {name: f"{name}." for name in ("db.query.result", "db.search.result")}
"""Events of vector databases, one for each document found, and the prefix of their attributes."""
_TOOL_OUTPUT = "tool.output"
"""The event of Claude Code with what a tool returned."""
_DOCUMENTS_FOUND = "gen_ai.retrieval.documents"


def span_event(name: str, time: int, attributes: Mapping[str, object]) -> StoredEvent:
    return {"name": name, "time_unix_nano": str(time), "attributes": attributes}


def span_link(trace_id: str, span_id: str, attributes: Mapping[str, object]) -> StoredLink:
    return {"trace_id": trace_id, "span_id": span_id, "attributes": attributes}


def keep_events(
    attributes: Attributes,
    events: list[StoredEvent],
    links: list[StoredLink],
    name: str,
    scope: str,
    parent_id: str | None,
) -> None:
    """Stores events and links as attributes, and messages carried by events as message attributes, unless the span has those."""
    if links:
        attributes[Lab.LINKS] = links
    if not events:
        return
    attributes[Lab.EVENTS] = events
    if Lab.KIND in attributes:
        return  # Exported from a lab, with its input and output.
    asked: list[Message] = []
    answered: list[Message] = []
    documents: list[Message] = []
    for event in events:
        fields = event_fields(event["attributes"])
        if (role := _ROLES.get(event["name"])) is not None:
            asked.append(event_message(role, fields))
        elif event["name"] == _CHOICE:
            answered.append(event_message("assistant", fields))
        elif event["name"] in _LIFTED and isinstance(whole := fields.get("content"), list):
            attributes.setdefault(event["name"], whole)
        elif event["name"] == _TOOL_OUTPUT and (output := _first_of(fields, "output", "content", "diff")) is not None:
            attributes.setdefault(GenAI.TOOL_CALL_RESULT, output)
        elif (prefix := _FOUND.get(event["name"])) is not None:
            documents.append(found_document(fields, prefix))
        else:
            for lifted in _LIFTED:
                if lifted in fields:
                    attributes.setdefault(lifted, fields[lifted])
    if documents:
        attributes.setdefault(_DOCUMENTS_FOUND, documents)
    if not answered and asked and asked[-1]["role"] == "assistant":  # Azure's agents: the last one is the answer.
        answered.append(asked.pop())
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
        if messages and (generation or not say_nothing(messages)):
            attributes.setdefault(key, messages)


def _first_of(fields: Mapping[str, object], *names: str) -> object:
    return next((fields[name] for name in names if name in fields), None)


def with_events(row: Row, events: Iterable[StoredEvent]) -> Row:
    """Adds separately received events to a finished span's row; returns the same row if it already has all of them."""
    attributes = from_json(row[AT["attributes"]] or "{}")
    known = events_of(attributes)
    new: list[StoredEvent] = [{**event} for event in events if event not in known]
    if not new:
        return row
    every = sorted([*known, *new], key=lambda event: (int(event["time_unix_nano"]), to_json(event)))
    before, after = _carried(row, known), _carried(row, every)
    changed = list(row)
    attributes[Lab.EVENTS] = every
    changed[AT["attributes"]] = to_json(attributes)
    for side, bit in (("input", INPUT_IS_JSON), ("output", OUTPUT_IS_JSON)):
        # Unless the span itself states it.
        if row[AT[side]] is None or row[AT[side]] == before[AT[side]]:
            changed[AT[side]] = after[AT[side]]
            changed[AT["io_json"]] = (changed[AT["io_json"]] & ~bit) | (after[AT["io_json"]] & bit)
    changed[AT["stop_reason"]] = row[AT["stop_reason"]] or after[AT["stop_reason"]]
    return tuple(changed)


def _carried(row: Row, events: list[StoredEvent]) -> Row:
    """Returns the row of a span that has nothing but these events."""
    operation = GenAI.OPERATION_OF.get(row[AT["kind"]])
    attributes: Attributes = {} if operation is None else {GenAI.OPERATION: operation}
    name = row[AT["name"]]
    keep_events(attributes, events, [], name, "", row[AT["parent_id"]])
    ids = row[AT["user_id"]], row[AT["trace_id"]], row[AT["span_id"]], row[AT["parent_id"]]
    return span_row(*ids, name, row[AT["started_at"]], row[AT["ended_at"]], None, attributes)
