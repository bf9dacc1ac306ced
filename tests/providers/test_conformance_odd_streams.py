"""Streams in forms that no specification has and servers of all four protocols send: each is read as it was meant, and goes back as such.

Every one holds at most the text "Hello" and calls of one tool, for the places named. What is checked is the next request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from types import ModuleType
from typing import Any

import pytest
from agents import Agent, RunConfig, Runner, SQLiteSession

from tests.providers.calling import Answer, ask, get_weather, run
from tests.providers.cases import ANTHROPIC, CHAT, OLLAMA, OPENAI, Case
from tests.providers.test_conformance_answers import PIXEL, replayed
from tests.wire import Call, Raw, Reply, WireServer, Words, openai_responses
from tests.wire.server import sse
from timestep_lab.model.errors import ProviderError, ProviderUnavailableError, UsageError
from timestep_lab.runtime.provider_errors import NO_RETRY
from timestep_lab.runtime.router import Router
from timestep_lab.server.openai_api.chat import answer_message, read_messages

N, ROME, OSLO = "get_weather", '{"location": "Rome"}', '{"location": "Oslo"}'
DONE = sse("[DONE]")
Json = Any


def odd(name: str, *pieces: bytes, places: Iterable[str] = ("Rome",), text: str = "") -> Any:
    return pytest.param(pieces, list(places), text, id=name)


# -- Chat Completions


def chunk(delta: Json = None, finish: str | None = None, **choice: Json) -> dict[str, Json]:
    given = {} if delta is None else {"delta": delta}
    return {
        "id": "x",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, **given, **choice}],
    }


def call(arguments: Json, name: str | None = N, **piece: Json) -> dict[str, Json]:
    """A delta with one piece of a call."""
    function = {"arguments": arguments, **({} if name is None else {"name": name})}
    return {"tool_calls": [{"type": "function", "function": function, **piece}]}


def message(content: str, *arguments: str) -> dict[str, Json]:
    calls = [{"id": "c1", "type": "function", "function": {"name": N, "arguments": one}} for one in arguments]
    return {"role": "assistant", "content": content, **({"tool_calls": calls} if calls else {})}


def chat(*chunks: Json) -> tuple[bytes, ...]:
    return (*map(sse, chunks), DONE)


HELLO = chunk({"content": "Hello"})
ROME_CALL = chunk(call(ROME, index=0, id="c1"))
END = chunk({}, "tool_calls")
CALL_TEXT = json.dumps(call(ROME, id="c1")["tool_calls"])
TWICE = json.dumps(ROME)

CHAT_FORMS = [
    odd("name_and_arguments_in_the_call_itself", *chat(chunk({"tool_calls": [{"name": N, "arguments": {"location": "Rome"}}]}), END)),
    odd("parameters", *chat(chunk({"tool_calls": [{"id": "c", "function": {"name": N, "parameters": {"location": "Rome"}}}]}), END)),
    odd("arguments_encoded_twice", *chat(chunk(call(TWICE[:9], index=0, id="c1")), chunk(call(TWICE[9:], None, index=0)), END)),
    odd("both_forms_of_a_call", *chat(
        chunk({**call("", index=0, id="c1"), "function_call": {"name": N, "arguments": ""}}),
        chunk({**call(ROME, None, index=0), "function_call": {"arguments": ROME}}), END,
    )),
    odd("calls_in_a_message_behind_the_text", *chat(
        chunk({"content": "Hel"}), chunk({"content": "lo"}), chunk(None, "tool_calls", message=message("Hello", ROME)),
    ), text="Hello"),
    odd("messages_in_place_of_deltas", *chat(
        *(chunk(None, message=message(part)) for part in ("He", "l", "lo")), chunk(None, "tool_calls", message=message("", ROME)),
    ), text="Hello"),
    odd("messages_that_grow", *chat(
        *(chunk(None, message=message(part)) for part in ("He", "Hell")), chunk(None, "tool_calls", message=message("Hello", ROME)),
    ), text="Hello"),
    odd("thought_before_a_message", *chat(
        chunk({"reasoning_content": "Hm"}), chunk(None, "tool_calls", message={**message("Hello", ROME), "reasoning_content": "Hm"}),
    ), text="Hello"),
    odd("index_that_is_a_fraction", *chat(
        chunk(call("", index=0.0, id="a")), chunk(call("", index=1.0, id="b")), chunk(call(ROME, None, index=0.0)),
        chunk(call(OSLO, None, index=1.0)), END,
    ), places=["Rome", "Oslo"]),
    odd("index_from_minus_1", *chat(
        chunk(call("", index=-1, id="a")), chunk(call("", index=0, id="b")), chunk(call(ROME, None, index=-1)),
        chunk(call(OSLO, None, index=0)), END,
    ), places=["Rome", "Oslo"]),
    odd("pieces_told_apart_by_their_place_alone", *chat(
        chunk({"tool_calls": call("", id="a")["tool_calls"] + call("", id="b")["tool_calls"]}),
        chunk({"tool_calls": call(ROME, None)["tool_calls"] + call(OSLO, None)["tool_calls"]}), END,
    ), places=["Rome", "Oslo"]),
    odd("name_with_spaces", *chat(chunk(call(ROME, f" {N}\n", index=0, id="c")), END)),
    odd("name_with_a_namespace", *chat(chunk(call(ROME, f"functions.{N}", index=0, id=f"functions.{N}:0")), END)),
    odd("name_with_a_marker", *chat(chunk(call(ROME, f"{N}<|channel|>commentary", index=0, id="c")), END)),
    odd("null_and_empty_text_ahead_of_the_arguments", *chat(
        chunk(call("null", index=0, id="a")), chunk(call(ROME, None, index=0)), chunk(call('""', index=1, id="b")),
        chunk(call(OSLO, None, index=1)), END,
    ), places=["Rome", "Oslo"]),
    odd("function_null_at_first", *chat(chunk({"tool_calls": [{"index": 0, "id": "c", "function": None}]}), chunk(call(ROME, index=0)), END)),
    odd("chunks_in_lists", *chat([HELLO], [ROME_CALL], [END]), text="Hello"),
    odd("data_twice", *(b"data: " + sse(one) for one in (HELLO, ROME_CALL, END)), DONE, text="Hello"),
    odd("two_chunks_in_one_line", sse(json.dumps(chunk({"content": "Hel"})) + json.dumps(chunk({"content": "lo"}))), *chat(ROME_CALL, END), text="Hello"),
    odd("json_over_several_lines", *(
        "".join(f"data: {line}\n" for line in json.dumps(one, indent=1).splitlines()).encode() + b"\n" for one in (HELLO, ROME_CALL, END)
    ), DONE, text="Hello"),
    odd("done_in_small_letters", sse(HELLO), sse(ROME_CALL), sse(END), sse("[done]"), text="Hello"),
    odd("lines_without_data", *(json.dumps({**one, "object": "chat.completion.chunk"}).encode() + b"\n" for one in (HELLO, ROME_CALL, END)), text="Hello"),
    odd("delta_that_is_text", *chat(chunk("Hello"), ROME_CALL, END), text="Hello"),
    odd("texts_in_place_of_deltas", *chat(chunk(None, text="Hel"), chunk(None, text="lo"), ROME_CALL, END), text="Hello"),
    odd("text_as_an_object", *chat(chunk({"content": [{"type": "text", "text": {"value": "Hello"}}]}), ROME_CALL, END), text="Hello"),
    odd("digits_that_became_numbers", *chat(chunk({"content": 4}), chunk({"content": 2}), ROME_CALL, END), text="42"),
    odd("index_of_the_choice_in_some_chunks", *chat(
        {"choices": [{"delta": {"content": "Hel"}}]}, chunk({"content": "lo"}), {"choices": [{"delta": ROME_CALL["choices"][0]["delta"]}]}, END,
    ), text="Hello"),
    odd("reason_in_every_chunk", *chat(chunk({"content": "Hello"}, "stop"), chunk(call(ROME, index=0, id="c"), "stop")), text="Hello"),
    odd("the_end_several_times", *chat(HELLO, ROME_CALL, END, END, chunk({"content": ""}, "tool_calls"), {"choices": []}), text="Hello"),
    odd("arguments_that_grow", *chat(
        chunk(call("", index=0, id="a")), chunk(call(ROME[:5], None, index=0)), chunk(call(ROME[:15], None, index=0)), chunk(call(ROME, None, index=0)), END,
    )),
    odd("whole_calls_that_grow", *chat(*(chunk(call(ROME[:end], index=0, id="a")) for end in (1, 5, 5, 15, None, None)), END)),
    odd("two_calls_that_grow", *chat(
        *(chunk(call(one[:end], index=0, id=id)) for one, id in ((ROME, "a"), (OSLO, "b")) for end in (5, 15, None)), END,
    ), places=["Rome", "Oslo"]),
    odd("calls_that_grow_in_turns", *chat(
        *(chunk(call(one[:end], None if end > 5 else N, index=index)) for end in (5, 15, 99) for index, one in enumerate((ROME, OSLO))), END,
    ), places=["Rome", "Oslo"]),
    odd("arguments_that_grow_before_the_name", *chat(
        chunk(call(ROME[:5], None, index=0, id="a")), chunk(call(ROME, None, index=0)), chunk(call("", index=0)), END,
    )),
    odd("half_a_call_then_the_whole_one_without_a_name", *chat(
        chunk(call("", index=0, id="a")), chunk(call(ROME[:-1], None, index=1, id=None)), chunk(call(ROME, None, index=1, id=None)), END,
    )),
    odd("pieces_that_begin_alike", *chat(
        chunk(call('{"location": "Rome", "more": "', index=0, id="a")), chunk(call('{', None, index=0)), chunk(call('{ }}"}', None, index=0)), END,
    )),
    odd("calls_by_index", *chat(chunk({"tool_calls": {"0": {"id": "a", "function": {"name": N, "arguments": ROME}}, "1": {"name": N, "arguments": OSLO}}}), END), places=["Rome", "Oslo"]),
    odd("calls_by_index_in_pieces", *chat(
        chunk({"tool_calls": {"0": call("", id="a")["tool_calls"][0]}}), chunk({"tool_calls": {"1": call("", id="b")["tool_calls"][0]}}),
        chunk({"tool_calls": {"0": {"function": {"arguments": ROME}}}}), chunk({"tool_calls": {"1": {"function": {"arguments": OSLO}}}}), END,
    ), places=["Rome", "Oslo"]),
    odd("calls_by_id", *chat(chunk({"tool_calls": {"call_a": call(ROME)["tool_calls"][0], "call_b": call(OSLO)["tool_calls"][0]}}), END), places=["Rome", "Oslo"]),
    odd("arguments_by_name", *chat(chunk({"tool_calls": {N: {"location": "Rome"}}}), END)),
    odd("calls_as_text", *chat(HELLO, chunk({"tool_calls": json.dumps(call(ROME, id="a")["tool_calls"] + call(OSLO, id="b")["tool_calls"])}), END), places=["Rome", "Oslo"], text="Hello"),
    odd("calls_as_text_in_pieces", *chat(*(chunk({"tool_calls": part}) for part in (CALL_TEXT[:9], CALL_TEXT[9:40], CALL_TEXT[40:])), END)),
    odd("calls_as_texts_in_a_list", *chat(chunk({"tool_calls": [CALL_TEXT]}), END)),
    odd("calls_in_a_list_in_a_list", *chat(chunk({"tool_calls": [call(ROME, id="a")["tool_calls"], call(OSLO, id="b")["tool_calls"]]}), END), places=["Rome", "Oslo"]),
    odd("function_as_text", *chat(chunk({"tool_calls": [{"index": 0, "id": "a", "function": json.dumps({"name": N, "arguments": ROME})}]}), END)),
    odd("function_as_its_name", *chat(chunk({"tool_calls": [{"index": 0, "id": "a", "function": N, "arguments": ROME}]}), END)),
    odd("function_in_a_list", *chat(chunk({"tool_calls": [{"index": 0, "id": "a", "function": [{"name": N, "arguments": ROME}]}]}), END)),
    odd("input", *chat(chunk({"tool_calls": [{"index": 0, "id": "a", "name": N, "input": {"location": "Rome"}}]}), END)),
    odd("deprecated_call_as_text", *chat(chunk({"function_call": json.dumps({"name": N, "arguments": ROME})}), END)),
    odd("call_as_a_content_part", *chat(chunk({"content": [{"type": "text", "text": "Hello"}, {"type": "tool_use", "id": "a", "name": N, "input": {"location": "Rome"}}]}), END), text="Hello"),
    odd("the_same_call_under_a_second_index", *chat(ROME_CALL, chunk(call(ROME, index=1, id="c1")), chunk(call(OSLO, index=2, id="c2")), END), places=["Rome", "Oslo"]),
    odd("the_same_call_in_pieces_under_a_second_index", *chat(
        *(chunk(call(part, name, index=index, id=id)) for index in (0, 1) for part, name, id in (("", N, "c1"), (ROME[:5], None, None), (ROME[5:], None, None))), END,
    )),
    odd("the_same_call_twice_in_one_chunk", *chat(chunk({"tool_calls": [*call(ROME, index=0, id="c1")["tool_calls"], *call(ROME, index=1, id="c1")["tool_calls"]]}), END)),
    odd("a_call_that_grows_under_further_indexes", *chat(*(chunk(call(ROME[:end], index=index, id="c1")) for index, end in enumerate((0, 5, 15, None))), END)),
    odd("other_calls_with_the_same_id", *chat(
        chunk(call("", index=0, id="0")), chunk(call(ROME, None, index=0)), chunk(call("", index=1, id="0")), chunk(call(OSLO, None, index=1)), END,
    ), places=["Rome", "Oslo"]),
    odd("the_same_call_with_another_id", *chat(ROME_CALL, chunk(call(ROME, index=1, id="c2")), END), places=["Rome", "Rome"]),
    odd("an_id_for_each_piece", *chat(*(chunk(call(part, index=0, id=f"id{part}")) for part in (ROME[:8], ROME[8:14], ROME[14:])), END)),
    odd("no_error_in_every_chunk", *chat({**HELLO, "error": None}, {**ROME_CALL, "error": None}, {**END, "error": {}}), text="Hello"),
]  # fmt: skip


# -- Anthropic Messages


def event(type: str, **said: Json) -> bytes:
    return sse({"type": type, **said}, type)


def block(index: Json, opened: Mapping[str, Json], *deltas: Mapping[str, Json]) -> list[bytes]:
    place = {} if index is None else {"index": index}
    said = [event("content_block_delta", **place, delta=delta) for delta in deltas]
    return [event("content_block_start", **place, content_block=opened), *said, event("content_block_stop", **place)]


def words(index: Json, text: str = "Hello") -> list[bytes]:
    return block(index, {"type": "text", "text": ""}, {"type": "text_delta", "text": text})


def use(index: Json, arguments: Json, id: str | None = "t1", name: str = N) -> list[bytes]:
    delta = {"type": "input_json_delta", "partial_json": arguments}
    return block(index, {"type": "tool_use", "id": id, "name": name, "input": {}}, delta)


BEGUN = event(
    "message_start",
    message={"id": "m", "type": "message", "role": "assistant", "content": [], "usage": {"input_tokens": 3}},
)
ENDED = (event("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 5}), event("message_stop"))
THOUGHT = block(0, {"type": "thinking", "thinking": ""}, {"type": "thinking_delta", "thinking": "Hm"})
PLACES = ["Rome", "Oslo"]

ANTHROPIC_FORMS = [
    odd("every_index_0", BEGUN, *THOUGHT, *words(0), *use(0, ROME), *use(0, OSLO, "t2"), *ENDED, places=PLACES, text="Hello"),
    odd("no_index", BEGUN, *words(None), *use(None, ROME), *use(None, OSLO, "t2"), *ENDED, places=PLACES, text="Hello"),
    odd("no_index_and_no_start", BEGUN, words(None)[1], *use(None, ROME), *ENDED, text="Hello"),
    odd("no_ids", BEGUN, *use(0, ROME, None), *use(1, OSLO, None), *ENDED, places=PLACES),
    odd("input_as_an_object", BEGUN, *use(0, {"location": "Rome"}), *ENDED),
    odd("input_encoded_twice", BEGUN, *use(0, json.dumps(ROME)), *ENDED),
    odd("name_with_spaces", BEGUN, *use(0, ROME, name=f" {N} "), *ENDED),
    odd("a_delta_without_a_delta", BEGUN, *use(0, ROME), ENDED[0], event("message_delta", usage={"output_tokens": 5}), ENDED[1]),
    odd("input_that_grows", BEGUN, *block(0, {"type": "tool_use", "id": "t1", "name": N, "input": {}}, *(
        {"type": "input_json_delta", "partial_json": ROME[:end]} for end in (5, 15, None))), *ENDED),
    odd("the_same_call_under_a_second_index", BEGUN, *use(0, ROME), *use(1, ROME), *use(2, OSLO, "t2"), *ENDED, places=PLACES),
    odd("other_calls_with_the_same_id", BEGUN, *use(0, ROME), *use(1, OSLO), *ENDED, places=PLACES),
    odd("openais_end", BEGUN, *words(0), *use(1, ROME), *ENDED, DONE, text="Hello"),
    odd("neither_beginning_nor_stops", words(0)[0], words(0)[1], use(1, ROME)[0], use(1, ROME)[1], *ENDED, text="Hello"),
]  # fmt: skip


# -- Ollama


def line(message: Json, *, done: bool = False) -> bytes:
    return json.dumps({"model": "q", "message": message, "done": done}, ensure_ascii=False).encode() + b"\n"


def asks(*calls: Json, **more: Json) -> bytes:
    return line({"content": "", "tool_calls": list(calls), **more})


def asks_in(calls: Json) -> bytes:
    return line({"content": "", "tool_calls": calls})


FUNCTION = {"name": N, "arguments": {"location": "Rome"}}
OVER = line({"content": ""}, done=True)
SEPARATORS = "a\x85b\u2028c\u2029d"

OLLAMA_FORMS = [
    odd("characters_that_end_lines_elsewhere", line({"content": SEPARATORS}), asks({"function": FUNCTION}), OVER, text=SEPARATORS),
    odd("last_line_without_a_message", line({"content": "Hello"}), asks({"function": FUNCTION}), b'{"done": true}\n', text="Hello"),
    odd("last_message_null", line({"content": "Hello"}), asks({"function": FUNCTION}), line(None, done=True), text="Hello"),
    odd("server_sent_events", *(b"data: " + one + b"\n" for one in (line({"content": "Hello"}), asks({"function": FUNCTION}), OVER)), text="Hello"),
    odd("empty_lines", b"\r\n", line({"content": "Hello"}), b"\r\n\n", asks({"function": FUNCTION}), b"\n", OVER, text="Hello"),
    odd("name_and_arguments_in_the_call_itself", asks(FUNCTION), OVER),
    odd("a_call_that_is_no_list", line({"content": "", "tool_calls": {"function": FUNCTION}}), OVER),
    odd("calls_by_index", asks_in({"0": {"function": FUNCTION}, "1": {"function": {**FUNCTION, "arguments": {"location": "Oslo"}}}}), OVER, places=PLACES),
    odd("calls_as_text", asks_in(json.dumps([{"function": FUNCTION}])), OVER),
    odd("function_as_text", asks({"function": json.dumps(FUNCTION)}), OVER),
    odd("null_among_calls", asks(None, {"function": FUNCTION}), OVER),
    odd("arguments_encoded_twice", asks({"function": {"name": N, "arguments": json.dumps(ROME)}}), OVER),
]  # fmt: skip


# -- OpenAI Responses


def responses(changed: Callable[[dict[str, Json]], Json], **last: Json) -> Iterator[bytes]:
    reply = Reply(Words("Hello"), Call(N, {"location": "Rome"}, "c1"))
    for piece in openai_responses.pieces(reply, {"model": "m"}):
        said = json.loads(piece.decode().partition("data: ")[2])
        if said["type"] == "response.completed":
            said["response"].update(last)
        if (said := changed(said)) is not None:
            yield sse(said, said["type"])


def same(said: Json) -> Json:
    return said


def with_objects(said: Json) -> Json:
    return json.loads(json.dumps(said).replace(json.dumps(ROME), ROME))


def with_other_ids() -> Callable[[dict[str, Json]], Json]:
    """Another call id in each event."""
    times = count()
    return lambda said: json.loads(re.sub(r'"c1"', f'"c{next(times)}"', json.dumps(said)))


def without(*names: str) -> Callable[[dict[str, Json]], Json]:
    return lambda said: {name: value for name, value in said.items() if name not in names}


RESPONSES_FORMS = [
    odd("an_end_without_what_was_said", *responses(same, output=[]), text="Hello"),
    odd("an_end_with_null_for_what_was_said", *responses(same, output=None), text="Hello"),
    odd("nothing_but_the_end", *list(responses(same))[-1:], text="Hello"),
    odd("counts_by_the_other_apis_names", *responses(same, usage={"prompt_tokens": 3, "completion_tokens": 4}), text="Hello"),
    odd("counts_without_a_total", *responses(same, usage={"input_tokens": 3, "output_tokens": 4}), text="Hello"),
    odd("arguments_as_an_object", *responses(with_objects), text="Hello"),
    odd("another_call_id_in_each_event", *responses(with_other_ids()), text="Hello"),
    odd("no_numbers", *responses(without("sequence_number", "output_index", "item_id")), text="Hello"),
    odd("an_event_of_another_api", *responses(same), sse({"type": "response.done", "response": {"id": "x"}}), text="Hello"),
    odd("a_delta_of_an_event_yet_to_come", sse({"type": "response.new.delta", "delta": {"x": 1}}), sse({"type": "response.new.delta"}), *responses(same), text="Hello"),
    odd("events_of_no_kind", sse({"type": None, "item": {"id": "x"}}), sse({"type": "x.added", "item": {"id": "x"}}), *responses(same), text="Hello"),
    odd("keep_alive_events", sse({"type": "keepalive"}), *responses(same), text="Hello"),
]  # fmt: skip


async def next_turn(
    case: Case, pieces: tuple[bytes, ...], server: WireServer, router: Router, *, streamed: bool
) -> list[tuple[str, list[str]]]:
    server.forget().will(Raw(pieces), Reply(Words("Fog.")), Reply(Words("Bye.")))
    session = SQLiteSession("a-thread")
    if streamed:
        await run(router, case.model, "Where?", session=session, tools=[get_weather])
    else:
        config = RunConfig(model_provider=router, tracing_disabled=True)
        agent = Agent(name="Tester", model=case.model, tools=[get_weather])
        await Runner.run(agent, "Where?", session=session, run_config=config)
    await run(router, case.model, "And?", session=session, tools=[get_weather])
    return replayed(server.requests[-1].body)


def user_input_of(body: Mapping[str, Json]) -> str:
    """The text of the assistant's first message."""
    first = next(one for one in body.get("messages") or body["input"] if one.get("role") == "assistant")
    content = first.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(
    ("case", "pieces", "places", "text"),
    [
        pytest.param(case, *form.values, id=f"{case.name}-{form.id}")
        for case, forms in (
            (CHAT, CHAT_FORMS), (ANTHROPIC, ANTHROPIC_FORMS), (OLLAMA, OLLAMA_FORMS), (OPENAI, RESPONSES_FORMS),
        )
        for form in forms
    ],
)  # fmt: skip
async def test_an_odd_stream_is_read_as_it_was_meant_and_goes_back_as_such(
    case: Case,
    pieces: tuple[bytes, ...],
    places: list[str],
    text: str,
    streamed: bool,
    server_for: Callable[[ModuleType], WireServer],
    router_for: Callable[..., Router],
) -> None:
    server = server_for(case.protocol)
    router = router_for(case.configure(server.url), NO_RETRY)
    sent = await next_turn(case, pieces, server, router, streamed=streamed)
    asked = [f"call get_weather {place}" for place in places]
    told = ("assistant", [*(["text"] if text else []), *asked])
    if case is ANTHROPIC and "thinking" in json.dumps(server.requests[1].body):
        told[1].insert(0, "text")
    assert sent == [
        ("user", ["text"]), told, ("tool", ["result get_weather 18"] * len(places)), ("assistant", ["text"]), ("user", ["text"]),
    ]  # fmt: skip
    if text:
        assert user_input_of(server.requests[1].body) == text


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("given", [f"{N}(Rome)", CALL_TEXT[:-5], 7, [7], {"then": ROME}, {"x": {"y": 1}}], ids=str)
async def test_calls_in_no_known_form_are_told_in_words(
    server_for: Callable[[ModuleType], WireServer], router_for: Callable[..., Router], given: Json, streamed: bool
) -> None:
    whole = {
        "object": "chat.completion",
        **chunk(None, "tool_calls", message={"role": "assistant", "tool_calls": given}),
    }
    sent = chat(chunk({"tool_calls": given}), END) if streamed else (json.dumps(whole).encode(),)
    server = server_for(CHAT.protocol).will(Raw(sent))
    with pytest.raises(ProviderError, match=r"tool calls are in no form that can be read: .+") as raised:
        await ask(router_for(CHAT.configure(server.url), NO_RETRY).get_model(CHAT.model))
    words = given if isinstance(given, str) else json.dumps(given)
    assert words.strip("[]") in raised.value.message


