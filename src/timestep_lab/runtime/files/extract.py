"""Extracts the text of a file as a reader sees it: text formats as they are, the text of office documents, PDFs, e-books, e-mails, notebooks
and HTML.
"""

from __future__ import annotations

import io
import json
import posixpath
import re
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote
from xml.parsers import expat

from timestep_lab.model.codec import Json, list_of, object_of, objects_of
from timestep_lab.model.errors import DataError, LabError, MissingExtraError
from timestep_lab.runtime.files import files as kinds
from timestep_lab.runtime.files.files import TEXT_TYPES, decode_text
from timestep_lab.store.table import clean
from timestep_lab.store.worker import apart

MAX_XML = 50 * 2**20
"""Bytes of an unpacked document; a larger one is treated as a decompression bomb."""
MAX_S = 30.0
PIECE = 16 * 1024
PDF, HTML = "application/pdf", "text/html"
SMALL = 64 * 1024
"""Bytes below which starting a process would take longer than parsing a text format in this one."""
READABLE = frozenset(
    {*TEXT_TYPES, PDF, kinds.DOCX, kinds.XLSX, kinds.PPTX, *kinds.ODF, kinds.EPUB, kinds.RTF, kinds.EML}
)
"""Types whose text can be extracted."""
MARKED_UP = frozenset({HTML, kinds.EML, kinds.IPYNB, kinds.RTF})
"""Types of text whose bytes are not what a reader sees."""


def text_of(content: bytes, content_type: str, filename: str) -> str:
    """Returns the text of a file. Formats other than plain text are parsed in a separate process (`store.worker`).

    Raises `DataError` for a file without text, `TooLargeError` for one that needs too much memory or time, and `MissingExtraError` for a
    PDF, a workbook or an RTF file without the package that reads it.
    """
    plain = content_type in TEXT_TYPES and content_type not in MARKED_UP
    if plain or content_type not in READABLE or (content_type in MARKED_UP and len(content) < SMALL):
        return read_text(content, content_type, filename)
    text: str = apart(f"{__name__}:{read_text.__name__}", content, content_type, filename, time_limit_s=2 * MAX_S)
    return text


def read_text(content: bytes, content_type: str, filename: str) -> str:
    """Does the work of `text_of` in this process."""
    if content_type not in READABLE:
        raise _no_text(content_type, filename)
    if content_type in TEXT_TYPES:
        decoded = decode_text(content)
        if decoded is None:
            raise DataError(f"{filename} is not UTF-8 text.", "Save it as UTF-8.")
        reader = _OF_TEXT.get(content_type)
        return clean(reader(decoded) if reader else decoded)
    text = clean(_READERS[content_type](content, filename))
    if not text.strip():
        scan = "; it may be a scan" if content_type == PDF else ""
        raise DataError(f"{filename} has no text{scan}.", "Run OCR on it first." if scan else "Check its content.")
    return text


def _no_text(content_type: str, filename: str) -> DataError:
    if content_type == kinds.UNKNOWN:
        return DataError(
            f"{filename} is neither of a known type nor text in UTF-8, so it has no searchable text.",
            "If it is text, save it as UTF-8.",
        )
    if content_type == kinds.OLE:
        return DataError(
            f"{filename} is an Office document in the old binary format or with a password, which has no searchable text.",
            "Save it as .docx, .xlsx or .pptx, without a password.",
        )
    return DataError(
        f"{filename} is {content_type}, which has no searchable text.",
        "Use text, HTML, PDF, RTF, e-mail (.eml), a notebook, an e-book (.epub), or a document of Office or LibreOffice.",
    )


class _Clock:
    """Stops parsing a file that takes too long."""

    def __init__(self, filename: str) -> None:
        self._filename, self._until = filename, time.monotonic() + MAX_S

    def check(self) -> None:
        if time.monotonic() > self._until:
            raise DataError(
                f"Reading {self._filename} exceeded the time limit of {MAX_S:g} s.", "Split it into smaller parts."
            )


# -- PDF


