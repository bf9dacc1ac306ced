"""A model of the Agents SDK's that is an object is a model like any other, for `lab.run` and for `lab.compare`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from agents import OpenAIChatCompletionsModel
from agents.testing import ScriptedModel
from openai import AsyncOpenAI

from tests.runtime.bench import calls, says
from tests.server.served import SETTINGS
from tests.wire import Reply, WireServer, Words, chat_completions
from timestep_lab import Lab
from timestep_lab.model.errors import UnknownPrefixError, UsageError


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with Lab(tmp_path / "lab.duckdb", settings=SETTINGS) as lab:
        yield lab


async def test_a_scripted_model_speaks_for_every_agent_of_a_run_over_its_turns(lab: Lab) -> None:
    model = ScriptedModel(
        [
            calls(("transfer_to_weather_assistant", {})),
            calls(("get_weather", {"location": "Oslo"})),
            says("Fog."),
            says("Still fog."),
        ]
    )
    run = await lab.run("Oslo?", model=model)
    assert (run.status, run.output, run.agent, run.model) == (
        "completed",
        "Fog.",
        "Weather Assistant",
        "object/ScriptedModel",
    )
    assert [span.model for span in lab.store.traces.spans(run.trace_id) if span.kind == "generation"] == [run.model] * 3
    again = await lab.run("And now?", model=model, thread=run.thread)
    assert (again.output, again.model) == ("Still fog.", run.model)
    assert len({item.id for item in run.thread.items}) == len(run.thread.items)


async def test_two_scripts_are_two_models_and_one_is_paused_and_approved(lab: Lab) -> None:
    ask = ScriptedModel([calls(("get_weather", {"location": "Berkeley"})), says("Fog.")])
    other = await lab.run("Hello", model=ScriptedModel([says("Hello.")]))
    paused = await lab.run("Berkeley?", agent="Weather Assistant", model=ask)
    assert (other.model, paused.model, paused.status) == (
        "object/ScriptedModel",
        "object/ScriptedModel#2",
        "needs_approval",
    )
    run = await paused.approve()
    assert (run.status, run.output) == ("completed", "Fog.")


async def test_models_of_the_sdk_are_compared_with_those_of_the_lab(lab: Lab) -> None:
    with WireServer(chat_completions) as server:
        server.will(Reply(Words("Paris")))
        client = AsyncOpenAI(base_url=f"{server.url}/v1", api_key="k")
        models: Any = [
            OpenAIChatCompletionsModel("my-model", client),
            ScriptedModel([says("Rome"), says("Rome")]),
            "demo/echo",
        ]
        data = [
            {"input": "Capital of France?", "expected": "Paris"},
            {"input": "Capital of all of France?", "expected": "Paris"},
        ]
        grid = await lab.compare(data, models=models, scorers=["contains"])
        await client.close()
    outputs = grid.df().groupby("candidate")["output"].first().to_dict()
    assert (outputs["object/my-model"], outputs["object/ScriptedModel"]) == ("Paris", "Rome")
    again = await lab.compare(data, models=[ScriptedModel([says("Oslo"), says("Oslo")])], scorers=["contains"])
    assert set(again.df()["output"]) == {"Oslo"}


async def test_what_is_no_model_and_one_of_another_process_are_told(lab: Lab) -> None:
    wrong: Any = object()
    with pytest.raises(UsageError, match="is not a model"):
        await lab.run("Hello", model=wrong)
    with pytest.raises(UnknownPrefixError, match="another process"):
        await lab.run("Hello", model="object/ScriptedModel")
