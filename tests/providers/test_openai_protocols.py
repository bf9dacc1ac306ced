"""What only OpenAI's two protocols have."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from agents import ModelSettings, WebSearchTool

from tests.providers.calling import ask, get_time, get_weather
from tests.providers.cases import CHAT, OPENAI
from tests.wire import Call, Fault, Reply, Thought, WireServer, Words, chat_completions
from timestep_lab.runtime.router import Router
from timestep_lab.runtime.settings import Settings
from timestep_lab.types.errors import ProviderRequestError, SettingsError


@pytest.fixture
def chat(server_for: Callable[[ModuleType], WireServer]) -> WireServer:
    return server_for(CHAT.protocol)


async def test_an_address_elsewhere_switches_to_chat_completions_and_needs_no_key(
    chat: WireServer, router_for: Callable[..., Router]
) -> None:
    chat.will(Reply(Words("Hi")))
    for url in (chat.url, f"{chat.url}/v1"):
        await ask(router_for(Settings(openai_base_url=url)).get_model("any-model"))
    assert {request.path for request in chat.requests} == {"/v1/chat/completions"}


async def test_usage_is_asked_for(chat: WireServer, router_for: Callable[..., Router]) -> None:
    chat.will(Reply(Words("Hi")))
    await ask(router_for(CHAT.configure(chat.url)).get_model(CHAT.model))
    assert chat.requests[0].body["stream_options"] == {"include_usage": True}


async def test_settings_in_chat_completions_words(chat: WireServer, router_for: Callable[..., Router]) -> None:
    chat.will(Reply(Words("Hi")))
    settings = ModelSettings(
        tool_choice="get_time", parallel_tool_calls=False, reasoning={"effort": "low"}, verbosity="low",  # type: ignore[arg-type]
        extra_headers={"x-mine": "1"}, extra_body={"top_k": 4}, extra_args={"seed": 7},
    )  # fmt: skip
    await ask(router_for(CHAT.configure(chat.url)).get_model(CHAT.model), tools=[get_time], settings=settings)
    heard = chat.requests[0]
    wanted = {"parallel_tool_calls": False, "reasoning_effort": "low", "verbosity": "low", "top_k": 4, "seed": 7}
    assert wanted.items() <= heard.body.items()
    assert heard.body["tool_choice"] == {"type": "function", "function": {"name": "get_time"}}
    assert heard.headers["x-mine"] == "1"


async def test_reasoning_goes_back_under_the_name_it_came(
    chat: WireServer, router_for: Callable[..., Router], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = chat_completions.pieces

    def renamed(*args: Any) -> Any:
        return (piece.replace(b"reasoning_content", b"reasoning") for piece in usual(*args))

    monkeypatch.setattr(chat_completions, "pieces", renamed)
    chat.will(Reply(Thought("Rome"), Call("get_weather", {"location": "Rome"})), Reply(Words("Hi")))
    model = router_for(CHAT.configure(chat.url)).get_model(CHAT.model)
    items = (await ask(model, tools=[get_weather])).items
    result = {"type": "function_call_output", "call_id": "call_1", "output": "{}"}
    await ask(model, [{"role": "user", "content": "Rome?"}, *items, result])
    assert chat.requests[1].body["messages"][1]["reasoning"] == "Rome"


async def test_a_part_of_reasoning_that_this_protocol_cannot_ask_for_is_refused(
    chat: WireServer, router_for: Callable[..., Router]
) -> None:
    model = router_for(CHAT.configure(chat.url)).get_model(CHAT.model)
    with pytest.raises(SettingsError, match=r"does not take reasoning\.summary"):
        await ask(model, settings=ModelSettings(reasoning={"effort": "low", "summary": "auto"}))  # type: ignore[arg-type]


async def test_a_withheld_answer_is_a_refusal_not_silence(chat: WireServer, router_for: Callable[..., Router]) -> None:
    chat.will(Reply(stop="refusal"))
    answer = await ask(router_for(CHAT.configure(chat.url)).get_model(CHAT.model))
    assert answer.response.output[0].content[0].type == "refusal"
    assert answer.timing is not None
    assert answer.timing.stop_reason == "content_filter"


async def test_a_hosted_tool_is_refused_where_it_cannot_run(
    chat: WireServer, router_for: Callable[..., Router]
) -> None:
    tools: Any = [WebSearchTool()]
    with pytest.raises(SettingsError, match="web_search"):
        await ask(router_for(CHAT.configure(chat.url)).get_model(CHAT.model), tools=tools)


async def test_what_another_providers_adapter_noted_is_not_sent_to_openai(
    server_for: Callable[[ModuleType], WireServer], router_for: Callable[..., Router]
) -> None:
    server = server_for(OPENAI.protocol).will(Reply(Words("Hi")))
    call = {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "c",
        "name": "get_time",
        "arguments": "{}",
        "provider_data": {"x": 1},
    }
    result = {"type": "function_call_output", "call_id": "c", "output": "{}"}
    await ask(router_for(OPENAI.configure(server.url)).get_model(OPENAI.model), [call, result])
    assert "provider_data" not in server.requests[0].body["input"][0]


async def test_an_empty_account_is_not_asked_again(chat: WireServer, router_for: Callable[..., Router]) -> None:
    chat.will(Fault(429, code="insufficient_quota"))
    with pytest.raises(ProviderRequestError, match="no credit left") as raised:
        await ask(router_for(CHAT.configure(chat.url)).get_model(CHAT.model))
    assert not raised.value.retryable
    assert len(chat.requests) == 1


async def test_temperature_zero_is_set_aside_for_openais_reasoning_models(
    server_for: Callable[[ModuleType], WireServer], router_for: Callable[..., Router]
) -> None:
    server = server_for(OPENAI.protocol).will(Reply(Words("Hi")))
    router = router_for(OPENAI.configure(server.url))
    answer = await ask(router.get_model("openai/gpt-5"), settings=ModelSettings(temperature=0))
    assert "temperature" not in server.requests[0].body
    assert answer.timing is not None
    assert answer.timing.set_aside == ("temperature",)
