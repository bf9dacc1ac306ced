"""`timestep-lab serve` on a Postgres of its own, as a user starts and an operator stops it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from timestep_lab.store.postgres.embedded import EmbeddedPostgres
from timestep_lab.store.store import open_store

SHORT_OF_PATIENCE = (
    "from timestep_lab.server import server; server.RUNS_S = 1.0; from timestep_lab.cli import main; main()"
)


@contextmanager
def serving(store: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its address."""
    command = [sys.executable, "-c", SHORT_OF_PATIENCE, "serve", "--port", "0", "--store", store]
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "WEATHER_MODE": "recorded"}
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            address = re.search(r"http://\S+", process.stdout.readline())
            assert address
            yield process, address.group(0)
        finally:
            process.kill()


class Reader(threading.Thread):
    """Follows a run to its end."""

    def __init__(self, client: httpx.Client, model: str) -> None:
        super().__init__()
        self.client, self.model = client, model
        self.begun = threading.Event()
        self.events: list[dict[str, object]] = []
        self.start()

    def run(self) -> None:
        body = {"prompt": "talk", "model": self.model, "stream": True}
        with self.client.stream("POST", "/api/v1/runs", json=body) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    self.events.append(json.loads(line.removeprefix("data: ")))
                    if len(self.events) > 6:
                        self.begun.set()

    @property
    def last(self) -> object:
        return self.events[-1]["type"]


def test_a_server_that_is_told_to_stop_finishes_or_parks_its_turns_and_stops_its_postgres(walkable: Path) -> None:
    store_url = f"embedded-postgres:{walkable / 'pg'}"
    with serving(store_url, walkable) as (process, address), httpx.Client(base_url=address, timeout=30) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").status_code == 200
        signed_in = client.post("/api/v1/auth/anonymous").json()
        client.headers["Authorization"] = f"Bearer {signed_in['access_token']}"
        waiting = client.post("/api/v1/runs", json={"prompt": "What is the weather in Berkeley?"}).json()["run"]
        short = Reader(client, "demo/slow?ttft=0&tps=40&n=30")
        long = Reader(client, "demo/slow?ttft=0&tps=40&n=3000")
        assert short.begun.wait(30)
        assert long.begun.wait(30)
        process.send_signal(signal.SIGTERM)
        short.join(30)
        long.join(30)
        assert process.wait(30) == 0
    assert (short.last, long.last) == ("run.completed", "run.cancelled")
    assert not EmbeddedPostgres(walkable / "pg").is_running()
    store = open_store(store_url, signed_in["user"]["id"])
    assert sorted(run.status for run in store.runs.find()) == ["cancelled", "completed", "needs_approval"]
    assert [state.run_id for state in store.run_states.find(status="pending")] == [waiting["id"]]
    said = {run.status: run.output or "" for run in store.runs.find()}
    assert said["cancelled"].startswith("demo/slow")
    store.close()
