"""HTTP routes of the services. Path, validation, OpenAPI schema and response are derived from the operations'
signatures.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import re
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Body, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.responses import JSONResponse, Response

from timestep_lab.model.codec import MOST_TEXT, Json
from timestep_lab.model.errors import UsageError
from timestep_lab.model.events import Event
from timestep_lab.server.api.changes import SSE, event_stream
from timestep_lab.server.fair_reads import FairReads, in_turn
from timestep_lab.server.labs import CurrentLab, UserLab
from timestep_lab.service.agents import Agents
from timestep_lab.service.causes import Causes
from timestep_lab.service.client import PREFIX
from timestep_lab.service.comparisons import Comparisons
from timestep_lab.service.datasets import Datasets
from timestep_lab.service.files import Files, VectorStores
from timestep_lab.service.mcp import Mcp
from timestep_lab.service.models import Models
from timestep_lab.service.my_data import MyData
from timestep_lab.service.operation import Operation, operations
from timestep_lab.service.runs import Runs
from timestep_lab.service.threads import Threads
from timestep_lab.service.traces import Traces
from timestep_lab.store import memory
from timestep_lab.store.base import Rows, in_thread, unique_names
from timestep_lab.store.duckdb import loopback as wire

# --- Request and response bodies that are not records


class Strict(BaseModel):
    """Rejects unknown fields, numbers that JSON does not have, and text that cannot be encoded."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, str_max_length=MOST_TEXT)


class ErrorObject(BaseModel):
    """An error in OpenAI's format, with the fields that a remote `Lab` needs to raise the same exception."""

    type: str
    message: str
    """What happened and the next step, on one line."""
    param: str | None = None
    code: str | None = None
    name: str | None = None
    """Class name of the error, see `timestep_lab.model.errors`."""
    details: dict[str, str | float | bool | None] = {}
    """Additional fields of the error: `next_step`, and for some `retry_after`, `position`, `provider` …"""


class ErrorBody(BaseModel):
    error: ErrorObject


ERRORS: dict[int | str, dict[str, object]] = {
    code: {
        "description": text,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{ErrorBody.__name__}"}}},
    }
    for code, text in {
        400: "Invalid request; nothing was changed.",
        401: "No valid token.",
        403: "Not allowed from another site's page, by this host name, or for a guest.",
        404: "Not found for this user.",
        409: "Someone else changed or claimed it first, or the name is taken.",
        413: "Too large.",
        422: "The body or a parameter is invalid.",
        429: "Too many requests; `Retry-After` says when to try again.",
        502: "A model provider or a tool failed.",
        503: "The store, or a provider, is temporarily unavailable; try again.",
        504: "A provider did not answer in time.",
    }.items()
}
"""By status code, for `responses`. They refer to the schema that `run_sql` defines: given as a model, FastAPI would build
a validator for each code of each route, more than a thousand, whenever the server starts.
"""


class TokenBody(BaseModel):
    access_token: str
    token_type: Literal["bearer"] = "bearer"
    user: dict[str, str]


class SqlBody(Strict):
    query: str = Field(max_length=100_000)
    params: list[Json] = []
    limit: int = Field(10_000, ge=1, le=1_000_000)


class SqlResult(BaseModel):
    columns: list[str]
    rows: list[dict[str, Json]]
    truncated: bool


BINARY: dict[str, object] = {"schema": {"type": "string", "format": "binary"}}
BINARY_BODY = {"requestBody": {"required": True, "content": {"application/octet-stream": BINARY}}}
BINARY_ANSWER: dict[int | str, dict[str, object]] = {
    200: {"content": {"application/octet-stream": BINARY}, "description": "The content."}
}
KEYWORD = inspect.Parameter.KEYWORD_ONLY


def _routes(tag: str, noun: type, of: Callable[[UserLab], object]) -> APIRouter:
    router = APIRouter(prefix=PREFIX, tags=[tag], responses=ERRORS)
    for name, operation in operations(noun).items():
        summary, _, rest = inspect.cleandoc(operation.function.__doc__ or "").partition("\n")
        empty = operation.status == 204
        for path in filter(None, (operation.alias, operation.path)):
            router.add_api_route(
                path,
                _endpoint(of, operation),
                methods=[operation.method],
                status_code=operation.status,
                response_model=None if empty or operation.answer is bytes else operation.answer,
                response_class=Response if empty or operation.answer is bytes else JSONResponse,
                responses=SSE if operation.is_stream else BINARY_ANSWER if operation.answer is bytes else None,
                openapi_extra=BINARY_BODY if operation.content else None,
                operation_id=f"{tag}_{name}",
                include_in_schema=path == operation.path,
                summary=re.sub(r" ?Raises .*", "", summary).rstrip("."),
                description=" ".join(rest.split()),
            )
    return router


