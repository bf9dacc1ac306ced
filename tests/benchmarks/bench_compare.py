"""A comparison beside the bare Agents SDK doing the same calls: 1,000 cases × 2 models, a server that answers in 100 ms, 100 at once.

A comparison streams every answer, because only a stream says when its first token came. It is held to 1.15 of the SDK's quicker run, which is
not streamed and measures no first token, and which most people who write the loop by hand take; the streamed run is printed beside it. The
whole process, from starting Python to the last answer stored, is held to 1.4.

pytest tests/benchmarks/bench_compare.py -m benchmark -s
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import agents as sdk
import numpy as np
import pytest
from openai import AsyncOpenAI
from tests.evals.benches import opened
from tests.evals.loopback import Trouble, model_server

from timestep_lab.evals.compare import new_comparison
from timestep_lab.evals.engine import Comparison
from timestep_lab.evals.results import EvalContext
from timestep_lab.evals.statistics.paired import resampled_means

pytestmark = pytest.mark.benchmark

CASES, AT_ONCE, DELAY_S = 1000, 100, 0.1
ROUNDS = 3
"""In turns, the quickest of each: what else the machine does is not part of any."""
ALLOWED, ALLOWED_AS_A_PROCESS = 1.15, 1.4
SERVER = """
import sys, time
from tests.evals.loopback import Server, model_server
from timestep_lab.runtime.span_records import unread_s
took, reply = [], Server.reply

async def clocked(self, body, writer):
    came = time.monotonic() - unread_s(writer.get_extra_info("socket"))
    await reply(self, body, writer)
    took.append(time.monotonic() - came)

