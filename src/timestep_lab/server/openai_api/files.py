"""Files of the calling user."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.concurrency import iterate_in_threadpool
from starlette.responses import Response, StreamingResponse

from timestep_lab.model.clock import utc_now
from timestep_lab.model.codec import JsonObject
from timestep_lab.model.errors import UsageError
from timestep_lab.model.records import FileRecord, UploadRecord
from timestep_lab.runtime.files.files import Uploads
from timestep_lab.server.api.operations import Strict
from timestep_lab.server.errors import read_upload
from timestep_lab.server.labs import CurrentLab
from timestep_lab.server.openai_api.calling import After, Id, Object, Order, checked_purpose, deleted, listed, unix
from timestep_lab.store.base import in_thread

router = APIRouter()
FIELDS = {"purpose", "expires_after[anchor]", "expires_after[seconds]"}
MOST_SECONDS = 2**31 - 1
Purpose = Annotated[str | None, Query(max_length=100)]


@router.post("/files", response_model=Object)
async def create_file(request: Request, lab: CurrentLab) -> Object:
    """Upload a file: a form with `file`, `purpose` and optionally `expires_after[seconds]`. At most 50 MB."""
    form = await read_upload(request)
    if form.filename is None or "purpose" not in form.fields:
        raise UsageError(
            "The form needs a file and a purpose.", "Send both.", param="purpose" if form.filename else "file"
        )
    if unknown := sorted(set(form.fields) - FIELDS):
        raise UsageError(
            f"The form has an unknown field {unknown[0][:100]!r}.", f"Known: {', '.join(sorted(FIELDS))}.", param=unknown[0][:100]
        )  # fmt: skip
    expires_at = _expiry(form.fields.get("expires_after[anchor]"), form.fields.get("expires_after[seconds]"))
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
        "Content-Type": file.content_type,  # Without the charset that Starlette would add: the file may be UTF-16.
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.filename)}",
        "Content-Length": str(file.bytes),
        "Content-Security-Policy": "sandbox; default-src 'none'",
    }
    return StreamingResponse(iterate_in_threadpool(parts), headers=headers)


def _expiry(anchor: str | None, seconds: str | None) -> datetime | None:
    """When a file expires. Raises `UsageError`."""
    if anchor is None and seconds is None:
        return None
    if anchor not in (None, "created_at"):
        raise UsageError(
            f"A file cannot expire after {anchor[:100]!r}.", "Use created_at.", param="expires_after[anchor]"
        )
    known = seconds is not None and re.fullmatch("[0-9]{1,10}", seconds) is not None
    if seconds is None or not known or not 1 <= int(seconds) <= MOST_SECONDS:
        raise UsageError(
            f"{(seconds or '')[:100]!r} is not a number of seconds.", f"Use a whole number from 1 to {MOST_SECONDS}.",
            param="expires_after[seconds]",
        )  # fmt: skip
    return utc_now() + timedelta(seconds=int(seconds))


def shown(file: FileRecord) -> Object:
    return {
        "id": file.id, "object": "file", "bytes": file.bytes, "created_at": unix(file.created_at), "filename": file.filename,
        "purpose": file.purpose, "status": file.status, "status_details": None,
        "expires_at": unix(file.expires_at) if file.expires_at else None, "content_type": file.content_type, "sha256": file.sha256,
    }  # fmt: skip


# --- Uploads in several parts


class UploadBody(Strict):
    filename: str = Field(min_length=1, max_length=1000)
    bytes: int = Field(ge=0)
    mime_type: str = Field("", max_length=200)
    purpose: str = Field(min_length=1, max_length=100)
    expires_after: JsonObject | None = None


class CompleteBody(Strict):
    part_ids: list[str] = Field(max_length=10_000)
    md5: str | None = Field(None, max_length=64)


@router.post("/uploads", response_model=Object)
async def create_upload(body: UploadBody, lab: CurrentLab) -> Object:
    """Announce a file; its parts must be uploaded within an hour."""
    if body.expires_after is not None:
        raise UsageError("Files uploaded in parts cannot expire.", "Omit expires_after.", param="expires_after")
    create, purpose = Uploads(lab.store).create, checked_purpose(body.purpose)
    return shown_upload(
        await in_thread(create, body.filename, body.bytes, purpose=purpose, content_type=body.mime_type)
    )


@router.post("/uploads/{upload_id}/parts", response_model=Object)
async def add_part(upload_id: Id, request: Request, lab: CurrentLab) -> Object:
    """Upload a part: a form with `data`."""
    await in_thread(Uploads(lab.store).get, upload_id)
    form = await read_upload(request)
    if form.filename is None:
        raise UsageError("The form has no data.", "Send the part as a file named data.", param="data")
    part = await in_thread(Uploads(lab.store).add_part, upload_id, form.content)
    return {"id": part.id, "object": "upload.part", "created_at": unix(part.created_at), "upload_id": upload_id}


@router.post("/uploads/{upload_id}/complete", response_model=Object)
async def complete_upload(upload_id: Id, body: CompleteBody, lab: CurrentLab) -> Object:
    uploads = Uploads(lab.store)
    file = await in_thread(uploads.complete, upload_id, body.part_ids, md5=body.md5)
    return {**shown_upload(await in_thread(uploads.get, upload_id)), "file": shown(file)}


@router.post("/uploads/{upload_id}/cancel", response_model=Object)
async def cancel_upload(upload_id: Id, lab: CurrentLab) -> Object:
    return shown_upload(await in_thread(Uploads(lab.store).cancel, upload_id))


def shown_upload(upload: UploadRecord) -> Object:
    return {
        "id": upload.id, "object": "upload", "bytes": upload.bytes, "created_at": unix(upload.created_at),
        "filename": upload.filename, "purpose": upload.purpose, "status": upload.status,
        "expires_at": unix(upload.expires_at), "file": None,
    }  # fmt: skip
