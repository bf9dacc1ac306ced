"""Traces of other programs, put together: a span that comes open and then finished, a call that is told twice."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from tests.traces.test_interchange import any_value, request, span
from timestep_lab.runtime.interchange import EXPORT_FORMATS, attribute_map, export_file, import_file, read_otlp
from timestep_lab.runtime.interchange.export import Decoded
from timestep_lab.runtime.interchange.otlp_in import PROTOBUF, read_otlp_logs
from timestep_lab.store.store import Store, open_store

RECORDED = Path(__file__).parent / "recorded"
CHAT = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o-mini"}
SUMS = "select turns, input_tokens, output_tokens, cost_usd from traces"
USED = {"gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 20}


def send(store: Store, *spans: dict[str, Any]) -> int:
    decoded = read_otlp(json.dumps(request(*spans)).encode(), "application/json", None, store.user_id)
    assert decoded.rejected == 0
    return decoded.store(store.db)


def test_a_span_that_came_open_is_finished_by_the_finished_one_in_either_order_and_once(store: Store) -> None:
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "A"}
    opened = span(1, "agent A", agent, endTimeUnixNano="0")
    ended = span(1, "agent A", {**agent, "output.value": "done", **USED})
    state = "select status, ended_at is null, output from spans"
    sums = "select status, n_spans, duration_ms, input_tokens, output from traces"
    assert [send(store, opened), send(store, opened)] == [1, 0]
    assert store.sql(state).rows == [("pending", True, None)]
    assert store.sql(sums).rows == [("running", 1, None, None, None)]
    assert [send(store, ended), send(store, ended), send(store, opened)] == [1, 0, 0]
    assert store.sql(state).rows == [("ok", False, "done")]
    assert store.sql(sums).rows == [("completed", 1, 5.0, 100, "done")]


def test_finished_and_open_in_one_request_is_finished(store: Store) -> None:
    spans = [span(1, "it", {}), span(1, "it", {}, endTimeUnixNano="0")]
    assert send(store, *spans) == 1
    assert store.sql("select status, n_spans from traces").rows == [("completed", 1)]


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet", "duckdb"])
def test_an_export_of_a_running_trace_is_completed_by_the_export_of_its_end(tmp_path: Path, ending: str) -> None:
    source, target = open_store(":memory:"), open_store(":memory:")
    opened, child = span(1, "root", {}, endTimeUnixNano="0"), span(2, "chat", {**CHAT, **USED}, parent=1)
    for number, spans in enumerate([[opened, child], [span(1, "root", {"output.value": "done"})]]):
        send(source, *spans)
        [trace_id] = [row["trace_id"] for row in source.traces.list().data]
        path = tmp_path / f"{number}.{ending}"
        export_file(path, source, [trace_id])
        import_file(path, target)
    for found in (source, target):
        rows = found.sql("select status, n_spans, duration_ms, output, input_tokens from traces").rows
        assert rows == [("completed", 2, 6.0, "done", 100)]
    source.close()
    target.close()


def test_the_same_span_with_another_start_is_the_same_span(store: Store) -> None:
    send(store, span(1, "it", {}))
    assert send(store, span(1, "it", {}, startTimeUnixNano=str(1_795_000_000_500_000_000))) == 0
    assert store.sql("select count(*) from spans").rows == [(1,)]


@pytest.mark.parametrize(
    ("file", "sums"),
    [
        ("pydanticai-anthropic.pb", (2, 4220, 66, 0.003)),
        ("ollmetry-anthropic.pb", (1, 2110, 33, 0.0015)),
        ("langchain-beside-openai.pb", (2, 200, 40, 0.000048)),  # Each states the answer's id in its output alone.
    ],
)
def test_a_call_that_framework_and_client_both_tell_counts_once(
    store: Store, file: str, sums: tuple[float, ...]
) -> None:
    import_file(RECORDED / file, store)
    assert store.sql(SUMS).rows == [(*sums[:3], pytest.approx(sums[3]))]


def test_usage_that_only_the_agent_tells_is_the_usage_of_the_trace(store: Store) -> None:
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "Claude", "gen_ai.cost.total_cost": 0.5}
    send(store, span(1, "invoke_agent Claude", {**agent, **USED}))
    assert store.sql(SUMS).rows == [(0, 100, 20, 0.5)]


def send_as(scope: str, store: Store, *spans: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Kind, name and agent of what that instrumentation sends, in order of start."""
    sent = request(*spans)
    sent["resourceSpans"][0]["scopeSpans"][0]["scope"] = {"name": scope}
    read_otlp(json.dumps(sent).encode(), "application/json", None, store.user_id).store(store.db)
    return store.sql("select kind, name, agent from spans order by started_at, span_id").rows


