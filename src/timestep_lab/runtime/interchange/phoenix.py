"""Phoenix's spans as it exports them: one JSON object each, with `context`, `span_kind` and flat or nested `attributes`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from timestep_lab.runtime.interchange.conventions import about_trace, span_row
from timestep_lab.runtime.interchange.decoded import Decoded
from timestep_lab.store.imported_trace import said_key
from timestep_lab.types.clock import parse_iso, to_naive_utc
from timestep_lab.types.spans import OpenInference


def is_phoenix_span(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("context"), Mapping) and "trace_id" in value["context"]


def read_phoenix(objects: Iterable[Mapping[str, Any]], user_id: str) -> Decoded:
    decoded = Decoded(user_id)
    for found in objects:
        try:
            context = found["context"]
            trace_id, span_id = bytes.fromhex(context["trace_id"]).hex(), bytes.fromhex(context["span_id"]).hex()
            attributes = dict(_flat("", found.get("attributes") or {}))
            if kind := found.get("span_kind"):
                attributes.setdefault(OpenInference.KIND, kind)
            parent_id, started_at = found.get("parent_id") or None, to_naive_utc(parse_iso(found["start_time"]))
            decoded.learn(trace_id, said_key(parent_id is None, started_at, span_id), about_trace(attributes))
            failed = str(found.get("status_code", "")).upper() == "ERROR"
            ended_at = found.get("end_time")
            decoded.spans.append(
                span_row(
                    user_id, trace_id, span_id, parent_id, str(found.get("name") or ""),
                    started_at, to_naive_utc(parse_iso(ended_at)) if ended_at else None,
                    str(found.get("status_message") or "error") if failed else None, attributes,
                )
            )  # fmt: skip
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            decoded.reject(f"A span could not be read: {error!r}")
    return decoded.finish()


def _flat(prefix: str, value: Any) -> Iterable[tuple[str, Any]]:
    """`{"llm": {"model_name": …}}` as `llm.model_name`; lists of objects get numbers."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner)
    elif isinstance(value, list) and value and all(isinstance(inner, Mapping) for inner in value):
        for place, inner in enumerate(value):
            yield from _flat(f"{prefix}.{place}", inner)
    else:
        yield prefix, value
