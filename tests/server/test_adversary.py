"""What somebody sends to stop a lab: files that unpack to much, sizes that functions make, filters without end. Under each the server keeps
answering others and keeps its memory, and the attack is answered in words."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import itertools
import json
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import httpx
import psutil
import pytest

from tests.server.lab_process import LabProcess, start, stop
from tests.store.test_sql_guard import GROWING

MOST_MB = 600
SLOWEST_S = 3.0
"""A second user's request, on a machine that does other things too. Where nothing else runs it is 0.2 s."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabProcess]:
    lab = start(tmp_path_factory.mktemp("adversary") / "lab.duckdb", pages=False)
    yield lab
    stop(lab)


class Watch:
    """The server's memory, and how long a second user waits, while something goes on."""

    def __init__(self, served: LabProcess) -> None:
        self.process, self.client = psutil.Process(served.process.pid), served.anonymous()
        self.most_mb, self.slowest_s = 0.0, 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.client.close()

    def _look(self) -> None:
        while not self._done.wait(0.05):
            began = time.monotonic()
            assert self.client.get("/api/v1/threads").status_code == 200
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            self.most_mb = max(self.most_mb, self.process.memory_info().rss / 2**20)


def refused(served: LabProcess, attack: Callable[[httpx.Client], httpx.Response]) -> str:
    """What the attack is told."""
    with served.anonymous() as guest, Watch(served) as watch:
        guest.timeout = httpx.Timeout(120)
        answer = attack(guest)
    assert 400 <= answer.status_code < 500, answer.text[:500]
    assert watch.most_mb < MOST_MB
    assert watch.slowest_s < SLOWEST_S
    return str(answer.json()["error"]["message"])


class TestWhatUnpacksToMuch:
    def test_a_request_of_spans_that_is_a_thousand_times_larger_unpacked(self, served: LabProcess) -> None:
        packed = gzip.compress(b"[" + b"[]," * 45_000_000 + b"[]]", 6)
        assert len(packed) < 2**18
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        told = refused(served, lambda guest: guest.post("/v1/traces", content=packed, headers=headers))
        assert "exceeded the memory limit" in told

    def test_a_file_of_traces_that_is_gzip(self, served: LabProcess) -> None:
        packed = gzip.compress(b"[" + b"{}," * 30_000_000 + b"{}]", 6)
        told = refused(served, lambda guest: guest.post("/api/v1/traces/upload", content=packed))
        assert "exceeded the memory limit" in told
        assert "/" not in told.replace("1,024 MB", "")

    def test_a_parquet_file_of_millions_of_equal_rows(self, served: LabProcess, tmp_path: Path) -> None:
        path = tmp_path / "x.parquet"
        duckdb.sql(
            "copy (select 'a' as trace_id, 'b' as span_id, 'tool' as kind, 'ok' as status, timestamp '2026-11-01' as started_at "
            f"from range(3000000)) to '{path}' (format parquet)"
        )
        told = refused(served, lambda guest: guest.post("/api/v1/traces/upload", content=path.read_bytes()))
        assert "has 3,000,000 spans" in told

    def test_what_is_no_file_of_traces_is_refused_without_a_path_of_the_server(self, served: LabProcess) -> None:
        for content in (b"", b"PAR1" + b"x" * 100, b"{oops", b"[" * 100_000, b"\xff" * 1000):
            with served.anonymous() as guest:
                told = guest.post("/api/v1/traces/upload", content=content)
            assert told.status_code in (400, 413)
            assert "tmp" not in told.text
            assert "timestep-lab-" not in told.text

    @pytest.mark.parametrize("kind", ["docx", "html", "pdf"])
    def test_a_document_in_a_vector_store(self, served: LabProcess, kind: str) -> None:
        name, content = f"a.{kind}", DOCUMENTS[kind]()

        def search_in_it(guest: httpx.Client) -> httpx.Response:
            kept = guest.post(
                "/openai/v1/files", files={"file": (name, content)}, data={"purpose": "assistants"}
            ).json()
            store = guest.post("/openai/v1/vector_stores", json={"name": "x"}).json()["id"]
            guest.post(f"/openai/v1/vector_stores/{store}/files", json={"file_id": kept["id"]})
            deadline = time.monotonic() + 100
            while time.monotonic() < deadline:
                told = guest.get(f"/openai/v1/vector_stores/{store}/files/{kept['id']}").json()
                if told["status"] != "in_progress":
                    break
                time.sleep(0.2)
            error = told["last_error"] or {"message": told["status"]}
            return httpx.Response(400, json={"error": error})

        assert refused(served, search_in_it)


