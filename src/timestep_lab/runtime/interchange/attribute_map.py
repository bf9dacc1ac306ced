"""The meaning of each span attribute, as data: support for another sender is added as lines.

A line states which field of a span an attribute sets, the convention it belongs to, and how its value is read. If several attributes of a
span set the same field, the first line with a value wins. Conventions are named with the version whose names were used.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from timestep_lab.model.spans import GenAI, Lab, OpenInference
from timestep_lab.runtime.interchange.messages import answer, before_answer

Reader = Callable[[Any], Any]
"""Converts an attribute's value to the field's value; None if it has none."""


@dataclass(frozen=True, slots=True)
class Convention:
    name: str
    version: str


OURS = Convention("timestep-lab", "1")
OTEL = Convention("OpenTelemetry GenAI", "0.1.0, and back to 1.27 of the general conventions")
OI = Convention("OpenInference", "0.1.30")
OPENLLMETRY = Convention("OpenLLMetry", "0.62")
LANGFUSE = Convention("Langfuse", "5.0")
LOGFIRE = Convention("Logfire, OpenAI Agents SDK", "5.4")
PYDANTIC_AI = Convention("pydantic-ai", "2.68, formats 1 to 5")
VERCEL = Convention("Vercel AI SDK", "4 to 6")
MLFLOW = Convention("MLflow", "3.17")
LITELLM = Convention("LiteLLM", "1.110")
STRANDS = Convention("Strands Agents", "1.62")
ADK = Convention("Google ADK", "2.13")
AUTOGEN = Convention("AutoGen", "0.7")
ANTHROPIC = Convention("Anthropic SDK", "2.14")
LANGSMITH = Convention("LangSmith", "0.14")
OPENLIT = Convention("OpenLIT", "1.45")
SEMANTIC_KERNEL = Convention("Semantic Kernel", "1.45")
GENKIT = Convention("Genkit", "1.42")
BEEAI = Convention("OpenInference, BeeAI", "0.1.30")
AGENTOPS = Convention("AgentOps", "0.4")
LAMINAR = Convention("Laminar", "0.8")


# -- value readers


def json_value(value: object) -> Any:
    """Parses JSON text; returns other values unchanged."""
    if isinstance(value, str) and value[:1] in ("{", "[", '"', "n"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def part(*path: str) -> Reader:
    """Reads the value at this path in an object, which may be given as JSON text."""

    def read(value: object) -> Any:
        value = json_value(value)
        for step in path:
            value = value.get(step) if isinstance(value, Mapping) else None
        return value

    return read


def literal_part(*path: str) -> Reader:
    """Like `part`, for an object written as a Python literal."""
    inner = part(*path)

    def read(value: object) -> Any:
        try:
            return inner(ast.literal_eval(value)) if isinstance(value, str) and value[:1] == "{" else inner(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None

    return read


def words(table: Mapping[str, str]) -> Reader:
    """Looks up a word in the table, ignoring case; None if it is missing."""
    lower = {word.lower(): meaning for word, meaning in table.items()}
    return lambda value: lower.get(str(json_value(value)).lower())


def always(meaning: str) -> Reader:
    """Returns `meaning` whenever the attribute is present."""
    return lambda value: meaning


_HANDED_OVER = frozenset({"inputs", "tags", "metadata", "kwargs"})


def handed_over(value: object) -> object:
    """Returns the input of a step, without the metadata that its framework recorded with it."""
    data = json_value(value)
    return data["inputs"] if isinstance(data, Mapping) and "inputs" in data and data.keys() <= _HANDED_OVER else value


def above_zero(value: object) -> object:
    """For senders that write 0 for an unknown price."""
    return value or None


def of_model(*path: str) -> Reader:
    """Like `part`, for a model's answer to Genkit; the enclosing step repeats it together with the request."""
    inner = part(*path)

    def read(value: object) -> Any:
        value = json_value(value)
        return inner(value) if isinstance(value, Mapping) and "request" not in value else None

    return read


def of_pair(place: int) -> Reader:
    """Returns one half of `provider/model`."""
    return lambda value: value.split("/", 1)[place] if isinstance(value, str) and "/" in value else None


def positional(value: object) -> object:
    """Parses the arguments of a call written as a Python tuple; a single argument is returned by itself."""
    try:
        given = ast.literal_eval(value) if isinstance(value, str) else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value
    return given[0] if isinstance(given, tuple) and len(given) == 1 else value


def member(value: object) -> object:
    """Returns the name of an enum member from text such as `FinishReason.STOP`."""
    return value.rpartition(".")[2].lower() if isinstance(value, str) else value


def milliseconds(value: object) -> float | None:
    return _scaled(value, 1.0)


