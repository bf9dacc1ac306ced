"""What only OpenAI's two protocols have."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from agents import ModelSettings, WebSearchTool

from tests.providers.calling import ask, get_time, get_weather, run
from tests.providers.cases import CHAT, OPENAI
from tests.wire import Call, Deltas, Fault, Reply, Thought, WireServer, Words, chat_completions
from timestep_lab.model.errors import ProviderRequestError, SettingsError
from timestep_lab.runtime.emitter import own_call_id, provider_call_id
from timestep_lab.runtime.router import Router
from timestep_lab.runtime.settings import Settings


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


def calls(*pieces: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A delta: each piece as `index`, `id`, `name` and `arguments`, of which a server may leave out any."""
    return {**more, "tool_calls": [_piece(**piece) for piece in pieces]}


def _piece(**given: Any) -> dict[str, Any]:
    function = {name: given.pop(name) for name in ("name", "arguments") if name in given}
    return {**given, "type": "function", "function": function}


ROME, OSLO = '{"location": "Rome"}', '{"location": "Oslo"}'
N = "get_weather"


@pytest.mark.parametrize(
    ("deltas", "asked", "said"),
    [
        pytest.param(
            (
                calls({"index": 0, "id": "c1", "name": N, "arguments": ""}),
                calls({"index": 0, "arguments": '{"location": '}),
                calls({"index": 1, "id": "c2", "name": N, "arguments": ""}), calls({"index": 0, "arguments": '"Rome"}'}),
                calls({"index": 1, "arguments": OSLO}),
            ), ["Rome", "Oslo"], "", id="interleaved",
        ),
        pytest.param(
            (
                calls({"index": 0, "id": "c1", "name": N, "arguments": ROME}),
                calls({"index": 0, "id": "c2", "name": N, "arguments": OSLO}),
            ), ["Rome", "Oslo"], "", id="every_index_0",
        ),
        pytest.param(
            (calls({"id": "c1", "name": N, "arguments": ROME}, {"id": "c2", "name": N, "arguments": OSLO}),),
            ["Rome", "Oslo"], "", id="no_index",
        ),
        pytest.param(
            (calls({"index": 0, "name": N, "arguments": ROME}), calls({"index": 0, "name": N, "arguments": OSLO})),
            ["Rome", "Oslo"], "", id="no_ids_and_every_index_0",
        ),
        pytest.param(
            (calls({"index": 0, "id": "c1"}), calls({"index": 0, "name": N, "arguments": ROME})),
            ["Rome"], "", id="name_after_the_id",
        ),
        pytest.param(
            (
                calls({"index": 0, "id": "c1", "name": N, "arguments": '{"location": '}),
                calls({"index": 0, "id": "c1", "name": N, "arguments": '"Rome"}'}),
                calls({"index": 0, "id": "c1", "name": N, "arguments": ""}),
            ), ["Rome"], "", id="name_in_every_piece",
        ),
        pytest.param(
            (
                calls({"index": 0, "id": "c1", "name": N, "arguments": '{"location": '}),
                calls({"index": 0, "arguments": '"Rome"}'}, content="x", reasoning_content="Hm"), {"content": "y"},
            ), ["Rome"], "xy", id="text_and_reasoning_beside_a_piece",
        ),
        pytest.param(
            (calls({"index": 0, "id": "c1", "name": N, "arguments": {"location": "Rome"}}),),
            ["Rome"], "", id="arguments_as_an_object",
        ),
        pytest.param(
            (
                {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]},
                {"content": [{"type": "text", "text": "Looking."}]},
                calls({"index": 0, "id": "c1", "name": N, "arguments": ROME}),
            ), ["Rome"], "Looking.", id="content_as_a_list",
        ),
        pytest.param((calls({"index": 0, "id": "c1", "name": N}), calls({"arguments": ROME[:8]}), calls({"arguments": ROME[8:]}),), ["Rome"], "", id="index_in_the_first_piece_alone"),
        pytest.param((calls({"id": "c1", "name": N}), calls({"index": 0, "arguments": ROME[:8]}), calls({"index": 0, "arguments": ROME[8:]}),), ["Rome"], "", id="index_in_later_pieces_alone"),
        pytest.param((calls({"index": 0, "id": "c1", "name": N}), calls({"index": "0", "arguments": ROME}),), ["Rome"], "", id="index_as_text"),
        pytest.param((calls({"id": "0", "name": N, "arguments": ROME}, {"id": "0", "name": N, "arguments": OSLO}),), ["Rome", "Oslo"], "", id="one_id_for_all_and_no_index"),
        pytest.param((calls({"index": 0, "id": "0", "name": N, "arguments": ROME}), calls({"index": 0, "id": "0", "name": N, "arguments": OSLO}),), ["Rome", "Oslo"], "", id="one_id_and_one_index_for_all"),
        pytest.param((calls({"index": 0, "id": "a", "name": N}), calls({"index": 0, "id": "b", "arguments": ROME}),), ["Rome"], "", id="another_id_in_every_piece"),
        pytest.param((calls({"index": 0, "id": "c1", "name": N, "arguments": {}}), calls({"index": 0, "arguments": ROME}),), ["Rome"], "", id="an_empty_object_before_the_arguments"),
        pytest.param((calls({"index": 0, "id": "c1", "name": N, "arguments": ROME[:8]}), calls({"index": 0, "arguments": ROME[8:]}), calls({"index": 0, "id": "c1", "name": N, "arguments": ROME}),), ["Rome"], "", id="the_whole_call_once_more_at_its_end"),
        pytest.param(({"tool_calls": [None]}, {"content": [None]}, calls({"index": 0, "id": "c1", "name": N, "arguments": ROME}),), ["Rome"], "", id="null_between_pieces"),
        pytest.param(({"tool_calls": calls({"index": 0, "id": "c1", "name": N, "arguments": ROME})["tool_calls"][0]},), ["Rome"], "", id="one_call_that_is_no_list"),
        pytest.param(({"function_call": {"name": N, "arguments": ROME[:8]}}, {"function_call": {"arguments": ROME[8:]}},), ["Rome"], "", id="the_call_of_before_there_were_several"),
    ],
)  # fmt: skip
async def test_calls_are_read_as_the_server_meant_them_and_go_back_in_one_turn_with_their_results(
    chat: WireServer, router_for: Callable[..., Router], deltas: Any, asked: list[str], said: str
) -> None:
    chat.will(Reply(Deltas(*deltas)), Reply(Words("Fog.")))
    result = await run(router_for(CHAT.configure(chat.url)), CHAT.model, "Where?", tools=[get_weather])
    assert result.final_output == "Fog."
    answer, *results = chat.requests[1].body["messages"][2:]
    assert [json.loads(call["function"]["arguments"])["location"] for call in answer["tool_calls"]] == asked
    assert {call["function"]["name"] for call in answer["tool_calls"]} == {N}
    content = answer.get("content") or ""
    assert (content if isinstance(content, str) else content[-1]["text"]) == said
    assert [(one["role"], one["tool_call_id"]) for one in results] == [
        ("tool", call["id"]) for call in answer["tool_calls"]
    ]
    assert [json.loads(one["content"])["location"] for one in results] == asked