def _docx() -> bytes:
    unpacked = io.BytesIO()
    with zipfile.ZipFile(unpacked, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"<w:document>" + b"<w:p/>" * 9_000_000 + b"</w:document>")
        archive.writestr("[Content_Types].xml", b"<Types/>")
    return unpacked.getvalue()


def _html() -> bytes:
    return b"<html><body>" + b"<b>" * 3_000_000


def _pdf() -> bytes:
    """Pages that are each other's children."""
    kids = " ".join("2 0 R" for _ in range(1000))
    body = (
        f"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[{kids}]/Count 1000>>endobj\n"
    )
    return f"{body}trailer<</Root 1 0 R>>\n%%EOF".encode()


DOCUMENTS: dict[str, Callable[[], bytes]] = {"docx": _docx, "html": _html, "pdf": _pdf}

SIZES = [
    "range({n})", "generate_series({n})", "repeat('a', {n})", "lpad('a', {n}, 'b')", "rpad('a', {n}, 'b')",
    "list_resize([1], {n}, 0)", "array_resize([1], {n}, 0)", "printf('%{n}d', 1)", "format('{{:>{n}}}', 1)", "bar(1, 0, 1, {n})",
    "list_transform(range({n}), x -> x)", "list_aggregate(range({n}), 'sum')", "string_split(repeat('a,', {n}), ',')",
    "regexp_replace(repeat('a', {n}), 'a', 'bb', 'g')", "replace(repeat('a', {n}), 'a', 'bb')", "reverse(repeat('a', {n}))",
    "upper(repeat('a', {n}))", "concat(repeat('a', {n}), 'b')", "hex(repeat('a', {n}))", "to_base64(repeat('a', {n})::blob)",
    "md5(repeat('a', {n}))", "len(repeat('a', {n}))", "array_to_string(range({n}), ',')", "list_concat(range({n}), [1])",
    "list_sort(range({n}))", "list_distinct(range({n}))", "list_unique(range({n}))", "flatten([range({n})])",
    "list_filter(range({n}), x -> x > 1)", "list_reduce(range({n}), (a, b) -> a + b)", "list_zip(range({n}), range({n}))",
    "map(range({n}), range({n}))", "map_from_entries([(x, x) for x in range({n})])", "[x for x in range({n})]",
    "to_json(range({n}))", "json_array(range({n}))", "bitstring('1', {n})", "bin({n}) || repeat('a', {n})",
    "unnest(range({n}))", "unnest(generate_series(1, {n}))", "levenshtein(repeat('a', {n}), repeat('b', {n}))",
    "translate(repeat('a', {n}), 'a', 'b')", "strip_accents(repeat('a', {n}))", "url_encode(repeat(' ', {n}))",
    "regexp_extract_all(repeat('a', {n}), 'a')", "regexp_split_to_array(repeat('a', {n}), 'a')", "list_slice(range({n}), 1, {n})",
    "list_reverse(range({n}))", "list_cosine_similarity(range({n}), range({n}))", "list_position(range({n}), 1)",
    "list_contains(range({n}), 1)", "list_grade_up(range({n}))", "struct_pack(a := range({n}))", "coalesce(range({n}), [1])",
    "case when true then range({n}) end", "if(true, range({n}), [1])", "cast(range({n}) as varchar)", "range({n})::varchar",
    "left(repeat('a', {n}), 5)", "substring(repeat('a', {n}), 1, 5)",
]  # fmt: skip
"""Functions that make as much as an argument says, and functions over what they made."""


ENDLESS = [
    "select regexp_replace(s, 'a.*z|a', 'b', 'g') from (select string_agg('a', '') s from range(300000))",
    "select parse_path(s) from (select string_agg('1/', '') s from range(2000000))",
    "select sum(a.range * b.range) from range(1000000) a, range(1000000) b",
]


