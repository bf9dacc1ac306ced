"""Three ways to one real model on a real third-party server: nothing here is scripted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from agents import ModelSettings
from pydantic import BaseModel

from tests.providers.calling import ask, run
from tests.wire.real_model import real_model_server
from timestep_lab.runtime.router import Router
from timestep_lab.runtime.settings import Settings

__all__ = ["real_model_server"]

WAYS = {
    "OPENAI_BASE_URL": "openai/smollm2",
    "ANTHROPIC_BASE_URL": "anthropic/smollm2",
    "HF_INFERENCE_ENDPOINTS": "hf_inference_endpoints/mine",
}


def environment(variable: str, url: str) -> dict[str, str]:
    return {variable: json.dumps({"mine": url}) if variable == "HF_INFERENCE_ENDPOINTS" else url}


@pytest.mark.parametrize("variable", WAYS)
async def test_a_real_model_streams_text_with_usage_and_time_to_first_token(
    real_model_server: str, router_for: Callable[..., Router], variable: str
) -> None:
    router = router_for(Settings.load(environment(variable, real_model_server)))
    answer = await ask(
        router.get_model(WAYS[variable]), "Say hello to Ada.", settings=ModelSettings(max_tokens=12, temperature=0)
    )
    assert answer.text.strip()
    assert answer.types.count("response.output_text.delta") > 1
    timing = answer.timing
    assert timing is not None
    assert timing.usage is not None
    assert timing.usage.input_tokens > 5
    assert 1 < timing.usage.output_tokens <= 12
    assert timing.ttft_ms is not None
    assert 0 < timing.ttft_ms < timing.duration_ms


@pytest.mark.parametrize("variable", WAYS)
async def test_a_conversation_of_several_turns_goes_through(
    real_model_server: str, router_for: Callable[..., Router], variable: str
) -> None:
    router = router_for(Settings.load(environment(variable, f"{real_model_server}/v1")))
    settings: Any = {"max_tokens": 8, "temperature": 0}
    first = await run(router, WAYS[variable], "Say hello.", model_settings=settings)
    second = await run(
        router, WAYS[variable], [*first.to_input_list(), {"role": "user", "content": "Again."}], model_settings=settings
    )
    assert second.final_output.strip()
    assert second.raw_responses[0].usage.input_tokens > first.raw_responses[0].usage.input_tokens


class Animal(BaseModel):
    name: str
    legs: int


async def test_an_output_type_is_enforced_by_the_real_server(
    real_model_server: str, router_for: Callable[..., Router]
) -> None:
    router = router_for(Settings(openai_base_url=real_model_server))
    result = await run(
        router,
        "openai/smollm2",
        "A cat has four legs.",
        output_type=Animal,
        model_settings={"max_tokens": 60, "temperature": 0},
    )
    assert isinstance(result.final_output, Animal)
