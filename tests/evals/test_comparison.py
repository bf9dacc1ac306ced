"""A comparison from its first question to its verdict, against a model server on loopback."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import agents as sdk
import pytest
from pydantic import Field, create_model

from tests.evals.benches import MODEL, opened
from tests.evals.loopback import Trouble, model_server
from timestep_lab import Lab
from timestep_lab.evals.compare import load_grid, new_comparison, resume_comparison
from timestep_lab.evals.engine import Comparison
from timestep_lab.evals.grid import Grid
from timestep_lab.evals.results import EvalContext
from timestep_lab.model.comparison import CellDelta, CellDone, ComparisonEnded, ComparisonStarted
from timestep_lab.model.errors import ConflictError, DataError, NotFoundError, UsageError
from timestep_lab.model.events import Event
from timestep_lab.store.base import in_thread

OTHER = "openai_compatible/loop/other"
CAPITALS = [
    {"input": "France", "expected": "Paris"},
    {"input": "Italy", "expected": "Rome"},
    {"input": "Spain", "expected": "Madrid"},
]
KNOWN = {case["input"]: case["expected"] for case in CAPITALS}


def knows(said: str, _: int) -> str:
    return KNOWN.get(said, said)


async def test_every_candidate_answers_every_case_and_every_answer_is_scored_traced_and_stored(tmp_path: Path) -> None:
    with model_server(lambda said, before: KNOWN[said] if said != "Spain" else "Lisbon") as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            comparison = await new_comparison(
                bench, CAPITALS, models=[MODEL, OTHER], scorers=["exact", "contains"], epochs=2
            )
            grid = await comparison.run()
            bench.writer.flush()
            assert len(server.asked) == 12
            assert grid.status == "completed"
            summary = grid.summary().set_index("name")
            assert list(summary["n"]) == [6, 6]
            assert list(summary["exact"]) == pytest.approx([2 / 3, 2 / 3])
            rows = bench.store.sql("select * from comparisons where comparison_id = $1", [grid.id])
            assert rows.columns == (
                "comparison_id", "case_id", "candidate", "epoch", "output", "scorer", "value", "latency_ms", "ttft_ms", "input_tokens",
                "output_tokens", "cost_usd", "trace_id", "error",
            )  # fmt: skip
            assert len(rows.rows) == 24
            traces = bench.store.sql(
                "select t.status, t.output from comparisons c join traces t using (trace_id) where c.scorer = 'exact'"
            )
            assert Counter(traces.rows) == {
                ("completed", "Paris"): 4,
                ("completed", "Rome"): 4,
                ("completed", "Lisbon"): 4,
            }
            again = await in_thread(load_grid, bench, grid.id)
            assert again.to_json() == grid.to_json()
            assert again.record.conclusion == f"No winner: {MODEL} and {OTHER} tie."
            assert again.df().equals(grid.df())


async def test_events_tell_of_a_cell_only_when_it_is_stored(tmp_path: Path) -> None:
    with model_server(knows) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            comparison = await new_comparison(bench, CAPITALS, models=[MODEL], scorers=["exact"])
            seen: list[Event] = []
            async for event in comparison.events(deltas=True):
                seen.append(event)
                if isinstance(event, CellDone):
                    stored = bench.store.sql(
                        "select count(*) from comparisons where case_id = $1", [event.cell.case_id]
                    ).one()
                    assert stored == (1,)
            assert isinstance(seen[0], ComparisonStarted)
            assert isinstance(seen[-1], ComparisonEnded)
            texts: dict[str, str] = {}
            for event in seen:
                if isinstance(event, CellDelta):
                    texts[event.case_id] = texts.get(event.case_id, "") + event.delta
            assert texts == {event.cell.case_id: event.cell.output for event in seen if isinstance(event, CellDone)}


async def test_candidates_are_models_times_settings_times_prompts(tmp_path: Path) -> None:
    with model_server(lambda said, _: said) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            comparison = await new_comparison(
                bench, [{"word": "red"}], models=[MODEL], settings=[{"temperature": 0}, {"temperature": 1}],
                prompts=["Say {{word}}", "Shout {{word}}"],
            )  # fmt: skip
            grid = await comparison.run()
            assert grid.candidates == [
                "temperature=0 · prompt 1", "temperature=0 · prompt 2", "temperature=1 · prompt 1", "temperature=1 · prompt 2",
            ]  # fmt: skip
            assert [cell.output for cell in grid.cells] == ["Say red", "Shout red", "Say red", "Shout red"]


async def test_a_whole_agent_with_tools_is_a_candidate_and_its_steps_are_scored(tmp_path: Path) -> None:
    @sdk.function_tool
    def lookup(country: str) -> str:
        return KNOWN[country]

    def asks_the_tool(said: str, before: int) -> Any:
        if before:
            return f"It is {KNOWN[said]}."
        call = {
            "index": 0,
            "id": f"call_{said}",
            "type": "function",
            "function": {"name": "lookup", "arguments": f'{{"country": "{said}"}}'},
        }
        return {"role": "assistant", "content": None, "tool_calls": [call]}

    agent = sdk.Agent(name="Geographer", instructions="Look it up.", tools=[lookup], model=MODEL)
    with model_server(asks_the_tool) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            scorers = [
                "contains",
                {"type": "tool_used", "tool": "lookup", "arguments": {"country": "France"}},
                "steps:1",
            ]
            grid = await (await new_comparison(bench, CAPITALS[:1], agents=[agent], scorers=scorers)).run()
            [cell] = grid.cells
            assert {score.scorer: score.value for score in cell.scores} == {"contains": 1, "tool_used": 1, "steps:1": 1}
            assert cell.steps[0]["arguments"] == {"country": "France"}
            assert grid.candidates == ["Geographer"]


@pytest.mark.parametrize(("approve", "ran", "approval"), [("none", [], "rejected"), ("all", ["France"], "approved")])
async def test_a_call_that_needs_approval_is_refused_unless_all_are_approved(
    tmp_path: Path, approve: str, ran: list[str], approval: str
) -> None:
    called = []

    @sdk.function_tool(needs_approval=True)
    def book(country: str) -> str:
        called.append(country)
        return "booked"

    def books(said: str, before: int) -> Any:
        call = {
            "index": 0,
            "id": "call_1",
            "type": "function",
            "function": {"name": "book", "arguments": '{"country": "France"}'},
        }
        return "Done." if before else {"role": "assistant", "content": None, "tool_calls": [call]}

    agent = sdk.Agent(name="Agent", tools=[book], model=MODEL)
    with model_server(books) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            rule = "no_tool_before_approval:book"
            grid = await (
                await new_comparison(bench, ["Book France"], agents=[agent], approve=approve, scorers=[rule])
            ).run()
            bench.writer.flush()
            assert called == ran
            assert [(step["name"], step["approval"]) for step in grid.cells[0].steps] == [("book", approval)]
            assert grid.cells[0].scores[0].value == 1.0
            stored = bench.store.sql(
                "select tool, approval, status from tool_calls where trace_id = $1", [grid.cells[0].trace_id]
            )
            assert stored.rows == [("book", approval, "rejected" if approval == "rejected" else "ok")]


async def test_a_case_that_fails_is_a_cell_with_an_error_and_harms_no_other(tmp_path: Path) -> None:
    with model_server(lambda said, _: Trouble(400) if said == "Italy" else KNOWN[said]) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            grid = await (await new_comparison(bench, CAPITALS, models=[MODEL], scorers=["exact"])).run()
            by_input = {case.input: grid.cell(case.case_id, MODEL) for case in grid.cases}
            assert by_input["Italy"].status == "error"
            assert by_input["Italy"].error_type == "ProviderRequestError"
            assert by_input["Italy"].scores == ()
            assert by_input["Spain"].output == "Madrid"
            assert grid.summary()["errors"][0] == 1


async def test_repeats_are_asked_again_and_a_second_comparison_asks_nothing(tmp_path: Path) -> None:
    with model_server(knows) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:

            async def calls(**options: Any) -> int:
                before = len(server.asked)
                await (await new_comparison(bench, CAPITALS, models=[MODEL], scorers=["exact"], **options)).run()
                return len(server.asked) - before

            assert await calls(epochs=3) == 9
            assert await calls(epochs=3) == 0
            assert await calls(epochs=4) == 3
            assert await calls(epochs=3, cache="off") == 9
            assert await calls(settings={"temperature": 0.5}) == 3
            assert await calls(prompts=["{{input}}?"]) == 3


async def test_a_cached_answer_counts_for_the_score_and_costs_no_call(tmp_path: Path) -> None:
    with model_server(knows) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            first = await (await new_comparison(bench, CAPITALS, models=[MODEL], scorers=["exact"])).run()
            again = await new_comparison(bench, CAPITALS, models=[MODEL], scorers=["exact", "contains"])
            plan = await again.plan()
            assert (plan.calls, plan.cache_hits) == (0, 3)
            second = await again.run()
            assert all(cell.cached for cell in second.cells)
            assert [cell.trace_id for cell in second.cells] == [cell.trace_id for cell in first.cells]
            assert second.summary()["contains"][0] == 1.0


async def test_a_token_budget_stops_it_and_a_larger_one_lets_it_go_on(tmp_path: Path) -> None:
    cases = [f"question {n}" for n in range(40)]
    with model_server(lambda said, _: "ok") as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            comparison = await new_comparison(bench, cases, models=[MODEL], budget_tokens=150, concurrency=4)
            grid = await comparison.run()
            spent = sum((cell.input_tokens or 0) + (cell.output_tokens or 0) for cell in grid.cells)
            assert grid.status == "over_budget"
            assert 100 < spent <= 150
            more = await resume_comparison(bench, grid.id, budget_tokens=100_000)
            assert (await more.run()).status == "completed"
            assert len(server.asked) == 40


async def test_a_budget_in_money_is_refused_where_prices_are_unknown(tmp_path: Path) -> None:
    async with opened(tmp_path / "lab.duckdb") as bench:
        with pytest.raises(UsageError, match=r"price of .* is not known"):
            await new_comparison(bench, CAPITALS, models=[MODEL], budget_usd=1.0)
        await new_comparison(bench, CAPITALS, models=["demo/echo"], budget_usd=1.0)


async def test_a_plan_tells_calls_and_time_from_what_the_model_took_before(tmp_path: Path) -> None:
    with model_server(knows, delay_s=0.05) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            cases = [f"question {n}" for n in range(20)]
            unknown = await (await new_comparison(bench, cases, models=[MODEL])).plan()
            assert (unknown.calls, unknown.time_s, unknown.cost_usd) == (20, None, None)
            await (await new_comparison(bench, cases, models=[MODEL], concurrency=5)).run()
            asked = len(server.asked)
            plan = await (
                await new_comparison(bench, [f"other {n}" for n in range(50)], models=[MODEL], concurrency=5)
            ).plan()
            assert plan.calls == 50
            assert plan.time_s is not None
            assert 0.45 <= plan.time_s[0] <= plan.time_s[1] < 60  # The server may end its wait a little early.
            assert len(server.asked) == asked


def judged(said: str, _: int) -> str:
    return '{"pass": true}' if said.startswith("Rubric") else said


JUDGE: dict[str, Any] = {"type": "judge", "model": OTHER}


async def test_a_budget_holds_for_judges_too(tmp_path: Path) -> None:
    with model_server(judged) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            data = [f"question {i}" for i in range(20)]
            comparison = await new_comparison(bench, data, models=[MODEL], scorers=[JUDGE], budget_tokens=200)
            grid = await comparison.run()
            assert grid.status == "over_budget"
            assert len(server.asked) * 11 <= 200
            with pytest.raises(UsageError, match=f"price of .*the judge {OTHER} is not known"):
                await new_comparison(bench, data, models=["demo/echo"], scorers=[JUDGE], budget_usd=1.0)


async def test_a_judge_is_shown_the_prompt_as_it_was_filled_and_cached_answers_are_judged_side_by_side(
    tmp_path: Path,
) -> None:
    with model_server(judged) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            how: dict[str, Any] = {"models": [MODEL], "prompts": ["Say {{word}}."]}
            data = [{"word": f"word{i}"} for i in range(8)]
            await (await new_comparison(bench, data, **how)).run()
            server.delay_s, server.most_under_way = 0.1, 0
            grid = await (await new_comparison(bench, data, scorers=[JUDGE], **how)).run()
            assert grid.candidate_rows[0].scores["judge"]["mean"] == 1.0
            assert server.most_under_way > 2
            assert any("<question>\nSay word3.\n</question>" in said for _, _, said in server.asked)


async def test_the_first_token_of_a_quick_answer_comes_no_later_than_its_last(tmp_path: Path) -> None:
    with model_server(lambda said, _: said) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            grid = await (await new_comparison(bench, [f"case {n}" for n in range(40)], models=[MODEL])).run()
    rows = grid.df()
    assert (rows["ttft_ms"] <= rows["latency_ms"]).all()


async def test_what_a_judge_said_of_an_answer_is_used_again_and_marked_so(tmp_path: Path) -> None:
    def behaves(said: str, _: int) -> str:
        return '{"pass": true, "better": "1"}' if said.startswith("Rubric") else said

    scorers = [JUDGE, {"type": "pairwise", "model": OTHER}]
    with model_server(behaves) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:

            async def compared(**more: Any) -> tuple[Grid, int]:
                before = len(server.asked)
                how: dict[str, Any] = {"models": [MODEL, "openai_compatible/loop/third"], "scorers": scorers} | more
                grid = await (await new_comparison(bench, ["one", "two", "three"], **how)).run()
                return grid, len(server.asked) - before

            first, asked = await compared()
            assert asked == 6 + 3 + 3, "two answers in the same words are one question to a judge, and one pair"
            again, asked = await compared()
            assert asked == 0
            assert all(score.cached for cell in again.cells for score in cell.scores)
            assert [[s.value for s in c.scores] for c in again.cells] == [
                [s.value for s in c.scores] for c in first.cells
            ]
            assert again.notes == [
                "6 of 6 answers and 12 of 12 judgements from the cache, with their original timings."
            ]
            assert (await in_thread(load_grid, bench, again.id)).to_json() == again.to_json()
            judges = [name for name in again.scorers if name != "overall"]
            assert again.df()[["cached", *(f"{name}_cached" for name in judges)]].all(axis=None)
            assert not {f"{name}_cached" for name in judges} <= set(first.df().columns)
            again.save(tmp_path / "tests.xml")
            for test in ElementTree.parse(tmp_path / "tests.xml").iter("testcase"):
                marks = {mark.get("name"): mark.get("value") for mark in test.iter("property")}
                assert marks == dict.fromkeys(["answer", *judges], "from the cache")
            other_rubric = [{**JUDGE, "rubric": "Brief."}]
            assert (await compared(scorers=other_rubric))[1] == 3
            assert (await compared(scorers=other_rubric, cache="off"))[1] == 6 + 6


async def test_a_reply_of_a_judge_that_cannot_be_read_is_not_kept(tmp_path: Path) -> None:
    reply = '{"verdict": "good"}'
    with model_server(lambda said, _: reply if said.startswith("Rubric") else said) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            grid = await (await new_comparison(bench, ["one", "two"], models=[MODEL], scorers=[JUDGE])).run()
            assert grid.candidate_rows[0].scores["judge"]["unscored"] == 2
            assert len(server.asked) == 2 + 2 * 2, "a judge that cannot be read is asked once more"
            reply = '{"pass": true}'
            grid = await (await new_comparison(bench, ["one", "two"], models=[MODEL], scorers=[JUDGE])).run()
            assert grid.candidate_rows[0].scores["judge"]["mean"] == 1.0
            assert len(server.asked) == 6 + 2


async def test_no_more_judges_are_asked_at_once_than_their_provider_is_given(tmp_path: Path) -> None:
    def behaves(said: str, _: int) -> str:
        return '{"better": "tie"}'

    with model_server(behaves, delay_s=0.02) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            scorers = [{"type": "pairwise", "model": OTHER}]
            candidates = {"models": ["demo/echo"], "prompts": ["{{input}}", "{{input}}!"]}
            data = [f"question {n}" for n in range(10)]
            grid = await (await new_comparison(bench, data, scorers=scorers, concurrency=2, **candidates)).run()
            assert grid.candidate_rows[0].scores["pairwise"]["mean"] == 0.5
            assert len(server.asked) == 20
            assert server.most_under_way == 2


async def test_what_a_judge_could_not_score_is_asked_again_and_new_scorers_score_what_is_there(tmp_path: Path) -> None:
    away = True

    def behaves(said: str, _: int) -> str | Trouble:
        if said.startswith("Rubric"):
            return Trouble(status=400) if away else '{"pass": true}'
        return KNOWN[said]

    with model_server(behaves) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            grid = await (await new_comparison(bench, CAPITALS, models=[MODEL], scorers=[JUDGE])).run()
            assert grid.candidate_rows[0].scores["judge"]["unscored"] == 3
            away, before = False, len(server.asked)
            grid = await (await resume_comparison(bench, grid.id, scorers=["exact"])).run()
            assert [said[:6] for _, _, said in server.asked[before:]] == ["Rubric"] * 3
            again = await in_thread(load_grid, bench, grid.id)
            for told in (grid, again):
                assert told.scorers == ["judge", "exact"]
                assert [told.candidate_rows[0].scores[name]["mean"] for name in told.scorers] == [1.0, 1.0]
            assert bench.store.sql("select count(*) from comparisons").one() == (6,)


async def test_a_scorer_is_not_called_as_a_column_is(tmp_path: Path) -> None:
    def output(answer: Any) -> bool:
        return True

    async with opened(tmp_path / "lab.duckdb") as bench:
        with pytest.raises(UsageError, match="cannot be named 'output'"):
            await new_comparison(bench, CAPITALS, models=[MODEL], scorers=[output])


async def test_leaving_the_stream_stops_it_and_what_is_finished_stays(tmp_path: Path) -> None:
    cases = [f"question {n}" for n in range(30)]
    with model_server(lambda said, _: "ok", delay_s=0.05) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            comparison = await new_comparison(bench, cases, models=[MODEL], scorers=["contains:ok"], concurrency=3)
            events = comparison.events()
            async for event in events:
                if isinstance(event, CellDone):
                    break
            await events.aclose()
            assert comparison.record.status == "cancelled"
            asked = len(server.asked)
            await asyncio.sleep(0.15)
            assert len(server.asked) == asked < 30
            stored = await in_thread(load_grid, bench, comparison.record.id)
            assert stored.status == "cancelled"
            assert 1 <= len(stored.cells) < 30
            resumed = await (await resume_comparison(bench, comparison.record.id)).run()
            assert len(resumed.cells) == 30
            assert resumed.summary()["contains:ok"][0] == 1.0


async def test_failed_cells_are_tried_again_when_it_goes_on(tmp_path: Path) -> None:
    with model_server(lambda said, before: Trouble(400) if said == "Italy" and not before else KNOWN[said]) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            grid = await (await new_comparison(bench, CAPITALS, models=[MODEL], scorers=["exact"])).run()
            assert grid.summary()["errors"][0] == 1
            again = await (await resume_comparison(bench, grid.id)).run()
            assert again.summary()["errors"][0] == 0
            assert Counter(text for _, _, text in server.asked) == {"France": 1, "Spain": 1, "Italy": 2}
            stored = await in_thread(load_grid, bench, grid.id)
            assert stored.to_json() == again.to_json()


async def test_what_lives_in_a_process_is_passed_again(tmp_path: Path) -> None:
    def polite(output: str) -> bool:
        return "please" in output

    async with opened(tmp_path / "lab.duckdb") as bench:
        agent = sdk.Agent(name="Coded", model="demo/echo")
        comparison = await new_comparison(bench, CAPITALS, agents=[agent], scorers=[polite])
        grid = await comparison.run()
        with pytest.raises(UsageError, match=r"SDK agent.*agents=\[Coded\]"):
            await resume_comparison(bench, grid.id)
        with pytest.raises(UsageError, match=r"Python function.*scorers=\[polite\]"):
            await resume_comparison(bench, grid.id, agents=[agent])
        changed = sdk.Agent(name="Coded", model="demo/echo", instructions="Otherwise.")
        with pytest.raises(UsageError, match="has changed since"):
            await resume_comparison(bench, grid.id, agents=[changed], scorers=[polite])
        assert isinstance(await resume_comparison(bench, grid.id, agents=[agent], scorers=[polite]), Comparison)


async def test_a_lab_that_is_closed_ends_the_comparison_that_it_runs_in_the_background(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab.duckdb")
    view = await lab.start_comparison(["one two"] * 20, models=["demo/slow?ttft=200"], concurrency=1)
    await asyncio.sleep(0.5)
    assert view.is_running
    await lab.aclose()
    assert not view.is_running
    async with Lab(tmp_path / "lab.duckdb") as later:
        [record] = later.comparisons.list()
        assert record.status == "cancelled"


async def test_a_comparison_that_goes_on_elsewhere_is_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path / "lab.duckdb") as bench:
        grid = await (await new_comparison(bench, ["a"], models=["demo/echo"])).run()
        claimed = await resume_comparison(bench, grid.id)
        await in_thread(_claim_for, bench, grid.id)
        with pytest.raises(ConflictError):
            await claimed.run()


def _claim_for(bench: EvalContext, id: str) -> None:
    from timestep_lab.evals.results import ComparisonRows

    ComparisonRows(bench.store.db, bench.user_id).comparisons.update(id, status="running", process_id="prc_other")


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"data": []}, DataError, "no case"),
        ({"models": ["nope/x"]}, UsageError, "no provider 'nope'"),
        ({"models": ["demo/echo", "demo/echo"]}, UsageError, "Two candidates are the same"),
        ({"scorers": ["exat"]}, UsageError, "Did you mean 'exact'"),
        ({"epoch": 2}, UsageError, "no option 'epoch'. Did you mean 'epochs'"),
        ({"epochs": 0}, UsageError, "epochs=0"),
        ({"prompts": ["{{nothing}}"]}, DataError, "refers to {{nothing}}"),
        ({"data": [{"colour": "red"}]}, DataError, "has no question"),
        ({"data": [{"input": "x", "assertions": [{"type": "exat"}]}]}, DataError, "no scorer 'exat'"),
        ({"scorers": ["pairwise"]}, UsageError, "at least two candidates"),
        ({"settings": {"temprature": 1}}, UsageError, "temprature"),
        ({"budget_tokens": -1}, UsageError, "budget_tokens=-1"),
    ],
)
async def test_what_cannot_work_is_refused_before_anything_is_spent(
    tmp_path: Path, given: dict[str, Any], error: type[Exception], says: str
) -> None:
    options = {"data": CAPITALS, "models": ["demo/echo"], **given}
    async with opened(tmp_path / "lab.duckdb") as bench:
        with pytest.raises(error, match=says):
            await new_comparison(bench, options.pop("data"), **options)
        assert bench.store.sql("select count(*) from comparisons").one() == (0,)


async def test_an_unknown_comparison_is_said_to_be_unknown(tmp_path: Path) -> None:
    async with opened(tmp_path / "lab.duckdb") as bench:
        with pytest.raises(NotFoundError, match="no comparison 'cmp_x'"):
            await resume_comparison(bench, "cmp_x")


async def test_a_judge_asks_through_the_lab_and_a_pairwise_judge_sees_both_orders(tmp_path: Path) -> None:
    def behaves(said: str, _: int) -> str:
        if "<answer n=" in said:
            return '{"better": "1"}' if said.index("Paris!") < said.index("Lyon?") else '{"better": "2"}'
        if "<answer>" in said:
            return '{"reason": "it does", "pass": true}' if "Paris" in said.split("<answer>")[1] else '{"pass": false}'
        return "Paris!" if said.startswith("one") else "Lyon?"

    with model_server(behaves) as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            scorers = [{"type": "judge", "rubric": "Right city.", "model": MODEL}, {"type": "pairwise", "model": MODEL}]
            comparison = await new_comparison(
                bench, ["France"], models=[MODEL], prompts=["one {{input}}", "two {{input}}"], scorers=scorers
            )
            grid = await comparison.run()
            scores = {(c.candidate, s.scorer): s.value for c in grid.cells for s in c.scores}
            assert scores == {
                ("prompt 1", "judge"): 1.0, ("prompt 2", "judge"): 0.0, ("prompt 1", "pairwise"): 1.0, ("prompt 2", "pairwise"): 0.0,
            }  # fmt: skip
            assert len(server.asked) == 6
            assert (await in_thread(load_grid, bench, grid.id)).to_json() == grid.to_json()


@pytest.mark.parametrize("nothing", ["", None])
async def test_a_case_whose_group_is_empty_is_a_group_of_its_own(tmp_path: Path, nothing: str | None) -> None:
    cases = [{"input": f"Say {n}.", "expected": f"{n}", "document": "one" if n < 5 else nothing} for n in range(10)]
    async with opened(tmp_path / "lab.duckdb") as bench:
        models = ["demo/echo", "demo/slow"]
        grid = await (await new_comparison(bench, cases, models=models, scorers="contains", group="document")).run()
    assert grid.groups is not None
    assert len(set(grid.groups)) == 6


async def test_cases_of_one_group_are_counted_as_a_group(tmp_path: Path) -> None:
    cases = [{"input": f"Say word{n}.", "expected": f"word{n % 60}", "document": f"doc {n % 12}"} for n in range(72)]
    async with opened(tmp_path / "lab.duckdb") as bench:
        grid = await (
            await new_comparison(bench, cases, models=["demo/echo", "demo/slow"], scorers="contains", group="document")
        ).run()
        again = load_grid(bench, grid.id)
        with pytest.raises(DataError, match="has no 'dokument'"):
            await new_comparison(bench, cases, models="demo/echo", group="dokument")
        few = await (
            await new_comparison(
                bench, cases[:5], models=["demo/echo", "demo/slow"], scorers="contains", group="document"
            )
        ).run()
    [pair] = again.pair_rows
    assert (pair.test, pair.p_value) == ("exact flips of group sums", 2**-11)
    assert pair.ci_low == pytest.approx(grid.pair_rows[0].ci_low)
    assert "beats" in again.verdict
    assert "beats" not in few.verdict
    assert few.notes[0].startswith("The cases form 5 groups: with fewer than 6")


async def test_the_garbage_collector_runs_seldom_while_a_comparison_does_and_as_before_when_none_runs(
    tmp_path: Path,
) -> None:
    usual, during = gc.get_threshold(), []

    def scorer(output: str) -> float:
        during.append(gc.get_threshold())
        return 1.0

    async with opened(tmp_path / "lab.duckdb") as bench:
        both = [
            await new_comparison(bench, ["a", "b"], models=["demo/echo"], scorers=[scorer], cache="off") for _ in "ab"
        ]
        await asyncio.gather(*(comparison.run() for comparison in both))
    assert len(during) == 4
    assert all(threshold[0] > 10 * usual[0] for threshold in during)
    assert gc.get_threshold() == usual


async def test_what_a_server_has_frozen_stays_frozen_after_a_comparison(tmp_path: Path) -> None:
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        async with opened(tmp_path / "lab.duckdb") as bench:
            await (await new_comparison(bench, ["a"], models=["demo/echo"], cache="off")).run()
        assert gc.get_freeze_count() >= before * 0.9
    finally:
        gc.unfreeze()


async def test_the_examples_in_openais_evals_are_sent_as_turns_and_notes_beside_messages_are_not_sent(
    tmp_path: Path,
) -> None:
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "name": "example_user", "content": "1+1?"},
        {"role": "system", "name": "example_assistant", "content": "2"},
        {"role": "user", "content": "2+2?", "id": "m3", "name": None, "weight": 1},
    ]
    with model_server(lambda said, _: "4") as server:
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            grid = await (
                await new_comparison(bench, [{"input": said, "ideal": "4"}], models=[MODEL], scorers="exact")
            ).run()
            assert grid.df()[["error", "exact"]].to_dict("records") == [{"error": None, "exact": 1.0}]
            bench.writer.flush()
            [(asked,)] = bench.store.sql("select input from generations").rows
            assert [(m["role"], m["content"]) for m in (json.loads(asked) if isinstance(asked, str) else asked)] == [
                ("system", "Be brief."), ("user", "1+1?"), ("assistant", "2"), ("user", "2+2?"),
            ]  # fmt: skip
            named = [{"input": [{"role": "user", "name": "Ada", "content": "Hi"}]}]
            with pytest.raises(DataError, match="name 'Ada', which is not supported"):
                await new_comparison(bench, named, models=[MODEL])
        assert len(server.asked) == 1


async def test_a_class_is_no_agent_and_an_empty_place_in_a_list_of_answers_is_no_answer(tmp_path: Path) -> None:
    class Answers:
        def __call__(self, question: str) -> str:
            return "Is there a null here?"

    async with opened(tmp_path / "lab.duckdb") as bench:
        cases = [{"input": "Is there a null here?", "expected": ["Paris", None]}]
        with pytest.raises(UsageError, match=r"Answers is a class, not an agent. Pass an instance: Answers\(\)"):
            await new_comparison(bench, cases, agents=[Answers], scorers=["contains"])
        grid = await (await new_comparison(bench, cases, agents=[Answers()], scorers=["contains"])).run()
        assert [score.value for cell in grid.cells for score in cell.scores] == [0.0]


async def test_an_sdk_agent_that_is_built_again_is_the_same_candidate_and_one_whose_code_changed_is_not(
    tmp_path: Path,
) -> None:
    def agent(limit: int = 3, ask: str = "Be brief.") -> sdk.Agent[Any]:
        made = create_model("Made", text=(str, Field(max_length=limit)))
        return sdk.Agent(name="Desk", instructions=lambda context, agent: ask, model=MODEL, output_type=made)

    async with opened(tmp_path / "lab.duckdb") as bench:
        made = [
            (await new_comparison(bench, ["a"], agents=[one])).record.candidates[0]["fingerprint"]
            for one in (agent(), agent(), agent(limit=4), agent(ask="Be kind."))
        ]
        assert made[0] == made[1]
        assert len(set(made)) == 3
