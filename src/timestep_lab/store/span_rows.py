"""Spans and trace starts as the tuples that `Database.append` takes, and back.

The order of columns is written here once; whoever builds a tuple by hand (the importers, for speed) uses `SPAN_COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, cast

from timestep_lab.model.clock import to_aware_utc, to_naive_utc
from timestep_lab.model.spans import Lab, SpanRecord, TraceStart
from timestep_lab.store.json_text import clean, from_json, to_json

Row = tuple[Any, ...]

SPAN_COLUMNS = (
    "user_id", "trace_id", "span_id", "parent_id", "kind", "name", "agent", "status", "error", "model", "provider",
    "started_at", "ended_at", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "cost_usd",
    "queue_ms", "rate_limit_ms", "ttft_ms", "stop_reason", "server", "approval", "to_agent", "io_json", "input_refs",
    "attributes", "input", "output",
)  # fmt: skip
OPEN_COLUMNS = (
    "user_id", "trace_id", "span_id", "parent_id", "kind", "name", "agent", "model", "provider", "started_at",
    "server", "approval", "to_agent", "io_json", "attributes", "input", "process_id",
)  # fmt: skip
TRACE_COLUMNS = (
    "user_id", "trace_id", "workflow", "thread_id", "started_at", "metadata", "parent_trace_id", "fork_span_id",
)  # fmt: skip
AT = {column: place for place, column in enumerate(SPAN_COLUMNS)}
"""Column name to its place in a span's tuple."""

INPUT_IS_JSON, OUTPUT_IS_JSON = 1, 2
_OPEN_PLACES = tuple(AT[column] for column in OPEN_COLUMNS[:-1])


def span_row(span: SpanRecord) -> Row:
    """Never fails on odd payloads: see `json_text`."""
    attributes = span.attributes
    get = attributes.get
    started_at, ended_at, error = span.started_at, span.ended_at, span.error
    input_text, input_json = payload_text(span.input)
    output_text, output_json = payload_text(span.output)
    return (
        span.user_id, span.trace_id, span.span_id, span.parent_id, span.kind, _word(span.name),
        _word(span.agent) if span.agent else _text(get(Lab.FROM_AGENT)), span.status, None if error is None else clean(str(error)),
        _word(span.model), _word(span.provider),
        # `to_naive_utc`, sooner for what is in UTC already.
        started_at.replace(tzinfo=None) if started_at.tzinfo is UTC else to_naive_utc(started_at),
        None if ended_at is None else ended_at.replace(tzinfo=None) if ended_at.tzinfo is UTC else to_naive_utc(ended_at),
        span.input_tokens, span.output_tokens, span.cached_tokens, span.reasoning_tokens, span.cost_usd,
        span.queue_ms, span.rate_limit_ms, span.ttft_ms, _word(span.stop_reason),
        _text(get(Lab.SERVER)), _text(get(Lab.APPROVAL)), _text(get(Lab.TO_AGENT)),
        (INPUT_IS_JSON if input_json else 0) + (OUTPUT_IS_JSON if output_json else 0), None,
        to_json(attributes) if attributes else "{}", input_text, output_text,
    )  # fmt: skip


def open_row(row: Row, process_id: str | None) -> Row:
    """The row of `open_spans` for a span that has begun, from its span tuple."""
    return (*(row[place] for place in _OPEN_PLACES), process_id)


def trace_row(trace: TraceStart) -> Row:
    return (
        trace.user_id, trace.trace_id, clean(trace.workflow), _text(trace.thread_id), to_naive_utc(trace.started_at),
        to_json(trace.metadata), trace.parent_trace_id, trace.fork_span_id,
    )  # fmt: skip


def payload_text(value: Any) -> tuple[str | None, bool]:
    """A payload as its column holds it, and whether that is JSON text (a plain string is kept as it is)."""
    if value is None:
        return None, False
    if isinstance(value, str):
        return clean(value), False
    return to_json(value), True


def payload_value(text: str | None, is_json: bool) -> Any:
    """The inverse of `payload_text`."""
    return from_json(text) if is_json and text is not None else text


def span_record(row: Mapping[str, Any]) -> SpanRecord:
    """From a row with the columns of `SPAN_COLUMNS`; payload columns may be missing."""
    io_json = row.get("io_json") or 0
    values = {name: row.get(name) for name in SpanRecord.__dataclass_fields__}
    values["started_at"] = to_aware_utc(row["started_at"])
    values["ended_at"] = _aware(row.get("ended_at"))
    values["attributes"] = from_json(row.get("attributes") or "{}")
    values["input"] = payload_value(row.get("input"), bool(io_json & INPUT_IS_JSON))
    values["output"] = payload_value(row.get("output"), bool(io_json & OUTPUT_IS_JSON))
    return SpanRecord(**cast(Any, values))


def _aware(moment: datetime | None) -> datetime | None:
    return None if moment is None else to_aware_utc(moment)


def _text(value: Any) -> str | None:
    return None if value is None else clean(value if type(value) is str else str(value))


_word = lru_cache(maxsize=4096)(_text)
"""`_text` of what is said of many spans: names of agents, models, tools."""
