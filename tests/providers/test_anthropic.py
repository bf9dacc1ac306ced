"""What only Anthropic's protocol has: signed thinking, cache marks, web citations, refusals, thinking budgets."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from agents import ModelSettings, SQLiteSession

from tests.providers.calling import ask, get_time, get_weather, run
from tests.providers.cases import ANTHROPIC, CHAT
from tests.wire import Block, Call, Cited, Counted, Raw, Redacted, Reply, Thought, WireServer, Words
from timestep_lab.model.errors import SettingsError, UsageError
from timestep_lab.runtime.emitter import own_call_id
from timestep_lab.runtime.router import Router


@pytest.fixture
def server(server_for: Callable[[ModuleType], WireServer]) -> WireServer:
    return server_for(ANTHROPIC.protocol)


@pytest.fixture
def router(server: WireServer, router_for: Callable[..., Router]) -> Router:
    return router_for(ANTHROPIC.configure(server.url))


async def test_thinking_goes_back_block_for_block_with_its_signatures(server: WireServer, router: Router) -> None:
    server.will(
        Reply(
            Thought("Rome first", signature="c2ln"),
            Redacted("aGlkZGVu"),
            Words("Looking."),
            Call("get_weather", {"location": "Rome"}),
        ),
        Reply(Words("Fog.")),
    )
    await run(router, ANTHROPIC.model, "Rome?", tools=[get_weather], model_settings={"reasoning": {"effort": "low"}})
    assert server.requests[1].body["messages"][1]["content"][:3] == [
        {"type": "thinking", "thinking": "Rome first", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "aGlkZGVu"},
        {"type": "text", "text": "Looking."},
    ]


async def test_thinking_of_another_model_stays_behind(server: WireServer, router: Router) -> None:
    server.will(Reply(Thought("Mine"), Words("Hi")))
    items = (await ask(router.get_model("anthropic/claude-haiku-4-5"))).items
    await ask(router.get_model("anthropic/claude-sonnet-5"), [*items, {"role": "user", "content": "And now?"}])
    assert "Mine" not in str(server.requests[1].body)


async def test_system_text_and_the_last_tool_are_marked_for_the_cache(server: WireServer, router: Router) -> None:
    server.will(Reply(Words("Hi")))
    await ask(router.get_model(ANTHROPIC.model), instructions="Be brief.", tools=[get_weather, get_time])
    body = server.requests[0].body
    mark = {"type": "ephemeral"}
    assert body["system"] == [{"type": "text", "text": "Be brief.", "cache_control": mark}]
    assert [tool.get("cache_control") for tool in body["tools"]] == [None, mark]


async def test_a_web_citation_becomes_an_annotation_of_the_text_it_is_for(server: WireServer, router: Router) -> None:
    server.will(Reply(Words("It is so."), Cited(" They say fog.", url="https://weather.example/rome", title="Rome")))
    answer = await ask(router.get_model(ANTHROPIC.model))
    [message] = answer.response.output
    [note] = message.content[0].annotations
    assert (note.type, note.url, note.title) == ("url_citation", "https://weather.example/rome", "Rome")
    assert answer.text[note.start_index : note.end_index] == " They say fog."
    assert "response.output_text.annotation.added" in answer.types


async def test_a_refusal_without_words_is_still_an_answer(server: WireServer, router: Router) -> None:
    server.will(Reply(stop="refusal"))
    answer = await ask(router.get_model(ANTHROPIC.model))
    assert answer.response.output[0].content[0].type == "refusal"
    assert answer.timing is not None
    assert answer.timing.stop_reason == "refusal"


@pytest.mark.parametrize(
    ("model", "effort", "thinking", "output"),
    [
        ("claude-haiku-4-5", "low", {"type": "enabled", "budget_tokens": 2048}, None),
        ("claude-haiku-4-5", "none", None, None),
        ("claude-opus-4-6", "medium", {"type": "adaptive", "display": "summarized"}, {"effort": "medium"}),
        ("claude-sonnet-5", "minimal", {"type": "adaptive", "display": "summarized"}, {"effort": "low"}),
        ("claude-sonnet-5", "none", {"type": "disabled"}, None),
    ],
)
async def test_effort_is_a_budget_for_old_models_and_a_level_for_new_ones(
    server: WireServer, router: Router, model: str, effort: str, thinking: Any, output: Any
) -> None:
    server.will(Reply(Words("Hi")))
    settings = ModelSettings(reasoning={"effort": effort}, max_tokens=500)  # type: ignore[arg-type]
    await ask(router.get_model(f"anthropic/{model}"), settings=settings)
    body = server.requests[0].body
    assert (body.get("thinking"), body.get("output_config")) == (thinking, output)
    if thinking and "budget_tokens" in thinking:
        assert body["max_tokens"] > thinking["budget_tokens"]


async def test_temperature_zero_is_set_aside_where_there_is_no_temperature_and_said_to_be(
    server: WireServer, router: Router
) -> None:
    server.will(Reply(Words("Hi")))
    answer = await ask(router.get_model("anthropic/claude-sonnet-5"), settings=ModelSettings(temperature=0))
    assert "temperature" not in server.requests[0].body
    assert answer.timing is not None
    assert answer.timing.set_aside == ("temperature",)


async def test_any_other_temperature_is_refused_there(server: WireServer, router: Router) -> None:
    with pytest.raises(SettingsError, match="temperature"):
        await ask(router.get_model("anthropic/claude-sonnet-5"), settings=ModelSettings(temperature=0.7))
    assert not server.requests


@pytest.mark.parametrize(
    ("choice", "parallel", "said"),
    [
        ("auto", None, {"type": "auto"}),
        ("required", False, {"type": "any", "disable_parallel_tool_use": True}),
        ("none", False, {"type": "none"}),
        ("get_time", None, {"type": "tool", "name": "get_time"}),
        (None, None, None),
    ],
)
async def test_tool_choice_in_anthropics_words(
    server: WireServer, router: Router, choice: Any, parallel: Any, said: Any
) -> None:
    server.will(Reply(Words("Hi")))
    settings = ModelSettings(tool_choice=choice, parallel_tool_calls=parallel)
    await ask(router.get_model(ANTHROPIC.model), tools=[get_time], settings=settings)
    assert server.requests[0].body.get("tool_choice") == said


async def test_forcing_a_tool_while_reasoning_is_refused_before_it_is_sent(server: WireServer, router: Router) -> None:
    settings = ModelSettings(tool_choice="required", reasoning={"effort": "high"})  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="while reasoning"):
        await ask(router.get_model(ANTHROPIC.model), tools=[get_time], settings=settings)
    assert not server.requests


async def test_a_pdf_goes_as_a_document_and_an_address_as_one(server: WireServer, router: Router) -> None:
    server.will(Reply(Words("Read.")))
    content = [
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="},
        {"type": "input_image", "image_url": "https://example.org/a.png"},
    ]
    await ask(router.get_model(ANTHROPIC.model), [{"role": "user", "content": content}])
    document, image = server.requests[0].body["messages"][0]["content"]
    assert document["source"] == {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    assert image["source"] == {"type": "url", "url": "https://example.org/a.png"}


async def test_content_that_cannot_be_sent_is_refused(router: Router) -> None:
    content = [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}]
    with pytest.raises(UsageError, match="input_audio"):
        await ask(router.get_model(ANTHROPIC.model), [{"role": "user", "content": content}])


async def test_ids_of_calls_are_none_twice_and_in_letters_that_the_api_takes(
    server: WireServer, router: Router
) -> None:
    server.will(Reply(Words("Hi")))
    items: list[dict[str, Any]] = []
    for call_id in ("0", "0", "functions.look:0", own_call_id("functions.look:0"), own_call_id("toolu_1")):
        items += [
            {"type": "function_call", "call_id": call_id, "name": "get_time", "arguments": "{}"},
            {"type": "function_call_output", "call_id": call_id, "output": f"{len(items)}"},
        ]
    await ask(router.get_model(ANTHROPIC.model), items)
    blocks = [block for message in server.requests[0].body["messages"] for block in message["content"]]
    asked = [block["id"] for block in blocks if block["type"] == "tool_use"]
    answered = [(block["tool_use_id"], block["content"]) for block in blocks if block["type"] == "tool_result"]
    assert len(set(asked)) == 5
    assert all(re.fullmatch("[a-zA-Z0-9_-]+", one) for one in asked)
    assert answered == list(zip(asked, ["0", "2", "4", "6", "8"], strict=True))
    assert (asked[0], asked[-1]) == ("0", "toolu_1")


SEARCH = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
FOUND = {
    "type": "web_search_tool_result", "tool_use_id": "srvtoolu_1",
    "content": [
        {"type": "web_search_result", "url": "https://example.org", "title": "Fog", "encrypted_content": "eA==", "page_age": None}
    ],
}  # fmt: skip
NEW = {"type": "a_block_yet_to_come", "thing": {"a": [1]}, "text": "t"}


async def test_what_anthropics_own_tools_did_and_unknown_blocks_go_back_as_they_came(
    server: WireServer, router: Router
) -> None:
    query = '{"query": "fog in Rome"}'
    server.will(
        Reply(
            Words("Let me look."), Block(SEARCH, query), Block(FOUND), Block(NEW), Cited("There is fog."),
            Call("get_weather", {"location": "Rome"}),
        ),
        Reply(Words("Fog.")), Reply(Words("Still fog.")),
    )  # fmt: skip
    session = SQLiteSession("a-thread")
    for said in ("Fog.", "Still fog."):
        result = await run(router, ANTHROPIC.model, "Rome?", session=session, tools=[get_weather])
        assert result.final_output == said
    for request in server.requests[1:]:
        blocks = request.body["messages"][1]["content"]
        assert blocks[1:4] == [{**SEARCH, "input": {"query": "fog in Rome"}}, FOUND, NEW]
        assert [block["type"] for block in blocks] == [
            "text", "server_tool_use", "web_search_tool_result", "a_block_yet_to_come", "text", "tool_use",
        ]  # fmt: skip
        assert blocks[-1]["input"] == {"location": "Rome"}


async def test_a_search_is_seen_with_what_it_found(server: WireServer, router: Router) -> None:
    server.will(Reply(Block(SEARCH, '{"query": "fog"}'), Block(FOUND), Words("There is fog.")))
    answer = await ask(router.get_model(ANTHROPIC.model))
    assert answer.text == "There is fog."
    step = answer.response.output[0]
    assert step.summary[0].text == 'web_search {"query": "fog"}\nFog https://example.org\n'


async def test_a_search_that_was_cut_off_does_not_go_back(server: WireServer, router: Router) -> None:
    server.will(Reply(Words("Let me look."), Block(SEARCH, '{"query": "f'), stop="length"), Reply(Words("Hi")))
    model = router.get_model(ANTHROPIC.model)
    items = (await ask(model)).items
    await ask(model, [*items, {"role": "user", "content": "And now?"}])
    assert server.requests[1].body["messages"][0]["content"] == [{"type": "text", "text": "Let me look."}]


async def test_a_turn_that_the_api_pauses_is_continued_until_its_answer_as_one(
    server: WireServer, router: Router
) -> None:
    server.will(
        Reply(Thought("Rome it is"), Words("Let me look. "), Block(SEARCH, '{"query": "fog"}'), stop="pause_turn", counted=Counted(20, 5)),
        Reply(Block(FOUND), Block({**SEARCH, "id": "srvtoolu_2"}, '{"query": "sun"}'), stop="pause_turn", counted=Counted(30, 6)),
        Reply(Block({**FOUND, "tool_use_id": "srvtoolu_2"}), Cited("There is fog."), Call("get_weather", {"location": "Rome"}), counted=Counted(40, 7)),
        Reply(Words("Fog."), counted=Counted(50, 8)),
    )  # fmt: skip
    result = await run(router, ANTHROPIC.model, "Rome?", tools=[get_weather])
    assert result.final_output == "Fog."
    first, second, third, last = ([*request.body["messages"]] for request in server.requests)
    assert (second[:-1], third[:-1]) == (first, first)
    search, again = {**SEARCH, "input": {"query": "fog"}}, {**SEARCH, "id": "srvtoolu_2", "input": {"query": "sun"}}
    begun = [
        {"type": "thinking", "thinking": "Rome it is", "signature": "c2lnbmF0dXJl"},
        {"type": "text", "text": "Let me look. "},
    ]
    assert second[-1] == {"role": "assistant", "content": [*begun, search]}
    assert third[-1] == {"role": "assistant", "content": [*begun, search, FOUND, again]}
    said, answered = last[1:]
    assert said["content"][:6] == [*begun, search, FOUND, again, {**FOUND, "tool_use_id": "srvtoolu_2"}]
    assert [block["type"] for block in said["content"][6:]] == ["text", "tool_use"]
    assert answered["content"][0]["type"] == "tool_result"
    used = result.context_wrapper.usage
    assert (used.input_tokens, used.output_tokens) == (140, 26)


async def test_a_turn_that_is_paused_in_its_text_goes_on_in_the_same_message(
    server: WireServer, router: Router
) -> None:
    server.will(Reply(Words("There "), stop="pause_turn"), Reply(Words("is fog.")))
    answer = await ask(router.get_model(ANTHROPIC.model))
    assert (answer.text, len(answer.response.output)) == ("There is fog.", 1)
    assert server.requests[1].body["messages"][-1] == {
        "role": "assistant",
        "content": [{"type": "text", "text": "There"}],
    }


async def test_a_paused_turn_whose_code_runs_in_a_container_goes_on_in_it(server: WireServer, router: Router) -> None:
    pieces = ANTHROPIC.protocol.pieces(Reply(Words("Running."), stop="pause_turn"), {"model": "m"})
    box = b'"delta": {"container": {"id": "box_1", "expires_at": "2026-12-01T00:00:00Z"}, "stop_reason"'
    server.will(Raw(tuple(piece.replace(b'"delta": {"stop_reason"', box) for piece in pieces)), Reply(Words(" Done.")))
    assert (await ask(router.get_model(ANTHROPIC.model))).text == "Running. Done."
    assert "container" not in server.requests[0].body
    assert server.requests[1].body["container"] == "box_1"


async def test_a_turn_that_is_paused_without_end_is_an_unfinished_answer(server: WireServer, router: Router) -> None:
    server.will(Reply(Words("."), stop="pause_turn"))
    answer = await ask(router.get_model(ANTHROPIC.model))
    assert answer.response.output[0].status == "incomplete"
    assert answer.response.metadata["stop_reason"] == "pause_turn"
    assert len(server.requests) == answer.response.usage.output_tokens / 5 == 20


async def test_what_one_models_tools_did_is_not_sent_to_another_provider(
    server: WireServer,
    router: Router,
    server_for: Callable[[ModuleType], WireServer],
    router_for: Callable[..., Router],
) -> None:
    server.will(Reply(Block(SEARCH, '{"query": "fog"}'), Block(FOUND), Block(NEW), Words("There is fog.")))
    items = (await ask(router.get_model(ANTHROPIC.model))).items
    chat = server_for(CHAT.protocol).will(Reply(Words("Hi")))
    other = router_for(CHAT.configure(chat.url)).get_model(CHAT.model)
    await ask(other, [*items, {"role": "user", "content": "And now?"}])
    assert [(m["role"], m["content"]) for m in chat.requests[0].body["messages"]] == [
        ("assistant", "There is fog."), ("user", "And now?"),
    ]  # fmt: skip


async def test_blocks_that_are_told_whole_with_their_beginning_are_read_and_go_back_whole(
    server: WireServer, router: Router
) -> None:
    """As some servers of this API tell them, without any piece behind."""
    thinking = {"type": "thinking", "thinking": "Rome it is", "signature": "c2ln"}
    asked = {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"location": "Rome"}}
    again = {"type": "tool_use", "id": "t2", "name": "get_weather", "input": {"location": "Oslo"}}
    server.will(
        Reply(Block(thinking), Words("Looking."), Block(asked), Block(again), stop="tool_calls"), Reply(Words("Fog.")),
    )  # fmt: skip
    result = await run(router, ANTHROPIC.model, "Rome?", tools=[get_weather])
    assert result.final_output == "Fog."
    assert result.new_items[0].raw_item.summary[0].text == "Rome it is"
    _, said, answered = server.requests[1].body["messages"]
    assert said["content"] == [thinking, {"type": "text", "text": "Looking."}, asked, again]
    assert [(block["tool_use_id"], "Fog" in block["content"]) for block in answered["content"]] == [
        ("t1", True),
        ("t2", True),
    ]


@pytest.mark.parametrize("end", [b"\n\n", b"\n", b"\r\n\r\n"])
async def test_a_stream_whose_events_are_not_named_is_read_by_their_data(
    server: WireServer, router: Router, end: bytes
) -> None:
    called = Reply(Thought("Rome it is"), Words("Looking."), Call("get_weather", {"location": "Rome"}))
    pieces = ANTHROPIC.protocol.pieces(called, {"model": "m"})
    whole = b"".join(piece.partition(b"\n")[2].rstrip() + end for piece in pieces)
    server.will(Raw(tuple(whole[at : at + 7] for at in range(0, len(whole), 7))), Reply(Words("Fog.")))
    result = await run(router, ANTHROPIC.model, "Rome?", tools=[get_weather])
    assert result.final_output == "Fog."
    kinds = [block["type"] for block in server.requests[1].body["messages"][1]["content"]]
    assert kinds == ["thinking", "text", "tool_use"]
    assert server.requests[1].body["messages"][1]["content"][2]["input"] == {"location": "Rome"}


async def test_a_server_that_tells_neither_beginnings_nor_places_of_blocks_loses_no_text(
    server: WireServer, router: Router
) -> None:
    usual = ANTHROPIC.protocol.pieces(Reply(Words("Alpha beta"), counted=Counted(7, 3)), {"model": "m"})
    told = [piece.replace(b'"index": 0', b'"index": -1') for piece in usual if b"block_st" not in piece]
    server.will(Raw(tuple(told)))
    assert (await ask(router.get_model(ANTHROPIC.model))).text == "Alpha beta"


async def test_calls_whose_pieces_come_mixed_and_a_stream_without_its_last_event_are_read_as_they_were_meant(
    server: WireServer, router: Router
) -> None:
    reply = Reply(Call("get_weather", {"location": "Rome"}, "t1"), Call("get_weather", {"location": "Oslo"}, "t2"))
    pieces = list(ANTHROPIC.protocol.pieces(reply, {"model": "m"}))[:-1]  # without message_stop
    first, second = ([one for one in pieces if f'"index": {n}'.encode() in one] for n in (0, 1))
    mixed = [piece for pair in zip(first, second, strict=True) for piece in pair]
    server.will(Raw((*pieces[:2], *mixed, pieces[-1])), Reply(Words("Fog.")))
    result = await run(router, ANTHROPIC.model, "Where?", tools=[get_weather])
    assert result.final_output == "Fog."
    blocks = server.requests[1].body["messages"][1]["content"]
    assert [(block["id"], block["input"]) for block in blocks] == [
        ("t1", {"location": "Rome"}),
        ("t2", {"location": "Oslo"}),
    ]
