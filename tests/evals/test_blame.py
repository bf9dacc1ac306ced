"""Which change made an agent worse: found among several with a part of all combinations, pairs that only do it together included."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import agents as sdk
import numpy as np
import pytest
from agents import ModelSettings, function_tool

from tests.runtime.bench import Policy, calls, says
from timestep_lab import Lab, UsageError
from timestep_lab.cli import main
from timestep_lab.evals.cause import Blame, BlamePlan
from timestep_lab.evals.cause import blame as search
from timestep_lab.model.records import AgentRecord, differences, mixed
from timestep_lab.service.causes import find_change

SIX = ["instructions", "model", "setting temperature", "tool search", "tool fetch", "handoff to Refunds"]


@pytest.mark.parametrize("k", range(1, 18))
def test_in_the_rows_every_change_is_clear_of_every_pair_and_the_ends_are_the_two_versions(k: int) -> None:
    levels = search.design(k)
    signs = 1.0 - 2.0 * levels
    assert not levels[0].any()
    assert levels[-1].all()
    assert np.allclose(signs.T @ signs, len(levels) * np.eye(k))
    for pair in {pair for group in search.classes(levels) for pair in group}:
        assert np.allclose(signs.T @ (signs[:, pair[0]] * signs[:, pair[1]]), 0.0)
    assert len(levels) <= 2 ** max(1, k)


def planted(culprits: tuple[int, ...], loss: float, seed: int, cases: int = 50) -> tuple[search.Effects, int]:
    dice = np.random.default_rng(seed)
    hard = dice.beta(6.0, 1.5, cases)[:, None]

    def ask(levels: Any) -> Any:
        hit = levels[:, list(culprits)].all(axis=1) if culprits else np.zeros(len(levels), dtype=bool)
        chance = np.clip(hard - loss * hit[None, :], 0.0, 1.0)
        return (dice.random(chance.shape) < chance).astype(float)

    return search.factorial(ask, SIX)


def told(effects: search.Effects, rows: int) -> Blame:
    return Blame(changes=dict.fromkeys(SIX, (0, 1)), by_scorer={"exact": effects}, n_cases=50, n_rows=rows)


def test_one_culprit_among_six_is_named_with_its_points_and_the_others_are_not() -> None:
    accused = []
    for seed in range(20):
        found = told(*planted((seed % 6,), 0.3, seed))
        accused.append((SIX[seed % 6],) in found.culprits)
        assert found.calls <= 0.4 * found.full_calls
    assert sum(accused) >= 19
    found = told(*planted((1,), 0.3, 0))
    assert found.verdict.startswith("Model: −")
    assert "instructions, setting temperature" in found.verdict
    assert "not settled. By exact, over 50 cases; 800 of 3200 calls." in found.verdict


def test_a_pair_that_only_breaks_together_is_named_as_a_pair() -> None:
    pairs = [(0, 1), (1, 4), (2, 3), (3, 5), (0, 5), (2, 4)] * 3
    accused = []
    for seed, pair in enumerate(pairs):
        found = told(*planted(pair, 0.4, seed))
        accused.append(tuple(SIX[i] for i in pair) in found.culprits)
        assert found.calls <= 0.4 * found.full_calls
    assert sum(accused) >= 0.85 * len(pairs)
    assert "instructions and model together: −" in told(*planted((0, 1), 0.4, 0)).verdict.replace(
        "Instructions", "instructions"
    )


def test_a_pair_that_costs_twenty_points_is_found_by_further_rows_where_the_first_leave_a_doubt() -> None:
    found = []
    for seed in range(40):
        pair = tuple(sorted(int(n) for n in np.random.default_rng(seed).permutation(6)[:2]))
        one = told(*planted(pair, 0.2, 1000 + seed, cases=60))
        found.append(tuple(SIX[n] for n in pair) in one.culprits)
        assert one.calls <= 0.4 * one.full_calls
    assert sum(found) >= 0.85 * len(found)


def test_where_nothing_is_worse_something_is_accused_in_at_most_one_of_twenty() -> None:
    accused = sum(bool(told(*planted((), 0.0, 2000 + seed)).culprits) for seed in range(60))
    assert accused <= 3


def test_a_pair_that_the_rows_do_not_tell_from_another_is_said_to_be_not_separable() -> None:
    levels = search.design(6)
    group = next(group for group in search.classes(levels) if len(group) > 1)
    per_case = np.repeat(np.array([[0.5], [-0.5]]), 25, axis=0)
    sign = np.prod(2.0 * levels[:, list(group[0])] - 1.0, axis=1)
    effects = search.effects(levels, 0.5 - 0.3 * sign[None, :] + 0.01 * per_case, SIX)
    found = told(effects, 16)
    assert "not separable" in found.verdict
    for pair in group:
        assert " with ".join(SIX[i] for i in pair) in found.verdict


GOOD = AgentRecord(
    id="a", user_id="u", name="Desk", instructions="Kind.", model="m/1", tool_ids=("s.search", "s.old"), handoff_ids=("x",),
    model_settings={"temperature": 0, "top_p": 1}, approvals={"s.search": "always"},
)  # fmt: skip
BAD = AgentRecord(
    id="a", user_id="u", name="Desk", instructions="Brief.", model=None, tool_ids=("s.search", "s.new"), handoff_ids=("x", "y"),
    model_settings={"temperature": 1}, approvals={},
)  # fmt: skip


def test_mixing_all_parts_that_differ_gives_the_other_version_and_none_gives_the_first() -> None:
    parts = differences(GOOD, BAD)
    assert len(parts) == 8
    assert mixed(GOOD, BAD, ()) == GOOD
    assert differences(mixed(GOOD, BAD, parts), BAD) == {}
    assert mixed(GOOD, BAD, ["setting top_p", "tool s.new"]).tool_ids == ("s.search", "s.old", "s.new")
    assert mixed(GOOD, BAD, ["setting top_p"]).model_settings == {"temperature": 0}


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with Lab(":memory:") as lab:
        lab.agents.create(name="Desk", instructions="Be kind.", model="demo/echo")
        lab.agents.update(
            "Desk", instructions="Be brief.", description="Says what was said.", model_settings={"temperature": 1}
        )
        lab.agents.update(
            "Desk", model="demo/echo", tools=["think"], model_settings={"temperature": 1, "max_tokens": 3}
        )
        yield lab


CASES = [{"input": f"Say word{n}.", "expected": f"word{n}"} for n in range(8)]


async def test_two_versions_of_a_stored_agent_by_their_names(lab: Lab) -> None:
    plan = await lab.blame(good="Desk@1", bad="Desk", cases=CASES, scorers="contains", plan=True)
    assert isinstance(plan, BlamePlan)
    assert plan.changes == ("instructions", "setting temperature", "setting max_tokens", "tool think")
    assert (plan.calls, plan.most_calls) == (64, 96)
    seen = []
    found = await lab.blame(
        good="Desk@1", bad="Desk", cases=CASES, scorers="contains", on_progress=lambda *n: seen.append(n)
    )
    assert found.culprits == ()
    assert "not settled" in found.verdict
    assert seen[-1] == (64, 96)
    assert list(found.effects["change"])[:4] == list(plan.changes)
    assert found.grids[0].candidates[0] == "Desk unchanged"
    assert (
        found.grids[0].candidates[-1] == "Desk with instructions, setting temperature, setting max_tokens, tool think"
    )
    with pytest.raises(UsageError, match="Name a scorer"):
        await lab.blame(good="Desk@1", bad="Desk", cases=CASES, scorers=[])
    with pytest.raises(UsageError, match="Nothing differs"):
        await lab.blame(good="Desk@1", bad="Desk@1", cases=CASES, scorers="contains")


async def test_of_two_sdk_agents_the_description_of_a_tool_may_be_it(lab: Lab) -> None:
    def decide(instructions: str, items: list[Any], tools: list[Any]) -> list[Any]:
        described = {tool.name: tool.description for tool in tools}
        return says("no idea" if "Celsius" not in described["weather"] else "20 °C")

    def agent(instructions: str, description: str, temperature: float) -> sdk.Agent[Any]:
        @function_tool(description_override=description)
        def weather(place: str) -> str:
            return "20"

        settings = ModelSettings(temperature=temperature)
        return sdk.Agent(
            name="Desk", instructions=instructions, tools=[weather], model=Policy(decide), model_settings=settings
        )

    good, bad = agent("Kind.", "Degrees Celsius.", 0.0), agent("Brief.", "The weather.", 1.0)
    bad.model = good.model
    found = await lab.blame(good=good, bad=bad, cases=[f"Weather in {n}?" for n in range(8)], scorers="contains:°C")
    assert found.culprits == (("tool weather",),)
    assert found.verdict.startswith("Tool weather: −100 points")
    assert found.calls == found.full_calls == 64


async def test_the_description_of_a_tool_of_an_mcp_server_is_part_of_a_version(lab: Lab) -> None:
    """Whether the agent was given it, or the server changed it between the runs of two versions."""

    def decide(instructions: str, items: list[Any], tools: list[Any]) -> list[Any]:
        return says("20 °C" if any("Celsius" in tool.description for tool in tools) else "no idea")

    def weather(place: str) -> str:
        """Degrees Celsius, of a place."""
        return "20"

    model = lab.router.add_model(Policy(decide))
    tool = lab.mcp.add_function(weather)
    lab.agents.create(name="Front desk", model=model, tools=[tool], instructions="Be kind.")
    await lab.run("Weather in Oslo?", agent="Front desk")
    lab.agents.update("Front desk", tool_descriptions={tool: "The weather."}, instructions="Be brief.")
    assert (await lab.run("Weather in Oslo?", agent="Front desk")).output == "no idea"
    assert list(lab.agents.diff("Front desk@1", "Front desk@2")["part"]) == [
        "instructions",
        f"description of {lab.agents.tool_id(tool)}",
    ]
    cases = [f"Weather in {n}?" for n in range(8)]
    told = await lab.blame(good="Front desk@1", bad="Front desk@2", cases=cases, scorers="contains:°C")
    assert told.culprits == (("description of weather",),)
    assert told.verdict.startswith("Description of weather: −100 points")

    lab.agents.restore("Front desk@1")
    lab.agents.update("Front desk", instructions="Be brief.")

    def other(place: str) -> str:
        """The weather of a place."""
        return "20"

    other.__name__ = "weather"
    lab.mcp.add_function(other)
    assert (await lab.run("Weather in Oslo?", agent="Front desk")).output == "no idea"
    told = await lab.blame(good="Front desk@1", bad="Front desk", cases=cases, scorers="contains:°C")
    assert told.culprits == (("description of weather",),)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ["--store", str(tmp_path / "lab.duckdb")]
    with Lab(tmp_path / "lab.duckdb") as lab:
        lab.agents.create(name="Desk", instructions="One.", model="demo/echo")
        lab.agents.update("Desk", instructions="Two.")
    cases = tmp_path / "cases.jsonl"
    cases.write_text("\n".join(json.dumps(case) for case in CASES))
    asked = ["blame", "Desk@1", "Desk", str(cases), "--scorers", "contains", *store]
    assert main([*asked, "--plan"]) == 0
    assert "1 change (instructions): 16 to 16 calls" in capsys.readouterr().out
    assert main([*asked, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"].startswith("Instructions: not settled.")
    assert [row["change"] for row in told["effects"]] == ["instructions"]


async def test_a_search_that_is_stopped_before_its_first_answer_ends_with_what_is_known(lab: Lab) -> None:
    found = await find_change(lab, "Desk@1", "Desk", CASES, ["contains"], on_progress=lambda work: work.stop())
    assert found.grids[0].status == "cancelled"
    assert "Not finished: the comparison is cancelled." in found.verdict


def desk(
    *, instructions: str = "Kind.", tool: str = "FOUND", billing: str = "Careful.", fails: bool = False
) -> sdk.Agent[Any]:
    """An agent with a tool, another agent to hand off to and a guardrail, all of them defined anew."""

    @function_tool(description_override="Looks it up.")
    def look(word: str) -> str:
        return f"{tool} {word}"

    def decide(told: str, items: list[Any], tools: list[Any]) -> list[Any]:
        if told == "Careful." or told == "Reckless." or "output" in items[-1]:
            return says(f"{told} {items[-1].get('output', '')}")
        if items[-1]["content"].startswith("bill"):
            return calls(("transfer_to_billing", {}))
        return calls(("look", {"word": "it"}))

    def checks(*_: Any) -> sdk.GuardrailFunctionOutput:
        return sdk.GuardrailFunctionOutput(output_info=None, tripwire_triggered=fails)

    model = MODELS.setdefault("desk", Policy(decide))
    return sdk.Agent(
        name="Desk", instructions=instructions, model=model, tools=[look],
        handoffs=[sdk.Agent(name="Billing", instructions=billing, model=model)],
        output_guardrails=[sdk.OutputGuardrail(guardrail_function=checks, name="check")],
    )  # fmt: skip


MODELS: dict[str, Policy] = {}


@pytest.mark.parametrize(
    ("change", "culprit", "wrong"),
    [
        ({"tool": "LOST"}, "tool look", "LOST"),
        ({"billing": "Reckless."}, "handoff Billing", "Reckless."),
    ],
)
async def test_the_code_of_a_tool_and_the_agent_behind_a_handoff_are_parts_of_an_sdk_agent(
    lab: Lab, change: dict[str, str], culprit: str, wrong: str
) -> None:
    cases = [f"{'bill' if n % 2 else 'find'} {n}" for n in range(24)]
    scorer = f"not:contains:{wrong}"
    found = await lab.blame(good=desk(), bad=desk(instructions="Brief.", **change), cases=cases, scorers=[scorer])
    assert isinstance(found, Blame)
    assert [*found.changes] == ["instructions", culprit], "what is only defined anew is no change"
    assert found.culprits == ((culprit,),)
    with pytest.raises(UsageError, match="Nothing differs"):
        await lab.blame(good=desk(), bad=desk(), cases=cases, scorers=[scorer])


async def test_a_change_with_which_calls_fail_is_named_and_cases_without_a_score_are_not_counted(lab: Lab) -> None:
    cases = [f"{'bill' if n % 2 else 'find'} {n}" for n in range(24)]
    bad = desk(instructions="Brief.", fails=True)
    found = await lab.blame(good=desk(), bad=bad, cases=cases, scorers=["contains:FOUND"])
    assert isinstance(found, Blame)
    assert found.culprits == (("output_guardrails",),)
    assert "24 of 96 calls failed; answered calls: output_guardrails: −50 points" in found.verdict
    assert "over the 12 of 24 cases with all scores" in found.verdict


def test_where_all_cases_agree_the_interval_says_what_so_few_may_not_have_shown() -> None:
    levels = search.design(1)
    alike = search.effects(levels, np.array([[1.0, 0.0]] * 12), ["model"])
    [effect] = alike.single
    assert (effect.diff, effect.ci_low, round(effect.ci_high, 2)) == (-1.0, -1.0, -0.52)
    again = Blame(changes={"model": (0, 1)}, by_scorer={"exact": alike}, n_cases=12, n_rows=2)
    assert again.verdict.startswith("Model: −100 points (95 % CI −100…−52)")
    assert Blame.from_json(json.loads(json.dumps(again.to_json())), ()).verdict == again.verdict
    [grade] = search.effects(levels, np.array([[5.0, 3.0]] * 12), ["model"]).single
    assert np.isnan(grade.ci_low), "of grades without a range nothing can be said"
