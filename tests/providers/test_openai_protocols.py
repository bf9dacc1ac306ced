"""What only OpenAI's two protocols have."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from agents import FunctionTool, ModelSettings, SQLiteSession, WebSearchTool

from tests.providers.calling import ask, get_time, get_weather, run
from tests.providers.cases import CASES, CHAT, OPENAI, Case
from tests.wire import Call, Deltas, Fault, Instead, Raw, Reply, Thought, WireServer, Words, chat_completions
from tests.wire.server import sse
from timestep_lab.model.errors import ProviderError, ProviderRequestError, RateLimitError, SettingsError
from timestep_lab.runtime.emitter import own_call_id, provider_call_id
from timestep_lab.runtime.provider_errors import NO_RETRY
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
        pytest.param((calls({"index": 0, "id": "c1", "name": N, "arguments": ""}), calls({"index": 1, "arguments": ROME[:8]}), calls({"index": 2, "id": "", "name": "", "arguments": ROME[8:]}),), ["Rome"], "", id="an_index_that_counts_the_pieces"),
        pytest.param((calls({"index": 0, "id": "c1", "name": N, "arguments": ROME}), calls({"index": 0, "id": "c2", "name": N, "arguments": ""}), calls({"index": 1, "arguments": OSLO}),), ["Rome", "Oslo"], "", id="a_second_call_begun_at_the_index_of_the_first"),
        pytest.param((calls({"index": 0, "id": "c1", "name": N, "arguments": ""}), calls({"index": 0, "arguments": ROME[:8]}), calls({"index": 0, "arguments": ROME[8:]}), calls({"index": 0, "arguments": ROME}),), ["Rome"], "", id="all_arguments_once_more_at_the_end"),
        pytest.param((calls({"index": 1, "id": "c1", "name": N, "arguments": ""}), calls({"index": 0, "arguments": ROME}), calls({"index": 0, "id": "c2", "name": N, "arguments": ""}), calls({"index": 1, "arguments": OSLO})), ["Rome", "Oslo"], "", id="an_index_that_counts_functions_at_first_and_calls_later"),
        pytest.param((calls({"index": 0, "id": "c1", "name": N, "arguments": ""}), calls({"index": 0, "id": "c2", "name": N, "arguments": ""}), *(calls({"index": 0, "id": id, "arguments": part}) for id, part in (("c1", ROME[:8]), ("c2", OSLO[:9]), ("c1", ROME[8:]), ("c2", OSLO[9:])))), ["Rome", "Oslo"], "", id="interleaved_by_id_at_one_index"),
        pytest.param((calls({"id": "c1", "name": N}), calls({"id": "c2", "name": N}), *(calls({"id": id, "arguments": part}) for id, part in (("c1", ROME[:8]), ("c2", OSLO[:9]), ("c1", ROME[8:]), ("c2", OSLO[9:])))), ["Rome", "Oslo"], "", id="interleaved_by_id_without_index"),
        pytest.param((calls({"index": 0, "id": "c1", "name": N, "arguments": ""}), calls({"index": 1, "id": "c1", "arguments": ROME[:8]}), calls({"index": 2, "id": "c1", "arguments": ROME[8:]})), ["Rome"], "", id="an_index_that_counts_pieces_of_one_id"),
        pytest.param((calls({"index": 0, "name": N, "arguments": ""}), calls({"index": 0, "arguments": ROME}), calls({"index": 0, "name": N, "arguments": ""}), calls({"index": 0, "arguments": OSLO[:9]}), calls({"index": 0, "arguments": OSLO[9:]})), ["Rome", "Oslo"], "", id="no_ids_every_index_0_and_the_name_ahead_of_the_arguments"),
        pytest.param((calls({"name": N, "arguments": ROME}), calls({"name": N, "arguments": OSLO})), ["Rome", "Oslo"], "", id="neither_ids_nor_index"),
        pytest.param((calls({"index": 0, "id": "c1", "arguments": ROME}), calls({"index": 0, "name": N})), ["Rome"], "", id="name_after_the_arguments"),
        pytest.param((calls({"index": 0, "id": "c1", "name": "get_", "arguments": ""}), calls({"index": 0, "name": "wea"}), calls({"index": 0, "name": "ther"}), calls({"index": 0, "arguments": ROME})), ["Rome"], "", id="name_in_pieces"),
        pytest.param((calls({"index": 0, "id": "c1", "name": "get"}), calls({"index": 0, "id": "c1", "name": "get_weather"}), calls({"index": 0, "id": "c1", "name": "get_weather", "arguments": ROME})), ["Rome"], "", id="name_longer_each_time"),
        pytest.param((calls({"index": 0, "id": "c1", "name": "get_"}), calls({"index": 1, "id": "c2", "name": "get_"}), calls({"index": 0, "name": "weather"}), calls({"index": 1, "name": "weather"}), calls({"index": 1, "arguments": OSLO}), calls({"index": 0, "arguments": ROME})), ["Rome", "Oslo"], "", id="names_in_pieces_interleaved"),
        pytest.param((calls({"index": 0, "id": "c1", "name": N, "arguments": ROME}), calls({"index": 0, "arguments": "\n"}), calls({"index": 0, "arguments": None})), ["Rome"], "", id="an_empty_line_and_null_behind_the_arguments"),
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


def chunk(delta: Any = None, finish: Any = None, **more: Any) -> dict[str, Any]:
    beside = {name: more.pop(name) for name in ("message", "text", "index", "native_finish_reason") if name in more}
    choice = {"index": 0, "finish_reason": finish, **beside, **({} if delta is None else {"delta": delta})}
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}


HELLO, OVER = chunk({"content": "Hello"}), chunk({}, "stop")
COUNTED = {"prompt_tokens": 7, "completion_tokens": 3}


@pytest.mark.parametrize(
    ("chunks", "thought", "counted"),
    [
        pytest.param([{"choices": [], "id": "", "prompt_filter_results": [{}]}, HELLO, OVER, chunk(content_filter_results={})], "", None, id="azures_content_filter"),
        pytest.param([HELLO, chunk({}, "stop", x_groq={"id": "r", "usage": COUNTED})], "", (7, 3, 0), id="groqs_usage"),
        pytest.param([HELLO, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": COUNTED}]}], "", (7, 3, 0), id="kimis_usage_in_the_choice"),
        pytest.param([HELLO, OVER, {"choices": [], "usage": {**COUNTED, "prompt_cache_hit_tokens": 5}}], "", (7, 3, 5), id="deepseeks_cache"),
        pytest.param([HELLO, OVER, {"choices": [], "usage": {**COUNTED, "total_tokens": 104, "completion_tokens_details": {"reasoning_tokens": 94}}}], "", (7, 97, 0), id="xais_reasoning_beside_the_output"),
        pytest.param([HELLO, OVER, {"choices": [], "usage": {**COUNTED, "total_tokens": 104}}], "", (7, 97, 0), id="geminis_reasoning_in_the_total_only"),
        pytest.param([HELLO, OVER, {"choices": [], "usage": {**COUNTED, "total_tokens": 1010, "prompt_tokens_details": {"cached_tokens": 1000}}}], "", (7, 3, 1000), id="a_total_with_what_was_cached"),
        pytest.param([HELLO, chunk({"content": "", "annotations": [{"type": "url_citation", "url_citation": {"url": "https://a.b", "title": None, "start_index": 0, "end_index": 0}}]}), OVER], "", None, id="a_citation_without_a_title"),
        pytest.param([HELLO, OVER, {"choices": [], "usage": {"prompt_tokens": "7", "completion_tokens": 3.0}}], "", (7, 3, 0), id="counts_as_text_and_fractions"),
        pytest.param([HELLO, OVER, {"choices": [], "usage": {"input_tokens": 7, "output_tokens": 3}}], "", (7, 3, 0), id="counts_by_the_other_apis_names"),
        pytest.param([chunk({"content": "Hello"}, usage=COUNTED), chunk({}, "stop", usage={"prompt_tokens": 0, "completion_tokens": 0})], "", (7, 3, 0), id="zeros_behind_the_count"),
        pytest.param([chunk({"content": "Hello"}, usage={"prompt_tokens": 7, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 5}}), chunk({}, "stop", usage={"prompt_tokens": 0, "completion_tokens": 3, "total_tokens": 10})], "", (7, 3, 5), id="the_input_first_and_the_output_last"),
        pytest.param([*(chunk({"content": part}, usage={"prompt_tokens": 7, "completion_tokens": n}) for n, part in enumerate(("He", "l", "lo"), 1)), OVER], "", (7, 3, 0), id="vllms_usage_so_far_in_every_chunk"),
        pytest.param([HELLO, OVER, {"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}], "", None, id="nothing_but_zeros"),
        pytest.param([HELLO, OVER, {"choices": [], "usage": {"seconds": 1}}], "", None, id="a_usage_that_counts_no_tokens"),
        pytest.param([chunk({"content": "Hel"}, message={"content": "Hel"}), chunk({"content": "lo"}, message={"content": "Hello"}), chunk({}, "stop", message={"content": "Hello"})], "", None, id="perplexitys_whole_message_beside_each_delta"),
        pytest.param([chunk(text="Hel"), chunk({"content": "lo"}), OVER], "", None, id="a_text_in_place_of_a_delta"),
        pytest.param([chunk({"content": "Hello"}, ""), OVER, chunk({"content": "Bye"}, index=1)], "", None, id="an_empty_reason_and_another_choice"),
        pytest.param([HELLO, chunk({}, {"type": "stop", "matched": 2})], "", None, id="sglangs_reason_that_is_an_object"),
        pytest.param([chunk({"reasoning": "Hm", "reasoning_content": "Hm"}), HELLO, OVER], "Hm", None, id="vllms_reasoning_under_two_names"),
        pytest.param([chunk({"reasoning": "Hm", "reasoning_details": [{"type": "reasoning.text", "text": "Hm"}]}), HELLO, OVER], "Hm", None, id="openrouters_reasoning_told_twice"),
        pytest.param([chunk({"thinking": "Hm"}), HELLO, OVER], "Hm", None, id="reasoning_as_thinking"),
        pytest.param([chunk({"content": "He"}, "null"), chunk({"content": "llo"}, "stop")], "", None, id="dashscopes_reason_that_is_the_word_null"),
        pytest.param([chunk({"audio": {"id": "a", "transcript": "Hel"}}), chunk({"audio": {"transcript": "lo", "data": "AAAA"}}), OVER], "", None, id="the_words_of_an_answer_that_is_audio"),
        pytest.param([chunk({"reasoning_details": [{"type": "reasoning.summary", "summary": "Hm"}]}), HELLO, OVER], "Hm", None, id="openrouters_details_alone"),
    ],
)  # fmt: skip
async def test_an_answer_is_read_in_the_odd_forms_in_which_servers_send_it(
    chat: WireServer, router_for: Callable[..., Router], chunks: Any, thought: str, counted: Any
) -> None:
    chat.will(Raw((*map(sse, chunks), sse("[DONE]"))))
    answer = await ask(router_for(CHAT.configure(chat.url)).get_model(CHAT.model))
    assert answer.text == "Hello"
    assert "".join(one.delta for one in answer.events if one.type.endswith("summary_text.delta")) == thought
    usage = answer.response.usage
    told = usage and (usage.input_tokens, usage.output_tokens, usage.input_tokens_details.cached_tokens)
    assert (told, answer.response.metadata["stop_reason"]) == (counted, "stop")


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param((b"\xef\xbb\xbf", sse(HELLO), sse(OVER), sse("[DONE]")), id="a_byte_order_mark"),
        pytest.param((b"data: \n\nretry: 9\nid: 1\n\n", sse(HELLO), b"event: ping\ndata: ping\n\n", sse(OVER), sse("[DONE]")), id="events_that_keep_alive"),
        pytest.param((sse(HELLO).rstrip(b"\n"), b"\n", sse(OVER).rstrip(b"\n"), b"\n", sse("[DONE]")), id="no_empty_line_between_events"),
        pytest.param((sse(HELLO), b"data:  [DONE] \n\n"), id="spaces_around_the_end"),
        pytest.param((sse(HELLO), sse(OVER).rstrip()), id="no_empty_line_at_the_end"),
        pytest.param((sse(OVER), sse(HELLO).rstrip()), id="text_without_an_empty_line_at_the_end"),
        pytest.param((sse(HELLO), b"data: [DONE]"), id="an_end_without_an_empty_line"),
        pytest.param((sse(HELLO).replace(b"\n", b"\r\n"), b": OPENROUTER PROCESSING\r\n\r\n", sse(OVER).replace(b"\n", b"\r\n")), id="crlf_and_comments"),
        pytest.param((b": ok\n", sse(HELLO).replace(b"data: ", b"data:").rstrip() + b"\n", b": ok\n", sse(OVER)), id="comments_between_events_that_no_empty_line_ends"),
    ],
)  # fmt: skip
async def test_a_stream_is_read_in_the_odd_forms_in_which_gateways_send_it(
    chat: WireServer, router_for: Callable[..., Router], pieces: tuple[bytes, ...]
) -> None:
    chat.will(Raw(pieces))
    answer = await ask(router_for(CHAT.configure(chat.url)).get_model(CHAT.model))
    assert answer.text == "Hello"


async def test_usage_that_comes_behind_the_end_is_counted_and_not_waited_for_long(
    chat: WireServer, router_for: Callable[..., Router]
) -> None:
    model = router_for(CHAT.configure(chat.url)).get_model(CHAT.model)
    usage = sse({"choices": [], "usage": COUNTED})
    endless = 60 * (sse({"ping": 1}),)
    for behind, silent_s, apart_s, counted in (
        ((usage, sse({"error": "x"})), 0, 0, 7),
        ((), 5, 0, None),
        (endless, 0, 0.1, None),
    ):
        chat.forget().will(Raw((sse(HELLO), sse(OVER), sse("[DONE]"), *behind), silent_s=silent_s, apart_s=apart_s))
        answer = await ask(model)
        assert answer.text == "Hello"
        assert (answer.response.usage and answer.response.usage.input_tokens) == counted
        assert answer.timing is not None
        assert answer.timing.duration_ms < 4000


@pytest.mark.parametrize(
    ("chunks", "error", "said"),
    [
        ([{"detail": "Not enough quota."}], ProviderError, "Not enough quota"),
        ([HELLO, {"code": 500, "msg": "busy", "data": None}], ProviderError, "busy"),
        ([{"base_resp": {"status_code": 1004, "status_msg": "login fail"}, "choices": None}], ProviderError, "login fail"),
        ([chunk({"content": ""}, "stop", native_finish_reason="network_error")], ProviderError, "network_error"),
        ([HELLO, {"error": {"code": 429, "message": "Slow down."}, "choices": []}], RateLimitError, "Slow down"),
    ],
)  # fmt: skip
async def test_why_there_is_no_whole_answer_is_told_in_the_servers_words(
    chat: WireServer, router_for: Callable[..., Router], chunks: Any, error: type[ProviderError], said: str
) -> None:
    chat.will(Raw((*map(sse, chunks), sse("[DONE]"))))
    model = router_for(CHAT.configure(chat.url), NO_RETRY).get_model(CHAT.model)
    with pytest.raises(error, match=said):
        await ask(model)


async def test_a_character_that_a_server_cuts_in_two_is_told_as_one(
    chat: WireServer, router_for: Callable[..., Router]
) -> None:
    halves = [
        {"reasoning_content": "\ud83d"}, {"reasoning_content": "\ude00"}, {"content": "a\ud83d"}, {"content": "\ude00b"},
    ]  # fmt: skip
    chat.will(Raw((*(sse(json.dumps(chunk(half))) for half in halves), sse(OVER), sse("[DONE]"))))
    answer = await ask(router_for(CHAT.configure(chat.url)).get_model(CHAT.model))
    assert answer.text == "a😀b"
    assert [one.delta for one in answer.events if one.type.endswith("summary_text.delta")] == ["😀"]


async def test_what_a_server_signs_with_a_call_it_hears_again_and_no_other_model_does(
    chat: WireServer, router_for: Callable[..., Router]
) -> None:
    """Gemini refuses a call without its signature, OpenRouter passes reasoning on to models that do."""
    signed = {"google": {"thought_signature": "U0lH"}}
    piece = calls({"index": 0, "id": "0", "name": N, "arguments": ROME, "extra_content": signed})
    details = [{"type": "reasoning.text", "index": 0, "text": part} for part in ("Ro", "me")]
    details += [{"type": "reasoning.encrypted", "index": 1, "data": "RU5D"}]
    parts = [{"reasoning_details": [detail]} for detail in details]
    chat.will(Reply(Deltas(*parts, piece)), Reply(Deltas(calls({"index": 0, "id": "0", "name": N, "arguments": OSLO}))), Reply(Words("Fog.")))  # fmt: skip
    router = router_for(CHAT.configure(chat.url))
    done = await run(router, CHAT.model, "Where?", tools=[get_weather])
    first, second = (message for message in chat.requests[2].body["messages"] if message.get("tool_calls"))
    assert first["tool_calls"][0]["extra_content"] == signed
    assert first["reasoning_details"] == [{**details[0], "text": "Rome"}, details[2]]
    assert "extra_content" not in second["tool_calls"][0]
    assert "reasoning_details" not in second
    await ask(router.get_model("openai/another-model"), done.to_input_list())
    assert "U0lH" not in json.dumps(chat.requests[-1].body)
    assert "RU5D" not in json.dumps(chat.requests[-1].body)


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


async def test_two_functions_that_are_called_without_ids_arguments_and_places_are_two_calls(
    chat: WireServer, router_for: Callable[..., Router]
) -> None:
    named = [calls({"index": 0, "name": tool.name, "arguments": ""}) for tool in (get_weather, get_time)]
    chat.will(Reply(Deltas(*named)))
    answer = await ask(router_for(CHAT.configure(chat.url)).get_model(CHAT.model), tools=[get_weather, get_time])
    assert [item.name for item in answer.response.output] == ["get_weather", "get_time"]


async def test_a_function_whose_name_another_begins_with_is_called_by_its_own_name(
    chat: WireServer, router_for: Callable[..., Router]
) -> None:
    async def say(_: Any, given: str) -> str:
        return given

    schema = {"type": "object", "properties": {"location": {"type": "string"}}}
    tools = [FunctionTool(name, "", schema, say, strict_json_schema=False) for name in ("get", "get_weather")]
    model = router_for(CHAT.configure(chat.url)).get_model(CHAT.model)
    for pieces, name in ((("get",), "get"), (("get", "get"), "get"), (("get", "_weather"), "get_weather")):
        named = [calls({"index": 0, "id": "c1", "name": piece}) for piece in pieces]
        chat.forget().will(Reply(Deltas(*named, calls({"index": 0, "arguments": ROME}))))
        answer = await ask(model, tools=tools)
        assert [(item.name, item.arguments) for item in answer.response.output] == [(name, ROME)]
        chat.forget().will(Reply(Deltas(*named)))
        answer = await ask(model, tools=tools)
        assert [(item.name, item.arguments) for item in answer.response.output] == [(name, "{}")]


MISTRALS_WORDS = {
    "object": "error", "message": "Tool call id was toolu_01 but must be a-z, A-Z, 0-9, with a length of 9.",
    "type": "invalid_function_call", "param": None, "code": "3280",
}  # fmt: skip


def calling(call_id: str, place: str = "Rome") -> list[dict[str, Any]]:
    call = {"type": "function_call", "call_id": call_id, "name": N, "arguments": f'{{"location": "{place}"}}'}
    return [call, {"type": "function_call_output", "call_id": call_id, "output": place}]


def ids_in(body: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(of calls, of answers)"""
    messages = body["messages"]
    asked = [call["id"] for message in messages for call in message.get("tool_calls") or ()]
    return asked, [message["tool_call_id"] for message in messages if message["role"] == "tool"]


