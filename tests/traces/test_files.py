"""Files of traces as programs write them: many requests in one, cut off, packed, printed on a console; and the forms of OTLP/JSON."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.trace import StatusCode

from tests.traces.senders import RECORDED
from tests.traces.test_interchange import request, span
from timestep_lab.model.errors import DataError
from timestep_lab.runtime.interchange import import_file, read_otlp
from timestep_lab.runtime.interchange.files import Imported
from timestep_lab.store.spans import AT, Row
from timestep_lab.store.store import Store

N = 9
"""Spans of the recorded requests."""


def requests() -> list[ExportTraceServiceRequest]:
    """A recording as a request for each of its spans."""
    whole = ExportTraceServiceRequest.FromString((RECORDED / "strands.pb").read_bytes())
    parts = []
    for of_resource in whole.resource_spans:
        for of_scope in of_resource.scope_spans:
            for one in of_scope.spans:
                part = ExportTraceServiceRequest()
                alone = part.resource_spans.add(resource=of_resource.resource).scope_spans.add(scope=of_scope.scope)
                alone.spans.add().CopyFrom(one)
                parts.append(part)
    return parts


def varint(number: int) -> bytes:
    return bytes([number & 0x7F | 0x80]) + varint(number >> 7) if number > 0x7F else bytes([number])


def archive(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as into:
        for name, data in files.items():
            into.writestr(name, data)
    return packed.getvalue()


def forms() -> Iterator[tuple[str, bytes]]:
    protobuf = [part.SerializeToString() for part in requests()]
    lines = [json.dumps(MessageToDict(part)) for part in requests()]
    pretty = [json.dumps(json.loads(line), indent=2) for line in lines]
    yield "four bytes of length before each", b"".join(len(part).to_bytes(4, "big") + part for part in protobuf)
    yield "a varint of length before each", b"".join(varint(len(part)) + part for part in protobuf)
    yield "JSON lines", "\n".join(lines).encode()
    yield "JSON lines of Windows", b"\xef\xbb\xbf" + "\r\n".join(lines).encode()
    yield "JSON documents over several lines", "\n".join(pretty).encode()
    yield "JSON documents without anything between them", "".join(lines).encode()
    yield "UTF-16", "\n".join(lines).encode("utf-16")
    yield "gzip", gzip.compress("\n".join(lines).encode())
    yield "an archive of one", archive({"logs/traces.jsonl": "\n".join(lines).encode()})
    yield "an archive of many", archive({f"{place}.pb": part for place, part in enumerate(protobuf)})
    yield "an archive of packed ones", archive({f"{place}.gz": gzip.compress(part) for place, part in enumerate(protobuf)})  # fmt: skip


FORMS = dict(forms())


@pytest.fixture
def read(store: Store, tmp_path: Path) -> Any:
    def import_bytes(data: bytes) -> Imported:
        (tmp_path / "traces").write_bytes(data)
        return import_file(tmp_path / "traces", store)

    return import_bytes


@pytest.mark.parametrize("form", FORMS)
def test_many_requests_in_one_file_are_read_in_each_form_that_programs_write(read: Any, form: str) -> None:
    imported = read(FORMS[form])
    assert (imported.spans, imported.added, imported.rejected) == (N, N, 0)


@pytest.mark.parametrize("form", ["four bytes of length before each", "a varint of length before each", "JSON lines"])
def test_of_a_file_that_was_cut_off_the_whole_requests_are_kept_and_the_rest_is_counted(read: Any, form: str) -> None:
    imported = read(FORMS[form][:-9])
    assert (imported.spans, imported.rejected) == (N - 1, 1)
    assert "is not JSON" in imported.problem or "in the middle of a request" in imported.problem


def test_a_file_with_too_many_lines_that_are_not_json_says_that_the_rest_was_not_read(read: Any) -> None:
    lines = FORMS["JSON lines"].split(b"\n")
    imported = read(b"\n".join([lines[0], *[b"starting"] * 1000, lines[1]]))
    assert (imported.spans, imported.rejected) == (1, 1000)
    assert imported.problem == "Line 2 of traces is not JSON. The rest was not read, after 1,000 such lines."


def test_what_is_no_trace_in_an_archive_is_counted_and_named_and_no_database_is_opened(
    read: Any, tmp_path: Path
) -> None:
    duckdb = b"\0" * 8 + b"DUCK" + b"\0" * 100
    imported = read(archive({"read.me": b"no", "lab.duckdb": duckdb, "t.jsonl": FORMS["JSON lines"]}))
    assert (imported.spans, imported.rejected) == (N, 2)
    assert imported.problem == "traces: read.me is not a file of traces."
    with pytest.raises(DataError, match=r"lab.duckdb is not a file of traces"):
        read(archive({"lab.duckdb": duckdb}))
    with pytest.raises(DataError, match="cannot be unpacked"):
        read(FORMS["an archive of one"][:200])


def test_log_records_in_a_file_of_protobuf_are_the_events_of_their_spans(read: Any, store: Store) -> None:
    said = {"traceId": base64.b64encode(b"\xa1" * 16), "spanId": base64.b64encode(b"\xb2" * 8), "eventName": "gen_ai.user.message", "body": {"kvlistValue": {"values": [{"key": "content", "value": {"stringValue": "hi"}}]}}}  # fmt: skip
    told = ParseDict({"resourceLogs": [{"scopeLogs": [{"logRecords": [said]}]}]}, ExportLogsServiceRequest())
    read(told.SerializeToString())
    asked = {**span(1, "chat", {"gen_ai.operation.name": "chat"}), "traceId": "a1" * 16, "spanId": "b2" * 8}
    read(json.dumps(request(asked)).encode())
    [(text,)] = store.sql("select input from generations").rows
    assert json.loads(text) == [{"role": "user", "content": "hi"}]


def test_what_the_console_exporter_of_python_prints_is_read(read: Any, store: Store) -> None:
    printed = io.StringIO()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=printed)))
    tracer = provider.get_tracer("it")
    with tracer.start_as_current_span("invoke_agent Weather", attributes={"gen_ai.operation.name": "invoke_agent"}):
        asked = tracer.start_span("chat", attributes={"gen_ai.operation.name": "chat"})
        asked.add_event("gen_ai.user.message", {"content": "hi"})
        asked.set_status(StatusCode.ERROR, "no model")
        asked.end()
    read(printed.getvalue().encode())
    [chat, agent] = store.sql("select span_id, parent_id, name, kind, status, error, input from spans order by kind desc").rows  # fmt: skip
    assert chat[1:] == (agent[0], "chat", "generation", "error", "no model", '[{"role":"user","content":"hi"}]')  # fmt: skip
    assert agent[1:] == (None, "Weather", "agent", "ok", None, None)


def row_of(**fields: Any) -> Row:
    body = json.dumps(request({**span(1, "it", {}), **fields})).encode()
    decoded = read_otlp(body, "application/json", None, "u")
    assert (decoded.rejected, decoded.problem) == (0, "")
    [row] = decoded.spans
    return row


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ({"doubleValue": None}, None),  # NaN, of JavaScript
        ({"stringValue": None}, None), ({"intValue": None}, None), ({"arrayValue": {"values": [{"doubleValue": None}, None]}}, [None, None]),
        ({"stringValue": None, "boolValue": None, "intValue": "5"}, 5), ({"stringValue": "", "intValue": None}, ""),
        ({"intValue": "5.0"}, 5), ({"intValue": 5.0}, 5), ({"intValue": "1e3"}, 1000), ({"doubleValue": "0.5"}, 0.5),
        ({"intValue": "many"}, "many"), ({"intValue": "1e999999999"}, "1e999999999"), ({"doubleValue": [1]}, [1]),
        ({"intValue": {"low": -1, "high": 0, "unsigned": False}}, 2**32 - 1),
    ],
)  # fmt: skip
def test_a_value_of_json_is_read_in_every_form_and_never_loses_its_span(value: Any, right: Any) -> None:
    assert json.loads(row_of(attributes=[{"key": "it", "value": value}])[AT["attributes"]]) == {"it": right}


@pytest.mark.parametrize("write", [bytes.hex, lambda raw: raw.hex().upper(), lambda raw: base64.b64encode(raw).decode(), lambda raw: base64.urlsafe_b64encode(raw).decode().rstrip("=")])  # fmt: skip
def test_ids_of_a_span_its_parent_and_its_links_are_one_whichever_way_they_are_written(write: Any) -> None:
    trace, own, other = b"\xfb" * 16, b"\xfe" * 8, b"\xaf" * 8
    row = row_of(traceId=write(trace), spanId=write(own), parentSpanId=write(other), links=[{"traceId": write(trace), "spanId": write(other)}])  # fmt: skip
    assert [row[AT[name]] for name in ("trace_id", "span_id", "parent_id")] == [trace.hex(), own.hex(), other.hex()]
    [link] = json.loads(row[AT["attributes"]])["timestep.links"]
    assert (link["trace_id"], link["span_id"]) == (trace.hex(), other.hex())
    assert row_of(parentSpanId=write(b"\0" * 8))[AT["parent_id"]] is None


def test_a_link_to_what_is_no_id_is_kept_as_it_is() -> None:
    [link] = json.loads(row_of(links=[{"traceId": "z" * 32, "spanId": None}])[AT["attributes"]])["timestep.links"]
    assert (link["trace_id"], link["span_id"]) == ("z" * 32, "")


def test_times_may_be_written_with_an_exponent_and_an_empty_list_as_null() -> None:
    assert row_of(startTimeUnixNano="1.7e18")[AT["started_at"]].year == 2023
    assert read_otlp(b'{"resourceSpans": null}', "application/json", None, "u").rejected == 0
