"""Recorded and made-up traces of many senders, by every way in: as files and over HTTP, whole and span by span in any order, show the same."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from timestep_lab.runtime.interchange import import_file, read_otlp
from timestep_lab.runtime.interchange.otlp_in import PROTOBUF
from timestep_lab.store.store import Store, open_store
from timestep_lab.ui.messages import read_messages

CASES = Path(__file__).parent / "cases"
FILES = sorted(CASES.glob("*.*"))
VIEWS = {
    "traces": "trace_id, thread_id, workflow, agent_path, model, status, started_at, ended_at, n_spans, n_errors, turns, input_tokens, "
    "output_tokens, cost_usd, n_unpriced, input, output",
    "spans": "trace_id, span_id, parent_id, kind, name, agent, status, error, model, provider, started_at, ended_at, input_tokens, "
    "output_tokens, cached_tokens, reasoning_tokens, cost_usd, ttft_ms, stop_reason, input, output",
    "usage": "day, provider, model, calls, input_tokens, output_tokens, cost_usd",
}
Request = dict[str, Any]


def test_the_cases_are_here() -> None:
    assert len(FILES) == 26


def request_of(path: Path) -> Request:
    """In the JSON form, ids in hex."""
    if path.suffix == ".json":
        found: Request = json.loads(path.read_text("utf-8"))
        return found
    message = ExportTraceServiceRequest.FromString(path.read_bytes())
    found = MessageToDict(message, use_integers_for_enums=True)
    ids = [one for resource in message.resource_spans for scope in resource.scope_spans for one in scope.spans]
    for told, one in zip(spans_of(found), ids, strict=True):
        told |= {"traceId": one.trace_id.hex(), "spanId": one.span_id.hex()}
        if one.parent_span_id:
            told["parentSpanId"] = one.parent_span_id.hex()
        for link, linked in zip(told.get("links", []), one.links, strict=True):
            link |= {"traceId": linked.trace_id.hex(), "spanId": linked.span_id.hex()}
    return found


def spans_of(found: Request) -> Iterator[dict[str, Any]]:
    for resource in found["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            yield from scope["spans"]


def as_protobuf(found: Request) -> bytes:
    plain = copy.deepcopy(found)
    ids = []
    for one in spans_of(plain):
        one.pop("flags", None)
        links = [[bytes.fromhex(link.pop(key)) for key in ("traceId", "spanId")] for link in one.get("links", [])]
        ids.append(([bytes.fromhex(one.pop(key, "")) for key in ("traceId", "spanId", "parentSpanId")], links))
    message = ParseDict(plain, ExportTraceServiceRequest())
    every = [one for resource in message.resource_spans for scope in resource.scope_spans for one in scope.spans]
    for one, (told, links) in zip(every, ids, strict=True):
        one.trace_id, one.span_id, one.parent_span_id = told
        for link, linked in zip(one.links, links, strict=True):
            link.trace_id, link.span_id = linked
    return bytes(message.SerializeToString())


def span_by_span(found: Request) -> Iterator[Request]:
    for resource in found["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for one in scope["spans"]:
                yield {"resourceSpans": [{**resource, "scopeSpans": [{**scope, "spans": [one]}]}]}


def take(store: Store, body: bytes, kind: str) -> None:
    decoded = read_otlp(body, kind, None, store.user_id)
    assert (decoded.rejected, decoded.problem) == (0, "")
    decoded.store(store.db)


def in_json(store: Store, requests: list[Request]) -> None:
    for found in requests:
        take(store, json.dumps(found).encode(), "application/json")


def in_files(store: Store) -> None:
    for path in FILES:
        import_file(path, store)


def over_protobuf(store: Store) -> None:
    for path in FILES:
        take(store, as_protobuf(request_of(path)), PROTOBUF)


def over_json(store: Store) -> None:
    in_json(store, [request_of(path) for path in FILES])


def _parts() -> list[Request]:
    return [part for path in FILES for part in span_by_span(request_of(path))]


def forwards(store: Store) -> None:
    in_json(store, _parts())


def backwards(store: Store) -> None:
    in_json(store, _parts()[::-1])


def shuffled(store: Store) -> None:
    parts = _parts()
    random.Random(5).shuffle(parts)
    in_json(store, parts)


WAYS: list[Callable[[Store], None]] = [over_protobuf, over_json, forwards, backwards, shuffled]


def rows(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    return {
        view: [tuple(round(value, 12) if isinstance(value, float) else value for value in row) for row in
               store.sql(f"select {columns} from {view} order by 1, 2, 3").rows]
        for view, columns in VIEWS.items()
    }  # fmt: skip


@pytest.fixture(scope="module")
def right() -> Iterator[dict[str, list[tuple[Any, ...]]]]:
    store = open_store(":memory:")
    in_files(store)
    yield rows(store)
    store.close()


@pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])
def test_every_case_shows_the_same_by_every_way_in(way: Callable[[Store], None], right: Any) -> None:
    store = open_store(":memory:")
    way(store)
    found = rows(store)
    store.close()
    for view in VIEWS:
        assert found[view] == right[view]


def test_every_case_shows_the_same_by_every_way_in_in_every_store(store: Store, right: Any) -> None:
    """Each way in is a user's own: one store holds them all, apart. What a lab in memory shows by every way is tested above."""
    for way in (in_files, *WAYS) if store.db.dialect == "postgres" else (in_files, shuffled):
        tenant = store.for_user(way.__name__)
        way(tenant)
        found = rows(tenant)
        for view in VIEWS:
            assert sorted(found[view], key=repr) == sorted(right[view], key=repr), way.__name__


