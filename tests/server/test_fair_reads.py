"""Queries that take their time hold up nobody else, and end with whoever asked."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message

from tests.server.lab_process import LabProcess, start, stop
from tests.server.page_socket import open_page, websocket
from tests.traces.recorder import Recorder
from timestep_lab.model.errors import BusyError, LabError, QueryError
from timestep_lab.model.ids import LOCAL_USER
from timestep_lab.server import errors, fair_reads
from timestep_lab.server.fair_reads import FairReads, Unread
from timestep_lab.store.liveness import Interrupt
from timestep_lab.store.store import open_store

ENDLESS = "with recursive t(n) as (select 1 union all select n + 1 from t) select count(*) from t"
SOON_S = 5.0


@pytest.fixture
def own_lab(tmp_path: Path) -> Iterator[LabProcess]:
    served = start(tmp_path / "lab.duckdb", pages=False)
    yield served
    if served.process.poll() is None:
        stop(served)


def ask(client: httpx.Client, query: str, timeout_s: float = 60) -> httpx.Response:
    return client.post("/api/v1/sql", json={"query": query}, timeout=timeout_s)


def ask_and_leave(client: httpx.Client, query: str, after_s: float) -> None:
    with suppress(httpx.TimeoutException):
        ask(client, query, after_s)


def test_many_slow_queries_of_one_user_hold_up_nobody_and_end_when_he_leaves(own_lab: LabProcess) -> None:
    with own_lab.anonymous() as a, own_lab.anonymous() as b, ThreadPoolExecutor(8) as askers:
        asked = [askers.submit(ask_and_leave, a, ENDLESS, 4.0) for _ in range(8)]
        time.sleep(1)
        for _ in range(3):
            for path in ("/readyz", "/api/v1/agents", "/api/v1/traces"):
                assert b.get(path, timeout=SOON_S).status_code == 200
            assert ask(b, "select 1 as n", SOON_S).json()["rows"] == [{"n": 1}]
        for one in asked:
            one.result()
        began = time.monotonic()
        assert ask(a, "select 2 as n").json()["rows"] == [{"n": 2}]
        assert time.monotonic() - began < SOON_S


def test_a_user_with_too_many_queries_under_way_is_told_to_wait(own_lab: LabProcess) -> None:
    with own_lab.anonymous() as a, ThreadPoolExecutor(24) as askers:
        asked = [askers.submit(ask_and_leave, a, ENDLESS, 4.0) for _ in range(22)]
        time.sleep(2)
        refused = ask(a, "select 1")
        for one in asked:
            one.result()
    assert refused.status_code == 429
    assert "Too many queries" in refused.json()["error"]["message"]
    assert refused.headers["retry-after"]


def test_a_server_that_is_told_to_stop_stops_queries_and_says_so(own_lab: LabProcess) -> None:
    with own_lab.anonymous() as a, ThreadPoolExecutor(4) as askers:
        asked = [askers.submit(ask, a, ENDLESS) for _ in range(3)]
        time.sleep(3)  # All three have arrived, also on a busy machine.
        own_lab.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        for answer in (one.result() for one in asked):
            assert answer.status_code == 503
            assert "shutting down" in answer.json()["error"]["message"]
        assert own_lab.process.wait(30) == 0
        assert time.monotonic() - began < 20  # Far below the time limit of the queries.


async def test_a_request_that_the_server_cancels_as_it_stops_is_told_so_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = FastAPI()
    errors.install(app)
    app.state.stopping = True

    @app.get("/held-up")
    async def held_up() -> None:
        raise asyncio.CancelledError

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://lab") as client:
        answer = await client.get("/held-up")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "shutting down" in answer.json()["error"]["message"]
        app.state.stopping = False
        with pytest.raises(asyncio.CancelledError):
            await client.get("/held-up")
    assert caplog.text == ""


@pytest.mark.parametrize("place", ["in memory", "in a file"])
def test_a_query_is_stopped_from_another_thread(tmp_path: Path, place: str) -> None:
    with open_store(":memory:" if place == "in memory" else tmp_path / "lab.duckdb") as store:
        wish = Interrupt()
        found = in_background(lambda: governed(wish, lambda: store.sql(ENDLESS)))
        began = time.monotonic()
        while not found:
            wish.stop()
            time.sleep(0.05)
        assert time.monotonic() - began < SOON_S
        assert isinstance(found[0], QueryError)
        assert "was interrupted" in str(found[0])
        assert store.sql("select 1").rows == [(1,)]


WORST = " and ".join(["any(s.name != 'x' and s.parent.name != s.agent for s in spans if s.kind == 'tool')"] * 20)


@pytest.fixture
def full_lab(own_lab: LabProcess) -> LabProcess:
    """Its own user has 500 traces of 10 spans."""
    with open_store(own_lab.store) as store:
        recorder = Recorder(store.db)
        for _ in range(500):
            trace_id = recorder.start()
            for n in range(10):
                recorder.ended(trace_id, "tool", f"tool {n}")
        recorder.writer.flush()
    return own_lab


def others_wait(client: httpx.Client) -> float:
    """Seconds that 95 of 100 answers to another user take at most."""
    took = []
    for _ in range(20):
        for path in ("/healthz", "/api/v1/threads", "/api/v1/traces"):
            began = time.monotonic()
            assert client.get(path, timeout=SOON_S).status_code == 200
            took.append(time.monotonic() - began)
    return sorted(took)[int(len(took) * 0.95)]


def test_costly_filters_of_one_user_hold_up_nobody_and_end_when_he_leaves(full_lab: LabProcess) -> None:
    ways = ("/api/v1/traces", "/api/v1/traces/histogram", "/api/v1/graph")

    def worst(client: httpx.Client, way: str) -> None:
        with suppress(httpx.TimeoutException):
            client.get(way, params={"filter": WORST}, timeout=6)

    with (
        full_lab.client(full_lab.tokens.issue(LOCAL_USER)) as a,
        full_lab.anonymous() as b,
        ThreadPoolExecutor(12) as askers,
    ):
        asked = [askers.submit(worst, a, way) for way in ways * 4]
        time.sleep(0.5)
        waited = others_wait(b)
        for one in asked:
            one.result()
    assert waited < 1.0  # 0.2 s where nothing else uses the machine


async def test_costly_filters_in_the_pages_of_one_user_hold_up_nobody(full_lab: LabProcess) -> None:
    token = full_lab.tokens.issue(LOCAL_USER)
    async with AsyncExitStack() as open_pages:
        asked = {"filter": WORST, "search": "", "since": None, "until": None, "since_s": None}
        for _ in range(3):
            # The first of them is read when the page is opened, the others when its filter is typed.
            key = await open_page(full_lab.url, f"/traces?filter={quote(WORST)}", token)
            channel = await open_pages.enter_async_context(websocket(full_lab.url, f"/views/{key}", token))
            await channel.send(json.dumps({"op": "sync", "mount": "m"}))
            for n in range(10):
                await channel.send(json.dumps({"op": "call", "id": str(n), "name": "query", "args": asked}))
        with full_lab.anonymous() as b:
            waited = await asyncio.to_thread(others_wait, b)
        told: list[dict[str, Any]] = []
        async with asyncio.timeout(60):
            while not any(message.get("error") for message in told):
                told += json.loads(await channel.recv())
    assert waited < 1.0
    assert any("Too many queries" in message["error"]["message"] for message in told if message.get("error"))


def test_a_filter_that_looks_through_the_spans_too_often_is_refused_with_words(lab: LabProcess) -> None:
    looks = " and ".join(["any(s.agent == 'x' for s in spans)"] * 200)
    with lab.anonymous() as client:
        for way in ("/api/v1/traces", "/api/v1/traces/histogram", "/api/v1/graph", "/api/v1/handoffs"):
            refused = client.get(way, params={"filter": looks})
            assert refused.status_code == 400
            assert "more than 20 times" in refused.json()["error"]["message"]


@pytest.mark.parametrize("read", ["query", "columns"])
def test_a_read_of_the_lab_itself_is_stopped_from_another_thread(tmp_path: Path, read: str) -> None:
    with open_store(tmp_path / "lab.duckdb") as store:
        wish = Interrupt()
        found = in_background(lambda: governed(wish, lambda: getattr(store.db, read)(store.user_id, ENDLESS)))
        wait_stopped(wish, found)
        assert isinstance(found[0], QueryError)
        assert store.db.query(store.user_id, "select 1").rows == [(1,)]


def wait_stopped(wish: Interrupt, found: list[Any]) -> None:
    began = time.monotonic()
    while not found:
        wish.stop()
        time.sleep(0.05)
        assert time.monotonic() - began < SOON_S


def test_a_large_answer_is_the_same_as_a_small_one_many_times(lab: LabProcess) -> None:
    query = "select range as n, 'x' as n, case when range % 2 = 0 then 'nan'::float end as f from range(1201)"
    with lab.anonymous() as client:
        told = client.post("/api/v1/sql", json={"query": query, "limit": 1200}).json()
        nothing = client.post("/api/v1/sql", json={"query": "select 1 as n where false"}).json()
    assert told["columns"] == ["n", "n_1", "f"]
    assert told["truncated"] is True
    assert told["rows"] == [{"n": n, "n_1": "x", "f": None} for n in range(1200)]
    assert nothing == {"columns": ["n"], "rows": [], "truncated": False}


async def test_a_query_that_nothing_interrupts_takes_no_place_of_others_and_its_user_waits_for_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fair_reads, "STUCK_S", 0.2)
    monkeypatch.setattr(fair_reads, "LONG_S", 0.2)
    reads, may_end = FairReads(lambda: False, threads=1, time_limit_s=0.5), threading.Event()

    def query(user: str, work: Callable[[], object]) -> Coroutine[Any, Any, object]:
        return reads.run(user, work, lambda: asyncio.sleep(60))

    async with asyncio.timeout(20):
        endless = asyncio.create_task(query("a", may_end.wait))
        await asyncio.sleep(0.1)
        assert await query("b", lambda: "beside it") == "beside it"
        with pytest.raises(QueryError, match="took longer than"):
            await endless
        with pytest.raises(BusyError, match="has not ended yet"):
            await query("a", lambda: "refused")
        assert await query("b", lambda: "after it") == "after it"
        may_end.set()
        await asyncio.sleep(0.5)
        assert await query("a", lambda: "again") == "again"
    reads.close()


async def test_large_responses_that_nobody_reads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_reads, "UNREAD", 3 * 2**20)
    monkeypatch.setattr(fair_reads, "READ_S", 1.0)
    unread, told = Unread(), list[str]()

    def response(caller: str, taken: Callable[[bytes], Awaitable[None]]) -> Coroutine[Any, Any, None]:
        async def send(message: Message) -> None:
            await taken(message.get("body", b""))

        async def refuse(error: BusyError) -> None:
            told.append(error.message)

        limited = unread.limiting(send, caller, refuse)
        start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(2**21).encode())]}

        async def all_of_it() -> None:
            await limited(start)
            await limited({"type": "http.response.body", "body": b"x" * 2**21})

        return all_of_it()

    async def never(piece: bytes) -> None:
        await asyncio.sleep(60 if piece else 0)

    read = list[int]()

    async def at_once(piece: bytes) -> None:
        read.append(len(piece))

    waiting = asyncio.create_task(response("a", never))
    await asyncio.sleep(0.1)
    await response("a", at_once)
    assert (told, read) == (["You have not read earlier responses yet."], [])
    await response("b", at_once)
    assert sum(read) == 2**21
    assert max(read) < 2**20
    async with asyncio.timeout(10):
        await waiting  # Given up: nothing of it is read.
    await response("a", at_once)
    assert sum(read) == 2 * 2**21


def governed(wish: Interrupt, call: Callable[[], Any]) -> Any:
    with wish.governs():
        return call()


def in_background(call: Callable[[], Any]) -> list[Any]:
    """Holds what the call gave, or its error, once it has ended."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(call())
        except LabError as error:
            found.append(error)

    threading.Thread(target=run, daemon=True).start()
    time.sleep(0.3)
    return found