def _endpoint(of: Callable[[UserLab], object], operation: Operation) -> Callable[..., object]:
    """A function with a signature for FastAPI: path parameters, then the query or one body, then the caller's lab."""
    parameters = operation.signature.parameters
    in_path = [
        inspect.Parameter(name, KEYWORD, annotation=Annotated[parameters[name].annotation, Path()])
        for name in operation.in_path
    ]
    fields = operation.body.model_fields
    if operation.has_query:
        given = [
            parameters[name].replace(kind=KEYWORD, annotation=Annotated[parameters[name].annotation, Query()])
            for name in fields
        ]
    elif fields:
        optional = all(not field.is_required() for field in fields.values())
        default: object = {} if optional else inspect.Parameter.empty
        given = [inspect.Parameter("body", KEYWORD, annotation=Annotated[operation.body, Body()], default=default)]
    else:
        given = []

    async def endpoint(request: Request, lab: UserLab, **arguments: Any) -> object:
        body = arguments.pop("body", {})
        sent = body if isinstance(body, dict) else {name: getattr(body, name) for name in body.model_fields_set}
        wants_events = operation.is_stream and sent.pop("stream", False)
        if operation.content is not None:
            sent[operation.content] = await request.body()
        checked = operation.checked((), {**arguments, **sent})
        noun = of(lab)
        if operation.is_stream:
            events = operation.call(noun, checked)
            return await event_stream(events) if wants_events else await _when_ended(operation, noun, events)
        if operation.answer is bytes:
            content = await in_thread(operation.call, noun, checked)
            return Response(content, media_type="application/octet-stream")
        if operation.is_async:
            return await operation.call(noun, checked)
        if operation.costly:
            return await in_turn(request, lab, partial(operation.call, noun, checked))
        return await in_thread(operation.call, noun, checked)

    of_lab = inspect.Parameter("lab", KEYWORD, annotation=CurrentLab)
    of_request = inspect.Parameter("request", KEYWORD, annotation=Request)
    endpoint.__signature__ = inspect.Signature([*in_path, *given, of_request, of_lab])  # type: ignore[attr-defined]
    return endpoint


async def _when_ended(operation: Operation, noun: object, events: AsyncIterator[Event]) -> object:
    assert operation.ended is not None
    async for event in events:
        last = event
    return await operation.ended(noun, last)


ROUTERS = (
    _routes("agents", Agents, lambda lab: lab.agents),
    _routes("threads", Threads, lambda lab: lab.threads),
    _routes("runs", Runs, lambda lab: lab.runs),
    _routes("models", Models, lambda lab: lab.models),
    _routes("mcp", Mcp, lambda lab: lab.mcp),
    _routes("files", Files, lambda lab: lab.files),
    _routes("vector_stores", VectorStores, lambda lab: lab.vector_stores),
    _routes("causes", Causes, lambda lab: lab.causes),
    _routes("traces", Traces, lambda lab: lab.trace_source),
    _routes("compare", Comparisons, lambda lab: lab.comparisons),
    _routes("datasets", Datasets, lambda lab: lab.datasets),
    _routes("my_data", MyData, lambda lab: lab.my_data),
)
"""One router per service. In a service class, a path without a parameter must come before one with a parameter in the
same position.
"""


# --- SQL queries over the caller's rows


router = APIRouter(prefix="/api/v1", tags=["sql"], responses=ERRORS)

ROWS_AT_ONCE = 500
OBJECTS = TypeAdapter(list[dict[str, Any]])
EXACT = "application/vnd.timestep-lab.rows+json"
"""Media type for `Accept`: rows in the format of `store.duckdb.loopback`, which preserves Python types."""


@router.post(
    "/sql",
    response_model=SqlResult,
    responses={200: {"content": {EXACT: {}}}, 400: {"model": ErrorBody, "description": ERRORS[400]["description"]}},
)
async def run_sql(body: SqlBody, lab: CurrentLab, request: Request) -> Response:
    """Run one read-only statement over the documented views. `truncated`: there were more rows than `limit`."""
    reads: FairReads = request.app.state.reads
    params = exactly(body.params)
    is_exact = request.headers.get("accept") == EXACT

    def answer() -> bytes:
        rows = lab.store.typed_sql(body.query, params, body.limit)
        with contextlib.nullcontext() if lab.store.quota else memory.limited():  # Rows of guests are few.
            return wire.dumps(wire.pack_rows(rows)) if is_exact else as_json(rows)

    content = await reads.for_request(request, lab.store.user_id, answer)
    return Response(content, media_type=EXACT if is_exact else "application/json")


def as_json(rows: Rows) -> bytes:
    """Encode a `SqlResult` in batches of rows, so that other threads can run in between."""
    names = unique_names(rows.columns)
    pieces = []
    for start in range(0, len(rows.rows), ROWS_AT_ONCE):
        few = rows.rows[start : start + ROWS_AT_ONCE]
        pieces.append(OBJECTS.dump_json([dict(zip(names, map(plain, row), strict=True)) for row in few])[1:-1])
    columns, truncated = json.dumps(names).encode(), b"true" if rows.truncated else b"false"
    return b'{"columns":%b,"rows":[%b],"truncated":%b}' % (columns, b",".join(pieces), truncated)


def exactly(params: Sequence[Json]) -> list[object]:
    """Decode parameters that JSON cannot represent, such as `{"$": "datetime", "v": "2026-11-22T16:00:00"}`."""
    try:
        return cast("list[object]", wire.loads(json.dumps(params).encode()))
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise UsageError("A parameter has an unknown encoding.", "Send text and numbers.") from error


def plain(value: object) -> object:
    """A value as JSON: NaN and infinity become null, other unsupported types become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.hex() if isinstance(value, bytes) else value
