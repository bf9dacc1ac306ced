"""Uploads in several parts."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

from timestep_lab.model.errors import UsageError
from timestep_lab.model.records import UploadRecord
from timestep_lab.runtime.files.files import Uploads
from timestep_lab.server.api.schemas import Strict
from timestep_lab.server.errors import read_upload
from timestep_lab.server.labs import CurrentLab
from timestep_lab.server.openai_api import files
from timestep_lab.server.openai_api.calling import Id, Object, checked_purpose, unix
from timestep_lab.store.base import in_thread

router = APIRouter()


class UploadBody(Strict):
    filename: str = Field(min_length=1, max_length=1000)
    bytes: int = Field(ge=0)
    mime_type: str = Field("", max_length=200)
    purpose: str = Field(min_length=1, max_length=100)
    expires_after: dict[str, Any] | None = None


class CompleteBody(Strict):
    part_ids: list[str] = Field(max_length=10_000)
    md5: str | None = Field(None, max_length=64)


@router.post("/uploads", response_model=Object)
async def create_upload(body: UploadBody, lab: CurrentLab) -> Object:
    """Announce a file; its parts must be uploaded within an hour."""
    if body.expires_after is not None:
        raise UsageError("Files uploaded in parts cannot expire.", "Omit expires_after.", param="expires_after")
    create, purpose = Uploads(lab.store).create, checked_purpose(body.purpose)
    return shown(await in_thread(create, body.filename, body.bytes, purpose=purpose, content_type=body.mime_type))


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
    return {**shown(await in_thread(uploads.get, upload_id)), "file": files.shown(file)}


@router.post("/uploads/{upload_id}/cancel", response_model=Object)
async def cancel_upload(upload_id: Id, lab: CurrentLab) -> Object:
    return shown(await in_thread(Uploads(lab.store).cancel, upload_id))


def shown(upload: UploadRecord) -> Object:
    return {
        "id": upload.id, "object": "upload", "bytes": upload.bytes, "created_at": unix(upload.created_at),
        "filename": upload.filename, "purpose": upload.purpose, "status": upload.status,
        "expires_at": unix(upload.expires_at), "file": None,
    }  # fmt: skip
