"""What only Ollama has: levels of thinking, options, a host by the model's name, a client with surprises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from agents import FunctionTool, ModelSettings

from tests.providers.calling import ask, get_time, run
from tests.providers.cases import OLLAMA
from tests.wire import Call, Reply, WireServer, Words
from timestep_lab.model.errors import MissingKeyError, SettingsError, UsageError
from timestep_lab.runtime.router import Router
from timestep_lab.runtime.settings import Settings


@pytest.fixture
def server(server_for: Callable[[ModuleType], WireServer]) -> WireServer:
    return server_for(OLLAMA.protocol).will(Reply(Words("Hi")))


@pytest.fixture
def router(server: WireServer, router_for: Callable[..., Router]) -> Router:
    return router_for(OLLAMA.configure(server.url))


async def test_the_key_of_the_environment_reaches_no_server_but_the_cloud(
    server: WireServer, router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "secret")
    await ask(router.get_model("ollama/qwen3"))
    assert "authorization" not in server.requests[0].headers


def test_a_cloud_model_without_a_key_says_which_key_and_what_goes_without_one(
    router_for: Callable[..., Router],
) -> None:
    with pytest.raises(MissingKeyError, match=r"OLLAMA_API_KEY.*demo/assistant"):
        router_for(Settings()).get_model("ollama/gpt-oss:120b-cloud")


@pytest.mark.parametrize(
    ("model", "effort", "think"),
    [
        ("qwen3", "high", True),
        ("qwen3", "none", False),
        ("gpt-oss:20b", "medium", "medium"),
        ("gpt-oss:20b", "none", "low"),
    ],
)
async def test_effort_is_a_level_for_gpt_oss_and_a_switch_for_the_others(
    server: WireServer, router: Router, model: str, effort: Any, think: Any
) -> None:
    await ask(router.get_model(f"ollama/{model}"), settings=ModelSettings(reasoning={"effort": effort}))  # type: ignore[arg-type]
    assert server.requests[0].body["think"] == think


async def test_context_length_and_keep_alive_are_passed_on(server: WireServer, router: Router) -> None:
    extra = {"num_ctx": 16384, "keep_alive": "10m", "options": {"seed": 1}}
    await ask(router.get_model("ollama/qwen3"), settings=ModelSettings(extra_args=extra, max_tokens=9))
    body = server.requests[0].body
    assert body["options"] == {"num_ctx": 16384, "seed": 1, "num_predict": 9}
    assert body["keep_alive"] == "10m"


async def test_what_ollama_cannot_promise_is_refused(router: Router) -> None:
    with pytest.raises(SettingsError, match="ollama/qwen3 does not support a forced tool call"):
        await ask(router.get_model("ollama/qwen3"), tools=[get_time], settings=ModelSettings(tool_choice="required"))


async def test_of_several_calls_the_first_is_made_where_one_at_a_time_is_asked_for(
    server: WireServer, router: Router
) -> None:
    """Clients such as LlamaIndex's ask for that with every request."""
    server.forget().will(Reply(Call("get_time", {"zone": "A"}), Call("get_time", {"zone": "B"})), Reply(Words("Noon.")))
    done = await run(
        router, "ollama/qwen3", "When?", tools=[get_time], model_settings=ModelSettings(parallel_tool_calls=False)
    )
    assert done.final_output == "Noon."
    asked = [call for message in server.requests[1].body["messages"] for call in message.get("tool_calls") or ()]
    assert [call["function"]["arguments"] for call in asked] == [{"zone": "A"}]


async def test_tool_choice_none_offers_no_tools(server: WireServer, router: Router) -> None:
    await ask(router.get_model("ollama/qwen3"), tools=[get_time], settings=ModelSettings(tool_choice="none"))
    assert not server.requests[0].body.get("tools")


async def test_calls_get_ids_of_ours_because_ollama_gives_none(server: WireServer, router: Router) -> None:
    server.forget().will(Reply(Call("get_time", {"zone": "A"}), Call("get_time", {"zone": "B"})))
    calls = (await ask(router.get_model("ollama/qwen3"), tools=[get_time])).response.output
    assert len({call.call_id for call in calls}) == 2


async def test_a_schema_that_the_client_would_thin_out_is_told_in_words(server: WireServer, router: Router) -> None:
    async def never(*_: Any) -> str:
        return ""

    properties = {
        "where": {"type": "object", "properties": {"city": {"type": "string"}}, "description": "The place."},
        "unit": {"anyOf": [{"type": "string", "enum": ["c", "f"]}, {"type": "null"}]},
        "anything": True,
        "either": {"anyOf": [True, {"type": "null"}]},
    }
    schema = {"type": "object", "properties": properties, "required": ["where"]}
    tool = FunctionTool("look", "Look.", schema, never, strict_json_schema=False)
    await ask(router.get_model("ollama/qwen3"), tools=[tool])
    told = server.requests[0].body["tools"][0]["function"]["parameters"]["properties"]
    assert '"city"' in told["where"]["description"]
    assert told["unit"] == {"type": "string", "enum": ["c", "f"]}
    assert told["anything"] == {}
    assert told["either"] == {}


async def test_an_image_that_names_a_file_of_this_machine_does_not_send_that_file(
    server: WireServer, router: Router, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("do not send")
    for address in (str(secret), f"data:image/png;base64,{secret}"):
        content = [{"type": "input_image", "image_url": address}]
        with pytest.raises(UsageError):
            await ask(router.get_model("ollama/qwen3"), [{"role": "user", "content": content}])
    assert not server.requests
