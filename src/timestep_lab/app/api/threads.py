"""Threads of the caller and what was said in them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel
from starlette.responses import Response

from timestep_lab.app.api.runs import RunView, answer
from timestep_lab.app.api.schemas import ERRORS, ClientToolBody, ThreadBody
from timestep_lab.app.api.sse import SSE
from timestep_lab.app.labs import CurrentLab
from timestep_lab.store.base import in_thread
from timestep_lab.types.records import ThreadItem, ThreadRecord

router = APIRouter(prefix="/api/v1/threads", tags=["threads"], responses=ERRORS)
ItemId = Annotated[str, Path(min_length=1, max_length=200)]
ThreadId = Annotated[str, Path(min_length=1, max_length=200)]
Limit = Annotated[int, Query(ge=1, le=1000)]
Search = Annotated[str, Query(max_length=1_000)]
After = Annotated[str | None, Query(max_length=200, description="Id of the last one of the page before.")]


class ThreadPage(BaseModel):
    data: list[ThreadRecord]
    has_more: bool
    after: str | None
    total: int


class ItemPage(BaseModel):
    data: list[ThreadItem]
    has_more: bool
    after: str | None


@router.get("/list", response_model=ThreadPage)
@router.get("", response_model=ThreadPage)
async def list_threads(lab: CurrentLab, limit: Limit = 20, after: After = None, search: Search = "") -> ThreadPage:
    """Newest first. With `search`, those whose title or messages hold the text: one page of them."""
    threads = lab.store.threads
    if search.strip():
        found = await in_thread(threads.search, search.strip(), limit)
        return ThreadPage(data=found, has_more=False, after=None, total=len(found))
    page = await in_thread(threads.page, after=after, limit=limit)
    total = await in_thread(threads.count)
    return ThreadPage(data=list(page.data), has_more=page.has_more, after=page.after, total=total)


@router.post("", status_code=201, response_model=ThreadRecord)
async def create_thread(body: ThreadBody, lab: CurrentLab) -> ThreadRecord:
    thread = await in_thread(lab.threads.create, body.title)
    record: ThreadRecord = thread.record
    return record


@router.get("/{thread_id}", response_model=ThreadRecord)
async def get_thread(thread_id: ThreadId, lab: CurrentLab) -> ThreadRecord:
    record: ThreadRecord = await in_thread(lab.store.threads.get, thread_id)
    return record


@router.put("/{thread_id}", response_model=ThreadRecord)
async def rename_thread(thread_id: ThreadId, body: ThreadBody, lab: CurrentLab) -> ThreadRecord:
    thread = await in_thread(lab.threads.__getitem__, thread_id)
    await in_thread(thread.rename, body.title or "")
    record: ThreadRecord = thread.record
    return record


@router.delete("/{thread_id}", status_code=204)
async def delete_thread(thread_id: ThreadId, lab: CurrentLab) -> None:
    """With its items and what waits in it. Its traces stay."""
    await in_thread(lab.store.threads.delete, thread_id)


@router.get("/{thread_id}/items", response_model=ItemPage)
async def list_items(thread_id: ThreadId, lab: CurrentLab, limit: Limit = 100, after: After = None) -> ItemPage:
    """Oldest first."""
    await in_thread(lab.store.threads.get, thread_id)
    page = await in_thread(lab.store.threads.items, thread_id, after, limit)
    return ItemPage(data=list(page.data), has_more=page.has_more, after=page.after)


@router.post("/{thread_id}/items/{item_id}/branch", status_code=201, response_model=ThreadRecord)
async def branch_thread(thread_id: ThreadId, item_id: ItemId, lab: CurrentLab) -> ThreadRecord:
    """A new thread that holds what came before the item, for the reader and for the model."""
    from timestep_lab.runtime.branch import branch

    return await in_thread(branch, lab.store, thread_id, item_id)


@router.post("/{thread_id}/client-tools/{call_id}", response_model=RunView, responses=SSE)
async def answer_client_tool(
    thread_id: ThreadId, call_id: ItemId, body: ClientToolBody, lab: CurrentLab
) -> RunView | Response:
    """Tell the agent what the caller's side did for it, and run on."""
    events = lab.runner.client_tool_output(thread_id, call_id, body.output, keep_running=True)
    return await answer(events, body.stream, lab)
