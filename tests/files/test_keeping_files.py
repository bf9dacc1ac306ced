"""Files in the store: bytes whole, names safe, types found by content, and nobody else's."""

from __future__ import annotations

import hashlib
import io
import zipfile
from datetime import timedelta
from pathlib import Path

import pytest

from tests.store.conftest import FACTORIES, OwnerProcess
from timestep_lab.model.clock import utc_now
from timestep_lab.model.errors import ConflictError, DataError, NotFoundError, TooLargeError, UsageError
from timestep_lab.model.ids import new_uuid
from timestep_lab.runtime.files.files import MAX_BYTES, Files, Uploads, content_type_of, safe_name
from timestep_lab.service.files import MOST_SHOWN
from timestep_lab.service.files import Files as ListedFiles
from timestep_lab.store.store import Store

LARGE = bytes(range(256)) * 10_000  # 2.5 MB: three parts


def test_a_file_comes_back_byte_for_byte(store: Store, tmp_path: Path) -> None:
    files = Files(store)
    (tmp_path / "big.bin").write_bytes(LARGE)
    record = files.add(tmp_path / "big.bin")
    assert files.content(record.id) == LARGE
    assert [len(part) for part in files.stream(record.id)] == [2**20, 2**20, len(LARGE) - 2**21]
    assert (record.bytes, record.sha256) == (len(LARGE), hashlib.sha256(LARGE).hexdigest())
    assert files.get(record.id) == record
    empty = files.add_bytes("empty.txt", b"")
    assert files.content(empty.id) == b""
    assert files.list() == [empty, record]


def test_a_file_kept_through_another_process_comes_back_byte_for_byte(
    tmp_path: Path, owner_process: OwnerProcess
) -> None:
    with FACTORIES["duckdb-client"](tmp_path, owner_process) as database:
        files = Files(Store(database))
        assert files.content(files.add_bytes("big.bin", LARGE).id) == LARGE


def test_a_deleted_file_is_gone_with_its_bytes(store: Store) -> None:
    files = Files(store)
    record = files.add_bytes("a.txt", b"text")
    files.delete(record.id)
    for read in (files.get, files.content, files.delete):
        with pytest.raises(NotFoundError):
            read(record.id)
    assert store.db.query(store.user_id, "select count(*) from file_parts").rows == [(0,)]


def test_an_expired_file_is_gone_to_every_reader(store: Store) -> None:
    files = Files(store)
    record = files.add_bytes("a.txt", b"text", expires_at=utc_now() - timedelta(seconds=1))
    kept = files.add_bytes("b.txt", b"text", expires_at=utc_now() + timedelta(hours=1))
    with pytest.raises(NotFoundError):
        files.content(record.id)
    assert files.purge() == 1
    assert files.list() == [kept]
    assert files.page().data == (kept,)


def test_the_parts_of_an_upload_that_was_never_completed_are_deleted(store: Store) -> None:
    uploads = Uploads(store)
    upload = uploads.create("a.txt", 9)
    uploads.add_part(upload.id, b"part")
    uploads.table.update(upload.id, expires_at=utc_now())
    uploads.create("b.txt", 9)
    assert uploads.get(upload.id).status == "expired"
    assert store.db.query(store.user_id, "select count(*) from file_parts").rows == [(0,)]


def test_many_files_are_shown_in_a_few_lines(duckdb_store: Store) -> None:
    files = ListedFiles(duckdb_store)
    for number in range(MOST_SHOWN + 1):
        files.add_bytes(f"{number}.txt", b"")
    lines = repr(files).splitlines()
    assert (len(lines), lines[-1]) == (MOST_SHOWN + 2, "  … and more: lab.files.list()")


def test_nobody_sees_another_users_file(store: Store) -> None:
    record = Files(store).add_bytes("a.txt", b"mine")
    others = Files(store.for_user(new_uuid()))
    assert others.list() == []
    for read in (others.get, others.content, others.delete):
        with pytest.raises(NotFoundError):
            read(record.id)
    assert Files(store).content(record.id) == b"mine"


def test_what_is_too_large_or_not_there_is_refused_and_nothing_is_kept(duckdb_store: Store, tmp_path: Path) -> None:
    files = Files(duckdb_store)
    with pytest.raises(TooLargeError, match=r"big has 50\.0 MB; the limit is 50 MB"):
        files.add_bytes("big", bytes(MAX_BYTES + 1))
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(MAX_BYTES + 1)
    with pytest.raises(TooLargeError):
        files.add(tmp_path / "sparse")
    with pytest.raises(DataError, match=r"cannot be read \(No such file"):
        files.add(tmp_path / "missing")
    with pytest.raises(DataError, match=r"/dev/zero is a pipe or a device, not a file"):
        files.add("/dev/zero")
    assert files.list() == []


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\evil\r\nX-Header: 1.txt", "evilX-Header: 1.txt"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("...", "file"),
        ("", "file"),
        (".env", "env"),
        ("naïve résumé.md", "naïve résumé.md"),
        (
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.txt",
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.txt",
        ),
        ("\U0001fae9 new in Unicode 16.txt", "\U0001fae9 new in Unicode 16.txt"),
        ("x" * 300 + ".txt", "x" * 196 + ".txt"),
        ("é" * 300, "é" * 100),
    ],
)
def test_a_name_is_made_safe(given: str, kept: str) -> None:
    assert safe_name(given) == kept


