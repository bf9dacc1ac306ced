"""Decodes OTLP trace and log requests, protobuf or JSON, optionally compressed, into rows."""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from timestep_lab.model.clock import to_naive_utc, utc_now
from timestep_lab.model.codec import list_of, object_of, objects_of
from timestep_lab.model.errors import DataError, TooLargeError
from timestep_lab.model.spans import GenAI
from timestep_lab.runtime.interchange.attribute_map import meaning_of
from timestep_lab.runtime.interchange.conventions import about_trace, fragment, span_row
from timestep_lab.runtime.interchange.export import Decoded, Summary, store_together
from timestep_lab.runtime.interchange.messages import exception_text, messages_in, read_json
from timestep_lab.runtime.interchange.otlp_json import (
    NO_IDS,
    field_of,
    id_of,
    id_of_link,
    id_or_none,
    integer,
    json_attributes,
    json_value,
)
from timestep_lab.runtime.interchange.span_events import keep_events, span_event, span_link
from timestep_lab.store.base import Database, Received
from timestep_lab.store.imported_trace import statement_key
from timestep_lab.store.spans import AT, Row

# --- OTLP trace requests, parsed with their attributes left as bytes, which are then decoded with a cache
#
# In the official classes every attribute creates two Python objects: most of the time of decoding a request. Here the same messages are
# declared with `bytes` instead of `KeyValue` (the wire format is the same), and since most attributes repeat in every span
# (operation, model, agent, …), each distinct value is decoded once. Values that are not plain text are decoded by the protobuf classes.


_FIELDS: dict[str, list[tuple[str, int, str]]] = {
    "Request": [("resource_spans", 1, "repeated ResourceSpans")],
    "ResourceSpans": [("resource", 1, "Resource"), ("scope_spans", 2, "repeated ScopeSpans")],
    "Resource": [("attributes", 1, "repeated bytes")],
    "ScopeSpans": [("scope", 1, "Scope"), ("spans", 2, "repeated Span")],
    "Scope": [("name", 1, "bytes")],
    "Span": [
        ("trace_id", 1, "bytes"), ("span_id", 2, "bytes"), ("parent_span_id", 4, "bytes"), ("name", 5, "bytes"),
        ("start_time_unix_nano", 7, "fixed64"), ("end_time_unix_nano", 8, "fixed64"), ("attributes", 9, "repeated bytes"),
        ("events", 11, "repeated Event"), ("links", 13, "repeated Link"), ("status", 15, "Status"),
    ],
    "LogsRequest": [("resource_logs", 1, "repeated ResourceLogs")],
    "ResourceLogs": [("resource", 1, "Resource"), ("scope_logs", 2, "repeated ScopeLogs")],
    "ScopeLogs": [("scope", 1, "Scope"), ("log_records", 2, "repeated LogRecord")],
    "LogRecord": [
        ("time_unix_nano", 1, "fixed64"), ("body", 5, "AnyValue"), ("attributes", 6, "repeated bytes"), ("trace_id", 9, "bytes"),
        ("span_id", 10, "bytes"), ("observed_time_unix_nano", 11, "fixed64"), ("event_name", 12, "bytes"),
    ],
    "Event": [("time_unix_nano", 1, "fixed64"), ("name", 2, "bytes"), ("attributes", 3, "repeated bytes")],
    "Link": [("trace_id", 1, "bytes"), ("span_id", 2, "bytes"), ("attributes", 4, "repeated bytes")],
    "Status": [("message", 2, "bytes"), ("code", 3, "int32")],
    "KeyValue": [("key", 1, "bytes"), ("value", 2, "AnyValue")],
    "AnyValue": [
        ("string_value", 1, "bytes"), ("bool_value", 2, "bool"), ("int_value", 3, "int64"), ("double_value", 4, "double"),
        ("array_value", 5, "ArrayValue"), ("kvlist_value", 6, "KeyValueList"), ("bytes_value", 7, "bytes"),
    ],
    "ArrayValue": [("values", 1, "repeated AnyValue")],
    "KeyValueList": [("values", 1, "repeated KeyValue")],
}  # fmt: skip
"""Field numbers of opentelemetry/proto/{trace,logs,common}/v1 and collector/{trace,logs}/v1, version 1.x. Text is declared as
bytes: the classes reject a whole request for one byte that is not UTF-8, where OpenTelemetry requires U+FFFD instead."""
_ONE_OF = "AnyValue"
"""The message with a oneof."""
_PACKAGE = "timestep_lab.otlp"
REMEMBERED_LENGTH, REMEMBERED = 128, 20_000


