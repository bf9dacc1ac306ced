"""What every adapter must do with a good answer, each against a server that speaks its provider's protocol."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from agents import FunctionTool, ModelSettings, SQLiteSession
from pydantic import BaseModel

from tests.files.test_text_of_files import pdf
from tests.providers.calling import ask, get_time, get_weather, run
from tests.providers.cases import CASES, Case
from tests.wire import (
    Call,
    Counted,
    Reply,
    Thought,
    WireServer,
    Words,
    anthropic_messages,
    chat_completions,
    ollama_chat,
)
from timestep_lab.model.errors import SettingsError
from timestep_lab.runtime.router import Router
from timestep_lab.server.openai_api.chat import read_messages

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="


async def test_text_arrives_in_the_pieces_it_was_sent_in(model: Any, server: WireServer) -> None:
    server.will(Reply(Words("Hello to you")))
    answer = await ask(model)
    deltas = [event.delta for event in answer.events if event.type == "response.output_text.delta"]
    assert deltas == ["Hello", " to", " you"]
    assert answer.text == "Hello to you"


async def test_the_server_hears_the_model_the_instructions_and_the_key(
    model: Any, server: WireServer, case: Case
) -> None:
    server.will(Reply(Words("Yes")))
    await ask(model, "Are you there?", instructions="Be brief.")
    heard = server.requests[0]
    assert heard.body["model"] == case.name_on_wire
    assert "Be brief." in json.dumps(heard.body)
    assert "Are you there?" in json.dumps(heard.body)
    sent = heard.headers.get("authorization", "")
    if case.key is not None:
        assert sent == f"Bearer {case.key}"
    assert "of-another-provider" not in sent
    assert "for-the-cloud" not in sent


async def test_a_message_is_told_in_the_order_of_the_responses_api(model: Any, server: WireServer) -> None:
    server.will(Reply(Words("One two")))
    types = (await ask(model)).types
    assert types[:2] == ["response.created", "response.in_progress"]
    assert types[2:] == [
        "response.output_item.added", "response.content_part.added", "response.output_text.delta",
        "response.output_text.delta", "response.output_text.done", "response.content_part.done",
        "response.output_item.done", "response.completed",
    ]  # fmt: skip


async def test_sequence_numbers_grow_and_every_delta_belongs_to_an_item_that_was_added(
    model: Any, server: WireServer
) -> None:
    server.will(Reply(Thought("Hm so"), Words("On it"), Call("get_weather", {"location": "Rome"})))
    answer = await ask(model, tools=[get_weather])
    numbers = [event.sequence_number for event in answer.events]
    assert numbers == sorted(set(numbers))
    added: set[str] = set()
    for event in answer.events:
        if event.type == "response.output_item.added":
            added.add(event.item.id)
        if hasattr(event, "item_id"):
            assert event.item_id in added
    assert {item.id for item in answer.response.output} == added


async def test_no_id_is_used_twice_over_two_turns(model: Any, server: WireServer) -> None:
    server.will(Reply(Words("First")), Reply(Words("Second"), Call("get_time", {"zone": "UTC"})))
    first, second = await ask(model), await ask(model, tools=[get_time])
    ids = [thing.id for answer in (first, second) for thing in (answer.response, *answer.response.output)]
    assert len(set(ids)) == len(ids) == 5
    assert all(len(one) > 5 and "fake" not in one for one in ids)


async def test_several_calls_of_one_turn_run_and_go_back_as_one_turn(
    server: WireServer, case: Case, router_for: Callable[..., Router]
) -> None:
    server.will(
        Reply(
            Words("Looking."), Call("get_weather", {"location": "Rome"}, "call_a"),
            Call("get_time", {"zone": "Europe/Rome"}, "call_b"),
        ),
        Reply(Words("Fog at noon.")),
    )  # fmt: skip
    result = await run(router_for(case.configure(server.url)), case.model, "Rome?", tools=[get_weather, get_time])
    assert result.final_output == "Fog at noon."
    assert [item.type for item in result.new_items] == [
        "message_output_item", "tool_call_item", "tool_call_item", "tool_call_output_item", "tool_call_output_item",
        "message_output_item",
    ]  # fmt: skip
    turns = replayed(server.requests[1].body)
    assert turns == [
        ("user", ["text"]),
        ("assistant", ["text", "call get_weather Rome", "call get_time Europe/Rome"]),
        ("tool", ["result get_weather 18", "result get_time 12:00"]),
    ]


async def test_a_conversation_of_chat_completions_goes_on_with_every_provider(model: Any, server: WireServer) -> None:
    server.will(Reply(Words("And three.")))
    function = {"name": "get_weather", "arguments": '{"location": "Rome"}'}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "And one.", "refusal": None},
        {"role": "user", "content": "two"},
        {
            "role": "assistant",
            "content": "Looking.",
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": '{"temperature": 18}'},
        {"role": "assistant", "content": [{"type": "text", "text": "And two."}]},
        {"role": "user", "content": "three"},
    ]
    instructions, items = read_messages(messages)
    answer = await ask(model, items, instructions=instructions, tools=[get_weather])
    assert answer.text == "And three."
    assert replayed(server.requests[0].body) == [
        ("user", ["text"]), ("assistant", ["text"]), ("user", ["text"]), ("assistant", ["text", "call get_weather Rome"]),
        ("tool", ["result get_weather 18"]), ("assistant", ["text"]), ("user", ["text"]),
    ]  # fmt: skip
    heard = json.dumps(server.requests[0].body)
    assert all(said in heard for said in ("And one.", "Looking.", "And two."))


async def test_ids_of_calls_that_a_server_uses_again_are_told_apart_and_sent_back_as_they_came(
    server: WireServer, case: Case, router_for: Callable[..., Router]
) -> None:
    if case.name == "openai":
        return  # the one provider whose ids are its own word for what never repeats
    same = "0"
    server.will(
        Reply(Call("get_weather", {"location": "Rome"}, same)), Reply(Call("get_time", {"zone": "UTC"}, same)),
        Reply(Words("First.")), Reply(Call("get_weather", {"location": "Oslo"}, same)), Reply(Words("Second.")),
    )  # fmt: skip
    router, session = router_for(case.configure(server.url)), SQLiteSession("a-thread")
    for said in ("First.", "Second."):
        result = await run(router, case.model, "Where?", session=session, tools=[get_weather, get_time])
        assert result.final_output == said
    ids = [item.get("call_id") for item in await session.get_items() if item.get("type") == "function_call"]
    assert len(set(ids)) == 3
    assert replayed(server.requests[-1].body) == [
        ("user", ["text"]), ("assistant", ["call get_weather Rome"]), ("tool", ["result get_weather 18"]),
        ("assistant", ["call get_time UTC"]), ("tool", ["result get_time 12:00"]), ("assistant", ["text"]),
        ("user", ["text"]), ("assistant", ["call get_weather Oslo"]), ("tool", ["result get_weather 18"]),
    ]  # fmt: skip
    if case.protocol is chat_completions:
        sent = [call["id"] for m in server.requests[-1].body["messages"] for call in m.get("tool_calls") or ()]
        assert sent == [same] * 3


@pytest.mark.parametrize("text", ['{"location": "Ro', '["Rome"]', "null", "NaN"])
async def test_arguments_that_are_no_object_are_told_to_the_model_and_the_conversation_goes_on(
    server: WireServer, case: Case, router_for: Callable[..., Router], text: str
) -> None:
    server.will(Reply(Call("get_weather", text), stop="length"), Reply(Words("Sorry.")), Reply(Words("Fine.")))
    router, session = router_for(case.configure(server.url)), SQLiteSession("a-thread")
    for said in ("Sorry.", "Fine."):
        result = await run(router, case.model, "Where?", session=session, tools=[get_weather])
        assert result.final_output == said
    assert "An error occurred while running the tool" in json.dumps(server.requests[1].body)
    if case.name != "openai":  # OpenAI takes back what it wrote; others read it as an object
        assert {"INVALID_JSON": text} in sent_arguments(server.requests[2].body)


def sent_arguments(body: dict[str, Any]) -> list[Any]:
    """Arguments of every call in a request, read from JSON where they are text."""
    found: list[Any] = []
    for message in body["messages"]:
        for call in message.get("tool_calls") or ():
            given = call["function"]["arguments"]
            found.append(json.loads(given) if isinstance(given, str) else given)
        parts = message["content"] if isinstance(message.get("content"), list) else []
        found += [part["input"] for part in parts if part["type"] == "tool_use"]
    return found


async def test_thinking_is_told_as_reasoning_and_goes_back_with_the_turn_it_led_to(
    server: WireServer, case: Case, router_for: Callable[..., Router]
) -> None:
    server.will(Reply(Thought("Rome it is"), Call("get_weather", {"location": "Rome"})), Reply(Words("Fog.")))
    settings = {"reasoning": {"effort": "low"}}
    result = await run(
        router_for(case.configure(server.url)), case.model, "Rome?", tools=[get_weather], model_settings=settings
    )
    reasoning = result.new_items[0].raw_item
    assert reasoning.type == "reasoning"
    assert "".join(part.text for part in reasoning.summary) == "Rome it is"
    assert "Rome it is" in json.dumps(server.requests[1].body)


class Place(BaseModel):
    city: str
    country: str


async def test_an_output_type_is_asked_for_as_a_schema_and_read_back(
    server: WireServer, case: Case, router_for: Callable[..., Router]
) -> None:
    server.will(Reply(Words('{"city": "Rome", "country": "Italy"}')))
    result = await run(router_for(case.configure(server.url)), case.model, "Where?", output_type=Place)
    assert result.final_output == Place(city="Rome", country="Italy")
    asked = json.dumps(server.requests[0].body)
    assert '"country"' in asked
    assert "required" in asked


async def test_an_image_is_sent_as_its_data(model: Any, server: WireServer) -> None:
    server.will(Reply(Words("A dot.")))
    content = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "auto"},
    ]
    await ask(model, [{"role": "user", "content": content}])
    heard = json.dumps(server.requests[0].body)
    assert PIXEL in heard
    assert "What is this?" in heard


async def test_a_pdf_goes_as_a_pdf_where_the_provider_takes_it_and_as_its_text_elsewhere(
    model: Any, server: WireServer, case: Case
) -> None:
    content = pdf("Fourteen herons")
    data = base64.b64encode(content).decode()
    file = {"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{data}"}
    server.will(Reply(Words("Herons.")))
    await ask(model, [{"role": "user", "content": [file]}])
    [message] = server.requests[0].body.get("messages") or server.requests[0].body["input"]
    sent = json.dumps(message)
    assert (data in sent, "Fourteen herons" in sent) == (
        (True, False) if case.name in ("openai", "anthropic") else (False, True)
    )
    if case.name == "openai":
        assert message["content"] == [file]
    if case.name == "anthropic":
        source = {"type": "base64", "media_type": "application/pdf", "data": data}
        assert message["content"] == [{"type": "document", "source": source, "title": "a.pdf"}]


async def test_a_file_that_cannot_be_read_is_told_to_the_model_and_the_conversation_goes_on(
    model: Any, server: WireServer, case: Case
) -> None:
    if case.name in ("openai", "anthropic"):
        return  # they read PDFs themselves
    server.will(Reply(Words("I cannot read it.")))
    broken = base64.b64encode(b"%PDF-1.4 and no more").decode()
    file = {"type": "input_file", "filename": "a.pdf", "file_data": broken}
    await ask(model, [{"role": "user", "content": [file]}])
    assert "not readable as text: a.pdf cannot be read as a PDF" in json.dumps(server.requests[0].body)


async def test_a_text_file_goes_as_text(model: Any, server: WireServer, case: Case) -> None:
    if case.name == "openai":
        return  # which takes it as it is
    data = base64.b64encode(b"Fourteen herons").decode()
    file = {"type": "input_file", "filename": "a.txt", "file_data": f"data:text/plain;base64,{data}"}
    server.will(Reply(Words("Herons.")))
    await ask(model, [{"role": "user", "content": [file]}])
    heard = json.dumps(server.requests[0].body)
    assert "Fourteen herons" in heard
    assert data not in heard


@pytest.mark.parametrize("text", [[{"type": "text", "text": "Seen at noon."}], []], ids=["with text", "without"])
async def test_images_that_tools_answered_reach_the_model_behind_all_results_of_the_turn(
    model: Any, server: WireServer, case: Case, text: list[Any]
) -> None:
    """As parts of the result where the protocol has them, else in a message of the user's."""
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    look = {"name": "look", "arguments": "{}"}
    messages = [
        {"role": "user", "content": "What is there?"},
        {"role": "assistant", "tool_calls": [{"id": id, "type": "function", "function": look} for id in ("c1", "c2")]},
        {"role": "tool", "tool_call_id": "c1", "content": [*text, image]},
        {"role": "tool", "tool_call_id": "c2", "content": "Nothing more."},
    ]
    server.will(Reply(Words("A dot.")))
    await ask(model, read_messages(messages)[1])
    sent = server.requests[0].body.get("messages") or server.requests[0].body["input"]
    assert PIXEL in json.dumps(sent)
    assert not text or "Seen at noon." in json.dumps(sent)
    if case.name not in ("openai", "anthropic"):
        assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool", "user"]
        assert all(message["content"] for message in sent if message["role"] == "tool")
        assert PIXEL in json.dumps(sent[-1])


