"""Imports a file of traces in any format; the format is detected from the content, not from the name."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timestep_lab.model.clock import parse_iso, to_naive_utc
from timestep_lab.model.codec import Json, object_of, objects_of
from timestep_lab.model.errors import DataError, TooLargeError
from timestep_lab.model.spans import GenAI, Lab, OpenInference
from timestep_lab.runtime.interchange.attribute_map import meaning_of
from timestep_lab.runtime.interchange.conventions import about_trace, span_row
from timestep_lab.runtime.interchange.export import FLAT_COLUMNS, Decoded, is_lab_row, read_flat_rows, read_lab_rows
from timestep_lab.runtime.interchange.otlp_in import decompressed, read_logs_json, read_otlp_json, read_otlp_protobuf
from timestep_lab.store.imported_trace import STATED, statement_key
from timestep_lab.store.spans import Row
from timestep_lab.store.store import Store
from timestep_lab.store.worker import MEMORY, Worker, WorkerDied

if TYPE_CHECKING:
    import duckdb
    from opentelemetry.sdk.trace import ReadableSpan


# --- Reads exports of the Agents SDK: objects `trace` and `trace.span`, alone, in a list, under `data`, or one per line


# --- Spans of an OpenTelemetry SDK in this process, as the OTLP request that an exporter would send


def otlp_request(spans: Sequence[ReadableSpan]) -> dict[str, Json]:
    """Returns the JSON form of an `ExportTraceServiceRequest`, for `otlp_in.read_otlp_json`."""
    return {"resourceSpans": [_of_resource(span) for span in spans]}


def _of_resource(span: ReadableSpan) -> dict[str, Json]:
    scope = span.instrumentation_scope
    return {
        "resource": {"attributes": _pairs(span.resource.attributes)},
        "scopeSpans": [{"scope": {"name": scope.name if scope else ""}, "spans": [_otel_spans_span(span)]}],
    }


def _otel_spans_span(span: ReadableSpan) -> dict[str, Json]:
    context = span.get_span_context()
    if context is None:
        raise ValueError(f"The span {span.name!r} has no context.")
    return {
        "traceId": f"{context.trace_id:032x}",
        "spanId": f"{context.span_id:016x}",
        "parentSpanId": f"{span.parent.span_id:016x}" if span.parent else "",
        "name": span.name,
        "startTimeUnixNano": str(span.start_time or 0),
        "endTimeUnixNano": str(span.end_time or 0),
        "attributes": _pairs(span.attributes or {}),
        "events": [
            {"name": event.name, "timeUnixNano": str(event.timestamp), "attributes": _pairs(event.attributes or {})}
            for event in span.events
        ],
        "links": [
            {
                "traceId": f"{link.context.trace_id:032x}",
                "spanId": f"{link.context.span_id:016x}",
                "attributes": _pairs(link.attributes or {}),
            }
            for link in span.links
        ],
        "status": {"code": span.status.status_code.value, "message": span.status.description or ""},
    }


def _pairs(attributes: Mapping[str, object]) -> list[Json]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: object) -> dict[str, Json]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case bytes():
            return {"bytesValue": base64.b64encode(value).decode()}
        case Mapping():
            return {"kvlistValue": {"values": _pairs(value)}}
        case list() | tuple():
            return {"arrayValue": {"values": [_value(each) for each in value]}}
    return {"stringValue": str(value)}


TRACE, SPAN = "trace", "trace.span"
_KINDS = {
    "agent": "agent", "generation": "generation", "response": "generation", "function": "tool", "handoff": "handoff",
    "guardrail": "guardrail", "task": "task", "turn": "turn", "transcription": "task", "speech": "task",
}  # fmt: skip
_SPEECH = {"transcription": "transcription", "speech": "speech_generation"}
_TRACE_ID = re.compile(r"(?:trace_)?([0-9a-f]{32})")
_SPAN_ID = re.compile(r"(?:span_)?([0-9a-f]{16})[0-9a-f]*")


def is_sdk_export(value: object) -> bool:
    return isinstance(value, Mapping) and value.get("object") in (TRACE, SPAN)


def read_sdk_export(objects: Iterable[Mapping[str, Any]], user_id: str) -> Decoded:
    """Decodes the objects; any that are neither a trace nor a span are counted as rejected."""
    decoded = Decoded(user_id)
    for entry in objects:
        try:
            if entry.get("object") == TRACE:
                about = {
                    "workflow": entry.get("workflow_name") or None,
                    "thread_id": entry.get("group_id") or None,
                    "metadata": {**(entry.get("metadata") or {}), Lab.SDK_ID: entry["id"]},
                }
                decoded.learn(_trace_id(str(entry["id"])), STATED, about)
            elif entry.get("object") == SPAN:
                decoded.spans.append(_span(entry, user_id))
            else:
                decoded.reject(f"An object {entry.get('object')!r} is neither a trace nor a span.")
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            decoded.reject(f"A span could not be read: {error!r}")
    return decoded.finish()


def _span(found: Mapping[str, Any], user_id: str) -> Row:
    data: Mapping[str, Any] = found["span_data"]
    inner = data.get("data") if isinstance(data.get("data"), Mapping) else {}
    assert isinstance(inner, Mapping)
    # Tasks and turns are exported as custom spans that state what they are.
    kind = _KINDS.get(str(inner.get("sdk_span_type") or data["type"]), "other")
    attributes: dict[str, object] = {Lab.KIND: kind, Lab.SDK_ID: found["id"]}
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


def _of_kind(kind: str, data: Mapping[str, Any], inner: Mapping[str, object]) -> dict[str, object]:
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
        case "task" if data["type"] in _SPEECH:
            return {
                GenAI.OPERATION: _SPEECH[data["type"]],
                GenAI.REQUEST_MODEL: data.get("model"),
                OpenInference.INPUT: data.get("input"),
                OpenInference.OUTPUT: data.get("output"),
            }
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
    return {"name": name, "timeUnixNano": str(int(micros) * 1000), "attributes": _pairs(fields)}


def _resource_spans(
    fields: dict[str, Json], start: int, duration: int | None, tags: Mapping[str, object], events: list[Json], about: Mapping[str, object],
    scope: str,
) -> dict[str, Json]:  # fmt: skip
    times = {
        "startTimeUnixNano": str(int(start) * 1000),
        "endTimeUnixNano": str((int(start) + int(duration or 0)) * 1000),
    }
    span: dict[str, Json] = {**fields, **times, "attributes": _pairs(tags), "events": events}
    known = _pairs({name: value for name, value in about.items() if value is not None})
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


# --

_GZIP, _PARQUET, _DUCKDB, _ZSTD = b"\x1f\x8b", b"PAR1", b"DUCK", b"\x28\xb5\x2f\xfd"
MAX_ROWS = 1_000_000
MAX_UNPACKED = 2**30
"""Limit for the values of a Parquet or DuckDB file, which may take a thousand times the size of the file."""
ROWS_AT_ONCE = 20_000
BYTES_AT_ONCE = 128 * 2**20
KNOWN = (
    "OTLP (protobuf, JSON, JSONL), also from Tempo, traces of Jaeger and Zipkin as JSON, Agents SDK exports, Phoenix spans, and the lab's own "
    "JSONL, Parquet and DuckDB files"
)


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of an import: `spans` were decoded, `added` of them were new, `rejected` could not be decoded (`problem` says why).

    Example:
        await lab.run("Say 4.", model="demo/echo")
        lab.export("traces.jsonl")
        imported = lab.import_traces("traces.jsonl")
        assert isinstance(imported, Imported) and imported.added == 0  # they are there already
    """

    traces: int
    spans: int
    added: int
    rejected: int = 0
    problem: str = ""


