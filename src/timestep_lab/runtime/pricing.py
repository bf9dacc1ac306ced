"""What a generation cost, in US dollars, by `genai-prices` and its built-in table. No network; an unknown price is None, never 0.

A price is looked up for the provider that was called, not for a model of the same name elsewhere: the same open weights cost
different sums at different hosts, and nothing at home: 0 means that nobody sends a bill.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from timestep_lab.types.records import Usage

FREE = frozenset({"demo", "local", "ollama"})
"""Prefixes whose models run at home, but for Ollama's cloud."""
_PRICED_AS = {"openai": "openai", "anthropic": "anthropic"}
_HF_PREFIX = "hf_inference_providers"
_COMPATIBLE_PREFIX = "openai_compatible"


def price(provider: str, model: str, usage: Usage | None) -> float | None:
    """`provider` is the router's prefix, `model` the name with or without that prefix. None when the price or the usage is unknown."""
    if is_free(provider, model):
        return 0.0
    if usage is None:
        return None
    known = _priced_model(provider, model.removeprefix(f"{provider}/"))
    if known is None:
        return None
    from genai_prices import Usage as Counted
    from genai_prices import calc_price

    provider_id, name = known
    if usage.cached_tokens + usage.cache_write_tokens > usage.input_tokens:
        # A provider that counts apart what it read from its cache. The price table takes input tokens with the cached among them.
        usage = replace(usage, input_tokens=usage.input_tokens + usage.cached_tokens + usage.cache_write_tokens)
    counted = Counted(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )
    try:
        return float(calc_price(counted, name, provider_id=provider_id).total_price)
    except LookupError:
        return None


def has_price(provider: str, model: str) -> bool:
    """A budget in money can be kept for it."""
    from timestep_lab.types.records import Usage

    return price(provider, model, Usage(requests=1, input_tokens=1, output_tokens=1)) is not None


def is_free(provider: str, model: str) -> bool:
    """Nobody sends a bill for this model, however much it is used."""
    return provider in FREE and not (provider == "ollama" and is_ollama_cloud(model))


def is_ollama_cloud(model: str) -> bool:
    """`gpt-oss:20b-cloud` runs at Ollama's, not on the user's own server."""
    return model.endswith("-cloud")


@lru_cache(maxsize=512)
def _priced_model(prefix: str, model: str) -> tuple[str, str] | None:
    """(provider id, model) as genai-prices names them."""
    if prefix in _PRICED_AS:
        return _PRICED_AS[prefix], model
    if prefix == _HF_PREFIX and ":" in model:
        # Only a name that says which host serves it has a price: `org/model:provider`.
        name, _, host = model.rpartition(":")
        return _if_known(f"huggingface_{host}", name)
    if prefix == _COMPATIBLE_PREFIX and "/" in model:
        host, _, name = model.partition("/")
        return _if_known(host, name)
    return None


def _if_known(provider_id: str, name: str) -> tuple[str, str] | None:
    return (provider_id, name) if provider_id in _provider_ids() else None


@lru_cache(maxsize=1)
def _provider_ids() -> frozenset[Any]:
    from genai_prices.data import providers

    return frozenset(provider.id for provider in providers)