async def test_ollamas_calls_in_no_known_form_are_told_in_words(
    server_for: Callable[[ModuleType], WireServer], router_for: Callable[..., Router]
) -> None:
    for given in (f"{N}(Rome)", 7, {"x": {"y": 1}}):
        server = server_for(OLLAMA.protocol).will(Raw((asks_in(given), OVER)))
        with pytest.raises(ProviderError, match="tool calls are in no form that can be read"):
            await ask(router_for(OLLAMA.configure(server.url), NO_RETRY).get_model(OLLAMA.model))


async def test_an_answer_that_ends_for_calls_and_has_none_is_an_error(
    server_for: Callable[[ModuleType], WireServer], router_for: Callable[..., Router]
) -> None:
    server = server_for(CHAT.protocol).will(Raw(chat(chunk({"toolCalls": call(ROME)["tool_calls"]}), END)))
    with pytest.raises(ProviderError, match="tool calls are in no form that can be read: there is none"):
        await ask(router_for(CHAT.configure(server.url), NO_RETRY).get_model(CHAT.model))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("eos_token", "stop"), ("STOP", "stop"), ("end_turn", "stop"), ("MAX_TOKENS", "length"), ("max_output_tokens", "length"),
        ("model_context_window_exceeded", "length"), ("content_filter: RECITATION", "content_filter"), ("sensitive", "content_filter"),
        ("something_new", "something_new"),
    ],
)  # fmt: skip
async def test_why_an_answer_ended_is_one_vocabulary_whatever_the_server_calls_it(
    server_for: Callable[[ModuleType], WireServer], router_for: Callable[..., Router], said: str, reason: str
) -> None:
    server = server_for(CHAT.protocol).will(Raw(chat(HELLO, chunk({}, said))))
    answer = await ask(router_for(CHAT.configure(server.url), NO_RETRY).get_model(CHAT.model))
    assert (answer.text, answer.response.metadata["stop_reason"]) == ("Hello", reason)
    status = "incomplete" if reason in ("length", "content_filter") else "completed"
    assert answer.response.output[0].status == status


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (chunk({}, "function_call_filter: MALFORMED_FUNCTION_CALL"), "MALFORMED_FUNCTION_CALL"),
        (chunk({}, "insufficient_system_resource"), "insufficient_system_resource"),
        (chunk({}, {"type": "abort", "message": "Out of memory.", "status_code": 503}), "Out of memory"),
        ({**chunk({}, "stop"), "x_groq": {"error": "over capacity"}}, "over capacity"),
        ([{"error": {"code": 503, "message": "The model is overloaded."}}], "overloaded"),
    ],
)
async def test_a_server_that_could_not_finish_is_told_in_its_own_words(
    server_for: Callable[[ModuleType], WireServer], router_for: Callable[..., Router], last: Json, words: str
) -> None:
    server = server_for(CHAT.protocol).will(Raw(chat(HELLO, last)))
    with pytest.raises(ProviderError, match=words) as raised:
        await ask(router_for(CHAT.configure(server.url), NO_RETRY).get_model(CHAT.model))
    assert isinstance(raised.value, ProviderUnavailableError)