def request_class(name: str = "Request") -> Any:
    """Like `ExportTraceServiceRequest` (as `LogsRequest`, like `ExportLogsServiceRequest`), with only the fields that are used here."""
    return _class(name)


@cache
def _class(name: str) -> Any:
    from google.protobuf import message_factory  # type: ignore[import-untyped]

    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{_PACKAGE}.{name}"))


@cache
def _pool() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool

    proto = descriptor_pb2.FieldDescriptorProto
    scalars = {
        "bytes": proto.TYPE_BYTES, "fixed64": proto.TYPE_FIXED64, "int32": proto.TYPE_INT32, "int64": proto.TYPE_INT64,
        "bool": proto.TYPE_BOOL, "double": proto.TYPE_DOUBLE,
    }  # fmt: skip
    file = descriptor_pb2.FileDescriptorProto(name="timestep_lab/otlp.proto", package=_PACKAGE, syntax="proto3")
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        if message == _ONE_OF:
            described.oneof_decl.add(name="value")
        for name, number, type in fields:
            label = proto.LABEL_REPEATED if type.startswith("repeated ") else proto.LABEL_OPTIONAL
            kind = type.removeprefix("repeated ")
            field = described.field.add(
                name=name, number=number, label=label, type=scalars.get(kind, proto.TYPE_MESSAGE)
            )
            if message == _ONE_OF:
                field.oneof_index = 0
            if kind not in scalars:
                field.type_name = f".{_PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def text(raw: bytes) -> str:
    """Decodes UTF-8, with U+FFFD for invalid bytes."""
    return raw.decode("utf-8", "replace")


class AttributeReader:
    """Decodes the attributes of one request and caches the short ones; nothing is kept after the request."""

    def __init__(self) -> None:
        self._met: dict[bytes, tuple[str, object, str]] = {}
        self._names: dict[bytes, str] = {}

    def read(self, pairs: Iterable[bytes]) -> tuple[dict[str, object], dict[str, str]]:
        """Returns name to value, and for short attributes name to JSON. Raises protobuf's `DecodeError`."""
        values: dict[str, object] = {}
        fragments: dict[str, str] = {}
        met = self._met
        for raw in pairs:
            known = met.get(raw)
            if known is not None:
                name, values[known[0]], fragments[known[0]] = known
                continue
            name, value = self._text_pair(raw) or _pair(raw)
            values[name] = value
            if len(raw) <= REMEMBERED_LENGTH:
                text = fragments[name] = fragment(name, value)
                if len(met) < REMEMBERED:
                    met[raw] = (name, value, text)
            elif name in fragments:
                del fragments[name]  # The last value of a repeated attribute wins.
        return values, fragments

    def _text_pair(self, raw: bytes) -> tuple[str, str] | None:
        """Decodes a `KeyValue` with a plain text value: 0a, length, name, 12, length, 0a, length, text. Else returns None."""
        try:
            end = 2 + raw[1]
            if raw[0] != 0x0A or raw[1] > 0x7F or raw[end] != 0x12:
                return None
            at = end + 1
            while raw[at] > 0x7F:
                at += 1
            if raw[at + 1] != 0x0A:
                return None
            at += 2
            byte = raw[at]
            length, shift = byte & 0x7F, 7
            while byte > 0x7F:
                at += 1
                byte = raw[at]
                length |= (byte & 0x7F) << shift
                shift += 7
            if at + 1 + length != len(raw):
                return None
            name = self._names.get(raw[2:end])
            if name is None:
                name = self._names[raw[2:end]] = text(raw[2:end])
            return name, text(raw[at + 1 :])
        except IndexError:
            return None  # Malformed; the protobuf classes report it.


def _pair(raw: bytes) -> tuple[str, object]:
    pair = _class("KeyValue").FromString(raw)
    return text(pair.key), any_value(pair.value)


