"""The two ChatKit paths of an agent. The SDK is imported with the first request, on a thread: it takes seconds."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response, StreamingResponse

from timestep_lab.model.errors import UsageError
from timestep_lab.server.api.schemas import ERRORS
from timestep_lab.server.api.sse import HEADERS
from timestep_lab.server.bodies import read_upload
from timestep_lab.server.detached import detached
from timestep_lab.server.labs import CurrentLab
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.server.chatkit.context import ChatKitContext

router = APIRouter(prefix="/api/v1/agents", tags=["chatkit"], responses=ERRORS)
AgentId = Annotated[str, Path(min_length=1, max_length=200)]
BROKEN = {"type": "error", "code": "stream.error", "allow_retry": True}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "ChatKit's answer: JSON, or events for what streams."}
}


async def context_of(agent_id: str, request: Request, lab: Any) -> ChatKitContext:
    from timestep_lab.server.chatkit.context import ChatKitContext

    agent = await in_thread(lab.agents.get, agent_id)
    return ChatKitContext(lab=lab, agent=agent, base_url=str(request.base_url).rstrip("/"))


@router.post("/{agent_id}/chatkit", response_class=Response, responses=ANSWERS)
async def chatkit(agent_id: AgentId, request: Request, lab: CurrentLab) -> Response:
    """Every operation of the ChatKit protocol, by `type` in the body."""
    context = await context_of(agent_id, request, lab)
    body = await request.body()
    process = (await in_thread(importlib.import_module, "timestep_lab.server.chatkit.process")).process
    answer = await process(body, context)
    if isinstance(answer, bytes):
        return Response(answer, media_type="application/json")
    stream = await detached(answer, lambda _: b"data: " + json.dumps(BROKEN).encode() + b"\n\n")
    return StreamingResponse(stream, media_type="text/event-stream", headers=HEADERS)


@router.put("/{agent_id}/chatkit/upload", response_class=Response)
@router.post("/{agent_id}/chatkit/upload", response_class=Response)
async def upload(
    agent_id: AgentId,
    request: Request,
    lab: CurrentLab,
    attachment_id: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """The bytes of an attachment, as the body or as a form with one file. With `attachment_id` of one that was announced by
    `attachments.create`, or without: then a new attachment is made. At most 50 MB."""
    context = await context_of(agent_id, request, lab)
    form = await read_upload(request)
    if form.filename is None:
        raise UsageError("The form has no file.", "Send one part with a file name.", param="file")
    take = (await in_thread(importlib.import_module, "timestep_lab.server.chatkit.process")).take
    return Response(await take(attachment_id, form.filename, form.content, context), media_type="application/json")
