"""A run is one stream of events, and what an event tells is in the store before it is told."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import queue
import tracemalloc
from functools import partialmethod
from typing import Any

import pytest
from agents import (
    Agent,
    AgentHooks,
    GuardrailFunctionOutput,
    InputGuardrail,
    OutputGuardrail,
    RunContextWrapper,
    RunHooks,
    function_tool,
)  # fmt: skip
from openai.types.responses import ResponseOutputMessage, ResponseOutputRefusal

from tests.files.test_text_of_files import pdf
from tests.runtime.bench import Bench, calls, last, open_bench, says, scripted
from timestep_lab.model.errors import ConflictError, MissingKeyError, NotFoundError, UnknownPrefixError, UsageError
from timestep_lab.model.events import (
    AgentUpdated,
    ItemAdded,
    ItemDone,
    ItemReplaced,
    ItemUpdated,
    Progress,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
    ThreadCreated,
)  # fmt: skip
from timestep_lab.model.records import McpServerRecord
from timestep_lab.runtime.attachments import with_content
from timestep_lab.runtime.files.files import Files
from timestep_lab.runtime.stream_items import StreamItems


async def test_a_turn_tells_its_story_in_the_promised_order(bench: Bench) -> None:
    events = await bench.run("What is the weather in Oakland?")
    assert [type(e) for e in events[:4]] == [RunStarted, ThreadCreated, ItemDone, AgentUpdated]
    agents = [(e.previous, e.agent) for e in events if isinstance(e, AgentUpdated)]
    assert agents == [(None, "Personal Assistant"), ("Personal Assistant", "Weather Assistant")]
    run = last(events).run
    assert run.status == "completed"
    assert run.output
    assert "Oakland" in run.output
    shown = [(i.type, i.data.get("name")) for i in bench.items(run.thread_id)]
    assert shown == [
        ("user_message", None), ("handoff", None), ("tool_call", "think"), ("tool_call", "get_weather"),
        ("assistant_message", None),
    ]  # fmt: skip


async def test_a_call_whose_tool_starts_before_it_was_read_from_the_stream_is_shown_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy process may read the stream so late; here no tool waits for it."""
    at_once = partialmethod(StreamItems.call_item, longest_wait_s=0.0)
    monkeypatch.setattr(StreamItems, "call_item", at_once)

    @function_tool
    def dig(n: int) -> str:
        return f"Dug {n}."

    steps = [calls(*(("dig", {"n": n}) for n in range(4))), calls(("dig", {"n": 4})), says("Done.")]
    agent = Agent(name="Digger", model=bench.script(*steps), tools=[dig])
    run = last(await bench.run("dig", agent)).run
    shown = [(i.data["arguments"], i.data["status"], i.data["output"]) for i in bench.items(run.thread_id, "tool_call")]
    assert sorted(shown) == [(f'{{"n":{n}}}', "completed", f"Dug {n}.") for n in range(5)]


async def test_every_item_is_stored_when_its_event_is_read_but_for_what_the_model_is_still_saying(bench: Bench) -> None:
    async for event in bench.runner.stream("What is the weather in Oakland?", agent=bench.personal):
        if isinstance(event, ItemAdded) and event.item.type == "assistant_message":
            continue
        if isinstance(event, (ItemAdded, ItemDone, ItemReplaced)):
            stored = bench.store.threads.get_item(event.item.id)
            assert stored.item_index == event.item.item_index
            if isinstance(event, ItemDone):
                assert stored.data.items() >= {"name": event.item.data.get("name")}.items() or "name" not in stored.data
        elif isinstance(event, RunCompleted):
            assert bench.store.runs.get(event.run.id) == event.run


async def test_a_reader_who_is_behind_gets_the_pieces_that_wait_as_one(bench: Bench) -> None:
    stream = bench.runner.stream("Go.", agent=bench.personal, model="demo/slow?ttft=0&tps=500&n=50")
    events = [await anext(stream)]
    await asyncio.sleep(1.5)
    events += [event async for event in stream]
    [item] = [e.item for e in events if isinstance(e, ItemDone) and e.item.type == "assistant_message"]
    pieces = [e.delta for e in events if isinstance(e, ItemUpdated)]
    assert "".join(pieces) == item.data["text"]
    assert len(pieces) == 1