TRACE = "workflow, thread_id, agent_path, status, turns, input_tokens, output_tokens, cost_usd, input, output"
SPAN = (
    "kind, name, agent, to_agent, status, model, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_usd, ttft_ms, stop_reason, "
    "input, output"
)
RIGHT: dict[str, tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]] = {
    "adk": ([
        ('invoke_workflow weather_agent', 'f192eb54-f16c-47d7-8f28-b2a59604bcda', 'weather_agent', 'completed', 2, 200, 56, 5.76e-05, None, None),
    ], [
        ('task', 'invoke_workflow weather_agent', None, None, 'ok', None, None, None, None, None, None, None, None, None, None),
        ('agent', 'weather_agent', 'weather_agent', None, 'ok', None, None, None, None, None, None, None, None, None, None),
        ('generation', 'generate_content openai/gpt-4o-mini', 'weather_agent', None, 'ok', 'openai/gpt-4o-mini', 100, 28, 40, 8, 2.88e-05, None, 'stop', None, None),
        ('tool', 'get_weather', 'weather_agent', None, 'ok', None, None, None, None, None, None, None, None, None, None),
        ('generation', 'generate_content openai/gpt-4o-mini', 'weather_agent', None, 'ok', 'openai/gpt-4o-mini', 100, 28, 40, 8, 2.88e-05, None, 'stop', None, None),
    ]),
    "c01": ([
        ('chat', None, None, 'completed', 1, 2110, 33, 0.0015, None, None),
    ], [
        ('generation', 'chat', None, None, 'ok', 'claude-sonnet-4-5-20250929', 2110, 33, 2000, None, 0.0015, None, None, None, None),
    ]),
    "c01b": ([
        ('chat', None, None, 'completed', 1, 2110, 33, 0.0015, None, None),
        ('chat', None, None, 'completed', 1, 2110, 33, 0.001425, None, None),
    ], [
        ('generation', 'chat', None, None, 'ok', 'claude-sonnet-4-5-20250929', 2110, 33, 2000, None, 0.0015, None, None, None, None),
        ('generation', 'chat', None, None, 'ok', 'claude-sonnet-4-5-20250929', 2110, 33, 2000, None, 0.001425, None, None, None, None),
    ]),
    "c03": ([
        ('ai.generateText', 'sess-1', 'weather-fn', 'completed', 2, 200, 40, 4.8e-05, 'weather in Paris?', 'It is sunny'),
    ], [
        ('agent', 'ai.generateText', 'weather-fn', None, 'ok', 'gpt-4o-mini', 200, 40, 80, None, None, None, None, 'system: brief | user: weather in Paris?', 'assistant: It is sunny'),
        ('generation', 'ai.generateText.doGenerate', 'weather-fn', None, 'ok', 'gpt-4o-mini', 100, 20, 40, 8, 2.4e-05, None, 'tool-calls', 'system: brief | user: weather in Paris?', 'assistant: get_weather({"city":"Paris"})'),
        ('tool', 'get_weather', 'weather-fn', None, 'ok', None, None, None, None, None, None, None, None, '{"city": "Paris"}', 'sunny'),
        ('generation', 'ai.generateText.doGenerate', 'weather-fn', None, 'ok', 'gpt-4o-mini', 100, 20, 40, None, 2.4e-05, None, 'stop', 'system: brief | user: weather in Paris?', 'assistant: It is sunny'),
    ]),
    "c06": ([
        ('agent.run', 's6', 'A', 'completed', 1, 10, 5, 7.5e-05, 'q?', 'a!'),
    ], [
        ('agent', 'agent.run', 'A', None, 'ok', None, None, None, None, None, None, None, None, 'q?', 'a!'),
        ('generation', 'LLM', 'A', None, 'error', 'gpt-4o', 10, 5, None, None, 7.5e-05, None, None, 'user: q?', None),
        ('tool', 'x', None, None, 'ok', None, None, None, None, None, None, None, None, None, None),
    ]),
    "c11?": ([
        ('POST /chat', 'conv-12', None, 'completed', 1, 10, 5, 7.5e-05, None, None),
    ], [
        ('other', 'POST /chat', None, None, 'ok', None, None, None, None, None, None, None, None, None, None),
        ('generation', 'chat gpt-4o', None, None, 'ok', 'gpt-4o', 10, 5, None, None, 7.5e-05, None, None, None, None),
        ('other', 'HTTP POST api.openai.com', None, None, 'ok', None, None, None, None, None, None, None, None, None, None),
    ]),
    "c12?": ([
        ('agent A', None, 'A', 'completed', 0, None, None, None, 'hi', None),
    ], [
        ('agent', 'agent A', 'A', None, 'ok', None, None, None, None, None, None, None, None, 'user: hi', None),
    ]),
    "c13?": ([
        ('r', None, None, 'completed', 0, None, None, None, None, None),
    ], [
        ('other', 'r', None, None, 'ok', None, None, None, None, None, None, None, None, None, None),
    ]),
    "c14": ([
        ('chat', None, None, 'completed', 1, 10, 5, 7.5e-05, 'secret question', 'secret answer'),
        ('chat', None, None, 'completed', 1, None, None, None, 'q2', 'a2'),
        ('chat', None, None, 'failed', 1, None, None, None, None, None),
    ], [
        ('generation', 'chat', None, None, 'ok', 'gpt-4o', 10, 5, None, None, 7.5e-05, None, None, 'user: secret question', 'assistant: secret answer'),
        ('generation', 'chat', None, None, 'ok', 'gpt-4o', None, None, None, None, None, None, 'stop', 'user: q2', 'assistant: a2'),
        ('generation', 'chat', None, None, 'error', 'gpt-4o', None, None, None, None, None, None, None, None, None),
    ]),
    "c37": ([
        ('Claude', None, 'Claude', 'completed', 0, 1000, 200, None, None, None),
    ], [
        ('agent', 'Claude', 'Claude', None, 'ok', 'claude-sonnet-4-5-20250929', 1000, 200, None, None, None, None, None, None, None),
    ]),
    "c39": ([
        ('retrieve', None, None, 'completed', 0, None, None, None, 'what is x', 'doc one\ndoc two'),
        ('embed', None, None, 'completed', 0, 14, None, 2.8e-07, None, None),
    ], [
        ('retrieval', 'retrieve', None, None, 'ok', None, None, None, None, None, None, None, None, 'what is x', '[{"content": "doc one", "score": 0.9}, {"content": "doc two"}]'),
        ('embedding', 'embed', None, None, 'ok', 'text-embedding-3-small', 14, None, None, None, 2.8e-07, None, None, None, None),
    ]),
    "c44?": ([
        ('POST /chat', None, None, 'completed', 0, None, None, None, '{"city":"Paris"}', None),
    ], [
        ('other', 'POST /chat', None, None, 'ok', None, None, None, None, None, None, None, None, None, None),
        ('tool', 'get_weather', None, None, 'ok', None, None, None, None, None, None, None, None, '{"city": "Paris"}', None),
    ]),
    "litellm": ([
        ('litellm_request', None, None, 'completed', 1, 100, 20, 2.4e-05, None, None),
        ('litellm_request', None, None, 'completed', 1, 100, 20, 2.4e-05, None, None),
        ('litellm_request', None, None, 'completed', 1, 2110, 33, 0.0015, None, None),
        ('litellm_request', None, None, 'failed', 1, None, None, None, None, None),
    ], [
        ('generation', 'litellm_request', None, None, 'ok', 'gpt-4o-mini', 100, 20, 40, 8, 2.4e-05, None, None, None, None),
        ('generation', 'litellm_request', None, None, 'ok', 'gpt-4o-mini', 100, 20, 40, 8, 2.4e-05, None, None, None, None),
        ('generation', 'litellm_request', None, None, 'ok', 'claude-sonnet-4-5-20250929', 2110, 33, 2000, 0, 0.0015, None, None, None, None),
        ('generation', 'litellm_request', None, None, 'error', 'gpt-4o-mini', None, None, None, None, None, None, None, None, None),
    ]),
    "mlflow": ([
        ('weather_agent', None, 'weather_agent', 'completed', 1, 100, 20, 2.4e-05, '{"q":"weather?"}', 'sunny'),
    ], [
        ('agent', 'weather_agent', 'weather_agent', None, 'ok', None, None, None, None, None, None, None, None, '{"q": "weather?"}', 'sunny'),
        ('generation', 'Completions', 'weather_agent', None, 'ok', 'gpt-4o-mini-2024-07-18', 100, 20, 40, 8, 2.4e-05, None, 'tool_calls', 'user: weather?', 'assistant: get_weather({"city":"Paris"})'),
        ('tool', 'get_weather', 'weather_agent', None, 'ok', None, None, None, None, None, None, None, None, '{"city": "Paris"}', 'sunny'),
    ]),
    "oagents": ([
        ('OpenAI Agents trace: Agent workflow', None, 'Triage → Weather Agent', 'completed', 2, 200, 40, 4.8e-05, 'weather in Paris?', 'It is sunny in Paris ☀️'),
    ], [
        ('task', 'OpenAI Agents trace: Agent workflow', None, None, 'ok', None, None, None, None, None, None, None, None, None, None),
        ('task', 'Task: Agent workflow', None, None, 'ok', None, 200, 40, 80, None, None, None, None, None, None),
        ('agent', "Agent run: 'Triage'", 'Triage', None, 'ok', None, None, None, None, None, None, None, None, None, None),
        ('turn', 'Turn 1 for agent Triage', 'Triage', None, 'ok', None, 100, 20, 40, None, None, None, None, None, None),
        ('generation', "Chat completion with 'gpt-4o-mini'", 'Triage', None, 'ok', 'gpt-4o-mini', 100, 20, 40, 8, 2.4e-05, None, None, 'system: route | user: weather in Paris?', 'assistant: transfer_to_weather_agent({"city":"Paris"})'),
        ('handoff', 'Handoff: Triage → Weather Agent', 'Triage', 'Weather Agent', 'ok', None, None, None, None, None, None, None, None, None, None),
        ('agent', "Agent run: 'Weather Agent'", 'Weather Agent', None, 'ok', None, None, None, None, None, None, None, None, None, None),
        ('turn', 'Turn 2 for agent Weather Agent', 'Weather Agent', None, 'ok', None, 100, 20, 40, None, None, None, None, None, None),
        ('generation', "Chat completion with 'gpt-4o-mini'", 'Weather Agent', None, 'ok', 'gpt-4o-mini', 100, 20, 40, 8, 2.4e-05, None, None, 'system: brief | user: weather in Paris? | assistant: transfer_to_weather_agent({"city":"Paris"}) | tool: {"assistant": "Weather Agent"}', 'assistant: It is sunny in Paris ☀️'),
    ]),
    "oi-embed": ([
        ('POST /chat', None, None, 'completed', 0, 14, None, 2.8e-07, 'b', '{"data":[{"embedding":[0.0,0.2,0.3],"index":0,"object":"embedding"},{"embedding":[0.1,0.2,0.3],"index":1,"object":"embedding"}],"model":"text-embedding-3-small","object":"list","usage":{"prompt_tokens":14,"total_tokens":14}}'),
    ], [
        ('other', 'POST /chat', None, None, 'ok', None, None, None, None, None, None, None, None, None, None),
        ('embedding', 'CreateEmbeddings', None, None, 'ok', 'text-embedding-3-small', 14, None, None, None, 2.8e-07, None, None, '{"model": "text-embedding-3-small", "input": ["a", "b"], "encoding_format": "base64"}', '{"data": [{"embedding": [0.0, 0.2, 0.3], "index": 0, "object": "embedding"}, {"embedding": [0.1, 0.2, 0.3], "index": 1, "object": "embedding"}], "model": "text-embedding-3-small", "object": "list", "usage": {"prompt_tokens": 14, "total_tokens": 14}}'),
    ]),
    "oi-langgraph": ([
        ('weather_agent', 'sess-1', 'weather_agent', 'completed', 2, 200, 40, 4.8e-05, 'weather in Paris?', 'It is sunny in Paris ☀️'),
    ], [
        ('agent', 'weather_agent', 'weather_agent', None, 'ok', None, None, None, None, None, None, None, None, 'user: weather in Paris?', 'user: weather in Paris? | assistant: get_weather({"city": "Paris"}) | tool: sunny in Paris | assistant: It is sunny in Paris ☀️'),
        ('task', 'model', 'weather_agent', None, 'ok', None, None, None, None, None, None, None, None, 'user: weather in Paris?', 'assistant: get_weather({"city": "Paris"})'),
        ('generation', 'ChatOpenAI', 'weather_agent', None, 'ok', 'gpt-4o-mini-2024-07-18', 100, 20, 40, 8, 2.4e-05, None, 'tool_calls', 'system: brief | user: weather in Paris?', 'assistant: get_weather({"city": "Paris"})'),
        ('task', 'tools', 'weather_agent', None, 'ok', None, None, None, None, None, None, None, None, 'assistant: get_weather({"city": "Paris"})', 'tool: sunny in Paris'),
        ('tool', 'get_weather', 'weather_agent', None, 'ok', None, None, None, None, None, None, None, None, 'Paris', 'sunny in Paris'),
        ('task', 'model', 'weather_agent', None, 'ok', None, None, None, None, None, None, None, None, 'user: weather in Paris? | assistant: get_weather({"city": "Paris"}) | tool: sunny in Paris', 'assistant: It is sunny in Paris ☀️'),
        ('generation', 'ChatOpenAI', 'weather_agent', None, 'ok', 'gpt-4o-mini-2024-07-18', 100, 20, 40, 8, 2.4e-05, None, 'stop', 'system: brief | user: weather in Paris? | assistant: get_weather({"city": "Paris"}) | tool: sunny in Paris', 'assistant: It is sunny in Paris ☀️'),
    ]),
    "ollmetry": ([
        ('POST /chat', None, None, 'completed', 1, 2110, 33, 0.0015, 'weather?', 'Checking.'),
    ], [
        ('other', 'POST /chat', None, None, 'ok', None, None, None, None, None, None, None, None, None, None),
        ('generation', 'anthropic.chat', None, None, 'ok', 'claude-sonnet-4-5-20250929', 2110, 33, 2000, None, 0.0015, None, 'tool_call', 'system: brief | user: weather?', 'assistant: Checking. | assistant: get_weather({"city": "Paris"})'),
        ('generation', 'anthropic.messages.create', None, None, 'ok', 'claude-sonnet-4-5-20250929', 2110, 33, 2000, None, 0.0015, None, 'tool_use', None, None),
    ]),
    "pydanticai-2": ([
        ('agent run', '01a224d9-a167-75f2-b45e-a79f8359da61', 'weather_agent', 'completed', 2, 200, 40, 4.8e-05, 'weather in Paris?', 'It is sunny in Paris ☀️'),
    ], [
        ('agent', 'agent run', 'weather_agent', None, 'ok', None, None, None, None, None, None, None, None, 'system: brief | user: weather in Paris? | assistant: get_weather({"city":"Paris"}) | user: sunny in Paris', 'It is sunny in Paris ☀️'),
        ('generation', 'chat gpt-4o-mini', 'weather_agent', None, 'ok', 'gpt-4o-mini', 100, 20, 40, 8, 2.4e-05, None, 'tool_call', 'system: brief | user: weather in Paris?', 'assistant: get_weather({"city":"Paris"})'),
        ('tool', 'get_weather', 'weather_agent', None, 'ok', None, None, None, None, None, None, None, None, '{"city": "Paris"}', 'sunny in Paris'),
        ('generation', 'chat gpt-4o-mini', 'weather_agent', None, 'ok', 'gpt-4o-mini', 100, 20, 40, 8, 2.4e-05, None, 'stop', 'system: brief | user: weather in Paris? | assistant: get_weather({"city":"Paris"}) | user: sunny in Paris', 'assistant: It is sunny in Paris ☀️'),
    ]),
    "pydanticai-anthropic": ([
        ('anth', '01a224d8-cbbc-7278-bf8a-25487fdcbd79', 'anth', 'completed', 2, 4220, 66, 0.003, 'weather?', 'It is sunny'),
    ], [
        ('agent', 'anth', 'anth', None, 'ok', None, None, None, None, None, None, None, None, 'user: weather? | assistant: Checking. | assistant: get_weather({"city": "Paris"}) | user: sunny in Paris', 'It is sunny'),
        ('generation', 'chat claude-sonnet-4-5-20250929', 'anth', None, 'ok', 'claude-sonnet-4-5-20250929', 2110, 33, 2000, None, 0.0015, None, 'tool_call', 'user: weather?', 'assistant: Checking. | assistant: get_weather({"city": "Paris"})'),
        ('generation', 'anthropic.messages.create', 'anth', None, 'ok', 'claude-sonnet-4-5-20250929', 2110, 33, 2000, None, 0.0015, 1184.165988, 'tool_use', None, None),
        ('tool', 'get_weather', 'anth', None, 'ok', None, None, None, None, None, None, None, None, '{"city": "Paris"}', 'sunny in Paris'),
        ('generation', 'chat claude-sonnet-4-5-20250929', 'anth', None, 'ok', 'claude-sonnet-4-5-20250929', 2110, 33, 2000, None, 0.0015, None, 'stop', 'user: weather? | assistant: Checking. | assistant: get_weather({"city": "Paris"}) | user: sunny in Paris', 'assistant: It is sunny'),
        ('generation', 'anthropic.messages.create', 'anth', None, 'ok', 'claude-sonnet-4-5-20250929', 2110, 33, 2000, None, 0.0015, 24.065663, 'end_turn', None, None),
    ]),
    "strands": ([
        ('weather_agent', 'sess-9', 'weather_agent', 'completed', 2, 200, 40, 4.8e-05, 'weather in Paris?', 'It is sunny\n'),
    ], [
        ('agent', 'weather_agent', 'weather_agent', None, 'ok', 'gpt-4o-mini', 200, 40, 80, None, None, None, None, 'system: brief | user: weather in Paris?', 'assistant: It is sunny\n'),
        ('other', 'execute_event_loop_cycle', 'weather_agent', None, 'ok', None, None, None, None, None, None, None, None, 'user: weather in Paris?', 'assistant: get_weather({"city": "Paris"})'),
        ('generation', 'chat', 'weather_agent', None, 'ok', 'gpt-4o-mini', 100, 20, 40, None, 2.4e-05, 1688.0, 'tool_use', 'system: brief | user: weather in Paris?', 'assistant: get_weather({"city": "Paris"})'),
        ('tool', 'get_weather', 'weather_agent', None, 'ok', None, None, None, None, None, None, None, None, '{"city": "Paris"}', 'sunny in Paris'),
        ('other', 'execute_event_loop_cycle', 'weather_agent', None, 'ok', None, None, None, None, None, None, None, None, 'user: weather in Paris? | assistant: get_weather({"city": "Paris"}) | tool: sunny in Paris', None),
        ('generation', 'chat', 'weather_agent', None, 'ok', 'gpt-4o-mini', 100, 20, 40, None, 2.4e-05, 33.0, 'end_turn', 'system: brief | user: weather in Paris? | assistant: get_weather({"city": "Paris"}) | tool: sunny in Paris', 'assistant: It is sunny'),
    ]),
}  # fmt: skip
"""By the file or files: traces, and their spans in order of start. What is said is shown as `shown` writes it."""


