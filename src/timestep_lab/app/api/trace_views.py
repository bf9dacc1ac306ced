"""What the trace views ask beyond rows: words for a filter, handoff graphs, two traces aligned, and running a trace again."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from timestep_lab.app.api.runs import RunView, answer
from timestep_lab.app.api.schemas import ERRORS, ForkBody
from timestep_lab.app.api.sql import plain
from timestep_lab.app.api.sse import SSE
from timestep_lab.app.api.traces import Filter, Graph, Search, TraceId, read
from timestep_lab.app.labs import CurrentLab
from timestep_lab.store.base import in_thread
from timestep_lab.types.graph import AgentGraph
from timestep_lab.ui.sources import TraceQuery

router = APIRouter(prefix="/api/v1", tags=["traces"], responses=ERRORS)


class SuggestionView(BaseModel):
    """`text` may replace `filter[start:end]`."""

    text: str
    start: int
    end: int
    detail: str


class HandoffsView(Graph):
    title: str


def shown(graph: AgentGraph) -> dict[str, Any]:
    return {"nodes": [asdict(node) for node in graph.nodes], "edges": [asdict(edge) for edge in graph.edges]}


@router.get("/traces/suggest", response_model=list[SuggestionView])
async def suggest(
    request: Request, lab: CurrentLab, text: Filter = "", cursor: Annotated[int, Query(ge=0, le=10_000)] = 0
) -> list[SuggestionView]:
    """What may stand at `cursor` of a filter."""
    found = await read(request, lab, partial(lab.trace_source.suggest, text, cursor))
    return [SuggestionView(**asdict(suggestion)) for suggestion in found]


@router.post("/flush", status_code=204)
async def flush(lab: CurrentLab) -> None:
    """Wait until every span of a run that has ended can be read."""
    await in_thread(lab.flush)


@router.get("/graph", response_model=Graph)
async def graph_of_many(
    request: Request,
    lab: CurrentLab,
    filter: Filter = "",
    search: Search = "",
    since: datetime | None = None,
    until: datetime | None = None,
) -> Graph:
    """Who hands off to whom: all that agents declare, and what the matching traces travelled."""
    query = TraceQuery(filter=filter, search=search, since=since, until=until)
    return Graph(**shown(await read(request, lab, partial(lab.trace_source.graph, query=query))))


@router.get("/handoffs", response_model=HandoffsView)
async def handoffs(
    request: Request,
    lab: CurrentLab,
    agent: Annotated[str | None, Query(min_length=1, max_length=200, description="Name or id.")] = None,
    filter: Filter = "",
    trace_id: Annotated[list[str] | None, Query(max_length=500)] = None,
) -> HandoffsView:
    """Ways declared from `agent`, under the ways travelled in the given traces or in all that match."""
    view = await read(request, lab, partial(lab.handoffs, agent, filter=filter, traces=trace_id))
    return HandoffsView(title=view.title, **shown(view.graph))


@router.get("/traces/{trace_id}/diff/{other_id}", response_model=list[dict[str, Any]])
async def diff(request: Request, trace_id: TraceId, other_id: TraceId, lab: CurrentLab) -> list[dict[str, Any]]:
    """Two traces aligned, one object a step, in the order of a reader."""

    def look() -> list[dict[str, Any]]:
        return [_plain(asdict(row)) for row in lab.trace_source.diff(trace_id, other_id)]

    return await read(request, lab, look)


@router.post("/traces/{trace_id}/fork", response_model=RunView, responses=SSE)
async def fork_trace(
    trace_id: Annotated[str, Path(min_length=1, max_length=200)], body: ForkBody, lab: CurrentLab
) -> RunView | Response:
    """Run it again: replayed as recorded up to `span_id`, or to where a change is first felt, and live from there on."""
    changes = body.model_dump(exclude={"span_id", "stream"}, exclude_none=True)
    await in_thread(lab.flush)
    return await answer(lab.runner.fork(trace_id, body.span_id, keep_running=True, **changes), body.stream, lab)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return plain(value)