def _pdf(content: bytes, filename: str) -> str:
    try:
        import pypdf
        from pypdf.errors import FileNotDecryptedError
    except ModuleNotFoundError:
        raise MissingExtraError("Reading PDF", "files") from None
    try:
        took, pages = _Clock(filename), []
        reader = pypdf.PdfReader(io.BytesIO(content))
        for page in reader.pages:
            took.check()
            pages.append(page.extract_text())
        values = "\n".join(_form_values(_at(reader.root_object, "/AcroForm") or {}))
    except FileNotDecryptedError as error:
        raise DataError(f"{filename} is protected by a password.", "Save a copy without the password.") from error
    except (LabError, MemoryError):
        raise
    except Exception as error:  # A broken PDF can make pypdf raise any exception, not only its own.
        raise DataError(f"{filename} cannot be read as a PDF ({error}).", "Open it and save it again.") from error
    return "\n\n".join([*pages, values] if values else pages)


def _form_values(holder: Any, key: str = "/Fields", path: str = "", kind: object = None) -> Iterator[str]:
    """The values of a filled-in form, which are not part of the text of its pages: of the fields that `holder` has as `key`."""
    for one in _at(holder, key) or ():
        field = one.get_object()
        name = ".".join(part for part in (path, _at(field, "/T")) if part)
        value, kind_of = _at(field, "/V"), _at(field, "/FT") or kind
        if isinstance(value, str) and value.strip() and value != "/Off":
            yield f"{name}: {value.removeprefix('/') if kind_of == '/Btn' else value}"
        elif value is None:
            yield from _form_values(field, "/Kids", name, kind_of)


def _at(holder: Any, key: str) -> Any:
    return holder[key] if key in holder else None  # noqa: SIM401 - `get` does not follow references.


# -- Documents in a zip archive


class _Archive:
    """The members of a document, read in pieces and up to a total size, so that no document takes more than its share of memory."""

    def __init__(self, content: bytes, filename: str) -> None:
        self._zip = zipfile.ZipFile(io.BytesIO(content))
        self._filename, self._took, self._left = filename, _Clock(filename), MAX_XML
        self.names = frozenset(self._zip.namelist())

    def pieces(self, name: str) -> Iterator[bytes]:
        with self._zip.open(name) as member:
            while piece := member.read(PIECE):
                self._left -= len(piece)
                if self._left < 0:
                    raise DataError(
                        f"{self._filename} unpacks to more than {MAX_XML // 2**20} MB.", "Save a smaller document."
                    )
                self._took.check()
                yield piece

    def blocks(self, name: str, dialect: _Dialect) -> list[str]:
        reader = _Blocks(dialect)
        self._parse(name, reader.start, reader.end, reader.text)
        return reader.blocks

    def elements(self, name: str) -> list[tuple[str, dict[str, str]]]:
        """The names and attributes of all elements of a member, without namespaces."""
        found: list[tuple[str, dict[str, str]]] = []

        def start(element: str, attributes: dict[str, str]) -> None:
            found.append((_local(element), {_local(key): value for key, value in attributes.items()}))

        self._parse(name, start)
        return found

    def targets(self, name: str, kind: str) -> dict[str, str]:
        """The members to which a member of an Office document refers as `kind`, by the id of the reference."""
        folder, _, last = name.rpartition("/")
        rels = posixpath.join(folder, "_rels", f"{last}.rels")
        if rels not in self.names:
            return {}
        return {
            one["Id"]: posixpath.normpath(posixpath.join("/", folder, one["Target"])).lstrip("/")
            for element, one in self.elements(rels)
            if element == "Relationship" and one.get("Type", "").endswith(f"/{kind}")
        }

    def _parse(
        self,
        name: str,
        start: Callable[[str, dict[str, str]], None],
        end: Callable[[str], None] | None = None,
        text: Callable[[str], None] | None = None,
    ) -> None:
        parser = expat.ParserCreate(namespace_separator="}")
        parser.buffer_text = True
        parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
        for piece in self.pieces(name):
            parser.Parse(piece, False)
        parser.Parse(b"", True)


def _local(name: str) -> str:
    return name.rpartition("}")[2]


@dataclass(frozen=True, slots=True)
class _Dialect:
    """The elements of a kind of XML document that make up its text."""

    namespaces: frozenset[str]
    paragraphs: frozenset[str]
    texts: frozenset[str] | None
    """Elements with text; None: all text in paragraphs counts."""
    table: str
    row: str
    cells: frozenset[str]
    signs: Mapping[str, str]
    """Elements that stand for characters."""
    skipped: frozenset[str]
    """Elements that are not shown: properties, deleted text, and the second form of a shape for older programs."""