def any_value(value: Any) -> object:
    """Converts an `AnyValue` to a JSON value; bytes become hex."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [any_value(inner) for inner in value.array_value.values]
    if kind == "kvlist_value":
        return {text(pair.key): any_value(pair.value) for pair in value.kvlist_value.values}
    if kind == "string_value":
        return text(value.string_value)
    if kind == "bytes_value":
        return value.bytes_value.hex()
    return getattr(value, kind)


MAX_BODY = 256 * 1024 * 1024
"""Maximum bytes of one request, both compressed and decompressed. An exporter's default batch of 512 spans may have 512 kB per span."""
_EPOCH = datetime(1970, 1, 1)
_NO_SPAN, _NO_TRACE = b"\0" * 8, b"\0" * 16
PROTOBUF = "application/x-protobuf"
ReadAttributes = Callable[[Iterable[bytes]], tuple[dict[str, object], dict[str, str]]]


def read_otlp(body: bytes, content_type: str, content_encoding: str | None, user_id: str) -> Decoded:
    """Decodes an `ExportTraceServiceRequest`. Invalid spans are counted in `rejected`; the others are kept.

    Raises `DataError` if the body as a whole cannot be decoded, `TooLargeError` if it exceeds `MAX_BODY`.
    """
    return _read(body, content_type, content_encoding, user_id, read_otlp_json, read_otlp_protobuf)


def read_otlp_logs(body: bytes, content_type: str, content_encoding: str | None, user_id: str) -> Decoded:
    """Decodes an `ExportLogsServiceRequest` and keeps the events of GenAI spans: those with a span and a name in `gen_ai.*`. Other
    records are counted in `rejected`. Raises the errors of `read_otlp`."""
    return _read(body, content_type, content_encoding, user_id, read_logs_json, read_logs_protobuf)


READERS = {"read_otlp": read_otlp, "read_otlp_logs": read_otlp_logs}


def summary_and_rows(reader: str, body: bytes, *more: Any) -> Iterator[Summary | bytes]:
    """Yields the summary of a request, then the pickled result of its reader, which is still to be sent when the sender has its answer."""
    decoded = READERS[reader](body, *more)
    yield decoded.summary()
    yield pickle.dumps(decoded, protocol=5)


def store_received(db: Database, requests: Iterable[Received]) -> None:
    """Stores the spans of received requests for their users. Raises `DataError` if one of a checked request could not be read, after storing
    the others."""
    of_users: dict[str, list[Decoded]] = {}
    problems = []
    for one in requests:
        decoded = one.decoded() if callable(one.decoded) else one.decoded
        if not isinstance(decoded, Decoded):
            decoded = READERS[one.reader](one.body, one.content_type, one.content_encoding, one.user_id)
        of_users.setdefault(one.user_id, []).append(decoded)
        problems += [decoded.problem] if one.is_checked and decoded.rejected else []
    for user_id, decoded_ones in of_users.items():
        store_together(db, user_id, decoded_ones)
    if problems:
        raise DataError(f"A span that was acknowledged could not be read: {problems[0]}", "Report this.")


def _read(
    body: bytes, content_type: str, content_encoding: str | None, user_id: str, from_json: Callable[[object, str], Decoded],
    read_protobuf: Callable[[bytes, str], Decoded],
) -> Decoded:  # fmt: skip
    plain = decompressed(body, content_encoding)
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            return from_json(json.loads(plain.decode("utf-8-sig", "replace")), user_id)
        except (ValueError, RecursionError) as error:
            raise DataError(f"The request is not valid JSON: {error}", "Send an OTLP export request.") from None
    if kind in (PROTOBUF, "application/protobuf", "application/octet-stream", ""):
        return read_protobuf(plain, user_id)
    raise DataError(f"Unsupported OTLP content type {content_type!r}.", f"Send {PROTOBUF} or application/json.")


def decompressed(body: bytes, content_encoding: str | None) -> bytes:
    encoding = (content_encoding or "identity").strip().lower()
    if encoding in ("identity", ""):
        if len(body) > MAX_BODY:
            raise too_large()
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise DataError(f"Unsupported Content-Encoding {encoding!r}.", "Use gzip, deflate, or none.")
    try:
        return _unpacked(body, encoding)
    except zlib.error as error:
        raise DataError(f"The body is not valid {encoding}: {error}", "Set the right Content-Encoding.") from None


