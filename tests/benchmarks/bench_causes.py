"""How often `lab.why` names what was planted, by kind of fault, and how often it accuses a run that failed by chance.

The plants and the rules that repair them come from one hand, so these are ceilings. A world has 3 to 30 steps (as many of each order of
size: log-uniform) and 24 healthy runs. In each, one persistent fault of every kind is planted, and its cause asked for twice, with live
tools and on a tape of the healthy runs; in every other world one one-off fault of every kind; and `CHANCE` runs without a fault that
failed are asked about. `WORLDS` is the number of worlds, `SEED` where their seeds begin, `WORKERS` the processes. Each row is written to
the file `ROWS` when it is there; rows that are there already are not made again.
Run: `WORLDS=34 ROWS=causes.jsonl pytest tests/benchmarks/bench_causes.py -m benchmark -s -k planted --timeout=0`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pytest
from tests.evals.planted import KINDS, World
from tests.runtime.bench import open_bench, says

from timestep_lab.evals import cause
from timestep_lab.evals.cause import Why
from timestep_lab.evals.statistics.intervals import wilson
from timestep_lab.model.records import RunRecord
from timestep_lab.runtime.tape import record

pytestmark = pytest.mark.benchmark
WORLDS = int(os.environ.get("WORLDS", "2"))
CHANCE = int(os.environ.get("CHANCE", "9"))
SEED = int(os.environ.get("SEED", "1000"))
WORKERS = int(os.environ.get("WORKERS", "2"))
LEAST_STEPS, MOST_STEPS = 3, int(os.environ.get("MOST_STEPS", "30"))
POOL = 24
CONCURRENCY = int(os.environ.get("CONCURRENCY", "32"))
LIVE, TAPE, ONE_OFF, BY_CHANCE = (
    "persistent, live",
    f"persistent, on a tape of {POOL}",
    "one-off, live",
    "by chance, live",
)
WANTED = {
    LIVE: ("proven, exact", "at least 90 %"),
    TAPE: ("proven, exact", "at least 80 %"),
    ONE_OFF: ("chance, exact", "at least 80 %"),
    BY_CHANCE: ("proven, elsewhere", "at most 2 %"),
}
"""The outcome that is counted, and how often it is wanted."""
Row = dict[str, Any]


async def told(world: World, run: RunRecord, tools: Any) -> Row:
    world.bench.writer.flush()
    began, cpu = time.perf_counter(), time.process_time()
    question = await cause.ask(
        world.bench.runner, run.trace_id, wrong=world.is_wrong, right=None, tools=tools, on_miss="fail"
    )
    found = await cause.why(world.bench.runner, question)
    assert isinstance(found, Why)
    first = found.found[0] if found.found else None
    word = "not told"
    if first is not None and first.verdict in ("proven", "chance"):
        word = f"{first.verdict}, {'exact' if world.fault and first.decision.step in world.true_steps else 'elsewhere'}"
    return {
        "told": word, "true": list(world.true_steps), "at": world.at, "verdict": found.verdict, "suspects": len(found.found),
        "replays": found.replays, "seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu,
    }  # fmt: skip


async def rows_of(n: int, known: Collection[tuple[str, str, int]]) -> AsyncIterator[Row]:
    """Of one world."""
    dice = random.Random(f"{SEED} {n}")
    steps = round(LEAST_STEPS * (MOST_STEPS / LEAST_STEPS) ** dice.random())
    hand_at = dice.choice([0, dice.randrange(steps)])
    places = {
        kind: dice.randint(hand_at, steps) if kind == "instruction" else dice.randrange(1, steps) for kind in KINDS
    }
    about = {"seed": SEED, "n": n, "steps": steps, "hand_at": hand_at}
    async with open_bench() as bench:
        world = World(bench, steps, dice.getrandbits(32), hand_at=hand_at)
        pool = await world.healthy(POOL)
        failed = [run for run in pool if world.is_wrong(run.output or "")]
        for title, persistent in ((LIVE, True), (ONE_OFF, False)):
            for kind in KINDS if persistent or n % 2 == 0 else ():
                world.plant(kind, places[kind], persistent=persistent)
                run = await world.faulty()
                if (title, kind, n) not in known:
                    yield {"title": title, "kind": kind, **about, **await told(world, run, "live")}
                if persistent and (TAPE, kind, n) not in known:
                    tape = record(bench.store, [run.trace_id, *(r.trace_id for r in pool)])
                    yield {"title": TAPE, "kind": kind, **about, **await told(world, run, tape)}
        world.plant(None)
        for m in range(CHANCE):
            run = failed[m] if m < len(failed) else await world.unlucky()
            if (BY_CHANCE, f"run {m}", n) not in known:
                yield {"title": BY_CHANCE, "kind": f"run {m}", **about, **await told(world, run, "live")}


def write_world(path: Path, n: int, known: Collection[tuple[str, str, int]]) -> None:
    async def write() -> None:
        async for row in rows_of(n, known):
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")

    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    asyncio.run(write())


def test_what_was_planted_is_named(tmp_path: Path) -> None:
    path = Path(os.environ.get("ROWS") or tmp_path / "rows.jsonl")
    known = {(row["title"], row["kind"], row["n"]) for row in read(path)}
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as workers:
        for done in as_completed([workers.submit(write_world, path, n, known) for n in range(WORLDS)]):
            done.result()
    show(read(path))


def read(path: Path) -> list[Row]:
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row for row in rows if row["seed"] == SEED]


@pytest.mark.parametrize(("at", "talkative"), [(26, False), (4, False), (4, True)])
async def test_how_long_it_takes_on_a_run_of_30_steps_and_a_model_of_100_ms(at: int, talkative: bool) -> None:
    """Late in the run there are about ten suspects, early about as many as are ever tried. A talkative agent says something else each time,
    so none of its continuations counts for two decisions. Run with `-k how_long`; `CONCURRENCY` is the number of replays at once."""
    async with open_bench() as bench:
        world = World(bench, 30, 1, noise=0.05, fault="swap", at=at)
        asked = 0
        for name in ("demo/policy-0", "demo/policy-1"):
            policy: Any = bench.router.scripts[name].inner
            decide = policy.decide

            def counted(*given: Any, decide: Any = decide) -> list[Any]:
                nonlocal asked
                asked += 1
                aside = says(f"Thought {asked}.") if talkative else []
                return [*aside, *decide(*given)]

            policy.decide = counted
        await world.healthy(2)
        run = await world.faulty()
        bench.writer.flush()
        world.switch.takes_s = 0.1
        question = await cause.ask(
            bench.runner, run.trace_id, wrong=world.is_wrong, right=None, tools="live", on_miss="fail"
        )

        async def timed(title: str, wanted_s: int, search: Any) -> Any:
            before, began, cpu = asked, time.perf_counter(), time.process_time()
            found = await search
            calls = asked - before
            print(
                f"  {title}: {time.perf_counter() - began:5.1f} s (wanted: at most {wanted_s}); {calls} model calls are "
                f"{calls * world.switch.takes_s / CONCURRENCY:.1f} s at {CONCURRENCY} at once; CPU {time.process_time() - cpu:.1f} s, "
                f"{(time.process_time() - cpu) / calls * 1000:.2f} ms per call"
            )
            return found

        print(f"\nFault at step {at}{', of an agent that never repeats its words' * talkative}")
        await timed("outlook    ", 20, cause.outlook(bench.runner, question, k=8, concurrency=CONCURRENCY))
        found = await timed("rest of why", 60, cause.why(bench.runner, question, concurrency=CONCURRENCY))
        assert isinstance(found, Why)
        print(
            f"  {len(found.outlook.decisions)} decisions, {len(found.found)} suspects, {found.replays} replays. {found.verdict}"
        )


def show(rows: list[Row]) -> None:
    for title, (counted, wish) in WANTED.items():
        print(f"\n{title}")
        for kind in [*([] if title == BY_CHANCE else KINDS), "all"]:
            chosen = [row for row in rows if row["title"] == title and kind in (row["kind"], "all")]
            if not chosen:
                continue
            outcomes = Counter(row["told"] for row in chosen)
            share, bounds = outcomes[counted] / len(chosen), wilson(outcomes[counted], len(chosen))
            cpu, replays = (sum(row[name] for row in chosen) / len(chosen) for name in ("cpu", "replays"))
            print(
                f"  {kind:<12} {counted} {outcomes[counted]:>3} of {len(chosen):<3} = {share * 100:5.1f} % ({bounds.low * 100:.0f}–"
                f"{bounds.high * 100:.0f}{f', wanted {wish}' if kind == 'all' else ''}); "
                f"{', '.join(f'{word} {count}' for word, count in outcomes.most_common() if word != counted) or 'no other'}; "
                f"{cpu:.1f} s of CPU, {replays:.0f} replays"
            )
