"""Cost of generations in US dollars, from the built-in table of `genai-prices`. No network; an unknown price is None, never 0.

Prices are looked up for the provider that was called, not for the same model elsewhere: open weights have different prices at
different hosts, and none when run locally: 0 means that nobody charges for it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from timestep_lab.model.errors import BudgetError, RunError
from timestep_lab.model.records import RunRecord, Usage

if TYPE_CHECKING:
    from agents import RunContextWrapper

    from timestep_lab.runtime.run import RunLimits


# --- Usage and cost of a run over all its parts, and its limits


def counted(wrapper: RunContextWrapper[object]) -> Usage:
    """Returns the token usage counted by the SDK for one of its runs."""
    usage = wrapper.usage
    into, out = usage.input_tokens_details, usage.output_tokens_details
    return Usage(
        requests=usage.requests,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_tokens=into.cached_tokens or 0,
        cache_write_tokens=getattr(into, "cache_write_tokens", 0) or 0,
        reasoning_tokens=out.reasoning_tokens or 0,
    )


def cost_so_far(before: RunRecord, usage: Usage, costs: Sequence[float | None]) -> float | None:
    """Returns the cost in USD of a run's earlier parts plus `costs`, the generations of this part; None unless every price is known.

    `before` is the run's row at the start of this part, `usage` the usage of all parts.
    """
    earlier = before.cost_usd if before.usage.requests else 0.0
    known = [cost for cost in costs if cost is not None]
    if earlier is None or not known or len(known) < usage.requests - before.usage.requests:
        return None
    return earlier + sum(known)


class Spent(Protocol):
    """Usage since a run, or this part of it, started: a `TraceContext`, or a replay without a trace."""

    costs: list[float | None]
    """Cost of each answer in USD; None where the price is unknown."""
    tokens: int


class LimitWatch:
    """Checks whether a run has reached a limit. `run` is its row at the start of this part, None without a row; `seconds` is its earlier
    working time."""

    def __init__(self, limits: RunLimits, spent: Spent, run: RunRecord | None = None, seconds: float = 0.0) -> None:
        self._limits, self._spent = limits, spent
        self._before = run.usage if run else Usage()
        self._cost_before = run.cost_usd if run and run.usage.requests else 0.0
        self._seconds, self._began = seconds, time.perf_counter()
        self._refused: BudgetError | None = None
        self._cut_off: dict[str, RunError] = {}
        self.tool_calls = 0

    @property
    def seconds(self) -> float:
        """Working time of the run, over all its parts."""
        return self._seconds + time.perf_counter() - self._began

    def waited(self, seconds: float) -> None:
        """Excludes time spent waiting for a person."""
        self._began += seconds

    @property
    def seconds_left(self) -> float | None:
        """Remaining seconds; None without a limit."""
        return None if self._limits.timeout_s is None else max(0.0, self._limits.timeout_s - self.seconds)

    def check(self) -> None:
        """Called before anything that costs. Raises `BudgetError`."""
        if error := self.passed():
            raise error

    def passed(self, *, at_all: bool = False) -> BudgetError | None:
        """Returns the token or cost limit that is used up; with `at_all`, only one that is exceeded. Also returns a limit for which a
        nested call was rejected inside a tool."""
        if self._refused:
            return self._refused
        usd, most = self._limits.budget_usd, self._limits.max_tokens_total
        tokens = self._before.input_tokens + self._before.output_tokens + self._spent.tokens
        if most is not None and (tokens > most or (tokens == most and not at_all)):
            return _stopped(f"it used {tokens:,} tokens of {most:,}", "max_tokens_total")
        if usd is None:
            return None
        costs = [self._cost_before, *self._spent.costs]
        if None in costs:
            return _stopped("the cost of an answer is unknown", "budget_usd")
        spent = sum(cost for cost in costs if cost is not None)
        if spent > usd or (spent == usd and not at_all):
            return _stopped(f"it used ${spent:.4g} of ${usd:.4g}", "budget_usd")
        return None

    def tool_call(self) -> None:
        """Counts a tool call. Raises `BudgetError` when no more are allowed."""
        most = self._limits.max_tool_calls
        if most is not None and self.tool_calls >= most:
            self._refused = _stopped(f"it tried to make more than {most} tool calls", "max_tool_calls")
            raise self._refused
        self.tool_calls += 1

    def cut_off(self, response_id: str, error: RunError) -> None:
        """Called for an answer that ended before anything was said. The SDK would take it for an empty answer, or ask again."""
        self._cut_off[response_id] = error

    def answered(self, response_id: str | None) -> None:
        """Called by the hooks after every answer, when its usage is counted. Raises the error of one that was cut off."""
        if error := self._cut_off.pop(response_id or "", None):
            raise error

    def time_is_up(self) -> BudgetError:
        return _stopped(f"it ran for {self._limits.timeout_s:g} s", "timeout_s")


def _stopped(why: str, limit: str) -> BudgetError:
    return BudgetError(
        f"The run was stopped: {why}.", f"Its output is kept. Continue in its thread, or increase {limit}=…",
        code=limit,
    )  # fmt: skip


WATCH: ContextVar[LimitWatch | None] = ContextVar("timestep_lab_limits", default=None)
"""Limits of the run in this task, for models called by an agent inside a tool."""


FREE = frozenset({"demo", "local", "ollama"})
"""Prefixes of models that run locally, except Ollama's cloud."""
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
"""Substrings of provider names (lower-case letters and digits) and the provider's id; the first match wins."""
_MAKERS = (
    ("gpt-", "openai"), ("chatgpt-", "openai"), ("o1", "openai"), ("o3", "openai"), ("o4", "openai"), ("text-embedding-", "openai"),
    ("claude", "anthropic"), ("gemini", "google"), ("grok-", "x-ai"), ("command-", "cohere"), ("embed-", "cohere"),
    ("mistral-large", "mistral"), ("mistral-medium", "mistral"), ("codestral-latest", "mistral"), ("deepseek-chat", "deepseek"),
    ("deepseek-reasoner", "deepseek"), ("voyage-", "voyageai"), ("sonar", "perplexity"),
)  # fmt: skip
_OPEN_WEIGHTS = ("gpt-oss",)
_OF_BEDROCK = re.compile(
    r"(?:(?:us|us-gov|eu|apac|jp|au|ca|global)\.)?(?:anthropic|amazon|meta|mistral|cohere|ai21|deepseek)\.[a-z]"
)
"""A model's id on AWS Bedrock, which states its maker: `us.anthropic.claude-…`."""
_FOLDERS = ("models", "publishers", "projects")
"""Path prefixes of Google's models: `models/gemini-…`, `publishers/google/models/gemini-…`."""