def test_google_adk_before_its_attributes_tells_agents_and_failed_requests_by_their_names(store: Store) -> None:
    spans = span(1, "agent_run [weather]", {}), span(2, "call_llm", {}, parent=1)
    assert send_as("gcp.vertex.agent", store, *spans) == [
        ("agent", "weather", "weather"),
        ("generation", "call_llm", "weather"),
    ]


def test_google_adk_before_1_6_stated_all_tokens_as_output_and_its_response_says_otherwise(store: Store) -> None:
    usage = {
        "prompt_token_count": 100,
        "candidates_token_count": 20,
        "thoughts_token_count": 5,
        "total_token_count": 125,
    }
    said = {
        "gen_ai.request.model": "gemini-2.5-flash", "gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 125,
        "gcp.vertex.agent.llm_response": json.dumps({"content": {"role": "model", "parts": []}, "usage_metadata": usage}),
    }  # fmt: skip
    assert send_as("gcp.vertex.agent", store, span(1, "call_llm", said)) == [("generation", "call_llm", None)]
    assert store.sql("select input_tokens, output_tokens from generations").rows == [(100, 25)]


def test_mlflow_of_langchain_names_the_model_in_its_parameters(store: Store) -> None:
    said = {"mlflow.spanType": '"CHAT_MODEL"', "invocation_params": '{"model": "gpt-4o", "temperature": 0}'}
    send(store, span(1, "ChatOpenAI", said))
    assert store.sql("select model from generations").rows == [("gpt-4o",)]


def test_an_event_that_beeai_tells_as_a_span_is_no_agent_and_no_generation(store: Store) -> None:
    said = {"openinference.span.kind": "LLM", "metadata.path": "backend.openai.chat.error"}
    assert send_as("openinference.instrumentation.beeai", store, span(1, "error", said)) == [("other", "error", None)]


def test_a_handoff_of_openllmetry_says_from_whom_to_whom(store: Store) -> None:
    said = {
        "traceloop.span.kind": "handoff",
        "gen_ai.handoff.from_agent": "Triage",
        "gen_ai.handoff.to_agent": "Weather",
    }
    send(store, span(1, "Triage → Weather.handoff", said))
    assert store.sql("select from_agent, to_agent from handoffs").rows == [("Triage", "Weather")]


def test_the_step_of_langchain_that_bears_the_agents_name_is_the_agent(store: Store) -> None:
    of_agent = {"openinference.span.kind": "CHAIN", "metadata": '{"lc_agent_name": "weather"}'}
    spans = span(1, "weather", of_agent), span(2, "model_request", of_agent, parent=1)
    found = send_as("@arizeai/openinference-instrumentation-langchain", store, *spans)
    assert [(kind, name) for kind, name, _ in found] == [("agent", "weather"), ("task", "model_request")]


def _event(name: str, **attributes: str) -> dict[str, Any]:
    said = [{"key": key.replace("__", "."), "value": {"stringValue": value}} for key, value in attributes.items()]
    return {"name": name, "timeUnixNano": "1795000000000000007", "attributes": said}


ASKED, ANSWERED = [{"role": "user", "content": "why?"}], [{"role": "assistant", "content": "so."}]


@pytest.mark.parametrize(
    "events",
    [
        [_event("gen_ai.content.prompt", gen_ai__prompt=json.dumps(ASKED)), _event("gen_ai.content.completion", gen_ai__completion=json.dumps(ANSWERED))],
        [_event("gen_ai.client.inference.operation.details", gen_ai__input__messages=json.dumps(ASKED), gen_ai__output__messages=json.dumps(ANSWERED))],
        [_event("gen_ai.user.message", content="why?"), _event("gen_ai.choice", message=json.dumps(ANSWERED[0]))],
    ],
    ids=["content", "operation details", "an event a message"],
)  # fmt: skip
def test_messages_in_events_are_the_messages_of_the_generation(events: list[dict[str, Any]]) -> None:
    store = open_store(":memory:")
    send(store, span(1, "chat", CHAT, events=events))
    [(asked, answered)] = store.sql("select input, output from generations").rows
    assert (json.loads(asked), json.loads(answered)) == (ASKED, ANSWERED)
    store.close()


