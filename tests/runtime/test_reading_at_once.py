"""What a run did can be read when it returns: by every reader of this process, and by other processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import agents as sdk
import pytest

from tests.postgres.server import shared_server
from tests.runtime.bench import SETTINGS
from tests.server.lab_process import LabProcess
from timestep_lab.lab.lab import Lab
from timestep_lab.lab.remote.lab import RemoteLab
from timestep_lab.lab.run import Run
from timestep_lab.model.events import ItemUpdated
from timestep_lab.model.ids import new_uuid

ROUNDS, KINDS = 2, 13
READER = """
import json, sys
from timestep_lab import Lab
lab = Lab(sys.argv[1], token=sys.argv[2] or None)
print("open", flush=True)
for line in sys.stdin:
    print(json.dumps(lab.sql(line).values.tolist(), default=str), flush=True)
"""


class Reader:
    """Another process that has the lab open, and reads what it is told to."""

    def __init__(self, url: str, token: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", READER, url, token], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        assert self.process.stdout.readline() == "open\n"

    def sql(self, query: str) -> list[list[Any]]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(query + "\n")
        self.process.stdin.flush()
        rows: list[list[Any]] = json.loads(self.process.stdout.readline())
        return rows

    def end(self) -> None:
        self.process.communicate(timeout=20)


@contextmanager
def url_of(kind: str, folder: Path) -> Iterator[str]:
    if kind == "postgres":
        with shared_server().lab_url() as url:
            yield url
    else:
        yield ":memory:" if kind == "memory" else str(folder / "lab.duckdb")


STORES = ["memory", "owner", "client", "postgres", "served"]


@pytest.fixture(params=STORES)
async def lab_and_reader(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Lab, Reader | None]]:
    """`client`: the other process came first, and owns the file. `served`: both ask a third, which serves the lab."""
    with url_of(request.param, tmp_path) as url:
        token = ""
        if request.param == "served":
            process: LabProcess = request.getfixturevalue("served_lab")
            url, token = process.url, process.tokens.issue(new_uuid())
        reader = Reader(url, token) if request.param == "client" else None
        lab = Lab(url, token=token or None, settings=SETTINGS)
        if request.param in ("owner", "postgres", "served"):
            reader = Reader(url, token)
        yield lab, reader
        await lab.aclose()
        if reader:
            reader.end()


async def every_kind_of_run(lab: Lab) -> AsyncIterator[Run]:
    """Completed, failed, paused, approved, rejected, withdrawn, forked, cancelled on the way; stored agents and those of the SDK."""
    theme = "Switch to the dark theme."
    yield await lab.run(theme, model="demo/assistant", approve="all")
    yield await lab.run("hello", model="demo/echo")
    # An SDK agent lives in this process, so a served lab cannot run it.
    mine = None if isinstance(lab, RemoteLab) else sdk.Agent(name="Mine", instructions="Be brief.")
    yield await lab.run("hello", agent=mine, model="demo/echo")
    yield await lab.run("hello", model="demo/flaky?rate=1&seed=1")
    for decide in (Run.approve, Run.reject, None):
        paused = await lab.run("What is the weather in Berkeley?", model="demo/assistant")
        assert paused.status == "needs_approval"
        yield paused
        if decide is None:
            await lab.cancel(paused.id)
            yield lab.get_run(paused.id)
        else:
            decided = await decide(paused)
            yield decided
            yield await lab.fork(decided)
    stream = lab.stream("go", model="demo/slow?ttft=0&tps=200&n=500")
    stopped = False
    async for event in stream:
        if isinstance(event, ItemUpdated) and not stopped:
            stopped = True
            await lab.cancel(stream.run.id)
            yield lab.get_run(stream.run.id)
    assert stream.run.status == "cancelled"


async def test_what_a_run_did_can_be_read_when_it_returns(lab_and_reader: tuple[Lab, Reader | None]) -> None:
    assert await misses(*lab_and_reader, rounds=ROUNDS) == ([], ROUNDS * KINDS)


async def misses(lab: Lab, reader: Reader | None, *, rounds: int) -> tuple[list[str], int]:
    """What could not be read at once after a run, and how many runs there were."""
    missed, runs = [], 0
    for _ in range(rounds):
        async for run in every_kind_of_run(lab):
            runs += 1
            trace = f"from traces where trace_id = '{run.trace_id}'"
            spans = f"from spans where trace_id = '{run.trace_id}' and ended_at is null"
            tokens = f"select coalesce(sum(output_tokens), 0) from generations where trace_id = '{run.trace_id}'"
            frame = run.trace.df()
            waiting = len(run.interruptions)
            seen = {
                "status": list(lab.sql(f"select status {trace}")["status"]) == [run.status],
                "open spans": lab.sql(f"select count(*) as n {spans}")["n"][0] == waiting,
                "tokens": lab.sql(tokens).iloc[0, 0] == run.usage.output_tokens,
                "waterfall": len(frame) > 0 and int((frame["status"] == "pending").sum()) == waiting,
                "explorer": run.trace_id in set(lab.traces.df()["trace_id"]),
                "thread": len(list(run.thread.items)) > 0,
                "run": lab.get_run(run.id).status == run.status,
            }
            if reader:
                seen["elsewhere"] = reader.sql(f"select status {trace}") == [[run.status]]
                seen["open spans elsewhere"] = reader.sql(f"select count(*) {spans}") == [[waiting]]
                seen["tokens elsewhere"] = reader.sql(tokens)[0][0] == run.usage.output_tokens
            missed += [f"{name} of a run that is {run.status}" for name, there in seen.items() if not there]
    return missed, runs


async def test_what_a_comparison_did_can_be_read_when_it_returns(lab_and_reader: tuple[Lab, Reader | None]) -> None:
    lab, reader = lab_and_reader
    for n in range(3):
        await lab.compare([f"{n} {k}" for k in range(10)], models=["demo/echo", "demo/assistant"])
        wanted = 20 * (n + 1)
        done = "select count(*) as n from traces where status <> 'running'"
        assert lab.sql(done)["n"][0] == wanted
        assert reader is None or reader.sql(done) == [[wanted]]