async def test_an_agent_that_was_changed_answers_as_it_is_at_the_next_run(bench: Bench) -> None:
    agent = bench.agent("Clerk", model="demo/echo")
    for model in ("demo/echo", "demo/slow?ttft=0&tps=1000&n=2", "demo/echo"):
        bench.store.agents.update(agent.id, model=model)
        assert last(await bench.run("Hello", bench.store.agents.get(agent.id))).run.model == model


async def test_the_pieces_of_a_text_add_up_to_the_whole(bench: Bench) -> None:
    events = await bench.run("echo this sentence back", model="demo/echo")
    [item] = [e.item for e in events if isinstance(e, ItemDone) and e.item.type == "assistant_message"]
    pieces = [e.delta for e in events if isinstance(e, ItemUpdated) and e.item_id == item.id]
    assert len(pieces) > 1
    assert "".join(pieces) == item.data["text"] == last(events).run.output


async def test_a_tool_call_shows_server_arguments_output_and_time(bench: Bench) -> None:
    run = last(await bench.run("What is the weather in Oakland?")).run
    call = bench.items(run.thread_id, "tool_call")[-1].data
    assert (call["name"], call["server"], call["status"], call["error"]) == ("get_weather", "lab", "completed", None)
    assert "Oakland" in call["arguments"]
    assert "Oakland" in call["output"]
    assert call["duration_ms"] > 0


async def test_usage_and_time_to_first_token_are_on_the_run(bench: Bench) -> None:
    run = last(await bench.run("What is the weather in Oakland?")).run
    assert run.usage.requests == 4
    assert run.usage.input_tokens > run.usage.output_tokens > 0
    assert run.ttft_ms is not None
    assert run.ended_at is not None
    assert run.cost_usd == 0.0, "a demo model is known to cost nothing"


async def test_the_talk_goes_on_in_the_same_thread(bench: Bench) -> None:
    model = scripted(says("Hello Ada."), says("You are Ada."))
    agent = Agent(name="Friend", model=model)
    first = last(await bench.run("I am Ada.", agent)).run
    second = last(await bench.run("Who am I?", agent, thread_id=first.thread_id)).run
    assert second.output == "You are Ada."
    heard = model.calls[1].input
    assert [(m["role"], m["content"] if isinstance(m["content"], str) else m["content"][0]["text"]) for m in heard] == [
        ("user", "I am Ada."), ("assistant", "Hello Ada."), ("user", "Who am I?"),
    ]  # fmt: skip


async def test_a_second_turn_at_once_in_one_thread_is_refused(bench: Bench) -> None:
    thread = last(await bench.run("hi", model="demo/echo")).run.thread_id
    stream = bench.runner.stream(
        "slowly", agent=bench.personal, thread_id=thread, model="demo/slow?ttft=200&tps=50&n=5"
    )
    first = await anext(aiter(stream))
    with pytest.raises(ConflictError, match="still active"):
        await bench.run("me too", thread_id=thread, model="demo/echo")
    assert [type(e) async for e in stream][-1] is RunCompleted
    assert isinstance(first, RunStarted)
    assert last(await bench.run("now", thread_id=thread, model="demo/echo")).run.status == "completed"


@pytest.mark.parametrize("model", ["demo/echo", "demo/flaky?rate=1&error=auth"], ids=["answered", "failed"])
async def test_runs_that_are_over_keep_no_memory_until_the_garbage_collector_comes(bench: Bench, model: str) -> None:
    async def some() -> None:
        for _ in range(15):
            await bench.run("Say " + 10_000 * "x", agent=None, model=model)

    await some()
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        await some()
        first, _ = tracemalloc.get_traced_memory()
        await some()
        grown = tracemalloc.get_traced_memory()[0] - first
    finally:
        tracemalloc.stop()
        gc.enable()
    assert grown / 15 < 10_000, f"{grown / 15:,.0f} bytes a run"


