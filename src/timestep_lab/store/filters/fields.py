"""What a filter may name: the columns of the views `traces` and `spans`, their types, and short names people try first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from timestep_lab.model.spans import SPAN_KINDS, SpanStatus, TraceStatus

ValueType = Literal["text", "number", "time", "bool", "none", "any"]
"""`any` is a value inside a span's attributes: text or number, known only row by row."""

TRACE_FIELDS: Mapping[str, ValueType] = {
    "trace_id": "text", "thread_id": "text", "end_user": "text", "workflow": "text", "agent_path": "text", "model": "text", "status": "text",
    "started_at": "time", "ended_at": "time", "duration_ms": "number", "n_spans": "number", "n_errors": "number",
    "turns": "number", "input_tokens": "number", "output_tokens": "number", "cost_usd": "number", "input": "text",
    "output": "text",
}  # fmt: skip
SPAN_FIELDS: Mapping[str, ValueType] = {
    "trace_id": "text", "span_id": "text", "parent_id": "text", "kind": "text", "name": "text", "agent": "text",
    "status": "text", "error": "text", "model": "text", "provider": "text", "started_at": "time", "ended_at": "time",
    "duration_ms": "number", "input_tokens": "number", "output_tokens": "number", "cached_tokens": "number",
    "reasoning_tokens": "number", "cost_usd": "number", "queue_ms": "number", "rate_limit_ms": "number", "ttft_ms": "number",
    "stop_reason": "text", "server": "text", "approval": "text", "to_agent": "text", "input": "text", "output": "text",
}  # fmt: skip
TRACE_ALIASES: Mapping[str, str] = {
    "cost": "cost_usd", "duration": "duration_ms", "agent": "agent_path", "agents": "agent_path", "thread": "thread_id",
    "id": "trace_id", "errors": "n_errors",
}  # fmt: skip
SPAN_ALIASES: Mapping[str, str] = {"cost": "cost_usd", "duration": "duration_ms", "id": "span_id", "ttft": "ttft_ms"}

TRACE_CHOICES: Mapping[str, tuple[str, ...]] = {"status": get_args(TraceStatus)}
SPAN_CHOICES: Mapping[str, tuple[str, ...]] = {
    "kind": SPAN_KINDS, "status": get_args(SpanStatus), "approval": ("not_needed", "approved", "rejected", "pending"),
}  # fmt: skip
"""Fields that hold one of a few words; comparing with any other word is refused, as it can only be a slip."""

TRACE_WORDS: Mapping[str, Mapping[str, str]] = {"status": {"done": "completed", "needs approval": "needs_approval"}}
SPAN_WORDS: Mapping[str, Mapping[str, str]] = {"status": {"done": "ok", "failed": "error", "running": "pending"}}
"""What the views call some of those words. Whoever reads one there may write it here."""

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
"""Of `ago("24h")`, in seconds."""
