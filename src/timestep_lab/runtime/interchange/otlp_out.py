"""Spans as an OTLP/JSON trace request that other tools read: GenAI and OpenInference attributes, and ours for what neither can say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from timestep_lab.model.spans import GenAI, Lab, OpenInference
from timestep_lab.runtime.interchange.lab_rows import FLAT_COLUMNS
from timestep_lab.store.json_text import from_json
from timestep_lab.store.span_rows import INPUT_IS_JSON, OUTPUT_IS_JSON

_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_KIND_WORDS = {
    "agent": "AGENT", "generation": "LLM", "tool": "TOOL", "handoff": "TOOL", "guardrail": "GUARDRAIL", "retrieval": "RETRIEVER", "embedding": "EMBEDDING",
    "task": "CHAIN", "turn": "CHAIN", "other": "CHAIN",
}  # fmt: skip


def otlp_request(rows: Iterable[tuple[Any, ...]]) -> dict[str, Any]:
    """From rows with `FLAT_COLUMNS`. An open span has no end."""
    spans = [_span(dict(zip(FLAT_COLUMNS, row, strict=True))) for row in rows]
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": [_pair("service.name", "timestep-lab")]},
                "scopeSpans": [{"scope": {"name": "timestep_lab"}, "spans": spans}],
            }
        ]
    }


def _span(row: Mapping[str, Any]) -> dict[str, Any]:
    attributes = _attributes(row)
    events, links = attributes.pop(Lab.EVENTS, None), attributes.pop(Lab.LINKS, None)
    span: dict[str, Any] = {
        "traceId": row["trace_id"], "spanId": row["span_id"], "name": row["name"], "kind": 3 if row["kind"] == "generation" else 1,
        "startTimeUnixNano": _nanos(row["started_at"]),
        "attributes": [_pair(name, value) for name, value in attributes.items() if value is not None],
        "status": {"code": 2, "message": row["error"] or "error"} if row["status"] == "error" else {"code": 1 if row["ended_at"] else 0},
    }  # fmt: skip
    if events:
        span["events"] = [
            {"name": event["name"], "timeUnixNano": event["time_unix_nano"], "attributes": _pairs(event["attributes"])}
            for event in events
        ]
    if links:
        span["links"] = [
            {"traceId": link["trace_id"], "spanId": link["span_id"], "attributes": _pairs(link["attributes"])}
            for link in links
        ]
    if row["parent_id"]:
        span["parentSpanId"] = row["parent_id"]
    if row["ended_at"]:
        span["endTimeUnixNano"] = _nanos(row["ended_at"])
    return span


def _attributes(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the sender gave stays as it gave it; what the columns know comes beside it, and nothing they do not know."""
    kind, io_json = row["kind"], row["io_json"] or 0
    generation = kind == "generation"
    known = {
        OpenInference.KIND: _KIND_WORDS[kind],
        GenAI.OPERATION: GenAI.OPERATION_OF.get(kind),
        GenAI.AGENT_NAME: row["agent"],
        GenAI.TOOL_NAME: row["name"] if kind == "tool" else None,
        GenAI.CONVERSATION_ID: row["trace_thread_id"],
        OpenInference.SESSION: row["trace_thread_id"],
        GenAI.REQUEST_MODEL: row["model"],
        OpenInference.MODEL: row["model"],
        GenAI.PROVIDER: row["provider"],
        GenAI.INPUT_TOKENS: row["input_tokens"],
        OpenInference.PROMPT_TOKENS: row["input_tokens"],
        GenAI.OUTPUT_TOKENS: row["output_tokens"],
        OpenInference.COMPLETION_TOKENS: row["output_tokens"],
        GenAI.CACHE_READ_TOKENS: row["cached_tokens"],
        GenAI.REASONING_TOKENS: row["reasoning_tokens"],
        OpenInference.COST_TOTAL: row["cost_usd"],
        GenAI.FINISH_REASONS: [row["stop_reason"]] if row["stop_reason"] and generation else None,
    }
    ours = {
        Lab.KIND: kind,
        Lab.QUEUE_MS: row["queue_ms"],
        Lab.RATE_LIMIT_MS: row["rate_limit_ms"],
        Lab.TTFT_MS: row["ttft_ms"],
        Lab.SERVER: row["server"],
        Lab.APPROVAL: row["approval"],
        Lab.FROM_AGENT: row["agent"] if kind == "handoff" else None,
        Lab.TO_AGENT: row["to_agent"],
        OpenInference.INPUT: row["input"],
        OpenInference.INPUT_MIME: _mime(row["input"], io_json & INPUT_IS_JSON),
        OpenInference.OUTPUT: row["output"],
        OpenInference.OUTPUT_MIME: _mime(row["output"], io_json & OUTPUT_IS_JSON),
    }
    given = from_json(row["attributes"] or "{}")
    told = {name: value for name, value in known.items() if value is not None and given.get(name) is None}
    return {**given, **told, **{name: value for name, value in ours.items() if value is not None}}


def _mime(text: str | None, is_json: int) -> str | None:
    return None if text is None else "application/json" if is_json else "text/plain"


def _pairs(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [_pair(name, value) for name, value in attributes.items()]


def _pair(name: str, value: Any) -> dict[str, Any]:
    return {"key": name, "value": _any_value(value)}


def _any_value(value: Any) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int() if abs(value) < 2**63:
            return {"intValue": str(value)}
        case float() | int():
            return {"doubleValue": float(value)}
        case str():
            return {"stringValue": value}
        case list():
            return {"arrayValue": {"values": [_any_value(inner) for inner in value]}}
        case dict():
            return {"kvlistValue": {"values": [_pair(str(key), inner) for key, inner in value.items()]}}
    return {"stringValue": json.dumps(value)} if value is not None else {}


def _nanos(moment: datetime) -> str:
    return str((moment - _EPOCH) // _MICROSECOND * 1000)
