"""OTLP trace requests parsed with their attributes left as bytes, which are then read with a memory.

In the official classes every attribute is two Python objects, made and dropped again: most of the time of reading a request. Here the
same message is declared with `bytes` in the place of `KeyValue` (the two look alike on the wire), and since most attributes say the same
in span after span (operation, model, agent, …) their bytes are read once. What is not plain text is read by the protobuf classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from timestep_lab.runtime.interchange.conventions import fragment

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
bytes: the classes refuse a whole request for one byte that is no UTF-8, where OpenTelemetry asks for U+FFFD in its place."""
_ONE_OF = "AnyValue"
"""The message of which one field at most is set."""
_PACKAGE = "timestep_lab.otlp"
REMEMBERED_LENGTH, REMEMBERED = 128, 20_000


def request_class(name: str = "Request") -> Any:
    """Like `ExportTraceServiceRequest`, or as `LogsRequest` like `ExportLogsServiceRequest`, of the fields that are read here."""
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
    """With U+FFFD for what is no UTF-8."""
    return raw.decode("utf-8", "replace")


class AttributeReader:
    """Reads attributes of one request, and remembers the short ones: nothing is kept of a sender afterwards."""

    def __init__(self) -> None:
        self._met: dict[bytes, tuple[str, Any, str]] = {}
        self._names: dict[bytes, str] = {}

    def read(self, pairs: Iterable[bytes]) -> tuple[dict[str, Any], dict[str, str]]:
        """Name to value, and of short attributes name to JSON. Raises protobuf's `DecodeError`."""
        values: dict[str, Any] = {}
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
                del fragments[name]  # Of an attribute that is said twice the last counts.
        return values, fragments

    def _text_pair(self, raw: bytes) -> tuple[str, str] | None:
        """A `KeyValue` whose value is text and nothing else: 0a, length, name, 12, length, 0a, length, text. Else None."""
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
            return None  # Broken: the protobuf classes say how.


def _pair(raw: bytes) -> tuple[str, Any]:
    pair = _class("KeyValue").FromString(raw)
    return text(pair.key), any_value(pair.value)


def any_value(value: Any) -> Any:
    """An `AnyValue` as a JSON value; bytes in hex."""
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
