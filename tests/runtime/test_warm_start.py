"""The rest of a run, run again from what its model had read: without a conversation, and as the run itself would go on."""

from __future__ import annotations

from typing import Any

import pytest
from agents import Agent, GuardrailFunctionOutput, InputGuardrail, ModelSettings, function_tool, handoff

from tests.runtime.bench import Bench, calls, last, says
from timestep_lab.model.errors import NotFoundError, ProviderError, UsageError
from timestep_lab.model.events import RunPaused
from timestep_lab.runtime.warm_start import Replayed, replay_many, warm_start

TABLES = "threads", "thread_items", "session_items", "runs", "run_states", "spans", "traces"


async def replay(bench: Bench, trace_id: str, span_id: str | None = None, **changes: Any) -> Replayed:
    options = {name: changes.pop(name) for name in ("approve_all", "keep_traces") if name in changes}
    start = await warm_start(bench.runner, trace_id, span_id, **changes)
    [replayed] = await replay_many(start, 1, concurrency=1, **options)
    return replayed


def counts(bench: Bench) -> dict[str, int]:
    bench.writer.flush()
    user = bench.store.user_id
    known = {t: f"core.{t}" if t in ("session_items", "run_states") else t for t in TABLES}
    found = {}
    for table, name in known.items():
        row = bench.store.db.query(user, f"select count(*) from {name}").one()
        found[table] = int(row[0]) if row else 0
    return found


def asked(bench: Bench, model: str) -> list[Any]:
    return list(bench.router.scripts[model].inner.calls)  # type: ignore[attr-defined]


def generation(bench: Bench, trace_id: str, n: int) -> str:
    return str([s for s in bench.spans("generation") if s["trace_id"] == trace_id][n]["span_id"])


class Shop:
    """Counts three words, one of them alone; the counter shows what was called for real."""

    def __init__(self, bench: Bench, *more: Any, **agent: Any) -> None:
        self.counted: list[str] = []

        @function_tool
        def count(word: str) -> str:
            self.counted.append(word)
            return f"{word}: {len(self.counted)}"

        self.both = calls(("count", {"word": "b"}), ("count", {"word": "c"}))
        self.name = bench.script(calls(("count", {"word": "a"})), self.both, says("Three words."), *more)
        self.agent = Agent(name="Counter", model=self.name, tools=[count], **agent)


async def test_a_replay_reads_what_the_run_had_read_and_leaves_no_row(bench: Bench) -> None:
    shop = Shop(bench, says("Again."), says("And again."))
    run = last(await bench.run("count", shop.agent)).run
    before = counts(bench)
    start = await warm_start(bench.runner, run.trace_id, generation(bench, run.trace_id, 2))
    replays = await replay_many(start, 2, concurrency=2)
    assert {r.output for r in replays} == {"Again.", "And again."}
    assert [(r.error, r.agent, r.trace_id, len(r.items)) for r in replays] == [(None, "Counter", None, 1)] * 2
    assert counts(bench) == before
    read = [call.input for call in asked(bench, shop.name)]
    assert read[3] == read[4] == read[2]
    assert len(shop.counted) == 3, "nothing that came before is called again"


async def test_a_replay_of_a_later_turn_of_a_conversation_has_its_past(bench: Bench) -> None:
    model = bench.script(says("Hello Ada."), says("You are Ada."), says("Still Ada."), says("Ada?"))
    agent = Agent(name="Friend", model=model)
    first = last(await bench.run("I am Ada.", agent)).run
    second = last(await bench.run("Who am I?", agent, thread_id=first.thread_id)).run
    assert (await replay(bench, second.trace_id)).output == "Still Ada."
    assert (await replay(bench, second.trace_id, prompt="And who am I?")).output == "Ada?"
    read = [call.input for call in asked(bench, model)]
    assert read[2] == read[1]
    assert read[3] == [*read[1][:-1], {"role": "user", "content": "And who am I?"}]


