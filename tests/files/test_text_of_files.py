"""The text in a file, and the passages it is cut into."""

from __future__ import annotations

import io
import threading
import time
import zipfile
from itertools import pairwise

import pytest

from timestep_lab.model.errors import DataError, SettingsError
from timestep_lab.runtime.files.extract import MAX_XML, text_of
from timestep_lab.runtime.files.files import DOCX
from timestep_lab.runtime.files.vector_stores import Chunking
from timestep_lab.store.duckdb.sql_guard import own_memory


def pdf(text: str) -> bytes:
    """A one-page PDF, written by hand."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
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


def docx(*paragraphs: str) -> bytes:
    body = "".join(f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>" for text in paragraphs)
    namespace = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("word/document.xml", f'<w:document xmlns:w="{namespace}"><w:body>{body}</w:body></w:document>')
    return content.getvalue()


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
    ],
)
def test_a_file_without_text_is_refused_with_what_to_do(content: bytes, content_type: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        text_of(content, content_type, "it")
    assert message in str(caught.value)
    assert caught.value.next_step


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