_COMPATIBILITY = "http://schemas.openxmlformats.org/markup-compatibility/2006"
_WORD = _Dialect(
    frozenset({
        "http://schemas.openxmlformats.org/wordprocessingml/2006/main", "http://purl.oclc.org/ooxml/wordprocessingml/main",
        "http://schemas.openxmlformats.org/officeDocument/2006/math", _COMPATIBILITY,
    }),
    frozenset({"p"}), frozenset({"t"}), "tbl", "tr", frozenset({"tc"}),
    {"tab": "\t", "ptab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"},
    frozenset({"pPr", "rPr", "del", "moveFrom", "Fallback"}),
)  # fmt: skip
_SLIDE = _Dialect(
    frozenset({
        "http://schemas.openxmlformats.org/drawingml/2006/main", "http://purl.oclc.org/ooxml/drawingml/main", _COMPATIBILITY,
    }),
    frozenset({"p"}), frozenset({"t"}), "tbl", "tr", frozenset({"tc"}), {"br": "\n"}, frozenset({"pPr", "fld", "Fallback"}),
)  # fmt: skip
_OPEN = _Dialect(
    frozenset(f"urn:oasis:names:tc:opendocument:xmlns:{name}:1.0" for name in ("text", "table", "office")),
    frozenset({"p", "h"}), None, "table", "table-row", frozenset({"table-cell", "covered-table-cell"}),
    {"tab": "\t", "line-break": "\n", "s": " "}, frozenset({"tracked-changes", "note-citation", "annotation"}),
)  # fmt: skip
_REPEATED = "urn:oasis:names:tc:opendocument:xmlns:table:1.0}number-columns-repeated"
_SPACES = "urn:oasis:names:tc:opendocument:xmlns:text:1.0}c"
_MOST_REPEATED = 100


class _Blocks:
    """Handlers of the XML parser: collect paragraphs, and tables with a line per row and a tab between cells. There is no element tree.

    A paragraph inside another one (a text box, a footnote) comes before it.
    """

    def __init__(self, dialect: _Dialect) -> None:
        self._dialect = dialect
        self.blocks: list[str] = []
        self._open: list[list[str]] = []
        self._places = [self.blocks]
        """Where a finished block goes: the document or the innermost cell."""
        self._rows: list[list[str]] = []
        self._cells: list[list[str]] = []
        self._repeated: list[int] = []
        self._skipping = 0
        self._in_text = dialect.texts is None

    def start(self, name: str, attributes: dict[str, str]) -> None:
        namespace, _, local = name.rpartition("}")
        known = self._dialect
        if self._skipping or (namespace in known.namespaces and local in known.skipped):
            self._skipping += 1
            return
        self._in_text = known.texts is None
        if namespace not in known.namespaces:
            return
        if local in known.paragraphs:
            self._open.append([])
        elif local == known.table:
            self._rows.append([])
        elif local == known.row:
            self._cells.append([])
        elif local in known.cells:
            self._places.append([])
            self._repeated.append(min(_number(attributes.get(_REPEATED)), _MOST_REPEATED))
        elif local in known.signs and self._open:
            self._open[-1].append(known.signs[local] * min(_number(attributes.get(_SPACES)), _MOST_REPEATED))
        elif known.texts is not None:
            self._in_text = local in known.texts

    def end(self, name: str) -> None:
        if self._skipping:
            self._skipping -= 1
            return
        namespace, _, local = name.rpartition("}")
        known = self._dialect
        self._in_text = known.texts is None
        if namespace not in known.namespaces:
            return
        if local in known.paragraphs:
            if (text := "".join(self._open.pop()).rstrip()).strip():
                self._places[-1].append(text)
        elif local in known.cells:
            text = " ".join(" ".join(self._places.pop()).split("\n"))
            repeated = self._repeated.pop() if text else 1
            (self._cells[-1] if self._cells else self._places[-1]).extend([text] * repeated)
        elif local == known.row:
            row = "\t".join(self._cells.pop()).rstrip()
            if row:
                (self._rows[-1] if self._rows else self._places[-1]).append(row)
        elif local == known.table and (rows := self._rows.pop()):
            self._places[-1].append("\n".join(rows))

    def text(self, data: str) -> None:
        if self._in_text and self._open and not self._skipping:
            self._open[-1].append(data)


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else 1