async def test_a_changed_result_is_heard_and_the_calls_beside_it_are_held(bench: Bench) -> None:
    shop = Shop(bench, says("Changed."))
    run = last(await bench.run("count", shop.agent)).run
    changed = await replay(bench, run.trace_id, results={shop.both[0].call_id: "b: 100"})
    assert changed.output == "Changed."
    heard = [item["output"] for item in asked(bench, shop.name)[-1].input if "output" in item]
    assert heard == ["a: 1", "b: 100", "c: 3"]
    assert len(shop.counted) == 3


async def test_a_call_named_by_its_span_is_made_again_alone(bench: Bench) -> None:
    shop = Shop(bench, says("Again."))
    run = last(await bench.run("count", shop.agent)).run
    [span] = [s["span_id"] for s in bench.spans("tool") if '"c"' in s["input"]]
    assert (await replay(bench, run.trace_id, span)).output == "Again."
    assert shop.counted == ["a", "b", "c", "c"]


async def test_an_agent_that_called_a_tool_before_is_not_made_to_call_one_again(bench: Bench) -> None:
    shop = Shop(bench, says("Free."), says("Kept."), model_settings=ModelSettings(tool_choice="required"))
    run = last(await bench.run("count", shop.agent, model_settings={"temperature": 0.5})).run
    choices = [(call.model_settings.tool_choice, call.model_settings.temperature) for call in asked(bench, shop.name)]
    assert choices == [("required", 0.5), (None, 0.5), (None, 0.5)]
    await replay(bench, run.trace_id, generation(bench, run.trace_id, 2))
    await replay(bench, run.trace_id)
    assert [call.model_settings.tool_choice for call in asked(bench, shop.name)[3:]] == [None, "required"]
    assert asked(bench, shop.name)[3].model_settings.temperature == 0.5


async def test_turns_before_the_replay_count(bench: Bench) -> None:
    more = [calls(("count", {"word": "d"})), calls(("count", {"word": "e"}))]
    shop = Shop(bench, *more)
    run = last(await bench.run("count", shop.agent, max_turns=4)).run
    end = await replay(bench, run.trace_id, generation(bench, run.trace_id, 2))
    assert (end.output, shop.counted[3:]) == (None, ["d", "e"])
    assert "after 4 turns" in str(end.error)
    assert [item["type"] for item in end.items] == ["function_call", "function_call_output"] * 2


async def test_a_replay_begins_with_the_agent_whose_turn_it_is(bench: Bench) -> None:
    ran: list[str] = []

    def checks(*_: Any) -> Any:
        ran.append("guardrail")
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=False)

    desk_model = bench.script(says("From the desk."), says("Again from the desk."), says("In short."))
    desk = Agent(
        name="Desk", model=desk_model, input_guardrails=[InputGuardrail(guardrail_function=checks, name="desk")]
    )
    front = Agent(
        name="Front", model=bench.script(calls(("transfer_to_desk", {}))),
        handoffs=[handoff(desk, on_handoff=lambda _: ran.append("handoff"))],
        input_guardrails=[InputGuardrail(guardrail_function=checks, name="front")],
    )  # fmt: skip
    run = last(await bench.run("go", front)).run
    ran.clear()
    again = await replay(bench, run.trace_id, generation(bench, run.trace_id, 1))
    assert (again.output, again.agent, ran) == ("Again from the desk.", "Desk", [])
    short = await replay(bench, run.trace_id, instructions={"Desk": "Be brief."})
    assert (short.output, asked(bench, desk_model)[-1].system_instructions) == ("In short.", "Be brief.")


