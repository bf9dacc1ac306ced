"""Spans as further senders encode them, after their source code and documentation: no recording of these is kept."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.traces.test_interchange import GENAI, any_value, as_protobuf, request, span
from timestep_lab.model.errors import DataError
from timestep_lab.runtime.interchange import import_file, read_otlp
from timestep_lab.runtime.interchange.otlp_in import PROTOBUF, read_otlp_logs
from timestep_lab.store.spans import AT, SPAN_COLUMNS
from timestep_lab.store.store import Store, open_store
from timestep_lab.ui.messages import read_messages

ASKED, ANSWER, ARGUMENTS = "Weather in Paris?", "Sunny in Paris.", {"city": "Paris"}


class Case(NamedTuple):
    scope: str
    name: str
    attributes: dict[str, Any]
    events: list[dict[str, Any]]
    right: dict[str, Any]


CASES: dict[str, Case] = {}


def case(
    sender: str,
    scope: str,
    name: str,
    attributes: dict[str, Any],
    right: dict[str, Any],
    events: list[dict[str, Any]] | None = None,
) -> None:
    """`right`: the columns that matter; `asked` and `answered`: role and text of each message; `calls`: name and arguments of each."""
    CASES[sender] = Case(scope, name, attributes, events or [], right)


def event(name: str, **attributes: Any) -> dict[str, Any]:
    return {"name": name, "timeUnixNano": "1795000000000000007", "attributes": attributes}


# fmt: off
case("openllmetry-mcp-tool","opentelemetry.instrumentation.mcp","get_weather.tool",
 {"traceloop.span.kind":"tool","traceloop.entity.name":"get_weather","traceloop.entity.input":json.dumps({"tool_name":"get_weather","arguments":ARGUMENTS}),"traceloop.entity.output":json.dumps({"result":ANSWER})},
 {"kind": "tool","name": "get_weather","input": ARGUMENTS,"output": ANSWER})
case("openllmetry-mcp-session","opentelemetry.instrumentation.mcp","mcp.client.session",{"traceloop.span.kind":"session","traceloop.entity.name":"mcp.client.session"},{"kind": "task"})
case("openllmetry-mcp-list","opentelemetry.instrumentation.mcp","tools/list.mcp",{"traceloop.entity.input":"{}","traceloop.entity.output":json.dumps({"tools":[{"name":"a"}]})},{"kind": "other","output": {"tools":[{"name":"a"}]}})
case("openllmetry-mcp-server","opentelemetry.instrumentation.mcp","ResponseStreamWriter",{"mcp.response.value":json.dumps({"content":[{"type":"text","text":ANSWER}]}),"mcp.request.id":"4"},{"kind": "other","output": {"content":[{"type":"text","text":ANSWER}]}})
case("otel-mcp-client","mcp","tools/call get_weather",{"mcp.method.name":"tools/call","gen_ai.tool.name":"get_weather","gen_ai.operation.name":"execute_tool","gen_ai.tool.call.arguments":json.dumps(ARGUMENTS),"gen_ai.tool.call.result":json.dumps({"content":[{"type":"text","text":ANSWER}]}),"mcp.session.id":"m1"},{"kind": "tool","name": "get_weather","input": ARGUMENTS})
case("openllmetry-langchain-retriever","opentelemetry.instrumentation.langchain","vector_db_retrieve VectorStoreRetriever",
 {"gen_ai.operation.name":"vector_db_retrieve","gen_ai.provider.name":"langchain","traceloop.span.kind":"task","traceloop.entity.name":"VectorStoreRetriever","traceloop.entity.input":json.dumps({"query":"paris","tags":[],"metadata":{},"kwargs":{}}),"traceloop.entity.output":json.dumps({"documents":[{"page_content":"Paris is big","metadata":{"score":0.9}}],"count":1})},
 {"kind": "retrieval","input": "paris","output": [{"content":"Paris is big","score":0.9,"metadata":{"score":0.9}}]})
case("openllmetry-langchain-task","opentelemetry.instrumentation.langchain","execute_task prompt",
 {"gen_ai.operation.name":"execute_task","gen_ai.task.name":"prompt","gen_ai.task.input":json.dumps({"city":"Paris"}),"gen_ai.task.output":json.dumps({"text":"Q"})},{"kind": "task","input": ARGUMENTS,"output": {"text":"Q"}})
case("openllmetry-pinecone","opentelemetry.instrumentation.pinecone","pinecone.query",
 {"db.system":"pinecone","db.operation":"query","db.vector.query.top_k":2,"db.pinecone.query.result_count":2},
 {"kind": "retrieval","output": [{"id":"a","score":0.9,"metadata":{"t":"x"}},{"id":"b","score":0.4}]},
 [event("db.query.embeddings",**{"db.query.embeddings.vector":[0.1,0.2]}),event("db.query.result",**{"db.query.result.id":"a","db.query.result.score":0.9,"db.query.result.metadata":json.dumps({"t":"x"})}),event("db.query.result",**{"db.query.result.id":"b","db.query.result.score":0.4})])
case("openllmetry-chroma","opentelemetry.instrumentation.chromadb","chroma.query",
 {"db.system":"chroma","db.operation":"query","db.chroma.query.n_results":1,"db.vector.query.top_k":1},
 {"kind": "retrieval","output": [{"id":"id1","content":"doc1","distance":0.1}]},
 [event("db.query.result",**{"db.query.result.id":"id1","db.query.result.distance":0.1,"db.query.result.document":"doc1"})])
case("openllmetry-watsonx","opentelemetry.instrumentation.watsonx","watsonx.generate",
 {"gen_ai.system":"Watsonx","llm.request.type":"completion","gen_ai.request.model":"ibm/granite-13b-chat-v2","gen_ai.prompt.0.user":ASKED,"gen_ai.completion.0.content":ANSWER,"gen_ai.usage.input_tokens":100,"gen_ai.usage.output_tokens":20,"llm.usage.total_tokens":120,"llm.response.stop_reason":"eos_token"},
 {"kind": "generation","model": "ibm/granite-13b-chat-v2","input_tokens": 100,"output_tokens": 20,"stop_reason": "eos_token","asked": [("user",ASKED)],"answered": [("assistant",ANSWER)]})
case("openllmetry-openai-user","opentelemetry.instrumentation.openai.v1","openai.chat",{"gen_ai.operation.name":"chat","gen_ai.provider.name":"openai","gen_ai.request.model":"gpt-4o-mini","gen_ai.user":"u7","gen_ai.usage.input_tokens":100,"gen_ai.usage.output_tokens":20,"gen_ai.usage.cache_read.input_tokens":40},{"kind": "generation","end_user": "u7","cached_tokens": 40,"cost_usd": 2.4e-05})
case("openllmetry-stop-reason-new","opentelemetry.instrumentation.watsonx","x",{"gen_ai.operation.name":"chat","gen_ai.request.model":"m","gen_ai.response.stop_reason":"eos_token"},{"stop_reason": "eos_token"})
case("openllmetry-guardrail","traceloop.tracer","pii.guardrail",{"traceloop.span.kind":"guardrail","gen_ai.guardrail.name":"pii","gen_ai.guardrail.status":"PASSED","gen_ai.guardrail.input":json.dumps({"text":ASKED}),"gen_ai.guardrail.output":json.dumps({"ok":True})},{"kind": "guardrail","input": {"text":ASKED},"output": {"ok":True}})
case("otel-agents-v2-guardrail","opentelemetry.instrumentation.openai_agents","guardrail_check",{"gen_ai.operation.name":"guardrail_check","gen_ai.provider.name":"openai","gen_ai.guardrail.name":"pii","gen_ai.guardrail.triggered":False},{"kind": "guardrail"})
case("otel-agents-v2-handoff","opentelemetry.instrumentation.openai_agents","agent_handoff",{"gen_ai.operation.name":"agent_handoff","gen_ai.handoff.from_agent":"Triage","gen_ai.handoff.to_agent":"Weather"},{"kind": "handoff","agent": "Triage","to_agent": "Weather"})
case("otel-agents-v2-speech","opentelemetry.instrumentation.openai_agents","speech_generation tts-1",{"gen_ai.operation.name":"speech_generation","gen_ai.request.model":"tts-1","gen_ai.speech.input_text":ANSWER},{"kind": "task","model": "tts-1"})
case("otel-agents-v2-transcription","opentelemetry.instrumentation.openai_agents","transcription whisper-1",{"gen_ai.operation.name":"transcription","gen_ai.request.model":"whisper-1","gen_ai.transcription.text":ASKED},{"kind": "task","model": "whisper-1","output": ASKED})
case("vertexai-contrib-choice-event","opentelemetry.instrumentation.vertexai","chat gemini-2.0-flash",{"gen_ai.operation.name":"chat","gen_ai.system":"vertex_ai","gen_ai.request.model":"gemini-2.0-flash","gen_ai.usage.input_tokens":100,"gen_ai.usage.output_tokens":20,"gen_ai.response.finish_reasons":["stop"]},
 {"kind": "generation","asked": [("system","Be kind."),("user",ASKED)],"answered": [("assistant",ANSWER)],"calls": [("get_weather",ARGUMENTS)],"stop_reason": "stop"},
 [event("gen_ai.system.message",role="system",content=[{"text":"Be kind."}]),event("gen_ai.user.message",role="user",content=[{"text":ASKED}]),
  event("gen_ai.choice",finish_reason="stop",index=0,message={"role":"model","content":[{"text":ANSWER}]},tool_calls=[{"id":"c1","type":"function","function":{"name":"get_weather","arguments":ARGUMENTS}}])])
case("choice-event-finish-reason","x","chat",{"gen_ai.operation.name":"chat","gen_ai.request.model":"gpt-4o-mini"},{"answered": [("assistant",ANSWER)],"stop_reason": "length"},[event("gen_ai.choice",finish_reason="length",index=0,message=json.dumps({"role":"assistant","content":ANSWER}))])
case("azure-ai-inference","azure.ai.inference","chat gpt-4o",{"az.namespace":"Microsoft.CognitiveServices","gen_ai.operation.name":"chat","gen_ai.system":"az.ai.inference","gen_ai.request.model":"gpt-4o","gen_ai.usage.input_tokens":100,"gen_ai.usage.output_tokens":20,"gen_ai.response.finish_reasons":"tool_calls"},
 {"kind": "generation","asked": [("system","Be kind."),("user",ASKED)],"answered": [("assistant",None)],"calls": [("get_weather",ARGUMENTS)],"stop_reason": "tool_calls"},
 [event("gen_ai.system.message",**{"gen_ai.system":"az.ai.inference","gen_ai.event.content":json.dumps({"role":"system","content":"Be kind."})}),
  event("gen_ai.user.message",**{"gen_ai.system":"az.ai.inference","gen_ai.event.content":json.dumps({"role":"user","content":ASKED})}),
  event("gen_ai.choice",**{"gen_ai.system":"az.ai.inference","gen_ai.event.content":json.dumps({"message":{"content":"","tool_calls":[{"id":"c1","type":"function","function":{"name":"get_weather","arguments":json.dumps(ARGUMENTS)}}]},"finish_reason":"tool_calls","index":0})})])
case("azure-ai-inference-tool","azure.ai.inference","chat gpt-4o",{"gen_ai.operation.name":"chat","gen_ai.system":"az.ai.inference","gen_ai.request.model":"gpt-4o"},
 {"asked": [("user",ASKED),("assistant",None),("tool",ANSWER)],"answered": [("assistant","It is sunny.")]},
 [event("gen_ai.user.message",**{"gen_ai.event.content":json.dumps({"role":"user","content":ASKED})}),
  event("gen_ai.assistant.message",**{"gen_ai.event.content":json.dumps({"role":"assistant","tool_calls":[{"id":"c1","type":"function","function":{"name":"get_weather","arguments":json.dumps(ARGUMENTS)}}]})}),
  event("gen_ai.tool.message",**{"gen_ai.event.content":json.dumps({"role":"tool","tool_call_id":"c1","content":ANSWER})}),
  event("gen_ai.choice",**{"gen_ai.event.content":json.dumps({"message":{"content":"It is sunny."},"finish_reason":"stop","index":0})})])
case("azure-ai-agents","azure.ai.agents","process_thread_run",{"gen_ai.operation.name":"process_thread_run","gen_ai.system":"az.ai.agents","gen_ai.thread.id":"th1","gen_ai.agent.id":"as1","gen_ai.agent.name":"Weather","gen_ai.request.model":"gpt-4o","gen_ai.usage.input_tokens":100,"gen_ai.usage.output_tokens":20},
 {"kind": "generation","thread": "th1","asked": [("user",ASKED)],"answered": None},
 [event("gen_ai.user.message",**{"gen_ai.event.content":json.dumps({"content":{"text":{"value":ASKED}},"role":"user"}),"gen_ai.thread.id":"th1"})])
case("ms-extensions-ai-dotnet","Experimental.Microsoft.Extensions.AI","chat gpt-4o-mini",{"gen_ai.operation.name":"chat","gen_ai.system":"openai","gen_ai.request.model":"gpt-4o-mini","gen_ai.response.input_tokens":100,"gen_ai.response.output_tokens":20,"gen_ai.response.finish_reasons":["stop"]},{"kind": "generation","input_tokens": 100,"output_tokens": 20})
case("semantic-kernel-dotnet-old","Microsoft.SemanticKernel.Diagnostics","chat.completions gpt-4",{"gen_ai.operation.name":"chat.completions","gen_ai.system":"openai","gen_ai.request.model":"gpt-4","gen_ai.response.prompt_tokens":100,"gen_ai.response.completion_tokens":20,"gen_ai.response.finish_reason":"stop"},
 {"kind": "generation","input_tokens": 100,"output_tokens": 20,"asked": [("user",ASKED)],"answered": [("assistant",ANSWER)],"stop_reason": "stop"},
 [event("gen_ai.content.prompt",**{"gen_ai.prompt":json.dumps([{"role":"user","content":ASKED}])}),event("gen_ai.content.completion",**{"gen_ai.completion":json.dumps([{"role":"assistant","content":ANSWER}])})])
case("spring-ai-chat","org.springframework.boot","chat gpt-4o-mini",{"gen_ai.operation.name":"chat","gen_ai.system":"openai","gen_ai.request.model":"gpt-4o-mini","gen_ai.response.model":"gpt-4o-mini-2024-07-18","gen_ai.response.finish_reasons":"[\"STOP\"]","gen_ai.usage.input_tokens":"100","gen_ai.usage.output_tokens":"20","gen_ai.usage.total_tokens":"120"},{"kind": "generation","input_tokens": 100,"output_tokens": 20,"stop_reason": "STOP","cost_usd": 2.7e-05})
case("spring-ai-embedding","org.springframework.boot","embedding text-embedding-3-small",{"gen_ai.operation.name":"embedding","gen_ai.system":"openai","gen_ai.request.model":"text-embedding-3-small","gen_ai.usage.input_tokens":"7"},{"kind": "embedding","input_tokens": 7})
case("spring-ai-tool","org.springframework.boot","execute_tool get_weather",{"gen_ai.operation.name":"framework","gen_ai.system":"spring_ai","spring.ai.kind":"tool_call","spring.ai.tool.definition.name":"get_weather","spring.ai.tool.call.arguments":json.dumps(ARGUMENTS),"spring.ai.tool.call.result":ANSWER},{"kind": "tool","name": "get_weather","input": ARGUMENTS,"output": ANSWER})
case("spring-ai-client","org.springframework.boot","spring_ai chat_client",{"gen_ai.operation.name":"framework","gen_ai.system":"spring_ai","spring.ai.kind":"chat_client","spring.ai.chat.client.conversation.id":"conv-9"},{"kind": "task","thread": "conv-9"})
case("spring-ai-vectorstore","org.springframework.boot","simple query",{"db.operation.name":"query","db.system":"simple","spring.ai.kind":"vector_store","db.vector.query.content":ASKED,"db.vector.query.top_k":"4","db.vector.query.response.documents":"[\"d1\", \"d2\"]"},{"kind": "retrieval","input": ASKED,"output": ["d1","d2"]})
case("mastra-agent","@mastra/otel-exporter","invoke_agent Weather",{"gen_ai.operation.name":"invoke_agent","mastra.span.type":"agent_run","gen_ai.agent.id":"weather","gen_ai.agent.name":"Weather","mastra.agent_run.input":json.dumps([{"role":"user","content":ASKED}]),"mastra.agent_run.output":json.dumps({"text":ANSWER,"files":[]}),"mastra.metadata.threadId":"th2","mastra.metadata.resourceId":"u2"},{"kind": "agent","agent": "Weather","thread": "th2","asked": [("user",ASKED)],"answered": [("assistant",ANSWER)]})
case("mastra-generation","@mastra/otel-exporter","chat gpt-4o-mini",{"gen_ai.operation.name":"chat","mastra.span.type":"model_generation","gen_ai.request.model":"gpt-4o-mini","gen_ai.provider.name":"openai","gen_ai.usage.input_tokens":100,"gen_ai.usage.cached_input_tokens":40,"gen_ai.usage.output_tokens":20,"gen_ai.usage.reasoning_tokens":8,"gen_ai.response.finish_reasons":"[\"stop\"]",
 "gen_ai.input.messages":json.dumps([{"role":"user","parts":[{"type":"text","content":ASKED}]}]),"gen_ai.output.messages":json.dumps([{"role":"assistant","parts":[{"type":"text","content":ANSWER}]}])},{"kind": "generation","cached_tokens": 40,"cost_usd": 2.4e-05,"stop_reason": "stop","asked": [("user",ASKED)],"answered": [("assistant",ANSWER)]})
case("mastra-step","@mastra/otel-exporter","step: 0",{"gen_ai.operation.name":"model_step","mastra.span.type":"model_step","mastra.model_step.input":json.dumps({"body":{"model":"gpt-4o-mini","messages":[{"role":"user","content":ASKED}]}}),"mastra.model_step.output":json.dumps({"text":ANSWER,"toolCalls":[]})},{"kind": "turn"})
case("mastra-workflow-step","@mastra/otel-exporter","workflow step a",{"gen_ai.operation.name":"workflow_step","mastra.span.type":"workflow_step","mastra.workflow_step.input":json.dumps(ARGUMENTS),"mastra.workflow_step.output":json.dumps({"r":1})},{"kind": "task","input": ARGUMENTS,"output": {"r":1}})
case("mastra-tool","@mastra/otel-exporter","execute_tool weather",{"gen_ai.operation.name":"execute_tool","mastra.span.type":"tool_call","gen_ai.tool.name":"get_weather","gen_ai.tool.call.arguments":json.dumps(ARGUMENTS),"gen_ai.tool.call.result":ANSWER},{"kind": "tool","name": "get_weather","input": ARGUMENTS,"output": ANSWER})
case("claude-code-llm","com.anthropic.claude_code.tracing","claude_code.llm_request",{"span.type":"llm_request","gen_ai.system":"anthropic","gen_ai.request.model":"claude-sonnet-4-5","model":"claude-sonnet-4-5","session.id":"s1","user.id":"u1","input_tokens":10,"output_tokens":33,"cache_read_tokens":2000,"cache_creation_tokens":100,"ttft_ms":120,"stop_reason":"end_turn"},{"kind": "generation","model": "claude-sonnet-4-5","input_tokens": 2110,"output_tokens": 33,"cached_tokens": 2000,"cost_usd": 0.0015,"thread": "s1","stop_reason": "end_turn","ttft_ms": 120.0})
case("claude-code-tool","com.anthropic.claude_code.tracing","claude_code.tool",{"span.type":"tool","tool_name":"Bash","session.id":"s1","duration_ms":5},{"kind": "tool","name": "Bash"})
case("claude-code-interaction","com.anthropic.claude_code.tracing","claude_code.interaction",{"span.type":"interaction","user_prompt":ASKED,"session.id":"s1"},{"kind": "agent","input": ASKED})
case("codex-turn","codex_cli_rs","session_task.turn",{"model":"gpt-5-codex","codex.turn.token_usage.input_tokens":100,"codex.turn.token_usage.output_tokens":20,"codex.turn.token_usage.cached_input_tokens":40,"codex.turn.token_usage.reasoning_output_tokens":8,"codex.turn.token_usage.total_tokens":120},{"kind": "agent","input_tokens": 100,"output_tokens": 20,"cached_tokens": 40,"cost_usd": pytest.approx(0.00028)})
case("langwatch-llm","langwatch","chat",{"langwatch.span.type":"llm","gen_ai.request.model":"gpt-4o-mini","langwatch.input":json.dumps({"type":"chat_messages","value":[{"role":"user","content":ASKED}]}),"langwatch.output":json.dumps({"type":"chat_messages","value":[{"role":"assistant","content":ANSWER}]}),"langwatch.metrics":json.dumps({"type":"json","value":{"promptTokens":100,"completionTokens":20}}),"langwatch.thread.id":"th3","langwatch.user.id":"u3"},{"kind": "generation","input_tokens": 100,"output_tokens": 20,"thread": "th3","end_user": "u3","asked": [("user",ASKED)],"answered": [("assistant",ANSWER)]})
case("langwatch-rag","langwatch","retrieve",{"langwatch.span.type":"rag","langwatch.input":json.dumps({"type":"text","value":ASKED}),"langwatch.rag.contexts":json.dumps([{"document_id":"d1","content":"Paris"}])},{"kind": "retrieval","input": ASKED,"output": [{"id":"d1","content":"Paris"}]})
case("langwatch-tool","langwatch","get_weather",{"langwatch.span.type":"tool","langwatch.input":json.dumps({"type":"json","value":ARGUMENTS}),"langwatch.output":json.dumps({"type":"text","value":ANSWER})},{"kind": "tool","input": ARGUMENTS,"output": ANSWER})
case("braintrust-llm","braintrust","Chat Completion",{"braintrust.span_attributes":json.dumps({"type":"llm","name":"Chat Completion"}),"braintrust.input_json":json.dumps([{"role":"user","content":ASKED}]),"braintrust.output_json":json.dumps([{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":ANSWER}}]),"braintrust.metadata":json.dumps({"model":"gpt-4o-mini","provider":"openai"}),"braintrust.metrics":json.dumps({"prompt_tokens":100,"completion_tokens":20,"tokens":120,"prompt_cached_tokens":40,"time_to_first_token":0.5})},
 {"kind": "generation","model": "gpt-4o-mini","provider": "openai","input_tokens": 100,"output_tokens": 20,"cached_tokens": 40,"cost_usd": 2.4e-05,"stop_reason": "stop","ttft_ms": 500.0,"asked": [("user",ASKED)],"answered": [("assistant",ANSWER)]})
case("braintrust-tool","braintrust","get_weather",{"braintrust.span_attributes":json.dumps({"type":"tool"}),"braintrust.input":json.dumps(ARGUMENTS),"braintrust.output":ANSWER},{"kind": "tool","input": ARGUMENTS,"output": ANSWER})
case("loongsuite-dify","dify","llm",{"gen_ai.span.kind":"LLM","gen_ai.model_name":"qwen-max","gen_ai.request.model":"qwen-max","gen_ai.session.id":"s4","gen_ai.user.id":"u4","gen_ai.usage.input_tokens":100,"gen_ai.usage.output_tokens":20,"input.value":json.dumps([{"role":"user","content":ASKED}]),"output.value":ANSWER},{"kind": "generation","thread": "s4","end_user": "u4","asked": [("user",ASKED)]})
case("loongsuite-retriever","dify","knowledge",{"gen_ai.span.kind":"RETRIEVER","input.value":ASKED,"retrieval.query":ASKED,"retrieval.document":json.dumps([{"content":"Paris","score":0.5}])},{"kind": "retrieval","input": ASKED,"output": [{"content":"Paris","score":0.5}]})
case("loongsuite-tool","dify","tool",{"gen_ai.span.kind":"TOOL","tool.name":"get_weather","tool.parameters":json.dumps(ARGUMENTS),"input.value":json.dumps(ARGUMENTS),"output.value":ANSWER},{"kind": "tool","name": "get_weather","input": ARGUMENTS,"output": ANSWER})
case("livekit-llm","livekit-agents","llm_node",{"gen_ai.request.model":"gpt-4o-mini","lk.chat_ctx":json.dumps({"items":[{"id":"i1","type":"message","role":"system","content":["Be kind."]},{"id":"i2","type":"message","role":"user","content":[ASKED]}]}),"lk.response.text":ANSWER,"lk.response.function_calls":[]},{"kind": "generation","asked": [("system","Be kind."),("user",ASKED)],"answered": [("assistant",ANSWER)]})
case("livekit-llm-request","livekit-agents","llm_request",{"gen_ai.operation.name":"chat","gen_ai.request.model":"gpt-4o-mini","gen_ai.usage.input_tokens":100,"gen_ai.usage.output_tokens":20},{"kind": "generation","asked": [("user",ASKED)],"answered": [("assistant",ANSWER)]},[event("gen_ai.user.message",content=ASKED),event("gen_ai.choice",role="assistant",content=ANSWER)])
case("livekit-tool","livekit-agents","function_tool",{"lk.function_tool.name":"get_weather","lk.function_tool.arguments":json.dumps(ARGUMENTS),"lk.function_tool.output":ANSWER,"lk.function_tool.is_error":False},{"kind": "tool","name": "get_weather","input": ARGUMENTS,"output": ANSWER})
case("livekit-turn","livekit-agents","agent_turn",{"lk.generation_id":"g1","lk.user_input":ASKED,"lk.response.text":ANSWER,"lk.instructions":"x"},{"kind": "turn","input": ASKED,"answered": [("assistant",ANSWER)]})
case("pipecat-llm","pipecat","llm",{"gen_ai.operation.name":"chat","gen_ai.provider.name":"openai","gen_ai.request.model":"gpt-4o-mini","stream":True,"input":json.dumps([{"role":"user","content":ASKED}]),"output":ANSWER,"gen_ai.usage.input_tokens":100,"gen_ai.usage.output_tokens":20,"metrics.ttfb":0.25},{"kind": "generation","asked": [("user",ASKED)],"answered": [("assistant",ANSWER)],"ttft_ms": 250.0})
case("pipecat-turn","pipecat","turn",{"turn.number":1,"turn.type":"conversation","conversation.id":"c7","turn.duration_seconds":1.5},{"kind": "turn","thread": "c7"})
case("pipecat-tts","pipecat","tts",{"gen_ai.operation.name":"text_to_speech","gen_ai.provider.name":"cartesia","gen_ai.request.model":"sonic","text":ANSWER},{"kind": "task","model": "sonic"})
case("livekit-llm-1.8","livekit-agents","llm_node",{"gen_ai.request.model":"gpt-4o-mini","lk.pii.chat_ctx":json.dumps({"items":[{"type":"message","role":"system","content":["Be kind.",{"type":"cache_breakpoint"}]},{"type":"agent_config_update","instructions":"Be kind."},{"type":"message","role":"user","content":[ASKED]},{"type":"function_call","call_id":"c1","name":"get_weather","arguments":json.dumps(ARGUMENTS)},{"type":"function_call_output","call_id":"c1","output":"sun"}]}),"lk.pii.response.text":"","lk.pii.response.function_calls":json.dumps([{"id":"i/fnc_0","call_id":"c2","arguments":json.dumps(ARGUMENTS),"name":"get_weather"}])},{"kind": "generation","asked": [("system","Be kind."),("user",ASKED),("assistant",None),("tool","sun")],"calls": [("get_weather",ARGUMENTS)]})
case("livekit-turn-1.8","livekit-agents","agent_turn",{"gen_ai.operation.name":"invoke_agent","gen_ai.agent.name":"Weather","lk.generation_id":"g1","lk.pii.user_input":ASKED,"lk.pii.response.text":ANSWER},{"kind": "agent","agent": "Weather","input": ASKED,"answered": [("assistant",ANSWER)]})
case("livekit-tool-1.8","livekit-agents","execute_tool get_weather",{"gen_ai.operation.name":"execute_tool","gen_ai.tool.name":"get_weather","lk.function_tool.name":"get_weather","gen_ai.tool.call.arguments":json.dumps(ARGUMENTS),"gen_ai.tool.call.result":json.dumps(ANSWER)},{"kind": "tool","name": "get_weather","input": ARGUMENTS,"output": ANSWER})
case("livekit-tts-1.8","livekit-agents","tts_node",{"gen_ai.request.model":"sonic","gen_ai.provider.name":"cartesia","lk.pii.input_text":ANSWER},{"kind": "task","model": "sonic","input": ANSWER})
case("livekit-handoff","livekit-agents","update_agent",{"lk.previous_agent_label":"Triage","lk.agent_label":"Weather"},{"kind": "handoff","agent": "Triage","to_agent": "Weather"})
case("pipecat-system-in-both-places","pipecat","llm",{"gen_ai.operation.name":"chat","gen_ai.request.model":"gpt-4o-mini","input":json.dumps([{"role":"system","content":"Be kind."},{"role":"user","content":ASKED}]),"gen_ai.system_instructions":"Be kind."},{"asked": [("system","Be kind."),("user",ASKED)]})
case("pipecat-tts-text","pipecat","tts",{"gen_ai.operation.name":"tts","gen_ai.request.model":"sonic","text":ANSWER},{"kind": "task","input": ANSWER})
case("pipecat-stt","pipecat","stt",{"gen_ai.operation.name":"stt","gen_ai.request.model":"nova-3","transcript":ASKED,"user_id":"ann","metrics.ttfb":0.25},{"kind": "task","output": ASKED,"end_user": "ann"})
case("pipecat-conversation","pipecat.turn","conversation",{"conversation.id":"c7","conversation.type":"voice"},{"kind": "task","thread": "c7"})
case("mastra-1.71-whole-loop","@mastra/otel-exporter","model_generation gpt-4o-mini",{"gen_ai.operation.name":"model_generation","mastra.span.type":"model_generation","mastra.model_generation.input":json.dumps({"messages":[{"role":"user","content":ASKED}]}),"mastra.model_generation.output":json.dumps({"text":ANSWER,"files":[]}),"mastra.metadata.sessionId":"s1","mastra.metadata.resourceId":"ann"},{"kind": "task","thread": "s1","end_user": "ann","asked": [("user",ASKED)],"output": ANSWER})
case("mastra-1.71-call","@mastra/otel-exporter","chat gpt-4o-mini",{"gen_ai.operation.name":"chat","mastra.span.type":"model_inference","gen_ai.request.model":"gpt-4o-mini","gen_ai.output.messages":json.dumps([{"role":"assistant","parts":[{"type":"text","content":""}]}]),"mastra.completion_start_time":"2020-01-01T00:00:00.000Z"},{"kind": "generation","output": None,"ttft_ms": None})
case("mastra-1.71-step-with-call","@mastra/otel-exporter","agent_step Weather",{"gen_ai.operation.name":"agent_step","mastra.span.type":"model_step","mastra.model_step.output":json.dumps({"text":"","toolCalls":[{"toolCallId":"c","toolName":"get_weather","args":ARGUMENTS}]})},{"kind": "turn","calls": [("get_weather",ARGUMENTS)]})
case("claude-code-tool-with-content","com.anthropic.claude_code.tracing","claude_code.tool",{"span.type":"tool","tool_name":"Bash","full_command":"ls"},{"kind": "tool","name": "Bash","input": "ls","output": "a.txt"},[event("tool.output",bash_command="ls",output="a.txt")])
case("claude-code-llm-detailed","com.anthropic.claude_code.tracing","claude_code.llm_request",{"span.type":"llm_request","model":"claude-sonnet-4-5","new_context":"[USER]\n"+ASKED,"response.model_output":ANSWER},{"asked": [("user",ASKED)],"answered": [("assistant",ANSWER)]})
case("claude-code-llm-after-tool","com.anthropic.claude_code.tracing","claude_code.llm_request",{"span.type":"llm_request","model":"claude-sonnet-4-5","new_context":"[TOOL RESULT: toolu_1]\n"+ANSWER},{"asked": [("tool",ANSWER)]})
case("codex-0.171-call","codex_exec","model_client.stream_responses_api",{"model":"gpt-5-codex","wire_api":"responses","api.path":"/responses"},{"kind": "generation","model": "gpt-5-codex"})
case("codex-0.171-tool","codex_exec","exec_command",{"tool_name":"exec_command","codex.tool.phase":"dispatch","conversation.id":"c8"},{"kind": "tool","name": "exec_command","thread": "c8"})
case("gemini-cli-instructions","gemini-cli","llm_call",{"gen_ai.operation.name":"llm_call","gen_ai.request.model":"gemini-2.5-flash","gen_ai.system_instructions":json.dumps("Be kind."),"gen_ai.input.messages":json.dumps([{"role":"user","parts":[{"text":ASKED}]}])},{"asked": [("system","Be kind."),("user",ASKED)]})
case("ag2-reasoning","opentelemetry.instrumentation.ag2","chat gpt-4o-mini",{"gen_ai.operation.name":"chat","gen_ai.request.model":"gpt-4o-mini","gen_ai.usage.thinking_tokens":8},{"reasoning_tokens": 8})
case("ag2-usage-record","opentelemetry.instrumentation.ag2","record_usage model_call",{"ag2.span.type":"usage","ag2.usage.kind":"model_call","gen_ai.response.model":"gpt-4o-mini","gen_ai.usage.input_tokens":100,"gen_ai.usage.output_tokens":20},{"kind": "other","input_tokens": None,"output_tokens": None,"cost_usd": None})
case("ag2-usage-of-compaction","opentelemetry.instrumentation.ag2","record_usage compaction",{"ag2.span.type":"usage","ag2.usage.kind":"compaction","gen_ai.response.model":"gpt-4o-mini","gen_ai.provider.name":"openai","gen_ai.usage.input_tokens":100,"gen_ai.usage.output_tokens":20},{"kind": "generation","input_tokens": 100,"cost_usd": 2.7e-05})
case("logfire-opens-stream","logfire.openai","Chat Completion",{"logfire.msg_template":"Chat Completion with {request_data[model]!r}","gen_ai.operation.name":"chat","gen_ai.request.model":"gpt-4o-mini","request_data":json.dumps({"model":"gpt-4o-mini"}),"gen_ai.response.model":"gpt-4o-mini"},{"kind": "task"})
case("logfire-streamed-answer","logfire.openai","streaming response",{"logfire.msg_template":"streaming response from {request_data[model]!r} took {duration:.2f}s","logfire.span_type":"log","gen_ai.operation.name":"chat","gen_ai.request.model":"gpt-4o-mini","gen_ai.response.id":"r1","gen_ai.usage.input_tokens":100,"gen_ai.usage.output_tokens":20,"gen_ai.usage.raw":json.dumps({"prompt_tokens":100,"completion_tokens":20,"completion_tokens_details":{"reasoning_tokens":8}})},{"kind": "generation","input_tokens": 100,"reasoning_tokens": 8})
case("haystack-generator","haystack","haystack.component.run",{"haystack.component.name":"llm","haystack.component.type":"OpenAIChatGenerator","haystack.component.fully_qualified_type":"haystack.components.generators.chat.openai.OpenAIChatGenerator","haystack.component.input":json.dumps({"messages":[{"role":"user","meta":{},"name":None,"content":[{"text":ASKED}]}]}),"haystack.component.output":json.dumps({"replies":[{"role":"assistant","meta":{"model":"gpt-4o-mini-2024-07-18","index":0,"finish_reason":"stop","usage":{"completion_tokens":20,"prompt_tokens":100,"total_tokens":120,"prompt_tokens_details":{"cached_tokens":40}}},"name":None,"content":[{"text":ANSWER}]}]})},
 {"kind": "generation","name": "llm","model": "gpt-4o-mini-2024-07-18","input_tokens": 100,"output_tokens": 20,"cached_tokens": 40,"asked": [("user",ASKED)],"answered": [("assistant",ANSWER)],"stop_reason": "stop"})
case("haystack-retriever","haystack","haystack.component.run",{"haystack.component.name":"retriever","haystack.component.type":"InMemoryBM25Retriever","haystack.component.input":json.dumps({"query":ASKED}),"haystack.component.output":json.dumps({"documents":[{"id":"d1","content":"Paris","score":0.7,"meta":{}}]})},{"kind": "retrieval","name": "retriever","output": [{"id":"d1","content":"Paris","score":0.7}]})
case("haystack-pipeline","haystack","haystack.pipeline.run",{"haystack.pipeline.input_data":json.dumps({"llm":{"q":ASKED}}),"haystack.pipeline.output_data":json.dumps({"llm":{"a":ANSWER}})},{"kind": "task","input": {"llm":{"q":ASKED}},"output": {"llm":{"a":ANSWER}}})
case("opik","opik","chat",{"opik.span.type":"llm","gen_ai.request.model":"gpt-4o-mini","thread_id":"th8","opik.thread_id":"th8","input":json.dumps({"messages":[{"role":"user","content":ASKED}]})},{"kind": "generation"})
case("weave-otel","weave","op",{"wandb.thread_id":"th9","wandb.is_turn":True,"gen_ai.request.model":"gpt-4o-mini"},{"kind": "generation","thread": "th9"})
case("langtrace","langtrace","openai.chat.completions.create",{"langtrace.service.name":"OpenAI","gen_ai.operation.name":"chat","gen_ai.request.model":"gpt-4o-mini","gen_ai.usage.input_tokens":100,"gen_ai.usage.output_tokens":20},{"kind": "generation","asked": [("user",ASKED)],"answered": [("assistant",ANSWER)]},
 [event("gen_ai.content.prompt",**{"gen_ai.prompt":json.dumps([{"role":"user","content":ASKED}])}),event("gen_ai.content.completion",**{"gen_ai.completion":json.dumps([{"role":"assistant","content":ANSWER}])})])
case("langtrace-old","langtrace","openai.chat.completions.create",{"langtrace.service.name":"OpenAI","llm.model":"gpt-4o-mini","llm.prompts":json.dumps([{"role":"user","content":ASKED}]),"llm.responses":json.dumps([{"role":"assistant","content":ANSWER}]),"llm.token.counts":json.dumps({"input_tokens":100,"output_tokens":20,"total_tokens":120})},{"kind": "generation","model": "gpt-4o-mini","input_tokens": 100,"output_tokens": 20,"asked": [("user",ASKED)],"answered": [("assistant",ANSWER)]})
case("logfire-anthropic","logfire.anthropic","Message with {request_data[model]!r}",{"logfire.msg_template":"Message with {request_data[model]!r}","logfire.msg":"Message with 'claude-sonnet-4-5'","request_data":json.dumps({"model":"claude-sonnet-4-5","max_tokens":100,"system":"Be kind.","messages":[{"role":"user","content":ASKED}]}),"response_data":json.dumps({"message":{"role":"assistant","content":ANSWER},"usage":{"input_tokens":10,"cache_creation_input_tokens":100,"cache_read_input_tokens":2000,"output_tokens":33}})},
 {"kind": "generation","model": "claude-sonnet-4-5","name": "Message with 'claude-sonnet-4-5'","input_tokens": 2110,"output_tokens": 33,"cached_tokens": 2000,"cost_usd": 0.0015,"asked": [("system","Be kind."),("user",ASKED)],"answered": [("assistant",ANSWER)]})
case("logfire-openai-request-data","logfire.openai","Chat Completion",{"logfire.msg":"Chat Completion with 'gpt-4o-mini'","gen_ai.request.model":"gpt-4o-mini","gen_ai.system":"openai","request_data":json.dumps({"model":"gpt-4o-mini","messages":[{"role":"user","content":ASKED}]}),"response_data":json.dumps({"message":{"role":"assistant","content":ANSWER},"usage":{"completion_tokens":20,"prompt_tokens":100,"total_tokens":120,"prompt_tokens_details":{"cached_tokens":40}}})},
 {"kind": "generation","input_tokens": 100,"output_tokens": 20,"cached_tokens": 40,"asked": [("user",ASKED)],"answered": [("assistant",ANSWER)]})
case("logfire-mcp","logfire.mcp","MCP request: {method}",{"logfire.msg":"MCP request: tools/call get_weather","rpc.system":"jsonrpc","rpc.method":"tools/call","request":json.dumps({"method":"tools/call","params":{"name":"get_weather","arguments":ARGUMENTS}}),"response":json.dumps({"content":[{"type":"text","text":ANSWER}]})},{"kind": "other","name": "MCP request: tools/call get_weather","input": {"method":"tools/call","params":{"name":"get_weather","arguments":ARGUMENTS}}})
case("langchain4j","langchain4j","chat gpt-4o-mini",{"gen_ai.operation.name":"chat","gen_ai.request.model":"gpt-4o-mini","gen_ai.system":"openai","gen_ai.usage.input_tokens":100,"gen_ai.usage.output_tokens":20,"gen_ai.prompt":ASKED,"gen_ai.completion":ANSWER,"gen_ai.client.estimated_cost":"$0.000027"},{"kind": "generation","asked": [("user",ASKED)],"answered": [("assistant",ANSWER)]})
case("ag2-native","ag2","llm",{"ag2.span.type":"llm","gen_ai.operation.name":"chat","gen_ai.provider.name":"openai","gen_ai.request.model":"gpt-4o-mini","gen_ai.usage.input_tokens":100,"gen_ai.usage.output_tokens":20,"gen_ai.usage.cost":0.5},{"kind": "generation","cost_usd": 0.5})
case("cloudflare-gateway","ai-gateway","chat",{"gen_ai.request.model":"gpt-4o-mini","gen_ai.model.provider":"openai","gen_ai.usage.input_tokens":100,"gen_ai.usage.output_tokens":20,"gen_ai.prompt_json":json.dumps({"messages":[{"role":"user","content":ASKED}]}),"gen_ai.completion_json":json.dumps({"choices":[{"message":{"role":"assistant","content":ANSWER},"finish_reason":"stop"}]})},{"kind": "generation","provider": "openai","asked": [("user",ASKED)],"answered": [("assistant",ANSWER)],"stop_reason": "stop"})
case("openinference-tool-params","openinference.instrumentation.x","t",{"openinference.span.kind":"TOOL","tool.name":"get_weather","tool.parameters":json.dumps(ARGUMENTS),"output.value":ANSWER},{"kind": "tool","name": "get_weather","input": ARGUMENTS,"output": ANSWER})
case("openinference-oi-embedding","openinference.instrumentation.openai","CreateEmbeddings",{"openinference.span.kind":"EMBEDDING","embedding.model_name":"text-embedding-3-small","embedding.embeddings.0.embedding.text":"hello","llm.token_count.prompt":7},{"kind": "embedding","input": "hello"})
case("openinference-prompt","openinference.instrumentation.x","p",{"openinference.span.kind":"PROMPT","llm.prompt_template.template":"Hi {x}","input.value":json.dumps({"x":1}),"output.value":"Hi 1"},{"kind": "other","output": "Hi 1"})
case("openinference-completion-prompts","openinference.instrumentation.openai","Completion",{"openinference.span.kind":"LLM","llm.model_name":"gpt-3.5-turbo-instruct","llm.prompts.0.prompt.text":ASKED,"llm.choices.0.completion.text":ANSWER,"llm.token_count.prompt":5,"llm.token_count.completion":6},{"kind": "generation","asked": [("user",ASKED)],"answered": [("assistant",ANSWER)]})
case("openinference-evaluator","x","e",{"openinference.span.kind":"EVALUATOR","input.value":"q"},{"kind": "other"})
case("vercel-v6-agent","ai","ai.generateText",{"operation.name":"ai.generateText weather","ai.operationId":"ai.generateText","ai.model.id":"gpt-4o-mini","ai.model.provider":"openai.responses","ai.prompt":json.dumps({"system":"Be kind.","messages":[{"role":"user","content":[{"type":"text","text":ASKED}]}]}),"ai.response.text":ANSWER,"ai.usage.inputTokens":100,"ai.usage.outputTokens":20,"ai.telemetry.functionId":"weather"},{"kind": "agent","asked": [("system","Be kind."),("user",ASKED)],"answered": [("assistant",ANSWER)]})
case("gen_ai-agent-azure-foundry","azure.ai.projects","invoke_agent Weather",{"gen_ai.operation.name":"invoke_agent","gen_ai.provider.name":"azure.openai","gen_ai.agent.name":"Weather","gen_ai.conversation.id":"cv1","gen_ai.usage.input_tokens":100,"gen_ai.usage.output_tokens":20},{"kind": "agent","thread": "cv1","asked": [("user",ASKED)],"answered": [("assistant",ANSWER)]},
 [event("gen_ai.input.messages",**{"gen_ai.event.content":json.dumps([{"role":"user","parts":[{"type":"text","content":ASKED}]}])}),event("gen_ai.output.messages",**{"gen_ai.event.content":json.dumps([{"role":"assistant","parts":[{"type":"text","content":ANSWER}],"finish_reason":"completed"}])})])
case("structured-messages","x","chat",{"gen_ai.operation.name":"chat","gen_ai.request.model":"gpt-4o-mini","gen_ai.input.messages":[{"role":"user","parts":[{"type":"text","content":ASKED}]}],"gen_ai.output.messages":[{"role":"assistant","parts":[{"type":"text","content":ANSWER},{"type":"tool_call","id":"c","name":"get_weather","arguments":ARGUMENTS}],"finish_reason":"tool_call"}]},{"asked": [("user",ASKED)],"answered": [("assistant",ANSWER)],"calls": [("get_weather",ARGUMENTS)],"stop_reason": "tool_call"})
case("oi-cost-parts","openinference.instrumentation.x","c",{"openinference.span.kind":"LLM","llm.model_name":"m-unknown","llm.cost.prompt":0.1,"llm.cost.completion":0.2,"llm.token_count.prompt":1},{"cost_usd": 0.3})
case("finish-string","x","chat",{"gen_ai.operation.name":"chat","gen_ai.request.model":"m","gen_ai.response.finish_reasons":"stop"},{"stop_reason": "stop"})
case("langfuse-anthropic-blocks","langfuse-sdk","g",{"langfuse.observation.type":"generation","langfuse.observation.model.name":"claude-sonnet-4-5","langfuse.observation.input":json.dumps([{"role":"user","content":ASKED}]),"langfuse.observation.output":json.dumps({"role":"assistant","content":[{"type":"text","text":ANSWER},{"type":"tool_use","id":"t1","name":"get_weather","input":ARGUMENTS}]})},{"kind": "generation","asked": [("user",ASKED)],"answered": [("assistant",ANSWER)],"calls": [("get_weather",ARGUMENTS)]})
case("langfuse-responses-output","langfuse-sdk","g",{"langfuse.observation.type":"generation","langfuse.observation.model.name":"gpt-4o-mini","langfuse.observation.input":json.dumps(ASKED),"langfuse.observation.output":json.dumps([{"type":"message","role":"assistant","content":[{"type":"output_text","text":ANSWER,"annotations":[]}]},{"type":"function_call","name":"get_weather","arguments":json.dumps(ARGUMENTS),"call_id":"c"}])},{"answered": [("assistant",ANSWER)],"calls": [("get_weather",ARGUMENTS)]})
case("gemini-contents","langfuse-sdk","g",{"langfuse.observation.type":"generation","langfuse.observation.model.name":"gemini-2.5-flash","langfuse.observation.input":json.dumps({"contents":[{"role":"user","parts":[{"text":ASKED}]}],"config":{"system_instruction":"Be kind."}}),"langfuse.observation.output":json.dumps({"candidates":[{"content":{"role":"model","parts":[{"text":ANSWER},{"functionCall":{"name":"get_weather","args":ARGUMENTS}}]},"finishReason":"STOP"}]})},{"asked": [("system","Be kind."),("user",ASKED)],"answered": [("assistant",ANSWER)],"calls": [("get_weather",ARGUMENTS)],"stop_reason": "STOP"})
case("bedrock-converse","langfuse-sdk","g",{"langfuse.observation.type":"generation","langfuse.observation.model.name":"anthropic.claude-3-haiku-20240307-v1:0","langfuse.observation.input":json.dumps({"messages":[{"role":"user","content":[{"text":ASKED}]}],"system":[{"text":"Be kind."}]}),"langfuse.observation.output":json.dumps({"output":{"message":{"role":"assistant","content":[{"text":ANSWER},{"toolUse":{"toolUseId":"t","name":"get_weather","input":ARGUMENTS}}]}},"stopReason":"tool_use"})},{"asked": [("system","Be kind."),("user",ASKED)],"answered": [("assistant",ANSWER)],"calls": [("get_weather",ARGUMENTS)],"stop_reason": "tool_use"})
case("cohere-chat-history","x","cohere.chat",{"llm.request.type":"chat","gen_ai.system":"Cohere","gen_ai.request.model":"command-r","gen_ai.prompt.0.role":"user","gen_ai.prompt.0.content":ASKED,"gen_ai.completion.0.content":ANSWER,"gen_ai.usage.prompt_tokens":3,"gen_ai.usage.completion_tokens":4},{"asked": [("user",ASKED)],"answered": [("assistant",ANSWER)],"input_tokens": 3})
case("oi-message-contents-image","openinference.instrumentation.openai","c",{"openinference.span.kind":"LLM","llm.model_name":"gpt-4o-mini","llm.input_messages.0.message.role":"user","llm.input_messages.0.message.contents.0.message_content.type":"text","llm.input_messages.0.message.contents.0.message_content.text":ASKED,"llm.input_messages.0.message.contents.1.message_content.type":"image","llm.input_messages.0.message.contents.1.message_content.image.image.url":"https://x/y.png","llm.output_messages.0.message.role":"assistant","llm.output_messages.0.message.tool_calls.0.tool_call.id":"c","llm.output_messages.0.message.tool_calls.0.tool_call.function.name":"get_weather","llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments":json.dumps(ARGUMENTS)},{"asked": [("user",ASKED)],"calls": [("get_weather",ARGUMENTS)]})
case("sk-python-agent","semantic_kernel","invoke_agent Weather",{"gen_ai.operation.name":"invoke_agent","gen_ai.agent.name":"Weather","gen_ai.agent.invocation_input":json.dumps([{"role":"user","content":ASKED}]),"gen_ai.agent.invocation_output":json.dumps([{"role":"assistant","content":ANSWER}])},{"kind": "agent","agent": "Weather","asked": [("user",ASKED)],"answered": [("assistant",ANSWER)]})
case("oi-portkey-stream","openinference.instrumentation.portkey","Completions",{"openinference.span.kind":"LLM","llm.model_name":"gpt-4o-mini","output.value":"<openai.Stream object at 0x7f330f4e7d50>"},{"kind": "generation","output": None})
case("oi-generator","x","c",{"openinference.span.kind":"LLM","llm.model_name":"gpt-4o-mini","output.value":"<generator object ask.<locals>.parts at 0x7f330f4e7d50>"},{"output": None})
case("oi-reranker","x","r",{"openinference.span.kind":"RERANKER","reranker.query":ASKED,"reranker.model_name":"rerank-2","reranker.output_documents.0.document.content":"Paris","reranker.output_documents.0.document.score":0.9},{"kind": "retrieval","input": ASKED,"model": "rerank-2","output": [{"content":"Paris","score":0.9}]})
case("oi-tool-wrapped","openinference.instrumentation.mcp","t",{"openinference.span.kind":"TOOL","tool.name":"get_weather","input.value":json.dumps({"input":{"city":"Paris"}}),"input.mime_type":"application/json","output.value":ANSWER},{"kind": "tool"})
case("openllmetry-agent-tool","opentelemetry.instrumentation.agno","get_weather.tool",{"gen_ai.operation.name":"execute_tool","gen_ai.tool.name":"get_weather","traceloop.entity.input":json.dumps(ARGUMENTS),"traceloop.entity.output":ANSWER,"tool.description":"x"},{"kind": "tool","input": ARGUMENTS,"output": ANSWER})
case("gemini-cli","gemini-cli","llm_call",{"gen_ai.operation.name":"llm_call","gen_ai.request.model":"gemini-2.5-pro","gen_ai.agent.name":"gemini-cli","gen_ai.usage.input_tokens":100,"gen_ai.usage.output_tokens":20,"gen_ai.conversation.id":"s"},{"kind": "generation","thread": "s"})
case("copilot-agent","github.copilot","invoke_agent",{"gen_ai.operation.name":"invoke_agent","gen_ai.usage.input_tokens":100,"gen_ai.usage.output_tokens":20,"gen_ai.usage.reasoning.output_tokens":8,"gen_ai.request.model":"gpt-5","enduser.pseudo.id":"u"},{"kind": "agent","end_user": "u","cost_usd": None})
case("tool-result-list-of-content","x","execute_tool t",{"gen_ai.operation.name":"execute_tool","gen_ai.tool.name":"t","gen_ai.tool.call.arguments":"not json","gen_ai.tool.call.result":[1,2]},{"kind": "tool","input": "not json","output": [1,2]})
case("openlit-events-prompt-text","openlit","chat",{"gen_ai.operation.name":"chat","gen_ai.request.model":"gpt-4o-mini"},{"asked": [("user","user: Weather in Paris?")]} ,[event("gen_ai.content.prompt",**{"gen_ai.prompt":"user: Weather in Paris?"})])
case("vercel-7-step","gen_ai","step 1",{"gen_ai.operation.name":"agent_step","ai.settings.context.sessionId":"s1","ai.settings.context.userId":"ann","ai.usage.outputTokenDetails.reasoningTokens":8},{"kind": "turn","output_tokens": None,"reasoning_tokens": 8,"thread": "s1","end_user": "ann"})
case("vercel-7-call","gen_ai","chat gpt-4o-mini",{"gen_ai.operation.name":"chat","gen_ai.request.model":"gpt-4o-mini","gen_ai.client.operation.time_to_first_chunk":0.25},{"kind": "generation","ttft_ms": 250.0})
case("vercel-7-speech","gen_ai","ai.generateSpeech tts-1",{"gen_ai.operation.name":"ai.generateSpeech","gen_ai.request.model":"tts-1"},{"kind": "task","model": "tts-1"})
case("vercel-embed","ai","ai.embed.doEmbed",{"ai.operationId":"ai.embed.doEmbed","ai.model.id":"text-embedding-3-small","ai.model.provider":"openai.embedding","ai.values":["\"a\"","\"b\""],"ai.usage.tokens":7},{"kind": "embedding","input_tokens": 7,"input": ["a","b"]})
case("arize-session","openinference.instrumentation.x","c",{"openinference.span.kind":"CHAIN","session.id":"s","user.id":"u","metadata":json.dumps({"a":1}),"input.value":ASKED,"output.value":ANSWER},{"kind": "task","thread": "s","end_user": "u","input": ASKED,"output": ANSWER})
case("ai21-cached","x","chat",{"gen_ai.operation.name":"chat","gen_ai.provider.name":"openai","gen_ai.request.model":"gpt-4o-mini","gen_ai.usage.input_tokens":100,"gen_ai.usage.output_tokens":20,"gen_ai.usage.input_tokens_details.cached_tokens":40},{"cached_tokens": 40,"cost_usd": 2.4e-05})
case("gen-ai-reasoning-details","x","chat",{"gen_ai.operation.name":"chat","gen_ai.request.model":"gpt-4o-mini","gen_ai.usage.input_tokens":100,"gen_ai.usage.output_tokens":20,"gen_ai.usage.output_tokens_details.reasoning_tokens":8},{"reasoning_tokens": 8})
case("otel-retrieval","x","retrieval kb",{"gen_ai.operation.name":"retrieval","gen_ai.data_source.id":"kb","gen_ai.retrieval.query.text":ASKED,"gen_ai.retrieval.documents":json.dumps([{"id":"d","score":0.5}])},{"kind": "retrieval","input": ASKED,"output": [{"id":"d","score":0.5}]})
case("oi-response-as-output","openinference.instrumentation.agno","OpenAIChat.invoke",{"openinference.span.kind":"LLM","llm.model_name":"gpt-4o-mini","llm.provider":"OpenAI","llm.output_messages.0.message.role":"assistant","llm.output_messages.0.message.content":ANSWER,"output.value":json.dumps({"object":"chat.completion","choices":[{"finish_reason":"length","message":{"role":"assistant","content":ANSWER}}],"usage":{"prompt_tokens":100,"completion_tokens":20,"prompt_tokens_details":{"cached_tokens":40},"completion_tokens_details":{"reasoning_tokens":8}}})},{"input_tokens": 100,"output_tokens": 20,"cached_tokens": 40,"reasoning_tokens": 8,"cost_usd": pytest.approx(2.4e-05),"stop_reason": "length","answered": [("assistant",ANSWER)]})
case("oi-claude-counted-apart","openinference.instrumentation.anthropic","Messages",{"openinference.span.kind":"LLM","llm.model_name":"claude-sonnet-4-5","llm.provider":"anthropic","llm.token_count.prompt":10,"llm.token_count.completion":33,"output.value":json.dumps({"type":"message","role":"assistant","content":[{"type":"text","text":ANSWER}],"stop_reason":"end_turn","usage":{"input_tokens":10,"cache_creation_input_tokens":100,"cache_read_input_tokens":2000,"output_tokens":33}})},{"input_tokens": 2110,"cached_tokens": 2000,"cost_usd": pytest.approx(0.0015),"stop_reason": "end_turn"})
case("oi-tool-that-returns-usage","openinference.instrumentation.openai_agents","t",{"openinference.span.kind":"TOOL","tool.name":"t","output.value":json.dumps({"usage":{"input_tokens":7}})},{"kind": "tool","input_tokens": None,"output": {"usage":{"input_tokens":7}}})
case("oi-handoff-without-agents","openinference.instrumentation.openai_agents","handoff to Weather Agent",{"openinference.span.kind":"TOOL"},{"kind": "handoff","to_agent": "Weather Agent","agent": None})
case("oi-agno-agent","openinference.instrumentation.agno","weather_agent.run",{"openinference.span.kind":"AGENT","agno.agent":"weather_agent"},{"kind": "agent","agent": "weather_agent"})
case("strands-0.1-agent","strands-agents","Strands Agent",{"gen_ai.system":"strands-agents","gen_ai.agent.name":"Strands Agent","gen_ai.request.model":"gpt-4o-mini","gen_ai.prompt":ASKED,"gen_ai.completion":ANSWER},{"kind": "agent","agent": "Strands Agent","asked": [("user",ASKED)],"answered": [("assistant",ANSWER)]})
case("strands-0.1-model","strands-agents","Model invoke",{"gen_ai.system":"strands-agents","gen_ai.agent.name":"Strands Agent","gen_ai.request.model":"gpt-4o-mini","gen_ai.prompt":json.dumps([{"role":"user","content":[{"text":ASKED}]}]),"gen_ai.completion":json.dumps([{"text":ANSWER},{"toolUse":{"toolUseId":"c","name":"get_weather","input":ARGUMENTS}}])},{"kind": "generation","asked": [("user",ASKED)],"answered": [("assistant",ANSWER)],"calls": [("get_weather",ARGUMENTS)]})
case("strands-0.1-tool","strands-agents","Tool: get_weather",{"gen_ai.prompt":json.dumps({"toolUseId":"c","name":"get_weather","input":ARGUMENTS}),"tool.name":"get_weather","tool.parameters":json.dumps(ARGUMENTS),"tool.result":json.dumps([{"text":ANSWER}]),"gen_ai.completion":json.dumps([{"text":ANSWER}]),"tool.status":"success"},{"kind": "tool","name": "get_weather","input": ARGUMENTS,"output": ANSWER,"status": "ok"})
case("logfire-embedding","logfire.openai","Embedding Creation with {request_data[model]!r}",{"logfire.msg_template":"Embedding Creation with {request_data[model]!r}","request_data":json.dumps({"input":["a"],"model":"text-embedding-3-small"}),"gen_ai.request.model":"text-embedding-3-small","gen_ai.system":"openai","gen_ai.usage.input_tokens":14},{"kind": "embedding","input_tokens": 14})
case("openllmetry-refusal","x","openai.chat",{"llm.request.type":"chat","gen_ai.request.model":"gpt-4o-mini","gen_ai.completion.0.role":"assistant","gen_ai.completion.0.finish_reason":"stop","gen_ai.completion.0.refusal":"I cannot do that"},{"answered": [("assistant","I cannot do that")]})
case("openllmetry-thinking","x","anthropic.chat",{"llm.request.type":"completion","gen_ai.request.model":"claude-sonnet-4-5","gen_ai.completion.0.role":"thinking","gen_ai.completion.0.content":"Hm","gen_ai.completion.1.role":"assistant","gen_ai.completion.1.content":ANSWER},{"answered": [("assistant",ANSWER)]})
case("openllmetry-blocks-and-calls","x","anthropic.chat",{"llm.request.type":"completion","gen_ai.request.model":"claude-sonnet-4-5","gen_ai.completion.0.role":"assistant","gen_ai.completion.0.content":json.dumps([{"text":ANSWER,"type":"text"},{"id":"c","input":ARGUMENTS,"name":"get_weather","type":"tool_use"}]),"gen_ai.completion.0.tool_calls.0.id":"c","gen_ai.completion.0.tool_calls.0.name":"get_weather","gen_ai.completion.0.tool_calls.0.arguments":json.dumps(ARGUMENTS)},{"answered": [("assistant",ANSWER)],"calls": [("get_weather",ARGUMENTS)]})
case("oi-langchain-python-arguments","openinference.instrumentation.langchain","get_weather",{"openinference.span.kind":"TOOL","tool.name":"get_weather","input.value":"{'city': 'Paris'}","output.value":ANSWER},{"kind": "tool","input": ARGUMENTS,"output": ANSWER})
case("oi-langchain-empty-generation","openinference.instrumentation.langchain","ChatOpenAI",{"openinference.span.kind":"LLM","llm.model_name":"gpt-4o-mini","llm.output_messages.0.message.role":"assistant","output.value":json.dumps({"generations":[[{"text":"","message":{"lc":1,"type":"constructor","id":["langchain","schema","messages","AIMessage"],"kwargs":{"content":""}}}]]})},{"output": None})
case("logfire-failed-generation","logfire.openai_agents","Chat completion with {gen_ai.request.model!r}",{"logfire.msg_template":"Chat completion with {gen_ai.request.model!r}","gen_ai.request.model":"gpt-4o-mini","output":"null"},{"kind": "generation","answered": None})
case("no-content-captured","opentelemetry.instrumentation.openai_v2","chat gpt-4o-mini",{"gen_ai.operation.name":"chat","gen_ai.request.model":"gpt-4o-mini"},{"input": None,"output": None,"stop_reason": "length"},
 [event("gen_ai.system.message",**{"gen_ai.system":"openai"}),event("gen_ai.user.message",**{"gen_ai.system":"openai"}),event("gen_ai.choice",**{"gen_ai.event.content":json.dumps({"index":0,"finish_reason":"length","message":{"role":"assistant"}})})])
case("chroma-query","opentelemetry.instrumentation.chromadb","chroma.query",{"db.system":"chroma","db.operation":"query","db.chroma.query.n_results":1},{"kind": "retrieval","output": [{"id":"a","distance":"0.1","content":"Paris"}]},
 [event("db.query.result",**{"db.query.result.id":"a","db.query.result.distance":"0.1","db.query.result.document":"Paris"})])
case("traceloop-agent","traceloop.tracer","weather_agent.agent",{"traceloop.span.kind":"agent","traceloop.entity.name":"weather_agent","traceloop.entity.input":json.dumps({"args":[ASKED],"kwargs":{}}),"traceloop.entity.output":json.dumps(ANSWER)},{"kind": "agent","agent": "weather_agent","asked": [("user",ASKED)],"answered": [("assistant",ANSWER)]})
case("traceloop-tool-that-returns-text","traceloop.tracer","get_weather.tool",{"traceloop.span.kind":"tool","traceloop.entity.name":"get_weather","traceloop.entity.input":json.dumps({"args":[],"kwargs":ARGUMENTS}),"traceloop.entity.output":json.dumps(ANSWER)},{"kind": "tool","name": "get_weather","input": ARGUMENTS,"output": ANSWER})
case("openllmetry-calls-without-text","x","ChatOpenAI.chat",{"llm.request.type":"chat","gen_ai.request.model":"gpt-4o-mini","gen_ai.completion.0.role":"assistant","gen_ai.completion.0.content":'""',"gen_ai.completion.0.tool_calls.0.id":"c","gen_ai.completion.0.tool_calls.0.name":"get_weather","gen_ai.completion.0.tool_calls.0.arguments":json.dumps(ARGUMENTS)},{"answered": [("assistant",None)],"calls": [("get_weather",ARGUMENTS)]})
case("semantic-kernel-1.30-function","semantic_kernel.functions.kernel_function","Weather-get_weather",{},{"kind": "tool","name": "Weather-get_weather"})
case("langfuse-langchain","langfuse-sdk","ChatOpenAI",{"langfuse.observation.type":"generation","langfuse.observation.model.name":"gpt-4o-mini","langfuse.observation.metadata.ls_provider":'"openai"',"langfuse.observation.usage_details":json.dumps({"input":60,"output":12,"total":120,"input_cache_read":40,"output_reasoning":8}),
  "langfuse.observation.input":json.dumps([{"role":"user","content":ASKED},{"role":"tool","content":{"type":"function","function":{"name":"get_weather","parameters":{}}}}]),
  "langfuse.observation.output":json.dumps({"role":"assistant","content":"","tool_calls":[{"name":"get_weather","args":ARGUMENTS,"id":"c","type":"tool_call"}]})},
 {"kind": "generation","provider": "openai","asked": [("user",ASKED)],"answered": [("assistant",None)],"calls": [("get_weather",ARGUMENTS)],"input_tokens": 100,"output_tokens": 20,"cached_tokens": 40,"reasoning_tokens": 8,"cost_usd": pytest.approx(2.4e-05)})
case("otel-openai-agents-trace","opentelemetry.instrumentation.openai_agents","wf",{"gen_ai.operation.name":"invoke_agent","gen_ai.provider.name":"openai"},{"kind": "task","agent": None})
case("otel-openai-agents-agent","opentelemetry.instrumentation.openai_agents","invoke_agent Triage",{"gen_ai.operation.name":"invoke_agent","gen_ai.agent.name":"Triage"},{"kind": "agent","agent": "Triage"})
case("oi-strands-step","strands.telemetry.tracer","chat",{"openinference.span.kind":"LLM","llm.model_name":"gpt-4o-mini","graph.node.id":"llm_136"},{"kind": "generation","agent": None})
case("oi-agent-of-a-graph","x","team",{"openinference.span.kind":"AGENT","graph.node.id":"writer"},{"kind": "agent","agent": "writer"})
case("oi-openllmetry-embedding","opentelemetry.instrumentation.openai.v1","openai.embeddings",{"openinference.span.kind":"LLM","llm.request.type":"embedding","llm.model_name":"text-embedding-3-small","llm.token_count.prompt":14},{"kind": "embedding","model": "text-embedding-3-small","input_tokens": 14})
case("vercel-answer-id","ai","ai.generateText.doGenerate",{"ai.operationId":"ai.generateText.doGenerate","ai.response.id":"chatcmpl-7"},{"kind": "generation","answer_id": "chatcmpl-7"})
case("mlflow-answer-id","mlflow.tracing.provider","Completions",{"mlflow.spanType":'"CHAT_MODEL"',"mlflow.spanOutputs":json.dumps({"id":"chatcmpl-7","object":"chat.completion","choices":[]})},{"kind": "generation","answer_id": "chatcmpl-7"})
case("oi-streamed-answer-id","openinference.instrumentation.openai","ChatCompletion",{"openinference.span.kind":"LLM","output.value":json.dumps({"id":"chatcmpl-7","object":"chat.completion.chunk","choices":[]})},{"kind": "generation","answer_id": "chatcmpl-7"})
case("tool-result-with-an-id","openinference.instrumentation.openai","t",{"openinference.span.kind":"TOOL","output.value":json.dumps({"id":"chatcmpl-7","object":"chat.completion"})},{"kind": "tool","answer_id": None})
LANGCHAIN_METADATA = json.dumps({"lc_agent_name":"weather_agent","thread_id":"t-1"})
case("mlflow-langchain-agent","mlflow.tracing.provider","weather_agent",{"mlflow.spanType":'"CHAIN"',"metadata":LANGCHAIN_METADATA},{"kind": "agent","agent": "weather_agent","thread": "t-1"})
case("mlflow-langchain-step","mlflow.tracing.provider","model",{"mlflow.spanType":'"CHAIN"',"metadata":LANGCHAIN_METADATA},{"kind": "task","agent": None,"thread": "t-1"})
case("langfuse-langgraph-thread","langfuse-sdk","model",{"langfuse.observation.type":"chain","langfuse.trace.metadata.thread_id":'"t-1"'},{"kind": "task","thread": "t-1"})
QUARKUS = "io.quarkus.opentelemetry"
THROWN = event("exception",**{"exception.type":"java.io.IOException","exception.message":"no route"})
case("quarkus-model",QUARKUS,"completion gpt-4o-mini",{"gen_ai.request.model":"gpt-4o-mini","gen_ai.response.finish_reasons":"STOP","gen_ai.usage.prompt_tokens":100,"gen_ai.usage.completion_tokens":20,"gen_ai.client.estimated_cost":"0.5USD","gen_ai.prompt":ASKED,"gen_ai.completion":ANSWER},{"kind": "generation","input_tokens": 100,"output_tokens": 20,"cost_usd": 0.5,"stop_reason": "STOP","asked": [("user",ASKED)],"answered": [("assistant",ANSWER)]})
case("quarkus-cost-in-euros",QUARKUS,"completion gpt-4o-mini",{"gen_ai.request.model":"gpt-4o-mini","gen_ai.usage.prompt_tokens":100,"gen_ai.usage.completion_tokens":20,"gen_ai.client.estimated_cost":"0.5EUR"},{"cost_usd": pytest.approx(2.7e-05)})
case("quarkus-tool-that-failed",QUARKUS,"langchain4j.tools.get_weather",{"gen_ai.operation.name":"execute_tool","gen_ai.tool.name":"get_weather","gen_ai.tool.call.arguments":json.dumps(ARGUMENTS)},{"kind": "tool","name": "get_weather","input": ARGUMENTS,"status": "error","error": "java.io.IOException: no route"},[THROWN])
case("quarkus-tool-of-mcp",QUARKUS,"langchain4j.mcp-tools.get_weather",{},{"kind": "tool","name": "get_weather","status": "ok"})
case("quarkus-service",QUARKUS,"langchain4j.aiservices.Assistant.chat",{},{"kind": "task","name": "langchain4j.aiservices.Assistant.chat"})
case("quarkus-own-span-with-an-exception",QUARKUS,"POST /chat",{},{"kind": "other","status": "ok"},[THROWN])
# fmt: on


def value_of(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {"kvlistValue": {"values": pairs(value)}}
    return (
        {"arrayValue": {"values": [value_of(each) for each in value]}} if isinstance(value, list) else any_value(value)
    )


def pairs(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": name, "value": value_of(value)} for name, value in attributes.items()]


def shown(sent: Case) -> dict[str, Any]:
    events = [{**each, "attributes": pairs(each["attributes"])} for each in sent.events]
    found = request(span(1, sent.name, {}, events=events) | {"attributes": pairs(sent.attributes)})
    found["resourceSpans"][0]["scopeSpans"][0]["scope"] = {"name": sent.scope}
    decoded = read_otlp(json.dumps(found).encode(), "application/json", None, "u")
    assert decoded.problem == ""
    row = dict(zip(SPAN_COLUMNS, decoded.spans[0], strict=True))
    for column, bit, role, name in (("input", 1, "user", "asked"), ("output", 2, "assistant", "answered")):
        row[column] = json.loads(row[column]) if row[column] and row["io_json"] & bit else row[column]
        row[name] = read_messages(row[column], role=role)
    said = decoded.statements[0] if decoded.statements else None
    row["answer_id"] = json.loads(row["attributes"]).get("gen_ai.response.id")
    return {**row, "thread": said and said.thread_id, "end_user": said and said.end_user}


def texts(messages: Any) -> list[tuple[str, str | None]] | None:
    def text(message: Any) -> str | None:
        return "\n".join(part["text"] for part in message["parts"] if part["type"] in ("text", "result")) or None

    return None if messages is None else [(message["role"], text(message)) for message in messages]


def calls(messages: Any) -> list[tuple[str, Any]]:
    made = [part for message in messages for part in message["parts"] if part["type"] == "call"]
    return [
        (call["name"], json.loads(call["arguments"]) if isinstance(call["arguments"], str) else call["arguments"])
        for call in made
    ]


@pytest.mark.parametrize("sender", list(CASES))
def test_a_span_shows_what_its_sender_meant(sender: str) -> None:
    row, right = shown(CASES[sender]), dict(CASES[sender].right)
    found = {name: texts(row[name]) if name in ("asked", "answered") else row.get(name) for name in right}
    if "calls" in right:
        found["calls"] = calls(row["answered"])
    if found.get("cost_usd") is not None:
        found["cost_usd"] = pytest.approx(found["cost_usd"])
    assert right == found


def test_the_aws_distribution_sends_the_messages_of_a_span_in_one_log_record_named_after_its_library(
    store: Store,
) -> None:
    said = {
        "input": {"messages": [{"role": "user", "content": {"content": json.dumps([{"text": ASKED}])}}]},
        "output": {"messages": [{"role": "assistant", "content": {"message": ANSWER, "finish_reason": "end_turn"}}]},
    }
    chat = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "claude-sonnet-4-5", "session.id": "sess-1"}
    sent = request(span(1, "chat", chat))
    read_otlp(json.dumps(sent).encode(), "application/json", None, store.user_id).store(store.db)
    take_log(store, "strands.telemetry.tracer", said)
    [(asked, answered, stop)] = store.sql("select input, output, stop_reason from generations").rows
    assert texts(read_messages(json.loads(asked))) == [("user", ASKED)]
    assert texts(read_messages(json.loads(answered), role="assistant")) == [("assistant", ANSWER)]
    assert stop == "end_turn"


def test_a_log_record_may_state_its_message_as_json_text(store: Store) -> None:
    sent = request(span(1, "chat", {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o-mini"}))
    read_otlp(json.dumps(sent).encode(), "application/json", None, store.user_id).store(store.db)
    take_log(store, "gen_ai.user.message", json.dumps({"content": ASKED}))
    take_log(store, "gen_ai.choice", json.dumps({"finish_reason": "stop", "index": 0, "message": {"content": ANSWER}}))
    [(asked, answered, stop)] = store.sql("select input, output, stop_reason from generations").rows
    assert (json.loads(asked)[0]["content"], json.loads(answered)[0]["content"], stop) == (ASKED, ANSWER, "stop")


def take_log(store: Store, name: str, body: Any) -> None:
    ids = {key: span(1, "", {})[key] for key in ("traceId", "spanId")}
    record = {**ids, "timeUnixNano": "1795000000000000009", "eventName": name, "body": value_of(body), "attributes": []}
    sent = {"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}
    decoded = read_otlp_logs(json.dumps(sent).encode(), "application/json", None, store.user_id)
    assert decoded.problem == ""
    decoded.store(store.db)


def test_the_model_and_messages_of_a_spoken_conversation_are_those_of_the_model_that_answers(store: Store) -> None:
    said = [{"role": "user", "content": ASKED}]
    steps: list[dict[str, Any]] = [
        {"gen_ai.operation.name": "stt", "gen_ai.request.model": "nova-3", "transcript": ASKED},
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "gpt-4o-mini",
            "input": json.dumps(said),
            "output": ANSWER,
        },
        {"gen_ai.operation.name": "tts", "gen_ai.request.model": "sonic", "text": ANSWER},
    ]
    sent = request(*(span(number, step["gen_ai.operation.name"], step) for number, step in enumerate(steps, 1)))
    sent["resourceSpans"][0]["scopeSpans"][0]["scope"] = {"name": "pipecat"}
    read_otlp(json.dumps(sent).encode(), "application/json", None, store.user_id).store(store.db)
    assert store.sql("select model, turns from traces").rows == [("gpt-4o-mini", 1)]
    assert store.sql("select role, text from messages order by role").rows == [
        ("assistant", ANSWER),
        ("user", ASKED),
    ]
    assert store.sql("select model from spans order by 1").rows == [("gpt-4o-mini",), ("nova-3",), ("sonic",)]


def test_speech_in_an_export_of_the_agents_sdk_is_no_turn_of_its_model(store: Store, tmp_path: Path) -> None:
    at = {"started_at": "2026-01-01T00:00:00+00:00", "ended_at": "2026-01-01T00:00:01+00:00"}
    ids = {"object": "trace.span", "trace_id": "trace_" + "1" * 32, "parent_id": None}
    said = [
        {
            "type": "transcription",
            "model": "gpt-4o-transcribe",
            "input": {"data": "", "format": "pcm"},
            "output": ASKED,
        },
        {
            "type": "generation",
            "model": "gpt-4o-mini",
            "input": [{"role": "user", "content": ASKED}],
            "output": [{"role": "assistant", "content": ANSWER}],
        },
        {"type": "speech", "model": "gpt-4o-mini-tts", "input": ANSWER, "output": None},
    ]
    lines = [
        {**ids, **at, "id": f"span_{number:016x}{0:08x}", "span_data": data} for number, data in enumerate(said, 1)
    ]
    (tmp_path / "export.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert import_file(tmp_path / "export.jsonl", store).added == 3
    assert store.sql("select model, turns from traces").rows == [("gpt-4o-mini", 1)]
    found = store.sql("select kind, model, input from spans where kind <> 'generation' order by model").rows
    assert found[0] == ("task", "gpt-4o-mini-tts", ANSWER)
    assert found[1][:2] == ("task", "gpt-4o-transcribe")


def test_what_is_no_object_among_the_spans_or_log_records_is_counted_as_rejected() -> None:
    sent = request(span(1, "it", {}))
    sent["resourceSpans"][0]["scopeSpans"][0]["spans"] += [7, None, "no"]
    decoded = read_otlp(json.dumps(sent).encode(), "application/json", None, "u")
    assert (len(decoded.spans), decoded.rejected) == (1, 3)
    logs = {"resourceLogs": [{"scopeLogs": [{"logRecords": [7, None]}]}]}
    assert read_otlp_logs(json.dumps(logs).encode(), "application/json", None, "u").rejected == 2


def test_a_streamed_call_of_logfire_that_failed_is_a_generation() -> None:
    opened = {
        "logfire.msg_template": "Message with {request_data[model]!r}",
        "gen_ai.request.model": "claude-sonnet-4-5",
    }
    failed = {**span(1, "Message", opened), "status": {"code": 2, "message": "429"}}
    assert (
        read_otlp(json.dumps(request(failed)).encode(), "application/json", None, "u").spans[0][AT["kind"]]
        == "generation"
    )


def test_a_result_that_is_json_text_is_no_message(store: Store) -> None:
    """Only what an event states about itself is read from its JSON."""
    result = json.dumps({"temperature": 20, "name": "Paris"})
    sent = request(
        span(
            1,
            "chat",
            {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o-mini"},
            events=[{**event("gen_ai.tool.message"), "attributes": pairs({"id": "c1", "content": result})}],
        )
    )
    read_otlp(json.dumps(sent).encode(), "application/json", None, store.user_id).store(store.db)
    [(asked,)] = store.sql("select input from generations").rows
    assert json.loads(asked) == [{"role": "tool", "content": result, "tool_call_id": "c1"}]


def test_compressed_bodies_are_read_whole_in_every_form_that_clients_send() -> None:
    body = json.dumps(request(span(1, "it", {}))).encode()
    raw = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    forms = [
        ("gzip", gzip.compress(body)), ("x-gzip", gzip.compress(body)), ("deflate", zlib.compress(body)),
        ("deflate", raw.compress(body) + raw.flush()), ("gzip", gzip.compress(body[:20]) + gzip.compress(body[20:]) + b"\0\0"),
    ]  # fmt: skip
    for encoding, packed in forms:
        assert len(read_otlp(packed, "application/json", encoding, "u").spans) == 1, encoding
    for encoding, packed in (("gzip", gzip.compress(body)[:-9]), ("deflate", b"no"), ("zstd", body)):
        with pytest.raises(DataError, match=encoding):
            read_otlp(packed, "application/json", encoding, "u")


def test_json_gives_the_same_attributes_as_protobuf() -> None:
    pairs = [
        {"key": "bytes", "value": {"bytesValue": "AP8="}}, {"key": "twice", "value": {"stringValue": "1"}},
        {"key": "twice", "value": {"stringValue": "2"}}, {"value": {"intValue": "9223372036854775807"}}, {"key": "none"},
        {"key": "nested", "value": {"kvlistValue": {"values": [{"key": "a", "value": {"arrayValue": {"values": [{"boolValue": True}, {}]}}}]}}},
    ]  # fmt: skip
    given = request({**span(1, "it", {}), "attributes": pairs})
    read = [
        read_otlp(json.dumps(given).encode(), "application/json", None, "u"),
        read_otlp(as_protobuf(given), PROTOBUF, None, "u"),
    ]
    told = [json.loads(one.spans[0][AT["attributes"]]) for one in read]
    assert (
        told[0]
        == told[1]
        == {"bytes": "00ff", "twice": "2", "": 2**63 - 1, "none": None, "nested": {"a": [True, None]}}
    )


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ([{"traceId": "463ac35c9f6413ad", "id": "a2fb4a1d1a96d312", "timestamp": 1, "localEndpoint": {}}], "Zipkin"),
        ({"data": [{"traceID": "x", "spans": []}]}, "Jaeger"),
        ({"resourceMetrics": []}, "metrics"),
        ({"resourceLogs": []}, "/v1/logs"),
    ],
)  # fmt: skip
def test_a_body_of_another_protocol_is_refused_by_its_name(body: Any, what: str) -> None:
    with pytest.raises(DataError, match=what):
        read_otlp(json.dumps(body).encode(), "application/json", None, "u")


JAEGER = {"data": [{
    "traceID": "abc",
    "spans": [
        {"traceID": "abc", "spanID": "1", "operationName": "POST /chat", "references": [], "startTime": 1795000000000000, "duration": 9000, "tags": [], "logs": [], "processID": "p1"},
        {"traceID": "abc", "spanID": "2", "operationName": "chat gpt-4o-mini", "references": [{"refType": "CHILD_OF", "traceID": "abc", "spanID": "1"}], "startTime": 1795000000001000, "duration": 5000, "processID": "p1",
         "tags": [{"key": "gen_ai.request.model", "type": "string", "value": "gpt-4o-mini"}, {"key": "gen_ai.usage.input_tokens", "type": "int64", "value": 100}, {"key": "error", "type": "bool", "value": True}, {"key": "otel.status_description", "type": "string", "value": "429"}],
         "logs": [{"timestamp": 1795000000002000, "fields": [{"key": "event", "type": "string", "value": "exception"}, {"key": "exception.type", "type": "string", "value": "RateLimitError"}]}]},
    ],
    "processes": {"p1": {"serviceName": "shop", "tags": []}},
}], "total": 0}  # fmt: skip
ZIPKIN = [
    {"traceId": "abc", "id": "1", "name": "post /chat", "timestamp": 1795000000000000, "duration": 9000, "localEndpoint": {"serviceName": "shop"}},
    {"traceId": "abc", "id": "2", "parentId": "1", "name": "chat gpt-4o-mini", "timestamp": 1795000000001000, "duration": 5000,
     "tags": {"gen_ai.request.model": "gpt-4o-mini", "gen_ai.usage.input_tokens": "100", "error": "429", "otel.status_code": "ERROR"}},
]  # fmt: skip


@pytest.mark.parametrize("form", [JAEGER, ZIPKIN], ids=["Jaeger", "Zipkin"])
def test_a_trace_of_jaeger_or_zipkin_has_its_tree_times_attributes_and_errors(tmp_path: Path, form: Any) -> None:
    (tmp_path / "traces.json").write_text(json.dumps(form))
    store = open_store(":memory:")
    assert import_file(tmp_path / "traces.json", store).added == 2
    sql = "select trace_id, parent_id, kind, duration_ms, model, input_tokens, error from spans order by started_at"
    trace_id = "abc".zfill(32)
    assert store.sql(sql).rows == [
        (trace_id, None, "other", 9.0, None, None, None),
        (trace_id, "1".zfill(16), "generation", 5.0, "gpt-4o-mini", 100, "429"),
    ]
    store.close()


def test_a_trace_of_tempo_and_one_of_otlp_before_its_scopes_are_read(tmp_path: Path) -> None:
    of_resources = GENAI["resourceSpans"]
    old = (
        json.dumps(GENAI)
        .replace("scopeSpans", "instrumentationLibrarySpans")
        .replace('"scope"', '"instrumentationLibrary"')
    )
    for form in (json.dumps({"batches": of_resources}), json.dumps({"trace": GENAI}), old):
        (tmp_path / "trace.json").write_text(form)
        store = open_store(":memory:")
        assert import_file(tmp_path / "trace.json", store).added == 3
        store.close()


def test_a_file_compressed_with_zstd_is_refused_by_its_compression(tmp_path: Path) -> None:
    (tmp_path / "traces.json.zst").write_bytes(bytes.fromhex("28b52ffd") + b"\0" * 20)
    store = open_store(":memory:")
    with pytest.raises(DataError, match="compressed with zstd"):
        import_file(tmp_path / "traces.json.zst", store)
    store.close()
