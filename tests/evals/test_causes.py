"""Why a run went wrong, in worlds where it is known: the step is named, chance is called chance, and nothing is paid twice."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from agents import Agent, function_tool

from tests.evals.planted import World
from tests.runtime.bench import calls, last, open_bench, says
from timestep_lab.evals import cause
from timestep_lab.evals.cause import Why, WhyPlan
from timestep_lab.evals.cause.replays import Replays
from timestep_lab.evals.results import ComparisonRows
from timestep_lab.model.errors import MissingKeyError, RateLimitError, UnknownPrefixError, UsageError
from timestep_lab.model.records import RunRecord, Usage
from timestep_lab.runtime.span_records import read_only
from timestep_lab.runtime.tape import Tape, matching, record
from timestep_lab.runtime.warm_start import Replayed
from timestep_lab.store.base import Statement


async def asked(world: World, run: RunRecord, **options: Any) -> cause.Question:
    world.bench.writer.flush()
    given = {"wrong": world.is_wrong, "right": None, "tools": "live", "on_miss": "fail"} | options
    return await cause.ask(world.bench.runner, run.trace_id, **given)


async def why(world: World, run: RunRecord, *, tools: Any = "live", wrong: Any = ..., **options: Any) -> Why:
    given = {"tools": tools} | ({} if wrong is ... else {"wrong": wrong})
    found = await cause.why(world.bench.runner, await asked(world, run, **given), **options)
    assert isinstance(found, Why)
    return found


@pytest.mark.parametrize("kind", ["swap", "enum", "handoff", "made up", "history", "model"])
async def test_a_fault_that_would_happen_again_is_proven_at_its_step(kind: str) -> None:
    async with open_bench() as bench:
        world = World(bench, steps=4, seed=1, noise=0.05, fault=kind, at=1, hand_at=1)
        run = await world.faulty()
        found = await why(world, run)
        assert found.found[0].verdict == "proven", found.suspects.to_string()
        assert found.found[0].decision.step in world.true_steps
        assert f"step {found.found[0].decision.step} · " in found.verdict
        assert "PROVEN: repaired" in found.verdict
        branch = found.found[0].branch
        assert branch, "a repaired replay is kept, to be looked at"
        rows = bench.store.traces.diff(run.trace_id, branch)
        [first] = [row.left for row in rows if row.first_divergence]
        assert first is not None
        assert first.span_id == found.found[0].decision.span_id, "beside the run it differs from that step on"
        assert [row.change for row in bench.store.traces.diff(branch, run.trace_id)][:3] == ["same"] * 3


@pytest.mark.parametrize("kind", ["instruction", "result"])
async def test_with_live_tools_too_the_newest_runs_of_the_agent_tell_what_was_right(kind: str) -> None:
    async with open_bench() as bench:
        world = World(bench, steps=3, seed=2, noise=0.05, fault=kind, at=1)
        await world.healthy(4)
        found = await why(world, await world.faulty())
        assert (found.found[0].verdict, found.found[0].kind) == ("proven", kind), found.suspects.to_string()
        assert found.found[0].decision.step in world.true_steps


async def test_what_a_run_that_came_out_right_did_too_is_no_suspect() -> None:
    async with open_bench() as bench:
        world = World(bench, steps=4, seed=2, noise=0.0, fault="swap", at=2)
        run = await world.faulty()
        alone = {row["step"] for row in (await why(world, run)).rows() if row["kind"] == "argument"}
        await world.healthy(1)
        beside = {row["step"] for row in (await why(world, run)).rows() if row["kind"] == "argument"}
        assert 3 in alone
        assert beside == alone - {2, 3}


async def test_a_tool_that_says_the_same_again_is_not_replayed_and_asked_once() -> None:
    async with open_bench() as bench:
        world = World(bench, steps=3, seed=2, noise=0.0, fault="result", at=1, persistent=False)
        run = await world.faulty()
        world.live.clear()
        repairs, notes = await cause.asked_again((await asked(world, run)).base, 4)
        assert notes == []
        assert len(world.live) == 3, "one call of each, and no replay"
        (said,) = repairs.values()
        assert f"next {world.path[2]}" in str(said), "what it says now, where that is something else"


def tape_of(world: World, *runs: RunRecord) -> Tape:
    world.bench.writer.flush()
    return record(world.bench.store, [run.trace_id for run in runs])


@pytest.mark.parametrize("kind", ["instruction", "result"])
async def test_what_other_runs_of_the_pool_had_right_is_proven_on_tape(kind: str) -> None:
    async with open_bench() as bench:
        world = World(bench, steps=3, seed=2, noise=0.05, fault=kind, at=1)
        healthy = await world.healthy(6)
        run = await world.faulty()
        world.live.clear()
        found = await why(world, run, tools=tape_of(world, run, *healthy))
        assert (found.found[0].verdict, found.found[0].kind) == ("proven", kind), found.suspects.to_string()
        assert found.found[0].decision.step in world.true_steps
        assert world.live == []


@pytest.mark.parametrize("kind", ["swap", "result", "instruction", "model"])
async def test_what_went_wrong_at_a_step_and_would_not_again_is_chance_at_that_step(kind: str) -> None:
    async with open_bench() as bench:
        world = World(bench, steps=4, seed=3, noise=0.05, fault=kind, at=2, persistent=False)
        found = await why(world, await world.faulty())
        assert (found.found[0].verdict, found.found[0].decision.step) == ("chance", 4), found.suspects.to_string()
        assert "CHANCE: decided here, and resampled it goes wrong in" in found.verdict


async def test_on_tape_nothing_is_called_and_the_outlook_falls_at_the_step() -> None:
    async with open_bench() as bench:
        world = World(bench, steps=4, seed=4, noise=0.05, fault="swap", at=2, persistent=False)
        healthy = await world.healthy(8)
        run = await world.faulty()
        world.live.clear()
        tape = tape_of(world, run, *healthy)
        seen = await cause.outlook(bench.runner, await asked(world, run, tools=tape), k=6)
        frame = seen.df()
        assert frame["fall"].idxmax() == 3
        assert list(frame["what"]) == ["→ Refunds", *["look"] * 4, "answer"]
        assert world.live == []
        assert "wrong" in repr(seen)


async def test_a_continuation_counts_after_every_decision_up_to_which_it_repeats_the_recording() -> None:
    async with open_bench() as bench:
        world = World(bench, steps=8, seed=4, noise=0.0, fault="swap", at=4)
        run = await world.faulty()
        told: list[tuple[int, int]] = []
        asked_of_models, decide = 0, world._decide

        def counted(*given: Any) -> list[Any]:
            nonlocal asked_of_models
            asked_of_models += 1
            return decide(*given)

        bench.router.scripts["demo/policy-0"].inner.decide = counted  # type: ignore[attr-defined]
        question = await asked(world, run)
        seen = await cause.outlook(
            bench.runner, question, k=8, on_progress=lambda work: told.append((work.done, work.planned))
        )
        assert all(share.n >= (8 if share.passed else 4) for share in seen.shares), "what is clear after half is left"
        assert asked_of_models < 0.5 * 8 * sum(range(1, 11)), "each decision's own continuations would ask for as much"
        assert len(told) < 30
        assert max(planned for _, planned in told) == 80
        assert [share.rate for share in seen.shares[6:]] == [0.0] * 4, (
            "after the fault it repeats, nothing comes out right"
        )
        bench.router.scripts["demo/policy-0"].inner.decide = decide  # type: ignore[attr-defined]
        again = await cause.outlook(bench.runner, question, k=8)
        assert (again.shares, len(told)) == (seen.shares, len(told)), "stored continuations count in the same way"


async def test_a_continuation_that_heard_something_else_does_not_count_for_later_decisions() -> None:
    async with open_bench() as bench:
        world = World(bench, steps=3, seed=2, noise=0.0, fault="result", at=1, persistent=False)
        run = await world.faulty()
        base = (await asked(world, run)).base
        followed = [(await base.at(turn).replay(follow=True)).followed for turn in range(5)]
        assert followed == [2, 1, 0, 1, 0], (
            "the second lookup answers otherwise now: at the third step it reads something new"
        )


async def test_a_search_that_was_stopped_goes_on_and_pays_nothing_twice() -> None:
    async with open_bench() as bench:
        world = World(bench, steps=3, seed=5, noise=0.05, fault="swap", at=1)
        run = await world.faulty()
        told: list[int] = []
        whole = await why(world, run, on_progress=lambda work: told.append(work.done))
        again = await why(world, run)
        assert (again.replays, again.verdict) == (0, whole.verdict)
        assert whole.replays == len(told) - 1 > 0, "told at its beginning, and of each"
        with pytest.raises(UsageError, match="the recorded run succeeded"):
            await cause.why(bench.runner, await asked(world, run, wrong=lambda _: False))


async def test_replays_that_a_search_kept_are_on_no_tape_so_the_same_search_again_pays_nothing() -> None:
    async with open_bench() as bench:
        world = World(bench, steps=3, seed=2, noise=0.05, fault="swap", at=1)
        await world.healthy(6)
        run = await world.faulty()
        first = await why(world, run, tools="tape")
        assert first.found[0].branch, "a replay is kept, to be looked at"
        bench.writer.flush()
        again = await why(world, run, tools="tape")
        assert (first.replays > 0, again.replays, again.verdict) == (True, 0, first.verdict)
        assert first.found[0].branch not in matching(bench.store, 'workflow == "Triage"')


async def test_a_search_that_is_stopped_ends_at_once_with_what_is_known_and_goes_on_there() -> None:
    async with open_bench() as bench:
        world = World(bench, steps=3, seed=5, noise=0.05, fault="swap", at=1)
        run = await world.faulty()
        whole = await why(world, run)
        bench.store.db.write(bench.store.user_id, [Statement("delete from answer_cache", [])])
        world.switch.takes_s = 0.01

        def stop(work: Any) -> None:
            if work.done == whole.replays - 10:
                world.switch.takes_s = 60.0  # What is running would take for ever.
                work.stop()

        async with asyncio.timeout(30):
            part = await why(world, run, on_progress=stop)
        assert "Stopped early. Finished replays are kept; run it again to continue." in part.verdict
        assert part.made >= whole.replays - 10
        assert any(share.n for share in part.outlook.shares), "what is known is told"
        world.switch.takes_s = 0.0
        rest = await why(world, run)
        assert (rest.found[0].verdict, rest.stopped) == ("proven", "")
        assert rest.replays < 40


async def test_an_outlook_runs_the_second_half_only_where_the_first_is_not_clear() -> None:
    async with open_bench() as bench:
        world = World(bench, steps=6, seed=3, noise=0.0, fault="swap", at=3, persistent=False)
        run = await world.faulty()
        number = 0

        def another(*given: Any) -> list[Any]:
            nonlocal number
            number += 1
            return [*says(f"Thought {number}."), *world._decide(*given)]

        bench.router.scripts["demo/policy-0"].inner.decide = another  # type: ignore[attr-defined]
        seen = await cause.outlook(bench.runner, await asked(world, run), k=8)
        assert [share.rate for share in seen.shares] == [1.0] * 5 + [0.0] * 3
        assert [share.n for share in seen.shares] == [8, 4, 4, 4, 8, 8, 4, 4], "at the start, and where it changes"


async def test_a_plan_says_what_it_would_take_and_runs_nothing() -> None:
    async with open_bench() as bench:
        world = World(bench, steps=3, seed=6, fault="swap", at=1)
        run = await world.faulty()
        world.live.clear()
        plan = await cause.why(bench.runner, await asked(world, run), plan=True)
        assert isinstance(plan, WhyPlan)
        assert (plan.decisions, world.live) == (5, [])
        assert "at most" in repr(plan)


async def test_what_is_wrong_must_be_said_of_a_run_that_did_not_fail() -> None:
    async with open_bench() as bench:
        world = World(bench, steps=2, seed=7, fault="swap", at=1)
        run = await world.faulty()
        with pytest.raises(UsageError, match="criterion for wrong answers"):
            await asked(world, run, wrong=None)
        with pytest.raises(UsageError, match="both given"):
            await asked(world, run, right="x")
        assert not (await asked(world, run, wrong=None, right=world.answer)).right
        assert not (await asked(world, run, wrong=f"contains:{run.output}")).right


async def test_what_cannot_be_searched_for_says_so_before_anything_is_replayed() -> None:
    async with open_bench() as bench:
        world = World(bench, steps=2, seed=7, fault="swap", at=1)
        run = await world.faulty()
        for odd, words in (
            ({"replays": 1}, "replays=1 is too little"), ({"k": 0}, "k=0"), ({"concurrency": 0}, "concurrency=0"),
            ({"budget_usd": 0.0}, "budget_usd=0.0"), ({"corrections": {"nope": "x"}}, "no call 'nope'"),
            ({"models": {"Refund": ["demo/echo"]}}, "Did you mean 'Refunds'"), ({"instructions": {"Refunds": "Be kind."}}, "a list of texts"),
            ({"instructions": "Be kind."}, "does not say of which agent"),
        ):  # fmt: skip
            with pytest.raises(UsageError, match=words):
                await cause.why(bench.runner, await asked(world, run), **odd)
        with pytest.raises(UsageError, match="wrong= raised ZeroDivisionError of the answer"):
            await asked(world, run, wrong=lambda output: 1 / 0)
        picky = await asked(world, run, wrong=lambda output: output == run.output or int(output))
        with pytest.raises(UsageError, match="wrong= raised ValueError of the answer"):
            await cause.why(bench.runner, picky)
        for empty in ({"wrong": " "}, {"wrong": None, "right": ""}):
            with pytest.raises(UsageError, match="is empty"):
                await asked(world, run, **empty)
        with pytest.raises(UsageError, match="'Elsewhere' does not lead to 'Refunds', 'Triage', which answered"):
            await asked(world, run, agent=Agent(name="Elsewhere", model="demo/echo"))
        desks = [Agent(name=name, model="demo/echo", tools=[]) for name in ("Refunds", "Shipping")]
        with pytest.raises(UsageError, match="'Refunds' does not have the tool 'look', which it called"):
            await asked(world, run, agent=Agent(name="Triage", model="demo/echo", handoffs=[*desks]))
        for tools in (None, "ask", "cassette"):
            with pytest.raises(UsageError, match="tools="):
                await asked(world, run, tools=tools)


async def test_a_budget_that_cannot_be_kept_is_refused_and_one_that_is_used_up_ends_the_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_bench() as bench:
        for model in ("openai/nobody-knows-its-price", "openai/gpt-4.1"):
            bench.router.scripts[model] = bench.router.scripts[bench.policy(lambda *_: says("68 °F"))]
        unknown, known = [
            last(await bench.run("Weather?", Agent(name="Desk", model=model))).run.trace_id
            for model in ("openai/nobody-knows-its-price", "openai/gpt-4.1")
        ]
        bench.writer.flush()
        given: Any = {"wrong": "contains:°F", "right": None, "tools": "live", "on_miss": "fail"}
        question = await cause.ask(bench.runner, unknown, **given)
        for search in (cause.why, cause.outlook):
            with pytest.raises(UsageError, match="The price of openai/nobody-knows-its-price is not known"):
                await search(bench.runner, question, budget_usd=1.0)  # type: ignore[operator]
        question = await cause.ask(bench.runner, known, **given)
        monkeypatch.setattr("timestep_lab.runtime.replay.price", lambda *_: 0.4)
        seen = await cause.outlook(bench.runner, question, budget_usd=1.0, concurrency=1)
        assert (seen.stopped, seen.shares[0].n) == ("Stopped at its budget of $1.", 3)
        assert seen.stopped in repr(seen)


async def test_where_the_tape_knows_nothing_it_is_not_judged() -> None:
    async with open_bench() as bench:
        world = World(bench, steps=3, seed=8, noise=0.0, fault="swap", at=0, persistent=False)
        run = await world.faulty()
        found = await why(world, run, tools="tape")
        assert "left the tape, most often at look. Use a tape with more traces" in found.verdict
        stored = await why(world, run, tools="tape")
        assert (stored.replays, stored.verdict) == (0, found.verdict)


async def test_with_live_tools_what_may_change_something_is_not_called_and_named() -> None:
    async with open_bench() as bench:

        @function_tool
        def book(id: str) -> str:
            return f"Booked {id}"

        model = bench.policy(
            lambda _, items, __: says("A-1.") if items[-1].get("output") else calls(("book", {"id": "A-1"}))
        )
        agent = Agent(name="Desk", model=model, tools=[book])
        run = last(await bench.run("Book.", agent)).run
        bench.writer.flush()
        given: Any = {"wrong": "contains:A-1", "right": None, "tools": "live", "on_miss": "fail"}
        found = await cause.why(bench.runner, await cause.ask(bench.runner, run.trace_id, **given))
        assert isinstance(found, Why)
        assert "most often at book. Only read-only tools are called: mark it" in found.verdict


async def test_a_run_that_has_not_ended_and_a_model_that_cannot_simulate_are_refused() -> None:
    async with open_bench() as bench:

        @function_tool(needs_approval=True)
        def book(id: str) -> str:
            return f"Booked {id}"

        agent = Agent(name="Desk", model=bench.policy(lambda *_: calls(("book", {"id": "A-1"}))), tools=[book])
        waiting = last(await bench.run("Book.", agent)).run
        bench.writer.flush()
        with pytest.raises(UsageError, match="has not ended: its status is needs_approval"):
            await cause.ask(bench.runner, waiting.trace_id, wrong=None, right=None, tools="tape", on_miss="fail")
        world = World(bench, steps=2, seed=7, fault="swap", at=1)
        run = await world.faulty()
        with pytest.raises(UnknownPrefixError, match="nowhere"):
            await asked(world, run, tools="tape", on_miss="simulate:nowhere/model")


def stuck(bench: Any, rate: float) -> Agent[Any]:
    """It asks the same again until it is told so."""
    dice = random.Random(5)

    @read_only
    @function_tool
    def look(id: str) -> str:
        return "next B-2"

    def decide(_: str, items: list[Any], __: list[Any]) -> list[Any]:
        heard = [item["output"] for item in items if item.get("type") == "function_call_output"]
        if heard and ("Do not make it again" in heard[-1] or (len(heard) < 3 and dice.random() > rate)):
            return says("Value B-2.")
        return calls(("look", {"id": "A-1"}))

    return Agent(name="Desk", model=bench.policy(decide), instructions="Look.", tools=[look])


async def test_an_agent_that_makes_the_same_call_again_and_again_is_told_where_it_began() -> None:
    async with open_bench() as bench:
        run = last(await bench.run("Find A-1.", stuck(bench, 1.0), max_turns=6)).run
        assert run.status == "failed"
        bench.writer.flush()
        question = await cause.ask(bench.runner, run.trace_id, wrong=None, right=None, tools="live", on_miss="fail")
        found = await cause.why(bench.runner, question)
        assert isinstance(found, Why)
        first = found.found[0]
        assert (first.verdict, first.kind, first.decision.step) == ("proven", "loop", 2), found.suspects.to_string()
        assert first.repair == "look, made again 5 times: told so"


async def test_a_model_that_cannot_do_it_is_told_by_the_one_that_other_runs_had() -> None:
    async with open_bench() as bench:
        good, bad = bench.policy(lambda *_: says("20 °C")), bench.policy(lambda *_: says("68 °F"))
        healthy = [last(await bench.run("Weather?", Agent(name="Desk", model=good))).run for _ in range(2)]
        run = last(await bench.run("Weather?", Agent(name="Desk", model=bad))).run
        bench.writer.flush()
        tape = record(bench.store, [run.trace_id, *(one.trace_id for one in healthy)])
        question = await cause.ask(
            bench.runner, run.trace_id, wrong="contains:°F", right=None, tools=tape, on_miss="fail"
        )
        found = await cause.why(bench.runner, question)
        assert isinstance(found, Why)
        assert (found.found[0].verdict, found.found[0].kind) == ("proven", "model"), found.suspects.to_string()
        assert found.found[0].repair == f"Desk: {good}"
        html = found._repr_html_()
        assert html.count("<circle") == 2
        assert "PROVEN" in html


def limited(world: World, fails: Callable[[int], bool]) -> list[int]:
    """From now on the provider answers 429 where `fails` says so of the number of the call. Returns the failed calls."""
    policy, n, failed = world.bench.router.scripts["demo/policy-0"].inner, 0, list[int]()

    def decide(*given: Any) -> list[Any]:
        nonlocal n
        n += 1
        if fails(n):
            failed.append(n)
            raise RateLimitError("The provider's limit is used up.", provider="demo")
        return world._decide(*given)

    policy.decide = decide  # type: ignore[attr-defined]
    return failed


async def test_a_provider_that_fails_now_and_then_is_no_failure_of_the_agent() -> None:
    async with open_bench() as bench:
        world = World(bench, steps=3, seed=5, noise=0.0, fault="swap", at=1)
        run = await world.faulty()
        failed = limited(world, lambda n: n % 40 == 0)
        found = await why(world, run)
        assert failed
        assert (found.found[0].verdict, found.stopped, found.lost) == ("proven", "", 0)
        assert found.found[0].repaired.passed == found.found[0].repaired.n


async def test_a_provider_that_goes_on_failing_stops_the_search_which_then_goes_on_where_it_was() -> None:
    async with open_bench() as bench:
        world = World(bench, steps=3, seed=5, noise=0.0, fault="swap", at=1)
        run = await world.faulty()
        limited(world, lambda n: n > 60)
        found = await why(world, run)
        assert "Stopped, because a provider failed: The provider's limit is used up." in found.verdict
        assert found.found[0].verdict != "proven"
        limited(world, lambda n: False)
        again = await why(world, run)
        assert (again.found[0].verdict, again.stopped) == ("proven", "")
        assert found.replays > 0
        assert again.replays < (await why_anew(world, run)).replays


async def why_anew(world: World, run: RunRecord) -> Why:
    """Without what is stored."""
    world.bench.store.db.write(world.bench.store.user_id, [Statement("delete from answer_cache", [])])
    return await why(world, run)


async def test_a_key_that_is_missing_is_said_at_once() -> None:
    async with open_bench() as bench:
        world = World(bench, steps=2, seed=5, noise=0.0, fault="swap", at=1)
        run = await world.faulty()

        def no_key(*_: Any) -> list[Any]:
            raise MissingKeyError("The key is not set.", "Set it.", provider="demo")

        bench.router.scripts["demo/policy-0"].inner.decide = no_key  # type: ignore[attr-defined]
        with pytest.raises(MissingKeyError):
            await why(world, run)


async def test_a_tool_that_raises_or_hangs_when_it_is_called_again_is_told_in_the_notes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("timestep_lab.evals.cause.repairs.LONGEST_CALL_S", 0.05)
    monkeypatch.setattr("timestep_lab.evals.cause.search.LEAST_LIMIT_S", 1.0)
    async with open_bench() as bench:
        calls_made = 0

        @read_only
        @function_tool(failure_error_function=None)
        async def look(id: str) -> str:
            nonlocal calls_made
            calls_made += 1
            if calls_made > 2:
                await (asyncio.sleep(30) if id == "A-1" else asyncio.sleep(0))
                raise OSError("The network is away.")
            return "next B-2"

        def decide(_: str, items: list[Any], __: list[Any]) -> list[Any]:
            heard = [item for item in items if item.get("type") == "function_call_output"]
            return says("Value A-1.") if len(heard) == 2 else calls(("look", {"id": ["A-1", "B-2"][len(heard)]}))

        run = last(await bench.run("Find A-1.", Agent(name="Desk", model=bench.policy(decide), tools=[look]))).run
        bench.writer.flush()
        question = await cause.ask(
            bench.runner, run.trace_id, wrong="contains:A-1", right=None, tools="live", on_miss="fail"
        )
        found = await cause.why(bench.runner, question)
        assert isinstance(found, Why)
        assert found.notes[:2] == (
            'Step 1: look, called again with {"id":"A-1"}, did not answer within 0 s.',
            'Step 2: look, called again with {"id":"B-2"}, raised OSError: The network is away.',
        )
        assert "replays did not end within" in found.verdict, "a tool that hangs does not hold up the search for ever"
        assert "The network is away" in found._repr_html_()


async def test_a_process_that_stood_still_is_no_replay_that_hangs() -> None:
    class Start:
        turn, recorded, times = 0, SimpleNamespace(answers=[]), 0

        async def replay(self, **_: Any) -> Replayed:
            self.times += 1
            if self.times == 1:
                time.sleep(1.5)  # As when a laptop sleeps: the time limit is noticed long after it was over.
                await asyncio.sleep(1.0)
            return Replayed(
                output="Done.", error=None, items=(), agent="Desk", usage=Usage(), cost_usd=0.0, trace_id=None
            )

    async def is_done(replayed: Replayed) -> bool:
        return replayed.output == "Done."

    async with open_bench() as bench:
        rows, start = ComparisonRows(bench.store.db, bench.store.user_id), Start()
        work = Replays(
            rows, is_done, ["k"], None, concurrency=1, budget_usd=None, approve_all=False, most_s=0.2, planned=1, on_progress=None
        )  # fmt: skip
        outcomes = await work.outcomes("screen", {"arm": (start, range(1))})  # type: ignore[dict-item]
        assert [outcome.passed for outcome in outcomes["arm"]] == [True]
        assert (start.times, work.stopped, work.notes) == (2, "", {})


async def test_an_error_that_replays_end_with_is_told() -> None:
    async with open_bench() as bench:
        outages = iter([False])

        @read_only
        @function_tool(failure_error_function=None)
        def look(id: str) -> str:
            if next(outages, True):
                raise OSError("The network is away.")
            return "next B-2"

        model = bench.policy(
            lambda _, items, __: says("A-1.") if items[-1].get("output") else calls(("look", {"id": "A-1"}))
        )
        run = last(await bench.run("Find A-1.", Agent(name="Desk", model=model, tools=[look]))).run
        bench.writer.flush()
        question = await cause.ask(
            bench.runner, run.trace_id, wrong="contains:A-1", right=None, tools="live", on_miss="fail"
        )
        found = await cause.why(bench.runner, question)
        assert isinstance(found, Why)
        assert "ended with an error, which counts as wrong" in found.notes[-1]
        assert "The network is away." in found.notes[-1]


async def test_a_persons_correction_says_what_is_right_and_scorers_see_the_whole_run() -> None:
    async with open_bench() as bench:
        world = World(bench, steps=3, seed=7, noise=0.0, fault="swap", at=1)
        run = await world.faulty()
        bench.writer.flush()
        bench.store.traces.score("trace", run.trace_id, "correction", note=world.answer)
        found = await why(world, run, wrong=None)
        assert (found.found[0].verdict, found.found[0].decision.step) == ("proven", 3)
        enough = {"type": "tool_order", "tools": ["look", "look", "look"], "strict": False}
        seen = await cause.outlook(bench.runner, await asked(world, run, wrong=None, right=enough), k=2)
        assert all(share.passed == share.n for share in seen.shares)


async def test_a_search_over_a_changed_agent_or_with_another_correction_is_a_new_one() -> None:
    async with open_bench() as bench:

        @read_only
        @function_tool
        def measure(city: str) -> str:
            return "14"

        def decide(instructions: str, items: list[Any], _: list[Any]) -> list[Any]:
            if heard := items[-1].get("output"):
                return says(f"{heard} {instructions}")
            return calls(("measure", {"city": "Oslo"}))

        agent = Agent(name="Desk", instructions="°F", model=bench.policy(decide), tools=[measure])
        run = last(await bench.run("How warm is it?", agent)).run
        bench.writer.flush()
        given: dict[str, Any] = {"right": None, "tools": "tape", "on_miss": "fail"}

        async def rate(agent: Agent[Any]) -> tuple[float | None, bool]:
            told: list[int] = []
            question = await cause.ask(bench.runner, run.trace_id, wrong="contains:°F", agent=agent, **given)
            seen = await cause.outlook(bench.runner, question, k=2, on_progress=lambda work: told.append(work.run))
            return seen.shares[0].rate, told[-1] > 0

        assert (await rate(agent)) == (0.0, True)
        assert (await rate(agent.clone())) == (0.0, False), "an agent that is built again is the same agent"
        assert (await rate(agent.clone(instructions="°C"))) == (1.0, True)
        assert (await rate(agent.clone(instructions=lambda context, agent: "°C"))) == (1.0, True)

        [call_id] = (await cause.ask(bench.runner, run.trace_id, wrong="contains:14", **given)).base.recorded.calls
        for said, verdict in (("14 or so", ""), ("20", "proven")):
            question = await cause.ask(bench.runner, run.trace_id, wrong="contains:14", **given)
            found = await cause.why(bench.runner, question, corrections={call_id: said})
            assert isinstance(found, Why)
            assert found.found[0].verdict == verdict


async def test_of_parallel_calls_of_one_tool_the_one_that_was_wrong_is_named() -> None:
    async with open_bench() as bench:
        said = {"Oslo": "3", "Lima": "400", "Rome": "21"}

        @read_only
        @function_tool
        def measure(city: str) -> str:
            return said[city]

        def decide(_: str, items: list[Any], __: list[Any]) -> list[Any]:
            heard = [item["output"] for item in items if item.get("type") == "function_call_output"]
            return says(f"Up to {max(map(int, heard))}.") if heard else calls(*(("measure", {"city": c}) for c in said))

        agent = Agent(name="Desk", model=bench.policy(decide), tools=[measure])
        run = last(await bench.run("How warm is it?", agent)).run
        bench.writer.flush()
        question = await cause.ask(
            bench.runner, run.trace_id, wrong="contains:400", right=None, tools="tape", on_miss="fail"
        )
        found = await cause.why(bench.runner, question, corrections=dict.fromkeys(question.base.recorded.calls, "25"))
        assert isinstance(found, Why)
        results = {row["repair"]: row["verdict"] for row in found.rows() if row["kind"] == "result"}
        assert results == {f'measure {{"city":"{city}"}}: as corrected': "proven" * (city == "Lima") for city in said}
