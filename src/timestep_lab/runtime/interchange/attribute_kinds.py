"""Which kind of step a span is, as data: the attributes that say so, in order, and what their words mean."""

from __future__ import annotations

from timestep_lab.model.spans import GenAI, Lab, OpenInference
from timestep_lab.runtime.interchange.attribute_conventions import (
    AG2,
    AGENTOPS,
    AGENTS_SCOPE,
    BEEAI,
    BRAINTRUST,
    CLAUDE_CODE,
    CLAUDE_CODE_SCOPE,
    CODEX,
    CODEX_SCOPE,
    GENKIT,
    HAYSTACK,
    LAMINAR,
    LANGFUSE,
    LANGSMITH,
    LANGTRACE,
    LANGWATCH,
    LIVEKIT,
    LIVEKIT_PREFIXES,
    LOGFIRE,
    LOONGSUITE,
    MASTRA,
    MISTRAL,
    MLFLOW,
    OI,
    OPENLLMETRY,
    OTEL,
    OURS,
    PIPECAT,
    PYDANTIC_AI,
    SPRING,
    STRANDS,
    STRANDS_SCOPE,
    VERCEL,
    VLLM,
    WEAVE,
)
from timestep_lab.runtime.interchange.attribute_readers import Line, always, part, then, with_ending, words

SPEECH = (
    "text_to_speech", "speech_to_text", "tts", "stt", "speech_generation", "transcription", "ai.generateSpeech", "ai.transcribe",
    "ai.streamTranscribe",
)  # fmt: skip
"""Operations that speak or listen: steps of their own, so that they count as no turn of the model that answers."""
_OPERATIONS = words({
    "chat": "generation", "text_completion": "generation", "completion": "generation", "generate_content": "generation",
    "responses": "generation", "invoke_agent": "agent", "create_agent": "agent", "execute_tool": "tool", "embeddings": "embedding",
    "embedding": "embedding", "retrieval": "retrieval", "rerank": "retrieval", "search_memory": "retrieval", "invoke_workflow": "task",
    "execute_task": "task", "plan": "task", "handoff": "handoff", "guardrail": "guardrail", "agent_handoff": "handoff",
    "guardrail_check": "guardrail", "vector_db_retrieve": "retrieval", "agent_call": "agent", "tool_call": "tool", "llm_call": "generation",
    "user_prompt": "task", "schedule_tool_calls": "task", "agent_step": "turn",
    **dict.fromkeys(SPEECH, "task"),
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
    "agent_run": "agent", "model_generation": "task", "model_inference": "generation", "model_step": "turn",
    **dict.fromkeys(("tool_call", "mcp_tool_call", "client_tool_call", "provider_tool_call"), "tool"), "rag_embedding": "embedding",
    **dict.fromkeys(("workflow_run", "workflow_step", "workflow_parallel", "workflow_conditional", "workflow_loop", "processor_run"), "task"),
})  # fmt: skip
_LANGWATCH_KINDS = words({
    "llm": "generation", "agent": "agent", "tool": "tool", "rag": "retrieval", "chain": "task", "workflow": "task", "component": "task",
    "module": "task", "guardrail": "guardrail", "task": "task", "evaluation": "other", "span": "other",
})  # fmt: skip
_BRAINTRUST_KINDS = words({"llm": "generation", "tool": "tool", "task": "task", "function": "task", "eval": "task", "score": "other"})  # fmt: skip

