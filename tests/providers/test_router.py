"""Names to models, and what is said when a name leads nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from agents import Agent, ModelRetrySettings, ModelSettings, RunConfig, Runner, retry_policies

from tests.providers.calling import Answer, ask, run
from tests.providers.cases import ANTHROPIC, CHAT
from tests.wire import Fault, Reply, WireServer, Words
from timestep_lab.model.errors import MissingKeyError, ModelNotFoundError, UnknownPrefixError
from timestep_lab.runtime.provider_errors import AdaptiveLimiter
from timestep_lab.runtime.router import Router
from timestep_lab.runtime.settings import Settings
from timestep_lab.runtime.span_records import GenerationTiming

STILL = Settings(demo_delay_ms=0)


@pytest.mark.parametrize(
    ("name", "prefix", "model"),
    [
        ("gpt-4.1", "openai", "gpt-4.1"),
        ("openai/gpt-4.1", "openai", "gpt-4.1"),
        ("hf_inference_providers/org/model:host", "hf_inference_providers", "org/model:host"),
        ("local//models/a.gguf", "local", "/models/a.gguf"),
        (None, "demo", "assistant"),
    ],
)
def test_a_name_is_split_at_its_first_slash(name: str | None, prefix: str, model: str) -> None:
    ref = Router(STILL).resolve(name)
    assert (ref.prefix, ref.model) == (prefix, model)
    assert Router(STILL).resolve(ref.full) == ref


def test_an_unknown_prefix_is_told_with_the_known_ones_and_a_guess() -> None:
    with pytest.raises(
        UnknownPrefixError, match=r"'olama'.*Did you mean 'ollama'.*anthropic.*demo/assistant"
    ) as raised:
        Router(STILL).get_model("olama/qwen3")
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("name", ["openai/", "demo/"])
def test_a_prefix_alone_is_no_model(name: str) -> None:
    with pytest.raises(UnknownPrefixError, match="no model"):
        Router(STILL).resolve(name)


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("gpt-4.1", "OPENAI_API_KEY"), ("anthropic/claude-sonnet-5", "ANTHROPIC_API_KEY"),
        ("hf_inference_providers/a/b", "HF_TOKEN"), ("ollama/x-cloud", "OLLAMA_API_KEY"),
        ("hf_inference_endpoints/mine", "HF_INFERENCE_ENDPOINTS"), ("openai_compatible/mine/m", "OPENAI_COMPATIBLE"),
    ],
)  # fmt: skip
def test_a_missing_key_is_named_and_a_keyless_way_offered(name: str, variable: str) -> None:
    with pytest.raises(MissingKeyError, match=variable) as raised:
        Router(STILL).get_model(name)
    assert "demo/assistant" in raised.value.next_step
    assert raised.value.exit_code == 2


def test_a_server_named_nearly_right_is_guessed() -> None:
    settings = Settings(openai_compatible={"lmstudio": "http://127.0.0.1:1/v1"})
    with pytest.raises(MissingKeyError, match="Did you mean 'lmstudio'"):
        Router(settings).get_model("openai_compatible/lmstuido/m")


def test_every_provider_says_whether_it_is_ready_or_what_to_do() -> None:
    statuses = {status.prefix: status for status in Router(STILL).providers()}
    assert set(statuses) == {
        "openai", "anthropic", "ollama", "hf_inference_providers", "hf_inference_endpoints", "openai_compatible", "local", "demo",
    }  # fmt: skip
    assert statuses["demo"].ready
    assert statuses["demo"].badge == "no language model"
    for status in statuses.values():
        assert status.ready or status.next_step
    keyed = {status.prefix: status for status in Router(Settings(openai_api_key="sk-1")).providers()}
    assert keyed["openai"].ready
    assert "sk-1" not in str(keyed)


async def test_listing_everything_asks_only_what_is_ready_and_survives_one_that_is_down() -> None:
    router = Router(Settings(ollama_host="http://127.0.0.1:9"))
    names = await router.list_models()
    assert "demo/assistant" in names
    assert not [name for name in names if name.startswith("ollama/")]
    await router.aclose()


async def test_a_package_of_ones_own_adds_a_provider_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint, EntryPoints

    from timestep_lab.runtime import router as module

    ours = EntryPoints([EntryPoint("mine", "timestep_lab.runtime.providers.demo:Provider", module.ENTRY_POINTS)])
    monkeypatch.setattr(module, "entry_points", lambda **query: ours.select(**query))
    router = Router(STILL)
    assert "mine" in router.prefixes
    assert (await ask(router.get_model("mine/echo?bare=1"), "Hi")).text == "Hi"


async def test_several_event_loops_in_a_row_can_use_one_router() -> None:
    def once(router: Router) -> str:
        async def go() -> str:
            return (await ask(router.get_model("demo/echo?bare=1"), "again")).text

        return asyncio.run(go())

    router = Router(STILL)
    assert [await asyncio.to_thread(once, router) for _ in range(2)] == ["again", "again"]


async def test_an_observer_hears_of_every_generation() -> None:
    router = Router(STILL)
    heard: list[GenerationTiming] = []
    router.observers.append(heard.append)
    await run(router, "demo/echo", "Hi")
    assert [(timing.provider, timing.model, timing.stop_reason) for timing in heard] == [("demo", "echo", "stop")]


async def test_the_waiting_for_a_slot_is_stamped_as_queue() -> None:
    router = Router(STILL)
    router.limiters["demo"] = AdaptiveLimiter(1, maximum=1)
    model: Any = router.get_model("demo/slow?ttft=60&n=1")
    heard: list[GenerationTiming] = []
    router.observers.append(heard.append)
    await asyncio.gather(*(_plain(model) for _ in range(3)))
    queued = sorted(timing.queue_ms for timing in heard)
    assert queued[0] < 30
    assert 50 < queued[1] < queued[2]
    assert all(timing.ttft_ms is not None and 50 < timing.ttft_ms < 500 for timing in heard)


async def _plain(model: Any) -> Answer:
    return await ask(model)


async def test_making_a_client_ready_does_not_count_as_waiting_for_the_provider() -> None:
    router = Router(STILL)
    model = router.get_model("demo/slow?ttft=20&n=1")

    async def load() -> None:
        await asyncio.sleep(0.3)

    model.inner.prepare = load  # type: ignore[attr-defined]
    timing = (await ask(model)).timing
    assert timing is not None
    assert timing.ttft_ms is not None
    assert timing.ttft_ms < 250
    assert timing.duration_ms >= 300


async def test_the_sdks_runner_can_do_the_retrying_instead(
    server_for: Callable[[ModuleType], WireServer], router_for: Callable[..., Router]
) -> None:
    server = server_for(CHAT.protocol).will(Fault(429, {"retry-after-ms": "50"}), Reply(Words("Hi")))
    router = router_for(CHAT.configure(server.url))
    heard: list[GenerationTiming] = []
    router.observers.append(heard.append)
    retry = ModelRetrySettings(max_retries=1, policy=retry_policies.provider_suggested())
    result = await run(router, CHAT.model, "Hello", model_settings=ModelSettings(retry=retry))
    assert result.final_output == "Hi"
    assert [timing.attempts for timing in heard] == [1, 1]


async def test_what_the_sdk_sets_for_its_own_default_model_is_nobodys_wish_elsewhere(
    server_for: Callable[[ModuleType], WireServer], router_for: Callable[..., Router]
) -> None:
    server = server_for(ANTHROPIC.protocol).will(Reply(Words("Hi")))
    settings = ANTHROPIC.configure(server.url, default_agent_model=ANTHROPIC.model)
    agent = Agent(name="Names no model")
    result = await Runner.run(
        agent, "Hello", run_config=RunConfig(model_provider=router_for(settings), tracing_disabled=True)
    )
    assert result.final_output == "Hi"


def test_a_demo_model_that_does_not_exist_is_guessed() -> None:
    with pytest.raises(ModelNotFoundError, match="Did you mean 'assistant'"):
        Router(STILL).get_model("demo/asistant")
