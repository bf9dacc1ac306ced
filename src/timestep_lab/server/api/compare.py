"""Comparisons of the caller."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.responses import FileResponse

from timestep_lab.evals.plan import Cache
from timestep_lab.evals.results import ComparisonRows
from timestep_lab.model.comparison import CaseRecord, CellRecord, ComparisonRecord, PlanRow
from timestep_lab.model.errors import UsageError
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import VoteOutcome, VoteRecord
from timestep_lab.server.api.changes import SSE, event_stream
from timestep_lab.server.api.schemas import ERRORS, Strict
from timestep_lab.server.fair_reads import in_turn
from timestep_lab.server.labs import CurrentLab
from timestep_lab.store.base import in_thread

router = APIRouter(prefix="/api/v1/compare", tags=["compare"], responses=ERRORS)
ComparisonId = Annotated[str, Path(min_length=1, max_length=200)]
ExportFormat = Literal["csv", "jsonl", "html", "parquet", "xml"]
BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


class HowBody(Strict):
    """How a comparison is carried out: `evals.options.Options`. What is not given is the default, or what it began with."""

    epochs: int | None = Field(None, ge=1, le=100)
    group: str | None = Field(None, min_length=1, max_length=200)
    concurrency: int | None = Field(None, ge=1, le=256)
    timeout_s: float | None = Field(None, gt=0, le=86_400)
    retries: int | None = Field(None, ge=0, le=20)
    budget_usd: float | None = Field(None, gt=0)
    budget_tokens: int | None = Field(None, gt=0)
    cache: Cache | None = None
    max_turns: int | None = Field(None, ge=1, le=100)
    approve: Literal["all", "none"] | None = None
    seed: int | None = Field(None, ge=0, le=2**31)
    stop: Literal["settled"] | None = None
    margin: float | None = Field(None, ge=0)
    alpha: float | None = Field(None, gt=0, le=0.5)
    open_ended: bool | None = None
    tools: Annotated[str, Field(max_length=10_000)] | Annotated[list[str], Field(max_length=1000)] | None = None
    """`tape`, `tape:` and a filter of traces, or ids of traces: what tools answer from."""
    on_miss: str | None = Field(None, max_length=500)
    ignore: dict[str, list[str] | str] | None = None
    near: dict[str, list[str] | str] | None = None
    stream: bool = False


class CompareBody(HowBody):
    """What `lab.compare` takes, with the cases themselves: a server reads no paths of its callers."""

    cases: list[dict[str, Any] | str] = Field(min_length=1, max_length=10_000)
    models: list[str] | None = None
    agents: list[str] | None = None
    settings: list[dict[str, Any]] | None = None
    scorers: list[dict[str, Any] | str] = []
    prompts: list[str] | None = None
    name: str | None = Field(None, max_length=500)


@router.get("", response_model=list[ComparisonRecord])
async def list_comparisons(lab: CurrentLab, limit: Annotated[int, Query(ge=1, le=500)] = 50) -> list[ComparisonRecord]:
    """Newest first."""
    found: list[ComparisonRecord] = await in_thread(lab.comparisons, limit)
    return found


@router.post("", response_model=dict[str, Any], responses=SSE)
async def start_comparison(body: CompareBody, lab: CurrentLab) -> Any:
    """Runs to its end; with `stream`, its events come as they happen and leaving stops it (it can be resumed)."""
    comparison = await lab.prepare_comparison(body.cases, **_options(body))
    return await _answer(comparison, body.stream)


@router.post("/plan", response_model=list[PlanRow])
async def plan_comparison(body: CompareBody, lab: CurrentLab) -> list[PlanRow]:
    """What it would take, one row a candidate. Nothing is asked or written."""
    comparison = await lab.prepare_comparison(body.cases, **_options(body))
    plan = await comparison.plan()
    return list(plan.rows)


@router.post("/{comparison_id}/resume", response_model=dict[str, Any], responses=SSE)
async def resume_comparison(comparison_id: ComparisonId, body: HowBody, lab: CurrentLab) -> Any:
    """Go on with one that ended early; its failed answers are asked for again."""
    comparison = await lab.prepare_comparison(None, resume=comparison_id, **_options(body))
    return await _answer(comparison, body.stream)


class RescoreBody(Strict):
    scorers: list[dict[str, Any] | str] = Field(min_length=1)
    budget_usd: float | None = Field(None, gt=0)


@router.post("/{comparison_id}/rescore", response_model=dict[str, Any])
async def rescore_comparison(comparison_id: ComparisonId, body: RescoreBody, lab: CurrentLab) -> dict[str, Any]:
    """Score its answers with further scorers, or with changed ones of the same name. No candidate is asked."""
    grid = await lab.rescore(comparison_id, **body.model_dump(exclude_none=True))
    result: dict[str, Any] = await in_thread(grid.to_json)
    return result


def _options(body: HowBody) -> dict[str, Any]:
    # A server does not go where its callers point it.
    address = next((a for a in getattr(body, "agents", None) or () if a.startswith(("http://", "https://"))), None)
    if address is not None:
        raise UsageError(
            f"{address} is a service, which a served lab does not ask.",
            "Compare it from your own process.",
            param="agents",
        )
    return body.model_dump(exclude_none=True, exclude={"cases", "stream"})


async def _answer(comparison: Any, stream: bool) -> Any:
    if stream:
        return await event_stream(comparison.events(deltas=True))
    grid = await comparison.run()
    return grid.to_json()


class GridView(BaseModel):
    """All that a grid is made of; what it concludes follows from it."""

    comparison: ComparisonRecord
    cases: list[CaseRecord]
    cells: list[CellRecord]


class VoteBody(Strict):
    """A vote in the arena on two answers to one case."""

    case_id: str = Field(min_length=1, max_length=200)
    epoch: int = Field(0, ge=0, le=100)
    left_candidate: str = Field(max_length=2_000)
    right_candidate: str = Field(max_length=2_000)
    outcome: VoteOutcome
    length: float = Field(0.0, ge=-1, le=1)


@router.get("/{comparison_id}/grid", response_model=GridView)
async def get_grid(request: Request, comparison_id: ComparisonId, lab: CurrentLab) -> GridView:
    """Every case and every answer with its scores."""
    grid = await in_turn(request, lab, partial(lab.comparison, comparison_id))
    return GridView(comparison=grid.record, cases=list(grid.cases), cells=list(grid.cells))


@router.get(
    "/{comparison_id}/export",
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": BINARY}, "description": "The file."}},
)
async def export_comparison(
    request: Request, comparison_id: ComparisonId, lab: CurrentLab, format: Annotated[ExportFormat, Query()] = "csv"
) -> FileResponse:
    """Every answer with its scores; `html` is a page that stands alone, `xml` is JUnit."""
    from timestep_lab.evals.exports import save

    folder = tempfile.TemporaryDirectory(prefix="timestep-lab-")
    path = FilePath(folder.name) / f"{comparison_id}.{format}"
    try:
        await in_turn(request, lab, lambda: save(lab.comparison(comparison_id), path))
    except BaseException:
        folder.cleanup()
        raise
    return FileResponse(
        path, media_type="application/octet-stream", filename=path.name, background=BackgroundTask(folder.cleanup)
    )


@router.get("/{comparison_id}/votes", response_model=list[VoteRecord])
async def list_votes(comparison_id: ComparisonId, lab: CurrentLab) -> list[VoteRecord]:
    """Oldest first."""
    rows = ComparisonRows(lab.store.db, lab.store.user_id)
    await in_thread(rows.comparisons.get, comparison_id)
    return await in_thread(rows.votes.find, comparison_id=comparison_id)


@router.post("/{comparison_id}/votes", status_code=201, response_model=VoteRecord)
async def vote(comparison_id: ComparisonId, body: VoteBody, lab: CurrentLab) -> VoteRecord:
    rows = ComparisonRows(lab.store.db, lab.store.user_id)
    await in_thread(rows.comparisons.get, comparison_id)
    record = VoteRecord(
        id=new_id("vote"), user_id=lab.store.user_id, comparison_id=comparison_id, **body.model_dump()
    )  # fmt: skip
    return await in_thread(rows.votes.insert, record)


@router.get("/{comparison_id}", response_model=dict[str, Any])
async def get_comparison(
    request: Request,
    comparison_id: ComparisonId,
    lab: CurrentLab,
    by: Annotated[str | None, Query(min_length=1, max_length=200)] = None,
) -> dict[str, Any]:
    """Candidates with scores and intervals, and the pairs: what `timestep-lab compare --json` prints; `by` adds the slices of a column."""
    return await in_turn(request, lab, lambda: lab.comparison(comparison_id).to_json(by=by))
