"""What a generation cost, in US dollars, by `genai-prices` and its built-in table. No network; an unknown price is None, never 0.

A price is looked up for the provider that was called, not for a model of the same name elsewhere: the same open weights cost
different sums at different hosts, and nothing at home: 0 means that nobody sends a bill.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from agents import RunContextWrapper

from timestep_lab.model.errors import BudgetError
from timestep_lab.model.records import RunRecord, Usage

if TYPE_CHECKING:
    from timestep_lab.runtime.run import RunLimits


# --- What a run used and cost, over all its parts, and the limits that it may not pass


def counted(wrapper: RunContextWrapper[object]) -> Usage:
    """The tokens that the SDK counted for one run of its own."""
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
    """USD of the run's earlier parts and of `costs`, the generations of this one; None unless every price is known.

    `before` is the run's row as it was when this part began, `usage` what all parts used.
    """
    earlier = before.cost_usd if before.usage.requests else 0.0
    known = [cost for cost in costs if cost is not None]
    if earlier is None or not known or len(known) < usage.requests - before.usage.requests:
        return None
    return earlier + sum(known)


class Spent(Protocol):
    """What was used since a run, or this part of it, began: a `TraceContext`, or a replay without a trace."""

    costs: list[float | None]
    """Of each answer, in USD; None where the price is unknown."""
    tokens: int


class LimitWatch:
    """Says when a run has reached a limit. `run` is its row as it was when this part began, None for one without a row; `seconds` what it
    had worked until then."""

    def __init__(self, limits: RunLimits, spent: Spent, run: RunRecord | None = None, seconds: float = 0.0) -> None:
        self._limits, self._spent = limits, spent
        self._before = run.usage if run else Usage()
        self._cost_before = run.cost_usd if run and run.usage.requests else 0.0
        self._seconds, self._began = seconds, time.perf_counter()
        self._refused: BudgetError | None = None
        self.tool_calls = 0

    @property
    def seconds(self) -> float:
        """So long the run has worked, over all its parts."""
        return self._seconds + time.perf_counter() - self._began

    def waited(self, seconds: float) -> None:
        """For a person, which does not count."""
        self._began += seconds

    @property
    def seconds_left(self) -> float | None:
        """None without a limit."""
        return None if self._limits.timeout_s is None else max(0.0, self._limits.timeout_s - self.seconds)

    def check(self) -> None:
        """Before anything that costs. Raises `BudgetError`."""
        if error := self.passed():
            raise error

    def passed(self, *, at_all: bool = False) -> BudgetError | None:
        """The limit in tokens or money that the answers so far have used up; `at_all`: only one that they went over. And a limit for which
        a call was refused inside of a tool, whoever was told of it there."""
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
            return _stopped("what an answer cost is not known", "budget_usd")
        spent = sum(cost for cost in costs if cost is not None)
        if spent > usd or (spent == usd and not at_all):
            return _stopped(f"it used ${spent:.4g} of ${usd:.4g}", "budget_usd")
        return None

    def tool_call(self) -> None:
        """One more begins. Raises `BudgetError` when there may be no more."""
        most = self._limits.max_tool_calls
        if most is not None and self.tool_calls >= most:
            self._refused = _stopped(f"it wanted to call a tool once more than {most} times", "max_tool_calls")
            raise self._refused
        self.tool_calls += 1

    def time_is_up(self) -> BudgetError:
        return _stopped(f"it worked for {self._limits.timeout_s:g} s", "timeout_s")


def _stopped(why: str, limit: str) -> BudgetError:
    return BudgetError(
        f"The run was stopped: {why}.", f"What was said is kept. Run on in its thread, or allow more: {limit}=…",
        code=limit,
    )  # fmt: skip


WATCH: ContextVar[LimitWatch | None] = ContextVar("timestep_lab_limits", default=None)
"""Of the run that goes on in this task, for models that an agent asks inside of a tool."""


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
    if maker := _maker(name):
        candidates.append((maker, name))
    return tuple(dict.fromkeys(candidates))


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