def seconds(value: object) -> float | None:
    """Converts seconds to milliseconds."""
    return _scaled(value, 1000.0)


def _scaled(value: Any, factor: float) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value) * factor
    except (TypeError, ValueError):
        return None


# -- the map


class Line(NamedTuple):
    field: str
    name: str
    convention: Convention
    read: Reader | None = None
    """None: the value is used unchanged."""
    scope: str = ""
    """Applies only to instrumentation scopes whose names start with this: for names too common to have the same meaning everywhere."""


_OPERATIONS = words({
    "chat": "generation", "text_completion": "generation", "completion": "generation", "generate_content": "generation",
    "responses": "generation", "invoke_agent": "agent", "create_agent": "agent", "execute_tool": "tool", "embeddings": "embedding",
    "embedding": "embedding", "retrieval": "retrieval", "rerank": "retrieval", "search_memory": "retrieval", "invoke_workflow": "task",
    "execute_task": "task", "plan": "task", "handoff": "handoff", "guardrail": "guardrail",
})  # fmt: skip
_LANGFUSE_KINDS = words({
    "generation": "generation", "agent": "agent", "tool": "tool", "chain": "task", "retriever": "retrieval", "embedding": "embedding",
    "guardrail": "guardrail", "evaluator": "other", "span": "other", "event": "other",
})  # fmt: skip
_MLFLOW_KINDS = words({
    "llm": "generation", "chat_model": "generation", "agent": "agent", "tool": "tool", "retriever": "retrieval", "reranker": "retrieval",
    "embedding": "embedding", "chain": "task", "workflow": "task", "task": "task", "guardrail": "guardrail", "parser": "other",
    "memory": "other", "evaluator": "other", "unknown": "other",
})  # fmt: skip
_VERCEL_KINDS = words({
    **{f"ai.{name}": "agent" for name in ("generateText", "streamText", "generateObject", "streamObject", "agent")},
    **{f"ai.{name}.do{how}": "generation" for name in ("generateText", "streamText", "generateObject", "streamObject")
       for how in ("Generate", "Stream")},
    "ai.toolCall": "tool", "ai.embed": "task", "ai.embedMany": "task", "ai.embed.doEmbed": "embedding", "ai.embedMany.doEmbed": "embedding",
    "ai.rerank": "task", "ai.rerank.doRerank": "retrieval",
})  # fmt: skip
_LOGFIRE_KINDS = words({
    "OpenAI Agents trace: {name}": "task", "Agent run: {name!r}": "agent", "Function: {name}": "tool",
    "Handoff: {from_agent} → {to_agent}": "handoff", "Guardrail {name!r} {triggered=}": "guardrail",
    "Chat completion with {gen_ai.request.model!r}": "generation", "Responses API": "generation",
    "Responses API with {gen_ai.request.model!r}": "generation",
})  # fmt: skip
_LANGSMITH_KINDS = words({
    "llm": "generation", "chain": "task", "tool": "tool", "retriever": "retrieval", "embedding": "embedding", "prompt": "other",
    "parser": "other",
})  # fmt: skip
_GENKIT_KINDS = words({
    "model": "generation", "background-model": "generation", "tool": "tool", "flow": "task", "flowStep": "task", "embedder": "embedding",
    "retriever": "retrieval", "reranker": "retrieval", "agent": "agent", "executable-prompt": "task", "util": "task",
})  # fmt: skip
_AGENTS_SCOPE = "logfire.openai_agents"

