"""A run that needs approval: begun in a notebook and approved in the served app, the other way round, and either side killed in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.server.lab_process import LabProcess, start, stop
from tests.server.remote import ASKS, SETTINGS, Watcher, remote_lab
from timestep_lab import Lab
from timestep_lab.model.errors import StoreUnavailableError
from timestep_lab.model.ids import LOCAL_USER
from timestep_lab.store.base import in_thread

NOTEBOOK = """
import asyncio, sys
from timestep_lab import Lab

async def cell():
    run = await Lab(sys.argv[1]).run(sys.argv[2])
    print(run.id, run.status, flush=True)
    await asyncio.sleep(600)

asyncio.run(cell())
"""


@contextmanager
def notebook(store: str, token: str = "") -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A process that has begun a run and shows that it waits: the run's id, and the process."""
    env = {**os.environ, "WEATHER_MODE": "recorded", "TIMESTEP_LAB_DEMO_DELAY_MS": "0", "TIMESTEP_LAB_TOKEN": token}
    command = [sys.executable, "-c", NOTEBOOK, store, ASKS]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            run_id, status = process.stdout.readline().split()
            assert status == "needs_approval"
            yield run_id, process
        finally:
            process.kill()


def killed(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(20)


def begun(app: httpx.Client) -> str:
    run = app.post("/api/v1/runs", json={"prompt": ASKS}).json()["run"]
    assert run["status"] == "needs_approval"
    return str(run["id"])


def approved(app: httpx.Client, run_id: str) -> str:
    answer = app.post(f"/api/v1/runs/{run_id}/approve", json={})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["run"]["status"])


def weather_calls(lab: Lab, run_id: str) -> list[tuple[str, str]]:
    """Status and approval of each. Another process writes its spans a moment after it has answered, so open ones are waited for."""
    query = "select status, approval from tool_calls where trace_id = $1 and tool = 'get_weather'"
    calls: list[tuple[str, str]] = []
    for _ in range(100):
        calls = list(lab.sql(query, [lab.get_run(run_id).trace_id]).itertuples(index=False, name=None))
        if calls and all(status != "pending" for status, _ in calls):
            break
        time.sleep(0.05)
    return calls


@pytest.mark.parametrize("kind", ["on the same file", "remote"])
async def test_begun_in_a_notebook_that_is_then_killed_and_approved_in_the_served_app(
    lab: LabProcess, kind: str
) -> None:
    token = lab.tokens.issue(LOCAL_USER)
    place = str(lab.store) if kind == "on the same file" else lab.url
    with lab.client(token) as app:
        with notebook(place, token) as (run_id, process):
            waiting = app.get("/api/v1/runs", params={"status": "needs_approval"}).json()
            assert run_id in [one["run"]["id"] for one in waiting]
            killed(process)
        assert approved(app, run_id) == "completed"
    seen = Lab(place, token=token if kind == "remote" else None, settings=SETTINGS)
    assert weather_calls(seen, run_id) == [("ok", "approved")]
    assert run_id not in [run.id for run in seen.approvals]
    await seen.aclose()


async def test_begun_in_the_served_app_and_approved_in_a_notebook_which_tells_the_app(lab: LabProcess) -> None:
    user_token = lab.tokens.issue(LOCAL_USER)
    here, there = Lab(lab.store, settings=SETTINGS), remote_lab(lab, LOCAL_USER)
    with lab.client(user_token) as app:
        for notebook_lab in (here, there):
            run_id = begun(app)
            run = await notebook_lab.approvals[run_id].approve()
            assert run.status == "completed"
            assert app.get(f"/api/v1/runs/{run_id}").json()["run"]["status"] == "completed"
            refused = begun(app)
            run = await notebook_lab.approvals[refused].reject("Not today.")
            assert run.status == "completed"
            assert weather_calls(here, refused) == [("rejected", "rejected")]
    await here.aclose()
    await there.aclose()


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[list[LabProcess]]:
    """A served lab of this test's own, to be killed; the last of the list is stopped."""
    served = [await in_thread(start, tmp_path / "lab.duckdb", pages=False)]
    yield served
    stop(served[-1])


async def test_begun_in_the_served_app_that_is_then_killed_and_approved_in_notebooks(own: list[LabProcess]) -> None:
    served = own[0]
    token = served.tokens.issue(LOCAL_USER)
    remote = remote_lab(served, LOCAL_USER)
    with served.client(token) as app:
        first, second, third = (begun(app) for _ in range(3))
    thread_id = remote.get_run(third).thread_id
    chat = remote.chat(thread=thread_id)
    shown = Watcher(chat)
    await shown.until(lambda state: len(state["items"]) > 2)

    killed(served.process)
    with pytest.raises(StoreUnavailableError, match="timestep-lab serve"):
        remote.approvals.list()
    local = Lab(served.store, settings=SETTINGS)
    assert (await local.approvals[first].approve()).status == "completed"

    port = urlsplit(served.url).port
    assert port is not None
    own.append(await in_thread(start, served.store, port=port, pages=False))
    assert [run.id for run in remote.approvals] == [second, third]
    assert (await remote.approvals[second].approve()).status == "completed"
    assert local.get_run(second).status == "completed"

    with own[-1].client(token) as app:
        assert await in_thread(approved, app, third) == "completed"
    await shown.until(lambda state: state["items"][-1]["type"] == "assistant_message")
    assert [weather_calls(local, run_id) for run_id in (first, second, third)] == [[("ok", "approved")]] * 3
    shown.leave()
    await remote.aclose()
    await local.aclose()
