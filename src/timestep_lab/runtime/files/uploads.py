"""Files that arrive in parts, in any order and number, and become a file when they are complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from timestep_lab.model.clock import utc_now
from timestep_lab.model.errors import ConflictError, NotFoundError, UsageError
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import FileRecord, UploadRecord
from timestep_lab.runtime.files.file_names import safe_name
from timestep_lab.runtime.files.files import MAX_BYTES, Files, bytes_of, too_large
from timestep_lab.store.base import Statement
from timestep_lab.store.store import Store
from timestep_lab.store.table import Table

LIFETIME = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadPart:
    id: str
    user_id: str
    upload_id: str
    bytes: int
    created_at: datetime = field(default_factory=utc_now)


class Uploads:
    """Calls block; async callers go through `store.base.in_thread`."""

    def __init__(self, store: Store) -> None:
        self._db, self._user_id, self._quota = store.db, store.user_id, store.quota
        self._files = Files(store)
        self.table = Table(store.db, store.user_id, "uploads", UploadRecord, noun="upload")
        self.parts = Table(store.db, store.user_id, "upload_parts", UploadPart, noun="upload part")

    def create(self, filename: str, size: int, *, purpose: str = "assistants", content_type: str = "") -> UploadRecord:
        """Announce a file of `size` bytes; the parts must come within an hour. Raises `TooLargeError`, `UsageError`."""
        if size > MAX_BYTES:
            raise too_large(filename, size)
        if size < 0:
            raise UsageError(f"A file cannot have {size} bytes.", "Give its size.", param="bytes")
        if self._quota:
            self._quota.take_file(0)
        now = utc_now()
        record = UploadRecord(
            id=new_id("upload"),
            user_id=self._user_id,
            filename=safe_name(filename),
            bytes=size,
            content_type=content_type,
            purpose=purpose,
            created_at=now,
            expires_at=now + LIFETIME,
        )
        return self.table.insert(record)

    def get(self, upload_id: str) -> UploadRecord:
        """Raises `NotFoundError`."""
        return self.table.get(upload_id)

    def add_part(self, upload_id: str, content: bytes) -> UploadPart:
        """Raises `ConflictError` for an upload that is over, `TooLargeError` when there is more than was announced."""
        upload = self._open(upload_id)
        if upload.bytes_uploaded + len(content) > MAX_BYTES:
            raise too_large(upload.filename, upload.bytes_uploaded + len(content))
        if self._quota:
            self._quota.take_bytes(len(content))
        part = UploadPart(id=new_id("part"), user_id=self._user_id, upload_id=upload_id, bytes=len(content))
        count = Statement(
            "update uploads set bytes_uploaded = bytes_uploaded + $3 "
            "where user_id = $1 and id = $2 and status = 'pending' returning id",
            [self._user_id, upload_id, len(content)],
            expect=1,
        )
        self._db.append(
            self._user_id,
            bytes_of(self._user_id, part.id, content),
            then=[count, self.parts.insert_statement(part)],
        )
        return part

    def complete(self, upload_id: str, part_ids: Sequence[str], *, md5: str | None = None) -> FileRecord:
        """The file made of these parts in this order. Raises `UsageError` when they are not what was announced."""
        upload = self._open(upload_id)
        content = b"".join(self._content(upload_id, part_id) for part_id in part_ids)
        if len(content) != upload.bytes:
            raise UsageError(
                f"The parts have {len(content)} bytes; {upload.bytes} were announced.",
                "Send what is missing, or start a new upload.",
                param="bytes",
            )
        if md5 is not None:
            import hashlib

            if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5.lower():
                raise UsageError("The parts do not have this MD5 checksum.", "Send them again.", param="md5")
        record = replace(self._files.record_for(upload.filename, content, purpose=upload.purpose), created_at=utc_now())
        done = self.table.update_statement(
            upload_id, expect={"status": "pending"}, status="completed", part_ids=tuple(part_ids), file_id=record.id
        )
        self._db.append(
            self._user_id,
            bytes_of(self._user_id, record.id, content),
            then=[done, self._files.table.insert_statement(record), *self._removal(upload_id)],
            changes=self._files.table.changes(record.id),
        )
        return record

    def cancel(self, upload_id: str) -> UploadRecord:
        """Drop the parts. Raises `ConflictError` for an upload that is over."""
        self._open(upload_id)
        cancelled = self.table.update_statement(upload_id, expect={"status": "pending"}, status="cancelled")
        self._db.write(self._user_id, [cancelled, *self._removal(upload_id)])
        return self.table.get(upload_id)

    def _open(self, upload_id: str) -> UploadRecord:
        upload = self.table.get(upload_id)
        if upload.status != "pending" or upload.expires_at <= utc_now():
            state = "has expired" if upload.status == "pending" else f"is {upload.status}"
            raise ConflictError(f"The upload {upload_id!r} {state}.", "Start a new one.")
        return upload

    def _content(self, upload_id: str, part_id: str) -> bytes:
        part = self.parts.try_get(part_id)
        if part is None or part.upload_id != upload_id:
            raise NotFoundError(f"The upload {upload_id!r} has no part {part_id!r}.", "Send the part again.")
        sql = "select data from file_parts where user_id = $1 and owner_id = $2 order by part_no"
        rows = self._db.query(self._user_id, sql, [self._user_id, part_id]).rows
        return b"".join(bytes(row[0]) for row in rows)

    def _removal(self, upload_id: str) -> list[Statement]:
        mine = [self._user_id, upload_id]
        parts = "select id from upload_parts where user_id = $1 and upload_id = $2"
        return [
            Statement(f"delete from file_parts where user_id = $1 and owner_id in ({parts})", mine),
            Statement("delete from upload_parts where user_id = $1 and upload_id = $2", mine),
        ]