ATTRIBUTES: tuple[Line, ...] = (
    # The kind of step.
    Line("kind", Lab.KIND, OURS),
    Line("kind", "metadata.path", BEEAI, always("other"), "openinference.instrumentation.beeai"),  # An event, as a span of its own.
    Line("kind", OpenInference.KIND, OI, words(OpenInference.KINDS)),
    Line("kind", GenAI.OPERATION, OTEL, _OPERATIONS),
    Line("kind", "langfuse.observation.type", LANGFUSE, _LANGFUSE_KINDS),
    Line("kind", "traceloop.span.kind", OPENLLMETRY, words({"workflow": "task", "task": "task", "agent": "agent", "tool": "tool", "handoff": "handoff", "guardrail": "guardrail"})),
    Line("kind", "mlflow.spanType", MLFLOW, _MLFLOW_KINDS),
    Line("kind", "ai.operationId", VERCEL, _VERCEL_KINDS),
    Line("kind", "logfire.msg_template", LOGFIRE, _LOGFIRE_KINDS, _AGENTS_SCOPE),
    Line("kind", "sdk_span_type", LOGFIRE, words({"turn": "turn", "task": "task"}), _AGENTS_SCOPE),
    Line("kind", "langsmith.span.kind", LANGSMITH, _LANGSMITH_KINDS),
    Line("kind", "genkit:metadata:subtype", GENKIT, _GENKIT_KINDS),
    Line("kind", "genkit:type", GENKIT, _GENKIT_KINDS),
    Line("kind", "agentops.span.kind", AGENTOPS, words({"session": "task", "workflow": "task", "task": "task", "operation": "task", "agent": "agent", "tool": "tool", "guardrail": "guardrail"})),
    Line("kind", "lmnr.span.type", LAMINAR, words({"TOOL": "tool", "LLM": "generation"})),
    Line("kind", "llm.request.type", OPENLLMETRY, words({"chat": "generation", "completion": "generation", "embedding": "embedding", "rerank": "retrieval"})),
    Line("kind", GenAI.TOOL_NAME, OTEL, always("tool")),
    Line("kind", GenAI.REQUEST_MODEL, OTEL, always("generation")),
    Line("kind", "llm.request.type", OPENLLMETRY, always("generation")),
    Line("kind", "langfuse.observation.model.name", LANGFUSE, always("generation")),
    # The name, if the span's own name is a template.
    Line("name", "logfire.msg", LOGFIRE, scope="logfire"),
    # The model and its provider.
    Line("model", GenAI.REQUEST_MODEL, OTEL),
    Line("model", OpenInference.MODEL, OI),
    Line("model", OpenInference.EMBEDDING_MODEL, OI),
    Line("model", "reranker.model_name", OI),
    Line("model", "langfuse.observation.model.name", LANGFUSE),
    Line("model", "ai.model.id", VERCEL),
    Line("model", "mlflow.llm.model", MLFLOW, json_value),
    Line("model", GenAI.RESPONSE_MODEL, OTEL),
    Line("model", "ai.response.model", VERCEL),
    Line("model", "mlflow.spanInputs", MLFLOW, part("model")),
    Line("model", OpenInference.INVOCATION, OI, part("model")),
    Line("model", "genkit:name", GENKIT, of_pair(1)),
    Line("provider", GenAI.PROVIDER, OTEL),
    Line("provider", GenAI.SYSTEM_DEPRECATED, OTEL),
    Line("provider", OpenInference.PROVIDER, OI),
    Line("provider", OpenInference.SYSTEM, OI),
    Line("provider", "ai.model.provider", VERCEL),
    Line("provider", "mlflow.llm.provider", MLFLOW, json_value),
    Line("provider", "mlflow.message.format", MLFLOW, json_value),
    Line("provider", "genkit:name", GENKIT, of_pair(0)),
    # Tokens.
    Line("input_tokens", GenAI.INPUT_TOKENS, OTEL),
    Line("input_tokens", OpenInference.PROMPT_TOKENS, OI),
    Line("input_tokens", "gen_ai.usage.prompt_tokens", OTEL),
    Line("input_tokens", "llm.usage.prompt_tokens", OPENLLMETRY),
    Line("input_tokens", "ai.usage.inputTokens", VERCEL),
    Line("input_tokens", "ai.usage.promptTokens", VERCEL),
    Line("input_tokens", "ai.usage.tokens", VERCEL),
    Line("input_tokens", "mlflow.chat.tokenUsage", MLFLOW, part("input_tokens")),
    Line("input_tokens", "langfuse.observation.usage_details", LANGFUSE, part("input")),
    Line("input_tokens", "langfuse.observation.usage_details", LANGFUSE, part("prompt_tokens")),
    Line("input_tokens", "langfuse.observation.usage_details", LANGFUSE, part("input_tokens")),
    Line("input_tokens", "usage", LOGFIRE, part("input_tokens"), _AGENTS_SCOPE),
    Line("input_tokens", "mlflow.spanOutputs", MLFLOW, part("usage", "prompt_tokens")),
    Line("input_tokens", "genkit:output", GENKIT, of_model("usage", "inputTokens")),
    Line("output_tokens", GenAI.OUTPUT_TOKENS, OTEL),
    Line("output_tokens", OpenInference.COMPLETION_TOKENS, OI),
    Line("output_tokens", "gen_ai.usage.completion_tokens", OTEL),
    Line("output_tokens", "llm.usage.completion_tokens", OPENLLMETRY),
    Line("output_tokens", "ai.usage.outputTokens", VERCEL),
    Line("output_tokens", "ai.usage.completionTokens", VERCEL),
    Line("output_tokens", "mlflow.chat.tokenUsage", MLFLOW, part("output_tokens")),
    Line("output_tokens", "langfuse.observation.usage_details", LANGFUSE, part("output")),
    Line("output_tokens", "langfuse.observation.usage_details", LANGFUSE, part("completion_tokens")),
    Line("output_tokens", "langfuse.observation.usage_details", LANGFUSE, part("output_tokens")),
    Line("output_tokens", "usage", LOGFIRE, part("output_tokens"), _AGENTS_SCOPE),
    Line("output_tokens", "genkit:output", GENKIT, of_model("usage", "outputTokens")),
    Line("cached_tokens", GenAI.CACHE_READ_TOKENS, OTEL),
    Line("cached_tokens", OpenInference.CACHED_TOKENS, OI),
    Line("cached_tokens", "gen_ai.usage.cache_read_input_tokens", OPENLLMETRY),
    Line("cached_tokens", "gen_ai.usage.cache_read_tokens", OTEL),
    Line("cached_tokens", "gen_ai.usage.input_tokens.cached", OTEL),
    Line("cached_tokens", "gen_ai.usage.cached_input_tokens", OTEL),
    Line("cached_tokens", "gen_ai.usage.cached_tokens", OTEL),
    Line("cached_tokens", "gen_ai.usage.details.cache_read_tokens", PYDANTIC_AI),
    Line("cached_tokens", "gen_ai.usage.details.cache_read_input_tokens", PYDANTIC_AI),
    Line("cached_tokens", "gen_ai.usage.details.cached_tokens", PYDANTIC_AI),
    Line("cached_tokens", "gen_ai.usage.details.cached_input_tokens", PYDANTIC_AI),
    Line("cached_tokens", "gen_ai.usage.details.input_cached_tokens", PYDANTIC_AI),
    Line("cached_tokens", "gen_ai.usage.prompt_tokens_details.cached_tokens", OTEL),
    Line("cached_tokens", "llm.usage.cache_read_input_tokens", OPENLLMETRY),
    Line("cached_tokens", "ai.usage.cachedInputTokens", VERCEL),
    Line("cached_tokens", "ai.usage.inputTokenDetails.cacheReadTokens", VERCEL),
    Line("cached_tokens", "mlflow.chat.tokenUsage", MLFLOW, part("cache_read_input_tokens")),
    Line("cached_tokens", "langfuse.observation.usage_details", LANGFUSE, part("input_cached_tokens")),
    Line("cached_tokens", "langfuse.observation.usage_details", LANGFUSE, part("input_cache_read")),
    Line("cached_tokens", "langfuse.observation.usage_details", LANGFUSE, part("cache_read_input_tokens")),
    Line("cached_tokens", "langfuse.observation.usage_details", LANGFUSE, part("input_cache_read_input_tokens")),
    Line("cached_tokens", "langfuse.observation.usage_details", LANGFUSE, part("cached_tokens")),
    Line("cached_tokens", "langfuse.observation.usage_details", LANGFUSE, part("prompt_tokens_details", "cached_tokens")),
    Line("cached_tokens", "langfuse.observation.usage_details", LANGFUSE, part("input_tokens_details", "cached_tokens")),
    Line("cached_tokens", "usage", LOGFIRE, part("input_tokens_details", "cached_tokens"), _AGENTS_SCOPE),
    Line("cached_tokens", "usage", LOGFIRE, part("cached_input_tokens"), _AGENTS_SCOPE),
    Line("cached_tokens", "langsmith.metadata.usage_metadata", LANGSMITH, part("input_token_details", "cache_read")),
    Line("cached_tokens", "metadata.usage_object", LITELLM, literal_part("prompt_tokens_details", "cached_tokens")),
    Line("cached_tokens", "genkit:output", GENKIT, of_model("usage", "cachedContentTokens")),
    Line("cache_write_tokens", GenAI.CACHE_CREATION_TOKENS, OTEL),
    Line("cache_write_tokens", "gen_ai.usage.cache_write.input_tokens", ANTHROPIC),
    Line("cache_write_tokens", OpenInference.CACHE_WRITE_TOKENS, OI),
    Line("cache_write_tokens", "gen_ai.usage.cache_creation_input_tokens", OPENLLMETRY),
    Line("cache_write_tokens", "gen_ai.usage.cache_write_input_tokens", STRANDS),
    Line("cache_write_tokens", "gen_ai.usage.cache_creation_tokens", OTEL),
    Line("cache_write_tokens", "gen_ai.usage.cache_write_tokens", OTEL),
    Line("cache_write_tokens", "gen_ai.usage.input_tokens.cache_write", OTEL),
    Line("cache_write_tokens", "gen_ai.usage.details.cache_write_tokens", PYDANTIC_AI),
    Line("cache_write_tokens", "gen_ai.usage.details.cache_creation_tokens", PYDANTIC_AI),
    Line("cache_write_tokens", "gen_ai.usage.details.cache_creation_input_tokens", PYDANTIC_AI),
    Line("cache_write_tokens", "gen_ai.usage.details.cache_write_input_tokens", PYDANTIC_AI),
    Line("cache_write_tokens", "llm.usage.cache_creation_input_tokens", OPENLLMETRY),
    Line("cache_write_tokens", "ai.usage.inputTokenDetails.cacheWriteTokens", VERCEL),
    Line("cache_write_tokens", "mlflow.chat.tokenUsage", MLFLOW, part("cache_creation_input_tokens")),
    Line("cache_write_tokens", "langfuse.observation.usage_details", LANGFUSE, part("input_cache_creation")),
    Line("cache_write_tokens", "langfuse.observation.usage_details", LANGFUSE, part("cache_creation_input_tokens")),
    Line("cache_write_tokens", "langfuse.observation.usage_details", LANGFUSE, part("input_cache_write")),
    Line("cache_write_tokens", "langfuse.observation.usage_details", LANGFUSE, part("input_cache_creation_input_tokens")),
    Line("cache_write_tokens", "usage", LOGFIRE, part("input_tokens_details", "cache_write_tokens"), _AGENTS_SCOPE),
    Line("cache_write_tokens", "langsmith.metadata.usage_metadata", LANGSMITH, part("input_token_details", "cache_creation")),
    Line("cache_write_tokens", "metadata.usage_object", LITELLM, literal_part("prompt_tokens_details", "cache_write_tokens")),
    Line("total_tokens", "gen_ai.usage.total_tokens", OPENLLMETRY),
    Line("total_tokens", OpenInference.TOTAL_TOKENS, OI),
    Line("total_tokens", "llm.usage.total_tokens", OPENLLMETRY),
    Line("total_tokens", "ai.usage.totalTokens", VERCEL),
    Line("total_tokens", "mlflow.chat.tokenUsage", MLFLOW, part("total_tokens")),
    Line("total_tokens", "langfuse.observation.usage_details", LANGFUSE, part("total")),
    Line("total_tokens", "langfuse.observation.usage_details", LANGFUSE, part("total_tokens")),
    Line("reasoning_tokens", GenAI.REASONING_TOKENS, OTEL),
    Line("reasoning_tokens", OpenInference.REASONING_TOKENS, OI),
    Line("reasoning_tokens", "gen_ai.usage.details.reasoning_tokens", PYDANTIC_AI),
    Line("reasoning_tokens", "gen_ai.usage.reasoning_tokens", OPENLLMETRY),
    Line("reasoning_tokens", "ai.usage.reasoningTokens", VERCEL),
    Line("reasoning_tokens", "ai.usage.outputTokenDetails.reasoningTokens", VERCEL),
    Line("reasoning_tokens", "langfuse.observation.usage_details", LANGFUSE, part("output_reasoning_tokens")),
    Line("reasoning_tokens", "langfuse.observation.usage_details", LANGFUSE, part("completion_tokens_details", "reasoning_tokens")),
    Line("reasoning_tokens", "langfuse.observation.usage_details", LANGFUSE, part("output_tokens_details", "reasoning_tokens")),
    Line("reasoning_tokens", "mlflow.spanOutputs", MLFLOW, part("usage", "completion_tokens_details", "reasoning_tokens")),
    Line("reasoning_tokens", "mlflow.spanOutputs", MLFLOW, part("usage", "output_tokens_details", "reasoning_tokens")),
    Line("reasoning_tokens", "usage", LOGFIRE, part("output_tokens_details", "reasoning_tokens"), _AGENTS_SCOPE),
    Line("reasoning_tokens", "langsmith.metadata.usage_metadata", LANGSMITH, part("output_token_details", "reasoning")),
    Line("reasoning_tokens", "metadata.usage_object", LITELLM, literal_part("completion_tokens_details", "reasoning_tokens")),
    Line("reasoning_tokens", "genkit:output", GENKIT, of_model("usage", "thoughtsTokens")),
    # The cost in USD, as stated by the sender.
    Line("cost", OpenInference.COST_TOTAL, OI),
    Line("cost", "gen_ai.cost.total_cost", LITELLM),
    Line("cost", "operation.cost", PYDANTIC_AI),
    Line("cost", "gen_ai.usage.cost", OPENLIT, above_zero),
    Line("cost", "gen_ai.usage.total_cost", OPENLLMETRY),
    Line("cost", "gen_ai.usage.cost_usd", OPENLLMETRY),
    Line("cost", "mlflow.llm.cost", MLFLOW, part("total_cost")),
    # The finish reason.
    Line("stop", GenAI.FINISH_REASONS, OTEL),
    Line("stop", "llm.finish_reason", OI),
    Line("stop", "llm.response.finish_reason", OPENLLMETRY),
    Line("stop", "llm.response.stop_reason", OPENLLMETRY),
    Line("stop", "ai.response.finishReason", VERCEL),
    Line("stop", "anthropic.message.stop_reason", ANTHROPIC),
    Line("stop", "genkit:output", GENKIT, of_model("finishReason")),
    Line("stop", "gen_ai.response.finish_reason", SEMANTIC_KERNEL, member),
    # Time to first token, in milliseconds.
    Line("first_token", Lab.TTFT_MS, OURS, milliseconds),
    Line("first_token", GenAI.TIME_TO_FIRST_CHUNK, OTEL, seconds),
    Line("first_token", GenAI.TIME_TO_FIRST_TOKEN, STRANDS, milliseconds, "strands"),
    Line("first_token", GenAI.TIME_TO_FIRST_TOKEN, OTEL, seconds),
    Line("first_token", "ai.response.msToFirstChunk", VERCEL, milliseconds),
    Line("first_token", "ai.stream.msToFirstChunk", VERCEL, milliseconds),
    Line("first_token_at", "langfuse.observation.completion_start_time", LANGFUSE, json_value),
    # The agent.
    Line("agent", GenAI.AGENT_NAME, OTEL),
    Line("agent", OpenInference.AGENT_NAME, OI),
    Line("agent", OpenInference.GRAPH_NODE, OI),
    Line("agent", "langsmith.metadata.lc_agent_name", LANGSMITH),
    Line("agent", "agent_name", PYDANTIC_AI, scope="pydantic-ai"),
    Line("agent", "agent_name", LOGFIRE, scope=_AGENTS_SCOPE),
    Line("agent_named", "name", LOGFIRE, scope=_AGENTS_SCOPE),
    Line("agent_named", "ai.telemetry.functionId", VERCEL),
    Line("agent_named", "operation.name", AGENTOPS, scope="agentops"),
    Line("tool", GenAI.TOOL_NAME, OTEL),
    Line("tool", OpenInference.TOOL_NAME, OI),
    Line("tool", "ai.toolCall.name", VERCEL),
    Line("tool", "name", LOGFIRE, scope=_AGENTS_SCOPE),
    Line("tool", "traceloop.entity.name", OPENLLMETRY),
    Line("tool", "operation.name", AGENTOPS, scope="agentops"),
    Line("from_agent", Lab.FROM_AGENT, OURS),
    Line("from_agent", "from_agent", LOGFIRE, scope=_AGENTS_SCOPE),
    Line("from_agent", "gen_ai.handoff.from_agent", OPENLLMETRY),
    Line("to_agent", Lab.TO_AGENT, OURS),
    Line("to_agent", "to_agent", LOGFIRE, scope=_AGENTS_SCOPE),
    Line("to_agent", "gen_ai.handoff.to_agent", OPENLLMETRY),
    # The input and output messages of a model or an agent.
    Line("asked", GenAI.INPUT_MESSAGES, OTEL),
    Line("asked", "ai.prompt.messages", VERCEL),
    Line("asked", "ai.prompt", VERCEL),
    Line("asked", "input", LOGFIRE, scope=_AGENTS_SCOPE),
    Line("asked", "events", LOGFIRE, before_answer),
    Line("asked", "request_data", LOGFIRE, part("messages"), _AGENTS_SCOPE),
    Line("asked", "raw_input", LOGFIRE, scope=_AGENTS_SCOPE),
    Line("asked", "pydantic_ai.all_messages", PYDANTIC_AI, before_answer),
    Line("asked", "all_messages_events", PYDANTIC_AI, before_answer),
    Line("asked", "gcp.vertex.agent.llm_request", ADK),
    Line("asked", "message", AUTOGEN, scope="autogen"),
    Line("asked", GenAI.PROMPT_DEPRECATED, OTEL),
    Line("answered", GenAI.OUTPUT_MESSAGES, OTEL),
    Line("answered", "output", LOGFIRE, scope=_AGENTS_SCOPE),
    Line("answered", "events", LOGFIRE, answer),
    Line("answered", "response_data", LOGFIRE, scope=_AGENTS_SCOPE),
    Line("answered", "final_result", PYDANTIC_AI, scope="pydantic-ai"),
    Line("answered", "pydantic_ai.all_messages", PYDANTIC_AI, answer),
    Line("answered", "all_messages_events", PYDANTIC_AI, answer),
    Line("answered", "gcp.vertex.agent.llm_response", ADK),
    Line("answered", GenAI.COMPLETION_DEPRECATED, OTEL),
    Line("instructions", GenAI.SYSTEM_INSTRUCTIONS, OTEL),
    Line("answer_text", "ai.response.text", VERCEL),
    Line("answer_text", "ai.response.object", VERCEL),
    Line("answer_text", "ai.result.text", VERCEL),
    Line("answer_text", "ai.result.object", VERCEL),
    Line("answer_reasoning", "ai.response.reasoning", VERCEL),
    Line("answer_calls", "ai.response.toolCalls", VERCEL),
    Line("answer_calls", "ai.result.toolCalls", VERCEL),
    # The input and output of any step.
    Line("input", GenAI.TOOL_CALL_ARGUMENTS, OTEL),
    Line("input", "tool_arguments", PYDANTIC_AI),
    Line("input", "ai.toolCall.args", VERCEL),
    Line("input", "ai.toolCall.input", VERCEL),
    Line("input", "gcp.vertex.agent.tool_call_args", ADK),
    Line("input", OpenInference.INPUT, OI),
    Line("input", "input", LOGFIRE, scope=_AGENTS_SCOPE),
    Line("input", "langfuse.observation.input", LANGFUSE),
    Line("input", "traceloop.entity.input", OPENLLMETRY, handed_over),
    Line("input", "mlflow.spanInputs", MLFLOW),
    Line("input", "agentops.tool.input", AGENTOPS),
    Line("input", "agentops.task.input", AGENTOPS),
    Line("input", "agentops.entity.input", AGENTOPS),
    Line("input", "lmnr.span.input", LAMINAR),
    Line("input", "langfuse.trace.input", LANGFUSE),
    Line("input", "gen_ai.retrieval.query.text", OTEL),
    Line("input", "reranker.query", OI),
    Line("input", "genkit:input", GENKIT),
    Line("input", "ai.value", VERCEL),
    Line("input", "ai.values", VERCEL),
    Line("input", GenAI.PROMPT_DEPRECATED, LANGSMITH),
    Line("input", "function.args", OPENLIT, positional, "openlit"),
    Line("output", GenAI.TOOL_CALL_RESULT, OTEL),
    Line("output", "tool_response", PYDANTIC_AI),
    Line("output", "ai.toolCall.result", VERCEL),
    Line("output", "ai.toolCall.output", VERCEL),
    Line("output", "gcp.vertex.agent.tool_response", ADK),
    Line("output", OpenInference.OUTPUT, OI),
    Line("output", "output", LOGFIRE, scope=_AGENTS_SCOPE),
    Line("output", "langfuse.observation.output", LANGFUSE),
    Line("output", "traceloop.entity.output", OPENLLMETRY),
    Line("output", "mlflow.spanOutputs", MLFLOW),
    Line("output", "agentops.tool.output", AGENTOPS),
    Line("output", "agentops.task.output", AGENTOPS),
    Line("output", "agentops.entity.output", AGENTOPS),
    Line("output", "lmnr.span.output", LAMINAR),
    Line("output", "langfuse.trace.output", LANGFUSE),
    Line("output", "gen_ai.retrieval.documents", OTEL),
    Line("output", "genkit:output", GENKIT),
    Line("output", GenAI.COMPLETION_DEPRECATED, LANGSMITH),
    # Fields of the trace as a whole.
    Line("thread", GenAI.CONVERSATION_ID, OTEL),
    Line("thread", OpenInference.SESSION, OI),
    Line("thread", "langfuse.session.id", LANGFUSE),
    Line("thread", "lmnr.association.properties.session_id", LAMINAR),
    Line("thread", "traceloop.association.properties.session_id", OPENLLMETRY),
    Line("thread", "traceloop.association.properties.thread_id", OPENLLMETRY),
    Line("thread", "ai.telemetry.metadata.sessionId", VERCEL),
    Line("thread", "ai.telemetry.metadata.threadId", VERCEL),
    Line("thread", "ai.telemetry.metadata.conversationId", VERCEL),
    Line("thread", "ai.telemetry.metadata.chatId", VERCEL),
    Line("thread", "mlflow.trace.session", MLFLOW, json_value),
    Line("thread", "gcp.vertex.agent.session_id", ADK),
    Line("thread", "metadata.session_id", LITELLM),
    Line("thread", "langsmith.metadata.session_id", LANGSMITH),
    Line("thread", "langsmith.metadata.thread_id", LANGSMITH),
    Line("thread", "langsmith.metadata.conversation_id", LANGSMITH),
    Line("thread", "genkit:sessionId", GENKIT),
    Line("thread", "group_id", LOGFIRE, json_value, _AGENTS_SCOPE),
    Line("thread", "gen_ai.session.id", OTEL),
    Line("thread", "traceloop.association.properties.conversation_id", OPENLLMETRY),
    Line("thread", "traceloop.association.properties.chat_id", OPENLLMETRY),
    Line("thread", "ai.telemetry.metadata.session_id", VERCEL),
    Line("end_user", OpenInference.USER, OI),
    Line("end_user", "enduser.id", OTEL),
    Line("end_user", "langfuse.user.id", LANGFUSE),
    Line("end_user", "lmnr.association.properties.user_id", LAMINAR),
    Line("end_user", "gen_ai.user.id", OTEL),
    Line("end_user", "traceloop.association.properties.user_id", OPENLLMETRY),
    Line("end_user", "ai.telemetry.metadata.userId", VERCEL),
    Line("end_user", "ai.telemetry.metadata.user_id", VERCEL),
    Line("end_user", "mlflow.trace.user", MLFLOW, json_value),
    Line("end_user", "metadata.user_api_key_end_user_id", LITELLM),
    Line("end_user", "langsmith.metadata.user_id", LANGSMITH),
    Line("end_user", "enduser.pseudo.id", OTEL),
    Line("workflow", "langfuse.trace.name", LANGFUSE),
    Line("workflow", "traceloop.workflow.name", OPENLLMETRY),
)  # fmt: skip