def _unpacked(body: bytes, encoding: str) -> bytes:
    """Decompresses all members: gzip may have several, one after the other. Some clients send deflate without a header (`wbits` of 32 and
    more detect it)."""
    has_header = body[:2] == b"\x1f\x8b" or (body[:1] == b"\x78" and int.from_bytes(body[:2], "big") % 31 == 0)
    wbits = zlib.MAX_WBITS | 32 if has_header or encoding != "deflate" else -zlib.MAX_WBITS
    pieces: list[bytes] = []
    room = MAX_BODY
    while body or not pieces:
        unpacker = zlib.decompressobj(wbits=wbits)
        pieces.append(unpacker.decompress(body, room))
        room -= len(pieces[-1])
        if unpacker.unconsumed_tail or room <= 0:
            raise too_large()
        if not unpacker.eof:
            raise DataError(f"The {encoding} body is truncated.", "Send it again.")
        body = unpacker.unused_data.lstrip(b"\0")  # Zeros may fill up the last block.
    return b"".join(pieces)


def too_large() -> TooLargeError:
    return TooLargeError(
        f"The request is larger than {MAX_BODY >> 20} MB.",
        "Send the spans in smaller batches: in the official exporters, set OTEL_BSP_MAX_EXPORT_BATCH_SIZE.",
    )


def read_otlp_protobuf(plain: bytes, user_id: str) -> Decoded:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    decoded, read = Decoded(user_id), AttributeReader().read
    try:
        request = request_class().FromString(plain)
        resources = [read(one.resource.attributes)[0] for one in request.resource_spans]
    except DecodeError as error:
        raise _not_protobuf(error, "ExportTraceServiceRequest") from None
    for of_resource, resource in zip(request.resource_spans, resources, strict=True):
        for of_scope in of_resource.scope_spans:
            scope = text(of_scope.scope.name)
            for span in of_scope.spans:
                try:
                    decoded.spans.append(_span(span, decoded, scope, resource, read))
                except (ValueError, OverflowError, DecodeError) as error:
                    decoded.reject(f"A span could not be read: {error}")
    return decoded.finish()


def _not_protobuf(error: Exception, expected: str) -> DataError:
    return DataError(f"The request is not valid OTLP protobuf: {error}", f"Send an {expected}.")


def has_ids(trace_id: bytes, span_id: bytes) -> bool:
    return len(trace_id) == 16 and len(span_id) == 8 and trace_id != _NO_TRACE and span_id != _NO_SPAN


def _span(span: Any, decoded: Decoded, scope: str, resource: Mapping[str, object], read: ReadAttributes) -> Row:
    trace_id, span_id, parent = span.trace_id, span.span_id, span.parent_span_id
    if not has_ids(trace_id, span_id):
        raise ValueError(NO_IDS)
    attributes, fragments = read(span.attributes)
    started_at, ended_at, is_timed = _times(
        span.start_time_unix_nano, span.end_time_unix_nano, (event.time_unix_nano for event in span.events)
    )
    hex_id = trace_id.hex()
    parent_id = parent.hex() if parent and parent != _NO_SPAN else None
    meaning = meaning_of(tuple(attributes), scope)
    _learn(decoded, hex_id, span_id.hex(), parent_id, started_at, about_trace(attributes, meaning), resource)
    status, failure = span.status, None
    events = [span_event(text(event.name), event.time_unix_nano, read(event.attributes)[0]) for event in span.events]
    if status.code == 2:
        failure = text(status.message) or exception_text(events, attributes)
    links = [span_link(link.trace_id.hex(), link.span_id.hex(), read(link.attributes)[0]) for link in span.links]
    if events or links:
        decoded.evaluated(hex_id, span_id.hex(), events)
        keep_events(attributes, events, links, text(span.name), scope, parent_id)
        meaning = meaning_of(tuple(attributes), scope)
    row = span_row(
        decoded.user_id, hex_id, span_id.hex(), parent_id, text(span.name), started_at,
        ended_at, failure, attributes, scope, fragments, meaning,
    )  # fmt: skip
    return row if is_timed else _untimed(row)


