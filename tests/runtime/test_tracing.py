"""Everything a run did is in the lab's own trace, and nowhere else."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import agents as sdk
import pytest
from agents import Agent, GuardrailFunctionOutput, InputGuardrail, custom_span, function_tool

from tests.runtime import worker
from tests.runtime.bench import Bench, calls, last, says, scripted
from tests.runtime.forks import Worker
from timestep_lab.runtime.span_records import call_span_id, otel_span_id, otel_trace_id, sdk_trace_id


@contextmanager
def trap() -> Iterator[tuple[str, list[bytes]]]:
    """A stand-in for the network: its address, and what was sent to it. It answers nothing."""
    heard: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def listen() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                heard.append(connection.recv(4096))

    listener = threading.Thread(target=listen)
    listener.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}", heard
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    listener.join()


@pytest.mark.parametrize("how", ["bare", "lab"])
def test_nothing_is_exported_to_openai_even_with_a_key(how: str) -> None:
    with trap() as (address, heard):
        env = {"OPENAI_API_KEY": "sk-test", "HTTPS_PROXY": address, "https_proxy": address}
        speaker = Worker(worker.speak, how, env=env)
        assert speaker.hear() == {"spoken": how}
        speaker.kill()
    if how == "bare":
        assert b"CONNECT api.openai.com" in heard[0], "the trap works: the bare SDK does upload"
    else:
        assert heard == []


async def test_a_run_is_one_trace_of_every_kind_of_span(bench: Bench) -> None:
    run = last(await bench.run("What is the weather in Oakland?")).run
    spans = bench.spans()
    assert {s["trace_id"] for s in spans} == {run.trace_id}
    assert {s["kind"] for s in spans} == {"task", "agent", "turn", "generation", "handoff", "tool"}
    assert {s["status"] for s in spans} == {"ok"}
    ids = {s["span_id"] for s in spans}
    assert all(s["parent_id"] in ids for s in spans if s["kind"] != "task")
    assert [s["name"] for s in spans if s["kind"] == "agent"] == ["Personal Assistant", "Weather Assistant"]
    [handoff] = [s for s in spans if s["kind"] == "handoff"]
    assert handoff["name"] == "Personal Assistant → Weather Assistant"
    [trace] = bench.store.sql("select * from traces").dicts()
    assert (trace["thread_id"], trace["workflow"]) == (run.thread_id, "Personal Assistant")
    assert trace["agent_path"] == "Personal Assistant → Weather Assistant"
    assert (trace["input_tokens"], trace["turns"]) == (run.usage.input_tokens, 4)
    assert (trace["input"], trace["output"]) == (run.input, run.output)


async def test_a_generation_has_messages_tokens_and_times(bench: Bench) -> None:
    await bench.run("tell me", model="demo/slow?ttft=30&tps=200&n=5")
    bench.writer.flush()
    [row] = bench.store.sql("select * from generations").dicts()
    assert (row["provider"], row["agent"], row["stop_reason"], row["status"]) == (
        "demo",
        "Personal Assistant",
        "stop",
        "ok",
    )
    assert row["model"].startswith("demo/slow")
    assert 25 <= row["ttft_ms"] <= row["duration_ms"]
    assert row["input_tokens"] > 0
    assert row["output_tokens"] > 0
    assert row["cost_usd"] == 0.0
    assert [m["role"] for m in json.loads(row["input"])] == ["system", "user"]
    assert json.loads(row["output"])[0]["role"] == "assistant"


async def test_a_part_whose_type_is_a_list_as_in_json_schema_costs_no_trace(bench: Bench) -> None:
    schema = {"type": ["string", "null"], "text": "A nullable text."}
    await bench.run([{"role": "user", "content": [schema]}], model="demo/echo")
    bench.writer.flush()
    [row] = bench.store.sql("select input, status from traces").dicts()
    assert row == {"input": "A nullable text.", "status": "completed"}


async def test_a_tool_call_has_its_server_arguments_and_result(bench: Bench) -> None:
    await bench.run("What is the weather in Oakland?")
    bench.writer.flush()
    rows = bench.store.sql("select * from tool_calls order by started_at").dicts()
    assert [(r["tool"], r["server"], r["approval"], r["agent"]) for r in rows] == [
        ("think", "lab", "not_needed", "Weather Assistant"), ("get_weather", "lab", "not_needed", "Weather Assistant"),
    ]  # fmt: skip
    assert json.loads(rows[1]["arguments"]) == {"location": "Oakland"}
    assert "Oakland" in rows[1]["result"]


async def test_a_failing_tool_is_an_error_in_its_span_alone(bench: Bench) -> None:
    @function_tool(failure_error_function=lambda _, error: f"failed: {error}")
    def broken() -> str:
        raise ValueError("no such file")

    await bench.run("try", Agent(name="W", model=scripted(calls(("broken", {})), says("Sorry.")), tools=[broken]))
    assert [(s["kind"], s["name"]) for s in bench.spans() if s["status"] == "error"] == [("tool", "broken")]
    [trace] = bench.store.sql("select status, n_errors from traces").dicts()
    assert trace == {"status": "completed", "n_errors": 1}


async def test_a_guardrail_is_a_span_that_says_whether_it_tripped(bench: Bench) -> None:
    async def fine(*_: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=False)

    await bench.run("hi", Agent(name="G", model=scripted(says("Hello.")), input_guardrails=[InputGuardrail(fine)]))
    [span] = bench.spans("guardrail")
    assert (span["name"], json.loads(span["output"])) == ("fine", {"triggered": False})


async def test_spans_of_the_users_own_code_hang_below_the_tool(bench: Bench) -> None:
    @function_tool
    def search(query: str) -> str:
        with custom_span("look up", {"kind": "retrieval", "input": query, "output": ["a", "b"], "store": "papers"}):
            return "found"

    model = scripted(calls(("search", {"query": "x"})), says("Found."))
    await bench.run("search", Agent(name="S", model=model, tools=[search]))
    [tool], [inner] = bench.spans("tool"), bench.spans("retrieval")
    assert (inner["parent_id"], inner["agent"]) == (tool["span_id"], "S")
    assert (json.loads(inner["output"]), json.loads(inner["attributes"])["store"]) == (["a", "b"], "papers")


async def test_an_open_span_is_seen_while_it_runs(bench: Bench) -> None:
    running = asyncio.Event()
    go_on = asyncio.Event()

    @function_tool
    async def wait() -> str:
        running.set()
        await go_on.wait()
        return "waited"

    agent = Agent(name="W", model=scripted(calls(("wait", {})), says("Done.")), tools=[wait])
    task = asyncio.create_task(bench.run("wait", agent))
    await running.wait()
    assert [(s["name"], s["status"]) for s in bench.spans("tool")] == [("wait", "pending")]
    [trace] = bench.store.sql("select status from traces").dicts()
    assert trace["status"] == "running"
    go_on.set()
    await task
    assert [(s["name"], s["status"]) for s in bench.spans("tool")] == [("wait", "ok")]


async def test_a_cancelled_run_leaves_no_span_open(bench: Bench) -> None:
    stream = bench.runner.stream("go", agent=bench.personal, model="demo/slow?ttft=0&tps=50&n=200")
    async for event in stream:
        if event.type == "thread.item.updated":
            break
    await stream.aclose()
    spans = bench.spans()
    assert not [s for s in spans if s["status"] == "pending"]
    [generation] = [s for s in spans if s["kind"] == "generation"]
    assert generation["status"] == "error"
    assert bench.store.sql("select status from traces").rows == [("cancelled",)]


async def test_the_bare_sdk_beside_a_lab_is_traced_into_it(bench: Bench) -> None:
    with sdk.trace("My workflow", group_id="chat 1", metadata={"team": "a"}) as trace:
        await sdk.Runner.run(Agent(name="Bare", model=scripted(says("Hello."))), "hi")
    bench.writer.flush()
    [row] = bench.store.sql("select * from traces").dicts()
    assert (row["workflow"], row["thread_id"], row["agent_path"]) == ("My workflow", "chat 1", "Bare")
    assert row["status"] == "completed"
    assert row["trace_id"] == otel_trace_id(trace.trace_id)
    assert {s["kind"] for s in bench.spans()} >= {"agent", "generation"}


async def test_a_trace_whose_run_failed_is_failed_also_where_the_lab_knows_no_run_of_it(bench: Bench) -> None:
    failing = bench.router.get_model("demo/flaky?rate=1&error=auth")
    with pytest.raises(Exception, match="failed on purpose"):
        await sdk.Runner.run(Agent(name="Bare", model=failing), "hi")
    bench.writer.flush()
    assert bench.store.sql("select status from traces").rows == [("failed",)]
    [whole] = bench.spans("task")
    assert "failed on purpose" in whole["error"]


async def test_traces_are_found_by_the_class_of_the_error_of_a_model(bench: Bench) -> None:
    for error in ("auth", "rate_limit", "auth"):
        await bench.run("hi", model=f"demo/flaky?rate=1&error={error}")
    bench.writer.flush()
    found = [(value.value, value.count) for value in bench.store.traces.facets()["error_type"]]
    assert found == [("ProviderAuthError", 2), ("RateLimitError", 1)]
    assert bench.store.traces.count('"ProviderAuthError" in error_types') == 2


async def test_an_agent_that_failed_and_was_recovered_from_fails_no_trace(bench: Bench) -> None:
    inner = Agent(name="Inner", model=bench.router.get_model("demo/flaky?rate=1&error=auth"))
    helper = inner.as_tool("ask_inner", "Asks the other.", failure_error_function=lambda *_: "It did not answer.")
    outer = Agent(
        name="Outer", model=scripted(calls(("ask_inner", {"input": "?"})), says("Never mind.")), tools=[helper]
    )
    await sdk.Runner.run(outer, "hi")
    bench.writer.flush()
    assert bench.store.sql("select status from traces").rows == [("completed",)]


async def test_a_lab_that_is_closed_is_no_longer_written_to(bench: Bench) -> None:
    from tests.runtime.bench import open_bench

    async with open_bench() as other:
        pass
    await sdk.Runner.run(Agent(name="Bare", model=scripted(says("Hello."))), "hi")
    assert bench.spans("agent"), "the lab still open gets it"
    assert other.writer.last_error is None


async def test_a_served_users_lab_that_closes_leaves_the_others_traced(bench: Bench) -> None:
    from timestep_lab.runtime.runner import Runner

    store = bench.store.for_user("11111111-0000-0000-0000-000000000001")
    guest = Runner(store, bench.router, bench.toolbox, bench.router.settings, writer=bench.writer)
    agent = Agent(name="Guest's", model=scripted(says("Hello.")))
    assert [e.type async for e in guest.stream("hi", agent=agent)][-1] == "run.completed"
    await sdk.Runner.run(Agent(name="Bare", model=scripted(says("Hello."))), "hi")
    await guest.aclose()
    await sdk.Runner.run(Agent(name="Bare", model=scripted(says("Hello."))), "hi")
    assert [s["name"] for s in bench.spans("agent")] == ["Bare", "Bare"], "what nobody bound is the local user's"
    assert store.sql("select name from spans where kind = 'agent'").rows == [("Guest's",)]


def test_ids_are_opentelemetrys_and_keep_the_sdks() -> None:
    trace_id = "0123456789abcdef0123456789abcdef"
    assert otel_trace_id(sdk_trace_id(trace_id)) == trace_id
    assert otel_span_id("span_0123456789abcdef01234567") == "0123456789abcdef"
    for odd in ("my own id", "trace_XYZ", "span_1"):
        assert len(otel_trace_id(odd)) == 32
        assert len(otel_span_id(odd)) == 16
        assert int(otel_span_id(odd), 16) >= 0
    assert call_span_id(trace_id, "call_1") != call_span_id(trace_id, "call_2")
