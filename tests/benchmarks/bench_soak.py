"""A served lab for minutes or half an hour: people chat, a guest floods, the server is killed and started again, and its disk fills up.

What was acknowledged must be there at the end, word for word; after the last kill the memory must stay flat; the log must stay small.
`SOAK_MINUTES` (3; 30 once a week), `SOAK_USERS` (100). The disk is a tmpfs of its own, which root, or sudo without a password, can mount.
Run: `SOAK_MINUTES=3 pytest tests/benchmarks/bench_soak.py -m benchmark -s`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from tests.server import lab_process
from tests.server.lab_process import SAID, SECRET, LabProcess, start, stop

from timestep_lab.server.gate import Tokens

SECONDS = float(os.environ.get("SOAK_MINUTES", "3")) * 60.0
pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(2 * SECONDS + 600)]
USERS = int(os.environ.get("SOAK_USERS", "100"))
DISK_MB = 512 + int(32 * SECONDS / 60.0)
KILL_EVERY_S, FULL_EVERY_S, FULL_S = 18.0, 25.0, 4.0
MOST_LOG_BYTES, MOST_MB, GROWN_MB = 1_000_000, 600.0, 96.0
ENDLESS = "with recursive t(n) as (select 1 union all select n + 1 from t) select count(*) from t"
COSTLY = " and ".join(["any(s.agent == 'x' for s in spans)"] * 20)


@pytest.fixture
def disk() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    options = f"size={DISK_MB}m,mode=755,uid={os.getuid()}"
    subprocess.run([*as_root, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run([*as_root, "umount", "-l", str(folder)], check=True)
    folder.rmdir()


def serve(said: Path, folder: Path, port: int = 0) -> LabProcess:
    return start(said / "lab.duckdb", port=port, pages=False, name=str(folder / "lab.duckdb"))


@dataclass
class Soak:
    """The server, who uses it, and what they were told."""

    folder: Path
    """The small disk."""
    said: Path
    """Where the server's words are kept, which is not on that disk."""
    lab: LabProcess
    runs: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    """Maps a user's token to acknowledged runs: id to prompt and answer."""
    begun: dict[str, set[str]] = field(default_factory=dict)
    """Runs whose beginning alone was acknowledged."""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    times_full: int = 0
    refused_starts: int = 0
    memory_mb: list[tuple[float, float]] = field(default_factory=list)
    """Of the server that is there to the end: seconds since it began, and megabytes."""
    over: bool = False

    @property
    def ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self) -> None:
        with self.ballast.open("wb", buffering=0) as file:
            left = os.statvfs(self.folder)
            with suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, left.f_bavail * left.f_frsize)
            with suppress(OSError):
                while True:
                    file.seek(0, os.SEEK_END)
                    file.write(bytes(4096))
        self.times_full += 1

    def make_room(self) -> None:
        self.ballast.unlink(missing_ok=True)

    def begin_again(self, how: signal.Signals) -> None:
        self.lab.process.send_signal(how)
        self.lab.process.wait(60)
        port = urlsplit(self.lab.url).port or 0
        try:
            self.lab = serve(self.said, self.folder, port)
        except AssertionError:  # It may not start while there is no room, but then it must.
            self.refused_starts += 1
            for child in psutil.Process().children():
                if "serve" in child.cmdline():
                    child.kill()
                    child.wait()
            self.make_room()
            self.lab = serve(self.said, self.folder, port)


