"""`lab.files`: a user's files, whole in the store. Calls block; async callers go through `store.base.in_thread`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from timestep_lab.model.clock import utc_now
from timestep_lab.model.errors import DataError, NotFoundError, TooLargeError
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import FileRecord, Page
from timestep_lab.runtime.files.content_types import content_type_of
from timestep_lab.runtime.files.file_names import safe_name
from timestep_lab.store.base import Change, Statement
from timestep_lab.store.store import Store
from timestep_lab.store.table import Table

MAX_BYTES = 50 * 2**20
PART_BYTES = 2**20

# In the class below, `list` is a method.
Records: TypeAlias = "list[FileRecord]"
Statements: TypeAlias = "list[Statement]"
Bulk = dict[str, tuple[tuple[str, ...], list[tuple[Any, ...]]]]


class Files:
    """Files of one user, by id. Calls block."""

    def __init__(self, store: Store) -> None:
        self._db, self._user_id, self._quota = store.db, store.user_id, store.quota
        self.table = Table(store.db, store.user_id, "files", FileRecord, noun="file", topic="files")

    def add(
        self, path: str | PathLike[str], *, purpose: str = "assistants", expires_at: datetime | None = None
    ) -> FileRecord:
        """Keep a copy of a file on this machine. Raises `DataError` when it cannot be read, `TooLargeError` over 50 MB."""
        source = Path(path).expanduser()
        try:
            size = source.stat().st_size
            if size > MAX_BYTES:
                raise too_large(source.name, size)
            content = source.read_bytes()
        except OSError as error:
            raise DataError(f"{source} cannot be read ({error.strerror}).", "Check the path.", param="path") from error
        return self.add_bytes(source.name, content, purpose=purpose, expires_at=expires_at)

    def add_bytes(
        self,
        filename: str,
        content: bytes,
        *,
        purpose: str = "assistants",
        expires_at: datetime | None = None,
        file_id: str | None = None,
    ) -> FileRecord:
        """Keep `content` under a safe form of `filename`; its type is found by its bytes. `file_id`: one given out before.

        Raises `TooLargeError` over 50 MB, `ConflictError` when `file_id` is taken.
        """
        if len(content) > MAX_BYTES:
            raise too_large(filename, len(content))
        if self._quota:
            self._quota.take_file(len(content))
        record = self.record_for(filename, content, purpose=purpose, expires_at=expires_at)
        record = replace(record, id=file_id) if file_id else record
        self._db.append(
            self._user_id,
            bytes_of(self._user_id, record.id, content),
            then=[self.table.insert_statement(record)],
            changes=self.table.changes(record.id),
        )
        return record

    def get(self, file_id: str) -> FileRecord:
        """Raises `NotFoundError`, also for a file that has expired."""
        record = self.table.get(file_id)
        if _expired(record):
            raise self.table.missing(file_id)
        return record

    def list(self, *, purpose: str | None = None) -> Records:
        """Newest first."""
        where: dict[str, Any] = {} if purpose is None else {"purpose": purpose}
        return [record for record in self.table.find(newest_first=True, **where) if not _expired(record)]

    def page(
        self, *, after: str | None = None, limit: int = 20, newest_first: bool = True, purpose: str | None = None
    ) -> Page[FileRecord]:
        self.purge()
        where: dict[str, Any] = {} if purpose is None else {"purpose": purpose}
        return self.table.page(after=after, limit=limit, newest_first=newest_first, **where)

    def content(self, file_id: str) -> bytes:
        """All bytes. Raises `NotFoundError`."""
        return b"".join(self.stream(file_id))

    def stream(self, file_id: str) -> Iterator[bytes]:
        """The bytes in parts of at most 1 MiB, each read when it is asked for. Raises `NotFoundError` at once."""
        record = self.get(file_id)
        return self._parts(record)

    def delete(self, file_id: str) -> None:
        """The file, its bytes, and its passages in every vector store. Raises `NotFoundError`."""
        self.table.get(file_id)
        self._db.write(self._user_id, self._removal(file_id), changes=[*self.table.changes(file_id)])

    def purge(self) -> int:
        """Delete what has expired, and say how many files that were."""
        gone = [record.id for record in self.table.find() if _expired(record)]
        for file_id in gone:
            self._db.write(self._user_id, self._removal(file_id), changes=[Change("files", self._user_id, file_id)])
        return len(gone)

    def record_for(
        self, filename: str, content: bytes, *, purpose: str, expires_at: datetime | None = None
    ) -> FileRecord:
        """A record that describes `content`, not yet kept."""
        name = safe_name(filename)
        return FileRecord(
            id=new_id("file"),
            user_id=self._user_id,
            filename=name,
            bytes=len(content),
            content_type=content_type_of(content, name),
            purpose=purpose,
            sha256=hashlib.sha256(content).hexdigest(),
            expires_at=expires_at,
        )

    def _parts(self, record: FileRecord) -> Iterator[bytes]:
        sql = "select data from file_parts where user_id = $1 and owner_id = $2 and part_no = $3"
        left, part_no = record.bytes, 0
        while left > 0:
            row = self._db.query(self._user_id, sql, [self._user_id, record.id, part_no]).one()
            if row is None:
                raise NotFoundError(f"The file {record.filename!r} was deleted while it was read.", "Add it again.")
            yield bytes(row[0])
            left, part_no = left - len(row[0]), part_no + 1

    def _removal(self, file_id: str) -> Statements:
        mine = [self._user_id, file_id]
        return [
            Statement("delete from chunks where user_id = $1 and file_id = $2", mine),
            Statement("delete from vector_store_files where user_id = $1 and file_id = $2", mine),
            Statement("delete from file_parts where user_id = $1 and owner_id = $2", mine),
            Statement("delete from files where user_id = $1 and id = $2", mine),
        ]


def bytes_of(user_id: str, owner_id: str, content: bytes) -> Bulk:
    """The rows that keep `content`, for `Database.append`."""
    pieces = [content[start : start + PART_BYTES] for start in range(0, len(content), PART_BYTES)]
    rows: list[tuple[Any, ...]] = [(user_id, owner_id, number, piece) for number, piece in enumerate(pieces)]
    return {"file_parts": (("user_id", "owner_id", "part_no", "data"), rows)} if rows else {}


def too_large(name: str, size: int) -> TooLargeError:
    return TooLargeError(
        f"{name} has {size / 2**20:.1f} MB; a file may have {MAX_BYTES // 2**20} MB.", "Split it, or leave parts out."
    )


def _expired(record: FileRecord) -> bool:
    return record.expires_at is not None and record.expires_at <= utc_now()