def test_a_strands_trace_has_its_messages_tool_arguments_and_results() -> None:
    store = open_store(":memory:")
    import_file(RECORDED / "strands.pb", store)
    [(tool, arguments, result)] = store.sql("select tool, arguments, result from tool_calls").rows
    assert (tool, json.loads(arguments), result) == ("get_weather", {"city": "Paris"}, "sunny in Paris")
    last = store.sql("select input, output from generations where status = 'ok' order by started_at").rows[-1]
    asked, [answered] = json.loads(last[0]), json.loads(last[1])
    assert [message["role"] for message in asked] == ["system", "user", "assistant", "tool"]
    assert answered["parts"] == [{"type": "text", "content": "It is sunny in Paris"}]
    store.close()


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet", "duckdb"])
def test_events_and_links_are_kept_through_an_export_and_back(tmp_path: Path, ending: str) -> None:
    source, target = open_store(":memory:"), open_store(":memory:")
    links = [{"traceId": "ab" * 16, "spanId": "cd" * 8, "attributes": []}]
    failed = _event("exception", exception__type="ValueError", exception__stacktrace="line 42")
    send(source, span(1, "it", {}, events=[failed], links=links, status={"code": 2}))
    [trace_id] = [row["trace_id"] for row in source.traces.list().data]
    export_file(tmp_path / f"it.{ending}", source, [trace_id])
    import_file(tmp_path / f"it.{ending}", target)
    for found in (source, target):
        said = found.traces.payload(trace_id, f"{1:016x}")["attributes"]
        assert said["timestep.links"] == [{"trace_id": "ab" * 16, "span_id": "cd" * 8, "attributes": {}}]
        assert said["timestep.events"] == [{
            "name": "exception", "time_unix_nano": "1795000000000000007",
            "attributes": {"exception.type": "ValueError", "exception.stacktrace": "line 42"},
        }]  # fmt: skip
        found.close()


@pytest.mark.parametrize(
    "given",
    ["x", 5, [1], ["a"], [{"name": "a"}], [{"name": "a", "time_unix_nano": "x", "attributes": {}}], {"a": 1}, None],
)
def test_an_attribute_named_as_the_lab_keeps_events_loses_no_span_no_later_event_and_no_export(
    tmp_path: Path, given: Any
) -> None:
    store, target = open_store(":memory:"), open_store(":memory:")
    said = [
        {"key": name, "value": _value(given)} for name in ("timestep.events", "timestep.links", "timestep.exported")
    ]
    send(store, {**span(1, "it", {}), "attributes": said})
    send_logs(store, _record(1, "gen_ai.choice", {"content": "hi"}))
    send(store, {**span(1, "it", {}), "attributes": [*said, {"key": "more", "value": {"stringValue": "told"}}]})
    assert store.sql("select count(*) from spans").rows == [(1,)]
    export_file(tmp_path / "it.json", store)
    assert import_file(tmp_path / "it.json", target).added == 1
    assert target.sql("select attributes::varchar like '%gen_ai.choice%' from spans").rows == [(True,)]
    store.close()
    target.close()


def _record(number: int, name: str, body: Any = None, **attributes: Any) -> dict[str, Any]:
    said = [{"key": key.replace("__", "."), "value": any_value(value)} for key, value in attributes.items()]
    record = {
        "timeUnixNano": str(1_795_000_000_000_000_000 + number), "traceId": span(1, "", {})["traceId"], "spanId": f"{1:016x}",
        "eventName": name, "attributes": said,
    }  # fmt: skip
    if isinstance(body, dict):
        values = [{"key": key, "value": any_value(value)} for key, value in body.items()]
        return {**record, "body": {"kvlistValue": {"values": values}}}
    return record if body is None else {**record, "body": any_value(body)}


