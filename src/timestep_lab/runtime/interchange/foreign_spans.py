"""Reads spans in the JSON of other programs: Phoenix, Jaeger, Zipkin, and what the console exporter of OpenTelemetry for Python prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from timestep_lab.model.clock import parse_iso, to_naive_utc
from timestep_lab.model.codec import Json, object_of, objects_of
from timestep_lab.model.spans import OpenInference
from timestep_lab.runtime.interchange.attribute_map import meaning_of
from timestep_lab.runtime.interchange.conventions import about_trace, span_row
from timestep_lab.runtime.interchange.export import Decoded
from timestep_lab.runtime.interchange.otlp_in import read_otlp_json
from timestep_lab.runtime.interchange.otlp_json import pairs_of
from timestep_lab.store.imported_trace import statement_key

# -- Phoenix span exports: one JSON object per span, with `context`, `span_kind` and flat or nested `attributes`


def is_phoenix_span(value: object) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("context"), Mapping) and "trace_id" in value["context"]


def read_phoenix(objects: Iterable[Mapping[str, Any]], user_id: str) -> Decoded:
    decoded = Decoded(user_id)
    for span in objects:
        try:
            context = span["context"]
            trace_id, span_id = bytes.fromhex(context["trace_id"]).hex(), bytes.fromhex(context["span_id"]).hex()
            attributes = dict(_flat("", span.get("attributes") or {}))
            if kind := span.get("span_kind"):
                attributes.setdefault(OpenInference.KIND, kind)
            parent_id, started_at = span.get("parent_id") or None, to_naive_utc(parse_iso(span["start_time"]))
            decoded.learn(
                trace_id,
                statement_key(parent_id is None, started_at, span_id),
                about_trace(attributes, meaning_of(tuple(attributes))),
            )
            failed = str(span.get("status_code", "")).upper() == "ERROR"
            ended_at = span.get("end_time")
            decoded.spans.append(
                span_row(
                    user_id, trace_id, span_id, parent_id, str(span.get("name") or ""),
                    started_at, to_naive_utc(parse_iso(ended_at)) if ended_at else None,
                    str(span.get("status_message") or "error") if failed else None, attributes,
                )
            )  # fmt: skip
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            decoded.reject(f"A span could not be read: {error!r}")
    return decoded.finish()


def _flat(prefix: str, value: object) -> Iterable[tuple[str, object]]:
    """Flattens `{"llm": {"model_name": …}}` to `llm.model_name`; lists of objects get numbers."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner)
    elif isinstance(value, list) and value and all(isinstance(inner, Mapping) for inner in value):
        for place, inner in enumerate(value):
            yield from _flat(f"{prefix}.{place}", inner)
    else:
        yield prefix, value


# -- Jaeger and Zipkin, as the OTLP request of the same spans


def is_jaeger_trace(value: object) -> bool:
    return isinstance(value, Mapping) and "traceID" in value and isinstance(value.get("spans"), list)


def read_jaeger(objects: Iterable[Mapping[str, Any]], user_id: str) -> Decoded:
    """Decodes traces as Jaeger's API and its page give them. Ids may lack leading zeros."""
    return _read_as_otlp(objects, user_id, lambda trace: [_of_jaeger(span, trace) for span in trace["spans"]])


def _of_jaeger(span: Mapping[str, Any], trace: Mapping[str, Any]) -> dict[str, Json]:
    tags = {tag["key"]: tag.get("value") for tag in span.get("tags") or ()}
    process = object_of(object_of(trace.get("processes")).get(span.get("processID") or "") or span.get("process"))
    about: dict[str, object] = {str(tag["key"]): tag.get("value") for tag in objects_of(process.get("tags"))}
    about["service.name"] = process.get("serviceName")
    failed = tags.get("error") in (True, "true") or tags.get("otel.status_code") == "ERROR"
    parents = [one for one in span.get("references") or () if one["refType"] == "CHILD_OF"]
    links = [one for one in span.get("references") or () if one not in parents[:1]]
    events: list[Json] = []
    for log in span.get("logs") or ():
        fields = {field["key"]: field.get("value") for field in log.get("fields") or ()}
        events.append(_event(str(fields.pop("event", "log")), log["timestamp"], fields))
    fields = {
        "traceId": str(span["traceID"]).zfill(32), "spanId": str(span["spanID"]).zfill(16), "name": span.get("operationName"),
        "parentSpanId": str(parents[0]["spanID"]).zfill(16) if parents else str(span.get("parentSpanID") or ""),
        "status": {"code": 2 if failed else 0, "message": str(tags.get("otel.status_description") or "")},
        "links": [{"traceId": str(one["traceID"]).zfill(32), "spanId": str(one["spanID"]).zfill(16)} for one in links],
    }  # fmt: skip
    scope = str(tags.get("otel.scope.name") or tags.get("otel.library.name") or "")
    return _resource_spans(
        fields, span["startTime"], span.get("duration"), tags, events, about, scope
    )  # fmt: skip


