"""A run on tape asks no tool: recorded runs answer, and what was never recorded is a miss that is told."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from agents import Agent, FunctionTool, RunContextWrapper, ToolOutputImage, WebSearchTool, function_tool, handoff
from pydantic import BaseModel

from tests.runtime.bench import SETTINGS, Bench, calls, last, open_bench, says
from timestep_lab.model.clock import utc_now
from timestep_lab.model.errors import NotFoundError, TapeMissError, UsageError
from timestep_lab.model.events import RunPaused
from timestep_lab.model.records import RunRecord
from timestep_lab.model.spans import GenAI, SpanRecord, TraceStart
from timestep_lab.runtime.run import RunLimits
from timestep_lab.runtime.runner import Runner
from timestep_lab.runtime.span_records import read_only
from timestep_lab.runtime.tape import Player, Tape, read_tape, record
from timestep_lab.runtime.warm_start import replay_many, warm_start


class Row(BaseModel):
    total: int = 1


class Shop:
    """Tools of every kind; what is called for real is in `done`."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.done = bench, list[str]()
        results: list[Any] = [Row(), {1: "a"}, None, ToolOutputImage(image_url="data:image/png;base64,AAAA"), "text"]

        @read_only
        @function_tool
        def look(order: str, reason: str = "") -> str:
            self.done.append(f"look {order}")
            return f"Order {order}: {len(self.done)}"

        @function_tool
        def give(n: int) -> Any:
            self.done.append("give")
            return results[n]

        @function_tool
        def fail(order: str) -> str:
            self.done.append("fail")
            raise LookupError(order)

        @function_tool(needs_approval=True)
        def pay(order: str) -> str:
            self.done.append(f"pay {order}")
            return f"Paid {order}."

        self.tools = [look, give, fail, pay]

    def agent(self, *steps: Any, **fields: Any) -> Agent[Any]:
        return Agent(name="Shop", model=self.bench.script(*steps), tools=list(self.tools), **fields)

    async def run(self, *steps: Any, **options: Any) -> RunRecord:
        end = last(await self.bench.run("go", self.agent(*steps, says("Done.")), **options))
        return end.run

    def tape(self, *runs: RunRecord, **options: Any) -> Tape:
        self.bench.writer.flush()
        return record(self.bench.store, [run.trace_id for run in runs], **options)

    def heard(self, run: RunRecord) -> list[Any]:
        return [i["output"] for i in self.bench.store.threads.session_items(run.thread_id) if "output" in i]

    def told(self, run: RunRecord) -> list[str | None]:
        import json

        spans = [s for s in self.bench.spans("tool") if s["trace_id"] == run.trace_id]
        return [json.loads(s["attributes"]).get("timestep.tape") for s in spans]


LOOK = ("look", {"order": "1"})


async def test_the_agent_that_was_recorded_hears_the_same_and_calls_nothing(bench: Bench) -> None:
    shop = Shop(bench)
    turns = [
        calls(LOOK, ("look", {"order": "2"}), LOOK),
        calls(*(("give", {"n": n}) for n in range(5))),
        calls(("fail", {"order": "3"}), LOOK),
    ]
    run = await shop.run(*turns)
    shop.done.clear()
    again = await shop.run(*turns, tape=shop.tape(run))
    assert (again.status, again.output, shop.done) == ("completed", "Done.", [])
    assert shop.heard(again) == shop.heard(run)
    assert shop.told(again) == ["hit"] * 10
    errors = [(s["status"], s["error"]) for s in bench.spans("tool") if s["name"] == "fail"]
    assert [status for status, _ in errors] == ["error", "error"]


async def test_a_call_that_was_never_recorded_ends_the_run_and_says_so(bench: Bench) -> None:
    shop = Shop(bench)
    tape = shop.tape(await shop.run(calls(LOOK)))
    run = await shop.run(calls(("look", {"order": "9"})), tape=tape)
    assert (run.status, run.error_type) == ("failed", "TapeMissError")
    assert 'no recorded result of look for {"order":"9"}' in str(run.error)
    assert shop.told(run) == ["miss"]
    assert len(shop.done) == 1


async def test_the_same_call_again_is_answered_in_order_and_past_the_end_only_where_the_answer_never_changed(
    bench: Bench,
) -> None:
    shop = Shop(bench)
    give = ("give", {"n": 4})
    run = await shop.run(calls(LOOK), calls(give), calls(LOOK))
    shop.done.clear()
    again = await shop.run(calls(LOOK), calls(LOOK), calls(give), calls(give), tape=shop.tape(run))
    assert shop.heard(again) == ["Order 1: 1", "Order 1: 3", "text", "text"]
    third = await shop.run(calls(LOOK), calls(LOOK), calls(LOOK), tape=shop.tape(run))
    assert third.error_type == "TapeMissError"
    assert "for the third time" in str(third.error)
    assert shop.done == []