def send_logs(store: Store, *records: dict[str, Any], form: str = "json") -> Decoded:
    message = {"resourceLogs": [{"scopeLogs": [{"logRecords": list(records)}]}]}
    body, kind = json.dumps(message).encode(), "application/json"
    if form == "protobuf":
        for record in records:  # The official reader of JSON takes ids in base64.
            for key in ("traceId", "spanId"):
                record[key] = base64.b64encode(bytes.fromhex(record[key])).decode()
        body, kind = ParseDict(message, ExportLogsServiceRequest()).SerializeToString(), PROTOBUF
    decoded = read_otlp_logs(body, kind, None, store.user_id)
    decoded.store(store.db)
    return decoded


@pytest.mark.parametrize("form", ["json", "protobuf"])
def test_events_sent_as_log_records_are_those_of_their_span_whichever_comes_first(store: Store, form: str) -> None:
    def records() -> list[dict[str, Any]]:
        return [
            _record(1, "gen_ai.system.message", {"content": "be brief"}),
            _record(2, "gen_ai.user.message", {"content": "why?"}),
            _record(3, "gen_ai.choice", {"index": 0, "finish_reason": "stop", "message": json.dumps(ANSWERED[0])}),
        ]

    seen = "select input, output, attributes from spans"
    totals = "select input, output, n_spans, turns from traces"
    found = []
    for trace, order in enumerate(["s123", "123s", "2s31", "3s12"], start=1):
        moved = {"traceId": f"{trace:032x}"}
        for part in order:
            if part == "s":
                send(store, span(1, "chat", CHAT, **moved))
            else:
                send_logs(store, {**records()[int(part) - 1], **moved}, form=form)
        send_logs(store, *({**record, **moved} for record in records()), form=form)
        [row] = store.sql(f"{seen} where trace_id = '{trace:032x}'").rows
        [total] = store.sql(f"{totals} where trace_id = '{trace:032x}'").rows
        found.append((row, total))
    (asked, answered, _), sums = found[0]
    assert [message["content"] for message in json.loads(asked)] == ["be brief", "why?"]
    assert json.loads(answered)[0]["content"] == "so."
    assert sums == ("why?", "so.", 1, 1)
    assert all(one == found[0] for one in found)
    assert store.db.query(store.user_id, "select count(*) from core.waiting_events").rows == [(0,)]


def test_log_records_that_belong_to_no_genai_span_are_refused_and_counted(store: Store) -> None:
    astray = {**_record(1, "gen_ai.user.message", {"content": "?"}), "spanId": ""}
    decoded = send_logs(store, astray, _record(2, "", "listening on port 80"))
    assert (decoded.rejected, decoded.problem) == (2, "The log record 'gen_ai.user.message' belongs to no span.")
    assert store.sql("select count(*) from traces").rows == [(0,)]


def test_what_events_say_is_found_by_a_search(store: Store) -> None:
    failed = _event("exception", exception__type="ValueError", exception__stacktrace="Traceback:\nzanzibar.py, line 42")
    send(store, span(1, "it", {}, events=[failed], status={"code": 2}))
    send(store, span(2, "other", {"note": "zanzibar.py"}, traceId="ab" * 16))
    for words in ("zanzibar", '"zanzibar.py, line 42"', "traceback zanzibar"):
        assert [row["trace_id"] for row in store.traces.list(search=words).data] == [span(1, "", {})["traceId"]]
        assert store.sql(f"select count(*) from ({store.traces.sql(search=words)})").rows == [(1,)]