SAID = "The line is busy."
WHAT_SERVERS_SAY: list[Any] = [
    (CHAT, b"event: error\ndata: {'message': 'The line is busy.', 'code': 503}\n\n".replace(b"'", b'"')),
    (CHAT, b"event: error\ndata: The line is busy.\n\n"),
    (CHAT, b"data: The line is busy.\n\n"),
    (CHAT, b"<html><body>The line is busy.</body></html>\n\n"),
    (CHAT, b'error: {"code": 503, "message": "The line is busy."}\n\n'),
    (CHAT, b'{"error": {"code": 503, "message": "The line is busy."}}\n'),
    (CHAT, sse({"error_code": 18, "error_msg": SAID})),
    (CHAT, sse({"status": "error", "reason": SAID})),
    (CHAT, sse({"success": False, "errors": [{"code": 1, "message": SAID}], "result": None})),
    (CHAT, sse(chunk({}, error={"code": 502, "message": SAID}))),
    (CHAT, sse({"error": {"message": "Provider returned error", "code": 503, "metadata": {"raw": SAID}}})),
    (OLLAMA, json.dumps({"error": {"message": SAID}}).encode() + b"\n"),
    (OLLAMA, json.dumps({"detail": SAID}).encode() + b"\n"),
    (ANTHROPIC, b'event: error\ndata: {"message": "The line is busy."}\n\n'),
]


