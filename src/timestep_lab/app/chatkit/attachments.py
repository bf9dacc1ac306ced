"""Attachments in two phases: announced here, their bytes taken at the upload path, kept as files under the attachment's own id."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from chatkit import store as ck_store
from chatkit import types as ck

from timestep_lab.app.chatkit.context import ChatKitContext
from timestep_lab.app.chatkit.store import ATTACHMENT
from timestep_lab.runtime.attachments import IMAGE_TYPES
from timestep_lab.runtime.files.file_names import safe_name
from timestep_lab.runtime.files.files import MAX_BYTES, too_large
from timestep_lab.store.base import in_thread
from timestep_lab.types.errors import ConflictError, NotFoundError
from timestep_lab.types.ids import new_id

if TYPE_CHECKING:
    from timestep_lab.app.chatkit.lab_store import LabChatKitStore
    from timestep_lab.types.files import FileRecord

_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}")
"""RFC 6838, 4.2."""
UNKNOWN_TYPE = "application/octet-stream"
PURPOSE = "user_data"


class LabAttachments(ck_store.AttachmentStore[ChatKitContext]):
    def __init__(self, store: LabChatKitStore) -> None:
        self._store = store

    async def create_attachment(self, input: ck.AttachmentCreateParams, context: ChatKitContext) -> Any:
        """Announce a file. Its name is made harmless; what it is said to be is shown until its bytes have come and tell what it is."""
        if input.size > MAX_BYTES:
            raise too_large(safe_name(input.name), input.size)
        file_id = new_id("file")
        path = f"/api/v1/agents/{context.agent.id}/chatkit/upload?attachment_id={file_id}"
        descriptor = {"url": context.base_url + path, "method": "PUT", "headers": {"Content-Type": UNKNOWN_TYPE}}
        said = input.mime_type if _MEDIA_TYPE.fullmatch(input.mime_type) else UNKNOWN_TYPE
        shown = _shown(file_id, safe_name(input.name), said, context)
        return ATTACHMENT.validate_python({**shown, "upload_descriptor": descriptor})

    async def delete_attachment(self, attachment_id: str, context: ChatKitContext) -> None:
        await self._store.load_attachment(attachment_id, context)  # Raises for what was never an attachment.
        try:
            await in_thread(context.lab.files.delete, attachment_id)
        except NotFoundError:
            return  # Its bytes never came.

    async def take(self, attachment_id: str | None, name: str, content: bytes, context: ChatKitContext) -> Any:
        """The bytes have come: for an attachment that was announced, or for a new one. Raises `ConflictError` for a second upload."""
        if attachment_id is not None:
            announced = await self._store.load_attachment(attachment_id, context)
            if announced.upload_descriptor is None:
                raise ConflictError(f"The attachment {attachment_id!r} has its bytes already.", "Announce another.")
            name = announced.name
        file = await in_thread(context.lab.files.add_bytes, name, content, purpose=PURPOSE, file_id=attachment_id)
        attachment = described(file, context)
        await self._store.save_attachment(attachment, context)
        return attachment


def described(file: FileRecord, context: ChatKitContext) -> Any:
    return ATTACHMENT.validate_python(_shown(file.id, file.filename, file.content_type, context))


def _shown(file_id: str, name: str, media_type: str, context: ChatKitContext) -> dict[str, Any]:
    plain = {"id": file_id, "name": name, "mime_type": media_type, "type": "file"}
    if media_type in IMAGE_TYPES:
        plain |= {"type": "image", "preview_url": f"{context.base_url}/openai/v1/files/{file_id}/content"}
    return plain
