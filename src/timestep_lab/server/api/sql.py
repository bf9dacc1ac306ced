"""SQL queries over the caller's rows."""

from __future__ import annotations

import json
import math
from typing import Any

from fastapi import APIRouter, Request
from pydantic import TypeAdapter
from starlette.responses import Response

from timestep_lab.model.errors import UsageError
from timestep_lab.server.api.schemas import ERRORS, SqlBody, SqlResult
from timestep_lab.server.fair_reads import FairReads
from timestep_lab.server.labs import CurrentLab
from timestep_lab.store.base import Rows, unique_names
from timestep_lab.store.duckdb import loopback as wire

router = APIRouter(prefix="/api/v1", tags=["sql"], responses=ERRORS)

ROWS_AT_ONCE = 500
OBJECTS: TypeAdapter[list[dict[str, Any]]] = TypeAdapter(list[dict[str, Any]])
EXACT = "application/vnd.timestep-lab.rows+json"
"""Media type for `Accept`: rows in the format of `store.duckdb.loopback`, which preserves Python types."""


@router.post("/sql", response_model=SqlResult, responses={200: {"content": {EXACT: {}}}})
async def run_sql(body: SqlBody, lab: CurrentLab, request: Request) -> Response:
    """Run one read-only statement over the documented views. `truncated`: there were more rows than `limit`."""
    reads: FairReads = request.app.state.reads
    params = exactly(body.params)
    is_exact = request.headers.get("accept") == EXACT

    def answer() -> bytes:
        rows = lab.store.sql(body.query, params, body.limit)
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


def exactly(params: list[Any]) -> list[object]:
    """Decode parameters that JSON cannot represent, such as `{"$": "datetime", "v": "2026-11-22T16:00:00"}`."""
    try:
        values: list[Any] = wire.loads(json.dumps(params).encode())
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise UsageError("A parameter has an unknown encoding.", "Send text and numbers.") from error
    return values


def plain(value: object) -> Any:
    """A value as JSON: NaN and infinity become null, other unsupported types become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.hex() if isinstance(value, bytes) else value