@pytest.mark.parametrize(("case", "piece"), WHAT_SERVERS_SAY, ids=str)
async def test_what_a_server_says_in_the_middle_of_a_stream_reaches_the_user_in_whichever_form(
    server_for: Callable[[ModuleType], WireServer], router_for: Callable[..., Router], case: Case, piece: bytes
) -> None:
    begun = list(case.protocol.pieces(Reply(Words("Hello to you and to all")), {"model": "m"}))[:4]
    server = server_for(case.protocol).will(Raw((*begun, piece, *([DONE] if case is CHAT else []))))
    so_far = Answer()
    with pytest.raises(ProviderUnavailableError, match=SAID):
        await ask(router_for(case.configure(server.url), NO_RETRY).get_model(case.model), into=so_far)
    assert any(event.type == "response.output_text.delta" for event in so_far.events)


@pytest.mark.parametrize("case", [CHAT, ANTHROPIC], ids=str)
async def test_a_connection_that_is_lost_when_all_was_said_costs_nothing(
    server_for: Callable[[ModuleType], WireServer], router_for: Callable[..., Router], case: Case
) -> None:
    pieces = list(case.protocol.pieces(Reply(Words("Hello to you")), {"model": "m"}))[:-1]
    server = server_for(case.protocol).will(Raw(tuple(pieces), abrupt=True))
    answer = await ask(router_for(case.configure(server.url), NO_RETRY).get_model(case.model))
    assert (answer.text, answer.response.output[0].status) == ("Hello to you", "completed")


IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}


@pytest.mark.parametrize(
    "deltas",
    [
        [{"content": "A dot."}, {"images": [IMAGE]}, {"images": [IMAGE]}],
        [{"content": [{"type": "text", "text": "A dot."}, IMAGE]}],
        [{"content": "A dot."}, {"message": {"role": "assistant", "content": "A dot.", "images": [IMAGE]}}],
        [{"content": "A dot.", "images": [{**IMAGE, "image_url": f"data:image/png;base64,{PIXEL}"}]}],
    ],
    ids=["beside_the_text_and_again", "as_a_part_of_it", "in_the_message_at_the_end", "as_a_bare_address"],
)
async def test_an_image_that_the_model_made_is_an_item_and_is_shown_to_it_again(
    server_for: Callable[[ModuleType], WireServer], router_for: Callable[..., Router], deltas: list[dict[str, Json]]
) -> None:
    server = server_for(CHAT.protocol).will(
        Raw(chat(*(chunk(None, **one) if "message" in one else chunk(one) for one in deltas), chunk({}, "stop"))),
        Reply(Words("Red.")),
    )
    model = router_for(CHAT.configure(server.url)).get_model(CHAT.model)
    answer = await ask(model, "Draw.")
    assert answer.text == "A dot."
    [image] = [item for item in answer.response.output if item.type == "image_generation_call"]
    assert (image.result, image.output_format) == (PIXEL, "png")
    message = answer_message(answer.response.output)
    assert message["images"] == [IMAGE]
    _, read = read_messages([{"role": "user", "content": "Draw."}, message])
    assert (read[-1]["type"], read[-1]["result"]) == ("image_generation_call", PIXEL)
    for unreadable in (7, "image", [{"image_url": 7}], [{"image_url": {"url": "https://example.org/a.png"}}], [None]):
        with pytest.raises(UsageError, match="an image of it is no data: URL"):
            read_messages([{"role": "assistant", "content": "A dot.", "images": unreadable}])
    await ask(model, [{"role": "user", "content": "Draw."}, *answer.items, {"role": "user", "content": "Which color?"}])
    assert PIXEL in json.dumps(server.requests[1].body["messages"][-1])


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "reasoning_text"])
async def test_reasoning_goes_back_in_the_field_in_which_it_came(
    server_for: Callable[[ModuleType], WireServer], router_for: Callable[..., Router], field: str
) -> None:
    server = server_for(CHAT.protocol).will(Raw(chat(chunk({field: "H"}), chunk({field: "m"}), ROME_CALL, END)))
    server.will(Reply(Words("Fog.")))
    result = await run(router_for(CHAT.configure(server.url)), CHAT.model, "Where?", tools=[get_weather])
    assert result.new_items[0].raw_item.summary[0].text == "Hm"
    [sent] = [one for one in server.requests[1].body["messages"] if one["role"] == "assistant"]
    assert sent[field] == "Hm"


async def test_tokens_that_ollama_did_not_count_are_unknown(
    server_for: Callable[[ModuleType], WireServer], router_for: Callable[..., Router]
) -> None:
    server = server_for(OLLAMA.protocol).will(Raw((line({"content": "Hello"}), OVER)))
    answer = await ask(router_for(OLLAMA.configure(server.url)).get_model(OLLAMA.model))
    assert (answer.text, answer.response.usage) == ("Hello", None)
