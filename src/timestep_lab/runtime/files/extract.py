"""Extracts the text of a file: text formats as they are, the visible text of HTML, and the text of PDF and Word files."""

from __future__ import annotations

import io
import time
import zipfile
import zlib
from html.parser import HTMLParser
from xml.parsers import expat

from timestep_lab.model.errors import DataError, MissingExtraError
from timestep_lab.runtime.files.files import DOCX, TEXT_TYPES, decode_text
from timestep_lab.runtime.worker import apart

MAX_XML = 50 * 2**20
"""Bytes of an unpacked Word document; a larger one is treated as a decompression bomb."""
MAX_S = 30.0
PIECE = 16 * 1024
PDF, HTML = "application/pdf", "text/html"
SMALL_HTML = 64 * 1024
"""Bytes below which starting a process would take longer than parsing in this one."""
_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def text_of(content: bytes, content_type: str, filename: str) -> str:
    """Returns the text of a file. Formats other than plain text are parsed in a separate process (`runtime.worker`).

    Raises `DataError` for a file without text, `TooLargeError` for one that needs too much memory or time, and `MissingExtraError` for a
    PDF without pypdf.
    """
    is_text = content_type in TEXT_TYPES and (content_type != HTML or len(content) < SMALL_HTML)
    if is_text or content_type not in (HTML, PDF, DOCX):
        return read_text(content, content_type, filename)
    text: str = apart(f"{__name__}:{read_text.__name__}", content, content_type, filename, time_limit_s=2 * MAX_S)
    return text


def read_text(content: bytes, content_type: str, filename: str) -> str:
    """Does the work of `text_of` in this process."""
    if content_type == HTML:
        return _html(_decoded(content, filename))
    if content_type in TEXT_TYPES:
        return _decoded(content, filename)
    if content_type == PDF:
        text = _pdf(content, filename)
    elif content_type == DOCX:
        text = _docx(content, filename)
    else:
        raise DataError(
            f"{filename} is {content_type}, which has no searchable text.", "Use text, HTML, PDF or Word (.docx)."
        )
    if not text.strip():
        raise DataError(f"{filename} has no text; it may be a scan.", "Run OCR on it first.")
    return text


def _decoded(content: bytes, filename: str) -> str:
    text = decode_text(content)
    if text is None:
        raise DataError(f"{filename} is not UTF-8 text.", "Save it as UTF-8.")
    return text


def _pdf(content: bytes, filename: str) -> str:
    try:
        import pypdf
        from pypdf.errors import PyPdfError
    except ModuleNotFoundError:
        raise MissingExtraError("Reading PDF", "files") from None
    try:
        took, pages = _Clock(filename), []
        for page in pypdf.PdfReader(io.BytesIO(content)).pages:
            took.check()
            pages.append(page.extract_text())
    # A broken PDF can make pypdf raise any exception, not only its own.
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise DataError(f"{filename} cannot be read as a PDF ({error}).", "Open it and save it again.") from error
    return "\n\n".join(pages)


def _docx(content: bytes, filename: str) -> str:
    """Parses in pieces and keeps only the text: there is no element tree, and other threads can run between pieces."""
    reader = _Paragraphs()
    parser = expat.ParserCreate(namespace_separator="}")
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.CharacterDataHandler = reader.text
    took = _Clock(filename)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open("word/document.xml") as member:
            unpacked = 0
            while piece := member.read(PIECE):
                unpacked += len(piece)
                if unpacked > MAX_XML:
                    raise DataError(
                        f"{filename} unpacks to more than {MAX_XML // 2**20} MB.", "Save a smaller document."
                    )
                took.check()
                parser.Parse(piece, False)
            parser.Parse(b"", True)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        KeyError,
        expat.ExpatError,
    ) as error:
        raise DataError(
            f"{filename} cannot be read as a Word document ({error}).", "Save it again as .docx."
        ) from error
    return "\n\n".join(reader.paragraphs)


class _Paragraphs:
    """Handlers of the XML parser. A paragraph inside another one (a text box) comes before it."""

    def __init__(self) -> None:
        self.paragraphs: list[str] = []
        self._open: list[list[str]] = []
        self._in_text = False

    def start(self, name: str, attributes: object) -> None:
        if name == f"{_W}}}p":
            self._open.append([])
        self._in_text = name == f"{_W}}}t"

    def end(self, name: str) -> None:
        self._in_text = False
        if name == f"{_W}}}p" and (text := "".join(self._open.pop())):
            self.paragraphs.append(text)

    def text(self, data: str) -> None:
        if self._in_text and self._open:
            self._open[-1].append(data)


class _Clock:
    """Stops parsing a file that takes too long."""

    def __init__(self, filename: str) -> None:
        self._filename, self._until = filename, time.monotonic() + MAX_S

    def check(self) -> None:
        if time.monotonic() > self._until:
            raise DataError(
                f"Reading {self._filename} exceeded the time limit of {MAX_S:g} s.", "Split it into smaller parts."
            )


def _html(markup: str) -> str:
    reader = _Visible()
    reader.feed(markup)
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.pieces).splitlines())
    return "\n".join(line for line in lines if line)


class _Visible(HTMLParser):
    """Collects text as a browser shows it, one line per block."""

    HIDDEN = frozenset({"script", "style", "template", "noscript", "svg"})
    INLINE = frozenset(
        {"a", "abbr", "b", "code", "em", "i", "kbd", "mark", "q", "s", "small", "span", "strong", "sub", "sup", "u"}
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in self.HIDDEN
        if tag not in self.INLINE:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in self.HIDDEN and self._hidden > 0
        if tag not in self.INLINE:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.pieces.append(data.replace("\n", " "))
