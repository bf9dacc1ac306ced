"""More users than labs are kept open for."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.app.served import serve
from timestep_lab.app import labs


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