def _docx(archive: _Archive) -> str:
    parts = sorted(name for name in archive.names if re.fullmatch(r"word/document\d*\.xml", name))[:1]
    notes = [name for name in ("word/footnotes.xml", "word/endnotes.xml") if name in archive.names]
    return "\n\n".join(block for name in (*parts, *notes) for block in archive.blocks(name, _WORD))


def _pptx(archive: _Archive) -> str:
    """The slides in the order in which they are shown, each with its notes."""
    deck = "ppt/presentation.xml"
    slides = archive.targets(deck, "slide")
    shown = [slides[one["id"]] for name, one in archive.elements(deck) if name == "sldId" and one.get("id") in slides]
    parts = [part for slide in shown for part in (slide, *archive.targets(slide, "notesSlide").values())]
    return "\n\n".join(block for part in parts for block in archive.blocks(part, _SLIDE))


def _open_document(archive: _Archive) -> str:
    return "\n\n".join(archive.blocks("content.xml", _OPEN))


def _epub(archive: _Archive) -> str:
    """The chapters in reading order."""
    [package, *_] = [one["full-path"] for name, one in archive.elements("META-INF/container.xml") if name == "rootfile"]
    elements = archive.elements(package)
    files = {
        one["id"]: posixpath.normpath(posixpath.join(posixpath.dirname(package), unquote(one["href"])))
        for name, one in elements
        if name == "item"
    }
    chapters = [files[one["idref"]] for name, one in elements if name == "itemref"]
    texts = (decode_text(b"".join(archive.pieces(chapter))) for chapter in chapters)
    return "\n\n".join(_html(text) for text in texts if text)


_BROKEN = (
    zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, KeyError, ValueError, expat.ExpatError,
)  # fmt: skip


def _zipped(kind: str, read: Callable[[_Archive], str]) -> Callable[[bytes, str], str]:
    def reader(content: bytes, filename: str) -> str:
        try:
            return read(_Archive(content, filename))
        except _BROKEN as error:
            raise DataError(f"{filename} cannot be read as {kind} ({error}).", "Open it and save it again.") from error

    return reader


def _xlsx(content: bytes, filename: str) -> str:
    """Each sheet as its name and a line per row; a formula that was never computed is shown itself."""
    try:
        import openpyxl  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise MissingExtraError("Reading Excel workbooks", "files") from None
    took, blocks = _Clock(filename), []
    try:
        values, formulas = (
            openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=only) for only in (True, False)
        )
        for sheet, written in zip(values.worksheets, formulas.worksheets, strict=True):
            lines = [sheet.title]
            for one in (sheet, written):
                one.reset_dimensions()  # Some programs write wrong ones.
            for row, formula in zip(
                sheet.iter_rows(values_only=True), written.iter_rows(values_only=True), strict=True
            ):
                took.check()
                line = "\t".join(_cell(a if a is not None else b) for a, b in zip(row, formula, strict=True)).rstrip()
                lines += [line] if line else []
            blocks.append("\n".join(lines))
    except (LabError, MemoryError):
        raise
    except Exception as error:  # As with PDF.
        raise DataError(
            f"{filename} cannot be read as an Excel workbook ({error}).", "Open it and save it again."
        ) from error
    return "\n\n".join(blocks)


def _cell(value: object) -> str:
    """Dates at midnight are days; line breaks would end the row."""
    return "" if value is None else " ".join(str(value).removesuffix(" 00:00:00").split())


# -- Text formats whose bytes are not what a reader sees


def _rtf(content: bytes, filename: str) -> str:
    try:
        from striprtf.striprtf import rtf_to_text
    except ModuleNotFoundError:
        raise MissingExtraError("Reading RTF files", "files") from None
    text: str = rtf_to_text(content.decode("latin-1"), errors="replace")  # type: ignore[no-untyped-call]
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # Characters outside the BMP come as two.


