"""The meaning of each span attribute, as data: support for another sender is added as lines.

A line states which field of a span an attribute sets, the convention it belongs to, and how its value is read. If several attributes of a
span set the same field, the first line with a value wins. Conventions are named with the version whose names were used.
"""

from __future__ import annotations

from functools import lru_cache

from timestep_lab.model.spans import GenAI, Lab, OpenInference
from timestep_lab.runtime.interchange.attribute_readers import (
    DOCUMENTS,
    FLATTENED_PREFIXES,
    MESSAGES,
    USAGE,
    Convention,
    Line,
    Source,
    above_zero,
    always,
    elapsed,
    first_of,
    handed_over,
    joined_text,
    json_value,
    literal,
    member,
    message_of_error,
    milliseconds,
    of_model,
    of_pair,
    of_response,
    part,
    positional,
    python_object,
    request_of,
    seconds,
    sum_of,
    text_of_answer,
    then,
    total_of,
    total_of_parts,
    typed,
    usage_in,
    with_ending,
    words,
)
from timestep_lab.runtime.interchange.messages import answer, before_answer

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
WEAVE = Convention("Weave", "0.54")
AZURE = Convention("Azure AI Inference and Agents", "1.0")
SPRING = Convention("Spring AI", "2.0")
MASTRA = Convention("Mastra", "1.0")
CLAUDE_CODE = Convention("Claude Code", "2.1")
CODEX = Convention("Codex", "0.137")
LANGWATCH = Convention("LangWatch", "0.10")
BRAINTRUST = Convention("Braintrust", "0.3")
LOONGSUITE = Convention("LoongSuite, Dify", "1.0")
LIVEKIT = Convention("LiveKit Agents", "1.4")
PIPECAT = Convention("Pipecat", "0.0.100")
HAYSTACK = Convention("Haystack", "3.4")
LANGTRACE = Convention("Langtrace", "3.8")
MISTRAL = Convention("mistralai", "1.12")
CLOUDFLARE = Convention("Cloudflare AI Gateway", "2026")
GEMINI_CLI = Convention("Gemini CLI", "0.61")
VLLM = Convention("vLLM", "0.12")


_OPERATIONS = words({
    "chat": "generation", "text_completion": "generation", "completion": "generation", "generate_content": "generation",
    "responses": "generation", "invoke_agent": "agent", "create_agent": "agent", "execute_tool": "tool", "embeddings": "embedding",
    "embedding": "embedding", "retrieval": "retrieval", "rerank": "retrieval", "search_memory": "retrieval", "invoke_workflow": "task",
    "execute_task": "task", "plan": "task", "handoff": "handoff", "guardrail": "guardrail", "agent_handoff": "handoff",
    "guardrail_check": "guardrail", "vector_db_retrieve": "retrieval", "agent_call": "agent", "tool_call": "tool", "llm_call": "generation",
    "user_prompt": "task", "schedule_tool_calls": "task",
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
    **dict.fromkeys(("Embedding Creation with {request_data[model]!r}", "Embedding Creation with {gen_ai.request.model!r}"), "embedding"),
})  # fmt: skip
_LANGSMITH_KINDS = words({
    "llm": "generation", "chain": "task", "tool": "tool", "retriever": "retrieval", "embedding": "embedding", "prompt": "other",
    "parser": "other",
})  # fmt: skip
_GENKIT_KINDS = words({
    "model": "generation", "background-model": "generation", "tool": "tool", "flow": "task", "flowStep": "task", "embedder": "embedding",
    "retriever": "retrieval", "reranker": "retrieval", "agent": "agent", "executable-prompt": "task", "util": "task",
})  # fmt: skip
_MASTRA_KINDS = words({
    "agent_run": "agent", "model_generation": "generation", "model_step": "turn", "tool_call": "tool", "mcp_tool_call": "tool",
    **dict.fromkeys(("workflow_run", "workflow_step", "workflow_parallel", "workflow_conditional", "workflow_loop", "processor_run"), "task"),
})  # fmt: skip
_LANGWATCH_KINDS = words({
    "llm": "generation", "agent": "agent", "tool": "tool", "rag": "retrieval", "chain": "task", "workflow": "task", "component": "task",
    "module": "task", "guardrail": "guardrail", "task": "task", "evaluation": "other", "span": "other",
})  # fmt: skip
_BRAINTRUST_KINDS = words({"llm": "generation", "tool": "tool", "task": "task", "function": "task", "eval": "task", "score": "other"})  # fmt: skip
_MASTRA_STEPS = ("agent_run", "workflow_run", "workflow_step", "model_step", "processor_run", "generic")
_MCP_SCOPE = "opentelemetry.instrumentation.mcp"
_CLAUDE_CODE_SCOPE = "com.anthropic.claude_code"
_AGENTS_SCOPE = "logfire.openai_agents"
_OI_SCOPES = "openinference.instrumentation."
"""The output of several instrumentations is the provider's response as it is; older versions state no more of it."""
_STRANDS_SCOPE = "strands-agents"