class TestSqlThatMakesMuch:
    def test_sixty_functions_that_allocate_by_an_argument(self, served: LabProcess) -> None:
        assert len(SIZES) >= 60
        with served.anonymous() as guest, Watch(served) as watch:
            for form in SIZES:
                began = time.monotonic()
                answer = guest.post("/api/v1/sql", json={"query": f"select {form.format(n=900_000_000)}"}, timeout=60)
                assert answer.status_code in (400, 413), (form, answer.text[:300])
                assert answer.json()["error"]["message"], form
                assert time.monotonic() - began < 35, form
        assert watch.most_mb < MOST_MB
        assert watch.slowest_s < SLOWEST_S

    def test_a_crowd_with_queries_that_grow_or_never_end(self, served: LabProcess) -> None:
        """Each guest has two at once, as many as are allowed, and repeats them."""
        over, answers = threading.Event(), Counter[int]()

        def attack(guest: httpx.Client, number: int) -> None:
            for query in itertools.islice(itertools.cycle(GROWING + ENDLESS), number, None):
                with contextlib.suppress(RuntimeError, httpx.TransportError):  # Closed.
                    answers[guest.post("/api/v1/sql", json={"query": query}, timeout=60).status_code] += 1
                if over.wait(0.1):
                    break

        guests = [served.anonymous() for _ in range(6)]
        threads = [threading.Thread(target=attack, args=(guest, n)) for n in range(2) for guest in guests]
        with served.anonymous() as user, Watch(served) as watch:
            for thread in threads:
                thread.start()
            time.sleep(2)
            for _ in range(5):
                body = {"model": "demo/echo", "messages": [{"role": "user", "content": "hello"}]}
                assert user.post("/openai/v1/chat/completions", json=body).status_code == 200
                assert user.get("/api/v1/traces").status_code == 200
                time.sleep(1)
            over.set()
            for guest in guests:
                guest.close()
            for thread in threads:
                thread.join()
        assert answers[400] + answers[429] > 20
        assert set(answers) <= {200, 400, 429}, answers
        assert watch.most_mb < MOST_MB
        assert watch.slowest_s < SLOWEST_S


class TestSockets:
    def test_a_hundred_half_requests_hold_up_nobody(self, served: LabProcess) -> None:
        import socket

        host, port = served.url.removeprefix("http://").split(":")
        held = []
        for _ in range(100):
            half = socket.create_connection((host, int(port)))
            half.sendall(b"POST /api/v1/sql HTTP/1.1\r\nHost: x\r\n")
            held.append(half)
        with Watch(served) as watch:
            time.sleep(1)
        for half in held:
            half.close()
        assert watch.slowest_s < SLOWEST_S
        assert json.loads(httpx.get(f"{served.url}/healthz").text)


@pytest.fixture(scope="module")
def shared(served: LabProcess) -> Iterator[tuple[httpx.Client, dict[str, str]]]:
    """The one who shared, with what they have beside the shared trace; everything else says `zebra`."""
    with served.anonymous() as owner:
        told = owner.post("/api/v1/runs", json={"prompt": 'call think {"thought": "shared"}'}).json()["run"]
        other = owner.post("/api/v1/runs", json={"prompt": "zebra one", "model": "demo/echo"}).json()["run"]
        owner.post("/api/v1/agents", json={"name": "zebra agent", "instructions": "zebra"}).raise_for_status()
        owner.post("/api/v1/flush")
        scored = {"target": "trace", "target_id": told["trace_id"], "name": "helpful", "value": 1.0}
        owner.post("/api/v1/scores", json=scored).raise_for_status()
        link = owner.post(f"/api/v1/traces/{told['trace_id']}/shares", json={"days": 1}).json()
        yield owner, {"path": link["path"], "share_id": link["id"], "trace_id": told["trace_id"], "thread_id": told["thread_id"],
                      "other": other["trace_id"], "other_thread": other["thread_id"], "user_id": told["user_id"]}  # fmt: skip


