"""`demo/` models: fixed rules, the same every time, and no pretence."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from agents import Agent, ModelSettings, function_tool
from pydantic import BaseModel

from tests.providers.calling import Answer, ask, get_time, get_weather, run
from timestep_lab.model.errors import (
    LabError,
    ProviderError,
    ProviderRequestError,
    RateLimitError,
    SettingsError,
    StreamCutError,
)
from timestep_lab.runtime.adapters.demo import places_in
from timestep_lab.runtime.router import Router
from timestep_lab.runtime.settings import Settings

MODEL = "demo/assistant"


@pytest.fixture
def router() -> Router:
    return Router(Settings(demo_delay_ms=0))


@function_tool
def think(thought: str) -> str:
    """Think before acting."""
    return "Noted."


@function_tool
def switch_theme(theme: str) -> str:
    """Switch the colours."""
    return "{}"


def kinds(result: Any) -> list[str]:
    """`name(arguments)` for calls, the bare type for other items."""
    return [
        f"{item.raw_item.name}({item.raw_item.arguments})"
        if item.type in ("tool_call_item", "handoff_call_item")
        else item.type
        for item in result.new_items
    ]


async def test_a_weather_question_is_handed_off_thought_about_looked_up_and_answered(router: Router) -> None:
    weather = Agent(name="Weather Assistant", model=MODEL, tools=[get_weather, think])
    result = await run(router, MODEL, "Umbrella in Oakland?", tools=[think], handoffs=[weather])
    steps = kinds(result)
    assert steps[0] == "transfer_to_weather_assistant({})"
    assert steps[2].startswith("think(")
    assert steps[4] == 'get_weather({"location": "Oakland"})'
    assert result.final_output == "In Oakland it is 18 °C and fog. No umbrella needed."
    assert result.last_agent.name == "Weather Assistant"


async def test_several_places_are_asked_for_in_one_turn(router: Router) -> None:
    result = await run(router, MODEL, "What's the weather in Oakland, CA, Paris and Rome today?", tools=[get_weather])
    assert [json.loads(item.raw_item.arguments)["location"] for item in result.new_items[:3]] == [
        "Oakland, CA",
        "Paris",
        "Rome",
    ]
    one_by_one = await run(
        router, MODEL, "Weather in Paris and Rome?", tools=[get_weather], model_settings={"parallel_tool_calls": False}
    )
    assert [item.type for item in one_by_one.new_items[:2]] == ["tool_call_item", "tool_call_output_item"]
    assert one_by_one.final_output.count("In ") == 2


@pytest.mark.parametrize(
    ("message", "places"),
    [
        ("Umbrella in Oakland?", ["Oakland"]),
        ("weather in oakland please", ["oakland"]),
        ("Is it raining in New York right now?", ["New York"]),
        ("What is the weather in Berkeley and in San José tomorrow?", ["Berkeley", "San José"]),
        ("Compare the weather in Paris, London and Rome.", ["Paris", "London", "Rome"]),
        ("What's the forecast for Washington, DC in celsius?", ["Washington, DC"]),
        ("Tokyo weather", ["Tokyo"]),
        ("How is the weather?", []),
        ("Will it rain in the afternoon?", []),
    ],
)
def test_places_are_found_by_the_documented_rule(message: str, places: list[str]) -> None:
    assert places_in(message) == places


async def test_a_weather_question_without_a_place_is_answered_by_asking(router: Router) -> None:
    assert "Which place" in (await run(router, MODEL, "How is the weather?", tools=[get_weather])).final_output


async def test_the_theme_is_switched_to_what_the_message_names(router: Router) -> None:
    result = await run(router, MODEL, "Use the dark theme", tools=[switch_theme])
    assert kinds(result)[0] == 'switch_theme({"theme": "dark"})'
    assert "dark or light" in (await run(router, MODEL, "Change the theme", tools=[switch_theme])).final_output


async def test_any_tool_can_be_called_by_its_name(router: Router) -> None:
    result = await run(router, MODEL, 'call get_time {"zone": "UTC"}', tools=[get_time])
    assert kinds(result)[0] == 'get_time({"zone": "UTC"})'
    assert result.final_output.startswith("get_time answered:")


async def test_any_agent_can_be_handed_off_to_by_its_name(router: Router) -> None:
    other = Agent(name="Billing", model="demo/echo?bare=1")
    result = await run(router, MODEL, "Hand off to Billing", handoffs=[other])
    assert result.last_agent.name == "Billing"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("call get_tiem {}", "this agent has no tool get_tiem. Its tools: get_time."),
        ("call get_time {zone: UTC}", '{zone: UTC} is no JSON object. Write, for example: call get_time {"zone": "…"}'),
        ("hand off to Sales", "this agent does not hand off to Sales. It does to: billing."),
    ],
)
async def test_a_call_or_a_handoff_that_cannot_be_made_is_answered_with_those_that_can(
    router: Router, message: str, told: str
) -> None:
    other = Agent(name="Billing", model="demo/echo?bare=1")
    result = await run(router, MODEL, message, tools=[get_time], handoffs=[other])
    assert result.final_output == f"demo/assistant: {told}"


async def test_anything_else_is_answered_with_what_it_is(router: Router) -> None:
    assert "no language model" in (await run(router, MODEL, "Who wrote Faust?")).final_output


async def test_tool_choice_is_honoured(router: Router) -> None:
    none = await run(router, MODEL, "Weather in Rome?", tools=[get_weather], model_settings={"tool_choice": "none"})
    assert [item.type for item in none.new_items] == ["message_output_item"]
    with pytest.raises(ProviderRequestError, match="requires a tool call"):
        await run(router, MODEL, "Hello", tools=[get_weather], model_settings={"tool_choice": "required"})


class Form(BaseModel):
    city: str
    rating: int
    kind: list[str]


async def test_an_output_type_gets_the_smallest_answer_it_allows(router: Router) -> None:
    assert (await run(router, MODEL, "Hello", output_type=Form)).final_output == Form(city="", rating=0, kind=[])


async def test_the_same_question_gets_the_same_answer_in_many_pieces_and_a_usage_that_is_said_to_be_a_guess(
    router: Router,
) -> None:
    first, second = [await ask(router.get_model(MODEL), "Hello") for _ in range(2)]
    assert first.text == second.text
    assert first.types.count("response.output_text.delta") > 5
    assert first.timing is not None
    assert first.timing.usage_is_estimate
    assert first.timing.usage is not None
    assert first.timing.usage.output_tokens == round(len(first.text) / 4)


async def test_echo_says_what_it_heard(router: Router) -> None:
    assert (await ask(router.get_model("demo/echo"), "Hi you")).text == "Echo (no language model): Hi you"
    bare = await ask(router.get_model("demo/echo?bare=1"), "Hi you there", settings=ModelSettings(max_tokens=2))
    assert bare.text == "Hi you "
    assert bare.timing is not None
    assert bare.timing.stop_reason == "length"


async def test_slow_keeps_its_time(router: Router) -> None:
    before = time.perf_counter()
    answer = await ask(router.get_model("demo/slow?ttft=0.08s&tps=100&n=6"))
    assert time.perf_counter() - before >= 0.13
    timing = answer.timing
    assert timing is not None
    assert (timing.chunks, timing.usage and timing.usage.output_tokens) == (6, 6)
    assert timing.ttft_ms is not None
    assert 79 <= timing.ttft_ms < 300


async def test_flaky_fails_alike_for_alike_seeds_and_about_as_often_as_asked(router: Router) -> None:
    async def outcomes(seed: int) -> list[str]:
        model = Router(Settings(demo_delay_ms=0)).get_model(f"demo/flaky?rate=0.5&seed={seed}")
        found = []
        for number in range(40):
            try:
                found.append((await ask(model, f"Question {number}")).text)
            except ProviderError as error:
                found.append(type(error).__name__)
        return found

    first = await outcomes(1)
    assert first == await outcomes(1)
    assert first != await outcomes(2)
    assert 10 <= sum(name.endswith("Error") for name in first) <= 30
    assert {"RateLimitError", "ProviderUnavailableError", "ProviderTimeoutError"} <= set(first)


async def test_flaky_can_break_off_in_the_middle(router: Router) -> None:
    so_far = Answer()
    with pytest.raises(StreamCutError):
        await ask(router.get_model("demo/flaky?rate=1&error=cut"), into=so_far)
    assert "response.output_text.delta" in so_far.types


async def test_a_planned_rate_limit_says_when_to_come_back(router: Router) -> None:
    with pytest.raises(RateLimitError) as raised:
        await ask(router.get_model("demo/flaky?rate=1&error=rate_limit"))
    assert raised.value.retry_after == 0.05


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("demo/slow?tsp=4", "Did you mean 'tps'"),
        ("demo/slow?tps=fast", "a number from"),
        ("demo/slow?ttft=5m", "300ms, 0.3s"),
        ("demo/flaky?rate=1.5", "from 0 to 1"),
        ("demo/flaky?error=boom", "one of rate_limit"),
        ("demo/echo?bare=2", "bare"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(router: Router, name: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as raised:
        router.get_model(name)
    assert isinstance(raised.value, LabError)