ATTRIBUTES: tuple[Line, ...] = (
    # The kind of step.
    Line("kind", Lab.KIND, OURS),
    Line("kind", "metadata.path", BEEAI, always("other"), "openinference.instrumentation.beeai"),  # An event, as a span of its own.
    Line("kind", OpenInference.KIND, OI, words(OpenInference.KINDS)),
    Line("kind", GenAI.OPERATION, OTEL, _OPERATIONS),
    Line("kind", "langfuse.observation.type", LANGFUSE, _LANGFUSE_KINDS),
    Line("kind", "traceloop.span.kind", OPENLLMETRY, words({"workflow": "task", "task": "task", "agent": "agent", "tool": "tool", "handoff": "handoff", "guardrail": "guardrail", "session": "task"})),
    Line("kind", "mlflow.spanType", MLFLOW, _MLFLOW_KINDS),
    Line("kind", "ai.operationId", VERCEL, _VERCEL_KINDS),
    Line("kind", "logfire.msg_template", LOGFIRE, _LOGFIRE_KINDS, "logfire"),
    Line("kind", "sdk_span_type", LOGFIRE, words({"turn": "turn", "task": "task"}), _AGENTS_SCOPE),
    Line("kind", "langsmith.span.kind", LANGSMITH, _LANGSMITH_KINDS),
    Line("kind", "genkit:metadata:subtype", GENKIT, _GENKIT_KINDS),
    Line("kind", "genkit:type", GENKIT, _GENKIT_KINDS),
    Line("kind", "agentops.span.kind", AGENTOPS, words({"session": "task", "workflow": "task", "task": "task", "operation": "task", "agent": "agent", "tool": "tool", "guardrail": "guardrail"})),
    Line("kind", "lmnr.span.type", LAMINAR, words({"TOOL": "tool", "LLM": "generation"})),
    Line("kind", "gen_ai.span.kind", LOONGSUITE, words({**OpenInference.KINDS, "TASK": "task", "STEP": "turn"})),
    Line("kind", "spring.ai.kind", SPRING, words({"tool_call": "tool", "chat_client": "task", "advisor": "task"})),
    Line("kind", "mastra.span.type", MASTRA, _MASTRA_KINDS),
    Line("kind", "langwatch.span.type", LANGWATCH, _LANGWATCH_KINDS),
    Line("kind", "braintrust.span_attributes", BRAINTRUST, then(part("type"), _BRAINTRUST_KINDS)),
    Line("kind", "haystack.component.type", HAYSTACK, with_ending({"Generator": "generation", "Retriever": "retrieval", "Ranker": "retrieval", "Embedder": "embedding", "Agent": "agent"})),
    Line("kind", "span.type", CLAUDE_CODE, words({"interaction": "agent", "llm_request": "generation", "tool": "tool"}), _CLAUDE_CODE_SCOPE),
    Line("kind", "codex.turn.token_usage.total_tokens", CODEX, always("agent")),
    *(Line("kind", name, OPENLLMETRY, always("retrieval")) for name in ("db.vector.query.top_k", "db.chroma.query.n_results")),
    Line("kind", "gen_ai.guardrail.name", OPENLLMETRY, always("guardrail")),
    Line("kind", "lk.function_tool.name", LIVEKIT, always("tool")),
    Line("kind", "lk.generation_id", LIVEKIT, always("turn")),
    Line("kind", "weave.openai_agents.turn.agent_name", WEAVE, always("turn")),
    Line("kind", "weave.openai_agents.task.workflow_name", WEAVE, always("task")),
    Line("kind", "weave.openai_agents.handoff.from_agent", WEAVE, always("handoff")),
    Line("kind", "weave.openai_agents.guardrail.name", WEAVE, always("guardrail")),
    Line("kind", "turn.number", PIPECAT, always("turn"), "pipecat"),
    Line("kind", "haystack.pipeline.input_data", HAYSTACK, always("task")),
    Line("kind", "llm.token.counts", LANGTRACE, always("generation")),
    Line("kind", "request_data", LOGFIRE, then(part("messages"), lambda _: "generation"), "logfire"),
    Line("kind", "llm.request.type", OPENLLMETRY, words({"chat": "generation", "completion": "generation", "embedding": "embedding", "rerank": "retrieval"})),
    *(Line("kind", name, of, always("tool"), scope) for name, of, scope in ((GenAI.TOOL_NAME, OTEL, ""), (OpenInference.TOOL_NAME, STRANDS, _STRANDS_SCOPE))),
    Line("kind", "agent_name", PYDANTIC_AI, always("agent"), "pydantic-ai"),
    Line("kind", "mistral_ai.operation.id", MISTRAL, words({"embeddings_v1_embeddings_post": "embedding"})),
    Line("kind", GenAI.REQUEST_MODEL, OTEL, always("generation")),
    Line("kind", "llm.request.type", OPENLLMETRY, always("generation")),
    Line("kind", "langfuse.observation.model.name", LANGFUSE, always("generation")),
    Line("kind", GenAI.RESPONSE_MODEL, OTEL, always("generation")),
    Line("kind", "gen_ai.latency.time_to_first_token", VLLM, always("generation")),
    # The name, if the span's own name is a template.
    Line("name", "logfire.msg", LOGFIRE, scope="logfire"),
    Line("name", "haystack.component.name", HAYSTACK),
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
    Line("model", "invocation_params", MLFLOW, first_of(part("model"), part("model_name"))),
    Line("model", "genkit:name", GENKIT, of_pair(1)),
    Line("model", "model", CLAUDE_CODE, scope=_CLAUDE_CODE_SCOPE),
    Line("model", "model", CODEX, scope="codex_"),
    Line("model", "braintrust.metadata", BRAINTRUST, part("model")),
    Line("model", "haystack.component.output", HAYSTACK, first_of(part("replies", 0, "meta", "model"), part("meta", 0, "model"), part("meta", "model"))),
    Line("model", "llm.model", LANGTRACE),
    Line("model", "llm.request.model", OPENLLMETRY),
    Line("model", "llm.response.model", OPENLLMETRY),
    Line("model", "request_data", LOGFIRE, part("model"), "logfire"),
    Line("provider", GenAI.PROVIDER, OTEL),
    Line("provider", GenAI.SYSTEM_DEPRECATED, OTEL),
    Line("provider", OpenInference.PROVIDER, OI),
    Line("provider", OpenInference.SYSTEM, OI),
    Line("provider", "ai.model.provider", VERCEL),
    Line("provider", "mlflow.llm.provider", MLFLOW, json_value),
    Line("provider", "mlflow.message.format", MLFLOW, json_value),
    Line("provider", "genkit:name", GENKIT, of_pair(0)),
    Line("provider", "braintrust.metadata", BRAINTRUST, part("provider")),
    Line("provider", "gen_ai.model.provider", CLOUDFLARE),
    # Tokens.
    Line("input_tokens", GenAI.INPUT_TOKENS, OTEL),
    Line("input_tokens", OpenInference.PROMPT_TOKENS, OI),
    Line("input_tokens", "gen_ai.usage.prompt_tokens", OTEL),
    Line("input_tokens", "llm.usage.prompt_tokens", OPENLLMETRY),
    *(Line("input_tokens", f"ai.usage.{key}", VERCEL) for key in ("inputTokens", "promptTokens", "tokens")),
    Line("input_tokens", "genkit:output", GENKIT, of_model("usage", "inputTokens")),
    *(Line("input_tokens", f"gen_ai.response.{key}", SEMANTIC_KERNEL) for key in ("input_tokens", "prompt_tokens")),
    Line("input_tokens", "codex.turn.token_usage.input_tokens", CODEX),
    Line("input_tokens", "input_tokens", CLAUDE_CODE, scope=_CLAUDE_CODE_SCOPE),
    Line("output_tokens", "gcp.vertex.agent.llm_response", ADK, sum_of(("usage_metadata", "candidates_token_count"), ("usage_metadata", "thoughts_token_count"))),
    Line("output_tokens", GenAI.OUTPUT_TOKENS, OTEL),
    Line("output_tokens", OpenInference.COMPLETION_TOKENS, OI),
    Line("output_tokens", "gen_ai.usage.completion_tokens", OTEL),
    Line("output_tokens", "llm.usage.completion_tokens", OPENLLMETRY),
    *(Line("output_tokens", f"ai.usage.{key}", VERCEL) for key in ("outputTokens", "completionTokens")),
    Line("output_tokens", "genkit:output", GENKIT, of_model("usage", "outputTokens")),
    *(Line("output_tokens", f"gen_ai.response.{key}", SEMANTIC_KERNEL) for key in ("output_tokens", "completion_tokens")),
    Line("output_tokens", "codex.turn.token_usage.output_tokens", CODEX),
    Line("output_tokens", "output_tokens", CLAUDE_CODE, scope=_CLAUDE_CODE_SCOPE),
    Line("cached_tokens", GenAI.CACHE_READ_TOKENS, OTEL),
    Line("cached_tokens", OpenInference.CACHED_TOKENS, OI),
    Line("cached_tokens", "gen_ai.usage.cache_read_input_tokens", OPENLLMETRY),
    *(Line("cached_tokens", f"gen_ai.usage.{key}", OTEL) for key in ("cache_read_tokens", "input_tokens.cached", "cached_input_tokens", "cached_tokens")),
    *(Line("cached_tokens", f"gen_ai.usage.details.{key}", PYDANTIC_AI) for key in ("cache_read_tokens", "cache_read_input_tokens", "cached_tokens", "cached_input_tokens", "input_cached_tokens")),
    Line("cached_tokens", "gen_ai.usage.prompt_tokens_details.cached_tokens", OTEL),
    Line("cached_tokens", "gen_ai.usage.input_tokens_details.cached_tokens", OTEL),
    Line("cached_tokens", "llm.usage.cache_read_input_tokens", OPENLLMETRY),
    Line("cached_tokens", "ai.usage.cachedInputTokens", VERCEL),
    Line("cached_tokens", "ai.usage.inputTokenDetails.cacheReadTokens", VERCEL),
    Line("cached_tokens", "genkit:output", GENKIT, of_model("usage", "cachedContentTokens")),
    Line("cached_tokens", "ai.response.providerMetadata", VERCEL, first_of(part("openai", "cachedPromptTokens"), part("azure", "cachedPromptTokens"), part("anthropic", "cacheReadInputTokens"), part("anthropic", "usage", "cache_read_input_tokens"), part("bedrock", "usage", "cacheReadInputTokens"))),
    Line("cached_tokens", "gen_ai.usage.input_token_details", LANGSMITH, literal(part("cache_read"))),
    Line("cached_tokens", "codex.turn.token_usage.cached_input_tokens", CODEX),
    Line("cached_tokens", "cache_read_tokens", CLAUDE_CODE, scope=_CLAUDE_CODE_SCOPE),
    Line("cache_write_tokens", GenAI.CACHE_CREATION_TOKENS, OTEL),
    Line("cache_write_tokens", "gen_ai.usage.cache_write.input_tokens", ANTHROPIC),
    Line("cache_write_tokens", OpenInference.CACHE_WRITE_TOKENS, OI),
    Line("cache_write_tokens", "gen_ai.usage.cache_creation_input_tokens", OPENLLMETRY),
    Line("cache_write_tokens", "gen_ai.usage.cache_write_input_tokens", STRANDS),
    Line("cache_write_tokens", "gen_ai.usage.cache_creation_tokens", OTEL),
    Line("cache_write_tokens", "gen_ai.usage.cache_write_tokens", OTEL),
    Line("cache_write_tokens", "gen_ai.usage.input_tokens.cache_write", OTEL),
    *(Line("cache_write_tokens", f"gen_ai.usage.details.{key}", PYDANTIC_AI) for key in ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens", "cache_write_input_tokens")),
    Line("cache_write_tokens", "llm.usage.cache_creation_input_tokens", OPENLLMETRY),
    Line("cache_write_tokens", "ai.usage.inputTokenDetails.cacheWriteTokens", VERCEL),
    Line("cache_write_tokens", "ai.response.providerMetadata", VERCEL, first_of(part("anthropic", "cacheCreationInputTokens"), part("bedrock", "usage", "cacheWriteInputTokens"))),
    Line("cache_write_tokens", "gen_ai.usage.input_token_details", LANGSMITH, literal(part("cache_creation"))),
    Line("cache_write_tokens", "codex.turn.token_usage.cache_write_input_tokens", CODEX),
    Line("cache_write_tokens", "cache_creation_tokens", CLAUDE_CODE, scope=_CLAUDE_CODE_SCOPE),
    Line("total_tokens", "gen_ai.usage.total_tokens", OPENLLMETRY),
    Line("total_tokens", OpenInference.TOTAL_TOKENS, OI),
    Line("total_tokens", "llm.usage.total_tokens", OPENLLMETRY),
    Line("total_tokens", "ai.usage.totalTokens", VERCEL),
    Line("total_tokens", "codex.turn.token_usage.total_tokens", CODEX),
    Line("reasoning_tokens", GenAI.REASONING_TOKENS, OTEL),
    Line("reasoning_tokens", OpenInference.REASONING_TOKENS, OI),
    Line("reasoning_tokens", "gen_ai.usage.details.reasoning_tokens", PYDANTIC_AI),
    Line("reasoning_tokens", "gen_ai.usage.reasoning_tokens", OPENLLMETRY),
    Line("reasoning_tokens", "llm.usage.reasoning_tokens", OPENLLMETRY),
    Line("reasoning_tokens", "gen_ai.usage.output_tokens_details.reasoning_tokens", OTEL),
    Line("reasoning_tokens", "gen_ai.usage.completion_tokens_details.reasoning_tokens", OTEL),
    Line("reasoning_tokens", "codex.turn.token_usage.reasoning_output_tokens", CODEX),
    Line("reasoning_tokens", "ai.usage.reasoningTokens", VERCEL),
    Line("reasoning_tokens", "ai.usage.outputTokenDetails.reasoningTokens", VERCEL),
    Line("reasoning_tokens", "genkit:output", GENKIT, of_model("usage", "thoughtsTokens")),
    Line("reasoning_tokens", "ai.response.providerMetadata", VERCEL, first_of(part("openai", "reasoningTokens"), part("azure", "reasoningTokens"))),
    Line("reasoning_tokens", "gen_ai.usage.output_token_details", LANGSMITH, literal(part("reasoning"))),
    Line("reasoning_tokens", "langwatch.metrics", LANGWATCH, part("reasoning_tokens")),
    *usage_in("mlflow.chat.tokenUsage", MLFLOW),
    *usage_in("mlflow.spanOutputs", MLFLOW, part("usage")),
    *usage_in("langfuse.observation.usage_details", LANGFUSE),
    Line("total_tokens", "langfuse.observation.usage_details", LANGFUSE, total_of_parts),
    *usage_in("usage", LOGFIRE, scope=_AGENTS_SCOPE),
    *usage_in("response_data", LOGFIRE, part("usage"), "logfire"),
    *usage_in("langsmith.metadata.usage_metadata", LANGSMITH),
    *usage_in("metadata.usage_object", LITELLM, literal(json_value)),
    *usage_in("braintrust.metrics", BRAINTRUST),
    *usage_in("langwatch.metrics", LANGWATCH, typed()),
    *usage_in("llm.token.counts", LANGTRACE),
    *usage_in(OpenInference.OUTPUT, OI, of_response("usage"), _OI_SCOPES),
    *usage_in("haystack.component.output", HAYSTACK, first_of(part("replies", 0, "meta", "usage"), part("meta", 0, "usage"), part("meta", "usage"))),
    # The cost in USD, as stated by the sender.
    Line("cost", OpenInference.COST_TOTAL, OI),
    Line("cost", "gen_ai.cost.total_cost", LITELLM),
    Line("cost", "operation.cost", PYDANTIC_AI),
    Line("cost", "gen_ai.usage.cost", OPENLIT, above_zero),
    *(Line("cost", f"gen_ai.usage.{key}", OPENLLMETRY) for key in ("total_cost", "cost_usd")),
    Line("cost", "mlflow.llm.cost", MLFLOW, part("total_cost")),
    Line("cost", "langwatch.span.cost", LANGWATCH),
    Line("cost", "langwatch.metrics", LANGWATCH, then(typed(), part("cost"))),
    Line("cost", "braintrust.metrics", BRAINTRUST, part("estimated_cost")),
    Line("cost", "langfuse.observation.cost_details", LANGFUSE, total_of),
    *(Line("cost_part", f"llm.cost.{side}", OI) for side in ("prompt", "completion")),
    # The finish reason.
    Line("stop", GenAI.FINISH_REASONS, OTEL),
    Line("stop", "llm.finish_reason", OI),
    Line("stop", OpenInference.OUTPUT, OI, first_of(of_response("choices", 0, "finish_reason"), of_response("stop_reason"), of_response("incomplete_details", "reason")), _OI_SCOPES),
    Line("stop", "llm.response.finish_reason", OPENLLMETRY),
    Line("stop", "llm.response.stop_reason", OPENLLMETRY),
    Line("stop", "gen_ai.response.stop_reason", OPENLLMETRY),
    Line("stop", "ai.response.finishReason", VERCEL),
    Line("stop", "anthropic.message.stop_reason", ANTHROPIC),
    Line("stop", "genkit:output", GENKIT, of_model("finishReason")),
    Line("stop", "gen_ai.response.finish_reason", SEMANTIC_KERNEL, member),
    Line("stop", "haystack.component.output", HAYSTACK, first_of(part("replies", 0, "meta", "finish_reason"), part("meta", 0, "finish_reason"))),
    Line("stop", "stop_reason", CLAUDE_CODE, scope=_CLAUDE_CODE_SCOPE),
    # Time to first token, in milliseconds.
    Line("first_token", Lab.TTFT_MS, OURS, milliseconds),
    Line("first_token", GenAI.TIME_TO_FIRST_CHUNK, OTEL, seconds),
    Line("first_token", GenAI.TIME_TO_FIRST_TOKEN, STRANDS, milliseconds, "strands"),
    Line("first_token", GenAI.TIME_TO_FIRST_TOKEN, OTEL, seconds),
    Line("first_token", "ai.response.msToFirstChunk", VERCEL, milliseconds),
    Line("first_token", "ai.stream.msToFirstChunk", VERCEL, milliseconds),
    Line("first_token", "ttft_ms", CLAUDE_CODE, milliseconds, _CLAUDE_CODE_SCOPE),
    Line("first_token", "braintrust.metrics", BRAINTRUST, then(part("time_to_first_token"), seconds)),
    Line("first_token", "gen_ai.latency.time_to_first_token", VLLM, seconds),
    Line("first_token", "metrics.ttfb", PIPECAT, seconds, "pipecat"),
    Line("first_token", "lk.response.ttft", LIVEKIT, seconds),
    Line("first_token", "langwatch.timestamps", LANGWATCH, elapsed("started_at", "first_token_at")),
    Line("first_token_at", "langfuse.observation.completion_start_time", LANGFUSE, json_value),
    # The agent.
    Line("agent", GenAI.AGENT_NAME, OTEL),
    *(Line("agent", name, OI) for name in (OpenInference.AGENT_NAME, "agno.agent")),
    Line("agent", OpenInference.GRAPH_NODE, OI),
    Line("agent", "langsmith.metadata.lc_agent_name", LANGSMITH),
    Line("agent", "agent_name", PYDANTIC_AI, scope="pydantic-ai"),
    Line("agent", "agent_name", LOGFIRE, scope=_AGENTS_SCOPE),
    Line("agent_named", "name", LOGFIRE, scope=_AGENTS_SCOPE),
    *(Line("agent_named", name, of) for name, of in (("ai.telemetry.functionId", VERCEL), ("traceloop.entity.name", OPENLLMETRY))),
    Line("agent_named", "operation.name", AGENTOPS, scope="agentops"),
    Line("tool", GenAI.TOOL_NAME, OTEL),
    Line("tool", OpenInference.TOOL_NAME, OI),
    Line("tool", "ai.toolCall.name", VERCEL),
    Line("tool", "name", LOGFIRE, scope=_AGENTS_SCOPE),
    Line("tool", "traceloop.entity.name", OPENLLMETRY),
    Line("tool", "operation.name", AGENTOPS, scope="agentops"),
    Line("tool", "spring.ai.tool.definition.name", SPRING),
    Line("tool", "tool_name", CLAUDE_CODE, scope=_CLAUDE_CODE_SCOPE),
    Line("tool", "lk.function_tool.name", LIVEKIT),
    Line("tool", "haystack.component.name", HAYSTACK),
    Line("from_agent", Lab.FROM_AGENT, OURS),
    Line("from_agent", "from_agent", LOGFIRE, scope=_AGENTS_SCOPE),
    Line("from_agent", "gen_ai.handoff.from_agent", OPENLLMETRY),
    Line("from_agent", "weave.openai_agents.handoff.from_agent", WEAVE),
    Line("to_agent", Lab.TO_AGENT, OURS),
    Line("to_agent", "to_agent", LOGFIRE, scope=_AGENTS_SCOPE),
    Line("to_agent", "gen_ai.handoff.to_agent", OPENLLMETRY),
    Line("to_agent", "weave.openai_agents.handoff.to_agent", WEAVE),
    # The input and output messages of a model or an agent.
    Line("asked", GenAI.INPUT_MESSAGES, OTEL),
    Line("asked", "ai.prompt.messages", VERCEL),
    Line("asked", "ai.prompt", VERCEL),
    Line("asked", "input", LOGFIRE, scope=_AGENTS_SCOPE),
    Line("asked", "events", LOGFIRE, before_answer),
    Line("asked", "request_data", LOGFIRE, request_of, "logfire"),
    Line("asked", "raw_input", LOGFIRE, scope=_AGENTS_SCOPE),
    Line("asked", "pydantic_ai.all_messages", PYDANTIC_AI, before_answer),
    Line("asked", "all_messages_events", PYDANTIC_AI, before_answer),
    Line("asked", "gcp.vertex.agent.llm_request", ADK),
    Line("asked", "message", AUTOGEN, scope="autogen"),
    Line("asked", GenAI.PROMPT_DEPRECATED, OTEL),
    Line("asked", "langwatch.input", LANGWATCH, typed("chat_messages")),
    Line("asked", "gen_ai.agent.invocation_input", SEMANTIC_KERNEL),
    Line("asked", "lk.chat_ctx", LIVEKIT, part("items")),
    Line("asked", "gen_ai.prompt_json", CLOUDFLARE),
    Line("asked", "input", PIPECAT, scope="pipecat"),
    Line("asked", "llm.prompts", LANGTRACE),
    Line("answered", GenAI.OUTPUT_MESSAGES, OTEL),
    Line("answered", "output", LOGFIRE, scope=_AGENTS_SCOPE),
    Line("answered", "events", LOGFIRE, answer),
    Line("answered", "response_data", LOGFIRE, scope=_AGENTS_SCOPE),
    Line("answered", "response_data", LOGFIRE, first_of(part("message"), part("combined_chunk_content")), "logfire"),
    Line("answered", "final_result", PYDANTIC_AI, scope="pydantic-ai"),
    Line("answered", "pydantic_ai.all_messages", PYDANTIC_AI, answer),
    Line("answered", "all_messages_events", PYDANTIC_AI, answer),
    Line("answered", "gcp.vertex.agent.llm_response", ADK),
    Line("answered", GenAI.COMPLETION_DEPRECATED, OTEL),
    Line("answered", "langwatch.output", LANGWATCH, typed("chat_messages")),
    Line("answered", "gen_ai.agent.invocation_output", SEMANTIC_KERNEL),
    Line("answered", "gen_ai.completion_json", CLOUDFLARE),
    Line("answered", "output", PIPECAT, scope="pipecat"),
    Line("answered", "llm.responses", LANGTRACE),
    Line("instructions", GenAI.SYSTEM_INSTRUCTIONS, OTEL),
    *(Line("answer_text", f"ai.{key}", VERCEL) for key in ("response.text", "response.object", "result.text", "result.object")),
    Line("answer_text", "lk.response.text", LIVEKIT),
    Line("answer_reasoning", "ai.response.reasoning", VERCEL),
    Line("answer_calls", "ai.response.toolCalls", VERCEL),
    Line("answer_calls", "ai.result.toolCalls", VERCEL),
    Line("answer_calls", "lk.response.function_calls", LIVEKIT),
    # The input and output of any step.
    Line("input", GenAI.TOOL_CALL_ARGUMENTS, OTEL),
    Line("input", OpenInference.TOOL_PARAMETERS, STRANDS, scope=_STRANDS_SCOPE),
    Line("input", "tool_arguments", PYDANTIC_AI),
    Line("input", "ai.toolCall.args", VERCEL),
    Line("input", "ai.toolCall.input", VERCEL),
    Line("input", "gcp.vertex.agent.tool_call_args", ADK),
    Line("input", "traceloop.entity.input", OPENLLMETRY, part("arguments"), _MCP_SCOPE),
    Line("input", OpenInference.INPUT, BEEAI, part("input"), "openinference.instrumentation.beeai"),
    Line("input", OpenInference.INPUT, OI, python_object, "openinference.instrumentation.langchain"),
    Line("input", OpenInference.INPUT, OI),
    Line("input", "input", LOGFIRE, scope=_AGENTS_SCOPE),
    Line("input", "langfuse.observation.input", LANGFUSE),
    Line("input", "traceloop.entity.input", OPENLLMETRY, handed_over),
    Line("input", "mlflow.spanInputs", MLFLOW),
    *(Line("input", f"agentops.{step}.input", AGENTOPS) for step in ("tool", "task", "entity")),
    Line("input", "lmnr.span.input", LAMINAR),
    Line("input", "langfuse.trace.input", LANGFUSE),
    Line("input", "gen_ai.retrieval.query.text", OTEL),
    Line("input", "reranker.query", OI),
    Line("input", "genkit:input", GENKIT),
    Line("input", "ai.value", VERCEL),
    Line("input", "ai.values", VERCEL),
    Line("input", GenAI.PROMPT_DEPRECATED, LANGSMITH),
    Line("input", "function.args", OPENLIT, positional, "openlit"),
    Line("input", "gen_ai.task.input", OPENLLMETRY, handed_over),
    Line("input", "gen_ai.guardrail.input", OPENLLMETRY),
    Line("input", OpenInference.TOOL_PARAMETERS, OI),
    Line("input", "spring.ai.tool.call.arguments", SPRING),
    Line("input", "db.vector.query.content", SPRING),
    *(Line("input", f"mastra.{step}.input", MASTRA) for step in _MASTRA_STEPS),
    Line("input", "langwatch.input", LANGWATCH, typed()),
    Line("input", "braintrust.input_json", BRAINTRUST),
    Line("input", "braintrust.input", BRAINTRUST),
    Line("input", "lk.function_tool.arguments", LIVEKIT),
    Line("input", "lk.user_input", LIVEKIT),
    Line("input", "haystack.component.input", HAYSTACK),
    Line("input", "haystack.pipeline.input_data", HAYSTACK),
    Line("input", "user_prompt", CLAUDE_CODE, scope=_CLAUDE_CODE_SCOPE),
    Line("input", "gen_ai.speech.input_text", OTEL),
    Line("input", "request", LOGFIRE, scope="logfire.mcp"),
    Line("input", GenAI.INPUT_MESSAGES, GEMINI_CLI, first_of(part("args"), json_value)),
    Line("output", GenAI.TOOL_CALL_RESULT, OTEL),
    Line("output", "tool.result", STRANDS, joined_text, _STRANDS_SCOPE),
    Line("output", "tool_response", PYDANTIC_AI),
    Line("output", "ai.toolCall.result", VERCEL),
    Line("output", "ai.toolCall.output", VERCEL),
    Line("output", "gcp.vertex.agent.tool_response", ADK),
    Line("output", "traceloop.entity.output", OPENLLMETRY, part("result"), _MCP_SCOPE),
    Line("output", OpenInference.OUTPUT, OI),
    Line("output", "output", LOGFIRE, scope=_AGENTS_SCOPE),
    Line("output", "langfuse.observation.output", LANGFUSE),
    Line("output", "traceloop.entity.output", OPENLLMETRY),
    Line("output", "mlflow.spanOutputs", MLFLOW),
    *(Line("output", f"agentops.{step}.output", AGENTOPS) for step in ("tool", "task", "entity")),
    Line("output", "lmnr.span.output", LAMINAR),
    Line("output", "langfuse.trace.output", LANGFUSE),
    Line("output", "gen_ai.retrieval.documents", OTEL),
    Line("output", "genkit:output", GENKIT),
    Line("output", GenAI.COMPLETION_DEPRECATED, LANGSMITH),
    Line("output", "gen_ai.task.output", OPENLLMETRY),
    Line("output", "gen_ai.guardrail.output", OPENLLMETRY),
    Line("output", "mcp.response.value", OPENLLMETRY),
    Line("output", "spring.ai.tool.call.result", SPRING),
    Line("output", "db.vector.query.response.documents", SPRING),
    *(Line("output", f"mastra.{step}.output", MASTRA, text_of_answer) for step in _MASTRA_STEPS),
    Line("output", "langwatch.output", LANGWATCH, typed()),
    Line("output", "langwatch.rag.contexts", LANGWATCH),
    Line("output", "braintrust.output_json", BRAINTRUST),
    Line("output", "braintrust.output", BRAINTRUST),
    Line("output", "lk.function_tool.output", LIVEKIT),
    Line("output", "lk.response.text", LIVEKIT),
    Line("output", "haystack.component.output", HAYSTACK),
    Line("output", "haystack.pipeline.output_data", HAYSTACK),
    Line("output", "retrieval.document", LOONGSUITE),
    Line("output", "gen_ai.transcription.text", OTEL),
    Line("output", "response", LOGFIRE, scope="logfire.mcp"),
    Line("output", GenAI.OUTPUT_MESSAGES, GEMINI_CLI, json_value),
    # A failure that the status of the span does not tell.
    Line("failed", "langfuse.observation.level", LANGFUSE, words({"ERROR": "error"})),
    *(Line("failed", name, STRANDS, words({"error": "error"}), _STRANDS_SCOPE) for name in ("tool.status", "gen_ai.tool.status")),
    Line("failure", "langfuse.observation.status_message", LANGFUSE),
    Line("failure", "error", LOGFIRE, message_of_error, _AGENTS_SCOPE),
    # Fields of the trace as a whole.
    Line("thread", GenAI.CONVERSATION_ID, OTEL),
    Line("thread", OpenInference.SESSION, OI),
    Line("thread", "langfuse.session.id", LANGFUSE),
    Line("thread", "lmnr.association.properties.session_id", LAMINAR),
    *(Line("thread", f"traceloop.association.properties.{key}", OPENLLMETRY) for key in ("session_id", "thread_id", "conversation_id", "chat_id")),
    *(Line("thread", f"ai.telemetry.metadata.{key}", VERCEL) for key in ("sessionId", "threadId", "conversationId", "chatId", "session_id")),
    Line("thread", "mlflow.trace.session", MLFLOW, json_value),
    Line("thread", "gcp.vertex.agent.session_id", ADK),
    Line("thread", "metadata.session_id", LITELLM),
    *(Line("thread", f"langsmith.metadata.{key}", LANGSMITH) for key in ("session_id", "thread_id", "conversation_id")),
    Line("thread", "genkit:sessionId", GENKIT),
    Line("thread", "group_id", LOGFIRE, json_value, _AGENTS_SCOPE),
    Line("thread", "gen_ai.session.id", OTEL),
    Line("thread", "gen_ai.thread.id", AZURE),
    Line("thread", "spring.ai.chat.client.conversation.id", SPRING),
    Line("thread", "mastra.metadata.threadId", MASTRA),
    *(Line("thread", name, of) for name, of in (("langwatch.thread.id", LANGWATCH), ("langwatch.thread_id", LANGWATCH), ("wandb.thread_id", WEAVE))),
    Line("thread", "conversation.id", PIPECAT, scope="pipecat"),
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
    Line("end_user", "gen_ai.user", OPENLLMETRY),
    *(Line("end_user", name, LANGWATCH) for name in ("langwatch.user.id", "langwatch.user_id")),
    Line("end_user", "mastra.metadata.userId", MASTRA),
    Line("thread", "metadata", LANGWATCH, part("thread_id"), "langwatch"),
    Line("end_user", "metadata", LANGWATCH, part("user_id"), "langwatch"),
    Line("workflow", "langfuse.trace.name", LANGFUSE),
    Line("workflow", "traceloop.workflow.name", OPENLLMETRY),
)  # fmt: skip


class Meaning:
    """Maps each field to its attributes, computed once per set of attribute names: spans of one sender have the same few sets."""

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
    cost_part: tuple[Source, ...]
    end_user: tuple[Source, ...]
    failed: tuple[Source, ...]
    failure: tuple[Source, ...]
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
        self.has_usage = any(by_field[field] for field in USAGE)
        self.has_first_token = bool(self.first_token or self.first_token_at)
        self.has_messages = any(by_field[field] for field in MESSAGES)
        self.has_flattened = any(name.startswith(FLATTENED_PREFIXES) for name in names)
        self.has_trace = bool(self.thread or self.end_user or self.workflow)
        self.has_documents = any(name.startswith(DOCUMENTS) for name in names)


@lru_cache(maxsize=2048)
def meaning_of(names: tuple[str, ...], scope: str = "") -> Meaning:
    return Meaning(names, scope)
