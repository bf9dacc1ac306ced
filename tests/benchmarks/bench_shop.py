"""Pairs of agents in a shop of 500 customers and 1,000 orders: how often the verdict on tape is the one of live tools.

One of each pair errs in a planted share of the 114 tasks; the tape is a run of the other. Calls that it does not have are simulated.
Run: `PLANTED=10 pytest tests/benchmarks/bench_shop.py -m benchmark -s`.
"""

from __future__ import annotations

import os
import time

import pytest
from tests.evals import shop
from tests.runtime.bench import Policy, says

from timestep_lab import Lab

pytestmark = pytest.mark.benchmark
PLANTED = int(os.environ.get("PLANTED", "10"))
SEED = int(os.environ.get("SEED", "1000"))
SHARES = 0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6


async def test_the_verdict_on_tape_is_the_verdict_live() -> None:
    alike, changed = 0, 0
    for n in range(PLANTED):
        async with Lab(":memory:") as lab:
            bench = shop.Bench(lab)
            errs = SHARES[n % len(SHARES)]
            good, bad = bench.candidate(), bench.candidate(errs, SEED + n, "Other desk")
            began = time.perf_counter()
            live = await bench.compare(good, bad)
            tape, before = bench.tape_of(await bench.compare(good)), bench.changed
            model = lab.router.add_model(Policy(lambda *_: says('"done"')))
            taped = [await bench.compare(good, bad, tools=tape, on_miss=f"simulate:{model}") for _ in range(2)]
            told = [[row.outcome for row in grid.decision if row.measure == "quality"] for grid in (live, taped[0])]
            alike += told[0] == told[1]
            changed += bench.changed - before
            print(
                f"  errs in {errs:.0%}: live {told[0]}, on tape {told[1]}, misses {taped[0].tape.miss_rate('Other desk'):.1%}, "
                f"of the recording agent {taped[0].tape.miss_rate('Shop desk'):.1%}, twice the same "
                f"{shop.written(taped[0]) == shop.written(taped[1])} ({time.perf_counter() - began:.0f} s)",
                flush=True,
            )
    print(
        f"\n  verdicts alike: {alike} of {PLANTED} (wanted 9 of 10); live calls that change something on tape: {changed}"
    )