async def test_a_cancelled_run_keeps_what_was_said_and_the_model_knows_of_it(bench: Bench) -> None:
    events: list[Any] = []
    async for event in bench.runner.stream("go", agent=bench.personal, model="demo/slow?ttft=0&tps=50&n=200"):
        events.append(event)
        if len([e for e in events if isinstance(e, ItemUpdated)]) == 5:
            asyncio.get_running_loop().create_task(bench.runner.cancel(event_run(events)))
    assert isinstance(events[-1], RunCancelled)
    run = events[-1].run
    [message] = bench.items(run.thread_id, "assistant_message")
    said = "".join(e.delta for e in events if isinstance(e, ItemUpdated))
    assert message.data["status"] == "incomplete"
    assert message.data["text"] == said == run.output
    assert bench.store.threads.session_items(run.thread_id)[-1] == {"role": "assistant", "content": said}


async def test_a_reader_who_leaves_cancels_the_run_and_loses_nothing(bench: Bench) -> None:
    stream = bench.runner.stream("go", agent=bench.personal, model="demo/slow?ttft=0&tps=50&n=200")
    heard, run_id = "", ""
    async for event in stream:
        run_id = event.run.id if isinstance(event, RunStarted) else run_id
        heard += event.delta if isinstance(event, ItemUpdated) else ""
        if len(heard) > 10:
            break
    await stream.aclose()
    run = bench.store.runs.get(run_id)
    assert run.status == "cancelled"
    assert run.output
    assert run.output.startswith(heard)


async def test_a_run_may_go_on_without_its_reader(bench: Bench) -> None:
    stream = bench.runner.stream(
        "go", agent=bench.personal, model="demo/slow?ttft=0&tps=100&n=10", keep_running=True
    )  # fmt: skip
    run = (await anext(stream)).run
    await stream.aclose()
    while (run := bench.store.runs.get(run.id)).status == "running":
        await asyncio.sleep(0.02)
    assert run.status == "completed"


async def test_text_is_stored_while_it_grows(bench: Bench) -> None:
    stream = bench.runner.stream("go", agent=bench.personal, model="demo/slow?ttft=0&tps=40&n=60")
    async for event in stream:
        if isinstance(event, ItemAdded):
            await asyncio.sleep(0.7)
            stored = bench.store.threads.get_item(event.item.id)
            assert stored.data["status"] == "in_progress"
            assert stored.data["text"]
            break
    await stream.aclose()


async def test_another_process_may_ask_a_run_to_stop(bench: Bench) -> None:
    from timestep_lab.runtime.runner import Runner

    other = Runner(bench.store, bench.router, bench.toolbox, bench.router.settings, writer=bench.writer)
    stream = bench.runner.stream("go", agent=bench.personal, model="demo/slow?ttft=0&tps=50&n=500")
    run_id = (await anext(stream)).run.id
    await other.cancel(run_id)
    assert [type(e) async for e in stream][-1] is RunCancelled


async def test_a_run_in_another_threads_loop_is_stopped_too(bench: Bench) -> None:
    ids: queue.Queue[str] = queue.Queue()

    async def elsewhere() -> str:
        last_type = ""
        async for event in bench.runner.stream("go", agent=Agent(name="T", model="demo/slow?ttft=0&tps=50&n=500")):
            if isinstance(event, RunStarted):
                ids.put(event.run.id)
            last_type = event.type
        return last_type

    thread = asyncio.create_task(asyncio.to_thread(asyncio.run, elsewhere()))
    run_id = await asyncio.to_thread(ids.get)
    await bench.runner.cancel(run_id)
    assert bench.store.runs.get(run_id).status == "cancelled"
    assert await thread == "run.cancelled"


async def test_agents_that_hand_off_in_a_circle_end_with_a_message_that_names_it(bench: Bench) -> None:
    ping = Agent(name="Ping", model=scripted(*[calls(("transfer_to_pong", {})) for _ in range(9)]))
    pong = Agent(name="Pong", model=scripted(*[calls(("transfer_to_ping", {})) for _ in range(9)]), handoffs=[ping])
    ping.handoffs = [pong]
    end = last(await bench.run("go", ping, max_turns=6))
    assert isinstance(end, RunFailed)
    assert (end.error["type"], end.error["code"]) == ("RunError", "max_turns")
    assert "Ping → Pong → Ping → Pong" in end.error["message"]
    assert end.error["next_step"]
    assert end.run.status == "failed"


