"""SQL over the caller's rows."""

from __future__ import annotations

import json
import math
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from timestep_lab.app.api.schemas import ERRORS, SqlBody, SqlResult
from timestep_lab.app.labs import CurrentLab
from timestep_lab.store.base import in_thread
from timestep_lab.store.duckdb import wire
from timestep_lab.types.errors import UsageError

router = APIRouter(prefix="/api/v1", tags=["sql"], responses=ERRORS)


EXACT = "application/vnd.timestep-lab.rows+json"
"""Asked for with `Accept`: rows as `store.duckdb.wire` writes them, so that Python has each value back as the database gave it."""


@router.post("/sql", response_model=SqlResult, responses={200: {"content": {EXACT: {}}}})
async def run_sql(body: SqlBody, lab: CurrentLab, request: Request) -> SqlResult | Response:
    """One read-only statement over the documented views. `truncated`: more rows existed than `limit`."""
    rows = await in_thread(lab.store.sql, body.query, exactly(body.params), body.limit)
    if request.headers.get("accept") == EXACT:
        return Response(await in_thread(wire.dumps, wire.pack_rows(rows)), media_type=EXACT)
    names = unique(rows.columns)
    return SqlResult(
        columns=names,
        rows=[dict(zip(names, map(plain, row), strict=True)) for row in rows.rows],
        truncated=rows.truncated,
    )


def exactly(params: list[Any]) -> list[Any]:
    """Parameters that JSON has no word for come as `wire` writes them: `{"$": "datetime", "v": "2026-11-22T16:00:00"}`."""
    try:
        values: list[Any] = wire.loads(json.dumps(params).encode())
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise UsageError("A parameter is written in no form that is known.", "Send text and numbers.") from error
    return values


def unique(columns: tuple[str, ...]) -> list[str]:
    """`select 1 as a, 2 as a` has two columns of one name; an object cannot: the second becomes `a_1`."""
    names: list[str] = []
    for column in columns:
        name, n = column, 0
        while name in names:
            n += 1
            name = f"{column}_{n}"
        names.append(name)
    return names


def plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they go as null. What else it lacks goes as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.hex() if isinstance(value, bytes) else value
