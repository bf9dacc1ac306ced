"""Runs: start, follow, approve, cancel."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel
from starlette.responses import Response

from timestep_lab.app.api.schemas import ERRORS, ApproveBody, RunBody
from timestep_lab.app.api.sse import event_stream
from timestep_lab.app.labs import CurrentLab
from timestep_lab.store.base import in_thread
from timestep_lab.types.records import Interruption, RunRecord

router = APIRouter(prefix="/api/v1/runs", tags=["runs"], responses=ERRORS)
RunId = Annotated[str, Path(min_length=1, max_length=200)]
SSE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "The run; with `stream`, its events as they come."}
}


class RunView(BaseModel):
    """The run's row, and what it waits for."""

    run: RunRecord
    interruptions: list[Interruption]


def view(run: Any) -> RunView:
    return RunView(run=run.record, interruptions=list(run.interruptions))


@router.get("", response_model=list[RunView])
async def list_runs(
    lab: CurrentLab,
    status: Annotated[str | None, Query(pattern="^[a-z_]{1,32}$")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> list[RunView]:
    """Newest first."""
    where = {"status": status} if status else {}
    records = await in_thread(lab.store.runs.find, limit, newest_first=True, **where)
    return [view(await in_thread(lab.get_run, record.id)) for record in records]


@router.post("", response_model=RunView, responses=SSE)
async def start_run(body: RunBody, lab: CurrentLab) -> RunView | Response:
    stream = lab.stream(
        body.prompt, agent=body.agent, model=body.model, model_settings=body.model_settings, thread=body.thread_id,
        approve=body.approve, max_turns=body.max_turns,
    )  # fmt: skip
    return event_stream(aiter(stream)) if body.stream else view(await stream.result())


@router.get("/{run_id}", response_model=RunView)
async def get_run(run_id: RunId, lab: CurrentLab) -> RunView:
    return view(await in_thread(lab.get_run, run_id))


@router.post("/{run_id}/approve", response_model=RunView, responses=SSE)
async def approve_run(run_id: RunId, body: ApproveBody, lab: CurrentLab) -> RunView | Response:
    """Decide, and run on. Of two who decide at once one wins; the other gets 409."""
    run = await in_thread(lab.approvals.__getitem__, run_id)
    if body.decisions is None:
        decisions = {waiting.call_id: {"decision": "approved"} for waiting in run.interruptions}
    else:
        decisions = {call_id: decision.model_dump() for call_id, decision in body.decisions.items()}
    stream = lab.resume(run_id, decisions)
    return event_stream(aiter(stream)) if body.stream else view(await stream.result())


@router.post("/{run_id}/cancel", response_model=RunView)
async def cancel_run(run_id: RunId, lab: CurrentLab) -> RunView:
    """Stop it. What was said so far is kept."""
    await lab.cancel(run_id)
    return view(await in_thread(lab.get_run, run_id))
