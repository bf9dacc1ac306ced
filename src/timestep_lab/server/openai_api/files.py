"""Files of the calling user."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from starlette.concurrency import iterate_in_threadpool
from starlette.responses import Response, StreamingResponse

from timestep_lab.model.clock import utc_now
from timestep_lab.model.errors import UsageError
from timestep_lab.model.records import FileRecord
from timestep_lab.server.errors import read_upload
from timestep_lab.server.labs import CurrentLab
from timestep_lab.server.openai_api.calling import After, Id, Object, Order, checked_purpose, deleted, listed, unix
from timestep_lab.store.base import in_thread

router = APIRouter()
Purpose = Annotated[str | None, Query(max_length=100)]


@router.post("/files", response_model=Object)
async def create_file(request: Request, lab: CurrentLab) -> Object:
    """Upload a file: a form with `file`, `purpose` and optionally `expires_after[seconds]`. At most 50 MB."""
    form = await read_upload(request)
    if form.filename is None or "purpose" not in form.fields:
        raise UsageError(
            "The form needs a file and a purpose.", "Send both.", param="purpose" if form.filename else "file"
        )
    seconds = form.fields.get("expires_after[seconds]")
    if seconds is not None and not seconds.isdigit():
        raise UsageError(f"{seconds!r} is not a number of seconds.", "Use a whole number.", param="expires_after")
    expires_at = utc_now() + timedelta(seconds=min(int(seconds), 2**31)) if seconds else None
    purpose = checked_purpose(form.fields["purpose"])
    file = await in_thread(lab.files.add_bytes, form.filename, form.content, purpose=purpose, expires_at=expires_at)
    return shown(file)


@router.get("/files", response_model=Object)
async def list_files(
    lab: CurrentLab,
    purpose: Purpose = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    after: After = None,
    order: Order = "desc",
) -> Object:
    page = await in_thread(lab.files.page, after=after, limit=limit, newest_first=order == "desc", purpose=purpose)
    return listed([shown(file) for file in page.data], has_more=page.has_more)


@router.get("/files/{file_id}", response_model=Object)
async def get_file(file_id: Id, lab: CurrentLab) -> Object:
    return shown(await in_thread(lab.files.get, file_id))


@router.delete("/files/{file_id}", response_model=Object)
async def delete_file(file_id: Id, lab: CurrentLab) -> Object:
    """Delete a file, and its passages in vector stores."""
    await in_thread(lab.files.delete, file_id)
    return deleted(file_id, "file")


@router.get("/files/{file_id}/content", response_class=Response)
async def get_content(file_id: Id, lab: CurrentLab) -> Response:
    """Download a file. The headers prevent browsers from rendering user content as a page of this origin."""
    file = await in_thread(lab.files.get, file_id)
    parts = await in_thread(lab.files.stream, file_id)
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.filename)}",
        "Content-Length": str(file.bytes),
        "Content-Security-Policy": "sandbox; default-src 'none'",
    }
    return StreamingResponse(iterate_in_threadpool(parts), media_type=file.content_type, headers=headers)


def shown(file: FileRecord) -> Object:
    return {
        "id": file.id, "object": "file", "bytes": file.bytes, "created_at": unix(file.created_at), "filename": file.filename,
        "purpose": file.purpose, "status": file.status, "status_details": None,
        "expires_at": unix(file.expires_at) if file.expires_at else None, "content_type": file.content_type, "sha256": file.sha256,
    }  # fmt: skip