async def test_a_call_without_a_name_is_told_to_the_model(chat: WireServer, router_for: Callable[..., Router]) -> None:
    chat.will(Reply(Deltas(calls({"index": 0, "id": "c1", "arguments": ROME}))))
    answer = await ask(router_for(CHAT.configure(chat.url)).get_model(CHAT.model), tools=[get_weather])
    assert [(item.name, item.arguments) for item in answer.response.output] == [("unnamed", ROME)]


@pytest.mark.parametrize("given", ["0", "functions.get_weather:0", "call_1", "chatcmpl-tool-" + "f" * 32, "é/ö"])
def test_a_calls_id_is_our_own_and_carries_the_providers(given: str) -> None:
    ours = {own_call_id(given) for _ in range(50)}
    assert len(ours) == 50
    assert {provider_call_id(one) for one in ours} == {given}
    assert all(re.fullmatch("[a-zA-Z0-9_-]+", one) for one in ours)
    assert provider_call_id(given) == given


async def test_long_ids_of_calls_are_shortened_for_openai(
    server_for: Callable[[ModuleType], WireServer], router_for: Callable[..., Router]
) -> None:
    server = server_for(OPENAI.protocol).will(Reply(Words("Hi")))
    call_id = own_call_id("chatcmpl-tool-" + "f" * 32)
    call = {"type": "function_call", "call_id": call_id, "name": "get_time", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": call_id, "output": "{}"}
    await ask(router_for(OPENAI.configure(server.url)).get_model(OPENAI.model), [call, result])
    sent = {item["call_id"] for item in server.requests[0].body["input"]}
    assert len(sent) == 1
    assert len(sent.pop()) <= 64
