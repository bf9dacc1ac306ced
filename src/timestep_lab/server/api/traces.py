"""OTLP/HTTP receivers, as specified for OpenTelemetry collectors."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from timestep_lab.model.errors import NotFoundError, StoreUnavailableError
from timestep_lab.server.api.operations import ERRORS
from timestep_lab.server.fair_reads import FairReads
from timestep_lab.server.labs import CurrentLab, UserLab
from timestep_lab.server.otlp_decoder import OtlpDecoder, Reading
from timestep_lab.store.base import Received
from timestep_lab.store.store import Store

if TYPE_CHECKING:
    from timestep_lab.runtime.interchange.export import Summary

router = APIRouter(tags=["traces"], responses=ERRORS)
PROTOBUF = "application/x-protobuf"
BYTES_A_SPAN = 1000
"""For an estimate of the number of spans of a request, until it is decoded."""


@router.post(
    "/v1/traces",
    response_class=Response,
    responses={200: {"content": {PROTOBUF: {}, "application/json": {}}}},
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}, PROTOBUF: {"schema": {"type": "string", "format": "binary"}}}}},
)  # fmt: skip
async def receive_otlp(request: Request, lab: CurrentLab) -> Response:
    """Receive spans by OTLP/HTTP (protobuf or JSON, gzip or deflate), up to 256 MB per request, compressed or not.
    Responds after the spans are durable; duplicate spans are stored once. Larger requests get status 413: configure the
    exporter to send smaller batches."""
    kind, summary = await _taken(request, lab, "read_otlp")
    return _answer(kind, summary.rejected, summary.problem, "rejectedSpans")


@router.post(
    "/v1/logs",
    response_class=Response,
    responses={200: {"content": {PROTOBUF: {}, "application/json": {}}}},
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}, PROTOBUF: {"schema": {"type": "string", "format": "binary"}}}}},
)  # fmt: skip
async def receive_otlp_logs(request: Request, lab: CurrentLab) -> Response:
    """Receive events of GenAI spans (`gen_ai.*`) as OTLP/HTTP log records, before or after their spans. Other records
    are reported in `partial_success`. Responds after the events are durable."""
    kind, summary = await _taken(request, lab, "read_otlp_logs")
    return _answer(kind, summary.rejected, summary.problem, "rejectedLogRecords")


@router.post("/v1/metrics", include_in_schema=False)
@router.post("/api/v2/spans", include_in_schema=False)
@router.post("/api/traces", include_in_schema=False)
async def refuse_other_protocols(request: Request) -> Response:
    """Explain to exporters of metrics, and of Zipkin and Jaeger, what is accepted."""
    if request.url.path == "/v1/metrics":
        raise NotFoundError("Metrics are not kept.", "Turn them off: OTEL_METRICS_EXPORTER=none.")
    raise NotFoundError(
        "Spans of Zipkin and Jaeger are not accepted.", "Send OTLP over HTTP to /v1/traces: OTEL_TRACES_EXPORTER=otlp."
    )


async def _taken(request: Request, lab: UserLab, reader: str) -> tuple[str, Summary]:
    """The content type of the request, and the summary of what was read of it, which is durable."""
    body, kind = await request.body(), request.headers.get("content-type", "")
    encoding = request.headers.get("content-encoding")
    decoder: OtlpDecoder = request.app.state.otlp
    imports: FairReads = request.app.state.imports
    store = lab.store

    def take() -> Summary:
        if store.quota:
            store.quota.take_sent(len(body))
        with closing(decoder.accept(body, kind, encoding, store.user_id, reader=reader)) as reading:
            return _stored(store, reading, Received(store.user_id, reader, body, kind, encoding))

    return kind, await imports.for_request(request, store.user_id, take)


def _stored(store: Store, reading: Reading, received: Received) -> Summary:
    """Stores the request as it is, while the child process decodes it or before; a request that might be refused is decoded first."""
    read: list[Summary] = []

    def confirmed() -> int:
        summary = reading.summary()
        if store.quota and summary.n_traces:
            store.quota.take_traces(summary.n_traces)
        read.append(summary)
        return summary.n_spans

    received.decoded, received.is_checked = reading.decoded, reading.is_checked
    if reading.is_begun:
        received.n_spans, received.confirmed = len(received.body) // BYTES_A_SPAN + 1, confirmed
    else:
        received.n_spans = confirmed()
    if (received.confirmed or received.n_spans) and not store.db.receive(received):
        if not read:
            confirmed()
        decoded = reading.decoded()
        if decoded is None:
            raise StoreUnavailableError("The process that decodes traces ended.", "Send it again.")
        decoded.store(store.db)
    return read[0]


def _answer(kind: str, rejected: int, problem: str, counted_as: str) -> Response:
    if kind.strip().lower().startswith("application/json"):
        return JSONResponse({"partialSuccess": {counted_as: rejected, "errorMessage": problem}} if rejected else {})
    return Response(_protobuf_answer(rejected, problem), media_type=PROTOBUF)


def _protobuf_answer(rejected: int, problem: str) -> bytes:
    """The response body; it has the same fields for spans and log records."""
    if not rejected:
        return b""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTracePartialSuccess,
        ExportTraceServiceResponse,
    )

    partial = ExportTracePartialSuccess(rejected_spans=rejected, error_message=problem)
    answer: bytes = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
    return answer
