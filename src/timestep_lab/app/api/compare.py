"""Comparisons of the caller."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import Field

from timestep_lab.app.api.schemas import ERRORS, Strict
from timestep_lab.app.api.sse import event_stream
from timestep_lab.app.labs import CurrentLab
from timestep_lab.store.base import in_thread

router = APIRouter(prefix="/api/v1/compare", tags=["compare"], responses=ERRORS)
ComparisonId = Annotated[str, Path(min_length=1, max_length=200)]


class CompareBody(Strict):
    """What `lab.compare` takes, with the cases themselves: a server reads no paths of its callers."""

    cases: list[dict[str, Any] | str] = Field(min_length=1, max_length=10_000)
    models: list[str] | None = None
    agents: list[str] | None = None
    scorers: list[dict[str, Any] | str] = []
    prompts: list[str] | None = None
    epochs: int = Field(1, ge=1, le=100)
    concurrency: int | None = Field(None, ge=1, le=256)
    budget_usd: float | None = Field(None, gt=0)
    name: str | None = Field(None, max_length=500)
    stream: bool = False


@router.get("", response_model=list[dict[str, Any]])
async def list_comparisons(lab: CurrentLab, limit: Annotated[int, Query(ge=1, le=500)] = 50) -> list[dict[str, Any]]:
    """Newest first: id, name, status, dataset, candidates, scorers, n_cases, created_at."""
    records = await in_thread(lab.comparisons, limit)
    names = ("id", "name", "status", "dataset", "candidates", "scorers", "epochs", "n_cases", "created_at", "ended_at")
    return [{name: getattr(record, name) for name in names} for record in records]


@router.post("", response_model=dict[str, Any])
async def start_comparison(body: CompareBody, lab: CurrentLab) -> Any:
    """Runs to its end; with `stream`, its events come as they happen and leaving stops it (it can be resumed)."""
    options = body.model_dump(exclude_none=True, exclude={"cases", "stream"})
    comparison = await lab.prepare_comparison(body.cases, **options)
    if body.stream:
        return event_stream(comparison.events(deltas=True))
    grid = await comparison.run()
    return grid.to_json()


@router.get("/{comparison_id}", response_model=dict[str, Any])
async def get_comparison(comparison_id: ComparisonId, lab: CurrentLab) -> dict[str, Any]:
    """Candidates with scores and intervals, and the pairs: what `timestep-lab compare --json` prints."""
    grid = await in_thread(lab.comparison, comparison_id)
    result: dict[str, Any] = await in_thread(grid.to_json)
    return result
