"""OTLP/HTTP as it is specified for collectors."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from timestep_lab.server.api.schemas import ERRORS
from timestep_lab.server.fair_reads import FairReads
from timestep_lab.server.labs import CurrentLab
from timestep_lab.server.otlp_decoder import OtlpDecoder

router = APIRouter(tags=["traces"], responses=ERRORS)
PROTOBUF = "application/x-protobuf"


@router.post(
    "/v1/traces",
    response_class=Response,
    responses={200: {"content": {PROTOBUF: {}, "application/json": {}}}},
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}, PROTOBUF: {"schema": {"type": "string", "format": "binary"}}}}},
)  # fmt: skip
async def receive_otlp(request: Request, lab: CurrentLab) -> Response:
    """OTLP/HTTP (protobuf or JSON, gzip or deflate), up to 256 MB a request, compressed or not. Answered after the spans are durable;
    the same span twice is kept once. A larger request is answered with 413: an exporter must send fewer spans at once."""
    body, kind = await request.body(), request.headers.get("content-type", "")
    encoding = request.headers.get("content-encoding")
    decoder: OtlpDecoder = request.app.state.otlp

    def take() -> Any:
        quota = lab.store.quota
        if quota:
            quota.take_sent(len(body))
        decoded = decoder.read(body, kind, encoding, lab.store.user_id)
        if quota:
            quota.take_traces(len(decoded.trace_ids()))
        decoded.store(lab.store.db)
        return decoded

    imports: FairReads = request.app.state.imports
    decoded = await imports.for_request(request, lab.store.user_id, take)
    return _answer(kind, decoded.rejected, decoded.problem, "rejectedSpans")


@router.post(
    "/v1/logs",
    response_class=Response,
    responses={200: {"content": {PROTOBUF: {}, "application/json": {}}}},
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}, PROTOBUF: {"schema": {"type": "string", "format": "binary"}}}}},
)  # fmt: skip
async def receive_otlp_logs(request: Request, lab: CurrentLab) -> Response:
    """Events of GenAI spans (`gen_ai.*`) as OTLP/HTTP log records, before their spans or after them; other records are refused in the
    answer's partial success. Answered after the events are durable."""
    body, kind = await request.body(), request.headers.get("content-type", "")
    encoding = request.headers.get("content-encoding")

    decoder: OtlpDecoder = request.app.state.otlp

    def take() -> Any:
        if lab.store.quota:
            lab.store.quota.take_sent(len(body))
        decoded = decoder.read(body, kind, encoding, lab.store.user_id, reader="read_otlp_logs")
        decoded.store(lab.store.db)
        return decoded

    imports: FairReads = request.app.state.imports
    decoded = await imports.for_request(request, lab.store.user_id, take)
    return _answer(kind, decoded.rejected, decoded.problem, "rejectedLogRecords")


def _answer(kind: str, rejected: int, problem: str, counted_as: str) -> Response:
    if kind.strip().lower().startswith("application/json"):
        return JSONResponse({"partialSuccess": {counted_as: rejected, "errorMessage": problem}} if rejected else {})
    return Response(_protobuf_answer(rejected, problem), media_type=PROTOBUF)


def _protobuf_answer(rejected: int, problem: str) -> bytes:
    """The answers to spans and to log records have the same fields."""
    if not rejected:
        return b""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTracePartialSuccess,
        ExportTraceServiceResponse,
    )

    partial = ExportTracePartialSuccess(rejected_spans=rejected, error_message=problem)
    answer: bytes = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
    return answer
