"""OTLP trace requests, as protobuf or JSON, plain or compressed, into rows."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from timestep_lab.runtime.interchange.conventions import about_trace, span_row
from timestep_lab.runtime.interchange.decoded import Decoded
from timestep_lab.runtime.interchange.otlp_wire import AttributeReader, request_class, text
from timestep_lab.store.span_rows import Row
from timestep_lab.types.errors import DataError, TooLargeError

MAX_BODY = 256 * 1024 * 1024
"""Bytes of one request, as it is sent and after decompression. An exporter's default batch of 512 spans may have 512 kB a span."""
_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_NO_SPAN = b"\0" * 8
PROTOBUF = "application/x-protobuf"
ReadAttributes = Callable[[Iterable[bytes]], tuple[dict[str, Any], dict[str, str]]]


def read_otlp(body: bytes, content_type: str, content_encoding: str | None, user_id: str) -> Decoded:
    """An `ExportTraceServiceRequest`. Single spans that make no sense are counted in `rejected`, the rest is kept.

    Raises `DataError` when the body as a whole cannot be read, `TooLargeError` when it is over `MAX_BODY`.
    """
    plain = decompressed(body, content_encoding)
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            return read_otlp_json(json.loads(plain.decode("utf-8-sig", "replace")), user_id)
        except (ValueError, RecursionError) as error:
            raise DataError(f"The request is no JSON: {error}", "Send an ExportTraceServiceRequest.") from None
    if kind in (PROTOBUF, "application/protobuf", "application/octet-stream", ""):
        return read_otlp_protobuf(plain, user_id)
    raise DataError(f"Traces of type {content_type!r} cannot be read.", f"Send {PROTOBUF} or application/json.")


def decompressed(body: bytes, content_encoding: str | None) -> bytes:
    encoding = (content_encoding or "identity").strip().lower()
    if encoding in ("identity", ""):
        if len(body) > MAX_BODY:
            raise too_large()
        return body
    if encoding not in ("gzip", "deflate"):
        raise DataError(f"Bodies compressed by {encoding!r} cannot be read.", "Use gzip, deflate, or none.")
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # reads the headers of both
    try:
        plain = unpacker.decompress(body, MAX_BODY)
    except zlib.error as error:
        raise DataError(f"The body is not {encoding}: {error}", "Send it as the Content-Encoding says.") from None
    if unpacker.unconsumed_tail:
        raise too_large()
    if not unpacker.eof:
        raise DataError(f"The {encoding} body ends too early.", "Send it again.")
    return plain


def too_large() -> TooLargeError:
    return TooLargeError(
        f"The request is larger than {MAX_BODY >> 20} MB.",
        "Send the spans in smaller batches: of the official exporters, set OTEL_BSP_MAX_EXPORT_BATCH_SIZE.",
    )


def read_otlp_protobuf(plain: bytes, user_id: str) -> Decoded:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        request = request_class().FromString(plain)
    except DecodeError as error:
        raise DataError(f"The request is no OTLP protobuf: {error}", "Send an ExportTraceServiceRequest.") from None
    decoded = Decoded(user_id)
    about: dict[str, dict[str, Any]] = {}
    read = AttributeReader().read
    for of_resource in request.resource_spans:
        try:
            resource, _ = read(of_resource.resource.attributes)
        except DecodeError as error:
            raise DataError(f"The request is no OTLP protobuf: {error}", "Send an ExportTraceServiceRequest.") from None
        for of_scope in of_resource.scope_spans:
            scope = text(of_scope.scope.name)
            for span in of_scope.spans:
                try:
                    decoded.spans.append(_span(span, user_id, scope, resource, about, read))
                except (ValueError, OverflowError, DecodeError) as error:
                    decoded.reject(f"A span could not be read: {error}")
    return decoded.finish(about)