KINDS: tuple[Line, ...] = (
    Line("kind", Lab.KIND, OURS),
    Line("kind", "metadata.path", BEEAI, always("other"), "openinference.instrumentation.beeai"),  # An event, as a span of its own.
    Line("kind", "ag2.usage.kind", AG2, words({"model_call": "other", "subtask": "other"})),
    Line("kind", "llm.request.type", OPENLLMETRY, words({"embedding": "embedding", "rerank": "retrieval"})),  # Which OpenInference's processor calls LLM.
    Line("kind", OpenInference.KIND, OI, words(OpenInference.KINDS)),
    Line("kind", GenAI.OPERATION, OTEL, _OPERATIONS),
    Line("kind", "langfuse.observation.type", LANGFUSE, _LANGFUSE_KINDS),
    Line("kind", "traceloop.span.kind", OPENLLMETRY, words({"workflow": "task", "task": "task", "agent": "agent", "tool": "tool", "handoff": "handoff", "guardrail": "guardrail", "session": "task"})),
    Line("kind", "mlflow.spanType", MLFLOW, _MLFLOW_KINDS),
    Line("kind", "ai.operationId", VERCEL, _VERCEL_KINDS),
    Line("kind", "logfire.msg_template", LOGFIRE, _LOGFIRE_KINDS, "logfire"),
    Line("kind", "sdk_span_type", LOGFIRE, words({"turn": "turn", "task": "task"}), AGENTS_SCOPE),
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
    Line("kind", "span.type", CLAUDE_CODE, words({"interaction": "agent", "llm_request": "generation", "tool": "tool"}), CLAUDE_CODE_SCOPE),
    Line("kind", "codex.turn.token_usage.total_tokens", CODEX, always("agent")),
    Line("kind", "wire_api", CODEX, always("generation"), CODEX_SCOPE),
    Line("kind", "codex.tool.phase", CODEX, words({"dispatch": "tool"}), CODEX_SCOPE),
    *(Line("kind", name, OPENLLMETRY, always("retrieval")) for name in ("db.vector.query.top_k", "db.chroma.query.n_results")),
    Line("kind", "gen_ai.guardrail.name", OPENLLMETRY, always("guardrail")),
    Line("kind", "lk.function_tool.name", LIVEKIT, always("tool")),
    Line("kind", "lk.generation_id", LIVEKIT, always("turn")),
    *(Line("kind", f"{lk}.{key}", LIVEKIT, always("task")) for key in ("input_text", "user_transcript") for lk in LIVEKIT_PREFIXES),
    Line("kind", "lk.tts.label", LIVEKIT, always("task")),
    Line("kind", "lk.previous_agent_label", LIVEKIT, always("handoff")),
    Line("kind", "weave.openai_agents.turn.agent_name", WEAVE, always("turn")),
    Line("kind", "weave.openai_agents.task.workflow_name", WEAVE, always("task")),
    Line("kind", "weave.openai_agents.handoff.from_agent", WEAVE, always("handoff")),
    Line("kind", "weave.openai_agents.guardrail.name", WEAVE, always("guardrail")),
    Line("kind", "turn.number", PIPECAT, always("turn"), "pipecat"),
    Line("kind", "conversation.type", PIPECAT, always("task"), "pipecat"),
    Line("kind", "service.operation", PIPECAT, words({"llm_setup": "other", "llm_request": "task", "llm_tool_call": "other", "llm_tool_result": "other"}), "pipecat"),
    Line("kind", "haystack.pipeline.input_data", HAYSTACK, always("task")),
    Line("kind", "llm.token.counts", LANGTRACE, always("generation")),
    Line("kind", "request_data", LOGFIRE, then(part("messages"), lambda _: "generation"), "logfire"),
    Line("kind", "llm.request.type", OPENLLMETRY, words({"chat": "generation", "completion": "generation", "embedding": "embedding", "rerank": "retrieval"})),
    *(Line("kind", name, of, always("tool"), scope) for name, of, scope in ((GenAI.TOOL_NAME, OTEL, ""), (OpenInference.TOOL_NAME, STRANDS, STRANDS_SCOPE))),
    Line("kind", "agent_name", PYDANTIC_AI, always("agent"), "pydantic-ai"),
    Line("kind", "mistral_ai.operation.id", MISTRAL, words({"embeddings_v1_embeddings_post": "embedding"})),
    Line("kind", GenAI.REQUEST_MODEL, OTEL, always("generation")),
    Line("kind", "llm.request.type", OPENLLMETRY, always("generation")),
    Line("kind", "langfuse.observation.model.name", LANGFUSE, always("generation")),
    Line("kind", GenAI.RESPONSE_MODEL, OTEL, always("generation")),
    Line("kind", "gen_ai.latency.time_to_first_token", VLLM, always("generation")),
)  # fmt: skip
"""Lines of the field `kind`."""