class TestASharedLink:
    """Who has a link to one trace has that trace: no other, no query, no file, no conversation, and no session."""

    def test_it_shows_the_trace_to_nobody_in_particular_and_names_neither_user_nor_conversation(
        self, served: LabProcess, shared: tuple[httpx.Client, dict[str, str]]
    ) -> None:
        _, ids = shared
        with served.nobody() as nobody:
            answer = nobody.get(ids["path"])
        said = unpacked(answer.text)
        assert answer.status_code == 200
        assert ids["trace_id"] in said
        assert "thought" in said
        for name in ("thread_id", "user_id", "other", "other_thread"):
            assert ids[name] not in answer.text + said, name
        assert "zebra" not in answer.text + said
        assert "set-cookie" not in answer.headers
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "sandbox allow-scripts" in policy
        assert "allow-same-origin" not in policy
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "no-store" in answer.headers["cache-control"]

    def test_no_other_id_and_no_other_signature_opens_anything(
        self, served: LabProcess, shared: tuple[httpx.Client, dict[str, str]]
    ) -> None:
        owner, ids = shared
        token = ids["path"].removeprefix("/share/")
        share_id, _, signature = token.partition(".")
        second = owner.post(f"/api/v1/traces/{ids['other']}/shares", json={}).json()["path"].removeprefix("/share/")
        forged = [
            share_id, f"{share_id}.", f"{share_id}.{signature[:-1]}", f"{share_id}.{'0' * 64}", f"{second.partition('.')[0]}.{signature}",
            f"{ids['other']}.{signature}", f"{ids['trace_id']}.{signature}", f".{signature}", "x" * 199, f"{share_id}' or '1'='1.{signature}",
            f"%2e%2e/api/v1/traces/{ids['other']}", f"{token}/../{ids['other']}", f"{token}/spans", f"{token}/ws",
        ]  # fmt: skip
        with served.nobody() as nobody:
            for wrong in forged:
                answer = nobody.get(f"/share/{wrong}")
                assert answer.status_code in (401, 404), wrong
                assert "zebra" not in answer.text
                assert ids["trace_id"] not in answer.text
            for method in ("POST", "PUT", "DELETE", "PATCH"):
                assert nobody.request(method, ids["path"]).status_code == 405

    def test_a_link_is_no_token_for_the_api_sql_files_or_websockets(
        self, served: LabProcess, shared: tuple[httpx.Client, dict[str, str]]
    ) -> None:
        _, ids = shared
        token = ids["path"].removeprefix("/share/")
        with served.nobody() as nobody:
            nobody.get(ids["path"])
            for headers in ({}, {"Authorization": f"Bearer {token}"}, {"Cookie": f"{served.tokens.cookie}={token}"}):
                for path in (
                    f"/api/v1/traces/{ids['trace_id']}", f"/api/v1/traces/{ids['other']}", f"/api/v1/spans?trace_id={ids['trace_id']}",
                    "/api/v1/shares", "/api/v1/traces", f"/api/v1/threads/{ids['thread_id']}", "/openai/v1/files", "/metrics",
                ):  # fmt: skip
                    assert nobody.get(path, headers=headers).status_code in (401, 403), path
                asked = nobody.post("/api/v1/sql", json={"query": "select * from traces"}, headers=headers)
                assert asked.status_code == 401
            for path in ("/api/v1/changes?topic=traces", f"/views/{token}", f"{ids['path']}/ws"):
                upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
                           "Authorization": f"Bearer {token}"}  # fmt: skip
                assert nobody.get(path, headers=upgrade).status_code in (401, 403, 404), path

    def test_only_its_owner_lists_and_revokes_it_and_then_it_opens_nothing(
        self, served: LabProcess, shared: tuple[httpx.Client, dict[str, str]]
    ) -> None:
        owner, ids = shared
        with served.anonymous() as guest, served.nobody() as nobody:
            assert guest.get("/api/v1/shares").json() == []
            assert guest.delete(f"/api/v1/shares/{ids['share_id']}").status_code == 404
            assert guest.post(f"/api/v1/traces/{ids['trace_id']}/shares", json={}).status_code == 404
            assert nobody.get(ids["path"]).status_code == 200
            assert ids["share_id"] in {link["id"] for link in owner.get("/api/v1/shares").json()}
            assert owner.delete(f"/api/v1/shares/{ids['share_id']}").status_code == 204
            assert nobody.get(ids["path"]).status_code == 404
            again = owner.post(f"/api/v1/traces/{ids['trace_id']}/shares", json={"days": 1}).json()["path"]
            assert nobody.get(again).status_code == 200
            assert owner.delete(f"/api/v1/traces/{ids['trace_id']}").status_code == 204
            assert nobody.get(again).status_code == 404


def unpacked(page: str) -> str:
    """The data inside a page of one trace."""
    packed = page.split('id="data">')[1].split("</script>")[0]
    return gzip.decompress(base64.b64decode(packed)).decode()
