"""Which attribute means what, worked out once for each set of attribute names: spans of one sender all carry the same few sets.

Where several conventions name the same thing, the first in a list here wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from timestep_lab.types.spans import GenAI, Lab, OpenInference

_MODEL = (
    GenAI.REQUEST_MODEL, OpenInference.MODEL, "langfuse.observation.model.name", GenAI.RESPONSE_MODEL, "embedding.model_name",
)  # fmt: skip
_PROVIDER = (GenAI.PROVIDER, GenAI.SYSTEM_DEPRECATED, OpenInference.PROVIDER, OpenInference.SYSTEM)
_IN_TOKENS = (GenAI.INPUT_TOKENS, OpenInference.PROMPT_TOKENS, "gen_ai.usage.prompt_tokens", "llm.usage.prompt_tokens")
_OUT_TOKENS = (
    GenAI.OUTPUT_TOKENS, OpenInference.COMPLETION_TOKENS, "gen_ai.usage.completion_tokens", "llm.usage.completion_tokens",
)  # fmt: skip
_CACHED = (
    GenAI.CACHE_READ_TOKENS, OpenInference.CACHED_TOKENS, "gen_ai.usage.cache_read_input_tokens", "gen_ai.usage.cache_read_tokens",
    "gen_ai.usage.input_tokens.cached", "gen_ai.usage.cached_input_tokens", "gen_ai.usage.cached_tokens",
    "gen_ai.usage.details.cache_read_tokens", "gen_ai.usage.details.cache_read_input_tokens", "gen_ai.usage.details.cached_tokens",
    "gen_ai.usage.details.cached_input_tokens", "gen_ai.usage.details.input_cached_tokens",
    "gen_ai.usage.prompt_tokens_details.cached_tokens", "llm.usage.cache_read_input_tokens", "ai.usage.cachedInputTokens",
)  # fmt: skip
_CACHE_WRITTEN = (
    GenAI.CACHE_CREATION_TOKENS, "gen_ai.usage.cache_write.input_tokens", OpenInference.CACHE_WRITE_TOKENS,
    "gen_ai.usage.cache_creation_input_tokens", "gen_ai.usage.cache_write_input_tokens", "gen_ai.usage.cache_creation_tokens",
    "gen_ai.usage.cache_write_tokens", "gen_ai.usage.input_tokens.cache_write", "gen_ai.usage.details.cache_write_tokens",
    "gen_ai.usage.details.cache_creation_tokens", "gen_ai.usage.details.cache_creation_input_tokens",
    "gen_ai.usage.details.cache_write_input_tokens", "llm.usage.cache_creation_input_tokens",
)  # fmt: skip
_TOTAL_TOKENS = (
    "gen_ai.usage.total_tokens", OpenInference.TOTAL_TOKENS, "llm.usage.total_tokens",
)  # fmt: skip
_REASONING = (GenAI.REASONING_TOKENS, OpenInference.REASONING_TOKENS, "gen_ai.usage.details.reasoning_tokens")
_COST = (
    OpenInference.COST_TOTAL, "gen_ai.cost.total_cost", "operation.cost", "gen_ai.usage.cost", "gen_ai.usage.total_cost", "gen_ai.usage.cost_usd",
)  # fmt: skip
_AGENT = (GenAI.AGENT_NAME, OpenInference.AGENT_NAME, OpenInference.GRAPH_NODE)
_INPUT = (
    GenAI.TOOL_CALL_ARGUMENTS, OpenInference.INPUT, "langfuse.observation.input", "traceloop.entity.input", "langfuse.trace.input",
)  # fmt: skip
_OUTPUT = (
    GenAI.TOOL_CALL_RESULT, OpenInference.OUTPUT, "langfuse.observation.output", "traceloop.entity.output", "langfuse.trace.output",
)  # fmt: skip
_THREAD = (
    GenAI.CONVERSATION_ID, OpenInference.SESSION, "langfuse.session.id", "traceloop.association.properties.session_id",
)  # fmt: skip
_WORKFLOW = ("langfuse.trace.name", "traceloop.workflow.name", "traceloop.entity.name")
_MESSAGES = frozenset({
    GenAI.INPUT_MESSAGES, GenAI.OUTPUT_MESSAGES, GenAI.PROMPT_DEPRECATED, GenAI.COMPLETION_DEPRECATED,
})  # fmt: skip
_FLATTENED = ("llm.input_messages.", "llm.output_messages.", "gen_ai.prompt.", "gen_ai.completion.")
_USAGE = frozenset({*_IN_TOKENS, *_OUT_TOKENS, *_CACHED, *_CACHE_WRITTEN, *_REASONING, *_COST, "langfuse.observation.usage_details",
                    "langfuse.observation.cost_details"})  # fmt: skip
_FIRST_TOKEN = frozenset({Lab.TTFT_MS, GenAI.TIME_TO_FIRST_CHUNK, "langfuse.observation.completion_start_time"})


@dataclass(frozen=True, slots=True)
class Meaning:
    """The name of the attribute that says each thing, or None; and what else there is to look at."""

    agent: str | None
    model: str | None
    provider: str | None
    in_tokens: str | None
    out_tokens: str | None
    cached: str | None
    cache_written: str | None
    total_tokens: str | None
    reasoning: str | None
    cost: str | None
    tool: str | None
    input: str | None
    output: str | None
    thread: str | None
    workflow: str | None
    is_ours: bool
    """Written by this program's export."""
    has_usage: bool
    has_first_token: bool
    has_messages: bool
    """As structured attributes of the GenAI conventions."""
    has_flattened: bool
    """Messages spread over dotted names."""


@lru_cache(maxsize=2048)
def meaning_of(names: tuple[str, ...]) -> Meaning:
    known = frozenset(names)

    def first(wanted: Sequence[str]) -> str | None:
        return next((name for name in wanted if name in known), None)

    return Meaning(
        agent=first(_AGENT), model=first(_MODEL), provider=first(_PROVIDER), in_tokens=first(_IN_TOKENS), out_tokens=first(_OUT_TOKENS),
        cached=first(_CACHED), cache_written=first(_CACHE_WRITTEN), total_tokens=first(_TOTAL_TOKENS), reasoning=first(_REASONING), cost=first(_COST), tool=first((GenAI.TOOL_NAME, OpenInference.TOOL_NAME)),
        input=first(_INPUT), output=first(_OUTPUT), thread=first(_THREAD), workflow=first(_WORKFLOW), is_ours=Lab.KIND in known,
        has_usage=not _USAGE.isdisjoint(known), has_first_token=not _FIRST_TOKEN.isdisjoint(known),
        has_messages=not _MESSAGES.isdisjoint(known), has_flattened=any(name.startswith(_FLATTENED) for name in names),
    )  # fmt: skip