def import_file(path: str | Path, store: Store, *, time_limit_s: float | None = None) -> Imported:
    """Imports a file of traces. Blocks. With a time limit, the file is untrusted: it is parsed in a separate process (`store.worker`).

    Raises `DataError` if the file is missing or in no supported format, `TooLargeError` if it is too large or takes longer than
    `time_limit_s`; spans stored by then stay, and are not added again.
    """
    began = time.monotonic()
    source = Path(path)
    traces, spans, added, rejected, problem = set[str](), 0, 0, 0, ""
    for decoded in (
        _read_apart(source, store.user_id, time_limit_s) if time_limit_s else read_file(source, store.user_id)
    ):
        if store.quota:
            store.quota.take_traces(len(decoded.trace_ids() - traces))
        added += decoded.store(store.db, source="imported")
        spans += len(decoded.spans)
        traces |= decoded.trace_ids()
        rejected += decoded.rejected
        problem = problem or decoded.problem
        if time_limit_s is not None and time.monotonic() - began > time_limit_s:
            raise TooLargeError(
                f"The import exceeded its time limit of {time_limit_s:g} s; {added:,} spans were added.",
                "Send the spans in smaller files.",
            )
    if not spans and rejected:
        raise DataError(f"No span of {source.name} could be read. {problem}", f"Supported formats: {KNOWN}.")
    return Imported(len(traces), spans, added, rejected, problem)