def _email(content: bytes, filename: str) -> str:
    """Sender, recipients, date, subject, the text, and the names of what is attached."""
    import email
    from email.policy import default

    message = email.message_from_bytes(content, policy=default)
    head = [f"{name}: {message[name]}" for name in ("From", "To", "Cc", "Date", "Subject") if message[name]]
    body = message.get_body(("plain", "html"))
    text = str(body.get_content()) if body is not None else ""
    if body is not None and body.get_content_type() == HTML:
        text = _html(text)
    attached = [f"Attachment: {part.get_filename()}" for part in message.iter_attachments() if part.get_filename()]
    return "\n\n".join(part for part in ("\n".join(head), text.strip(), "\n".join(attached)) if part)


def _notebook(source: str) -> str:
    """The cells with the text of their outputs; a notebook that is not valid JSON is shown as it is."""
    try:
        cells = objects_of(object_of(json.loads(source)).get("cells"))
    except ValueError:
        return source
    return "\n\n".join(text for cell in cells for text in _of_cell(cell) if text.strip())


def _of_cell(cell: Mapping[str, Json]) -> Iterator[str]:
    yield _joined(cell.get("source"))
    for output in objects_of(cell.get("outputs")):
        if output.get("output_type") == "error":
            yield f"{output.get('ename')}: {output.get('evalue')}"
        yield _joined(output.get("text") or object_of(output.get("data")).get("text/plain"))


def _joined(lines: Json) -> str:
    return lines if isinstance(lines, str) else "".join(str(line) for line in list_of(lines))


def _html(markup: str) -> str:
    reader = _Visible()
    reader.feed(markup)
    reader.close()
    reader.end_line()
    return "\n".join(reader.lines)


class _Visible(HTMLParser):
    """Collects text as a browser shows it, one line per block and per table row."""

    HIDDEN = frozenset({"script", "style", "template", "noscript", "svg"})
    AS_WRITTEN = frozenset({"pre", "textarea", "listing", "xmp"})
    BLOCKS = frozenset({
        "address", "article", "aside", "blockquote", "body", "br", "button", "caption", "center", "dd", "details", "dialog", "dir",
        "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "head", "header",
        "hgroup", "hr", "html", "legend", "li", "main", "menu", "nav", "ol", "optgroup", "option", "p", "search", "section",
        "select", "summary", "table", "tbody", "tfoot", "thead", "title", "tr", "ul", *AS_WRITTEN,
    })  # fmt: skip
    """As in the style sheet of the HTML standard, section 15.3; other elements are part of a line."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.lines: list[str] = []
        self._line: list[str] = []
        self._hidden = self._as_written = 0

    def end_line(self) -> None:
        line = "".join(self._line)
        self._line = []
        if not self._as_written:
            line = re.sub(r" *\t *", "\t", re.sub(r" {2,}", " ", line)).strip()
        if line.strip():
            self.lines.append(line.rstrip())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in self.HIDDEN
        self._around(tag)
        self._as_written += tag in self.AS_WRITTEN
        if tag in ("td", "th") and self._line:
            self._line.append("\t")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in self.HIDDEN and self._hidden > 0
        self._around(tag)
        self._as_written -= tag in self.AS_WRITTEN and self._as_written > 0

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        if not self._as_written:
            self._line.append(re.sub(r"[ \t\n\r\f]+", " ", data))
            return
        first, *rest = data.split("\n")
        self._line.append(first)
        for line in rest:
            self.end_line()
            self._line.append(line)

    def _around(self, tag: str) -> None:
        if tag in self.BLOCKS and not self._hidden:
            self.end_line()


_OF_TEXT: Mapping[str, Callable[[str], str]] = {HTML: _html, kinds.IPYNB: _notebook}
_READERS: Mapping[str, Callable[[bytes, str], str]] = {
    PDF: _pdf, kinds.XLSX: _xlsx, kinds.RTF: _rtf, kinds.EML: _email, kinds.DOCX: _zipped("a Word document", _docx), kinds.PPTX: _zipped("a presentation", _pptx),
    kinds.EPUB: _zipped("an e-book", _epub), **dict.fromkeys(kinds.ODF, _zipped("an OpenDocument file", _open_document)),
}  # fmt: skip