async def test_arguments_that_mean_the_same_match_and_ids_never_nearly(bench: Bench) -> None:
    shop = Shop(bench)
    run = await shop.run(calls(("look", {"order": "C-1042", "reason": "The customer asks"})), calls(("give", {"n": 4})))
    look, give = shop.tools[0], shop.tools[1]

    def finds(tape: Tape, tool: FunctionTool, **arguments: Any) -> str | None:
        found = Player(tape).find("", tool, arguments)
        return found and found[0]

    plain = shop.tape(run)
    assert finds(plain, give, n=4.0) == "hit"
    assert finds(plain, look, order="C-1042", reason=None) is None, "what a tool makes of null is not its default"
    assert finds(plain, look, reason="The customer asks", order="C-1042") == "hit"
    assert finds(plain, look, order="C-1042", reason="I wonder") is None
    ignoring = shop.tape(run, ignore={"look": "reason"})
    assert finds(ignoring, look, order="C-1042", reason="I wonder") == "hit"
    assert finds(ignoring, look, order="C-1043", reason="I wonder") is None
    near = shop.tape(run, near={"look": ["order", "reason"]})
    assert finds(near, look, order="C-1042", reason="the customer  asks!") == "drifted"
    assert finds(near, look, order="C-1042", reason="Something else entirely") is None
    assert finds(near, look, order="C-1043", reason="The customer asks") is None, "a word with a digit is an id"
    for wrong in ({"give": ["n"]}, {"look": ["ordre"]}):
        with pytest.raises(UsageError, match="near="):
            Player(shop.tape(run, near=wrong)).taped(give if "give" in wrong else look, "")


async def test_a_schema_can_say_that_an_argument_says_nothing(bench: Bench) -> None:
    shop = Shop(bench)
    shop.tools[0].params_json_schema["properties"]["reason"]["x-timestep-ignorable"] = True
    tape = shop.tape(await shop.run(calls(("look", {"order": "1", "reason": "a"}))))
    run = await shop.run(calls(("look", {"order": "1", "reason": "b"})), tape=tape)
    assert run.output == "Done."


async def test_only_what_changes_nothing_goes_live_by_itself(bench: Bench) -> None:
    shop = Shop(bench)
    tape = shop.tape(await shop.run(calls(LOOK)))
    shop.done.clear()
    other = ("look", {"order": "2"})
    live = await shop.run(calls(LOOK, other), tape=tape, on_miss="live-if-readonly")
    assert (live.output, shop.done, shop.told(live)) == ("Done.", ["look 2"], ["hit", "live"])
    changes = await shop.run(calls(("give", {"n": 4})), tape=tape, on_miss="live-if-readonly")
    assert (changes.error_type, shop.done) == ("TapeMissError", ["look 2"])


async def test_a_person_may_let_one_call_through_also_in_another_process(bench: Bench) -> None:
    shop = Shop(bench)
    tape = shop.tape(await shop.run(calls(LOOK)))
    shop.done.clear()
    agent = shop.agent(calls(LOOK), calls(("give", {"n": 4})), calls(("look", {"order": "2"})))
    end = last(await bench.run("go", agent, tape=tape, on_miss="ask"))
    assert isinstance(end, RunPaused)
    assert (shop.done, [call.name for call in end.interruptions]) == ([], ["give"])
    other = Runner(bench.store, bench.router, bench.toolbox, SETTINGS, writer=bench.writer)
    again = last([event async for event in other.resume(end.run.id, None, agent=agent)])
    await other.aclose()
    assert isinstance(again, RunPaused)
    assert shop.done == ["give"]
    assert [call.name for call in again.interruptions] == ["look"], "it was not recorded either, and is asked about"


async def test_a_model_may_stand_in_for_what_was_never_recorded(bench: Bench) -> None:
    shop = Shop(bench)
    tape = shop.tape(await shop.run(calls(LOOK)))
    actor = bench.script(says("Order 2: simulated"))
    run = await shop.run(calls(("look", {"order": "2"})), tape=tape, on_miss=f"simulate:{actor}")
    assert (shop.heard(run), shop.told(run)) == (["Order 2: simulated"], ["simulated"])
    [asked] = bench.router.scripts[actor].inner.calls  # type: ignore[attr-defined]
    assert "Order 1: 1" in str(asked.input)


