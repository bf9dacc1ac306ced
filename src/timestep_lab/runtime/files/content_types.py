"""What a file is, by its first bytes. A name's ending is believed only to tell one text form from another.

Signatures: https://www.iana.org/assignments/media-types and https://mimesniff.spec.whatwg.org
"""

from __future__ import annotations

import codecs
import io
import zipfile

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (0, b"BM", "image/bmp"),
    (0, b"II*\x00", "image/tiff"),
    (0, b"MM\x00*", "image/tiff"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"PK\x03\x04", "application/zip"),
    (0, b"\x1f\x8b", "application/gzip"),
    (0, b"PAR1", "application/vnd.apache.parquet"),
    (0, b"SQLite format 3\x00", "application/vnd.sqlite3"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),
    (0, b"\x7fELF", "application/x-executable"),
    (0, b"MZ", "application/x-msdownload"),
    (8, b"WAVE", "audio/wav"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"\xff\xfb", "audio/mpeg"),
    (0, b"OggS", "audio/ogg"),
    (0, b"fLaC", "audio/flac"),
    (4, b"ftyp", "video/mp4"),
    (0, b"\x1aE\xdf\xa3", "video/webm"),
)
_IN_RIFF = ("image/webp", "audio/wav")
_OFFICE = {
    "word/document.xml": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xl/workbook.xml": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "ppt/presentation.xml": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
}
_TEXT_ENDINGS = {
    "md": "text/markdown", "markdown": "text/markdown", "csv": "text/csv", "tsv": "text/tab-separated-values",
    "htm": "text/html", "html": "text/html", "css": "text/css", "xml": "application/xml", "svg": "image/svg+xml",
    "json": "application/json", "jsonl": "application/x-ndjson", "ndjson": "application/x-ndjson",
    "ipynb": "application/x-ipynb+json", "yaml": "application/yaml", "yml": "application/yaml", "toml": "application/toml",
    "py": "text/x-python", "js": "text/javascript", "ts": "text/x-typescript", "sql": "application/sql", "tex": "text/x-tex",
    "rst": "text/x-rst", "sh": "text/x-shellscript",
}  # fmt: skip
TEXT_TYPES = frozenset({"text/plain", *_TEXT_ENDINGS.values()})
DOCX = _OFFICE["word/document.xml"]


def content_type_of(content: bytes, filename: str) -> str:
    """A media type without parameters; `application/octet-stream` for what is neither known nor text."""
    for offset, signature, found in _SIGNATURES:
        if content[offset : offset + len(signature)] == signature and (
            found not in _IN_RIFF or content.startswith(b"RIFF")
        ):
            return _zip_type(content) if found == "application/zip" else found
    if decode_text(content) is None:
        return "application/octet-stream"
    ending = filename.rpartition(".")[2].casefold()
    return _TEXT_ENDINGS.get(ending, "text/plain")


def decode_text(content: bytes) -> str | None:
    """The text, when the bytes are text in UTF-8, or in UTF-16 with a byte order mark; else None."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in content:
        return None
    else:
        encoding = "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return None


def _zip_type(content: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return "application/zip"
    return next((kind for member, kind in _OFFICE.items() if member in names), "application/zip")
