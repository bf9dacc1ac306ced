"""Runs: start, follow, approve, cancel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel
from starlette.responses import Response

from timestep_lab.model.events import Event, RunEnded
from timestep_lab.model.records import Interruption, RunRecord
from timestep_lab.runtime.run import RunLimits
from timestep_lab.server.api.changes import SSE, event_stream
from timestep_lab.server.api.schemas import ERRORS, ApproveBody, ClientToolBody, ForkBody, LimitsBody, RunBody
from timestep_lab.server.labs import CurrentLab
from timestep_lab.store.base import in_thread

router = APIRouter(prefix="/api/v1/runs", tags=["runs"], responses=ERRORS)
traces = APIRouter(prefix="/api/v1", tags=["traces"], responses=ERRORS)
client_tools = APIRouter(prefix="/api/v1/threads", tags=["threads"], responses=ERRORS)
RunId = Annotated[str, Path(min_length=1, max_length=200)]
CallId = Annotated[str, Path(min_length=1, max_length=200)]


class RunView(BaseModel):
    """The run's row, and what it waits for."""

    run: RunRecord
    interruptions: list[Interruption]


def view(run: Any) -> RunView:
    return RunView(run=run.record, interruptions=list(run.interruptions))


async def answer(events: AsyncIterator[Event], stream: bool, lab: Any) -> RunView | Response:
    """The events as they come, or the run as it stands after the last of them."""
    if stream:
        return await event_stream(events)
    last = None
    async for event in events:
        last = event
    assert isinstance(last, RunEnded)
    return view(await in_thread(lab.get_run, last.run.id))


@router.get("", response_model=list[RunView])
async def list_runs(
    lab: CurrentLab,
    status: Annotated[str | None, Query(pattern="^[a-z_]{1,32}$")] = None,
    thread_id: Annotated[str | None, Query(min_length=1, max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> list[RunView]:
    """Newest first."""
    asked = {"status": status, "thread_id": thread_id}
    where = {name: value for name, value in asked.items() if value}
    records = await in_thread(lab.store.runs.find, limit, newest_first=True, **where)
    return [view(await in_thread(lab.get_run, record.id)) for record in records]


@router.post("", response_model=RunView, responses=SSE)
async def start_run(body: RunBody, lab: CurrentLab) -> RunView | Response:
    """The run goes on to its end when its reader leaves; `/cancel` stops it."""
    agent = await in_thread(lab.agents.get, body.agent)
    prompt = body.prompt if isinstance(body.prompt, str) else [m.model_dump(exclude_none=True) for m in body.prompt]
    attachments = await lab.attachments([{"id": file_id} for file_id in body.attachments])
    events = lab.runner.stream(
        prompt, agent=agent, model=body.model, model_settings=body.model_settings, thread_id=body.thread_id,
        approve=body.approve, max_turns=body.max_turns, limits=RunLimits.read(**body.limits()), attachments=attachments, metadata=body.metadata, keep_running=True,
        tape=await in_thread(lab._tape, body.tools, agent.name), on_miss=body.on_miss,
    )  # fmt: skip
    return await answer(events, body.stream, lab)


@router.get("/{run_id}", response_model=RunView)
async def get_run(run_id: RunId, lab: CurrentLab) -> RunView:
    return view(await in_thread(lab.get_run, run_id))


@router.post("/{run_id}/approve", response_model=RunView, responses=SSE)
async def approve_run(run_id: RunId, body: ApproveBody, lab: CurrentLab) -> RunView | Response:
    """Decide, and run on. Of two who decide at once one wins; the other gets 409."""
    decisions = None
    if body.decisions is not None:
        decisions = {call_id: decision.model_dump() for call_id, decision in body.decisions.items()}
    return await answer(lab.runner.resume(run_id, decisions, keep_running=True), body.stream, lab)


@router.post("/{run_id}/cancel", response_model=RunView)
async def cancel_run(run_id: RunId, lab: CurrentLab) -> RunView:
    """Stop it. What was said so far is kept."""
    await lab.cancel(run_id)
    return view(await in_thread(lab.get_run, run_id))


@client_tools.post("/{thread_id}/client-tools/{call_id}", response_model=RunView, responses=SSE)
async def answer_client_tool(
    thread_id: CallId, call_id: CallId, body: ClientToolBody, lab: CurrentLab
) -> RunView | Response:
    """Tell the agent what the caller's side did for it, and run on."""
    events = lab.runner.client_tool_output(thread_id, call_id, body.output, keep_running=True)
    return await answer(events, body.stream, lab)


@traces.post("/traces/{trace_id}/fork", response_model=RunView, responses=SSE)
async def fork_trace(
    trace_id: Annotated[str, Path(min_length=1, max_length=200)], body: ForkBody, lab: CurrentLab
) -> RunView | Response:
    """Run it again: replayed as recorded up to `span_id`, or to where a change is first felt, and live from there on."""
    changes = body.model_dump(exclude={"span_id", "stream", *LimitsBody.model_fields}, exclude_none=True)
    changes["limits"] = RunLimits.read(**body.limits()).given()
    await in_thread(lab.flush)
    return await answer(lab.runner.fork(trace_id, body.span_id, keep_running=True, **changes), body.stream, lab)


@traces.post("/flush", status_code=204)
async def flush(lab: CurrentLab) -> None:
    """Wait until every span of a run that has ended can be read."""
    await in_thread(lab.flush)