def zipped(*members: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for member in members:
            archive.writestr(member, "x")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "name", "found"),
    [
        (b"\x89PNG\r\n\x1a\n....", "photo.txt", "image/png"),
        (b"%PDF-1.7", "notes.md", "application/pdf"),
        (b"MZ\x90\x00", "cute.png", "application/x-msdownload"),
        (b"RIFF0000WEBPVP8 ", "a.bin", "image/webp"),
        (b"xxxxxxxxWEBP", "a.webp", "text/plain"),
        (b"BMW makes cars.", "a.txt", "text/plain"),
        (b"GIF89a is a format", "a.md", "text/markdown"),
        (b"BM\x36\x18\0\0", "a.txt", "image/bmp"),
        (b"\0\0\0\x1cftypheic", "a.heic", "image/heic"),
        (b"\0\0\0\x1cftypavif", "a.avif", "image/avif"),
        (b"\0\0\0\x1cftypM4A ", "a.m4a", "audio/mp4"),
        (b"\0\0\0\x1cftypisom", "a.mp4", "video/mp4"),
        (b"\xff\xf3\x40\xc0", "a.mp3", "audio/mpeg"),
        (b"# Title", "a.md", "text/markdown"),
        (b"<script>", "a.txt", "text/plain"),
        (b"a,b\n1,2", "a.CSV", "text/csv"),
        (b"not a picture", "a.png", "text/plain"),
        ("Grüße".encode("utf-16"), "a.txt", "text/plain"),
        (b"\xff\xfe\x00\xd8", "a.txt", "application/octet-stream"),
        (b"caf\xe9", "a.txt", "application/octet-stream"),
        (b"\x00\x01", "a.json", "application/octet-stream"),
        (
            zipped("word/document.xml"),
            "a.zip",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        ),
        (zipped("readme"), "a.docx", "application/zip"),
        (b"PK\x03\x04 broken", "a.docx", "application/zip"),
        (b"", "a.md", "text/markdown"),
    ],
)
def test_a_type_is_found_by_content_not_by_name(content: bytes, name: str, found: str) -> None:
    assert content_type_of(content, name) == found


# -- in parts


def test_parts_in_any_order_become_a_file(store: Store) -> None:
    uploads, files = Uploads(store), Files(store)
    upload = uploads.create("notes.md", 11)
    second, first = uploads.add_part(upload.id, b" world"), uploads.add_part(upload.id, b"hello")
    assert uploads.get(upload.id).bytes_uploaded == 11
    record = uploads.complete(upload.id, [first.id, second.id], md5=hashlib.md5(b"hello world").hexdigest())
    assert files.content(record.id) == b"hello world"
    assert record.content_type == "text/markdown"
    finished = uploads.get(upload.id)
    assert (finished.status, finished.file_id, finished.part_ids) == ("completed", record.id, (first.id, second.id))
    with pytest.raises(ConflictError, match="is completed"):
        uploads.add_part(upload.id, b"more")
    kept = store.db.query(store.user_id, "select count(*) from file_parts").rows
    assert kept == [(1,)]


def test_an_upload_that_does_not_add_up_stays_open_and_a_cancelled_one_keeps_nothing(store: Store) -> None:
    uploads = Uploads(store)
    upload = uploads.create("a.txt", 10)
    part = uploads.add_part(upload.id, b"hello")
    with pytest.raises(UsageError, match="The parts have 5 bytes; 10 were announced"):
        uploads.complete(upload.id, [part.id])
    with pytest.raises(NotFoundError, match="has no part"):
        uploads.complete(upload.id, [part.id, "part_other"])
    with pytest.raises(UsageError, match="A part is given twice"):
        uploads.complete(upload.id, [part.id, part.id])
    rest = uploads.add_part(upload.id, b"world")
    with pytest.raises(UsageError, match="MD5"):
        uploads.complete(upload.id, [part.id, rest.id], md5="0" * 32)
    assert uploads.cancel(upload.id).status == "cancelled"
    assert Files(store).list() == []
    assert store.db.query(store.user_id, "select count(*) from file_parts").rows == [(0,)]