async def test_usage_is_what_the_provider_counted(model: Any, server: WireServer, case: Case) -> None:
    counted = Counted(input=120, output=30, cached=80, cache_write=10, reasoning=12)
    server.will(Reply(Words("Hi"), counted=counted))
    answer = await ask(model)
    assert answer.timing is not None
    usage = answer.timing.usage
    assert usage is not None
    assert (usage.requests, usage.input_tokens, usage.output_tokens) == (1, 120, 30)
    if "ollama" not in case.name:  # Ollama counts no more than that
        assert (usage.cached_tokens, usage.cache_write_tokens, usage.reasoning_tokens) == (80, 10, 12)
    assert answer.response.usage.total_tokens == 150


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(Words("Done")), "stop"),
        (Reply(Words("Cut at a"), stop="length"), "length"),
        (Reply(Call("get_time", {"zone": "UTC"})), "tool_calls"),
    ],
    ids=["stop", "length", "tool_calls"],
)
async def test_why_an_answer_ended_is_said_in_one_vocabulary(
    model: Any, server: WireServer, reply: Reply, reason: str
) -> None:
    server.will(reply)
    answer = await ask(model, tools=[get_time])
    assert answer.timing is not None
    assert answer.timing.stop_reason == reason
    assert answer.types[-1] == "response.completed"