async def test_approvals_are_answered_as_they_were_recorded(bench: Bench) -> None:
    shop = Shop(bench)
    pay = calls(("pay", {"order": "1"}))
    paused = last(await bench.run("go", shop.agent(pay, says("Paid.")))).run
    paid = last(await bench.approve(paused.id)).run
    refused = await shop.run(calls(("pay", {"order": "2"})), approve="none")
    shop.done.clear()
    tape = shop.tape(paid, refused)
    again = await shop.run(calls(("pay", {"order": "1"})), calls(("pay", {"order": "2"})), tape=tape)
    assert (again.status, shop.done) == ("completed", [])
    assert shop.heard(again) == [*shop.heard(paid), *shop.heard(refused)]
    spans = [s for s in bench.spans("tool") if s["trace_id"] == again.trace_id]
    assert [s["approval"] for s in spans] == ["approved", "rejected"]


async def test_a_fork_on_tape_goes_on_where_its_prefix_ends(bench: Bench) -> None:
    shop = Shop(bench)
    run = last(
        await bench.run("go", agent := shop.agent(calls(LOOK), calls(LOOK), says("Done."), calls(LOOK), says("Again.")))
    ).run
    span = bench.spans("generation")[1]["span_id"]
    shop.done.clear()
    again = last([e async for e in bench.runner.fork(run.trace_id, span, again=True, on_tools="tape")]).run
    assert (again.output, shop.done) == ("Again.", [])
    assert shop.heard(again) == ["Order 1: 1", "Order 1: 2"], "the second look hears what the second look heard"
    assert agent.name == "Shop"


async def test_replays_on_tape_touch_nothing_and_a_miss_is_their_error(bench: Bench) -> None:
    shop = Shop(bench)
    more = [calls(LOOK), says("Again."), calls(("look", {"order": "9"}))]
    run = last(await bench.run("go", shop.agent(calls(LOOK), says("Done."), *more))).run
    shop.done.clear()
    start = await warm_start(bench.runner, run.trace_id, on_tools="tape")
    first, second = await replay_many(start, 2, concurrency=1)
    assert (first.output, shop.done) == ("Again.", [])
    assert isinstance(second.error, TapeMissError)
    assert second.error.tool == "look"
    with pytest.raises(UsageError, match="nobody can be asked"):
        await warm_start(bench.runner, run.trace_id, on_tools="tape", on_miss="ask")


async def test_agents_are_told_apart_but_for_the_first(bench: Bench) -> None:
    shop = Shop(bench)
    desk = shop.agent(calls(LOOK), says("Done."))
    front = Agent(name="Front", model=bench.script(calls(("transfer_to_shop", {}))), handoffs=[handoff(desk)])
    run = last(await bench.run("go", front)).run
    tape = shop.tape(run)
    assert [call.path for call in tape.calls] == ["Shop"]
    desk.model = bench.script(calls(LOOK), says("Done."))
    renamed = Agent(name="Hall", model=bench.script(calls(("transfer_to_shop", {}))), handoffs=[handoff(desk)])
    assert last(await bench.run("go", renamed, tape=tape)).run.output == "Done."
    alone = await shop.run(calls(LOOK), tape=tape)
    assert alone.error_type == "TapeMissError"


async def test_an_agent_used_as_a_tool_is_answered_as_a_whole(bench: Bench) -> None:
    shop = Shop(bench)
    helper = Agent(name="Helper", model=bench.script(calls(LOOK), says("Helped.")), tools=shop.tools[:1])
    tool = helper.as_tool("ask_helper", "Helps.")
    boss = Agent(
        name="Boss", model=bench.script(*[calls(("ask_helper", {"input": "a"})), says("Done.")] * 2), tools=[tool]
    )
    run = last(await bench.run("go", boss)).run
    shop.done.clear()
    tape = shop.tape(run)
    assert [(call.path, call.tool) for call in tape.calls] == [("", "ask_helper"), ("/ask_helper/Helper", "look")]
    again = last(await bench.run("go", boss, tape=tape)).run
    assert (again.output, shop.done) == ("Done.", [])


async def test_tools_that_run_elsewhere_are_refused_by_name(bench: Bench) -> None:
    shop = Shop(bench)
    tape = shop.tape(await shop.run(calls(LOOK)))
    agent = Agent(name="Searcher", model=bench.script(says("Never.")), tools=[WebSearchTool()])
    runs = len(bench.store.runs.find(100))
    with pytest.raises(UsageError, match="'web_search' of 'Searcher'"):
        await bench.run("go", agent, tape=tape)
    assert len(bench.store.runs.find(100)) == runs


