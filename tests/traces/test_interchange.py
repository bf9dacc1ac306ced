"""Traces from other programs and back out: what each convention says is understood, and nothing is added twice."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.traces.recorder import Recorder
from timestep_lab.model.errors import DataError, TooLargeError, UsageError
from timestep_lab.runtime.interchange import EXPORT_FORMATS, export_file, import_file, read_otlp
from timestep_lab.runtime.interchange.otlp_in import PROTOBUF
from timestep_lab.store.memory import own_memory
from timestep_lab.store.spans import AT
from timestep_lab.store.store import Store, open_store

ROOT = Path(__file__).parents[2]
SPANS = "select kind, name, agent, status, model, provider, input_tokens, output_tokens, cost_usd, server, approval, to_agent, input, output from spans order by started_at, span_id"
T0 = 1_795_000_000_000_000_000


def request(*spans: dict[str, Any], resource: dict[str, Any] | None = None) -> dict[str, Any]:
    described = [{"key": key, "value": any_value(value)} for key, value in (resource or {}).items()]
    return {
        "resourceSpans": [
            {"resource": {"attributes": described}, "scopeSpans": [{"scope": {"name": "test"}, "spans": list(spans)}]}
        ]
    }


def any_value(value: Any) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case list():
            return {"arrayValue": {"values": [any_value(inner) for inner in value]}}
    return {"stringValue": value}


def span(
    number: int, name: str, attributes: dict[str, Any], parent: int | None = None, **fields: Any
) -> dict[str, Any]:
    return {
        "traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": f"{number:016x}", "name": name, "startTimeUnixNano": str(T0 + number * 1_000_000),
        "endTimeUnixNano": str(T0 + number * 1_000_000 + 5_000_000), "attributes": [{"key": k, "value": any_value(v)} for k, v in attributes.items()],
        **({} if parent is None else {"parentSpanId": f"{parent:016x}"}), **fields,
    }  # fmt: skip


def as_protobuf(found: dict[str, Any]) -> bytes:
    """The official classes' bytes. Their JSON reader takes ids in base64, so those are set apart."""
    import copy

    from google.protobuf.json_format import ParseDict

    plain = copy.deepcopy(found)
    ids = []
    for one in plain["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        ids.append([bytes.fromhex(one.pop(key, "")) for key in ("traceId", "spanId", "parentSpanId")])
    message = ParseDict(plain, ExportTraceServiceRequest())
    for one, (trace_id, span_id, parent_id) in zip(message.resource_spans[0].scope_spans[0].spans, ids, strict=True):
        one.trace_id, one.span_id, one.parent_span_id = trace_id, span_id, parent_id
    return bytes(message.SerializeToString())


MESSAGES = [{"role": "user", "parts": [{"type": "text", "content": "Umbrella in Berkeley?"}]}]
GENAI = request(
    span(1, "invoke_agent Weather", {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "Weather", "gen_ai.conversation.id": "thr_9"}),
    span(2, "chat gpt-4.1", {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4.1", "gen_ai.usage.input_tokens": 1000,
        "gen_ai.usage.output_tokens": 100, "gen_ai.input.messages": json.dumps(MESSAGES), "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.output.messages": json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "No."}]}]),
        "gen_ai.response.time_to_first_chunk": 0.25,
    }, parent=1),
    span(3, "execute_tool get_weather", {
        "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "get_weather", "gen_ai.tool.call.arguments": '{"location":"Berkeley"}',
        "gen_ai.tool.call.result": "sunny",
    }, parent=1, status={"code": 2}, events=[{"name": "exception", "attributes": [{"key": "exception.message", "value": {"stringValue": "it broke"}}]}]),
    resource={"service.name": "shop"},
)  # fmt: skip


