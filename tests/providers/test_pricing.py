"""Prices: from the table that comes along, for the provider that was called, or unknown."""

from __future__ import annotations

import socket

import pytest

from timestep_lab.model.records import Usage
from timestep_lab.runtime.pricing import price, price_elsewhere

USED = Usage(requests=1, input_tokens=1000, output_tokens=100)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("pricing went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_a_known_model_has_the_price_of_its_provider() -> None:
    # 2 dollars a million in, 8 out: OpenAI's list price of gpt-4.1.
    assert price("openai", "gpt-4.1", USED) == pytest.approx(1000 * 2e-6 + 100 * 8e-6)
    assert price("openai", "openai/gpt-4.1", USED) == price("openai", "gpt-4.1", USED)


def test_tokens_read_from_the_cache_cost_less() -> None:
    cached = Usage(requests=1, input_tokens=1000, output_tokens=100, cached_tokens=800)
    # A quarter of the input price for gpt-4.1.
    assert price("openai", "gpt-4.1", cached) == pytest.approx(200 * 2e-6 + 800 * 0.5e-6 + 100 * 8e-6)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "a-model-nobody-knows"), ("ollama", "gpt-oss:20b-cloud"), ("hf_inference_providers", "openai/gpt-oss-20b"), ("openai_compatible", "my-own/gpt-4.1"),
    ],
)  # fmt: skip
def test_an_unknown_price_is_unknown_and_never_zero(provider: str, model: str) -> None:
    assert price(provider, model, USED) is None


@pytest.mark.parametrize(("provider", "model"), [("ollama", "qwen3"), ("demo", "assistant"), ("local", "smollm2-135m")])
def test_a_model_at_home_is_free_and_that_is_known(provider: str, model: str) -> None:
    assert price(provider, model, USED) == 0.0
    assert price(provider, f"{provider}/{model}", None) == 0.0, "also when nothing was counted"


def test_without_usage_there_is_no_price() -> None:
    assert price("openai", "gpt-4.1", None) is None


def test_a_host_that_is_named_has_its_own_price() -> None:
    assert price("hf_inference_providers", "openai/gpt-oss-20b:together", USED)


OPENAI = [
    "azure.ai.openai",
    "az.ai.openai",
    "az.ai.inference",
    "Azure",
    "OpenAI",
    "openai.responses",
    "openai.chat",
    "ChatOpenAI",
    "langchain",
    "",
]


@pytest.mark.parametrize(
    ("provider", "model", "usd"),
    [
        *((spelled, "gpt-4o", 0.0035) for spelled in OPENAI),
        ("openai", "openai/gpt-4o", 0.0035), ("openai", "gpt-4o-2024-08-06", 0.0035), ("openrouter", "openai/gpt-4o", 0.0035),
        ("aws.bedrock", "anthropic.claude-sonnet-4-5-20250929-v1:0", 0.00495), ("aws_bedrock", "us.anthropic.claude-3-5-sonnet-20240620-v1:0", 0.0045),
        ("Anthropic", "claude-sonnet-4-5-20250929", 0.0045), ("openai", "anthropic/claude-sonnet-4-5", 0.0045),
        *((spelled, "gemini-2.5-flash", 0.00055) for spelled in ("gcp.gemini", "gcp.vertex_ai", "google.generative-ai", "vertex_ai", "")),
        ("gcp.vertex_ai", "publishers/google/models/gemini-2.5-flash", 0.00055), ("google", "models/gemini-2.5-flash", 0.00055),
        ("mistral_ai", "mistral-large-latest", 0.0026), ("groq", "llama-3.3-70b-versatile", 0.000669), ("litellm", "groq/llama-3.3-70b-versatile", 0.000669),
        ("x_ai", "grok-4", 0.0045), ("cohere", "command-r", 0.00021), ("openai", "text-embedding-3-small", 0.00002),
    ],
)  # fmt: skip
def test_other_programs_spell_providers_in_many_ways_and_each_has_its_price(
    provider: str, model: str, usd: float
) -> None:
    assert price_elsewhere(provider, model, USED) == pytest.approx(usd, rel=0.01)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("", "gpt-oss-20b"), ("vllm", "gpt-oss-20b"), ("", "deepseek-r1:8b"), ("azure", "my-deployment"), ("acme", "in-house"),
        ("openai_compatible", "my-own/gpt-4.1"), ("huggingface", "meta-llama/Llama-3.3-70B-Instruct"),
    ],
)  # fmt: skip
def test_what_nobody_sells_by_that_name_has_no_price_elsewhere_either(provider: str, model: str) -> None:
    assert price_elsewhere(provider, model, USED) is None


def test_a_price_that_depends_on_the_hour_is_known_too() -> None:
    assert price_elsewhere("DeepSeek", "deepseek-chat", USED) in (pytest.approx(0.00019), pytest.approx(0.00038))
