"""What more workers of one served lab on Postgres carry: chats that stream as fast as they can, from one worker and from as many as cores.

The clients and Postgres need processors, too: four workers are held to twice the load of one where the machine has eight cores or more.
Elsewhere the load with as many workers as cores is printed, and may not be lower than that of one. Run on a quiet machine:
`pytest tests/benchmarks/bench_workers.py -m benchmark -s`.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from tests.benchmarks.chat_load import Http, open_many
from tests.postgres.server import shared_server
from tests.postgres.test_workers import SECRET, serving

from timestep_lab.server.gate import Tokens

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600)]
CORES = os.cpu_count() or 1
MANY, LEAST = (4, 2.0) if CORES >= 8 else (max(2, CORES), 1.0)
CHATS, TOKENS = 60, 300
FASTEST = f"demo/slow?ttft=0&tps=100000&n={TOKENS}"


async def tokens_a_second(folder: Path, workers: int) -> float:
    users = [Tokens(SECRET).issue(f"00000000-0000-4000-8000-{n:012d}") for n in range(CHATS)]
    with shared_server().lab_url() as store, serving(store, folder, workers=workers) as (_, served):
        with served.nobody() as client:
            client.get("/settings", timeout=90).raise_for_status()
        chats = await open_many(Http, served.url, users)
        began = time.perf_counter()
        heard = await asyncio.gather(*(chat.ask(FASTEST) for chat in chats))
        taken_s = time.perf_counter() - began
    assert all(one.in_order(TOKENS) for one in heard)
    return CHATS * TOKENS / taken_s


async def test_workers_carry_more_than_one_process(tmp_path: Path) -> None:
    rates = {}
    for workers in (1, MANY):
        folder = tmp_path / str(workers)
        folder.mkdir()
        rates[workers] = await tokens_a_second(folder, workers)
    print(f"\n{CORES} cores: " + ", ".join(f"{n} workers {rate:,.0f} tokens/s" for n, rate in rates.items()))
    print(f"{rates[MANY] / rates[1]:.2f} × the load of one (wanted {LEAST:g})")
    assert rates[MANY] >= LEAST * rates[1]