async def test_decisions_are_held_and_new_calls_that_need_approval_are_refused_unless_all_are_approved(
    bench: Bench,
) -> None:
    paid: list[str] = []

    @function_tool(needs_approval=True)
    def pay(order: str) -> str:
        paid.append(order)
        return f"Paid {order}."

    @function_tool
    def look(order: str) -> str:
        return f"Order {order}."

    turn = calls(("pay", {"order": "1"}), ("look", {"order": "1"}))
    new = [calls(("pay", {"order": "2"})), says("Done.")]
    model = bench.script(turn, says("Paid."), *new, *new)
    end = last(await bench.run("pay", Agent(name="Till", model=model, tools=[pay, look])))
    assert isinstance(end, RunPaused)
    run = last(await bench.approve(end.run.id)).run
    refused = await replay(bench, run.trace_id, results={turn[1].call_id: "No order."})
    assert (refused.output, paid) == ("Done.", ["1"])
    heard = {item["call_id"]: item["output"] for item in refused.items if item["type"] == "function_call_output"}
    assert [heard[call.call_id] for call in turn] == ["Paid 1.", "No order."]
    assert "rejected" in heard[new[0][0].call_id]
    await replay(bench, run.trace_id, results={turn[1].call_id: "No order."}, approve_all=True)
    assert paid == ["1", "2"]


@pytest.mark.parametrize("instructions", [None, "Be kind."])
@pytest.mark.parametrize("before", [[("system", "Be brief.")], [("user", "Hello."), ("assistant", "Hello.")]])
async def test_an_input_that_is_a_conversation_is_read_again_as_a_whole(
    bench: Bench, instructions: str | None, before: list[tuple[str, str]]
) -> None:
    given = [{"role": role, "content": text} for role, text in [*before, ("user", "Hi.")]]
    model = bench.script(*[says("Hi.")] * 4)
    agent = Agent(name="Greeter", model=model, instructions=instructions)
    run = last(await bench.run(given, agent)).run
    bench.writer.flush()
    await replay(bench, run.trace_id)
    assert last([e async for e in bench.runner.fork(run.trace_id, again=True)]).run.output == "Hi."
    await replay(bench, run.trace_id, prompt="Bye.")
    first, again, forked, other = asked(bench, model)
    assert [call.system_instructions for call in (first, again, forked, other)] == [instructions] * 4
    told = [[(item["role"], item["content"]) for item in call.input] for call in (first, again, forked, other)]
    assert told == [[*before, ("user", "Hi.")]] * 3 + [[("user", "Bye.")]]


async def test_what_a_replay_raises_is_its_error(bench: Bench) -> None:
    shop = Shop(bench, ProviderError("No power.", provider="demo"))
    run = last(await bench.run("count", shop.agent)).run
    end = await replay(bench, run.trace_id, generation(bench, run.trace_id, 2))
    assert end.output is None
    assert isinstance(end.error, ProviderError)


async def test_a_trace_that_is_kept_names_its_parent_and_has_the_live_steps_alone(bench: Bench) -> None:
    shop = Shop(bench, calls(("count", {"word": "d"})), says("Four."))
    run = last(await bench.run("count", shop.agent)).run
    span = generation(bench, run.trace_id, 2)
    end = await replay(bench, run.trace_id, span, keep_traces=True)
    assert end.trace_id is not None
    start = bench.store.traces.start(end.trace_id)
    assert (start.parent_trace_id, start.fork_span_id, start.thread_id) == (run.trace_id, span, None)
    kinds = [s["kind"] for s in bench.spans() if s["trace_id"] == end.trace_id and s["kind"] in ("generation", "tool")]
    assert kinds == ["generation", "tool", "generation"]
    assert bench.store.sql("select status from traces where trace_id = $1", [end.trace_id]).rows == [("completed",)]


async def test_what_cannot_be_replayed_says_so(bench: Bench) -> None:
    shop = Shop(bench)
    run = last(await bench.run("count", shop.agent)).run
    with pytest.raises(NotFoundError, match="no span 'ffff'"):
        await replay(bench, run.trace_id, "ffff")
    with pytest.raises(UsageError, match="no tool 'cuont'"):
        await replay(bench, run.trace_id, tools={"cuont": "1"})
