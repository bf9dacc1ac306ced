"""Span records, and every attribute name that the lab reads or writes.

Names follow two conventions, whose versions are pinned here and nowhere else:

- OpenTelemetry semantic conventions for generative AI, development status, as of 1.37 and the separate repository
  <https://github.com/open-telemetry/semantic-conventions-genai>
- OpenInference semantic conventions 0.1.x, <https://github.com/Arize-ai/openinference/tree/main/spec>
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from timestep_lab.model.codec import Json

SpanKind = Literal[
    "agent", "generation", "tool", "handoff", "guardrail", "retrieval", "embedding", "task", "turn", "other"
]
SPAN_KINDS: tuple[SpanKind, ...] = (
    "agent", "generation", "tool", "handoff", "guardrail", "retrieval", "embedding", "task", "turn", "other",
)  # fmt: skip
SpanStatus = Literal["pending", "ok", "error", "rejected"]
"""`rejected`: a tool call that a person, or a rule, did not approve."""
SPAN_STATUSES: tuple[SpanStatus, ...] = ("pending", "ok", "error", "rejected")
TraceStatus = Literal["running", "completed", "stopped", "failed", "cancelled", "interrupted", "needs_approval"]
TraceOutcome = Literal["done", "steps_failed", "failed", "running", "waiting", "stopped", "cancelled", "interrupted"]
"""How a trace ended, as used by every list, count and chart. `steps_failed`: the run succeeded but some of its steps failed."""
TraceSource = Literal["live", "evaluation", "imported"]
"""`evaluation`: a call made by a comparison, or an experiment on a trace. `imported`: read from a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanRecord:
    """One timed step of a trace. Ids are OpenTelemetry's: 32 and 16 lower-case hexadecimal digits."""

    trace_id: str
    span_id: str
    parent_id: str | None
    user_id: str
    kind: SpanKind
    name: str
    agent: str | None = None
    """Name of the agent that the step ran for."""
    status: SpanStatus = "pending"
    error: str | None = None
    model: str | None = None
    provider: str | None = None
    started_at: datetime
    ended_at: datetime | None = None
    """None while `pending`."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: float | None = None
    queue_ms: float | None = None
    """Generations: time spent waiting for a free slot before the request was sent."""
    rate_limit_ms: float | None = None
    """Generations: time spent waiting because the provider returned 429."""
    ttft_ms: float | None = None
    """Generations: from sending the request to the first content of the answer."""
    stop_reason: str | None = None
    attributes: Mapping[str, Json] = field(default_factory=dict)
    input: Json = None
    output: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStart:
    """The start of a trace. Its end is derived from its spans and its run."""

    trace_id: str
    user_id: str
    workflow: str
    thread_id: str | None
    started_at: datetime
    metadata: Mapping[str, Json] = field(default_factory=dict)
    parent_trace_id: str | None = None
    """On a fork: the trace it branched from, and the span (`fork_span_id`) where it did."""
    fork_span_id: str | None = None


class GenAI:
    """OpenTelemetry `gen_ai.*` attribute names."""

    OPERATION = "gen_ai.operation.name"
    PROVIDER = "gen_ai.provider.name"
    SYSTEM_DEPRECATED = "gen_ai.system"
    REQUEST_MODEL = "gen_ai.request.model"
    RESPONSE_MODEL = "gen_ai.response.model"
    RESPONSE_ID = "gen_ai.response.id"
    FINISH_REASONS = "gen_ai.response.finish_reasons"
    INPUT_TOKENS = "gen_ai.usage.input_tokens"
    OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
    CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
    CACHE_CREATION_TOKENS = "gen_ai.usage.cache_creation.input_tokens"
    REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
    AGENT_NAME = "gen_ai.agent.name"
    AGENT_ID = "gen_ai.agent.id"
    AGENT_VERSION = "gen_ai.agent.version"
    TOOL_NAME = "gen_ai.tool.name"
    TOOL_CALL_ID = "gen_ai.tool.call.id"
    TOOL_CALL_ARGUMENTS = "gen_ai.tool.call.arguments"
    TOOL_CALL_RESULT = "gen_ai.tool.call.result"
    TOOL_DEFINITIONS = "gen_ai.tool.definitions"
    """The tools offered to a model: `{"type", "name", "description", "parameters"}` each, for tools of an MCP server also `server`,
    `server_tool` and `read_only`. Recorded on the first generation of each agent and whenever it changes."""
    ERROR_TYPE = "error.type"
    """Class of the exception that a tool raised."""
    CONVERSATION_ID = "gen_ai.conversation.id"
    INPUT_MESSAGES = "gen_ai.input.messages"
    OUTPUT_MESSAGES = "gen_ai.output.messages"
    SYSTEM_INSTRUCTIONS = "gen_ai.system_instructions"
    PROMPT_DEPRECATED = "gen_ai.prompt"
    COMPLETION_DEPRECATED = "gen_ai.completion"
    TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
    TIME_TO_FIRST_TOKEN = "gen_ai.server.time_to_first_token"

    OPERATION_OF: Mapping[SpanKind, str] = {
        "agent": "invoke_agent", "generation": "chat", "tool": "execute_tool", "task": "invoke_workflow",
        "embedding": "embeddings", "retrieval": "retrieval",
    }  # fmt: skip


class OpenInference:
    """OpenInference attribute names. The names of flattened, indexed messages are built from the prefixes."""

    KIND = "openinference.span.kind"
    INPUT = "input.value"
    INPUT_MIME = "input.mime_type"
    OUTPUT = "output.value"
    OUTPUT_MIME = "output.mime_type"
    MODEL = "llm.model_name"
    EMBEDDING_MODEL = "embedding.model_name"
    INVOCATION = "llm.invocation_parameters"
    PROVIDER = "llm.provider"
    SYSTEM = "llm.system"
    PROMPT_TOKENS = "llm.token_count.prompt"
    COMPLETION_TOKENS = "llm.token_count.completion"
    CACHED_TOKENS = "llm.token_count.prompt_details.cache_read"
    CACHE_WRITE_TOKENS = "llm.token_count.prompt_details.cache_write"
    TOTAL_TOKENS = "llm.token_count.total"
    REASONING_TOKENS = "llm.token_count.completion_details.reasoning"
    COST_TOTAL = "llm.cost.total"
    INPUT_MESSAGES = "llm.input_messages"
    OUTPUT_MESSAGES = "llm.output_messages"
    TOOL_NAME = "tool.name"
    TOOL_PARAMETERS = "tool.parameters"
    AGENT_NAME = "agent.name"
    GRAPH_NODE = "graph.node.id"
    GRAPH_PARENT = "graph.node.parent_id"
    SESSION = "session.id"
    USER = "user.id"

    KINDS: Mapping[str, SpanKind] = {
        "AGENT": "agent", "LLM": "generation", "TOOL": "tool", "RETRIEVER": "retrieval", "GUARDRAIL": "guardrail",
        "RERANKER": "retrieval", "EMBEDDING": "embedding", "CHAIN": "task", "EVALUATOR": "other", "PROMPT": "other",
    }  # fmt: skip


class Lab:
    """The lab's own attributes, for values that neither convention defines."""

    KIND = "timestep.kind"
    TTFT_MS = "timestep.ttft_ms"
    SERVER = "timestep.mcp.server"
    APPROVAL = "timestep.approval"
    HEARD = "timestep.tool.heard"
    """On a tool call with a non-text result: what the model received of it (text or content parts), as JSON."""
    NO_INSTRUCTIONS = "timestep.no_instructions"
    """On a generation whose input begins with a system message: it is the caller's, because the agent has no instructions."""
    TAPE = "timestep.tape"
    """On a tool call of a run on tape: `hit`, `drifted` (answered by a nearly equal call), `live`, `simulated` or `miss`."""
    TAPE_SPAN = "timestep.tape.span_id"
    """Span id of the recorded call whose result was used."""
    QUEUE_MS = "timestep.queue_ms"
    RATE_LIMIT_MS = "timestep.rate_limit_ms"
    INTER_TOKEN_P50_MS = "timestep.inter_token_ms.p50"
    INTER_TOKEN_P95_MS = "timestep.inter_token_ms.p95"
    SDK_ID = "timestep.sdk_id"
    FROM_AGENT = "timestep.handoff.from"
    TO_AGENT = "timestep.handoff.to"
    ATTEMPTS = "timestep.attempts"
    OVERHEAD_MS = "timestep.overhead_ms"
    """Time that this process added to a generation: before its request was written and after its answer had arrived."""
    EVENTS = "timestep.events"
    """The span's events as sent, a list of `{name, time_unix_nano, attributes}`."""
    LINKS = "timestep.links"
    """The span's links to spans of other traces as sent, a list of `{trace_id, span_id, attributes}`."""
    COST_SOURCE = "timestep.cost.source"
    """On an imported span with a cost: `sender` when its attributes stated the cost, `price table` when the lab computed it."""
    EXPORTED = "timestep.exported"
    """In an OTLP export: the span's columns as JSON text, with `added` (attributes that the sender did not give) and `replaced` (the
    sender's values of attributes that were overwritten)."""
    WARM_START = "timestep.warm_start"
    """In the metadata of a trace: it replays its parent trace from the fork span on, and has none of the steps before."""
    RESUMED = "timestep.resumed"
    """On an agent span that continues after a pause and is no new call of the agent."""