def _read_apart(source: Path, user_id: str, time_limit_s: float) -> Iterator[Decoded]:
    with Worker() as worker:
        try:
            yield from worker.stream(f"{__name__}:{read_file.__name__}", source, user_id, time_limit_s=time_limit_s)
        except WorkerDied as died:
            raise died.as_error(MEMORY) from None


def read_file(source: Path, user_id: str) -> Iterator[Decoded]:
    """Yields batches of spans. Error messages contain the file's name without its folder, because an uploaded file has a temporary one."""
    try:
        with source.open("rb") as file:
            head = file.read(12)
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror}.", f"Check the file: ls -l {source}") from None
    if head[:4] == _PARQUET or head[8:12] == _DUCKDB:
        yield from _read_columns(source, head, user_id)
        return
    data = source.read_bytes()
    if head[:2] == _GZIP:
        data = decompressed(data, "gzip")
    if not data.strip():
        raise DataError(f"{source.name} is empty.", f"Supported formats: {KNOWN}.")
    if _ZSTD in (head[:4], head[4:8]):
        raise DataError(f"{source.name} is compressed with zstd.", "Decompress it, or compress it with gzip instead.")
    start = data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if start in (b"{", b"["):
        yield from _read_json(source, data, user_id)
    else:
        yield from _read_protobuf(source, data, user_id)


def _read_columns(source: Path, head: bytes, user_id: str) -> Iterator[Decoded]:
    """Yields batches of rows: a file of 100 KB may have millions. Raises `TooLargeError` before reading if the unpacked size is too
    large."""
    import duckdb

    settings = {"autoinstall_known_extensions": False, "autoload_known_extensions": False, "memory_limit": "512MB"}
    try:
        with duckdb.connect(":memory:", config=settings) as connection:  # type: ignore[arg-type]
            connection.execute("set TimeZone = 'UTC'")
            literal = str(source).replace("'", "''")
            if head[:4] == _PARQUET:
                table = f"read_parquet('{literal}')"
            else:
                connection.execute(f"attach '{literal}' as other (read_only)")
                table = "other.lab_spans"
            described = connection.execute(f"describe select * from {table}").fetchall()
            kinds = {name: kind for name, kind, *_ in described if name in FLAT_COLUMNS}
            if missing := [
                name for name in ("trace_id", "span_id", "kind", "status", "started_at") if name not in kinds
            ]:
                raise _no_export(source, f"it has no column {missing[0]}")
            if nested := [
                name
                for name, kind in kinds.items()
                if kind.startswith(("STRUCT", "MAP", "UNION")) or kind.endswith("]")
            ]:
                raise _no_export(source, f"its column {nested[0]} has no scalar type")
            largest = _check_size(connection, source, table, list(kinds))
            result = connection.execute(f"select {', '.join(kinds)} from {table}")
            at_once = max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE // max(largest, 1)))
            while rows := result.fetchmany(at_once):
                yield read_flat_rows(list(kinds), rows, user_id)
    except duckdb.Error as error:
        raise _no_export(source, str(error).splitlines()[0].replace(str(source), source.name)) from None


def _check_size(connection: duckdb.DuckDBPyConnection, source: Path, table: str, columns: list[str]) -> int:
    """Returns the bytes of the largest row. DuckDB computes sizes without materializing the values, which is fast and needs little
    memory."""
    [(count,)] = connection.execute(f"select count(*) from {table}").fetchall()
    if count > MAX_ROWS:
        raise TooLargeError(
            f"{source.name} has {count:,} spans; the limit is {MAX_ROWS:,} per file.",
            "Split the export into several files.",
        )
    size = " + ".join(f"coalesce(strlen({name}::varchar), 0)" for name in columns)
    [(total, largest)] = connection.execute(f"select sum({size}), max({size}) from {table}").fetchall()
    if (total or 0) > MAX_UNPACKED:
        raise TooLargeError(
            f"{source.name} unpacks to {int(total) >> 20:,} MB; the limit is {MAX_UNPACKED >> 20:,} MB per file.",
            "Split the export into several files.",
        )
    return int(largest or 0)