def _span(
    span: Any,
    user_id: str,
    scope: str,
    resource: Mapping[str, Any],
    about: dict[str, dict[str, Any]],
    read: ReadAttributes,
) -> Row:
    trace_id, span_id, parent = span.trace_id, span.span_id, span.parent_span_id
    if len(trace_id) != 16 or len(span_id) != 8:
        raise ValueError("it has no 16-byte trace id and 8-byte span id")
    attributes, fragments = read(span.attributes)
    started_at = _EPOCH + timedelta(microseconds=span.start_time_unix_nano // 1000)
    end = span.end_time_unix_nano
    hex_id = trace_id.hex()
    parent_id = parent.hex() if parent and parent != _NO_SPAN else None
    if parent_id is None or hex_id not in about:
        _learn(about, hex_id, attributes, resource)
    failure = None
    status = span.status
    if status.code == 2:
        failure = text(status.message) or _exception(
            (text(event.name), read(event.attributes)[0]) for event in span.events
        )
    return span_row(
        user_id, hex_id, span_id.hex(), parent_id, text(span.name), started_at,
        max(started_at, _EPOCH + timedelta(microseconds=end // 1000)) if end else None, failure, attributes, scope, fragments,
    )  # fmt: skip


def _learn(
    about: dict[str, dict[str, Any]], trace_id: str, attributes: Mapping[str, Any], resource: Mapping[str, Any]
) -> None:
    told = about.setdefault(trace_id, {"metadata": {"resource": dict(resource)} if resource else {}})
    told.update(about_trace(attributes))


def _exception(events: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    for name, attributes in events:
        if name == "exception":
            kind, message = attributes.get("exception.type"), attributes.get("exception.message")
            return ": ".join(str(part) for part in (kind, message) if part) or "error"
    return "error"


# -- JSON


def read_otlp_json(request: Any, user_id: str) -> Decoded:
    """The JSON form of the same message: camelCase names, ids in hex, 64-bit numbers as strings. Raises `DataError`."""
    if not isinstance(request, Mapping) or not isinstance(_get(request, "resourceSpans"), list):
        raise DataError(
            "The JSON is no OTLP trace request: it has no list `resourceSpans`.", "Send an ExportTraceServiceRequest."
        )
    decoded = Decoded(user_id)
    about: dict[str, dict[str, Any]] = {}
    for of_resource in _objects(_get(request, "resourceSpans")):
        resource = _json_attributes(_get(_object(_get(of_resource, "resource")), "attributes"))
        for of_scope in _objects(_get(of_resource, "scopeSpans")):
            scope = str(_object(_get(of_scope, "scope")).get("name") or "")
            for span in _objects(_get(of_scope, "spans")):
                try:
                    row = _json_span(span, user_id, scope, resource, about)
                except (ValueError, OverflowError, TypeError) as error:
                    decoded.reject(f"A span could not be read: {error}")
                else:
                    decoded.spans.append(row)
    return decoded.finish(about)


def _json_span(
    span: Mapping[str, Any], user_id: str, scope: str, resource: Mapping[str, Any], about: dict[str, dict[str, Any]]
) -> tuple[Any, ...]:
    trace_id, span_id = _hex(_get(span, "traceId"), 16), _hex(_get(span, "spanId"), 8)
    parent = _get(span, "parentSpanId")
    parent_id = _hex(parent, 8) if parent and set(str(parent)) != {"0"} else None
    attributes = _json_attributes(_get(span, "attributes"))
    if parent_id is None or trace_id not in about:
        _learn(about, trace_id, attributes, resource)
    started_at = _EPOCH + int(_get(span, "startTimeUnixNano") or 0) // 1000 * _MICROSECOND
    end = int(_get(span, "endTimeUnixNano") or 0)
    status = _object(_get(span, "status"))
    error = None
    if status.get("code") in (2, "2", "STATUS_CODE_ERROR"):
        events = (
            (str(event.get("name")), _json_attributes(event.get("attributes")))
            for event in _objects(_get(span, "events"))
        )
        error = str(status.get("message") or "") or _exception(events)
    return span_row(
        user_id, trace_id, span_id, parent_id, str(span.get("name") or ""), started_at,
        max(started_at, _EPOCH + end // 1000 * _MICROSECOND) if end else None, error, attributes, scope,
    )  # fmt: skip


def _json_attributes(pairs: Any) -> dict[str, Any]:
    return {str(pair.get("key")): _json_value(pair.get("value")) for pair in _objects(pairs)}


def _json_value(value: Any) -> Any:
    if not isinstance(value, Mapping) or not value:
        return None
    [kind, given] = next(iter(value.items()))
    match kind.replace("_", "").lower():
        case "stringvalue":
            return str(given)
        case "intvalue":
            return int(given)
        case "doublevalue":
            return float(given)
        case "arrayvalue":
            return [_json_value(inner) for inner in _object(given).get("values") or []]
        case "kvlistvalue":
            return _json_attributes(_object(given).get("values"))
    return given


def _hex(value: Any, n_bytes: int) -> str:
    """An id in hex as OTLP says, or in base64 as plain protobuf JSON writes bytes."""
    text = str(value or "")
    if len(text) == 2 * n_bytes:
        return bytes.fromhex(text).hex()
    import base64

    data = base64.b64decode(text, validate=True)
    if len(data) != n_bytes:
        raise ValueError(f"{text!r} is no id of {n_bytes} bytes")
    return data.hex()


def _get(found: Mapping[str, Any], name: str) -> Any:
    """A field by its camelCase name, or the snake_case one that some writers use."""
    if name in found:
        return found[name]
    return found.get("".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name))


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _objects(value: Any) -> Iterable[Mapping[str, Any]]:
    return (entry for entry in value if isinstance(entry, Mapping)) if isinstance(value, list) else ()