def is_zipkin_span(value: object) -> bool:
    return isinstance(value, Mapping) and {"traceId", "id", "timestamp"} <= value.keys()


def read_zipkin(objects: Iterable[Mapping[str, Any]], user_id: str) -> Decoded:
    """Decodes spans of Zipkin's API, version 2, in which all tags are text."""
    return _read_as_otlp(objects, user_id, lambda span: [_of_zipkin(span)])


def _of_zipkin(span: Mapping[str, Any]) -> dict[str, Json]:
    tags = dict(span.get("tags") or {})
    failed = tags.get("otel.status_code") == "ERROR" or ("error" in tags and tags["error"] != "false")
    message = str(tags.get("error") or "")
    fields = {
        "traceId": str(span["traceId"]).zfill(32), "spanId": str(span["id"]).zfill(16), "name": span.get("name"),
        "parentSpanId": str(span["parentId"]).zfill(16) if span.get("parentId") else "",
        "status": {"code": 2 if failed else 0, "message": "" if message == "true" else message},
    }  # fmt: skip
    events: list[Json] = [_event(str(one.get("value")), one["timestamp"], {}) for one in span.get("annotations") or ()]
    service = {"service.name": object_of(span.get("localEndpoint")).get("serviceName")}
    scope = str(tags.get("otel.scope.name") or tags.get("otel.library.name") or "")
    return _resource_spans(fields, span["timestamp"], span.get("duration"), tags, events, service, scope)


def _event(name: str, micros: int, fields: Mapping[str, object]) -> dict[str, Json]:
    return {"name": name, "timeUnixNano": str(int(micros) * 1000), "attributes": pairs_of(fields)}


def _resource_spans(
    fields: dict[str, Json], start: int, duration: int | None, tags: Mapping[str, object], events: list[Json], about: Mapping[str, object],
    scope: str,
) -> dict[str, Json]:  # fmt: skip
    times = {
        "startTimeUnixNano": str(int(start) * 1000),
        "endTimeUnixNano": str((int(start) + int(duration or 0)) * 1000),
    }
    span: dict[str, Json] = {**fields, **times, "attributes": pairs_of(tags), "events": events}
    known = pairs_of({name: value for name, value in about.items() if value is not None})
    return {"resource": {"attributes": known}, "scopeSpans": [{"scope": {"name": scope}, "spans": [span]}]}


def _read_as_otlp(
    objects: Iterable[Mapping[str, Any]], user_id: str, convert: Callable[[Mapping[str, Any]], list[dict[str, Json]]]
) -> Decoded:
    spans: list[Json] = []
    problems: list[str] = []
    for one in objects:
        try:
            spans += convert(one)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            problems.append(f"A span could not be read: {error!r}")
    decoded = read_otlp_json({"resourceSpans": spans}, user_id)
    for problem in problems:
        decoded.reject(problem)
    return decoded


# -- the console exporter of OpenTelemetry for Python: objects of `ReadableSpan.to_json`, one after the other, with ids in `0x…`


def is_console_span(value: object) -> bool:
    return is_phoenix_span(value) and str(object_of(object_of(value)["context"])["trace_id"]).startswith("0x")


def read_console(objects: Iterable[Mapping[str, Any]], user_id: str) -> Decoded:
    return _read_as_otlp(objects, user_id, lambda span: [_of_console(span)])


def _of_console(span: Mapping[str, Any]) -> dict[str, Json]:
    status = object_of(span.get("status"))
    fields: dict[str, Json] = {
        **_ids_of_console(span["context"]),
        "name": span.get("name"),
        "parentSpanId": str(span.get("parent_id") or "").removeprefix("0x"),
        "startTimeUnixNano": _nanos(span.get("start_time")),
        "endTimeUnixNano": _nanos(span.get("end_time")),
        "status": {
            "code": 2 if status.get("status_code") == "ERROR" else 0,
            "message": str(status.get("description") or ""),
        },
        "attributes": pairs_of(object_of(span.get("attributes"))),
        "events": [
            {
                "name": event["name"],
                "timeUnixNano": _nanos(event.get("timestamp")),
                "attributes": pairs_of(object_of(event.get("attributes"))),
            }
            for event in span.get("events") or ()
        ],
        "links": [
            {**_ids_of_console(link["context"]), "attributes": pairs_of(object_of(link.get("attributes")))}
            for link in span.get("links") or ()
        ],
    }
    about = pairs_of(object_of(object_of(span.get("resource")).get("attributes")))
    return {"resource": {"attributes": about}, "scopeSpans": [{"scope": {}, "spans": [fields]}]}


def _ids_of_console(context: Mapping[str, object]) -> dict[str, Json]:
    return {to: str(context[name]).removeprefix("0x") for to, name in (("traceId", "trace_id"), ("spanId", "span_id"))}


def _nanos(moment: str | None) -> str:
    return str((to_naive_utc(parse_iso(moment)) - _EPOCH) // _MICROSECOND * 1000) if moment else "0"


_EPOCH, _MICROSECOND = datetime(1970, 1, 1), timedelta(microseconds=1)