async def test_a_tool_loop_ends_at_max_turns(bench: Bench) -> None:
    @function_tool
    def dig() -> str:
        return "deeper"

    agent = Agent(name="Digger", model=scripted(*[calls(("dig", {})) for _ in range(9)]), tools=[dig])
    end = last(await bench.run("dig", agent, max_turns=3))
    assert isinstance(end, RunFailed)
    assert "after 3 turns" in end.error["message"]
    assert "Digger kept calling tools" in end.error["message"]


async def test_a_refusal_is_a_typed_outcome(bench: Bench) -> None:
    refusal = ResponseOutputMessage(
        id="msg_1", type="message", role="assistant", status="completed",
        content=[ResponseOutputRefusal(type="refusal", refusal="I will not.")],
    )  # fmt: skip
    end = last(await bench.run("do it", Agent(name="Strict", model=scripted([refusal]))))
    assert isinstance(end, RunFailed)
    assert (end.error["code"], end.run.error_type) == ("refusal", "RunError")
    assert "I will not." in end.error["message"]
    assert bench.items(end.run.thread_id, "assistant_message")[0].data["text"] == "I will not."


@pytest.mark.parametrize("side", ["input", "output"])
async def test_a_guardrail_that_trips_is_a_typed_outcome(bench: Bench, side: str) -> None:
    async def no_secrets(*_: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info="secret", tripwire_triggered=True)

    agent = Agent(
        name="Careful", model=scripted(says("The secret is 42.")),
        input_guardrails=[InputGuardrail(no_secrets)] if side == "input" else [],
        output_guardrails=[OutputGuardrail(no_secrets)] if side == "output" else [],
    )  # fmt: skip
    end = last(await bench.run("the secret?", agent))
    assert isinstance(end, RunFailed)
    assert end.error["code"] == "guardrail"
    assert f"The {side} guardrail 'no_secrets'" in end.error["message"]


async def test_a_model_that_fails_is_a_typed_outcome_and_the_thread_goes_on(bench: Bench) -> None:
    end = last(await bench.run("hi", model="demo/flaky?rate=1&error=auth"))
    assert isinstance(end, RunFailed)
    assert end.error["type"] == "ProviderAuthError"
    assert end.run.error_type == "ProviderAuthError"
    assert [i.type for i in bench.items(end.run.thread_id)] == ["user_message", "error"]
    again = last(await bench.run("hi again", model="demo/echo", thread_id=end.run.thread_id))
    assert again.run.status == "completed"


async def test_an_answer_cut_in_the_middle_is_kept_as_incomplete(bench: Bench) -> None:
    end = last(await bench.run("tell me a long story", model="demo/flaky?rate=1&error=cut"))
    assert isinstance(end, RunFailed)
    assert end.error["type"] == "StreamCutError"
    for message in bench.items(end.run.thread_id, "assistant_message"):
        assert message.data["status"] == "incomplete"


async def test_a_tool_that_fails_is_shown_as_failed_and_the_run_goes_on(bench: Bench) -> None:
    @function_tool
    def broken() -> str:
        raise ValueError("no such file")

    agent = Agent(name="Worker", model=scripted(calls(("broken", {})), says("It did not work.")), tools=[broken])
    run = last(await bench.run("try", agent)).run
    assert (run.status, run.output) == ("completed", "It did not work.")
    [call] = bench.items(run.thread_id, "tool_call")
    assert call.data["status"] == "failed"
    assert call.data["error"]


async def test_a_tool_that_does_not_exist_is_told_to_the_model(bench: Bench) -> None:
    agent = Agent(name="Dreamer", model=scripted(calls(("fly", {})), says("I cannot fly.")))
    run = last(await bench.run("fly", agent)).run
    assert run.output == "I cannot fly."
    assert bench.items(run.thread_id, "tool_call")[0].data["status"] == "failed"


