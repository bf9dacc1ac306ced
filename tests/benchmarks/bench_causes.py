"""How often `lab.why` names what was planted, by kind of fault, and how often it accuses a run that failed by chance.

The plants and the rules that repair them come from one hand, so these are ceilings. `PLANTED` is the number of cases of each kind,
`SEED` where their seeds begin. Run: `PLANTED=20 pytest tests/benchmarks/bench_causes.py -m benchmark -s`.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from typing import Any

import pytest
from tests.evals.planted import KINDS, World
from tests.runtime.bench import open_bench

from timestep_lab.evals import cause
from timestep_lab.evals.cause import Why
from timestep_lab.model.records import RunRecord
from timestep_lab.runtime.tape import record

pytestmark = pytest.mark.benchmark
PLANTED = int(os.environ.get("PLANTED", "10"))
SEED = int(os.environ.get("SEED", "1000"))
POOL = 24
MOST_STEPS = int(os.environ.get("MOST_STEPS", "8"))


async def why(world: World, run: RunRecord, tools: Any) -> tuple[Why, float]:
    world.bench.writer.flush()
    began = time.perf_counter()
    question = await cause.ask(
        world.bench.runner, run.trace_id, wrong=world.is_wrong, right=None, tools=tools, on_miss="fail"
    )
    found = await cause.why(world.bench.runner, question)
    assert isinstance(found, Why)
    return found, time.perf_counter() - began


def outcome(world: World, found: Why) -> str:
    first = found.found[0] if found.found else None
    if first is None or first.verdict not in ("proven", "chance"):
        return "not told"
    return f"{first.verdict}, {'exact' if first.decision.step in world.true_steps else 'elsewhere'}"


async def one(kind: str | None, n: int, *, persistent: bool, on_tape: bool) -> tuple[str, float, int]:
    dice = random.Random(f"{SEED} {kind} {n} {persistent} {on_tape}")
    steps = dice.randint(3, MOST_STEPS)
    async with open_bench() as bench:
        world = World(bench, steps, SEED + n, fault=kind, at=dice.randrange(1, steps), persistent=persistent)
        pool = await world.healthy(POOL) if on_tape else []
        run = await (world.faulty() if kind else world.unlucky())
        bench.writer.flush()
        tools = record(bench.store, [run.trace_id, *(r.trace_id for r in pool)]) if on_tape else "live"
        found, seconds = await why(world, run, tools)
        return outcome(world, found), seconds, found.replays


async def table(title: str, kinds: Any, **how: bool) -> dict[str, Counter[str]]:
    print(f"\n{title}")
    counted: dict[str, Counter[str]] = {}
    for kind in kinds:
        told = [await one(kind, n, **how) for n in range(PLANTED)]
        counted[str(kind)] = Counter(outcome for outcome, _, _ in told)
        seconds, replays = (sum(t[i] for t in told) / len(told) for i in (1, 2))
        shares = ", ".join(f"{word} {count}" for word, count in counted[str(kind)].most_common())
        print(f"  {kind or 'no fault':<12} {shares}   ({seconds:.1f} s, {replays:.0f} replays)", flush=True)
        await asyncio.sleep(0)
    return counted


def share(counted: dict[str, Counter[str]], word: str) -> float:
    return sum(c[word] for c in counted.values()) / sum(c.total() for c in counted.values())


async def test_persistent_faults_with_live_tools_that_only_read() -> None:
    kinds = [kind for kind in KINDS if kind not in ("instruction", "result")]  # Those are told by other runs.
    counted = await table("persistent, live", kinds, persistent=True, on_tape=False)
    print(f"  exact and proven: {share(counted, 'proven, exact') * 100:.0f} % (wanted 90)")


async def test_persistent_faults_on_a_tape_of_healthy_runs() -> None:
    counted = await table(f"persistent, on a tape of {POOL} healthy runs", KINDS, persistent=True, on_tape=True)
    print(f"  exact and proven: {share(counted, 'proven, exact') * 100:.0f} % (wanted 80)")


async def test_one_off_faults() -> None:
    kinds = [kind for kind in KINDS if kind not in ("instruction", "result")]
    counted = await table("one-off, live", kinds, persistent=False, on_tape=False)
    print(f"  chance at the right step: {share(counted, 'chance, exact') * 100:.0f} % (wanted 80)")


async def test_failures_by_chance() -> None:
    counted = await table("by chance, live", [None], persistent=False, on_tape=False)
    proven = sum(n for c in counted.values() for word, n in c.items() if word.startswith("proven"))
    print(f"  proven: {proven} of {sum(c.total() for c in counted.values())} (wanted at most 2 %)")
