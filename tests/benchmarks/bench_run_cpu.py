"""What a whole short run costs in processor time: 300 runs of `demo/echo`, one after the other and 20 at once, with all threads of the process
(`os.times`), on a DuckDB file and on Postgres (whose server is a process of its own).

Wanted: 12 ms a run when they come together, as they do in a served lab. Run: `pytest tests/benchmarks/bench_run_cpu.py -m benchmark -s`.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from tests.postgres.server import shared_server

from timestep_lab import Lab

pytestmark = pytest.mark.benchmark
RUNS = 300
AT_MOST_MS = 12.0


@pytest.mark.parametrize("store", ["duckdb", "postgres"])
@pytest.mark.parametrize("at_once", [1, 20])
async def test_a_run_costs_little(tmp_path: Path, store: str, at_once: int) -> None:
    with nullcontext(str(tmp_path / "lab.duckdb")) if store == "duckdb" else shared_server().lab_url() as url:
        lab = Lab(url)
        some = asyncio.Semaphore(at_once)

        async def one() -> None:
            async with some, asyncio.timeout(60):
                assert (await lab.run("Go.", model="demo/echo")).status == "completed"

        for _ in range(5):
            await one()  # Imports are not the question.
        before, loop, began = os.times(), time.thread_time(), time.perf_counter()
        await asyncio.gather(*(one() for _ in range(RUNS)))
        after = os.times()
        cpu = (after.user + after.system - before.user - before.system) / RUNS * 1000.0
        print(
            f"\n{store:>8}, {at_once:>2} at once: {cpu:5.1f} ms of processor a run, of them {(time.thread_time() - loop) / RUNS * 1000.0:5.1f} ms "
            f"of the event loop; {RUNS / (time.perf_counter() - began):5.0f} runs/s", flush=True,
        )  # fmt: skip
        await lab.aclose()