async def chat(soak: Soak, n: int, client: httpx.AsyncClient) -> None:
    """Sends messages, in a new or the same conversation, and now and then a file."""
    chance = random.Random(n)
    token = Tokens(SECRET).issue(f"00000000-0000-4000-8000-{n:012d}")
    head = {"Authorization": f"Bearer {token}"}
    runs, begun, files = soak.runs[token], soak.begun[token], soak.files[token] = {}, set(), {}
    thread = None
    while not soak.over:
        await asyncio.sleep(chance.uniform(0.5, 4.0))
        try:
            if chance.random() < 0.1:
                content = chance.randbytes(chance.randrange(1, 20_000))
                sent = {"file": ("a.bin", content)}
                answer = await client.post("/openai/v1/files", headers=head, files=sent, data={"purpose": "user_data"})
                if answer.status_code == 200:
                    files[answer.json()["id"]] = content
            elif chance.random() < 0.3:
                await follow(client, head, begun)
                continue
            else:
                prompt = f"Say {chance.randbytes(40).hex()}"
                body = {"prompt": prompt, "model": "demo/echo", **({"thread_id": thread} if thread else {})}
                answer = await client.post("/api/v1/runs", headers=head, json=body)
                if answer.status_code == 200 and (run := answer.json()["run"])["status"] == "completed":
                    runs[run["id"]] = (prompt, run["output"])
                    thread = run["thread_id"] if chance.random() < 0.7 else None
                elif answer.status_code in (404, 409):
                    thread = None
            soak.answers[str(answer.status_code)] += 1
        except httpx.HTTPError as error:
            soak.answers[type(error).__name__] += 1


async def follow(client: httpx.AsyncClient, head: dict[str, str], begun: set[str]) -> None:
    """A streamed answer: once its beginning was heard, the run is there whatever comes."""
    body = {"prompt": "Tell me more", "model": "demo/slow?ttft=50&tps=40&n=80", "stream": True}
    async with client.stream("POST", "/api/v1/runs", headers=head, json=body) as answer:
        async for line in answer.aiter_lines():
            if '"run.started"' in line:
                begun.add(json.loads(line.removeprefix("data: "))["run"]["id"])


async def flood(soak: Soak, client: httpx.AsyncClient) -> None:
    """One guest does his worst."""
    token = Tokens(SECRET).issue("00000000-0000-4000-8000-999999999999")
    head = {"Authorization": f"Bearer {token}"}
    attacks: list[dict[str, Any]] = [
        {"method": "POST", "url": "/api/v1/sql", "json": {"query": ENDLESS}},
        {"method": "GET", "url": "/api/v1/traces", "params": {"filter": COSTLY}},
        {"method": "POST", "url": "/v1/traces", "content": b"\xff" * 200_000},
        {"method": "POST", "url": "/api/v1/traces/upload", "content": bytes(1_000_000)},
        {"method": "POST", "url": "/api/v1/runs", "json": {"prompt": "x", "model": "demo/slow?ttft=60000", "stream": False}},
        {"method": "GET", "url": "/api/v1/no-such-thing"},
    ]  # fmt: skip

    async def one(attack: dict[str, Any]) -> None:
        while not soak.over:
            with suppress(httpx.HTTPError):
                await client.request(**attack, headers=head, timeout=5.0)
            await asyncio.sleep(0.02)

    await asyncio.gather(*(one(attack) for attack in attacks * 2))


async def disturb(soak: Soak) -> None:
    """For half of the time the server is killed and started again; then it is left alone and its memory is looked at. The disk fills up
    all the time."""
    for kills in (True, False):
        began = time.monotonic()
        next_kill, next_full = began + KILL_EVERY_S, began + FULL_EVERY_S
        while (now := time.monotonic()) < began + SECONDS / 2:
            if now >= next_full:
                await asyncio.to_thread(soak.fill)
                await asyncio.sleep(FULL_S)
                if not kills or soak.kills % 3 != 2:  # Now and then it is killed and started while there is no room.
                    soak.make_room()
                next_full = time.monotonic() + FULL_EVERY_S
            if kills and time.monotonic() >= next_kill:
                how = signal.SIGTERM if soak.kills % 4 == 3 else signal.SIGKILL
                await asyncio.to_thread(soak.begin_again, how)
                soak.make_room()
                soak.kills += 1
                next_kill = time.monotonic() + KILL_EVERY_S
            if not kills:
                server = psutil.Process(soak.lab.process.pid)
                soak.memory_mb.append((now - began, server.memory_info().rss / 2**20))
            await asyncio.sleep(0.5)
        soak.make_room()


