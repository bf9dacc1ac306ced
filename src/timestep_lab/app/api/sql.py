"""SQL over the caller's rows."""

from __future__ import annotations

import math
from typing import Any

from fastapi import APIRouter

from timestep_lab.app.api.schemas import ERRORS, SqlBody, SqlResult
from timestep_lab.app.labs import CurrentLab
from timestep_lab.store.base import in_thread

router = APIRouter(prefix="/api/v1", tags=["sql"], responses=ERRORS)


@router.post("/sql", response_model=SqlResult)
async def run_sql(body: SqlBody, lab: CurrentLab) -> SqlResult:
    """One read-only statement over the documented views. `truncated`: more rows existed than `limit`."""
    rows = await in_thread(lab.store.sql, body.query, body.params, body.limit)
    names = unique(rows.columns)
    return SqlResult(
        columns=names,
        rows=[dict(zip(names, map(plain, row), strict=True)) for row in rows.rows],
        truncated=rows.truncated,
    )


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