def price(provider: str, model: str, usage: Usage | None) -> float | None:
    """Returns the cost of a generation. `provider` is the router's prefix, `model` the name with or without it. None when the price or the
    usage is unknown."""
    if is_free(provider, model):
        return 0.0
    known = _priced_model(provider, model.removeprefix(f"{provider}/"))
    return _cost([known] if known else [], usage)


def price_elsewhere(provider: str, model: str, usage: Usage | None) -> float | None:
    """Returns the cost of a call reported by another program, with that program's names of provider and model; `provider` may be empty."""
    if is_free(provider.lower(), model):
        return 0.0
    return _cost(_priced_elsewhere(provider, model), usage)


def _cost(names: Sequence[tuple[str, str]], usage: Usage | None) -> float | None:
    """Returns the cost by the first of these (provider id, model) pairs that the price table has."""
    if usage is None or not names:
        return None
    from genai_prices import Usage as Counted
    from genai_prices import calc_price

    if usage.cached_tokens + usage.cache_write_tokens > usage.input_tokens:
        # Some providers report cached tokens separately. The price table expects input tokens to include them.
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
    """Returns whether the model has a known price, so that a cost budget can be enforced."""
    from timestep_lab.model.records import Usage

    return price(provider, model, Usage(requests=1, input_tokens=1, output_tokens=1)) is not None


def is_free(provider: str, model: str) -> bool:
    """Returns whether the model is free of charge."""
    return provider in FREE and not (provider == "ollama" and is_ollama_cloud(model))


def is_ollama_cloud(model: str) -> bool:
    """Returns whether a model runs in Ollama's cloud, such as `gpt-oss:20b-cloud`, instead of the user's own server."""
    return model.endswith("-cloud")


@lru_cache(maxsize=512)
def _priced_model(prefix: str, model: str) -> tuple[str, str] | None:
    """Returns (provider id, model) as named by genai-prices."""
    if prefix in _PRICED_AS:
        return _PRICED_AS[prefix], model
    if prefix == _HF_PREFIX and ":" in model:
        # Only a name that includes the host has a price: `org/model:provider`.
        name, _, host = model.rpartition(":")
        return _if_known(f"huggingface_{host}", name)
    if prefix == _COMPATIBLE_PREFIX and "/" in model:
        host, _, name = model.partition("/")
        return _if_known(host, name)
    return None


