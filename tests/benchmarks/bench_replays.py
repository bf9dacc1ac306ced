"""What a replay without a conversation costs: its CPU ÷ that of the bare Agents SDK on the remaining turns, with the same models.

Runs alternate, so that whatever the machine does meets both alike. Reading the recorded run is done once for all its replays and is
shown apart. Run: `pytest tests/benchmarks/bench_replays.py -m benchmark -s`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from agents import Agent, RunConfig, Runner, function_tool
from tests.runtime.bench import Bench, calls, last, open_bench, says

from timestep_lab.runtime.warm_start import warm_start

pytestmark = pytest.mark.benchmark
TURNS = 30
RUNS = 40
AT_MOST = 1.5


@function_tool
def look(n: int) -> str:
    """Looks."""
    return f"Seen {n}."


def script(turns: int) -> list[Any]:
    return [*(calls(("look", {"n": n})) for n in range(turns - 1)), says("Done.")]


async def cpu_ms(work: Callable[[], Awaitable[object]]) -> float:
    before = time.thread_time()
    await work()
    return (time.thread_time() - before) * 1000.0


def renewed(bench: Bench, model: str, steps: list[Any]) -> None:
    """The model says `steps` from now on."""
    from agents.testing import ScriptedModel

    bench.router.scripts[model].inner = ScriptedModel(steps)


@pytest.mark.parametrize("left", [1, 5, 15, 29])
async def test_a_replay_costs_little_more_than_the_bare_sdk_on_the_remaining_turns(left: int) -> None:
    async with open_bench() as bench:
        model = bench.script(*script(TURNS))
        agent = Agent(name="Bench", model=model, tools=[look])
        run = last(await bench.run("Go.", agent, max_turns=TURNS)).run
        assert run.output == "Done."
        span = bench.spans("generation")[TURNS - left]["span_id"]
        read_ms = await cpu_ms(lambda: warm_start(bench.runner, run.trace_id, span))
        start = await warm_start(bench.runner, run.trace_id, span)
        given: Any = start.input
        bare_agent = agent.clone(model=bench.router.get_model(model))
        config = RunConfig(tracing_disabled=True)

        async def bare() -> None:
            result = await Runner.run(bare_agent, list(given), run_config=config, max_turns=TURNS)
            assert result.final_output == "Done."

        async def ours() -> None:
            assert (await start.replay()).output == "Done."

        async def kept() -> None:
            assert (await start.replay(keep_trace=True)).output == "Done."

        times: dict[Callable[[], Awaitable[None]], list[float]] = {bare: [], ours: [], kept: []}
        for n in range(RUNS + 2):
            for work, taken in times.items():
                renewed(bench, model, script(left))
                ms = await cpu_ms(work)
                taken += [ms] if n > 1 else []
        sdk, warm, traced = (statistics.median(taken) for taken in times.values())
        print(
            f"\n{left:>3} of {TURNS} turns left: bare SDK {sdk:6.2f} ms, replay {warm:6.2f} ms, ratio {warm / sdk:.2f} (at most {AT_MOST}); "
            f"with its trace kept {traced:6.2f} ms; reading the run, once {read_ms:6.2f} ms"
        )
        assert warm / sdk <= AT_MOST
