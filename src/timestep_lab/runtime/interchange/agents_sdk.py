"""What the Agents SDK's own exporter sends: objects `trace` and `trace.span`, alone, in a list, under `data`, or one a line."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from timestep_lab.model.clock import parse_iso, to_naive_utc
from timestep_lab.model.spans import GenAI, Lab, OpenInference
from timestep_lab.runtime.interchange.conventions import span_row
from timestep_lab.runtime.interchange.decoded import Decoded
from timestep_lab.store.imported_trace import TOLD

TRACE, SPAN = "trace", "trace.span"
_KINDS = {
    "agent": "agent", "generation": "generation", "response": "generation", "function": "tool", "handoff": "handoff",
    "guardrail": "guardrail", "task": "task", "turn": "turn", "transcription": "generation", "speech": "generation",
}  # fmt: skip
_TRACE_ID = re.compile(r"(?:trace_)?([0-9a-f]{32})")
_SPAN_ID = re.compile(r"(?:span_)?([0-9a-f]{16})[0-9a-f]*")


def is_sdk_export(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("object") in (TRACE, SPAN)


def read_sdk_export(objects: Iterable[Mapping[str, Any]], user_id: str) -> Decoded:
    """Objects that are neither are counted as rejected."""
    decoded = Decoded(user_id)
    for found in objects:
        try:
            if found.get("object") == TRACE:
                told = {
                    "workflow": found.get("workflow_name") or None,
                    "thread_id": found.get("group_id") or None,
                    "metadata": {**(found.get("metadata") or {}), Lab.SDK_ID: found["id"]},
                }
                decoded.learn(_trace_id(str(found["id"])), TOLD, told)
            elif found.get("object") == SPAN:
                decoded.spans.append(_span(found, user_id))
            else:
                decoded.reject(f"An object {found.get('object')!r} is neither a trace nor a span.")
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            decoded.reject(f"A span could not be read: {error!r}")
    return decoded.finish()


def _span(found: Mapping[str, Any], user_id: str) -> tuple[Any, ...]:
    data: Mapping[str, Any] = found["span_data"]
    inner = data.get("data") if isinstance(data.get("data"), Mapping) else {}
    assert isinstance(inner, Mapping)
    # Tasks and turns are exported as custom spans that say what they are.
    kind = _KINDS.get(str(inner.get("sdk_span_type") or data["type"]), "other")
    attributes: dict[str, Any] = {Lab.KIND: kind, Lab.SDK_ID: found["id"]}
    attributes.update(_of_kind(kind, data, inner))
    error = found.get("error")
    ended_at = found.get("ended_at")
    return span_row(
        user_id, _trace_id(str(found["trace_id"])), _span_id(str(found["id"])),
        _span_id(str(found["parent_id"])) if found.get("parent_id") else None,
        str(inner.get("name") or data.get("name") or data.get("model") or data["type"]),
        to_naive_utc(parse_iso(found["started_at"])), to_naive_utc(parse_iso(ended_at)) if ended_at else None,
        str(error.get("message") or error) if isinstance(error, Mapping) else str(error) if error else None,
        {name: value for name, value in attributes.items() if value is not None},
    )  # fmt: skip


def _of_kind(kind: str, data: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    match kind:
        case "generation":
            usage = data.get("usage") or {}
            return {
                GenAI.REQUEST_MODEL: data.get("model"), GenAI.PROVIDER: "openai" if data["type"] == "response" else None,
                GenAI.INPUT_TOKENS: usage.get("input_tokens", usage.get("prompt_tokens")),
                GenAI.OUTPUT_TOKENS: usage.get("output_tokens", usage.get("completion_tokens")),
                GenAI.RESPONSE_ID: data.get("response_id"), "model_config": data.get("model_config") or None,
                OpenInference.INPUT: data.get("input"), OpenInference.OUTPUT: data.get("output"),
            }  # fmt: skip
        case "tool":
            server = (data.get("mcp_data") or {}).get("server")
            return {
                OpenInference.INPUT: data.get("input"),
                OpenInference.OUTPUT: data.get("output"),
                Lab.SERVER: server,
            }
        case "handoff":
            return {Lab.FROM_AGENT: data.get("from_agent"), Lab.TO_AGENT: data.get("to_agent")}
        case "agent":
            return {GenAI.AGENT_NAME: data.get("name"), "tools": data.get("tools"), "handoffs": data.get("handoffs")}
        case "turn":
            return {GenAI.AGENT_NAME: inner.get("agent_name"), "turn": inner.get("turn"), "usage": inner.get("usage")}
        case "guardrail":
            return {OpenInference.OUTPUT: {"triggered": bool(data.get("triggered"))}}
    return {name: value for name, value in {**data, **inner}.items() if name not in ("type", "name", "data")}


def _trace_id(sdk_id: str) -> str:
    match = _TRACE_ID.fullmatch(sdk_id)
    return match[1] if match else hashlib.sha256(sdk_id.encode()).hexdigest()[:32]


def _span_id(sdk_id: str) -> str:
    match = _SPAN_ID.fullmatch(sdk_id)
    return match[1] if match else hashlib.sha256(sdk_id.encode()).hexdigest()[:16]