FLATTENED = (("llm.input_messages.", "llm.output_messages."), ("gen_ai.prompt.", "gen_ai.completion."))
"""Prefixes of flattened messages, of OpenInference and of OpenLLMetry: input, output."""
DOCUMENTS = ("retrieval.documents.", "reranker.output_documents.")
"""Prefixes of flattened documents, of OpenInference."""
_USAGE = frozenset({"input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens", "cost"})
_MESSAGES = frozenset({"asked", "answered", "answer_text", "answer_calls", "answer_reasoning"})

Source = tuple[str, Reader | None]


class Meaning:
    """Maps each field to its attributes, computed once per set of attribute names: spans of one sender have the same few sets."""

    __slots__ = (
        "agent", "agent_named", "answer_calls", "answer_reasoning", "answer_text", "answered", "asked", "cache_write_tokens",
        "cached_tokens", "cost", "end_user", "first_token", "first_token_at", "from_agent", "has_documents", "has_first_token", "has_flattened",
        "has_messages", "has_usage", "input", "input_tokens", "instructions", "is_ours", "kind", "model", "name", "output", "output_tokens",
        "provider", "reasoning_tokens", "stop", "thread", "to_agent", "tool", "total_tokens", "workflow",
    )  # fmt: skip

    agent: tuple[Source, ...]
    agent_named: tuple[Source, ...]
    answer_calls: tuple[Source, ...]
    answer_reasoning: tuple[Source, ...]
    answer_text: tuple[Source, ...]
    answered: tuple[Source, ...]
    asked: tuple[Source, ...]
    cache_write_tokens: tuple[Source, ...]
    cached_tokens: tuple[Source, ...]
    cost: tuple[Source, ...]
    end_user: tuple[Source, ...]
    first_token: tuple[Source, ...]
    first_token_at: tuple[Source, ...]
    from_agent: tuple[Source, ...]
    input: tuple[Source, ...]
    input_tokens: tuple[Source, ...]
    instructions: tuple[Source, ...]
    kind: tuple[Source, ...]
    model: tuple[Source, ...]
    name: tuple[Source, ...]
    output: tuple[Source, ...]
    output_tokens: tuple[Source, ...]
    provider: tuple[Source, ...]
    reasoning_tokens: tuple[Source, ...]
    stop: tuple[Source, ...]
    thread: tuple[Source, ...]
    to_agent: tuple[Source, ...]
    tool: tuple[Source, ...]
    total_tokens: tuple[Source, ...]
    workflow: tuple[Source, ...]

    def __init__(self, names: tuple[str, ...], scope: str) -> None:
        known = frozenset(names)
        by_field: dict[str, list[Source]] = {line.field: [] for line in ATTRIBUTES}
        for line in ATTRIBUTES:
            if line.name in known and scope.startswith(line.scope):
                by_field[line.field].append((line.name, line.read))
        for field, sources in by_field.items():
            setattr(self, field, tuple(sources))
        self.is_ours = Lab.KIND in known
        """Whether the span was exported by this program."""
        self.has_usage = any(by_field[field] for field in _USAGE) or "langfuse.observation.cost_details" in known
        self.has_first_token = bool(self.first_token or self.first_token_at)
        self.has_messages = any(by_field[field] for field in _MESSAGES)
        self.has_flattened = any(name.startswith((*FLATTENED[0], *FLATTENED[1])) for name in names)
        self.has_documents = any(name.startswith(DOCUMENTS) for name in names)


@lru_cache(maxsize=2048)
def meaning_of(names: tuple[str, ...], scope: str = "") -> Meaning:
    return Meaning(names, scope)


def told(attributes: Mapping[str, object], sources: tuple[Source, ...]) -> Any:
    """Returns the value of the first of these attributes that has one, else None."""
    for name, read in sources:
        value = attributes.get(name)
        if value is not None and read is not None:
            value = read(value)
        if value is not None and value != "":
            return value
    return None