async def test_parallel_tools_are_shown_as_each_of_them_ends(bench: Bench) -> None:
    @function_tool
    async def wait(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return f"waited {seconds}"

    model = scripted(calls(("wait", {"seconds": 0.3}), ("wait", {"seconds": 0.0})), says("Done."))
    events = await bench.run("wait twice", Agent(name="Waiter", model=model, tools=[wait]))
    ended = [
        e.item.data["output"] for e in events if isinstance(e, ItemReplaced) and e.item.data["status"] == "completed"
    ]
    assert ended == ["waited 0.0", "waited 0.3"]


async def test_sdk_agents_keep_their_hooks_context_and_output_type(bench: Bench) -> None:
    seen: list[str] = []

    class Hooks(AgentHooks[Any]):
        async def on_start(self, context: Any, agent: Any) -> None:
            seen.append(f"start {agent.name}")

        async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: object) -> None:
            seen.append(f"{tool.name} gave {result}")

    class Whole(RunHooks[Any]):
        async def on_llm_end(self, context: Any, agent: Any, response: Any) -> None:
            seen.append("model")

    @function_tool
    def whoami(context: RunContextWrapper[dict[str, str]]) -> str:
        return context.context["user"]

    model = scripted(calls(("whoami", {})), says('{"name": "Ada"}'))
    agent = Agent(name="Clerk", model=model, tools=[whoami], hooks=Hooks(), output_type=dict[str, str])
    agent.output_type = None
    run = last(await bench.run("who?", agent, context={"user": "Ada"}, hooks=Whole())).run
    assert run.output == '{"name": "Ada"}'
    assert seen == ["start Clerk", "model", "whoami gave Ada", "model"]
    assert run.agent_id is None


async def test_a_client_tool_ends_the_turn_and_its_answer_reaches_the_model(bench: Bench) -> None:
    run = last(await bench.run("Switch to the dark theme")).run
    assert run.status == "completed"
    [call] = bench.items(run.thread_id, "client_tool_call")
    assert (call.data["status"], call.data["arguments"]) == ("pending", {"theme": "dark"})
    stream = bench.runner.client_tool_output(run.thread_id, call.data["call_id"], {"theme": "dark", "done": True})
    end = last([e async for e in stream]).run
    assert end.id == run.id
    assert end.trace_id == run.trace_id
    assert end.output
    assert "dark" in end.output
    assert bench.items(run.thread_id, "client_tool_call")[0].data["output"] == {"theme": "dark", "done": True}
    answers = [
        i["output"] for i in bench.store.threads.session_items(run.thread_id) if i.get("type") == "function_call_output"
    ]
    assert answers == ['{"theme": "dark", "done": true}']
    with pytest.raises(ConflictError, match="already has an output"):
        [e async for e in bench.runner.client_tool_output(run.thread_id, call.data["call_id"], {})]
    with pytest.raises(NotFoundError, match="no client tool call"):
        [e async for e in bench.runner.client_tool_output(run.thread_id, "call_other", {})]


async def test_a_broken_server_is_named_and_the_run_goes_on(bench: Bench) -> None:
    bench.store.mcp_servers.insert(
        McpServerRecord(id="srv", user_id=bench.store.user_id, name="crashes", command=("false",), timeout_s=5)
    )
    agent = bench.agent("Unlucky", tool_ids=("srv.*",), model="demo/echo")
    events = await bench.run("hello", agent)
    assert any("crashes" in e.text for e in events if isinstance(e, Progress))
    assert last(events).run.status == "completed"


async def test_what_is_wrong_before_the_start_is_raised_and_nothing_is_written(bench: Bench) -> None:
    lost = bench.agent("Lost", handoff_ids=("nobody",))
    for error, options in (
        (UsageError, {"prompt": "   "}),
        (UsageError, {"prompt": []}),
        (UsageError, {"approve": "maybe"}),
        (UsageError, {"max_turns": 0}),
        (UsageError, {"model_settings": {"temprature": 1}}),
        (UnknownPrefixError, {"model": "olama/qwen3"}),
        (MissingKeyError, {"model": "anthropic/claude-sonnet-4-5"}),
        (NotFoundError, {"thread_id": "thr_nowhere"}),
        (NotFoundError, {"agent": lost}),
    ):
        with pytest.raises(error) as caught:
            await bench.run(**{"prompt": "hi", **options})
        assert caught.value.next_step or isinstance(caught.value, NotFoundError)
    assert bench.store.runs.count() == 0
    assert bench.store.threads.count() == 0


