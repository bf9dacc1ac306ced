"""What a generation cost, in US dollars, by `genai-prices` and its built-in table. No network; an unknown price is None, never 0.

A price is looked up for the provider that was called, not for a model of the same name elsewhere: the same open weights cost
different sums at different hosts, and nothing at home: 0 means that nobody sends a bill.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timestep_lab.model.records import Usage

FREE = frozenset({"demo", "local", "ollama"})
"""Prefixes whose models run at home, but for Ollama's cloud."""
_PRICED_AS = {"openai": "openai", "anthropic": "anthropic"}
_HF_PREFIX = "hf_inference_providers"
_COMPATIBLE_PREFIX = "openai_compatible"
_SPELLED = (
    ("azure", "azure"), ("azai", "azure"), ("bedrock", "aws"), ("amazon", "aws"), ("openrouter", "openrouter"), ("vertex", "google"),
    ("gemini", "google"), ("google", "google"), ("gcp", "google"), ("groq", "groq"), ("deepseek", "deepseek"), ("mistral", "mistral"),
    ("cohere", "cohere"), ("perplexity", "perplexity"), ("together", "together"), ("fireworks", "fireworks"), ("cerebras", "cerebras"),
    ("moonshot", "moonshotai"), ("voyage", "voyageai"), ("databricks", "databricks"), ("xai", "x-ai"), ("anthropic", "anthropic"),
    ("openai", "openai"),
)  # fmt: skip
"""What a spelling of a provider holds, letters and digits in lower case, and its id; the first counts."""
_MAKERS = (
    ("gpt-", "openai"), ("chatgpt-", "openai"), ("o1", "openai"), ("o3", "openai"), ("o4", "openai"), ("text-embedding-", "openai"),
    ("claude", "anthropic"), ("gemini", "google"), ("grok-", "x-ai"), ("command-", "cohere"), ("embed-", "cohere"),
    ("mistral-large", "mistral"), ("mistral-medium", "mistral"), ("codestral-latest", "mistral"), ("deepseek-chat", "deepseek"),
    ("deepseek-reasoner", "deepseek"), ("voyage-", "voyageai"), ("sonar", "perplexity"),
)  # fmt: skip
_OPEN_WEIGHTS = ("gpt-oss",)
_FOLDERS = ("models", "publishers", "projects")
"""In front of Google's models: `models/gemini-…`, `publishers/google/models/gemini-…`."""


def price(provider: str, model: str, usage: Usage | None) -> float | None:
    """`provider` is the router's prefix, `model` the name with or without that prefix. None when the price or the usage is unknown."""
    if is_free(provider, model):
        return 0.0
    known = _priced_model(provider, model.removeprefix(f"{provider}/"))
    return _cost([known] if known else [], usage)


def price_elsewhere(provider: str, model: str, usage: Usage | None) -> float | None:
    """Of a call that another program tells of, with provider and model as that program spells them; `provider` may be empty."""
    if is_free(provider.lower(), model):
        return 0.0
    return _cost(_priced_elsewhere(provider, model), usage)


def _cost(names: Sequence[tuple[str, str]], usage: Usage | None) -> float | None:
    """By the first of these (provider id, model) that the price table has."""
    if usage is None or not names:
        return None
    from genai_prices import Usage as Counted
    from genai_prices import calc_price

    if usage.cached_tokens + usage.cache_write_tokens > usage.input_tokens:
        # A provider that counts apart what it read from its cache. The price table takes input tokens with the cached among them.
        usage = replace(usage, input_tokens=usage.input_tokens + usage.cached_tokens + usage.cache_write_tokens)
    counted = Counted(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )
    for provider_id, name in names:
        try:
            return float(calc_price(counted, name, provider_id=provider_id).total_price)
        except LookupError:
            continue
    return None


def has_price(provider: str, model: str) -> bool:
    """A budget in money can be kept for it."""
    from timestep_lab.model.records import Usage

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


@lru_cache(maxsize=512)
def _priced_elsewhere(provider: str, model: str) -> tuple[tuple[str, str], ...]:
    """What to look up, best first: at the provider that is told, at the one that the model's name begins with (`groq/llama-…`), at its maker."""
    found: list[tuple[str, str]] = []
    prefix, _, rest = model.partition("/")
    within = _provider_id(prefix) if rest else None
    name = rest if within or prefix in _FOLDERS else model
    name = name.rpartition("/")[2] if prefix in _FOLDERS else name
    if provider_id := _provider_id(provider):
        found += [(provider_id, model), (provider_id, name)]
    elif known := _priced_model(provider, model):
        found.append(known)
    if within:
        found.append((within, rest))
    if maker := _maker(name):
        found.append((maker, name))
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=512)
def _provider_id(spelled: str) -> str | None:
    """As genai-prices names it: `azure.ai.openai`, `az.ai.inference` and `Azure` are azure, `x_ai` is x-ai, `openai.responses` openai."""
    plain = "".join(filter(str.isalnum, spelled.lower()))
    for provider_id in _provider_ids():
        if plain == "".join(filter(str.isalnum, provider_id)):
            return str(provider_id)
    if "compatible" in plain or "huggingface" in plain:
        return None  # That names a protocol or a market, not who answers.
    return next((provider_id for part, provider_id in _SPELLED if part in plain), None)


def _maker(model: str) -> str | None:
    """Of a model that its maker alone sells. Open weights, and the tags under which they run at home, cost as their host says."""
    if model.startswith(_OPEN_WEIGHTS) or (":" in model and not model.startswith("ft:")):
        return None
    return next((maker for start, maker in _MAKERS if model.removeprefix("ft:").startswith(start)), None)


def _if_known(provider_id: str, name: str) -> tuple[str, str] | None:
    return (provider_id, name) if provider_id in _provider_ids() else None


@lru_cache(maxsize=1)
def _provider_ids() -> frozenset[Any]:
    from genai_prices.data import providers

    return frozenset(provider.id for provider in providers)