def _no_export(source: Path, why: str) -> DataError:
    return DataError(
        f"{source.name} has no exported traces: {why}.".replace("..", "."),
        "Create an export with lab.export(path).",
        command="Export some with: timestep-lab traces export",
    )


def _read_protobuf(source: Path, data: bytes, user_id: str) -> Iterator[Decoded]:
    """Splits the data into requests: one, or several with a four-byte length each, as written by the OpenTelemetry Collector's file
    exporter."""
    try:
        yield read_otlp_protobuf(data, user_id)
        return
    except DataError:
        messages = list(_length_prefixed(data))
    if not messages:
        raise DataError(f"{source.name} is not a file of traces.", f"Supported formats: {KNOWN}.")
    for message in messages:
        yield read_otlp_protobuf(message, user_id)


def _length_prefixed(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if not 0 < length <= len(data) - at - 4:
            return
        yield data[at + 4 : at + 4 + length]
        at += 4 + length


_REQUESTS = frozenset({"resourceSpans", "resource_spans", "batches"})
"""Names of the list of spans in an OTLP request; the last is Tempo's."""


def _read_json(source: Path, data: bytes, user_id: str) -> Iterator[Decoded]:
    objects = list(_json_objects(source, data))
    requests = [entry for entry in objects if not entry.keys().isdisjoint(_REQUESTS)]
    for request in requests:
        yield read_otlp_json({"resourceSpans": request["batches"]} if "batches" in request else request, user_id)
    logs = [entry for entry in objects if "resourceLogs" in entry]
    for request in logs:
        yield read_logs_json(request, user_id)
    rest = [entry for entry in objects if entry not in requests and entry not in logs]
    readers = (
        (is_lab_row, read_lab_rows), (is_sdk_export, read_sdk_export), (is_phoenix_span, read_phoenix), (is_jaeger_trace, read_jaeger),
        (is_zipkin_span, read_zipkin),
    )  # fmt: skip
    for is_one, read in readers:
        if mine := [entry for entry in rest if is_one(entry)]:
            yield read(mine, user_id)
    strangers = sum(not any(is_one(entry) for is_one, _ in readers) for entry in rest)
    if strangers:
        yield Decoded(
            user_id, rejected=strangers, problem=f"{strangers} JSON objects are no spans in a form the lab knows."
        )


def _json_objects(source: Path, data: bytes) -> Iterable[Mapping[str, object]]:
    """Yields the objects of a JSON document (itself, its list, or the list under `data` or `spans`), or of each line."""
    text = data.decode("utf-8-sig", "replace")
    try:
        return list(_unwrapped(json.loads(text)))
    except ValueError as error:
        whole = error
    except RecursionError:
        raise DataError(f"{source.name} is nested too deep.", f"Supported formats: {KNOWN}.") from None
    objects: list[Mapping[str, object]] = []
    for number, line in enumerate(
        text.split("\n"), start=1
    ):  # `splitlines` would also split at characters that JSON text may contain.
        if not line.strip():
            continue
        try:
            objects.extend(_unwrapped(json.loads(line)))
        except (ValueError, RecursionError):
            place = f"line {number}" if number > 1 else str(whole)
            raise DataError(
                f"{source.name} is neither JSON nor JSON lines: {place}.", f"Supported formats: {KNOWN}."
            ) from None
    return objects


def _unwrapped(value: object) -> Iterator[Mapping[str, object]]:
    if isinstance(value, list):
        for inner in value:
            yield from _unwrapped(inner)
    elif isinstance(value, Mapping):
        whole = value.get("trace")  # Of Tempo.
        if isinstance(whole, Mapping) and not whole.keys().isdisjoint(_REQUESTS):
            yield whole
            return
        for key in ("data", "spans"):
            if isinstance(value.get(key), list) and "object" not in value and not is_jaeger_trace(value):
                yield from _unwrapped(value[key])
                return
        yield value