@pytest.mark.parametrize("form", ["protobuf", "protobuf gzip", "json", "json deflate"])
def test_opentelemetry_genai_spans_show_as_agents_generations_and_tools(store: Store, form: str) -> None:
    import zlib

    body = as_protobuf(GENAI) if "protobuf" in form else json.dumps(GENAI).encode()
    encoding = None
    if "gzip" in form:
        body, encoding = gzip.compress(body), "gzip"
    if "deflate" in form:
        body, encoding = zlib.compress(body), "deflate"
    decoded = read_otlp(
        body, PROTOBUF if "protobuf" in form else "application/json; charset=utf-8", encoding, store.user_id
    )
    assert (decoded.rejected, decoded.store(store.db), decoded.store(store.db)) == (0, 3, 0)
    agent, chat, tool = store.sql(SPANS).dicts()
    assert (agent["kind"], agent["name"], agent["agent"]) == ("agent", "Weather", "Weather")
    assert (chat["kind"], chat["model"], chat["provider"], chat["agent"], chat["input_tokens"]) == (
        "generation",
        "gpt-4.1",
        "openai",
        "Weather",
        1000,
    )
    assert chat["cost_usd"] == pytest.approx(0.0028)
    assert json.loads(chat["input"]) == MESSAGES
    assert (tool["kind"], tool["name"], tool["input"], tool["output"], tool["status"]) == (
        "tool",
        "get_weather",
        '{"location":"Berkeley"}',
        "sunny",
        "error",
    )
    [trace] = store.sql("select * from traces").dicts()
    assert (trace["thread_id"], trace["agent_path"], trace["input"], trace["output"]) == (
        "thr_9",
        "Weather",
        "Umbrella in Berkeley?",
        "No.",
    )
    assert store.sql("select ttft_ms, stop_reason from generations").rows == [(250.0, "stop")]
    assert store.sql("select error from tool_calls").rows == [("it broke",)]
    assert store.traces.start(trace["trace_id"]).metadata == {"resource": {"service.name": "shop"}}


def test_the_official_agents_instrumentation_through_the_official_exporter_is_understood(tmp_path: Path) -> None:
    folder = tmp_path / "requests"
    folder.mkdir()
    subprocess.run(
        [sys.executable, "-m", "tests.traces.official_exporter", str(folder)],
        cwd=ROOT,
        check=True,
        timeout=120,
        capture_output=True,
    )
    store = open_store(":memory:")
    for body in sorted(folder.glob("*.bin")):
        headers = json.loads(body.with_suffix(".json").read_text())
        read_otlp(body.read_bytes(), headers["content_type"], headers["content_encoding"], store.user_id).store(
            store.db
        )
    [trace] = store.sql("select * from traces").dicts()
    assert (trace["workflow"], trace["agent_path"]) == ("Weather workflow", "Personal Assistant → Weather Assistant")
    assert (trace["model"], trace["input_tokens"], trace["cost_usd"]) == ("gpt-4.1", 3000, pytest.approx(0.0084))
    assert trace["input"] == "Do I need an umbrella in Berkeley?"
    assert store.sql("select from_agent, to_agent from handoffs").rows == [("Personal Assistant", "Weather Assistant")]
    assert store.sql("select tool, arguments, result from tool_calls").rows == [
        ("get_weather", '{"location":"Berkeley"}', "Sunny in Berkeley")
    ]
    assert store.sql("select kind, count(*) from spans group by 1 order by 1").rows == [
        ("agent", 2), ("generation", 3), ("handoff", 1), ("task", 2), ("tool", 1), ("turn", 3),
    ]  # fmt: skip
    graph = store.traces.graph()
    assert {node.path: node.cost_usd for node in graph.nodes} == {
        "Personal Assistant": pytest.approx(0.0028), "Personal Assistant/Weather Assistant": pytest.approx(0.0056),
    }  # fmt: skip
    assert {span.name: span.agent for span in store.traces.spans(trace["trace_id"])}[
        "get_weather"
    ] == "Weather Assistant"
    store.close()


CONVENTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "openinference": (
        {
            "openinference.span.kind": "LLM", "llm.model_name": "gpt-4.1", "llm.provider": "openai", "llm.token_count.prompt": 1000,
            "llm.token_count.completion": 100, "llm.input_messages.0.message.role": "user", "llm.input_messages.0.message.content": "hi",
            "llm.input_messages.1.message.role": "assistant",
            "llm.input_messages.1.message.tool_calls.0.tool_call.id": "c1",
            "llm.input_messages.1.message.tool_calls.0.tool_call.function.name": "get_weather",
            "llm.input_messages.1.message.tool_calls.0.tool_call.function.arguments": "{}",
            "llm.output_messages.0.message.role": "assistant", "llm.output_messages.0.message.content": "hello", "input.value": "ignored",
        },
        {
            "kind": "generation", "model": "gpt-4.1", "provider": "openai", "cost_usd": pytest.approx(0.0028),
            "input": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}]},
            ],
            "output": [{"role": "assistant", "content": "hello"}],
        },
    ),
    "langfuse": (
        {
            "langfuse.observation.type": "generation", "langfuse.observation.model.name": "my-model", "langfuse.session.id": "s",
            "langfuse.observation.input": '[{"role":"user","content":"hi"}]', "langfuse.observation.output": "hello",
            "langfuse.observation.usage_details": '{"input": 7, "output": 3}', "langfuse.observation.cost_details": '{"total": 0.5}',
            "langfuse.trace.name": "my trace",
        },
        {
            "kind": "generation", "model": "my-model", "input_tokens": 7, "output_tokens": 3, "cost_usd": 0.5,
            "input": [{"role": "user", "content": "hi"}], "output": "hello",
        },
    ),
    "openllmetry": (
        {
            "gen_ai.system": "OpenAI", "llm.request.type": "chat", "gen_ai.request.model": "m", "gen_ai.prompt.0.role": "user",
            "gen_ai.prompt.0.content": "hi", "gen_ai.completion.0.role": "assistant", "gen_ai.completion.0.content": "hello",
            "gen_ai.usage.prompt_tokens": 5, "gen_ai.usage.completion_tokens": 2,
        },
        {"kind": "generation", "input_tokens": 5, "input": [{"role": "user", "content": "hi"}], "output": [{"role": "assistant", "content": "hello"}]},
    ),
    "retriever": (
        {
            "openinference.span.kind": "RETRIEVER", "input.value": "query", "output.value": '["<NodeWithScore>"]',
            "retrieval.documents.0.document.content": "doc one", "retrieval.documents.0.document.score": 0.9,
            "retrieval.documents.1.document.content": "doc two", "retrieval.documents.1.document.metadata": '{"page": 2}',
        },
        {
            "kind": "retrieval", "input": "query",
            "output": [{"content": "doc one", "score": 0.9}, {"content": "doc two", "metadata": {"page": 2}}],
        },
    ),
    "embedding": (
        {
            "openinference.span.kind": "EMBEDDING", "embedding.model_name": "text-embedding-3-small", "llm.system": "openai",
            "llm.token_count.prompt": 14,
        },
        {"kind": "embedding", "model": "text-embedding-3-small", "provider": "openai", "input_tokens": 14, "cost_usd": pytest.approx(2.8e-7)},
    ),
    "embeddings of GenAI": (
        {"gen_ai.operation.name": "embeddings", "gen_ai.request.model": "e", "gen_ai.usage.input_tokens": 14, "gen_ai.cost.total_cost": 0.5},
        {"kind": "embedding", "model": "e", "input_tokens": 14, "cost_usd": 0.5},
    ),
    "the same call twice": (
        {
            "openinference.span.kind": "LLM", "llm.finish_reason": "tool_use", "llm.output_messages.0.message.role": "assistant",
            "llm.output_messages.0.message.contents.0.message_content.type": "text",
            "llm.output_messages.0.message.contents.0.message_content.text": "Checking.",
            "llm.output_messages.0.message.contents.1.message_content.type": "tool_use",
            "llm.output_messages.0.message.contents.1.tool_call.id": "c1",
            "llm.output_messages.0.message.contents.1.tool_call.function.name": "get_weather",
            "llm.output_messages.0.message.tool_calls.0.tool_call.id": "c1",
            "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "get_weather",
        },
        {
            "stop_reason": "tool_use", "output": [{
                "role": "assistant", "content": [{"type": "text", "text": "Checking."}],
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "get_weather"}}],
            }],
        },
    ),
    "finish reasons as text": ({"gen_ai.operation.name": "chat", "gen_ai.response.finish_reasons": '["length"]'}, {"stop_reason": "length"}),
    "first token in seconds": ({"gen_ai.operation.name": "chat", "gen_ai.server.time_to_first_token": 0.25}, {"ttft_ms": 250.0}),
    "first token of the Vercel AI SDK": ({"ai.operationId": "ai.streamText.doStream", "ai.response.msToFirstChunk": 33}, {"kind": "generation", "ttft_ms": 33.0}),
    "tool of the Vercel AI SDK": (
        {"ai.operationId": "ai.toolCall", "ai.toolCall.name": "get_weather", "ai.toolCall.args": '{"city":"Paris"}', "ai.toolCall.result": '"sunny"'},
        {"kind": "tool", "name": "get_weather", "input": {"city": "Paris"}, "output": "sunny"},
    ),
    "messages of the Vercel AI SDK": (
        {
            "ai.operationId": "ai.generateText.doGenerate", "ai.response.text": "sunny", "ai.usage.inputTokens": 9, "ai.usage.cachedInputTokens": 4,
            "ai.prompt.messages": json.dumps([
                {"role": "assistant", "content": [{"type": "tool-call", "toolCallId": "c", "toolName": "t", "input": {"a": 1}}]},
                {"role": "tool", "content": [{"type": "tool-result", "toolCallId": "c", "output": {"type": "text", "value": "x"}}]},
            ]),
        },
        {
            "input": [
                {"role": "assistant", "parts": [{"type": "tool_call", "id": "c", "name": "t", "arguments": {"a": 1}}]},
                {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c", "response": "x"}]},
            ],
            "output": [{"role": "assistant", "content": "sunny"}], "input_tokens": 9, "cached_tokens": 4,
        },
    ),
    "agent of LangGraph": (
        {
            "openinference.span.kind": "AGENT", "agent.name": "A", "output.value": json.dumps({"messages": [
                {"type": "human", "data": {"content": "hi"}},
                {"lc": 1, "type": "constructor", "id": ["langchain", "AIMessage"], "kwargs": {"content": "", "tool_calls": [{"id": "c", "name": "t", "args": {}}]}},
                {"type": "tool", "data": {"content": "x", "tool_call_id": "c"}}, {"type": "ai", "content": "hello"},
            ]}),
        },
        {
            "kind": "agent", "output": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "t", "arguments": "{}"}}]},
                {"role": "tool", "content": "x", "tool_call_id": "c"}, {"role": "assistant", "content": "hello"},
            ],
        },
    ),
    "request of Gemini by Google ADK": (
        {
            "gen_ai.operation.name": "generate_content", "gcp.vertex.agent.llm_request": json.dumps({
                "model": "gemini", "config": {"system_instruction": "brief"}, "contents": [
                    {"role": "user", "parts": [{"text": "hi"}]}, {"role": "model", "parts": [{"function_call": {"name": "t", "args": {"a": 1}}}]}],
            }),
            "gcp.vertex.agent.llm_response": json.dumps({"content": {"role": "model", "parts": [{"text": "hello"}]}}),
        },
        {
            "input": [
                {"role": "system", "content": "brief"}, {"role": "user", "parts": [{"type": "text", "content": "hi"}]},
                {"role": "assistant", "parts": [{"type": "tool_call", "id": None, "name": "t", "arguments": {"a": 1}}]},
            ],
            "output": [{"role": "assistant", "parts": [{"type": "text", "content": "hello"}]}],
        },
    ),
    "blocks of Bedrock": (
        {"openinference.span.kind": "LLM", "output.value": json.dumps({"role": "assistant", "content": [
            {"text": "Checking."}, {"toolUse": {"toolUseId": "c", "name": "t", "input": {"a": 1}}}]})},
        {"output": [{"role": "assistant", "parts": [
            {"type": "text", "content": "Checking."}, {"type": "tool_call", "id": "c", "name": "t", "arguments": {"a": 1}}]}]},
    ),
    "how Python passes arguments": (
        {"langfuse.observation.type": "tool", "langfuse.observation.input": '{"args": [], "kwargs": {"city": "Paris"}}'},
        {"kind": "tool", "input": {"city": "Paris"}},
    ),
    "plain http": ({"http.method": "GET"}, {"kind": "other", "input": None, "attributes": {"http.method": "GET"}}),
}  # fmt: skip


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_each_convention_is_understood(convention: str) -> None:
    attributes, expected = CONVENTIONS[convention]
    store = open_store(":memory:")
    read_otlp(as_protobuf(request(span(1, "it", attributes))), PROTOBUF, None, store.user_id).store(store.db)
    [trace_id] = [row["trace_id"] for row in store.traces.list().data]
    found = store.traces.payload(trace_id, f"{1:016x}")
    assert {key: found[key] for key in expected} == expected
    if convention == "langfuse":
        assert store.traces.get(trace_id)["workflow"] == "my trace"
        assert store.traces.get(trace_id)["thread_id"] == "s"
    store.close()