async def test_an_answer_cut_at_the_token_limit_is_kept(
    server: WireServer, case: Case, router_for: Callable[..., Router]
) -> None:
    server.will(Reply(Words("Half of it"), stop="length"))
    result = await run(router_for(case.configure(server.url)), case.model, "Hi", model_settings={"max_tokens": 5})
    assert result.final_output == "Half of it"


async def test_the_time_to_the_first_token_is_measured_from_the_sending(model: Any, server: WireServer) -> None:
    server.will(Reply(Words("A b c d"), pause_s=0.25))
    answer = await ask(model)
    timing = answer.timing
    assert timing is not None
    assert timing.ttft_ms is not None
    assert timing.inter_token_p50_ms is not None
    assert 0 <= timing.ttft_ms < timing.duration_ms
    assert 50 < timing.inter_token_p50_ms < 1000
    assert (timing.chunks, timing.attempts) == (4, 1)


async def test_temperature_and_limit_reach_the_server(model: Any, server: WireServer) -> None:
    server.will(Reply(Words("Hi")))
    await ask(model, settings=ModelSettings(temperature=0.25, top_p=0.5, max_tokens=77))
    heard = json.dumps(server.requests[0].body)
    assert "0.25" in heard
    assert "0.5" in heard
    assert "77" in heard


