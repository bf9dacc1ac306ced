"""What the router adds to a streamed run: CPU of a run through it ÷ CPU of the same run by the bare Agents SDK.

Both talk Chat Completions to one loopback server; runs alternate, so that whatever the machine does meets both alike. Counted is the
time of the calling thread only: the server has its own. Run: `pytest tests/benchmarks/bench_run_overhead.py -m benchmark -s`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import pytest
from agents import Agent, ModelProvider, RunConfig, Runner
from agents.models.openai_provider import OpenAIProvider
from openai import AsyncOpenAI
from tests.wire import Reply, WireServer, Words, chat_completions

from timestep_lab.runtime.router import Router
from timestep_lab.runtime.settings import Settings

pytestmark = pytest.mark.benchmark
RUNS = 30
AT_MOST = 1.3


@pytest.fixture(scope="module")
def server() -> Iterator[WireServer]:
    with WireServer(chat_completions) as running:
        yield running


async def cpu_ms(provider: ModelProvider, model: str) -> float:
    agent = Agent(name="Bench", instructions="Be brief.", model=model)
    before = time.thread_time()
    result = Runner.run_streamed(agent, "Go.", run_config=RunConfig(model_provider=provider, tracing_disabled=True))
    async for _ in result.stream_events():
        pass
    assert result.final_output
    return (time.thread_time() - before) * 1000.0


@pytest.mark.parametrize("chunks", [5, 200])
async def test_a_run_through_the_router_costs_little_more_than_the_bare_sdk(server: WireServer, chunks: int) -> None:
    server.forget().will(Reply(Words(" ".join(["word"] * chunks))))
    client = AsyncOpenAI(api_key="none", base_url=f"{server.url}/v1")
    bare = OpenAIProvider(openai_client=client, use_responses=False)
    router = Router(Settings(openai_base_url=server.url))
    for provider in (bare, router):
        await cpu_ms(provider, "m")  # imports and connections are not the question
    pairs = [(await cpu_ms(bare, "m"), await cpu_ms(router, "m")) for _ in range(RUNS)]
    sdk, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"\n{chunks:>4} chunks: bare SDK {sdk:6.1f} ms, router {ours:6.1f} ms, ratio {ours / sdk:.2f} (at most {AT_MOST})"
    )
    await router.aclose()
    await client.close()
    assert ours / sdk <= AT_MOST