@lru_cache(maxsize=512)
def _priced_elsewhere(provider: str, model: str) -> tuple[tuple[str, str], ...]:
    """Returns lookup candidates, best first: the stated provider, the one in the model's name (`groq/llama-…`), and its maker."""
    candidates: list[tuple[str, str]] = []
    prefix, _, rest = model.partition("/")
    within = _provider_id(prefix) if rest else None
    name = rest if within or prefix in _FOLDERS else model
    name = name.rpartition("/")[2] if prefix in _FOLDERS else name
    if provider_id := _provider_id(provider):
        candidates += [(provider_id, model), (provider_id, name)]
    elif known := _priced_model(provider, model):
        candidates.append(known)
    if within:
        candidates.append((within, rest))
    if _OF_BEDROCK.match(model):
        candidates.append(("aws", model))
    made_by, _, named = model.partition(":")
    if named and (stated := _provider_id(made_by)) and made_by.isalpha():  # As LangChain and pydantic-ai name a model.
        candidates.append((stated, named))
    if maker := _maker(name):
        candidates.append((maker, name))
    return tuple(dict.fromkeys(candidates))


@lru_cache(maxsize=512)
def _provider_id(spelled: str) -> str | None:
    """Returns genai-prices' id: `azure.ai.openai`, `az.ai.inference` and `Azure` are azure, `x_ai` is x-ai, `openai.responses` is
    openai."""
    plain = "".join(filter(str.isalnum, spelled.lower()))
    for provider_id in _provider_ids():
        if plain == "".join(filter(str.isalnum, provider_id)):
            return str(provider_id)
    if "compatible" in plain or "huggingface" in plain:
        return None  # A protocol or a marketplace, not a provider.
    return next((provider_id for part, provider_id in _SPELLED if part in plain), None)


def _maker(model: str) -> str | None:
    """Returns the maker of a model that only its maker sells. The price of open weights, and of local tags, depends on the host."""
    if model.startswith(_OPEN_WEIGHTS) or (":" in model and not model.startswith("ft:")):
        return None
    return next((maker for start, maker in _MAKERS if model.removeprefix("ft:").startswith(start)), None)


def _if_known(provider_id: str, name: str) -> tuple[str, str] | None:
    return (provider_id, name) if provider_id in _provider_ids() else None


@lru_cache(maxsize=1)
def _provider_ids() -> frozenset[str]:
    from genai_prices.data import providers

    return frozenset(provider.id for provider in providers)


def linear_price(provider: str, model: str, in_tokens: int, out_tokens: int, cached: int, written: int) -> float | None:
    """Same as `price_elsewhere`, for one call, from the counts. Price lookups are too slow for a million spans, so linear prices are looked up once per model."""
    rates = _rates(provider, model)
    if rates is None:
        return None
    if not rates:
        return _call_price(provider, model, in_tokens, out_tokens, cached, written)
    call, each_in, each_out, each_cached, each_written = rates
    fresh = in_tokens - cached - written
    return call + fresh * each_in + out_tokens * each_out + cached * each_cached + written * each_written


@lru_cache(maxsize=4096)
def _call_price(provider: str, model: str, in_tokens: int, out_tokens: int, cached: int, written: int) -> float | None:
    usage = Usage(
        requests=1, input_tokens=in_tokens, output_tokens=out_tokens, cached_tokens=cached, cache_write_tokens=written
    )
    return price_elsewhere(provider, model, usage)


@lru_cache(maxsize=512)
def _rates(provider: str, model: str) -> tuple[float, ...] | None:
    """Returns prices per call, and per input, output, cached and cache-written token. None if unknown, empty if not linear."""
    tokens = [
        (n * i, n * o, n * c, n * w)
        for n in (1_000, 1_000_000)
        for i, o, c, w in ((0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 1))
    ]
    costs = [cost for each in tokens if (cost := _call_price(provider, model, *each)) is not None]
    if len(costs) < len(tokens):
        return None
    few, many = costs[:5], costs[5:]
    if any(abs((b - many[0]) - 1_000 * (a - few[0])) > 1e-9 for a, b in zip(few, many, strict=True)):
        return ()
    return (few[0], *((cost - few[0]) / 1_000 for cost in few[1:]))
