"""`lab.files`: a user's files, stored in the database. Calls block; async callers use `store.base.in_thread`."""

from __future__ import annotations

import builtins
import codecs
import hashlib
import io
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from os import PathLike
from pathlib import Path
from typing import Annotated, TypeAlias

from annotated_types import Interval, Len

from timestep_lab.model.clock import to_naive_utc, utc_now
from timestep_lab.model.codec import Moment
from timestep_lab.model.errors import ConflictError, DataError, NotFoundError, TooLargeError, UsageError
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import FileRecord, Page, UploadRecord
from timestep_lab.store.base import Change, Statement
from timestep_lab.store.store import Store
from timestep_lab.store.table import Table

# --- Safe file names: safe to show, to store and to use in a header


MAX_NAME_BYTES = 200
"""The limit of most file systems is 255."""
_JOINERS = "\u200c\u200d"
"""Part of words in Persian and Hindi, and of emoji."""
_IN_NAMES = ("Zs", "Cn")
"""Beside printable characters: spaces, and characters of a newer Unicode than Python's."""


def safe_name(name: str) -> str:
    """`..\\evil\\r\\n.txt` → `evil.txt`. Never empty, no folders, no control or direction-changing characters."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    plain = unicodedata.normalize("NFC", last)
    # C*: control, format (such as right-to-left override, which hides a file's real extension), private use, surrogates.
    cleaned = "".join(c for c in plain if unicodedata.category(c) in _IN_NAMES or c in _JOINERS or c.isprintable())
    cleaned = " ".join(cleaned.split()).strip(". ")
    stem, dot, ending = cleaned.rpartition(".")
    if not dot or len(ending) > 16:
        stem, dot, ending = cleaned, "", ""
    room = MAX_NAME_BYTES - len(f"{dot}{ending}".encode())
    return f"{_cut(stem, room)}{dot}{ending}" or "file"


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore").strip()


# --- File types by content. The extension is only used to distinguish text formats
#
# Signatures: https://www.iana.org/assignments/media-types and https://mimesniff.spec.whatwg.org


_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (0, b"BM", "image/bmp"),
    (0, b"II*\x00", "image/tiff"),
    (0, b"MM\x00*", "image/tiff"),
    (0, b"\0\0\1\0", "image/x-icon"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"{\\rtf", "application/rtf"),
    (0, b"PK\x03\x04", "application/zip"),
    (0, b"\x1f\x8b", "application/gzip"),
    (0, b"PAR1", "application/vnd.apache.parquet"),
    (0, b"SQLite format 3\x00", "application/vnd.sqlite3"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),
    (0, b"\x7fELF", "application/x-executable"),
    (0, b"MZ", "application/x-msdownload"),
    (8, b"WAVE", "audio/wav"),
    (0, b"ID3", "audio/mpeg"),
    *((0, bytes((0xFF, second)), "audio/mpeg") for second in (0xFA, 0xFB, 0xF2, 0xF3)),
    *((0, bytes((0xFF, second)), "audio/aac") for second in (0xF1, 0xF9)),
    (0, b"OggS", "audio/ogg"),
    (0, b"fLaC", "audio/flac"),
    (4, b"ftyp", "video/mp4"),
    (0, b"\x1aE\xdf\xa3", "video/webm"),
)
_BRANDS = {
    b"avif": "image/avif", b"avis": "image/avif", b"heic": "image/heic", b"heix": "image/heic", b"hevc": "image/heic",
    b"heim": "image/heic", b"heis": "image/heic", b"mif1": "image/heif", b"msf1": "image/heif", b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4", b"qt  ": "video/quicktime",
}  # fmt: skip
"""Types of files that begin like MP4, by their main brand. Source: the registry of the MP4 Registration Authority, https://mp4ra.org"""
_IN_RIFF = ("image/webp", "audio/wav")
_OFFICE = {
    "word/document.xml": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xl/workbook.xml": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "ppt/presentation.xml": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
}
_OPEN = "application/vnd.oasis.opendocument."
_TEXT_ENDINGS = {
    "md": "text/markdown", "markdown": "text/markdown", "csv": "text/csv", "tsv": "text/tab-separated-values",
    "htm": "text/html", "html": "text/html", "css": "text/css", "xml": "application/xml", "svg": "image/svg+xml",
    "json": "application/json", "jsonl": "application/x-ndjson", "ndjson": "application/x-ndjson",
    "ipynb": "application/x-ipynb+json", "yaml": "application/yaml", "yml": "application/yaml", "toml": "application/toml",
    "py": "text/x-python", "js": "text/javascript", "ts": "text/x-typescript", "sql": "application/sql", "tex": "text/x-tex",
    "rst": "text/x-rst", "sh": "text/x-shellscript",
}  # fmt: skip
TEXT_TYPES = frozenset({"text/plain", *_TEXT_ENDINGS.values()})
DOCX, XLSX, PPTX = _OFFICE.values()
ODF = frozenset(f"{_OPEN}{kind}" for kind in ("text", "spreadsheet", "presentation", "graphics", "text-template"))
EPUB, RTF, EML, IPYNB = "application/epub+zip", "application/rtf", "message/rfc822", _TEXT_ENDINGS["ipynb"]
OLE, UNKNOWN = "application/x-ole-storage", "application/octet-stream"