async def test_responses_items_and_attachments_are_input_too(bench: Bench) -> None:
    model = scripted(says("A cat."))
    picture = {
        "id": "atc_1", "name": "cat.png", "mime_type": "image/png",
        "input": {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "auto"},
    }  # fmt: skip
    run = last(await bench.run("What is it?", Agent(name="Eye", model=model), attachments=[picture])).run
    assert model.calls[0].input[0]["content"] == [{"type": "input_text", "text": "What is it?"}, picture["input"]]
    [shown] = bench.items(run.thread_id, "user_message")
    assert shown.data["attachments"] == [{"id": "atc_1", "name": "cat.png", "mime_type": "image/png"}]


async def test_a_file_of_the_lab_is_content_whether_attached_or_named_by_its_id(bench: Bench) -> None:
    files, content = Files(bench.store), pdf("Fourteen herons")
    file = files.add_bytes("a.pdf", content)
    data = f"data:application/pdf;base64,{base64.b64encode(content).decode()}"
    expected = {"type": "input_file", "filename": "a.pdf", "file_data": data}
    model = scripted(says("Herons."), says("Herons."))
    agent = Agent(name="Eye", model=model)
    await bench.run("What is it?", agent, attachments=await with_content(files, [{"id": file.id}]))
    named = {"role": "user", "content": [{"type": "input_file", "file_id": file.id}]}
    await bench.run([named], agent)
    assert [call.input[0]["content"][-1] for call in model.calls] == [expected, expected]
    missing = {"role": "user", "content": [{"type": "input_file", "file_id": "file_none"}]}
    with pytest.raises(NotFoundError):
        await bench.run([missing], agent)


async def test_a_client_tool_is_handed_its_arguments(bench: Bench) -> None:
    run = last(await bench.run("Switch to the dark theme.", model="demo/assistant", approve="all")).run
    assert (run.status, run.error) == ("completed", None)
    [call] = bench.items(run.thread_id, "client_tool_call")
    assert call.data["arguments"] == {"theme": "dark"}


async def test_a_thread_is_named_after_its_first_words(bench: Bench) -> None:
    run = last(await bench.run("  A question\nwith a second line", model="demo/echo")).run
    assert bench.store.threads.get(run.thread_id).title == "A question"


async def test_a_thread_deleted_under_a_run_ends_the_run(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    events: list[Any] = []
    async for event in bench.runner.stream("go", agent=bench.personal, model="demo/slow?ttft=50&tps=50&n=5"):
        events.append(event)
        if isinstance(event, RunStarted):
            bench.store.threads.delete(event.run.thread_id)
    assert isinstance(events[-1], RunFailed)
    assert "could not be stored" in caplog.text
    assert bench.store.runs.count() == 0
    assert last(await bench.run("hi", model="demo/echo")).run.status == "completed"


async def test_an_agent_without_a_model_gets_the_labs_default(bench: Bench) -> None:
    run = last(await bench.run("What is two and two?", Agent(name="Plain"))).run
    assert (run.status, run.model) == ("completed", "demo/assistant")
    [span] = bench.spans("generation")
    assert "verbosity" not in json.loads(span["attributes"])["model_config"], (
        "OpenAI's defaults are not for other models"
    )


async def test_two_users_of_one_lab_do_not_meet(tmp_path: Any) -> None:
    async with open_bench(tmp_path / "lab.duckdb") as bench:
        other = Bench(bench.store.for_user("11111111-0000-0000-0000-000000000001"))
        mine = last(await bench.run("hi", model="demo/echo")).run
        with pytest.raises(NotFoundError):
            await other.run("hello", thread_id=mine.thread_id, model="demo/echo")
        theirs = last(await other.run("hello", model="demo/echo")).run
        assert [r.id for r in bench.store.runs.find()] == [mine.id]
        assert [r.id for r in other.store.runs.find()] == [theirs.id]
        other.writer.flush()
        assert other.store.sql("select trace_id from traces").rows == [(theirs.trace_id,)]
        await other.runner.aclose()
        other.writer.close()


def event_run(events: list[Any]) -> str:
    return next(e.run.id for e in events if isinstance(e, RunStarted))
