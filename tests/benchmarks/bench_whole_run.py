"""What a lab adds to a streamed run: store, session, events and trace. CPU ÷ that of the same run by the bare Agents SDK.

Both talk Chat Completions to one loopback server; runs alternate, so that whatever the machine does meets both alike. Two figures: the thread
that streams (what stands between the provider's words and the reader), which has a limit, and all threads of the process, which also
holds the rows being written. Run: `pytest tests/benchmarks/bench_whole_run.py -m benchmark -s`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
from agents import Agent, RunConfig, Runner
from agents.models.openai_provider import OpenAIProvider
from openai import AsyncOpenAI
from tests.runtime.bench import last, open_bench
from tests.wire import Reply, WireServer, Words, chat_completions

pytestmark = pytest.mark.benchmark
RUNS = 20
AT_MOST = {200: 1.3, 1000: 1.3}
"""Chunks to the largest ratio on the streaming thread."""

Cpu = tuple[float, float]


@pytest.fixture(scope="module")
def server() -> Iterator[WireServer]:
    with WireServer(chat_completions) as running:
        yield running


async def cpu(work: Callable[[], Awaitable[object]]) -> Cpu:
    thread, process = time.thread_time(), time.process_time()
    await work()
    return (time.thread_time() - thread) * 1000.0, (time.process_time() - process) * 1000.0


@pytest.mark.parametrize("chunks", list(AT_MOST))
async def test_a_run_in_a_lab_costs_little_more_than_the_bare_sdk(server: WireServer, chunks: int) -> None:
    server.forget().will(Reply(Words(" ".join(["word"] * chunks))))
    client = AsyncOpenAI(api_key="none", base_url=f"{server.url}/v1")
    config = RunConfig(model_provider=OpenAIProvider(openai_client=client, use_responses=False), tracing_disabled=True)
    agent = Agent(name="Bench", instructions="Be brief.", model="openai/m")
    bare_agent = agent.clone(model="m")

    async with open_bench(openai_base_url=server.url) as bench:

        async def bare() -> None:
            result = Runner.run_streamed(bare_agent, "Go.", run_config=config)
            async for _ in result.stream_events():
                pass
            assert result.final_output

        async def lab() -> None:
            assert last(await bench.run("Go.", agent)).run.status == "completed"

        for work in (bare, lab):
            await cpu(work)  # imports and connections are not the question
        runs = RUNS if chunks < 1000 else RUNS // 5
        pairs = [(await cpu(bare), await cpu(lab)) for _ in range(runs)]
    sdk, ours = ([statistics.median(column) for column in zip(*side, strict=True)] for side in zip(*pairs, strict=True))
    print(
        f"\n{chunks:>5} chunks, streaming thread: bare SDK {sdk[0]:6.1f} ms, lab {ours[0]:6.1f} ms, ratio {ours[0] / sdk[0]:.2f} "
        f"(at most {AT_MOST[chunks]}); whole process: bare SDK {sdk[1]:6.1f} ms, lab {ours[1]:6.1f} ms, ratio {ours[1] / sdk[1]:.2f}"
    )
    await client.close()
    assert ours[0] / sdk[0] <= AT_MOST[chunks]