async def test_what_is_no_tape_says_so(bench: Bench) -> None:
    shop = Shop(bench)
    tape = shop.tape(await shop.run(calls(LOOK)))
    with pytest.raises(NotFoundError, match="No trace matches"):
        read_tape(bench.store, 'tape:agent == "Nobody"')
    for odd in ("tap", 5):
        with pytest.raises(UsageError, match="is not a tape"):
            read_tape(bench.store, odd)
    with pytest.raises(UsageError, match="there are none"):
        record(bench.store, ["f" * 32])
    for odd in ("perhaps", None):
        with pytest.raises(UsageError, match=f"on_miss={odd!r}"):
            await shop.run(calls(LOOK), tape=tape, on_miss=odd)


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_was_recorded_is_heard_again(seed: int) -> None:
    dice = random.Random(seed)
    async with open_bench() as bench:
        shop = Shop(bench)
        some = [LOOK, ("look", {"order": "2"}), ("fail", {"order": "3"}), *(("give", {"n": n}) for n in range(5))]
        turns = [calls(*dice.choices(some, k=dice.randint(1, 4))) for _ in range(dice.randint(1, 5))]
        run = await shop.run(*turns)
        shop.done.clear()
        again = await shop.run(*turns, tape=shop.tape(run))
        assert (again.output, shop.done) == ("Done.", [])
        assert shop.heard(again) == shop.heard(run)


async def test_a_tape_is_rows_and_its_version_follows_from_them(bench: Bench) -> None:
    shop = Shop(bench)
    run = await shop.run(calls(LOOK, ("fail", {"order": "3"})))
    tape = shop.tape(run)
    rows = tape.df()
    assert list(rows["tool"]) == ["look", "fail"]
    look = rows.iloc[0]
    assert (look["path"], look["heard"], look["approval"], look["occurrence"]) == ("", "Order 1: 1", "not_needed", 0)
    assert rows["error_type"][1] == "LookupError"
    assert read_tape(bench.store, tape.spec("fail")).version == tape.version
    assert shop.tape(run, ignore={"look": "*"}).version != tape.version


async def test_a_tool_that_needs_the_run_s_context_is_not_asked(bench: Bench) -> None:
    seen: list[Any] = []

    @function_tool
    def who(context: RunContextWrapper[Any]) -> str:
        seen.append(context.context)
        return f"You are {context.context}."

    def agent() -> Agent[Any]:
        return Agent(name="Knower", model=bench.script(calls(("who", {})), says("Done.")), tools=[who])

    run = last(await bench.run("who", agent(), context="ADA")).run
    bench.writer.flush()
    again = last(await bench.run("who", agent(), tape=record(bench.store, [run.trace_id]))).run
    heard = [i["output"] for i in bench.store.threads.session_items(again.thread_id) if "output" in i]
    assert (heard, seen) == (["You are ADA."], ["ADA"])


async def test_a_call_without_a_result_of_its_tool_is_on_no_tape(bench: Bench) -> None:
    shop = Shop(bench)
    stopped = await shop.run(calls(LOOK), limits=RunLimits(max_tool_calls=0))
    assert (stopped.status, shop.done, shop.tape(stopped).calls) == ("stopped", [], ())
    # As a program sends it that keeps the contents to itself, with a tool's definition as a text.
    now, user = utc_now(), bench.store.user_id
    sent = SpanRecord(
        trace_id="a" * 32, span_id="b" * 16, parent_id=None, user_id=user, kind="tool", name="look", status="ok", started_at=now,
        ended_at=now, input={"order": "1"},
    )  # fmt: skip
    model = replace(sent, span_id="c" * 16, kind="generation", attributes={GenAI.TOOL_DEFINITIONS: "look(order)"})
    bench.writer.trace_started(
        TraceStart(trace_id="a" * 32, user_id=user, workflow="Shop", thread_id=None, started_at=now)
    )
    for span in (model, sent):
        bench.writer.span_ended(span)
    bench.writer.flush()
    assert record(bench.store, ["a" * 32]).calls == ()


async def test_a_run_on_tape_adds_nothing_to_a_tape_but_what_was_live(bench: Bench) -> None:
    shop = Shop(bench)
    first = await shop.run(calls(LOOK))
    tape = shop.tape(first)
    actor = bench.script(says("Simulated."))
    simulated = await shop.run(calls(LOOK, ("look", {"order": "2"})), tape=tape, on_miss=f"simulate:{actor}")
    live = await shop.run(calls(LOOK, ("look", {"order": "3"})), tape=tape, on_miss="live-if-readonly")
    assert [call.arguments["order"] for call in shop.tape(simulated, live).calls] == ["3"]
    assert shop.tape(first, simulated).version == tape.version, "what was stored for this tape is found with it"
