"""Traces and spans of the caller, annotations, and OTLP/HTTP as it is specified for collectors."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from timestep_lab.app.api.schemas import ERRORS, ScoreBody
from timestep_lab.app.api.sql import plain
from timestep_lab.app.fair_reads import FairReads
from timestep_lab.app.labs import CurrentLab
from timestep_lab.app.otlp_decoder import OtlpDecoder
from timestep_lab.store.base import in_thread
from timestep_lab.types.records import ScoreRecord

router = APIRouter(tags=["traces"], responses=ERRORS)
TraceId = Annotated[str, Path(min_length=1, max_length=200)]
Filter = Annotated[str, Query(max_length=10_000, description='For example: model == "gpt-4.1" and cost_usd > 0.01')]
Search = Annotated[str, Query(max_length=1_000, description="Words to find in what was said.")]
PROTOBUF = "application/x-protobuf"
T = TypeVar("T")


class TracePage(BaseModel):
    data: list[dict[str, Any]]
    has_more: bool
    after: str | None
    total: int | None
    sql: str


class Bucket(BaseModel):
    start: datetime
    end: datetime
    count: int
    errors: int


class Graph(BaseModel):
    nodes: list[dict[str, Any]]
    edges: list[dict[str, Any]]


async def read(request: Request, lab: Any, work: Callable[[], T]) -> T:
    """What `work` gives, which may be costly: in the user's turn."""
    reads: FairReads = request.app.state.reads
    return await reads.for_request(request, lab.store.user_id, work)


@router.get("/api/v1/traces", response_model=TracePage)
async def list_traces(
    request: Request,
    lab: CurrentLab,
    filter: Filter = "",
    search: Search = "",
    since: datetime | None = None,
    until: datetime | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    after: Annotated[str | None, Query(max_length=200)] = None,
) -> TracePage:
    """Newest first."""
    asked: dict[str, Any] = {"filter": filter, "search": search, "since": since, "until": until}
    traces = lab.store.traces

    def look() -> TracePage:
        page = traces.list(**asked, limit=limit, after=after)
        total = traces.count(**asked) if after is None else None
        rows = [{name: plain(value) for name, value in row.items()} for row in page.data]
        return TracePage(data=rows, has_more=page.has_more, after=page.after, total=total, sql=traces.sql(**asked))

    costly = filter.strip() or search.strip()
    return await (read(request, lab, look) if costly else in_thread(look))


@router.get("/api/v1/traces/histogram", response_model=list[Bucket])
async def histogram(
    request: Request,
    lab: CurrentLab,
    buckets: Annotated[int, Query(ge=1, le=500)] = 60,
    filter: Filter = "",
    search: Search = "",
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[Bucket]:
    """Traces over time, in equal steps."""
    work = partial(lab.store.traces.histogram, buckets, filter=filter, search=search, since=since, until=until)
    found = await read(request, lab, work)
    return [Bucket(start=b.start, end=b.end, count=b.count, errors=b.errors) for b in found]


@router.get("/api/v1/traces/{trace_id}", response_model=dict[str, Any])
async def get_trace(trace_id: TraceId, lab: CurrentLab) -> dict[str, Any]:
    """One row of the view `traces`."""
    row = await in_thread(lab.store.traces.get, trace_id)
    return {name: plain(value) for name, value in row.items()}


@router.get("/api/v1/traces/{trace_id}/columns", response_model=dict[str, list[Any]])
async def get_columns(request: Request, trace_id: TraceId, lab: CurrentLab) -> dict[str, list[Any]]:
    """All spans without their payloads, column by column; times in microseconds since 1970 UTC."""

    def look() -> dict[str, list[Any]]:
        # Columns of numbers are numpy arrays, NaN where a value is unknown; of an array's own numbers JSON knows nothing.
        columns = lab.store.traces.columns(trace_id)
        lists = {name: values.tolist() if hasattr(values, "tolist") else values for name, values in columns.items()}
        return {name: [plain(value) for value in values] for name, values in lists.items()}

    return await read(request, lab, look)


@router.get("/api/v1/traces/{trace_id}/graph", response_model=Graph)
async def get_graph(request: Request, trace_id: TraceId, lab: CurrentLab) -> Graph:
    """Who handed off to whom, over what its agents declare."""
    from dataclasses import asdict

    await in_thread(lab.store.traces.get, trace_id)
    graph = await read(request, lab, partial(lab.trace_source.graph, trace_id=trace_id))
    return Graph(nodes=[asdict(node) for node in graph.nodes], edges=[asdict(edge) for edge in graph.edges])


@router.get("/api/v1/spans", response_model=list[dict[str, Any]])
async def get_spans(
    request: Request,
    lab: CurrentLab,
    trace_id: Annotated[str, Query(min_length=1, max_length=200)],
    span_id: Annotated[list[str] | None, Query(max_length=500)] = None,
) -> list[dict[str, Any]]:
    """Whole spans with input, output and attributes; without `span_id`, the first 500 of the trace."""
    traces = lab.store.traces

    def look() -> list[dict[str, Any]]:
        ids = [span.span_id for span in traces.spans(trace_id)][:500] if span_id is None else span_id
        return [{name: plain(value) for name, value in row.items()} for row in traces.payloads(trace_id, ids)]

    return await read(request, lab, look)


@router.get("/api/v1/scores", response_model=list[ScoreRecord])
async def list_scores(
    lab: CurrentLab, trace_id: Annotated[str, Query(min_length=1, max_length=200)]
) -> list[ScoreRecord]:
    """Annotations of a trace and of its spans."""
    found: list[ScoreRecord] = await in_thread(lab.store.traces.scores, trace_id)
    return found


@router.post("/api/v1/scores", status_code=201, response_model=ScoreRecord)
async def add_score(body: ScoreBody, lab: CurrentLab) -> ScoreRecord:
    if body.target == "trace":
        await in_thread(lab.store.traces.get, body.target_id)  # Raises for what is not there, or not the caller's.
    record: ScoreRecord = await in_thread(
        lab.store.traces.score, body.target, body.target_id, body.name, body.value, label=body.label, note=body.note
    )
    return record


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
        decoded = decoder.read(body, kind, encoding, lab.store.user_id)
        decoded.store(lab.store.db)
        return decoded

    decoded = await in_thread(take)
    refused = {"rejectedSpans": decoded.rejected, "errorMessage": decoded.problem} if decoded.rejected else None
    if kind.startswith("application/json"):
        return JSONResponse({"partialSuccess": refused} if refused else {})
    return Response(_protobuf_answer(decoded.rejected, decoded.problem), media_type=PROTOBUF)


def _protobuf_answer(rejected: int, problem: str) -> bytes:
    if not rejected:
        return b""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTracePartialSuccess,
        ExportTraceServiceResponse,
    )

    partial = ExportTracePartialSuccess(rejected_spans=rejected, error_message=problem)
    answer: bytes = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
    return answer