def shown(text: str | None) -> str | None:
    """A payload as one line: of messages who says what and which tools are called with what, of anything else its JSON."""
    try:
        value = json.loads(text or "null")
    except ValueError:
        return text
    messages = read_messages(value) if isinstance(value, list) else None
    if messages is None:
        return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    parts = [(message["role"], part) for message in messages for part in message["parts"]]
    return " | ".join(
        f"{role}: {part['name']}({part['arguments']})" if part["type"] == "call" else f"{role}: {part['text']}"
        for role, part in parts
    )


@pytest.fixture(scope="module", params=[1, -1], ids=["forwards", "backwards"])
def in_parts(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Every case span by span."""
    store = open_store(":memory:")
    in_json(store, [part for files in RIGHT for part in parts_of(files)[:: request.param]])
    yield store
    store.close()


def parts_of(files: str) -> list[Request]:
    return [part for path in sorted(CASES.glob(f"{files}[-.]*")) for part in span_by_span(request_of(path))]


@pytest.mark.parametrize("files", [*RIGHT])
def test_a_case_shows_what_its_sender_meant(files: str, in_parts: Store) -> None:
    trace_ids = {one["traceId"] for part in parts_of(files) for one in spans_of(part)}
    listed = ", ".join(f"'{trace_id}'" for trace_id in sorted(trace_ids))
    these = f"where trace_id in ({listed})"
    traces = in_parts.sql(f"select {TRACE} from traces {these} order by started_at, trace_id").rows
    spans = in_parts.sql(f"select {SPAN} from spans {these} order by started_at, ended_at desc, trace_id, span_id").rows
    right_traces, right_spans = RIGHT[files]
    assert [_rounded(row) for row in traces] == right_traces
    assert [(*_rounded(row[:-2]), *map(shown, row[-2:])) for row in spans] == right_spans


def _rounded(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(round(value, 9) if isinstance(value, float) else value for value in row)


def test_each_case_has_its_right_values() -> None:
    found = [path for path in FILES if any(path in CASES.glob(f"{files}[-.]*") for files in [*RIGHT, "c02"])]
    assert found == FILES


def test_the_price_table_has_a_price_for_each_provider_however_it_is_spelled() -> None:
    store = open_store(":memory:")
    import_file(CASES / "c02-providers.json", store)
    assert store.sql("select count(*), count(cost_usd), min(cost_usd) > 0 from generations").rows == [(26, 26, True)]
    store.close()