def _anything(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(9 if depth < 3 else 7)
    if kind == 7:
        return [_anything(rng, depth + 1) for _ in range(rng.randrange(3))]
    if kind == 8:
        return {rng.choice("abc"): _anything(rng, depth + 1) for _ in range(rng.randrange(3))}
    return [
        True,
        rng.randrange(-(2**63), 2**63),
        rng.random() * 10 ** rng.randrange(-9, 9),
        "",
        None,
        "null",
        rng.choice(['{"a":', "ü\n\u2028", "[1]", " x "]),
    ][kind]


def _value(value: Any) -> dict[str, Any]:
    match value:
        case None:
            return {}
        case list():
            return {"arrayValue": {"values": [_value(inner) for inner in value]}}
        case dict():
            return {"kvlistValue": {"values": _pairs(value)}}
    return any_value(value)


def _pairs(said: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in said.items()]


def random_spans(rng: random.Random, n: int) -> list[dict[str, Any]]:
    names = [line.name for line in attribute_map.ATTRIBUTES]
    kinds = ["chat", "invoke_agent", "execute_tool", "embeddings", "retrieval", "reason", "handoff"]
    made = []
    for number in range(1, n + 1):
        said = {rng.choice([*names, "note"]): _anything(rng) for _ in range(rng.randrange(9))}
        if rng.random() < 0.7:
            said |= {
                "gen_ai.operation.name": rng.choice(kinds),
                "gen_ai.request.model": "gpt-4o",
                "gen_ai.usage.input_tokens": rng.randrange(99),
            }
        fields: dict[str, Any] = {"traceId": f"{number % 7 + 1:032x}"}
        if rng.random() < 0.4:
            event = {
                "name": rng.choice(["exception", "gen_ai.user.message", "gen_ai.choice", "note"]),
                "timeUnixNano": "1795000000000000007",
            }
            link = {"traceId": "ab" * 16, "spanId": "cd" * 8, "attributes": _pairs({"why": _anything(rng)})}
            fields |= {"events": [{**event, "attributes": _pairs({"content": _anything(rng)})}], "links": [link]}
        fields |= rng.choice([{}, {}, {"status": {"code": 2}}, {"endTimeUnixNano": "0"}, {"startTimeUnixNano": "0"}])
        one = span(number, f"it {number}", {}, parent=rng.choice([None, 1, number - 1]), **fields)
        made.append({**one, "attributes": _pairs(said)})
    return made


COLUMNS = (
    "trace_id, thread_id, end_user, workflow, agent_path, model, status, started_at, ended_at, n_spans, n_errors, turns, input_tokens, "
    "output_tokens, n_unpriced, input, output"
)


@pytest.mark.parametrize("ending", EXPORT_FORMATS)
def test_what_is_exported_and_read_into_another_lab_is_the_same_to_the_last_attribute_event_and_link(
    tmp_path: Path, ending: str
) -> None:
    source, target = open_store(":memory:"), open_store(":memory:")
    send(source, *random_spans(random.Random(9), 400))
    for recording in sorted(RECORDED.glob("*.pb")):
        import_file(recording, source)
    export_file(tmp_path / f"1{ending}", source)
    assert import_file(tmp_path / f"1{ending}", target).rejected == 0
    for sql in (f"select {COLUMNS} from traces order by 1", "select * from spans order by trace_id, span_id"):
        for given, found in zip(source.sql(sql).rows, target.sql(sql).rows, strict=True):
            assert [_parsed(value) for value in found] == [_parsed(value) for value in given]
    source.close()
    target.close()


def _parsed(value: Any) -> Any:
    """Attributes are the same in another order."""
    try:
        return json.loads(value) if isinstance(value, str) and value.startswith("{") else value
    except ValueError:
        return value


def test_other_programs_find_in_an_export_what_the_columns_know_beside_what_the_sender_gave(tmp_path: Path) -> None:
    given = {
        "gen_ai.operation.name": "reason",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.request.model": "m",
        "note": "n",
    }
    source = open_store(":memory:")
    send(source, span(1, "it", given))
    export_file(tmp_path / "it.json", source)
    source.close()
    [exported] = json.loads((tmp_path / "it.json").read_text())["resourceSpans"][0]["scopeSpans"][0]["spans"]
    said = {pair["key"]: next(iter(pair["value"].values())) for pair in exported["attributes"]}
    assert {name: said[name] for name in given} == {**given, "gen_ai.usage.input_tokens": "7"}
    assert (said["openinference.span.kind"], said["llm.token_count.prompt"]) == ("LLM", "7")


def test_the_view_messages_has_the_history_and_the_answer_of_an_imported_trace_each_message_once(store: Store) -> None:
    import_file(RECORDED / "strands.pb", store)
    send(store, span(1, "plain", {**CHAT, "input.value": "why?", "output.value": '["so.", "\\u0000"]'}))
    ended = "trace_id in (select trace_id from traces where status = 'completed')"
    told = f"select thread_id, role, agent, text from messages where {ended} order by created_at, item_id"
    assert store.sql(told).rows == [
        (None, "user", None, "why?"), (None, "assistant", None, "so."), (None, "assistant", None, "\ufffd"),
        ("sess-9", "system", None, "brief"), ("sess-9", "user", None, "weather in Paris?"), ("sess-9", "tool", None, "sunny in Paris"),
        ("sess-9", "assistant", "weather_agent", "It is sunny in Paris"),
    ]  # fmt: skip


def test_the_result_of_an_evaluation_is_a_score_of_the_span_told_once_or_twice(store: Store) -> None:
    evaluation = {
        "gen_ai.evaluation.name": "relevance",
        "gen_ai.evaluation.score.label": "good",
        "gen_ai.evaluation.explanation": "on topic",
    }
    said = [{"key": key, "value": {"stringValue": value}} for key, value in evaluation.items()]
    said.append({"key": "gen_ai.evaluation.score.value", "value": {"doubleValue": 0.8}})
    event = {"name": "gen_ai.evaluation.result", "timeUnixNano": "1795000000000000007", "attributes": said}
    for _ in range(2):
        send(store, span(1, "chat", CHAT, events=[event]))
    told = "select target, target_id, name, value, label, note, source from scores"
    assert store.sql(told).rows == [("span", f"{1:016x}", "relevance", 0.8, "good", "on topic", "scorer")]
    assert store.traces.count('any(s.scores["relevance"] > 0.5 for s in spans)') == 1


def test_the_result_of_an_evaluation_may_come_as_a_log_record(store: Store) -> None:
    send_logs(
        store,
        _record(
            1, "gen_ai.evaluation.result", gen_ai__evaluation__name="tone", gen_ai__evaluation__score__label="kind"
        ),
    )
    send(store, span(1, "chat", CHAT))
    assert store.sql("select target_id, name, value, label from scores").rows == [(f"{1:016x}", "tone", None, "kind")]


def message(role: str, *parts: dict[str, str]) -> dict[str, Any]:
    return {"role": role, "parts": list(parts)}


def event(name: str, **attributes: str) -> dict[str, Any]:
    said = [{"key": key.replace("__", "."), "value": any_value(value)} for key, value in attributes.items()]
    return {"name": name, "timeUnixNano": "1795000000000000001", "attributes": said}


KIND, AGENT = "select kind, agent from spans", "select kind, agent, (select agent_path from traces) from spans"
COUNTED = "select input_tokens, cached_tokens, reasoning_tokens, cost_usd from generations"
SAID = "select input, output from traces"
READ: dict[str, tuple[str, dict[str, Any], str, tuple[Any, ...]]] = {
    "pydantic-ai 1.0's agent": ("pydantic-ai", {"agent_name": "weather", "model_name": "m", "final_result": "Fog"}, AGENT, ("agent", "weather", "weather")),
    "vLLM's request": ("vllm.llm_engine", {"gen_ai.latency.time_to_first_token": 0.033, "gen_ai.usage.prompt_tokens": 9, "gen_ai.usage.completion_tokens": 2}, "select kind, ttft_ms, input_tokens from spans", ("generation", 33.0, 9)),
    "Gemini CLI's agent": ("gemini-cli", {"gen_ai.operation.name": "agent_call", "gen_ai.agent.name": "codebase_investigator"}, KIND, ("agent", "codebase_investigator")),
    "Gemini CLI's tool": ("gemini-cli", {"gen_ai.operation.name": "tool_call", "gen_ai.tool.name": "ls", "gen_ai.input.messages": '{"callId": "1", "name": "ls", "args": {"dir": "."}}', "gen_ai.output.messages": '{"callId": "1", "text": "a.txt"}'}, "select kind, name, input from spans", ("tool", "ls", '{"dir":"."}')),
    "LangSmith's details": ("langsmith", {**CHAT, **USED, "gen_ai.usage.input_token_details": "{'cache_read': 40}", "gen_ai.usage.output_token_details": "{'reasoning': 8}"}, COUNTED, (100, 40, 8, pytest.approx(0.000024))),
    "OpenAI's cache, by Vercel 4": ("ai", {**CHAT, **USED, "ai.response.providerMetadata": '{"openai":{"cachedPromptTokens":40,"reasoningTokens":8}}'}, COUNTED, (100, 40, 8, pytest.approx(0.000024))),
    "Anthropic's cache, by Vercel 4": ("ai", {**CHAT, "gen_ai.provider.name": "anthropic", "gen_ai.request.model": "claude-sonnet-4-5", "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 33, "ai.response.providerMetadata": '{"anthropic":{"cacheCreationInputTokens":100,"cacheReadInputTokens":2000}}'}, COUNTED, (2110, 2000, None, pytest.approx(0.0015))),
    "a prompt of Vercel without a system prompt": ("ai", {"ai.operationId": "ai.generateText", "ai.prompt": '{"prompt":"Weather?"}', "ai.response.text": "Fog"}, SAID, ("Weather?", "Fog")),
    "OpenLLMetry of 2024": ("x", {"llm.request.type": "chat", "llm.request.model": "gpt-4o-mini", "llm.prompts.0.role": "user", "llm.prompts.0.content": "Weather?", "llm.completions.0.content": "Fog"}, "select model, (select input from traces), (select output from traces) from spans", ("gpt-4o-mini", "Weather?", "Fog")),
    "media and thoughts beside text": ("x", {**CHAT, "gen_ai.input.messages": json.dumps([message("user", {"type": "blob", "modality": "image", "content": "iVBORw0K"}, {"type": "text", "content": "What is it?"})]), "gen_ai.output.messages": json.dumps([message("assistant", {"type": "reasoning", "content": "Hm"}, {"type": "text", "content": "A cat"})])}, SAID, ("What is it?", "A cat")),
    "an array of texts that are messages": ("x", {**CHAT, "gen_ai.input.messages": [json.dumps(message("user", {"type": "text", "content": "Weather?"}))], "gen_ai.output.messages": [json.dumps(message("assistant", {"type": "text", "content": "Fog"}))]}, SAID, ("Weather?", "Fog")),
}  # fmt: skip


@pytest.mark.parametrize("case", list(READ))
def test_what_a_sender_means_by_its_own_names(store: Store, case: str) -> None:
    scope, attributes, sql, expected = READ[case]
    sent = request(span(1, "it", attributes))
    sent["resourceSpans"][0]["scopeSpans"][0]["scope"] = {"name": scope}
    read_otlp(json.dumps(sent).encode(), "application/json", None, store.user_id).store(store.db)
    assert store.sql(sql).rows == [expected]


def test_the_answer_of_an_agent_of_azure_is_its_last_message(store: Store) -> None:
    user = event("gen_ai.user.message", gen_ai__event__content='{"content": "Weather?", "role": "user"}')
    text = '{"content": {"text": {"value": "It is sunny"}}, "role": "assistant"}'
    answer = event("gen_ai.assistant.message", gen_ai__event__content=text)
    attributes = {"gen_ai.operation.name": "process_thread_run", "gen_ai.system": "az.ai.agents"}
    send(store, span(1, "process_thread_run", attributes, events=[user, answer]))
    assert store.sql(SAID).rows == [("Weather?", "It is sunny")]


def test_the_error_of_logfires_agents_is_what_the_sdk_says_of_it(store: Store) -> None:
    error = {"message": "Error running tool", "data": {"tool_name": "get_time", "error": "no clock"}}
    said = {"logfire.msg_template": "Function: {name}", "name": "get_time", "error": json.dumps(error)}
    send_as("logfire.openai_agents", store, span(1, "Function: {name}", said, status={"code": 2}))
    assert store.sql("select kind, name, error from spans").rows == [
        ("tool", "get_time", "Error running tool: no clock")
    ]


def test_the_error_of_a_span_that_states_its_type_alone_is_that_type(store: Store) -> None:
    send(store, span(1, "chat", {**CHAT, "error.type": "RateLimitError"}, status={"code": 2}))
    assert store.sql("select error from spans").rows == [("RateLimitError",)]


@pytest.mark.parametrize(
    "model",
    ["us.anthropic.claude-sonnet-4-20250514-v1:0", "anthropic.claude-3-5-sonnet-20240620-v1:0", "us.amazon.nova-pro-v1:0", "anthropic:claude-sonnet-4-5", "openai:gpt-4o-mini"],
)  # fmt: skip
def test_a_model_whose_name_states_its_maker_has_a_price_whatever_the_provider_is_called(
    store: Store, model: str
) -> None:
    send(
        store,
        span(1, "chat", {**CHAT, **USED, "gen_ai.provider.name": "strands-agents", "gen_ai.request.model": model}),
    )
    [(cost,)] = store.sql("select cost_usd from generations").rows
    assert cost is not None
    assert cost > 0
