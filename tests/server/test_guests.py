"""What a guest of a served lab may keep and do, and what stands in the way of more."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.lab_process import LabProcess
from tests.server.served import SETTINGS, Server, serve
from tests.traces.recorder import Recorder
from timestep_lab import Lab
from timestep_lab.model.errors import BusyError, ModelNotFoundError, NotFoundError, SettingsError, TooLargeError
from timestep_lab.model.ids import LOCAL_USER, new_uuid
from timestep_lab.runtime.files.files import Files
from timestep_lab.runtime.settings import Settings
from timestep_lab.server import gate
from timestep_lab.server import server as run
from timestep_lab.server.gate import RateLimits
from timestep_lab.store.quota import GuestLimits, Quota
from timestep_lab.store.store import open_store

FEW = GuestLimits(files=2, megabytes=1, threads=2, traces=3, runs=1, comparisons=1)


@pytest.fixture
async def few(tmp_path: Path) -> AsyncIterator[Server]:
    """A lab whose guests may keep little."""
    async with serve(tmp_path / "lab.duckdb", replace(SETTINGS, guests=FEW)) as server:
        yield server


def said(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["message"])


async def test_a_guest_keeps_as_many_files_as_allowed_and_more_after_deleting_one(few: Server) -> None:
    async with few.client() as guest:

        async def add(content: bytes) -> httpx.Response:
            return await guest.http.post(
                "/openai/v1/files", files={"file": ("a.txt", content)}, data={"purpose": "assistants"}
            )

        first = await add(b"one")
        assert (await add(b"two")).status_code == 200
        refused = await add(b"three")
        assert refused.status_code == 429
        assert "may keep 2 files" in said(refused)
        assert (await guest.http.delete(f"/openai/v1/files/{first.json()['id']}")).status_code == 200
        await asyncio.sleep(0.6)
        assert (await add(b"three")).status_code == 200
    async with few.client(LOCAL_USER) as owner:
        for n in range(3):
            body = {"file": ("a.txt", b"x" * n)}
            assert (
                await owner.http.post("/openai/v1/files", files=body, data={"purpose": "assistants"})
            ).status_code == 200


async def test_files_and_parts_of_uploads_are_refused_beyond_their_megabytes(few: Server) -> None:
    async with few.client() as guest:
        body = {"file": ("a.bin", b"x" * (2**20 + 1))}
        refused = await guest.http.post("/openai/v1/files", files=body, data={"purpose": "assistants"})
        assert refused.status_code == 413
        assert "1 MB in total" in said(refused)
        told = {"filename": "b.bin", "bytes": 2**20, "purpose": "assistants", "mime_type": "application/octet-stream"}
        upload = (await guest.http.post("/openai/v1/uploads", json=told)).json()["id"]
        parts = f"/openai/v1/uploads/{upload}/parts"
        assert (await guest.http.post(parts, files={"data": ("p", b"x" * 600_000)})).status_code == 200
        assert (await guest.http.post(parts, files={"data": ("p", b"x" * 600_000)})).status_code == 413


async def test_conversations_traces_runs_and_comparisons_have_limits_too(few: Server) -> None:
    async with few.client() as guest:

        async def ask(text: str = "hello", **more: Any) -> httpx.Response:
            return await guest.http.post(
                "/api/v1/runs", json={"prompt": text, "agent": "Personal Assistant", "model": "demo/echo", **more}
            )

        slow = asyncio.create_task(ask(model="demo/slow?ttft=8000"))
        async with asyncio.timeout(30):
            while not guest.lab.runner.is_busy:
                await asyncio.sleep(0.05)
        refused = await ask()
        assert refused.status_code == 429
        assert "limited to 1 concurrent runs" in said(refused)
        first = await slow
        assert first.status_code == 200, first.text
        assert (await ask()).status_code == 200
        refused = await ask()
        assert refused.status_code == 429
        assert "may keep 2 threads" in said(refused)
        thread = first.json()["run"]["thread_id"]
        assert (await ask(thread_id=thread)).status_code == 200
        refused = await ask(thread_id=thread)
        assert refused.status_code == 429
        assert "may keep 3 traces" in said(refused)
        body = {"cases": ["hello"], "models": ["demo/echo"]}
        assert (await guest.http.post("/api/v1/compare", json=body)).status_code < 300
        refused = await guest.http.post("/api/v1/compare", json=body)
        assert refused.status_code == 429
        assert "may keep 1 comparisons" in said(refused)


def test_what_a_guest_may_send_in_a_day_comes_back_over_the_day(tmp_path: Path) -> None:
    now = [0.0]
    with open_store(tmp_path / "lab.duckdb") as store:
        quota = Quota(store.db, "guest", FEW, clock=lambda: now[0])
        quota.take_sent(2**20)
        with pytest.raises(TooLargeError, match="1 MB of traces a day"):
            quota.take_sent(1000)
        now[0] = 43_200.0
        quota.take_sent(2**19)


def test_limits_come_from_the_environment_and_0_is_none(tmp_path: Path) -> None:
    limits = Settings.load(env={"TIMESTEP_LAB_GUEST_FILES": "7", "TIMESTEP_LAB_GUEST_THREADS": "0"}).guests
    assert limits == GuestLimits(files=7, threads=0)
    with pytest.raises(SettingsError, match="TIMESTEP_LAB_GUEST_RUNS is '-1'"):
        Settings.load(env={"TIMESTEP_LAB_GUEST_RUNS": "-1"})
    with open_store(tmp_path / "lab.duckdb") as store:
        quota = Quota(store.db, "guest", limits)
        for _ in range(2_100):
            quota.take_thread()
        store.quota = quota
        files = Files(store)
        for n in range(7):
            files.add_bytes(f"{n}.txt", b"x")
        with pytest.raises(BusyError, match="7 files"):
            files.add_bytes("one more.txt", b"x")


async def test_agents_tool_servers_and_vector_stores_have_limits_too(tmp_path: Path) -> None:
    settings = replace(SETTINGS, guests=GuestLimits(agents=3, tool_servers=1, vector_stores=1))
    lab = Lab(str(tmp_path / "lab.duckdb"), settings=settings)
    guest = lab.for_user(new_uuid())
    allowed = 3 - len(guest.agents.list())
    for n in range(allowed):
        guest.agents.create(name=f"Agent {n}")
    with pytest.raises(BusyError, match="may keep 3 agents"):
        guest.agents.create(name="One more")
    guest.mcp.add("docs", url="https://example.org/mcp")
    with pytest.raises(BusyError, match="may keep 1 MCP servers"):
        guest.mcp.add("more", url="https://example.org/more")
    await guest.vector_stores.create("papers")
    with pytest.raises(BusyError, match="may keep 1 vector stores"):
        await guest.vector_stores.create("more")
    lab.agents.create(name="The owner has no limits")
    await lab.aclose()


# -- signing in


def test_neither_forwarded_addresses_nor_pages_without_a_cookie_evade_the_limit_of_sign_ins() -> None:
    limits = RateLimits(sign_ins_per_minute=1, sign_in_burst=3)
    for n in range(3):
        limits.check_sign_in(f"2001:db8::{n}")
    with pytest.raises(BusyError, match="sign-ins"):
        limits.check_sign_in("2001:db8::ffff")
    limits.check_sign_in("2001:db8:1::1")


async def test_pages_without_a_cookie_count_as_sign_ins(tmp_path: Path) -> None:
    async with (
        serve(tmp_path / "lab.duckdb", limits=RateLimits(sign_ins_per_minute=1, sign_in_burst=3)) as server,
        httpx.AsyncClient(base_url=server.url) as nobody,
    ):
        answers = []
        for _ in range(5):
            nobody.cookies.clear()
            answers.append((await nobody.get("/nowhere")).status_code)
        assert answers == [404, 404, 404, 429, 429]


def test_a_forwarded_address_is_believed_of_trusted_proxies_alone(lab: LabProcess) -> None:
    with lab.nobody() as client:
        told = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}
        answer = client.post("/api/v1/auth/anonymous?then=/settings", headers=told)
        assert "Secure" not in answer.headers["set-cookie"]
    trusting = run.config_of(
        lambda: None, Settings(trusted_proxies=("127.0.0.1", "10.0.0.0/8")), host="127.0.0.1", port=0
    )
    assert trusting.proxy_headers
    assert trusting.forwarded_allow_ips == ["127.0.0.1", "10.0.0.0/8"]
    assert not run.config_of(lambda: None, Settings(), host="127.0.0.1", port=0).proxy_headers


async def test_the_sign_in_link_works_for_some_hours_and_a_token_of_the_owner_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(tmp_path / "lab.duckdb") as server, httpx.AsyncClient(base_url=server.url) as browser:

        async def opened(key: str) -> bool:
            browser.cookies.clear()
            return (await browser.get("/", params={"key": key})).status_code == 303

        assert await opened(server.served.owner_key)
        monkeypatch.setattr(server.served, "_key_until", time.monotonic() - 1)
        assert not await opened(server.served.owner_key)
        assert await opened(server.served.tokens.issue(LOCAL_USER, anonymous=False))
        assert not await opened(server.token(LOCAL_USER))
        assert not await opened(server.served.tokens.issue(new_uuid(), anonymous=False))


# -- what is whose


def test_only_what_is_ones_own_is_annotated(tmp_path: Path) -> None:
    with open_store(tmp_path / "lab.duckdb") as store:
        recorder = Recorder(store.db)
        trace_id = recorder.start()
        span = recorder.ended(trace_id, "tool", "look up")
        recorder.writer.flush()
        assert store.traces.score("span", span.span_id, "good", 1.0).value == 1.0
        others = store.for_user(new_uuid()).traces
        for kind, target in (("trace", trace_id), ("span", span.span_id), ("case", "case_1")):
            with pytest.raises(NotFoundError):
                others.score(kind, target, "good", 1.0)  # type: ignore[arg-type]
        with pytest.raises(NotFoundError):
            store.traces.score("case", "case_1", "good", 1.0)


@pytest.mark.parametrize(
    "name",
    ["/etc/x.gguf", "~daemon/x.gguf", "~nosuchuser/x.gguf", "~/x.gguf", "../../x", "/etc/../etc/x.gguf", "..\\x"],
)
def test_a_served_lab_loads_no_model_by_a_path_and_tells_nothing_of_it(tmp_path: Path, name: str) -> None:
    served = Lab(tmp_path / "lab.duckdb", settings=Settings(is_served=True))
    with served, pytest.raises(ModelNotFoundError, match="There is no local model"):
        served.router.provider("local")._path(name)  # type: ignore[attr-defined]


def test_a_served_lab_loads_models_that_its_owner_allows(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    allowed, other = tmp_path / "models" / "mine.gguf", tmp_path / "other.gguf"
    allowed.touch()
    other.touch()
    (tmp_path / "models" / "link.gguf").symlink_to(other)
    with Lab(
        tmp_path / "lab.duckdb", settings=Settings(is_served=True, local_models=(str(tmp_path / "models"),))
    ) as served:
        path_of = served.router.provider("local")._path  # type: ignore[attr-defined]
        assert path_of(str(allowed)) == path_of("mine.gguf") == allowed
        for name in (str(other), "../other.gguf", "link.gguf"):
            with pytest.raises(ModelNotFoundError):
                path_of(name)


# -- half a request


def test_a_connection_whose_request_does_not_come_to_its_end_is_closed(
    lab: LabProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "HEAD_S", 0.5)

    async def closed_after(sent: bytes) -> float:
        app = httpx.ASGITransport  # Nothing of it is called: only heads are sent.
        config = run.config_of(app, Settings(), host="127.0.0.1", port=0)
        config.load()
        loop = asyncio.get_running_loop()
        state: dict[str, Any] = {}
        server = await loop.create_server(
            lambda: run.Impatient(config=config, server_state=run.uvicorn.server.ServerState(), app_state=state),
            "127.0.0.1",
            0,
        )
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(sent)
        began = time.monotonic()
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        server.close()
        return time.monotonic() - began

    for sent in (b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\n"):
        assert 0.3 < asyncio.run(closed_after(sent)) < 5


async def test_a_body_that_does_not_go_on_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "PART_S", 0.5)
    async with serve(tmp_path / "lab.duckdb") as server:
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = (
            f"POST /api/v1/sql HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {server.token(new_uuid())}\r\n"
        )
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
        answer = (await asyncio.wait_for(reader.read(), 10)).decode()
        writer.close()
    assert answer.startswith("HTTP/1.1 408")
    assert "did not arrive within" in json.loads(answer.partition("\r\n\r\n")[2])["error"]["message"]


def test_when_no_connection_can_be_accepted_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    handler = run._SaysOnce()
    loop = asyncio.new_event_loop()
    for _ in range(1000):
        handler(
            loop,
            {
                "message": "socket.accept() out of system resource",
                "exception": OSError(24, "Too many open files"),
                "socket": socket,
            },
        )
    loop.close()
    assert [record.getMessage() for record in caplog.records] == [
        "No connection can be accepted now: Too many open files. Pending connections are accepted when others close."
    ]
