"""Vector stores: found by meaning, found by words, filtered, and each user's own. The offline model does the embedding."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from timestep_lab.model.clock import utc_now
from timestep_lab.model.errors import (
    DataError,
    MissingKeyError,
    ModelNotFoundError,
    NotFoundError,
    SettingsError,
    StoreError,
    UnknownPrefixError,
    UsageError,
)
from timestep_lab.model.ids import new_uuid
from timestep_lab.runtime.files.embeddings import OFFLINE_MODEL, embed, terms_of
from timestep_lab.runtime.files.vector_stores import VectorStores, matches
from timestep_lab.runtime.settings import Settings
from timestep_lab.store.base import Statement
from timestep_lab.store.store import Store

TEXTS = {
    "animals.md": "The kitten slept on the sofa and purred. Our dog barked at the mailman.",
    "cars.md": "The engine of the automobile needs oil. Check the tyres before a long drive. Part number QX-7741.",
    "money.md": "Interest rates rose, and the central bank warned of inflation.",
}


@pytest.fixture
def library(tmp_path: Path) -> list[Path]:
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return [tmp_path / name for name in TEXTS]


async def test_a_passage_is_found_by_its_meaning_without_a_shared_word(store: Store, library: list[Path]) -> None:
    papers = await VectorStores(store).create("papers", files=library)
    for query, expected in [
        ("pets such as cats", "animals.md"),
        ("vehicle repair", "cars.md"),
        ("economy", "money.md"),
    ]:
        hits = await papers.search(query, k=2)
        assert [hits[0].filename, len(hits)] == [expected, 2]
        assert 1 >= hits[0].score > hits[1].score >= 0


async def test_a_rare_word_is_found_though_it_means_nothing(store: Store, library: list[Path]) -> None:
    papers = await VectorStores(store).create("papers", files=library)
    [hit] = await papers.search("the QX-7741", k=1)
    assert hit.filename == "cars.md"
    assert hit.keyword_score > 0.5
    assert hit.score == pytest.approx(0.7 * hit.vector_score + 0.3 * hit.keyword_score)


async def test_the_two_scores_are_true_cosine_and_word_share(store: Store, library: list[Path]) -> None:
    papers = await VectorStores(store).create("papers", files=library[:1])
    text = TEXTS["animals.md"]
    [hit] = await papers.search(text, k=1)
    assert (hit.text, hit.position) == (text, 0)
    assert hit.vector_score == pytest.approx(1, abs=1e-4)
    assert hit.keyword_score == pytest.approx(1, abs=1e-6)
    [other] = await papers.search("zzzz qqqq", k=1)
    query, passage = await embed(Settings(), OFFLINE_MODEL, ["zzzz qqqq", text])
    assert other.vector_score == pytest.approx(
        max(0, sum(a * b for a, b in zip(query, passage, strict=True))), abs=1e-4
    )
    assert other.keyword_score == 0


async def test_a_search_by_words_alone_finds_nothing_where_no_word_is(store: Store, library: list[Path]) -> None:
    stores = VectorStores(store)
    papers = await stores.create("papers", files=library[:1])
    [hit] = await stores.search(papers.id, "pets such as felines", vector_weight=0)
    assert (hit.score, hit.vector_score > 0.05) == (0, True)
    [hit] = await stores.search(papers.id, "pets such as felines")
    assert hit.score == hit.vector_score


async def test_a_model_that_changed_its_vectors_is_told_rather_than_compared(store: Store, library: list[Path]) -> None:
    papers = await VectorStores(store).create("papers", files=library[:1])
    store.db.write(store.user_id, [Statement("update chunks set embedding = $1::real[]", [[1.0, 2.0]])])
    with pytest.raises(
        StoreError, match=r"vectors have 2 dimensions, but the model now returns 256.*Create the vector store again"
    ):
        await papers.search("kitten")


async def test_a_passage_without_a_direction_is_found_by_its_words_only(store: Store, library: list[Path]) -> None:
    papers = await VectorStores(store).create("papers", files=library[:2])
    store.db.write(store.user_id, [Statement("update chunks set embedding = $1::real[]", [[0.0] * 256])])
    hits = await papers.search("kitten")
    assert [(hit.filename, hit.vector_score) for hit in hits] == [("animals.md", 0), ("cars.md", 0)]


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
def test_postgres_without_pgvector_compares_the_same(store: Store) -> None:
    query = "select core.cosine($1::real[], $2::real[]), core.plain_cosine($1::real[], $2::real[])"
    for a, b in [([1.0, 2.0, 3.0], [3.0, -1.0, 0.5]), ([1.0, 0.0], [0.0, 1.0]), ([0.3, 0.4], [0.6, 0.8])]:
        [by_pgvector, plain] = store.db.query(store.user_id, query, [a, b]).rows[0]
        assert by_pgvector == pytest.approx(plain, abs=1e-6)
    assert store.db.query(store.user_id, "select count(*) from pg_extension where extname = 'vector'").rows == [(1,)]


def test_searching_by_meaning_leaves_the_programs_logging_as_it_was() -> None:
    code = (
        "import asyncio, logging, sys\n"
        "from timestep_lab.runtime.files.embeddings import embed\n"
        "from timestep_lab.runtime.settings import Settings\n"
        "asyncio.run(embed(Settings.load(env={}), 'local/wordllama', ['a']))\n"
        "print(logging.getLogger().handlers, logging.getLogger().level)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["[]", "30"]


async def test_filters_on_attributes_and_a_least_score_narrow_a_search(store: Store, library: list[Path]) -> None:
    stores = VectorStores(store)
    papers = await stores.create("papers")
    for year, path in enumerate(library, 2024):
        await papers.add(path, attributes={"year": year, "kind": "note"})
    newer = {
        "type": "and",
        "filters": [{"type": "gte", "key": "year", "value": 2025}, {"type": "eq", "key": "kind", "value": "note"}],
    }
    assert {hit.filename for hit in await papers.search("cats", filters=newer)} == {"cars.md", "money.md"}
    assert await papers.search("cats", min_score=0.99) == []
    assert await papers.search("cats", filters={"type": "in", "key": "year", "value": [1999]}) == []
    for value in (None, [1999], "1999"):  # Cannot be compared with a number.
        assert await papers.search("cats", filters={"type": "gt", "key": "year", "value": value}) == []
    with pytest.raises(SettingsError, match="is invalid"):
        await papers.search("cats", filters={"type": "like", "key": "year", "value": 1})


async def test_a_file_added_again_is_not_found_twice_and_a_removed_one_not_at_all(
    store: Store, library: list[Path]
) -> None:
    stores = VectorStores(store)
    papers = await stores.create("papers", files=library[:1])
    [member] = papers.files()
    assert (member.status, member.n_chunks, member.usage_bytes > 0) == ("completed", 1, True)
    await papers.add(member.file_id)
    assert len(await papers.search("kitten")) == 1
    stores.remove_file(papers.id, member.file_id)
    assert await papers.search("kitten") == []
    assert stores.files.content(member.file_id).decode() == TEXTS["animals.md"]
    await papers.add(member.file_id)
    stores.files.delete(member.file_id)
    assert papers.files() == []
    assert store.db.query(store.user_id, "select count(*) from chunks").rows == [(0,)]


async def test_a_file_that_cannot_be_read_is_kept_as_failed_with_the_reason(store: Store) -> None:
    stores = VectorStores(store)
    papers = await stores.create("papers")
    picture = stores.files.add_bytes("a.png", b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match="which has no searchable text"):
        await papers.add(picture)
    [member] = papers.files()
    assert member.status == "failed"
    assert member.last_error == {
        "code": "DataError",
        "message": "a.png is image/png, which has no searchable text.",
    }
    assert stores.counts(papers.id) == {"in_progress": 0, "completed": 0, "failed": 1, "cancelled": 0, "total": 1}


async def test_a_file_without_text_does_not_keep_the_others_out_of_a_store(duckdb_store: Store) -> None:
    stores = VectorStores(duckdb_store)
    given = {"a.png": b"\x89PNG\r\n\x1a\n", "b.txt": b"kitten", "c.bin": b"\0"}
    files = [stores.files.add_bytes(name, content) for name, content in given.items()]
    with pytest.raises(DataError, match=r"2 of 3 files were not added: a\.png is image/png.*c\.bin is neither"):
        await stores.create("papers", files)
    states = [(file.filename, file.status) for file in stores.get("papers").files()]
    assert states == [("a.png", "failed"), ("b.txt", "completed"), ("c.bin", "failed")]
    with pytest.raises(DataError, match=r"a\.png is image/png"):
        await stores.create("notes", files[:2])


async def test_a_file_that_is_added_twice_at_once_is_found_once(
    store: Store, library: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = VectorStores(store)
    papers = await stores.create("papers")
    file = stores.files.add(library[0])
    both = asyncio.Barrier(2)

    async def together(*given: Any) -> Any:
        await both.wait()
        return await embed(*given)

    monkeypatch.setattr("timestep_lab.runtime.files.vector_stores.embed", together)
    await asyncio.gather(papers.add(file), papers.add(file))
    monkeypatch.undo()
    assert [file.status for file in papers.files()] == ["completed"]
    assert len(await papers.search("kitten")) == 1


async def test_a_file_that_is_deleted_while_it_is_added_leaves_nothing(
    store: Store, library: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = VectorStores(store)
    papers = await stores.create("papers")
    file = stores.files.add(library[0])

    async def meanwhile(*given: Any) -> Any:
        stores.files.delete(file.id)
        return await embed(*given)

    monkeypatch.setattr("timestep_lab.runtime.files.vector_stores.embed", meanwhile)
    with pytest.raises(NotFoundError, match=r"animals\.md was removed from the vector store while it was being added"):
        await papers.add(file)
    assert papers.files() == []
    assert store.db.query(store.user_id, "select count(*) from chunks").rows == [(0,)]


async def test_an_expired_file_is_not_found(duckdb_store: Store) -> None:
    stores = VectorStores(duckdb_store)
    note = stores.files.add_bytes("note.txt", b"kitten", expires_at=utc_now() + timedelta(hours=1))
    papers = await stores.create("papers", files=[note])
    assert len(await papers.search("kitten")) == 1
    stores.files.table.update(note.id, expires_at=utc_now())
    assert await papers.search("kitten") == []
    assert papers.files() == []


def test_a_true_value_of_a_filter_is_not_the_number_one() -> None:
    for kind, given, expected in [
        ("eq", 1, False), ("eq", True, True), ("ne", 1, True), ("gte", 0, False), ("in", [1], False), ("nin", [1], True), ("in", [True], True),
    ]:  # fmt: skip
        assert matches({"type": kind, "key": "done", "value": given}, {"done": True}) is expected


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("我昨天去了东京。天气很好。", "东京"),
        ("ラーメンを食べました。", "ラーメン屋"),
        ("ผมกินข้าวผัดที่ร้าน", "ข้าวผัด"),
        ("मुझे किताबें पसंद हैं", "किताबें"),
        ("나는 어제 서울에 갔다", "서울"),
    ],
)
async def test_words_are_found_in_every_script(duckdb_store: Store, text: str, query: str) -> None:
    stores = VectorStores(duckdb_store)
    others = [
        stores.files.add_bytes(f"{n}.txt", other.encode()) for n, other in enumerate(("别的话", "ผมไม่ทราบ", "मैं कहाँ"))
    ]
    papers = await stores.create("papers", files=[*others, stores.files.add_bytes("it.txt", text.encode())])
    found = [hit.filename for hit in await papers.search(query) if hit.keyword_score > 0.5]
    assert found == ["it.txt"]


def test_a_name_with_digits_is_searched_for_however_long_the_question_is() -> None:
    question = " ".join(f"considerably{chr(97 + n)}" for n in range(20)) + " X5?"
    assert " x5" in terms_of(question)


async def test_stores_are_found_by_name_deleted_whole_and_nobody_elses(store: Store, library: list[Path]) -> None:
    stores = VectorStores(store)
    papers = await stores.create("papers", files=library[:1])
    assert stores.get("papers").id == stores.get(papers.id).id == papers.id
    others = VectorStores(store.for_user(new_uuid()))
    assert others.list() == []
    for refused in (others.get, others.delete, others.store_files):
        with pytest.raises(NotFoundError):
            refused(papers.id)
    with pytest.raises(NotFoundError):
        await others.search(papers.id, "kitten")
    with pytest.raises(NotFoundError):
        await others.add_file((await others.create("mine")).id, papers.files()[0].file_id)
    await stores.create("papers")
    with pytest.raises(UsageError, match="2 vector stores have the name 'papers'"):
        stores.get("papers")
    papers.delete()
    assert store.db.query(store.user_id, "select count(*) from chunks").rows == [(0,)]
    assert len(stores.files.list()) == 1


async def test_a_store_not_used_for_its_days_has_expired(duckdb_store: Store, library: list[Path]) -> None:
    stores = VectorStores(duckdb_store)
    papers = await stores.create("papers", files=library[:1], expires_after_days=1)
    assert len(await papers.search("kitten")) == 1
    old = papers.record.last_active_at.replace(year=2020)
    stores.table.update(papers.id, last_active_at=old)
    with pytest.raises(NotFoundError, match="expired after 1 days without use"):
        await papers.search("kitten")


async def test_a_store_lives_for_days_that_a_calendar_has(duckdb_store: Store) -> None:
    stores = VectorStores(duckdb_store)
    for days in (0, 36_501, 10**12):
        with pytest.raises(UsageError, match="Use 1 to 36500"):
            await stores.create("papers", expires_after_days=days)


async def test_adding_does_not_hold_up_the_event_loop(duckdb_store: Store) -> None:
    stores = VectorStores(duckdb_store)
    papers = await stores.create("papers")
    await papers.search("load the model first")
    book = stores.files.add_bytes("book.txt", " ".join(f"Word {n} of a long book." for n in range(20_000)).encode())
    adding = asyncio.create_task(papers.add(book))
    longest = 0.0
    while not adding.done():
        started = asyncio.get_running_loop().time()
        await asyncio.sleep(0.005)
        longest = max(longest, asyncio.get_running_loop().time() - started)
    assert (await adding).n_chunks > 300
    assert longest < 1.0


# -- embeddings by a server, in its wire form


@pytest.fixture
def embedding_server() -> Iterator[str]:
    """OpenAI's `/v1/embeddings` and Ollama's `/api/embed`: a vector of the text's length, its vowels and 1."""

    def vector(text: str) -> list[float]:
        return [float(len(text)), float(sum(letter in "aeiou" for letter in text)), 1.0]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            vectors = [vector(text) for text in asked["input"]]
            answer: Any = {"model": asked["model"], "embeddings": vectors}
            if self.path == "/v1/embeddings":
                data = [{"object": "embedding", "index": n, "embedding": v} for n, v in enumerate(vectors)]
                usage = {"prompt_tokens": 1, "total_tokens": 1}
                answer = {"object": "list", "data": data[::-1], "model": asked["model"], "usage": usage}
            if asked["model"] == "missing":
                answer = {
                    "error": {"message": "no such model", "type": "invalid_request_error", "param": None, "code": None}
                }
            body = json.dumps(answer).encode()
            self.send_response(404 if asked["model"] == "missing" else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("model", ["openai/emb", "emb", "openai_compatible/mine/emb", "ollama/emb"])
async def test_a_server_embeds_in_batches_and_in_order(embedding_server: str, model: str) -> None:
    settings = Settings(
        openai_base_url=embedding_server, openai_compatible={"mine": embedding_server}, ollama_host=embedding_server
    )
    texts = ["a" * n for n in range(1, 301)]
    vectors = await embed(settings, model, texts)
    assert vectors == [[float(n), float(n), 1.0] for n in range(1, 301)]


async def test_a_store_embeds_with_the_model_it_was_made_with(duckdb_store: Store, embedding_server: str) -> None:
    settings = Settings(openai_base_url=embedding_server, default_embedding_model="openai/emb")
    stores = VectorStores(duckdb_store, settings)
    notes = stores.files.add_bytes("notes.txt", b"hello")
    store = await stores.create("notes", files=[notes])
    assert store.record.embedding_model == "openai/emb"
    [hit] = await VectorStores(duckdb_store, Settings(openai_base_url=embedding_server)).search(store.id, "hullo")
    assert hit.vector_score == pytest.approx(1)


async def test_what_cannot_embed_is_told_with_a_way_on(embedding_server: str, duckdb_store: Store) -> None:
    with pytest.raises(MissingKeyError, match="Set OPENAI_API_KEY, or use local/wordllama"):
        await VectorStores(duckdb_store).create("papers", embedding_model="openai/text-embedding-3-small")
    assert VectorStores(duckdb_store).list() == []
    with pytest.raises(UsageError, match="An empty text cannot be embedded"):
        await embed(Settings(), OFFLINE_MODEL, ["a", ""])
    with pytest.raises(UnknownPrefixError, match="Known: local, openai, openai_compatible, ollama"):
        await embed(Settings(), "anthropic/x", ["a"])
    with pytest.raises(SettingsError, match="Use local/wordllama"):
        await embed(Settings(), "local/other", ["a"])
    with pytest.raises(SettingsError, match="OPENAI_COMPATIBLE has no server 'x'"):
        await embed(Settings(), "openai_compatible/x/y", ["a"])
    with pytest.raises(ModelNotFoundError, match="ollama pull missing"):
        await embed(Settings(ollama_host=embedding_server), "ollama/missing", ["a"])
