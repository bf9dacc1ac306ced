"""More users than labs are kept open for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from tests.server.served import serve
from timestep_lab.server import labs


async def test_more_users_than_are_kept_open_are_all_answered_and_traced_and_no_run_ends_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labs, "KEPT", 2)
    async with serve(tmp_path / "lab.duckdb") as server, httpx.AsyncClient(base_url=server.url, timeout=60) as http:

        def signed(user: int) -> dict[str, str]:
            return {"Authorization": f"Bearer {server.token(f'00000000-0000-4000-8000-{user:012d}')}"}

        body = {"prompt": "Go.", "model": "demo/slow?ttft=0&tps=20&n=40", "stream": True}
        async with http.stream("POST", "/api/v1/runs", json=body, headers=signed(0)) as slow:
            lines = slow.aiter_lines()
            await anext(lines)
            for user in range(1, 6):
                told = await http.post("/api/v1/runs", json={"prompt": "Hello"}, headers=signed(user))
                assert told.json()["run"]["status"] == "completed"
            assert [line async for line in lines]
        for user in range(6):
            traces = await http.get("/api/v1/traces", headers=signed(user))
            assert [row["status"] for row in traces.json()["data"]] == ["completed"], user


async def test_a_lab_that_somebody_holds_stays_open_and_the_longest_unused_are_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(labs, "KEPT", 2)
    closed: list[str] = []

    def for_user(user_id: str) -> SimpleNamespace:
        async def aclose() -> None:
            closed.append(user_id)

        return SimpleNamespace(aclose=aclose)

    root = SimpleNamespace(store=SimpleNamespace(user_id="root"), for_user=for_user)
    kept = labs.Labs(root)  # type: ignore[arg-type]
    _, let_go_first = kept.hold("first page")
    _, let_go_second = kept.hold("first page")
    let_go_first()
    for user in ("a", "b", "c", "d"):
        with kept.held(user):
            await asyncio.sleep(0)
    assert closed == ["a", "b", "c"]
    let_go_second()
    with kept.held("e"):
        await asyncio.sleep(0)
    assert closed == ["a", "b", "c", "first page"]