@pytest.mark.parametrize("case", [case for case in CASES if case.protocol is chat_completions], ids=str)
async def test_ids_of_calls_that_a_server_refuses_are_sent_in_the_form_that_every_server_takes(
    server: WireServer, case: Case, router_for: Callable[..., Router]
) -> None:
    ask_again = [
        {"role": "user", "content": "Hi"},
        *calling("toolu_01"),
        *calling("toolu_01", "Oslo"),
        *calling("AbC123xyz"),
    ]
    server.will(Instead(json.dumps(MISTRALS_WORDS), 400), Reply(Words("Fog.")))
    model = router_for(case.configure(server.url), NO_RETRY).get_model(case.model)
    for _ in range(2):
        assert (await ask(model, ask_again, tools=[get_weather])).text == "Fog."
    refused, *taken = [ids_in(request.body) for request in server.requests]
    assert refused[0] == ["toolu_01", "toolu_01", "AbC123xyz"]
    assert len(taken) == 2  # it is refused once
    for asked, answered in taken:
        assert asked == answered
        assert len(set(asked)) == 3
        assert asked[-1] == "AbC123xyz"
        assert all(re.fullmatch("[a-zA-Z0-9]{9}", one) for one in asked)
    assert taken[0] == taken[1]


async def test_a_refusal_that_was_not_about_ids_is_told_as_it_was_and_changes_none(
    chat: WireServer, router_for: Callable[..., Router]
) -> None:
    chat.will(Fault(400), Fault(400), Reply(Words("Fog.")), Fault(400))
    model = router_for(CHAT.configure(chat.url), NO_RETRY).get_model(CHAT.model)
    with pytest.raises(ProviderRequestError, match="This is what the provider said"):
        await ask(model, calling("toolu_01"))
    await ask(model, calling("toolu_01"))
    assert ids_in(chat.requests[2].body)[0] == ["toolu_01"]
    with pytest.raises(ProviderRequestError):
        await ask(model, calling("toolu_01"))
    assert len(chat.requests) == 4  # it had taken such ids