def _times(start: int, end: int, events: Iterable[int]) -> tuple[datetime, datetime | None, bool]:
    """Returns start and end, and whether they give a duration: a span without a start is placed at its end, or at its first event."""
    if start:
        started_at = _EPOCH + timedelta(microseconds=start // 1000)
        return started_at, max(started_at, _EPOCH + timedelta(microseconds=end // 1000)) if end else None, True
    known = end or min((time for time in events if time), default=0)
    at = _EPOCH + timedelta(microseconds=known // 1000) if known else to_naive_utc(utc_now())
    return at, at if end else None, not end


def _untimed(row: Row) -> Row:
    """Finished but without an end, so it has no duration."""
    return (*row[: AT["ended_at"]], None, *row[AT["ended_at"] + 1 :])


def _learn(
    decoded: Decoded, trace_id: str, span_id: str, parent_id: str | None, started_at: datetime, about: dict[str, object],
    resource: Mapping[str, object],
) -> None:  # fmt: skip
    if resource:
        about["metadata"] = {"resource": resource}
    decoded.learn(trace_id, statement_key(parent_id is None, started_at, span_id) if about else 0, about)


# -- JSON


def read_otlp_json(request: object, user_id: str) -> Decoded:
    """Decodes the JSON form of the same message: camelCase names, ids in hex, 64-bit numbers as strings. Raises `DataError`."""
    if request in ({}, {"resourceSpans": None}):
        return Decoded(user_id)  # Protobuf's JSON form of an empty message.
    if not isinstance(request, Mapping) or not isinstance(field_of(request, "resourceSpans"), list):
        raise DataError(
            f"The JSON is not an OTLP trace request: it has no list `resourceSpans`.{_what_it_is(request)}",
            "Send an ExportTraceServiceRequest, for example with an OTLP exporter of OpenTelemetry.",
        )
    decoded = Decoded(user_id)
    for of_resource in objects_of(field_of(request, "resourceSpans")):
        resource = json_attributes(field_of(object_of(field_of(of_resource, "resource")), "attributes"))
        for of_scope in objects_of(
            field_of(of_resource, "scopeSpans") or field_of(of_resource, "instrumentationLibrarySpans")
        ):
            library = field_of(of_scope, "scope") or field_of(of_scope, "instrumentationLibrary")  # Before OTLP 0.19.
            scope = str(object_of(library).get("name") or "")
            for span in list_of(field_of(of_scope, "spans")):
                try:
                    decoded.spans.append(_json_span(span, decoded, scope, resource))
                except (ValueError, OverflowError, TypeError) as error:
                    decoded.reject(f"A span could not be read: {error}")
    return decoded.finish()


_KNOWN = {
    "resourceMetrics": "metrics",
    "resourceLogs": "logs, which /v1/logs accepts",
    "traceId": "Zipkin spans",
    "data": "a Jaeger export",
}


def _what_it_is(request: object) -> str:
    """Names another known format that was sent by mistake."""
    first = request[0] if isinstance(request, list) and request else request
    if not isinstance(first, Mapping):
        return ""
    what = next((_KNOWN[name] for name in first if name in _KNOWN), None)
    return f" It looks like {what}." if what else ""


def _json_span(span: object, decoded: Decoded, scope: str, resource: Mapping[str, object]) -> Row:
    if not isinstance(span, Mapping):
        raise TypeError(f"it is no object but {type(span).__name__}")
    trace_id, span_id = id_of(field_of(span, "traceId"), 16), id_of(field_of(span, "spanId"), 8)
    parent_id = id_or_none(field_of(span, "parentSpanId"), 8)
    attributes = json_attributes(field_of(span, "attributes"))
    start, end = (max(integer(field_of(span, name) or 0), 0) for name in ("startTimeUnixNano", "endTimeUnixNano"))
    about = about_trace(attributes, meaning_of(tuple(attributes), scope))
    status, error = object_of(field_of(span, "status")), None
    events = [
        span_event(str(event.get("name") or ""), integer(field_of(event, "timeUnixNano") or 0), json_attributes(event.get("attributes")))
        for event in objects_of(field_of(span, "events"))
    ]  # fmt: skip
    links = [
        span_link(id_of_link(field_of(link, "traceId"), 16), id_of_link(field_of(link, "spanId"), 8), json_attributes(link.get("attributes")))
        for link in objects_of(field_of(span, "links"))
    ]  # fmt: skip
    started_at, ended_at, is_timed = _times(start, end, [int(event["time_unix_nano"]) for event in events])
    _learn(decoded, trace_id, span_id, parent_id, started_at, about, resource)
    if events or links:
        decoded.evaluated(trace_id, span_id, events)
        keep_events(attributes, events, links, str(span.get("name") or ""), scope, parent_id)
    if status.get("code") in (2, "2", "STATUS_CODE_ERROR"):
        error = str(status.get("message") or "") or exception_text(events, attributes)
    row = span_row(
        decoded.user_id, trace_id, span_id, parent_id, str(span.get("name") or ""), started_at,
        ended_at, error, attributes, scope,
    )  # fmt: skip
    return row if is_timed else _untimed(row)


# -- log records


def read_logs_protobuf(plain: bytes, user_id: str) -> Decoded:
    from google.protobuf.message import DecodeError

    try:
        request = request_class("LogsRequest").FromString(plain)
    except DecodeError as error:
        raise _not_protobuf(error, "ExportLogsServiceRequest") from None
    decoded = Decoded(user_id)
    read = AttributeReader().read
    for of_resource in request.resource_logs:
        for of_scope in of_resource.scope_logs:
            for record in of_scope.log_records:
                try:
                    attributes, _ = read(record.attributes)
                    body = any_value(record.body) if record.HasField("body") else None
                except (ValueError, DecodeError) as error:
                    decoded.reject(f"A log record could not be read: {error}")
                    continue
                time = record.time_unix_nano or record.observed_time_unix_nano
                name = text(record.event_name)
                _take_record(decoded, record.trace_id.hex(), record.span_id.hex(), name, time, attributes, body)
    return decoded


def read_logs_json(request: object, user_id: str) -> Decoded:
    """Decodes the JSON form. Raises `DataError`."""
    if not isinstance(request, Mapping) or not isinstance(field_of(request, "resourceLogs") or [], list):
        raise DataError("The JSON is not an OTLP logs request.", "Send an ExportLogsServiceRequest.")
    decoded = Decoded(user_id)
    for of_resource in objects_of(field_of(request, "resourceLogs")):
        for of_scope in objects_of(field_of(of_resource, "scopeLogs")):
            for record in list_of(field_of(of_scope, "logRecords")):
                try:
                    if not isinstance(record, Mapping):
                        raise TypeError(f"it is no object but {type(record).__name__}")
                    trace_id, span_id = (
                        id_of(given, n) if (given := field_of(record, name)) else ""
                        for name, n in (("traceId", 16), ("spanId", 8))
                    )
                    time = integer(field_of(record, "timeUnixNano") or field_of(record, "observedTimeUnixNano") or 0)
                    attributes, body = json_attributes(record.get("attributes")), json_value(record.get("body"))
                except (ValueError, OverflowError, TypeError) as error:
                    decoded.reject(f"A log record could not be read: {error}")
                    continue
                name = str(field_of(record, "eventName") or "")
                _take_record(decoded, trace_id, span_id, name, time, attributes, body)
    return decoded


def _take_record(
    decoded: Decoded, trace_id: str, span_id: str, name: str, time: int, attributes: dict[str, object], body: object
) -> None:
    """Returns the event. `body` has fields in addition to its attributes, or is one text."""
    name = name or str(attributes.pop("event.name", ""))
    body = read_json(body)
    groups = {}
    if isinstance(body, Mapping) and not name.startswith(_OF_GENAI):
        groups = {into: found for key, into in _GROUPS.items() if (found := messages_in(body.get(key)))}
    if len(trace_id) != 32 or len(span_id) != 16 or not trace_id.strip("0") or not span_id.strip("0"):
        decoded.reject(f"The log record {name!r} belongs to no span.")
    elif not name.startswith(_OF_GENAI) and not groups:
        decoded.reject(f"The log record {name!r} is not an event of a GenAI span (gen_ai.*); other logs are not kept.")
    else:
        payload = {**attributes, **(groups or body)} if isinstance(body, Mapping) else attributes
        if body is not None and not isinstance(body, Mapping):
            payload = {"content": body, **attributes}
        event = span_event(name, time, payload)
        decoded.evaluated(trace_id, span_id, [event])
        decoded.events.append((trace_id, span_id, event))


_OF_GENAI = "gen_ai."
_GROUPS = {"input": GenAI.INPUT_MESSAGES, "output": GenAI.OUTPUT_MESSAGES}
"""The groups of messages in the record that the AWS distribution of OpenTelemetry (Bedrock AgentCore) sends for a span."""
