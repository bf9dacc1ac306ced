"""Prices: from the table that comes along, for the provider that was called, or unknown."""

from __future__ import annotations

import socket

import pytest

from timestep_lab.runtime.pricing import price
from timestep_lab.types.records import Usage

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