def forbidden(*where: Any) -> dict[str, Any]:
    detail = [
        {"type": "extra_forbidden", "loc": ["body", *where], "msg": "Extra inputs are not permitted", "input": "x"}
    ]
    return {
        "object": "error",
        "message": {"detail": detail},
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


@pytest.mark.parametrize(
    "gateway", [lambda said: said, lambda said: {"error": {"message": f"MistralException - {json.dumps(said)}"}}]
)
async def test_what_nobody_asked_for_is_not_sent_again_to_a_server_that_refuses_it(
    chat: WireServer, router_for: Callable[..., Router], gateway: Callable[[Any], Any]
) -> None:
    """Mistral takes neither `stream_options` nor `reasoning_content`."""
    thought = {
        "type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "Hm"}],
        "provider_data": {"model": "*", "field": "reasoning_content"},
    }  # fmt: skip
    said = {
        "type": "message",
        "id": "m",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Hi", "annotations": []}],
    }
    conversation = [
        {"role": "user", "content": "Hi"},
        thought,
        {**said, "status": "completed"},
        {"role": "user", "content": "And?"},
    ]
    refusals = (("stream_options", "include_usage"), ("messages", 1, "assistant", "reasoning_content"))
    chat.will(*(Instead(json.dumps(gateway(forbidden(*where))), 422) for where in refusals), Reply(Words("Fog.")))
    model = router_for(CHAT.configure(chat.url), NO_RETRY).get_model(CHAT.model)
    for _ in range(2):
        assert (await ask(model, conversation)).text == "Fog."
    sent = [("stream_options" in r.body, "reasoning_content" in r.body["messages"][1]) for r in chat.requests]
    assert sent == [(True, True), (False, True), (False, False), (False, False)]
    assert chat.requests[-1].body["messages"][1]["content"] == "Hi"


async def test_what_was_asked_for_and_is_refused_is_told(chat: WireServer, router_for: Callable[..., Router]) -> None:
    chat.will(Instead(json.dumps(forbidden("stream_options")), 422))
    model = router_for(CHAT.configure(chat.url), NO_RETRY).get_model(CHAT.model)
    with pytest.raises(ProviderRequestError, match="stream_options: Extra inputs"):
        await ask(model, settings=ModelSettings(include_usage=True))
    with pytest.raises(ProviderRequestError):
        await ask(model, settings=ModelSettings(top_p=0.5, include_usage=False))
    assert len(chat.requests) == 3


async def test_what_litellm_signs_it_hears_again(chat: WireServer, router_for: Callable[..., Router]) -> None:
    """With Claude behind it, thinking with its signature; with Gemini, the signature of the call."""
    blocks = [
        {"type": "thinking", "thinking": part, "signature": sign}
        for part, sign in (("Ro", None), ("me", None), ("", "U0lH"))
    ]
    redacted = {"type": "redacted_thinking", "data": "RU5D"}
    parts = [{"reasoning_content": block["thinking"], "thinking_blocks": [block]} for block in blocks]
    signed = {"thought_signature": "U0lO"}
    piece = calls({"index": 0, "id": "c", "name": N, "arguments": ROME, "provider_specific_fields": signed})
    chat.will(Reply(Deltas(*parts, {"thinking_blocks": [redacted]}, piece)), Reply(Words("Fog.")))
    done = await run(router_for(CHAT.configure(chat.url)), CHAT.model, "Where?", tools=[get_weather])
    assert "".join(part.text for part in done.new_items[0].raw_item.summary) == "Rome"
    sent = chat.requests[1].body["messages"][2]
    assert sent["thinking_blocks"] == [{"type": "thinking", "thinking": "Rome", "signature": "U0lH"}, redacted]
    assert sent["tool_calls"][0]["provider_specific_fields"] == signed


async def test_thoughts_of_gemini_are_reasoning_and_go_back_as_they_came(
    chat: WireServer, router_for: Callable[..., Router]
) -> None:
    flagged = {"extra_content": {"google": {"thought": True}}}
    for deltas in (
        ({"content": "<thought>Hm", **flagged}, {"content": " so", **flagged}, {"content": "</thought>Rome."}),
        ({"content": "<thought>Hm so</thought>Rome."},),
        ({"content": "<thou"}, {"content": "ght>Hm so</tho"}, {"content": "ught>Rome."}),
    ):
        chat.forget().will(Reply(Deltas(*deltas), stop="stop"), Reply(Words("Fog.")))
        router, session = router_for(CHAT.configure(chat.url)), SQLiteSession("a-thread")
        done = await run(router, CHAT.model, "Where?", session=session)
        assert done.final_output == "Rome."
        assert "".join(part.text for part in done.new_items[0].raw_item.summary) == "Hm so"
        await run(router, CHAT.model, "And?", session=session)
        assert chat.requests[1].body["messages"][2]["content"] == "<thought>Hm so</thought>\n\nRome."
    chat.forget().will(Reply(Deltas({"content": "Hm", **flagged}, {"content": "Rome."}), stop="stop"))
    done = await run(router_for(CHAT.configure(chat.url)), CHAT.model, "Where?")
    assert done.final_output == "Rome."