Server.reply = clocked
with model_server(lambda said, _: "one two three four five", delay_s=float(sys.argv[1]), pieces=5) as server:
    print(server.url, flush=True)
    sys.stdin.read()
    print(sorted(took)[len(took) // 2] * 1000)
"""


BARE_PROCESS = """
import asyncio, sys
import agents as sdk
from openai import AsyncOpenAI

async def main(url):
    sdk.set_tracing_disabled(True)
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        agents = [sdk.Agent(name=m, model=sdk.OpenAIChatCompletionsModel(model=m, openai_client=client)) for m in ("a", "b")]
        slots = iter([(agent, f"question {n}") for n in range(1000) for agent in agents])
        async def work():
            for agent, question in slots:
                assert (await sdk.Runner.run(agent, question)).final_output
        await asyncio.gather(*(work() for _ in range(100)))

asyncio.run(main(*sys.argv[1:]))
"""
PROCESS = """
import asyncio, sys
from timestep_lab import Lab
from timestep_lab.runtime.settings import Settings

async def main(url, path):
    async with Lab(path, settings=Settings(openai_compatible={"loop": url})) as lab:
        models = ["openai_compatible/loop/a", "openai_compatible/loop/b"]
        grid = await lab.compare([f"question {n}" for n in range(1000)], models=models, scorers=["contains:three"], concurrency=100)
        assert list(grid.summary()["n"]) == [1000, 1000]

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The server lives in a process of its own: its work is not ours."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(DELAY_S)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.communicate()


async def test_at_a_hundred_calls_at_once_a_models_latency_is_its_own(tmp_path: Path) -> None:
    """The median beside the server's own clock, from a request's arrival to the answer sent."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, "0.3"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    async with opened(tmp_path / "lab.duckdb", url) as bench:
        cases = [f"question {n}" for n in range(500)]
        comparison = await new_comparison(bench, cases, models=["openai_compatible/loop/a"], concurrency=100)
        [row] = (await comparison.run()).candidate_rows
    out, _ = process.communicate()
    assert row.latency_ms_p50 is not None
    own = row.latency_ms_p50 - float(out)
    print(
        f"\nmedian latency {row.latency_ms_p50:.0f} ms, by the server's clock {float(out):.0f} ms: {own:.1f} ms are ours"
    )
    assert own < 5


async def bare_sdk(url: str, *, streamed: bool, cases: int = CASES) -> tuple[float, float]:
    """(seconds, CPU seconds) of the same calls with nothing but the SDK."""
    sdk.set_tracing_disabled(True)
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        agents = [
            sdk.Agent(name=m, model=sdk.OpenAIChatCompletionsModel(model=m, openai_client=client)) for m in ("a", "b")
        ]
        slots = iter([(agent, f"question {n}") for n in range(cases) for agent in agents])

        async def work() -> None:
            for agent, question in slots:
                if streamed:
                    async for _ in (result := sdk.Runner.run_streamed(agent.clone(), question)).stream_events():
                        pass
                    assert result.final_output
                else:
                    assert (await sdk.Runner.run(agent.clone(), question)).final_output

        timed = await clock(lambda: asyncio.gather(*(work() for _ in range(AT_ONCE))))
    sdk.set_tracing_disabled(False)
    return timed


async def clock(work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    await work()
    return time.perf_counter() - wall, time.process_time() - cpu


async def test_a_comparison_costs_little_more_than_its_calls(url: str, tmp_path: Path) -> None:
    # Each runs once before it is timed: what Python imports on the way is not part of any of them.
    for streamed in (False, True):
        await bare_sdk(url, streamed=streamed, cases=10)
    async with opened(tmp_path / "first.duckdb", url) as bench:
        await (
            await new_comparison(bench, ["a", "b"], models=["openai_compatible/loop/a", "openai_compatible/loop/b"])
        ).run()
    rows: dict[str, tuple[float, float]] = {}
    for turn in range(ROUNDS):
        took = {
            "bare SDK": await bare_sdk(url, streamed=False),
            "bare SDK, streamed": await bare_sdk(url, streamed=True),
        }
        async with opened(tmp_path / f"lab{turn}.duckdb", url) as bench:
            models = ["openai_compatible/loop/a", "openai_compatible/loop/b"]
            cases = [f"question {n}" for n in range(CASES)]
            comparison = await new_comparison(
                bench, cases, models=models, scorers=["contains:three"], concurrency=AT_ONCE
            )

            async def run(comparison: Comparison = comparison, bench: EvalContext = bench) -> None:
                grid = await comparison.run()
                bench.writer.flush()
                assert list(grid.summary()["n"]) == [CASES, CASES]

            took["comparison, traced and stored"] = await clock(run)
            assert bench.store.sql("select count(*) from traces where status = 'completed'").one() == (2 * CASES,)
            assert bench.store.sql("select count(*) from comparisons").one() == (2 * CASES,)
        for name, one in took.items():
            rows[name] = min(one, rows.get(name, one))
    print()
    for name, (wall, cpu) in rows.items():
        print(f"{name:32} {wall:6.2f} s   {cpu / 2 / CASES * 1000:5.2f} ms CPU a call")
    ours = rows["comparison, traced and stored"][0]
    strict, like_for_like = ours / rows["bare SDK"][0], ours / rows["bare SDK, streamed"][0]
    print(f"{strict:.2f} × the bare SDK, not streamed; {like_for_like:.2f} × the bare SDK, streamed as we stream")
    assert strict <= ALLOWED


def test_a_whole_process_that_compares_takes_little_longer_than_one_that_only_asks(url: str, tmp_path: Path) -> None:
    took: dict[str, tuple[float, float]] = {}
    for turn in range(ROUNDS):
        lab = str(tmp_path / f"lab{turn}.duckdb")
        for name, script, more in (("bare SDK", BARE_PROCESS, []), ("comparison", PROCESS, [lab])):
            began, spent = time.perf_counter(), cpu_of_children_s()
            subprocess.run([sys.executable, "-c", script, url, *more], check=True, cwd=Path(__file__).parents[2])
            wall, cpu = time.perf_counter() - began, cpu_of_children_s() - spent
            least = took.get(name, (1e9, 1e9))
            took[name] = (min(least[0], wall), min(least[1], cpu))
    print("\n2,000 calls, the whole process:")
    for name, (wall, cpu) in took.items():
        print(f"{name:12} {wall:5.1f} s   {cpu:5.1f} s CPU")
    ratio, of_cpu = (ours / bare for ours, bare in zip(took["comparison"], took["bare SDK"], strict=True))
    print(f"{ratio:.2f} × the bare SDK; {of_cpu:.2f} × its CPU time")
    assert ratio <= ALLOWED_AS_A_PROCESS


def cpu_of_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def test_waits_are_told_apart_within_ten_milliseconds_of_what_the_server_did(tmp_path: Path) -> None:
    """429 for 0.3 s, then an answer after 0.2 s, by the server's own clock; the median of five cases after a first."""

    def behaves(said: str, before: int) -> str | Trouble:
        return "ok" if before else Trouble(429, (("retry-after-ms", "300"),))

    off: list[tuple[float, float, float]] = []
    with model_server(behaves, delay_s=0.2) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            for n in range(6):
                grid = await (await new_comparison(bench, [f"case {n}"], models=["openai_compatible/loop/m"])).run()
                bench.writer.flush()
                sql = "select rate_limit_ms, ttft_ms, queue_ms from generations where trace_id = $1"
                [(limited, first, queued)] = bench.store.sql(sql, [grid.cells[0].trace_id]).rows
                refused, came, answered = server.replied[-2], server.asked[-1][0], server.replied[-1]
                off.append((limited - (came - refused) * 1000, first - (answered - came) * 1000, queued))
    medians = np.median(np.abs(off[1:]), axis=0)
    print("\noff by (median, ms): rate limit {:.1f}, first token {:.1f}, queue {:.1f}".format(*medians))
    assert all(medians < 10)


def test_ten_thousand_resamples_of_a_thousand_cases_take_less_than_two_seconds() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    start = time.perf_counter()
    resampled_means(values, resamples=10_000)
    took = time.perf_counter() - start
    print(f"\n10,000 resamples × 1,000 cases: {took:.2f} s")
    assert took < 2.0