def test_a_trace_that_arrives_in_pieces_last_first_is_whole_in_the_end(store: Store) -> None:
    pieces = GENAI["resourceSpans"][0]["scopeSpans"][0]["spans"]
    for piece in reversed(pieces):
        read_otlp(json.dumps(request(piece)).encode(), "application/json", None, store.user_id).store(store.db)
    [trace] = store.sql("select * from traces").dicts()
    assert (trace["workflow"], trace["n_spans"], trace["thread_id"]) == ("Weather", 3, "thr_9")
    assert len(store.traces.list().data) == 1
    assert store.traces.start(trace["trace_id"]).workflow == trace["workflow"]


HOSTILE: list[tuple[bytes, str, str | None]] = [
    (b"\xff\xff\xff", PROTOBUF, None), (b"{", "application/json", None), (b"[]", "application/json", None),
    (b'{"resourceSpans": 7}', "application/json", None), (b"not gzip", PROTOBUF, "gzip"), (b"", PROTOBUF, "br"), (b"x", "text/csv", None),
    (gzip.compress(b"x" * 1000, mtime=0)[:-5], PROTOBUF, "gzip"), (b"[" * 100_000, "application/json", None),
]  # fmt: skip


@pytest.mark.parametrize(("body", "kind", "encoding"), HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_request_is_refused(body: bytes, kind: str, encoding: str | None) -> None:
    with pytest.raises(DataError):
        read_otlp(body, kind, encoding, "u")


def test_single_spans_that_make_no_sense_are_counted_and_the_rest_kept() -> None:
    store = open_store(":memory:")
    bad = [
        span(2, "bad id", {}, spanId="xyz"), span(3, "year 60000", {}, startTimeUnixNano="9" * 19),
        span(4, "text time", {}, startTimeUnixNano="soon"), {}, span(5, "self parent", {}, parent=5),
    ]  # fmt: skip
    odd = span(
        1,
        "\0<img onerror=x>\ud800",
        {"input.value": "\0\ud800" + "x" * 1_000_000, "llm.input_messages.999999999999.message.role": "u"},
    )
    decoded = read_otlp(
        json.dumps(request(odd, *bad)).encode("utf-8", "surrogatepass"), "application/json", None, store.user_id
    )
    assert decoded.rejected == 3
    assert decoded.problem
    assert decoded.store(store.db) == 3
    [name] = store.sql("select name from spans where length(input) > 1000000").rows
    assert name == ("\ufffd<img onerror=x>\ufffd",)
    store.close()


def test_the_small_print_of_otlp_in_json() -> None:
    assert read_otlp(b"{}", "Application/JSON", None, "u").spans == []
    one = span(1, "it", {}, startTimeUnixNano={"low": 1540587520, "high": 417931005})
    one["attributes"] = [{"key": "n", "value": {"intValue": {"low": -2, "high": -1}}}]
    [row] = read_otlp(json.dumps(request(one)).encode(), "application/json", None, "u").spans
    assert (row[AT["started_at"]].isoformat()[:16], json.loads(row[AT["attributes"]])) == (
        "2026-11-18T11:06",
        {"n": -2},
    )


@pytest.mark.parametrize("form", ["json", "protobuf"])
def test_ids_of_zeros_are_refused_and_the_rest_kept(form: str) -> None:
    spans = [span(1, "fine", {}), span(2, "no id", {}, spanId="0" * 16), span(3, "no trace", {}, traceId="0" * 32)]
    body = as_protobuf(request(*spans)) if form == "protobuf" else json.dumps(request(*spans)).encode()
    decoded = read_otlp(body, PROTOBUF if form == "protobuf" else "application/json", None, "u")
    assert (decoded.rejected, [row[AT["name"]] for row in decoded.spans]) == (2, ["fine"])
    assert "zeros" in decoded.problem


@pytest.mark.parametrize("form", ["json", "protobuf"])
def test_a_span_without_a_start_stands_at_its_end_without_a_duration(store: Store, form: str) -> None:
    given = request(span(1, "it", {}, startTimeUnixNano="0"))
    body = as_protobuf(given) if form == "protobuf" else json.dumps(given).encode()
    read_otlp(body, PROTOBUF if form == "protobuf" else "application/json", None, store.user_id).store(store.db)
    [(status, started_at, duration)] = store.sql("select status, started_at, duration_ms from spans").rows
    assert (status, started_at.year, duration) == ("ok", 2026, None)
    assert store.sql("select status, ended_at, duration_ms from traces").rows == [("completed", None, None)]


# -- files


@pytest.mark.parametrize("ending", EXPORT_FORMATS)
def test_an_export_read_into_another_lab_gives_the_same_traces(
    store: Store, recorder: Recorder, tmp_path: Path, ending: str
) -> None:
    trace_id = recorder.weather_run()
    recorder.weather_run(model="qwen3", fails=True)
    long = [{"role": "user", "content": "wörd " * 500}, {"role": "assistant", "content": "x"}]
    recorder.ended(trace_id, "generation", "gpt-4.1", input=long, output=None, attributes={"n": 1, "list": [1, "a"]})
    recorder.writer.flush()
    path = tmp_path / f"traces{ending}"
    assert export_file(path, store) == 15
    other = open_store(":memory:")
    imported = import_file(path, other)
    assert (imported.traces, imported.spans, imported.added, imported.rejected) == (2, 15, 15, 0)
    assert import_file(path, other).added == 0
    assert other.sql(SPANS).rows == store.sql(SPANS).rows
    columns = "select trace_id, thread_id, workflow, agent_path, model, status, started_at, ended_at, n_spans, n_errors, turns, cost_usd, input, output from traces order by 1"
    assert other.sql(columns).rows == store.sql(columns).rows
    for row in store.traces.spans(trace_id):
        mine, theirs = store.traces.payload(trace_id, row.span_id), other.traces.payload(trace_id, row.span_id)
        assert (mine["input"], mine["output"]) == (theirs["input"], theirs["output"])
        assert mine["attributes"].items() <= theirs["attributes"].items()
    assert export_file(path, store, [trace_id]) == 8
    other.close()


def test_an_exported_duckdb_file_is_queried_by_the_names_of_the_views(
    store: Store, recorder: Recorder, tmp_path: Path
) -> None:
    import duckdb

    trace_id = recorder.weather_run()
    recorder.writer.flush()
    store.traces.score("trace", trace_id, "quality", 1)
    export_file(tmp_path / "run.duckdb", store)
    with duckdb.connect() as connection:
        connection.execute(f"attach '{tmp_path / 'run.duckdb'}' as run (read_only)")
        assert connection.execute("select model, count(*) from run.generations group by 1").fetchall() == [
            ("gpt-4.1", 2)
        ]
        assert connection.execute("select status from run.traces").fetchall() == [("completed",)]
        assert connection.execute("select name from run.scores").fetchall() == [("quality",)]


SDK_TRACE = {
    "object": "trace",
    "id": "trace_" + "a" * 32,
    "workflow_name": "Support",
    "group_id": "thr_3",
    "metadata": {"k": "v"},
}


def sdk_span(number: int, data: dict[str, Any], parent: int | None = None, error: Any = None) -> dict[str, Any]:
    return {
        "object": "trace.span", "id": f"span_{number:024x}"[::1], "trace_id": SDK_TRACE["id"], "parent_id": None if parent is None else f"span_{parent:024x}",
        "started_at": f"2026-11-22T12:00:{number:02}.000000+00:00", "ended_at": f"2026-11-22T12:00:{number + 1:02}.000000+00:00",
        "span_data": data, "error": error,
    }  # fmt: skip


SDK_SPANS = [
    sdk_span(0x10_0000_0000, {"type": "custom", "name": "task", "data": {"sdk_span_type": "task", "name": "Agent workflow"}}) | {
        "started_at": "2026-11-22T12:00:00+00:00", "ended_at": "2026-11-22T12:00:09+00:00"},
    *[
        sdk_span(n, data) | {"id": f"span_{n:016x}{'0' * 8}", "parent_id": f"span_{parent:016x}{'0' * 8}" if parent else None}
        for n, parent, data in [
            (1, 0, {"type": "agent", "name": "Triage", "handoffs": ["Helper"], "tools": [], "output_type": "str"}),
            (2, 1, {"type": "custom", "name": "turn", "data": {"sdk_span_type": "turn", "turn": 1, "agent_name": "Triage"}}),
            (3, 2, {"type": "generation", "model": "gpt-4.1", "input": [{"role": "user", "content": "help"}], "output": [{"role": "assistant", "content": "ok"}],
                    "model_config": {}, "usage": {"input_tokens": 10, "output_tokens": 5}}),
            (4, 1, {"type": "function", "name": "look_up", "input": '{"q": 1}', "output": "found", "mcp_data": {"server": "docs"}}),
            (5, 1, {"type": "handoff", "from_agent": "Triage", "to_agent": "Helper"}),
            (6, 1, {"type": "guardrail", "name": "polite", "triggered": True}),
        ]
    ],
]  # fmt: skip
PHOENIX = [
    {
        "name": "ChatCompletion", "context": {"trace_id": "b" * 32, "span_id": "c" * 16}, "span_kind": "LLM", "parent_id": None,
        "start_time": "2026-11-22T12:00:00Z", "end_time": "2026-11-22T12:00:01Z", "status_code": "OK", "status_message": "",
        "attributes": {
            "llm": {"model_name": "gpt-4.1", "provider": "openai", "token_count": {"prompt": 10, "completion": 2},
                    "input_messages": [{"message": {"role": "user", "content": "hi"}}]},
            "output": {"value": "hello"}, "session": {"id": "s1"},
        },
    }
]  # fmt: skip


@pytest.mark.parametrize("form", ["data", "list", "lines", "gzip"])
def test_an_agents_sdk_export_is_read_in_each_of_its_forms(tmp_path: Path, form: str) -> None:
    objects = [SDK_TRACE, *SDK_SPANS]
    text = (
        "\n".join(map(json.dumps, objects))
        if form == "lines"
        else json.dumps({"data": objects} if form != "list" else objects)
    )
    path = tmp_path / "export.json"
    path.write_bytes(gzip.compress(text.encode()) if form == "gzip" else text.encode())
    store = open_store(":memory:")
    imported = import_file(path, store)
    assert (imported.added, imported.rejected, import_file(path, store).added) == (7, 0, 0)
    [trace] = store.sql("select * from traces").dicts()
    assert (trace["workflow"], trace["thread_id"], trace["agent_path"], trace["input"]) == (
        "Support",
        "thr_3",
        "Triage",
        "help",
    )
    assert [row[0] for row in store.sql("select kind from spans order by started_at, span_id").rows].count("turn") == 1
    assert store.sql("select from_agent, to_agent from handoffs").rows == [("Triage", "Helper")]
    assert store.sql("select tool, server, arguments, result from tool_calls").rows == [
        ("look_up", "docs", '{"q": 1}', "found")
    ]
    assert store.sql("select model, input_tokens, agent from generations").rows == [("gpt-4.1", 10, "Triage")]
    store.close()


def test_files_of_other_tools_and_of_the_collector_are_told_apart_by_their_content(tmp_path: Path) -> None:
    body = as_protobuf(GENAI)
    files = {
        "request.bin": body, "collector.bin": len(body).to_bytes(4, "big") + body, "otlp.json": json.dumps(GENAI).encode(),
        "otlp.jsonl": "\n".join(json.dumps(request(one)) for one in GENAI["resourceSpans"][0]["scopeSpans"][0]["spans"]).encode(),
        "phoenix.jsonl": json.dumps(PHOENIX[0]).encode(),
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        store = open_store(":memory:")
        imported = import_file(tmp_path / name, store)
        assert imported.added == imported.spans == (1 if name.startswith("phoenix") else 3), name
        assert store.sql("select count(*) from generations where model = 'gpt-4.1' and input_tokens > 0").one() == (
            1,
        ), name
        store.close()


@pytest.mark.parametrize(
    "content", [b"", b"   ", b"\x00\x01garbage", b'{"a": 1}', b"{not json", b"PAR1nope", b"plain text"]
)
def test_a_file_of_another_kind_is_refused_with_the_formats_that_are_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    store = open_store(":memory:")
    with pytest.raises(DataError) as refused:
        import_file(path, store)
    assert refused.value.next_step
    with pytest.raises(DataError, match="No such file"):
        import_file(tmp_path / "missing", store)
    with pytest.raises(UsageError, match=r"Use one of the extensions \.json"):
        export_file(tmp_path / "x.csv", store)
    store.close()


def parquet(path: Path, rows: int, name: str = "'n'") -> Path:
    """That many spans in few bytes."""
    with duckdb.connect() as connection:
        connection.execute(
            f"copy (select 'ab'.repeat(16) as trace_id, lpad(to_hex(i), 16, '0') as span_id, 'tool' as kind, {name} as name, 'ok' as status, "
            f"timestamp '2026-01-01' as started_at, timestamp '2026-01-01' as ended_at, '{{}}' as attributes from range({rows}) r(i)) to '{path}'"
        )
    return path


def test_a_small_parquet_file_of_many_spans_is_read_some_at_a_time_or_refused(tmp_path: Path) -> None:
    with open_store(":memory:") as store:
        some = parquet(tmp_path / "some.parquet", 45_000)  # One trace, in three parts.
        assert import_file(some, store).added == 45_000
        assert import_file(some, store).added == 0
        with (
            pytest.raises(TooLargeError, match="exceeded its time limit of 0 s; 20,000 spans"),
            open_store(":memory:") as other,
        ):
            import_file(some, other, time_limit_s=0)
        before = own_memory()
        with pytest.raises(TooLargeError, match="2,000,000 spans; the limit is 1,000,000"):
            import_file(parquet(tmp_path / "many.parquet", 2_000_000, "'n'"), store)
        with pytest.raises(TooLargeError, match="unpacks to"):
            import_file(parquet(tmp_path / "wide.parquet", 2_000, "repeat('x', 1000000)"), store)
        assert own_memory() - before < 600 * 2**20