def content_type_of(content: bytes, filename: str) -> str:
    """Returns a media type without parameters; `application/octet-stream` if it is neither known nor text."""
    ending = filename.rpartition(".")[2].casefold()
    for offset, signature, content_type in _SIGNATURES:
        if content[offset : offset + len(signature)] == signature and (
            content_type not in _IN_RIFF or content.startswith(b"RIFF")
        ):
            if (
                signature.isalnum()
                and content_type not in _IN_RIFF
                and decode_text(content[:_SAMPLE].rpartition(b" ")[0])
            ):
                continue  # A text that begins with these letters.
            if content_type == "video/mp4":
                return _BRANDS.get(content[8:12], content_type)
            return _zip_type(content) if content_type == "application/zip" else content_type
    if ending == "eml" and b"\0" not in content:
        return EML  # Each of its parts may have an encoding of its own.
    if decode_text(content) is None:
        return UNKNOWN
    return _TEXT_ENDINGS.get(ending, "text/plain")


_SAMPLE = 4096
_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_DECLARED = re.compile(
    rb"""\s*<\?xml[^>]*\sencoding\s*=\s*["']([\w.:-]+)|<meta\s[^>]*charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE
)


def decode_text(content: bytes) -> str | None:
    """Returns the text if the bytes are UTF-8, UTF-16 or UTF-32 with a byte order mark, or HTML or XML that declares its encoding; else None."""
    encodings = [name for mark, name in _BOMS if content.startswith(mark)][:1]
    if not encodings:
        if b"\0" in content:
            return None
        declared = _DECLARED.search(content, 0, _SAMPLE)
        encodings = ["utf-8-sig", *([(declared[1] or declared[2]).decode()] if declared else [])]
    for encoding in encodings:
        with suppress(UnicodeDecodeError, LookupError):
            return content.decode(encoding)
    return None


def _zip_type(content: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = set(archive.namelist())
            # OpenDocument and EPUB begin with their type.
            declared = archive.read("mimetype")[:100].decode("ascii", "replace").strip() if "mimetype" in names else ""
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError, zlib.error):
        return "application/zip"
    if declared == EPUB or declared.startswith(_OPEN):
        return declared
    if any(re.fullmatch(r"word/document\d+\.xml", name) for name in names):
        return DOCX
    return next((kind for member, kind in _OFFICE.items() if member in names), "application/zip")


MAX_BYTES = 50 * 2**20
PART_BYTES = 2**20
MOST = 10_000
"""Files per page."""

# In the class below, `list` is a method.
Records: TypeAlias = "builtins.list[FileRecord]"
Statements: TypeAlias = "builtins.list[Statement]"
FileId = Annotated[str, Len(1, 200)]
FileName = Annotated[str, Len(1, 1000)]
Purpose = Annotated[str, Len(1, 100)]
Bulk = dict[str, tuple[tuple[str, ...], list[tuple[object, ...]]]]


class Files:
    """The files of one user, by id. Calls block.

    Example:
        from pathlib import Path

        Path("note.txt").write_text("The lamp costs 24.90.")
        file = lab.files.add("note.txt")
        print(lab.files.content(file.id), [kept.filename for kept in lab.files.list()])
        lab.files.delete(file.id)
    """

    def __init__(self, store: Store) -> None:
        self._db, self._user_id, self._quota = store.db, store.user_id, store.quota
        self.table = Table(store.db, store.user_id, "files", FileRecord, noun="file", topic="files")

    def add(
        self, path: str | PathLike[str], *, purpose: str = "assistants", expires_at: datetime | None = None
    ) -> FileRecord:
        """Stores a copy of a file on this machine. Raises `DataError` if it cannot be read, `TooLargeError` over 50 MB."""
        source = Path(path).expanduser()
        try:
            if source.exists() and not source.is_file() and not source.is_dir():
                raise DataError(
                    f"{source} is a pipe or a device, not a file.", "Store its content as a file first.", param="path"
                )
            size = source.stat().st_size
            if size > MAX_BYTES:
                raise too_large(source.name, size)
            content = source.read_bytes()
        except OSError as error:
            raise DataError(f"{source} cannot be read ({error.strerror}).", "Check the path.", param="path") from error
        return self.add_bytes(source.name, content, purpose=purpose, expires_at=expires_at)

    def add_bytes(
        self,
        filename: FileName,
        content: bytes,
        *,
        purpose: Purpose = "assistants",
        expires_at: Moment | None = None,
        file_id: FileId | None = None,
    ) -> FileRecord:
        """Stores `content` under a safe form of `filename`; its type is detected from the content. `file_id`: an id assigned earlier.

        Raises `TooLargeError` over 50 MB, `ConflictError` if `file_id` exists.
        """
        if len(content) > MAX_BYTES:
            raise too_large(filename, len(content))
        if self._quota:
            self.purge()
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

    def get(self, file_id: FileId) -> FileRecord:
        """Returns one file. Raises `NotFoundError`, also if it has expired."""
        record = self.table.get(file_id)
        if _expired(record):
            raise self.table.missing(file_id)
        return record

    def list(self, *, purpose: str | None = None) -> Records:
        """Yields all files, newest first."""
        records: Records = []
        after: str | None = None
        while True:
            page = self.page(after=after, limit=MOST, purpose=purpose)
            records += page.data
            if not page.has_more:
                return records
            after = page.after

    def page(
        self, *, after: Annotated[str, Len(1, 200)] | None = None, limit: Annotated[int, Interval(ge=1, le=MOST)] = 20,
        newest_first: bool = True, purpose: Purpose | None = None,
    ) -> Page[FileRecord]:  # fmt: skip
        """Returns one page. `after` is the cursor of the previous page. Raises `NotFoundError` if `after` does not exist."""
        self.purge()
        where = {} if purpose is None else {"purpose": purpose}
        return self.table.page(after=after, limit=limit, newest_first=newest_first, **where)

    def content(self, file_id: FileId) -> bytes:
        """Returns the whole content. Raises `NotFoundError`."""
        return b"".join(self.stream(file_id))

    def stream(self, file_id: str) -> Iterator[bytes]:
        """Returns the content in chunks of at most 1 MiB, each read on demand. Raises `NotFoundError` immediately."""
        record = self.get(file_id)
        return self._parts(record)

    def delete(self, file_id: FileId) -> None:
        """Deletes the file, its content, and its passages in every vector store. Raises `NotFoundError`."""
        self.table.get(file_id)
        self._db.write(self._user_id, self._removal(file_id), changes=[*self.table.changes(file_id)])

    def purge(self) -> int:
        """Deletes expired files and the parts of uploads that were never completed. Returns the number of files."""
        due = [self._user_id, to_naive_utc(utc_now())]
        sql = "select id from files where user_id = $1 and expires_at <= $2"
        gone = [row[0] for row in self._db.query(self._user_id, sql, due).rows]
        for file_id in gone:
            self._db.write(self._user_id, self._removal(file_id), changes=[Change("files", self._user_id, file_id)])
        sql = "select id from uploads where user_id = $1 and expires_at <= $2 and status = 'pending'"
        for [upload_id] in self._db.query(self._user_id, sql, due).rows:
            ended = Statement(
                "update uploads set status = 'expired' where user_id = $1 and id = $2 and status = 'pending'",
                [self._user_id, upload_id],
            )
            self._db.write(self._user_id, [ended, *parts_removal(self._user_id, upload_id)])
        return len(gone)

    def record_for(
        self, filename: str, content: bytes, *, purpose: str, expires_at: datetime | None = None
    ) -> FileRecord:
        """Returns a record that describes `content`, not yet stored."""
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
                raise NotFoundError(
                    f"The file {record.filename!r} was deleted while it was being read.", "Add it again."
                )
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
    """Returns the rows that store `content`, for `Database.append`."""
    pieces = [content[start : start + PART_BYTES] for start in range(0, len(content), PART_BYTES)]
    rows: list[tuple[object, ...]] = [(user_id, owner_id, number, piece) for number, piece in enumerate(pieces)]
    return {"file_parts": (("user_id", "owner_id", "part_no", "data"), rows)} if rows else {}


def too_large(name: str, size: int) -> TooLargeError:
    return TooLargeError(
        f"{name} has {size / 2**20:.1f} MB; the limit is {MAX_BYTES // 2**20} MB.", "Split it, or remove parts of it."
    )


def _expired(record: FileRecord) -> bool:
    return record.expires_at is not None and record.expires_at <= utc_now()


# --- Uploads: files that arrive in parts, in any order, and become a file once they are complete


LIFETIME = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadPart:
    id: str
    user_id: str
    upload_id: str
    bytes: int
    created_at: datetime = field(default_factory=utc_now)


class Uploads:
    """Uploads in parts. Calls block; async callers use `store.base.in_thread`."""

    def __init__(self, store: Store) -> None:
        self._db, self._user_id, self._quota = store.db, store.user_id, store.quota
        self._files = Files(store)
        self.table = Table(store.db, store.user_id, "uploads", UploadRecord, noun="upload")
        self.parts = Table(store.db, store.user_id, "upload_parts", UploadPart, noun="upload part")

    def create(self, filename: str, size: int, *, purpose: str = "assistants", content_type: str = "") -> UploadRecord:
        """Starts an upload of `size` bytes; the parts must arrive within an hour. Raises `TooLargeError`, `UsageError`."""
        if size > MAX_BYTES:
            raise too_large(filename, size)
        if size < 0:
            raise UsageError(f"Invalid file size: {size} bytes.", "Give the size of the file.", param="bytes")
        self._files.purge()
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
        """Returns an upload. Raises `NotFoundError`."""
        return self.table.get(upload_id)

    def add_part(self, upload_id: str, content: bytes) -> UploadPart:
        """Adds a part. Raises `ConflictError` for an upload that has ended, `TooLargeError` if the parts exceed 50 MB."""
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
        """Creates the file from these parts in this order. Raises `UsageError` if they do not match the announced size."""
        upload = self._open(upload_id)
        if len(set(part_ids)) < len(part_ids):
            raise UsageError("A part is given twice.", "Give the id of each part once, in order.", param="part_ids")
        content = b"".join(self._content(upload_id, part_id) for part_id in part_ids)
        if len(content) != upload.bytes:
            raise UsageError(
                f"The parts have {len(content)} bytes; {upload.bytes} were announced.",
                "Send the missing parts, or start a new upload.",
                param="bytes",
            )
        if md5 is not None and hashlib.md5(content, usedforsecurity=False).hexdigest() != md5.lower():
            raise UsageError("The parts do not match this MD5 checksum.", "Send them again.", param="md5")
        record = replace(self._files.record_for(upload.filename, content, purpose=upload.purpose), created_at=utc_now())
        done = self.table.update_statement(
            upload_id, expect={"status": "pending"}, status="completed", part_ids=tuple(part_ids), file_id=record.id
        )
        self._db.append(
            self._user_id,
            bytes_of(self._user_id, record.id, content),
            then=[done, self._files.table.insert_statement(record), *parts_removal(self._user_id, upload_id)],
            changes=self._files.table.changes(record.id),
        )
        return record

    def cancel(self, upload_id: str) -> UploadRecord:
        """Cancels an upload and deletes its parts. Raises `ConflictError` for an upload that has ended."""
        self._open(upload_id)
        cancelled = self.table.update_statement(upload_id, expect={"status": "pending"}, status="cancelled")
        self._db.write(self._user_id, [cancelled, *parts_removal(self._user_id, upload_id)])
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


def parts_removal(user_id: str, upload_id: str) -> list[Statement]:
    mine = [user_id, upload_id]
    parts = "select id from upload_parts where user_id = $1 and upload_id = $2"
    return [
        Statement(f"delete from file_parts where user_id = $1 and owner_id in ({parts})", mine),
        Statement("delete from upload_parts where user_id = $1 and upload_id = $2", mine),
    ]