async def missing(soak: Soak, client: httpx.AsyncClient) -> list[str]:
    """What was acknowledged and is not there."""
    lost: list[str] = []
    for token in soak.runs:
        head = {"Authorization": f"Bearer {token}"}
        for run_id, (prompt, output) in soak.runs[token].items():
            answer = await client.get(f"/api/v1/runs/{run_id}", headers=head)
            run = answer.json().get("run", {})
            if (run.get("status"), run.get("input"), run.get("output")) != ("completed", prompt, output):
                lost.append(f"run {run_id}: {answer.text[:200]}")
                continue
            spans = await client.get(f"/api/v1/traces/{run['trace_id']}", headers=head)
            items = await client.get(f"/api/v1/threads/{run['thread_id']}/items", headers=head, params={"limit": 100})
            said = [item["data"].get("text") for item in items.json()["data"] if item["run_id"] == run_id]
            if spans.status_code != 200 or (
                not items.json()["has_more"] and (prompt not in said or output not in said)
            ):
                lost.append(f"items or trace of run {run_id}: {spans.status_code}, {said}")
        for run_id in soak.begun[token]:
            answer = await client.get(f"/api/v1/runs/{run_id}", headers=head)
            if answer.status_code != 200 or answer.json()["run"]["status"] == "running":
                lost.append(f"begun run {run_id}: {answer.text[:200]}")
        for file_id, content in soak.files[token].items():
            answer = await client.get(f"/openai/v1/files/{file_id}/content", headers=head)
            if answer.content != content:
                lost.append(f"file {file_id}: {answer.status_code}")
    return lost


async def test_nothing_acknowledged_is_lost_and_nothing_grows(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_process, "START_S", 120)
    soak = Soak(disk, tmp_path, serve(tmp_path, disk))
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
    async with httpx.AsyncClient(base_url=soak.lab.url, timeout=60, verify=False, limits=limits) as client:
        try:
            tasks = [asyncio.create_task(chat(soak, n, client)) for n in range(USERS)]
            tasks.append(asyncio.create_task(flood(soak, client)))
            await disturb(soak)
            soak.over = True
            async with asyncio.timeout(120):
                await asyncio.gather(*tasks)
            await asyncio.to_thread(soak.begin_again, signal.SIGTERM)
            lost = await missing(soak, client)
            report(soak, lost)
        finally:
            soak.make_room()
            stop(soak.lab)
    first, last = quarters(soak.memory_mb)
    log_bytes = (tmp_path / SAID).stat().st_size
    assert lost == []
    assert sum(map(len, soak.runs.values())) > USERS
    assert last < MOST_MB
    assert last - first < GROWN_MB
    assert log_bytes < MOST_LOG_BYTES


def report(soak: Soak, lost: list[str]) -> None:
    """Printed before the last stop is judged: half an hour is not to be without its numbers."""
    first, last = quarters(soak.memory_mb)
    log_bytes = (soak.said / SAID).stat().st_size
    acknowledged = {kind: sum(map(len, getattr(soak, kind).values())) for kind in ("runs", "begun", "files")}
    print(
        f"\n{SECONDS / 60:.0f} min, {USERS} users: {soak.kills} kills, {soak.times_full} times full, {soak.refused_starts} starts refused while full; "
        f"acknowledged {acknowledged}, lost {len(lost)}; answers {dict(soak.answers)}; "
        f"memory {first:.0f} MB, at the end {last:.0f} MB; log {log_bytes / 1000:.0f} kB",
        flush=True,
    )


def quarters(samples: list[tuple[float, float]]) -> tuple[float, float]:
    """The memory in the second and in the last quarter of the time after the last kill; the first is the start."""
    end = samples[-1][0]
    second = [mb for at, mb in samples if end / 4 <= at < end / 2]
    last = [mb for at, mb in samples if at >= end * 3 / 4]
    return statistics.median(second), statistics.median(last)
