"""`lab.files` of a served lab."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

from timestep_lab.model.clock import utc_now
from timestep_lab.model.records import FileRecord, Page
from timestep_lab.runtime.files.files import MAX_BYTES, PART_BYTES, Files, too_large
from timestep_lab.service.client import Connection, unsupported_remotely

Records: TypeAlias = "list[FileRecord]"
PATH = "/openai/v1/files"
MOST = 10_000
UPLOAD_S = 600.0


class RemoteFiles(Files):
    """`add` reads a file of this machine and sends it."""

    def __init__(self, connection: Connection, user_id: str) -> None:
        self._connection, self.user_id = connection, user_id

    def add_bytes(
        self,
        filename: str,
        content: bytes,
        *,
        purpose: str = "assistants",
        expires_at: datetime | None = None,
        file_id: str | None = None,
    ) -> FileRecord:
        if file_id is not None:
            raise unsupported_remotely(
                "A file's id of your own choice", "Leave file_id away: the served lab gives one."
            )
        if len(content) > MAX_BYTES:
            raise too_large(filename, len(content))
        form = {"purpose": purpose}
        if expires_at is not None:
            form["expires_after[seconds]"] = str(max(0, round((expires_at - utc_now()).total_seconds())))
        told = self._connection.ask(
            "POST", PATH, files={"file": (filename, content)}, data=form, timeout_s=UPLOAD_S
        )  # fmt: skip
        return self._record(told)

    def get(self, file_id: str) -> FileRecord:
        return self._record(self._connection.get(f"{PATH}/{file_id}"))

    def list(self, *, purpose: str | None = None) -> Records:
        found: Records = []
        after: str | None = None
        while True:
            page = self.page(after=after, limit=MOST, purpose=purpose)
            found += page.data
            if not page.has_more:
                return found
            after = page.after

    def page(
        self, *, after: str | None = None, limit: int = 20, newest_first: bool = True, purpose: str | None = None
    ) -> Page[FileRecord]:
        order = "desc" if newest_first else "asc"
        told = self._connection.get(PATH, after=after, limit=limit, order=order, purpose=purpose)
        data = tuple(self._record(one) for one in told["data"])
        return Page(data=data, has_more=told["has_more"], after=told["last_id"] if told["has_more"] else None)

    def content(self, file_id: str) -> bytes:
        return self._connection.raw("GET", f"{PATH}/{file_id}/content", timeout_s=UPLOAD_S)

    def stream(self, file_id: str) -> Iterator[bytes]:
        whole = io.BytesIO(self.content(file_id))
        return iter(lambda: whole.read(PART_BYTES), b"")

    def delete(self, file_id: str) -> None:
        self._connection.ask("DELETE", f"{PATH}/{file_id}")

    def purge(self) -> int:
        raise unsupported_remotely("Purging files", "Nothing is to be done: the served lab deletes what has expired.")

    def _record(self, told: Mapping[str, Any]) -> FileRecord:
        expires = told["expires_at"]
        return FileRecord(
            id=told["id"], user_id=self.user_id, filename=told["filename"], bytes=told["bytes"],
            content_type=told["content_type"], purpose=told["purpose"], sha256=told["sha256"],
            created_at=_moment(told["created_at"]), expires_at=None if expires is None else _moment(expires),
        )  # fmt: skip


def _moment(seconds: int) -> datetime:
    """OpenAI's files tell time in whole seconds."""
    return datetime.fromtimestamp(seconds, UTC)
