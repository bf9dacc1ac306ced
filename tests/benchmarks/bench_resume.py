"""A comparison of 200 cases × 3 candidates × 1 judge, killed at random twice and resumed: what is asked twice, and how long a rerun takes.

pytest tests/benchmarks/bench_resume.py -m benchmark -s
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.evals.benches import opened
from tests.evals.loopback import model_server
from tests.evals.test_trouble import KILLED_TWICE

from timestep_lab.evals.compare import new_comparison, resume_comparison

pytestmark = pytest.mark.benchmark
CASES = 200
LAST_MOMENT_S = 1.0
"""What came so shortly before a kill may not have reached the store."""


@pytest.mark.parametrize("seed", range(3))
async def test_killed_at_random_twice_everything_is_asked_once_and_a_rerun_asks_nothing(
    tmp_path: Path, seed: int
) -> None:
    def behaves(said: str, _: int) -> str:
        return '{"pass": true}' if said.startswith("Rubric") else f"{said}, answered"

    path, id, late, chance = tmp_path / "lab.duckdb", "", set(), random.Random(seed)
    script = KILLED_TWICE.replace("range(40)", f"range({CASES})")
    assert script != KILLED_TWICE
    with model_server(behaves, delay_s=0.02) as server:
        for _ in range(2):
            command = [sys.executable, "-c", script, str(path), server.url, *([id] if id else [])]
            child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
            assert child.stdout is not None
            id = child.stdout.readline().strip()
            before, more = len(server.asked), chance.randrange(20, 500)
            while len(server.asked) < before + more:
                time.sleep(0.002)
            os.kill(child.pid, signal.SIGKILL)
            killed = time.monotonic()
            child.wait()
            child.stdout.close()
            late |= {(model, text) for at, model, text in server.asked if at > killed - LAST_MOMENT_S}
        async with opened(path, server.url) as bench:
            grid = await (await resume_comparison(bench, id)).run()
            asked = Counter((model, text) for _, model, text in server.asked)
            assert len(grid.cells) == 3 * CASES
            assert all(count == 1 for key, count in asked.items() if key not in late)
            total, began = len(server.asked), time.perf_counter()
            again = await new_comparison(
                bench, [f"question {n}" for n in range(CASES)], models=[f"openai_compatible/loop/{name}" for name in "abc"],
                scorers=[{"type": "judge", "rubric": "fine", "model": "openai_compatible/loop/judge"}],
            )  # fmt: skip
            await again.run()
            took = time.perf_counter() - began
            assert len(server.asked) == total
    twice = sum(count > 1 for count in asked.values())
    print(
        f"\n{len(asked):,} questions and judgements, {twice} asked again, all of them under way within {LAST_MOMENT_S:g} s of a kill;"
        f" a rerun asked nothing in {took:.2f} s"
    )
    assert took < 2.0 or (os.getloadavg()[0] > 2 * (os.cpu_count() or 1))
