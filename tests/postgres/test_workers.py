"""`timestep-lab serve --workers N`: several processes at one address, on one Postgres."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.postgres.server import shared_server
from tests.server.page_socket import open_page, websocket
from timestep_lab.server.gate import Tokens
from timestep_lab.store.liveness import started_at

SECRET = "a secret of the tests, long enough for HS256"


@dataclass(frozen=True, slots=True)
class Workers:
    url: str
    clients: ExitStack

    def nobody(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, verify=False)

    def two(self) -> tuple[Worker, Worker]:
        """A connection to each of two workers, as the same user."""
        token = Tokens(SECRET).issue("00000000-0000-4000-8000-000000000001")
        first = Worker(self, token)
        deadline = time.monotonic() + 120  # One may have been started just now.
        while (second := Worker(self, token)).pid == first.pid:
            assert time.monotonic() < deadline, "one worker takes every connection"
            second.client.close()
            time.sleep(0.05)
        return first, second


class Worker:
    """One of them, by a connection that is kept."""

    def __init__(self, workers: Workers, token: str) -> None:
        self.token = token
        limits, head = httpx.Limits(max_connections=1), {"Authorization": f"Bearer {token}"}
        client = httpx.Client(base_url=workers.url, timeout=60, verify=False, limits=limits, headers=head)
        self.client = workers.clients.enter_context(client)
        self.pid = pid_of(self.client)

    def json(self, method: str, path: str, **options: Any) -> Any:
        return self.client.request(method, path, **options).raise_for_status().json()


def pid_of(client: httpx.Client) -> int:
    found = re.search(r'timestep_lab_process\{pid="(\d+)"\}', client.get("/metrics").text)
    assert found is not None
    return int(found[1])


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (met := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return met


@contextmanager
def serving(store: str, folder: Path, *, workers: int = 2) -> Iterator[tuple[subprocess.Popen[str], Workers]]:
    """Ended at the end."""
    command = [
        sys.executable,
        "-m",
        "timestep_lab",
        "serve",
        "--port",
        "0",
        "--store",
        store,
        "--workers",
        str(workers),
    ]
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    env = {**kept, "HOME": str(folder), "TIMESTEP_LAB_SECRET": SECRET, "TIMESTEP_LAB_DEMO_DELAY_MS": "2"}
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None
        with ExitStack() as clients:
            yield process, Workers(found[0], clients)
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    with shared_server().lab_url() as store, serving(store, tmp_path_factory.mktemp("workers")) as (_, workers):
        with workers.nobody() as client:
            client.get("/settings", timeout=90).raise_for_status()
        yield workers


class Reader(threading.Thread):
    """Follows a run that it starts, to its end."""

    def __init__(self, worker: Worker, model: str) -> None:
        super().__init__(daemon=True)
        self.worker, self.model = worker, model
        self.events: list[dict[str, Any]] = []
        self.start()

    def run(self) -> None:
        body = {"prompt": "talk", "model": self.model, "stream": True}
        try:
            with self.worker.client.stream("POST", "/api/v1/runs", json=body) as answer:
                for line in answer.iter_lines():
                    if line.startswith("data: {"):
                        self.events.append(json.loads(line.removeprefix("data: ")))
        except httpx.HTTPError:
            pass  # The worker was killed.

    def begun(self) -> dict[str, Any]:
        event: dict[str, Any] = until(lambda: self.events and self.events[0])
        run: dict[str, Any] = event["run"]
        return run


def said(worker: Worker, thread_id: str) -> str:
    items = worker.json("GET", f"/api/v1/threads/{thread_id}/items")["data"]
    return "".join(item["data"]["text"] for item in items if item["type"] == "assistant_message")


def test_a_chat_begun_in_one_is_seen_growing_in_the_other_and_stopped_from_there(workers: Workers) -> None:
    here, there = workers.two()
    reader = Reader(here, "demo/slow?ttft=0&tps=20&n=2000")
    run = reader.begun()
    seen = until(lambda: said(there, run["thread_id"]))
    until(lambda: len(said(there, run["thread_id"])) > len(seen))
    there.json("POST", f"/api/v1/runs/{run['id']}/cancel")
    reader.join(30)
    assert reader.events[-1]["type"] == "run.cancelled"
    assert there.json("GET", f"/api/v1/runs/{run['id']}")["run"]["status"] == "cancelled"


def test_a_run_that_waits_in_one_is_approved_in_the_other(workers: Workers) -> None:
    here, there = workers.two()
    waiting = here.json("POST", "/api/v1/runs", json={"prompt": "What is the weather in Berkeley?"})["run"]
    assert waiting["status"] == "needs_approval"
    assert there.json("POST", f"/api/v1/runs/{waiting['id']}/approve", json={})["run"]["status"] == "completed"


async def test_a_page_works_whichever_worker_its_connection_comes_to(workers: Workers) -> None:
    token = Tokens(SECRET).issue("00000000-0000-4000-8000-000000000002")
    for _ in range(3):
        key = await open_page(workers.url, "/chat", token)
        for _ in range(6):
            async with websocket(workers.url, f"/views/{key}", token) as channel:
                await channel.send(json.dumps({"op": "sync", "mount": "m"}))
                while not any(message["op"] == "snap" for message in json.loads(await channel.recv())):
                    pass


def test_a_worker_that_is_killed_is_replaced_and_its_runs_are_interrupted(workers: Workers) -> None:
    here, there = workers.two()
    reader = Reader(here, "demo/slow?ttft=0&tps=20&n=2000")
    run = reader.begun()
    os.kill(here.pid, signal.SIGKILL)
    until(lambda: there.json("GET", f"/api/v1/runs/{run['id']}")["run"]["status"] == "interrupted", 60)
    reader.join(30)
    first, second = workers.two()
    assert here.pid not in (first.pid, second.pid)


def test_the_workers_end_with_the_process_that_watches_them(tmp_path: Path) -> None:
    with shared_server().lab_url() as store, serving(store, tmp_path) as (process, workers):
        pids = {worker.pid for worker in workers.two()}
        process.kill()
        process.wait()
        until(lambda: not any(started_at(pid) for pid in pids), 40)
