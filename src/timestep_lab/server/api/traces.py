"""OTLP/HTTP receivers, as specified for OpenTelemetry collectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from timestep_lab.server.api.operations import ERRORS
from timestep_lab.server.fair_reads import FairReads
from timestep_lab.server.labs import CurrentLab, UserLab
from timestep_lab.server.otlp_decoder import OtlpDecoder
from timestep_lab.store.base import Received

if TYPE_CHECKING:
    from timestep_lab.runtime.interchange.export import Decoded

router = APIRouter(tags=["traces"], responses=ERRORS)
PROTOBUF = "application/x-protobuf"


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
    kind, decoded = await _taken(request, lab, "read_otlp")
    return _answer(kind, decoded.rejected, decoded.problem, "rejectedSpans")


@router.post(
    "/v1/logs",
    response_class=Response,
    responses={200: {"content": {PROTOBUF: {}, "application/json": {}}}},
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}, PROTOBUF: {"schema": {"type": "string", "format": "binary"}}}}},
)  # fmt: skip
async def receive_otlp_logs(request: Request, lab: CurrentLab) -> Response:
    """Receive events of GenAI spans (`gen_ai.*`) as OTLP/HTTP log records, before or after their spans. Other records
    are reported in `partial_success`. Responds after the events are durable."""
    kind, decoded = await _taken(request, lab, "read_otlp_logs")
    return _answer(kind, decoded.rejected, decoded.problem, "rejectedLogRecords")


async def _taken(request: Request, lab: UserLab, reader: str) -> tuple[str, Decoded]:
    """The content type of the request, and what was read of it, which is durable."""
    body, kind = await request.body(), request.headers.get("content-type", "")
    encoding = request.headers.get("content-encoding")
    decoder: OtlpDecoder = request.app.state.otlp
    imports: FairReads = request.app.state.imports
    store = lab.store

    def take() -> Decoded:
        if store.quota:
            store.quota.take_sent(len(body))
        decoded = decoder.read(body, kind, encoding, store.user_id, reader=reader)
        if store.quota and decoded.spans:
            store.quota.take_traces(len(decoded.trace_ids()))
        if decoded.spans or decoded.events or decoded.scores:
            n_spans = len(decoded.spans) + len(decoded.events)
            if not store.db.receive(Received(store.user_id, reader, body, kind, encoding, n_spans, decoded)):
                decoded.store(store.db)
        return decoded

    return kind, await imports.for_request(request, store.user_id, take)


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
