"""The text in a file, and the passages it is cut into."""

from __future__ import annotations

import io
import json
import threading
import time
import zipfile
from datetime import date
from itertools import pairwise

import openpyxl  # type: ignore[import-untyped]
import pytest

from timestep_lab.model.errors import DataError, SettingsError
from timestep_lab.runtime.files.extract import MAX_XML, text_of
from timestep_lab.runtime.files.files import DOCX, IPYNB, OLE, content_type_of
from timestep_lab.runtime.files.vector_stores import Chunking
from timestep_lab.store.memory import own_memory


def pdf(text: str, form: str = "") -> bytes:
    """A one-page PDF, written by hand; `form`: the fields of its form."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [{form}] >> >>".encode(),
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    start = len(out)
    return (
        out
        + b"xref\n0 6\n0000000000 65535 f \n"
        + table
        + b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % start
    )


def zipped(**members: str) -> bytes:
    """An archive; `/` and `.` of the names are written as `__` and `_`."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "/").replace("_", ".").replace("/.", "/_"), text)
    return content.getvalue()


def docx(*paragraphs: str) -> bytes:
    return word("".join(f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>" for text in paragraphs))


WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def word(body: str, namespace: str = WORD, **more: str) -> bytes:
    other = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    parts = {
        name: f'<w:d xmlns:w="{namespace}" {other}>{text}</w:d>' for name, text in {"document": body, **more}.items()
    }
    return zipped(**{f"word__{name}_xml": text for name, text in parts.items()})


def paragraph(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def named(value: object) -> str | None:
    """Names for bytes, since those of an archive have the time in them, and every process has to collect the same tests."""
    return "content" if isinstance(value, bytes) else None


@pytest.mark.parametrize(
    ("content", "content_type", "text"),
    [
        ("﻿Grüße".encode(), "text/plain", "Grüße"),
        ("Grüße".encode("utf-16"), "text/plain", "Grüße"),
        (b'{"a": 1}', "application/json", '{"a": 1}'),
        (
            b"<head><title>T</title><style>p{}</style></head><p>One <b>bold</b>\n word &amp; more<p>Two<script>x()</script>",
            "text/html",
            "T\nOne bold word & more\nTwo",
        ),
        (pdf("Umbrellas in Oakland"), "application/pdf", "Umbrellas in Oakland"),
        (docx("First", "Second"), DOCX, "First\n\nSecond"),
    ],
    ids=named,
)
def test_the_text_is_what_a_reader_would_see(content: bytes, content_type: str, text: str) -> None:
    assert text_of(content, content_type, "it").strip() == text


@pytest.mark.parametrize(
    ("content", "content_type", "message"),
    [
        (b"\x89PNG\r\n\x1a\n", "image/png", "it is image/png, which has no searchable text. Use text"),
        (b"%PDF-1.7 broken", "application/pdf", "it cannot be read as a PDF"),
        (pdf(""), "application/pdf", "it has no text; it may be a scan"),
        (b"PK\x03\x04", DOCX, "it cannot be read as a Word document"),
        (b"caf\xe9", "text/plain", "it is not UTF-8 text"),
        (b"caf\xe9", "application/octet-stream", "neither of a known type nor text in UTF-8"),
        (b"\xd0\xcf\x11\xe0", OLE, "in the old binary format or with a password"),
        (docx("secret")[:60], DOCX, "it cannot be read as a Word document"),
    ],
    ids=named,
)
def test_a_file_without_text_is_refused_with_what_to_do(content: bytes, content_type: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        text_of(content, content_type, "it")
    assert message in str(caught.value)
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("<w:p><w:pPr><w:tabs><w:tab/></w:tabs></w:pPr><w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/><w:t>c</w:t></w:r></w:p>", "a\tb\nc"),
        (
            "<w:tbl><w:tr><w:tc>" + paragraph("Lamp") + "</w:tc><w:tc>" + paragraph("24.90") + paragraph("EUR")
            + "</w:tc></w:tr><w:tr><w:tc>" + paragraph("Desk") + "</w:tc></w:tr></w:tbl>" + paragraph("After"),
            "Lamp\t24.90 EUR\nDesk\n\nAfter",
        ),
        (
            "<w:p><w:r><mc:AlternateContent><mc:Choice>" + paragraph("box") + "</mc:Choice><mc:Fallback>" + paragraph("box")
            + "</mc:Fallback></mc:AlternateContent><w:t>beside</w:t></w:r></w:p>",
            "box\n\nbeside",
        ),
        (
            "<w:p><w:ins><w:r><w:t>new</w:t></w:r></w:ins><w:del><w:r><w:delText>old</w:delText></w:r></w:del>"
            "<w:moveFrom><w:r><w:t>moved</w:t></w:r></w:moveFrom></w:p>",
            "new",
        ),
    ],
)  # fmt: skip
def test_a_word_document_reads_as_it_is_shown_with_its_changes_accepted(body: str, text: str) -> None:
    assert text_of(word(body), DOCX, "it") == text
    assert text_of(word(body, "http://purl.oclc.org/ooxml/wordprocessingml/main"), DOCX, "strict") == text


def test_notes_of_a_word_document_are_part_of_its_text() -> None:
    assert text_of(word(paragraph("Text"), footnotes=paragraph("Note")), DOCX, "it") == "Text\n\nNote"


DRAWING = "http://schemas.openxmlformats.org/drawingml/2006/main"
RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def slide(text: str) -> str:
    return f'<s xmlns:a="{DRAWING}"><a:p><a:r><a:t>{text}</a:t></a:r></a:p></s>'


def relations(kind: str, *targets: str) -> str:
    found = (f'<Relationship Id="r{n}" Type="{RELATIONS}/{kind}" Target="{t}"/>' for n, t in enumerate(targets))
    return f"<Relationships>{''.join(found)}</Relationships>"


def test_slides_are_read_in_the_order_in_which_they_are_shown_with_their_notes() -> None:
    deck = zipped(
        ppt__presentation_xml=f'<p xmlns:r="{RELATIONS}"><sldId id="1" r:id="r1"/><sldId id="2" r:id="r0"/></p>',
        ppt___rels__presentation_xml_rels=relations("slide", "slides/slide1.xml", "/ppt/slides/slide2.xml"),
        ppt__slides__slide1_xml=slide("Second"),
        ppt__slides__slide2_xml=slide("First"),
        ppt__slides___rels__slide2_xml_rels=relations("notesSlide", "../notesSlides/notesSlide1.xml"),
        ppt__notesSlides__notesSlide1_xml=slide("Say hello"),
    )
    assert text_of(deck, content_type_of(deck, "a.pptx"), "it") == "First\n\nSay hello\n\nSecond"


def test_a_workbook_is_read_sheet_by_sheet_with_a_line_per_row() -> None:
    book = openpyxl.Workbook()
    book.active.title = "Prices"
    for row in (["Item", "Price"], ["Lamp", 24.9], [], ["Sum", "=SUM(B2:B2)"], ["On", date(2026, 1, 2)]):
        book.active.append(row)
    content = io.BytesIO()
    book.save(content)
    text = text_of(content.getvalue(), content_type_of(content.getvalue(), "a.xlsx"), "it")
    assert text == "Prices\nItem\tPrice\nLamp\t24.9\nSum\t=SUM(B2:B2)\nOn\t2026-01-02"


def test_an_open_document_is_read_without_deleted_text_and_with_its_spaces() -> None:
    names = " ".join(f'xmlns:{n}="urn:oasis:names:tc:opendocument:xmlns:{n}:1.0"' for n in ("text", "table", "office"))
    cells = (
        '<table:table-cell table:number-columns-repeated="2"><text:p>1</text:p></table:table-cell><table:table-cell/>'
    )
    document = zipped(
        mimetype="application/vnd.oasis.opendocument.text",
        content_xml=f"<d {names}><text:tracked-changes><text:p>gone</text:p></text:tracked-changes><text:h>Title</text:h>"
        f'<text:p>a<text:s text:c="2"/>b<text:tab/>c</text:p>'
        f"<table:table><table:table-row>{cells}</table:table-row></table:table></d>",
    )
    assert text_of(document, content_type_of(document, "a.odt"), "it") == "Title\n\na  b\tc\n\n1\t1"


def test_an_e_book_is_read_in_the_order_of_its_chapters() -> None:
    book = zipped(
        mimetype="application/epub+zip",
        **{"META-INF__container_xml": '<c><rootfile full-path="OPS/book.opf"/></c>'},
        OPS__book_opf='<p><item id="a" href="on%20e.html"/><item id="b" href="two.html"/><itemref idref="b"/><itemref idref="a"/></p>',
        **{"OPS__on e_html": "<p>One</p>"},
        OPS__two_html="<p>Two</p>",
    )
    assert text_of(book, content_type_of(book, "a.epub"), "it") == "Two\n\nOne"


@pytest.mark.parametrize(
    ("content", "name", "text"),
    [
        (
            rb"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 Arial;}}\f0 caf\'e9 {\b bold} \uc1\u8364? \u-10179?\u-8704?{\*\x hidden}\par end}",
            "a.rtf",
            "café bold € 😀\nend",
        ),
        (
            b"From: a@x.org\nSubject: =?utf-8?B?R3LDvMOfZQ==?=\nContent-Type: text/plain; charset=iso-8859-1\n"
            b"Content-Transfer-Encoding: 8bit\n\ncaf\xe9",
            "a.eml",
            "From: a@x.org\nSubject: Grüße\n\ncafé",
        ),
        (
            json.dumps({"cells": [
                {"cell_type": "markdown", "source": ["# Title\n", "text"]},
                {"cell_type": "code", "source": "plot()", "outputs": [
                    {"output_type": "display_data", "data": {"image/png": "iVBORw0", "text/plain": "<Figure>"}},
                    {"output_type": "error", "ename": "KeyError", "evalue": "'x'", "traceback": ["..."]},
                ]},
            ]}).encode(),
            "a.ipynb",
            "# Title\ntext\n\nplot()\n\n<Figure>\n\nKeyError: 'x'",
        ),
        ('<meta charset="iso-8859-1"><p>café</p>'.encode("latin-1"), "a.html", "café"),
        ('<?xml version="1.0" encoding="iso-8859-1"?><p>café</p>'.encode("latin-1"), "a.xml", '<?xml version="1.0" encoding="iso-8859-1"?><p>café</p>'),
        ("Grüße".encode("utf-32"), "a.txt", "Grüße"),
        (b"<p>H<font>ell</font>o w<wbr>orld</p><pre>if x:\n    y\n</pre><table><tr><td>Lamp</td>\n<td>24.90</td></tr></table>", "a.html",
         "Hello world\nif x:\n    y\nLamp\t24.90"),
        (pdf("Name:", "<< /FT /Tx /T (person) /Kids [<< /T (name) /V (Ada) >>] >> << /FT /Btn /T (agree) /V /Yes >> << /FT /Btn /T (no) /V /Off >>"),
         "a.pdf", "Name:\n\nperson.name: Ada\nagree: Yes"),
    ],
)  # fmt: skip
def test_marked_up_files_are_read_without_their_marks(content: bytes, name: str, text: str) -> None:
    assert text_of(content, content_type_of(content, name), name).replace("\n\n\n", "\n\n") == text


def test_what_no_database_keeps_is_replaced_in_the_text() -> None:
    assert text_of(json.dumps({"cells": [{"source": "a\0b \ud800 c"}]}).encode(), IPYNB, "it") == "a\ufffdb \ufffd c"


SENTENCES = " ".join(f"Sentence number {n} says something." for n in range(100))


def test_passages_end_where_sentences_end_overlap_and_lose_nothing() -> None:
    passages = Chunking(size=300, overlap=60).split(SENTENCES)
    assert all(len(passage) <= 300 for passage in passages)
    assert all(passage.endswith("something.") for passage in passages)
    for n in range(100):
        assert any(f"Sentence number {n} says something." in passage for passage in passages)
    for before, after in pairwise(passages):
        assert after.split(".")[0] in before


def test_paragraphs_are_kept_together_where_they_fit() -> None:
    text = "\n\n".join(["a " * 100, "b " * 100, "c " * 100])
    assert [passage[0] for passage in Chunking(size=300, overlap=0).split(text)] == ["a", "b", "c"]


def test_a_word_without_end_is_cut_and_space_gives_no_passage() -> None:
    assert [len(passage) for passage in Chunking(size=100, overlap=20).split("x" * 250)] == [100, 100, 90]
    assert Chunking().split(" \n ") == []


def test_sizes_may_be_given_in_tokens() -> None:
    strategy = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 20}}
    chunking = Chunking.from_strategy(strategy)
    assert chunking == Chunking(400, 80)
    assert chunking.as_strategy() == strategy
    assert Chunking.from_strategy({"type": "auto"}) == Chunking.from_strategy(None)
    for wrong in (
        {"type": "smart"},
        {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 80}},
    ):
        with pytest.raises(SettingsError):
            Chunking.from_strategy(wrong)


def test_a_word_document_that_unpacks_to_much_holds_up_no_other_thread_and_takes_no_memory() -> None:
    paragraphs = 3_000_000
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "word/document.xml",
            '<d xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">' + "<p/>" * paragraphs
            + "<w:p><w:r><w:t>The end</w:t></w:r></w:p></d>",
        )  # fmt: skip
    before, found = own_memory(), list[str]()
    reading = threading.Thread(target=lambda: found.append(text_of(content.getvalue(), DOCX, "big.docx")))
    reading.start()
    longest, most = 0.0, before
    while reading.is_alive():
        began = time.monotonic()
        time.sleep(0.01)
        longest, most = max(longest, time.monotonic() - began), max(most, own_memory())
    assert found == ["The end"]
    assert longest < 1.0
    assert most - before < 50 * 2**20


def test_a_word_document_that_unpacks_to_too_much_is_refused() -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", "<d>" + " " * (MAX_XML + 1) + "</d>")
    with pytest.raises(DataError, match="unpacks to more than 50 MB"):
        text_of(content.getvalue(), DOCX, "bomb.docx")