async def test_a_setting_that_a_protocol_has_no_word_for_is_refused_by_name(
    model: Any, server: WireServer, case: Case
) -> None:
    server.will(Reply(Words("Hi")))
    setting = "presence_penalty" if case.name in ("openai", "anthropic") else "truncation"
    with pytest.raises(SettingsError, match=setting) as refused:
        await ask(model, settings=ModelSettings(**{setting: "auto" if setting == "truncation" else 0.5}))
    assert refused.value.param == f"model_settings.{setting}"
    assert not server.requests


CHOICE = {
    "$defs": {"By": {"type": "object", "properties": {"name": {"type": "string"}, "exact": True}, "required": ["name"]}},
    "type": "object",
    "properties": {"limit": {"type": "integer"}},
    "required": ["limit"],
    "anyOf": [
        {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id", "limit"]}, {"$ref": "#/$defs/By"}, True,
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    "schema", [CHOICE, {"$ref": "#/$defs/Find", "$defs": {"Find": CHOICE, **CHOICE["$defs"]}}], ids=["anyOf", "$ref"]
)
async def test_a_tool_with_a_choice_or_a_reference_at_the_top_of_its_schema_is_sent_in_a_form_that_the_provider_takes(
    model: Any, server: WireServer, case: Case, schema: dict[str, Any]
) -> None:
    async def never(*_: Any) -> str:
        return ""

    server.will(Reply(Words("Hi")))
    await ask(model, tools=[FunctionTool("find", "Finds.", schema, never, strict_json_schema=False)])
    [tool] = server.requests[0].body["tools"]
    tool = tool.get("function", tool)
    sent = tool.get("parameters") or tool["input_schema"]
    if case.protocol not in (anthropic_messages, ollama_chat):
        assert sent == schema
        return
    assert not {"anyOf", "$ref"} & set(sent)
    assert set(sent["properties"]) == {"limit", "id", "name", "exact"}
    assert sent["required"] == ["limit"]
    assert "anyOf" in tool["description"]


async def test_the_models_of_a_server_are_listed(
    server: WireServer, case: Case, router_for: Callable[..., Router]
) -> None:
    router = router_for(case.configure(server.url))
    prefix = case.model.split("/")[0]
    if case.name == "ollama_cloud":
        return  # lists the models of the server of one's own, which this case does not have
    names = await router.list_models(prefix)
    assert names
    assert all(router.resolve(name).full == name for name in names)


def replayed(body: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """A second request's conversation, whichever the protocol: (speaker, what it holds), system text left out."""
    turns: list[tuple[str, list[str]]] = []
    names: dict[str, str] = {}

    def note(role: str, what: str) -> None:
        if turns and turns[-1][0] == role:
            turns[-1][1].append(what)
        else:
            turns.append((role, [what]))

    def call(name: str, arguments: Any, call_id: str = "") -> None:
        names[call_id] = name
        found = json.loads(arguments) if isinstance(arguments, str) else arguments
        note("assistant", f"call {name} {next(iter(found.values()))}")

    def result(name: str, output: str) -> None:
        value = json.loads(output)
        note("tool", f"result {name} {value.get('temperature', value.get('time'))}")

    for item in body.get("messages") or body["input"]:
        kind, role = item.get("type", "message"), item.get("role")
        if kind == "function_call":
            call(item["name"], item["arguments"], item["call_id"])
        elif kind == "function_call_output":
            result(names[item["call_id"]], item["output"])
        elif role == "tool":
            result(item.get("tool_name") or names[item["tool_call_id"]], item["content"])
        elif role in ("user", "assistant"):
            content = item.get("content") or []
            for part in [{"type": "text"}] if isinstance(content, str) and content else content or []:
                if part["type"] == "tool_use":
                    call(part["name"], part["input"], part["id"])
                elif part["type"] == "tool_result":
                    result(names[part["tool_use_id"]], part["content"])
                else:
                    note(role, "text")
            for one in item.get("tool_calls") or ():
                call(one["function"]["name"], one["function"]["arguments"], one.get("id", ""))
    return turns


def test_every_prefix_that_reaches_a_server_has_a_case() -> None:
    tested = {case.model.split("/")[0] for case in CASES}
    assert tested | {"demo", "local"} == set(Router(CASES[0].configure("http://127.0.0.1:1")).prefixes)
