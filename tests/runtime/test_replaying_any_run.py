"""Whatever a run did, an unchanged fork of it is the same run and calls nothing; one changed result changes that item alone.

More of them: `SEED=1000 SEEDS=2000 pytest tests/runtime/test_replaying_any_run.py -n 2`.
"""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from agents import Agent, GuardrailFunctionOutput, InputGuardrail, OutputGuardrail, RunContextWrapper, function_tool
from pydantic import BaseModel

from tests.runtime.bench import Bench, calls, last, says
from timestep_lab.model.events import RunEnded, RunPaused
from timestep_lab.model.records import RunRecord

SEED = int(os.environ.get("SEED", "0"))
SEEDS = range(SEED, SEED + int(os.environ.get("SEEDS", "12")))
TOOLS = "give", "burst", "ask_first", "who", "ask_helper"


class Price(BaseModel):
    amount: int = 1


class World:
    """Agents with a random script; everything that is called for real is noted in `live`."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench, self.dice = bench, random.Random(seed)
        self.live: list[str] = []
        self.models: list[str] = []
        results = [Price(), {1: "a"}, (1, 2), None, float("nan"), [True], "text"]

        @function_tool
        def give(n: int) -> Any:
            self.live.append("give")
            return results[n % len(results)]

        @function_tool
        def burst(n: int) -> str:
            self.live.append("burst")
            raise ValueError(f"Too hot: {n}.")

        @function_tool(failure_error_function=None)
        def end(n: int) -> str:
            self.live.append("end")
            raise ValueError(f"Broken: {n}.")

        @function_tool(needs_approval=True)
        def ask_first(n: int) -> str:
            self.live.append("ask_first")
            return f"Done: {n}."

        @function_tool
        def who(context: RunContextWrapper[Any], n: int) -> str:
            self.live.append("who")
            return f"{context.context} {n}"

        def passes(*_: Any) -> GuardrailFunctionOutput:
            self.live.append("guardrail")
            return GuardrailFunctionOutput(output_info=None, tripwire_triggered=False)

        def model(*steps: Any) -> str:
            self.models.append(bench.script(*steps))
            return self.models[-1]

        asked: list[None] = []
        front_turns = [self.turn(asked) for _ in range(self.dice.randint(1, 3))]
        handed_over = self.dice.random() < 0.5
        desk_turns = [self.turn(asked) for _ in range(self.dice.randint(0, 2))] if handed_over else []
        last_turn = [calls(("end", {"n": 0}))] if self.dice.random() < 0.2 else [says("Goodbye.")]
        helper_steps = [step for _ in asked for step in (calls(("give", {"n": 4})), says("Helped."))]
        helper = Agent(name="Helper", model=model(*helper_steps), tools=[give])
        tools = [give, burst, end, ask_first, who, helper.as_tool("ask_helper", "Asks the helper.")]
        out = [OutputGuardrail(guardrail_function=passes, name="out")]
        desk = Agent(name="Desk", model=model(*desk_turns, *last_turn), tools=tools, output_guardrails=out)
        to_desk = [calls(("transfer_to_desk", {}))] if handed_over else last_turn
        self.agent = Agent(
            name="Front", model=model(*front_turns, *to_desk), tools=tools, handoffs=[desk], output_guardrails=out,
            input_guardrails=[InputGuardrail(guardrail_function=passes, name="in")],
        )  # fmt: skip

    def turn(self, asked: list[None]) -> Any:
        names = [self.dice.choice(TOOLS) for _ in range(self.dice.randint(1, 4))]
        if "ask_helper" in names:  # One model answers all of the helper's runs, so they do not overlap.
            names = [name for name in names if name != "ask_helper"] + ["ask_helper"]
            asked.append(None)
        return calls(*((n, {"input": "help"} if n == "ask_helper" else {"n": self.dice.randint(0, 9)}) for n in names))

    async def run(self) -> RunRecord:
        end: RunEnded = last(await self.bench.run("go", self.agent, context="ADA"))
        while isinstance(end, RunPaused):
            said = {call.call_id: self.dice.choice(["approved", "rejected"]) for call in end.interruptions}
            end = last(await self.bench.resume(end.run.id, said))
        return end.run

    def calls_made(self) -> tuple[int, int]:
        scripts = self.bench.router.scripts
        return len(self.live), sum(len(scripts[name].inner.calls) for name in self.models)  # type: ignore[attr-defined]

    def heard(self, run: RunRecord) -> dict[str, Any]:
        log = self.bench.store.threads.session_items(run.thread_id, run_id=run.id)
        return {item["call_id"]: item["output"] for item in log if item.get("type") == "function_call_output"}

    def shown(self, run: RunRecord) -> list[str]:
        """The items of the run, those of parallel calls in any order."""
        keys = "call_id", "text", "name", "arguments", "output", "status", "decision"
        items = self.bench.items(run.thread_id)
        return sorted(repr((i.type, i.agent, *(i.data.get(key) for key in keys))) for i in items)


@pytest.mark.parametrize("seed", SEEDS)
async def test_an_unchanged_fork_of_any_run_is_the_same_run_and_calls_nothing(bench: Bench, seed: int) -> None:
    world = World(bench, seed)
    run = await world.run()
    before = world.calls_made()
    again = last([event async for event in bench.runner.fork(run.trace_id)]).run
    assert world.calls_made() == before
    assert (again.status, again.output, again.error_type, again.error) == (
        run.status, run.output, run.error_type, run.error,
    )  # fmt: skip
    assert world.heard(again) == world.heard(run)
    assert world.shown(again) == world.shown(run)


@pytest.mark.parametrize("seed", SEEDS)
async def test_one_changed_result_of_any_run_changes_that_item_alone(bench: Bench, seed: int) -> None:
    called: list[str] = []
    for further in range(20):  # Not every run calls a tool: the next one of this seed that does.
        world = World(bench, seed + 1_000 * further)
        run = await world.run()
        heard = world.heard(run)
        called = [i.data["call_id"] for i in bench.items(run.thread_id, "tool_call") if i.data["call_id"] in heard]
        if called:
            break
    assert called
    changed = world.dice.choice(called)
    before = len(world.live)
    # The scripts are over, so what comes after the changed call ends the fork.
    again = last([event async for event in bench.runner.fork(run.trace_id, results={changed: "CHANGED"})]).run
    after = world.heard(again)
    assert after[changed] == "CHANGED"
    assert set(list(heard)[: list(heard).index(changed) + 1]) <= set(after), "nothing before it is lost"
    assert {i: v for i, v in after.items() if i != changed} == {i: heard[i] for i in after if i != changed}
    assert [what for what in world.live[before:] if what != "guardrail"] == []
