"""How answers end, other than well: each as the server meant it, with its own words, and what is said on the next turn."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from agents import SQLiteSession
from agents.exceptions import ModelRefusalError

from tests.providers.calling import Answer, ask, get_weather, run
from tests.providers.cases import ANTHROPIC, CHAT, OLLAMA, OPENAI, Case
from tests.providers.test_conformance_answers import replayed
from tests.wire import AtOnce, Call, Deltas, Instead, Raw, Reply, Thought, WireServer, Words
from timestep_lab.model.errors import (
    ContextLengthError,
    ProviderError,
    ProviderRequestError,
    ProviderUnavailableError,
    RateLimitError,
    StreamCutError,
)
from timestep_lab.runtime.provider_errors import NO_RETRY
from timestep_lab.runtime.router import Router

ServerFor = Callable[[ModuleType], WireServer]
RouterFor = Callable[..., Router]


async def failure_of(
    case: Case, router_for: RouterFor, server: WireServer, step: Any, into: Answer | None = None
) -> ProviderError:
    server.will(step)
    with pytest.raises(ProviderError) as raised:
        await ask(router_for(case.configure(server.url), NO_RETRY).get_model(case.model), into=into)
    return raised.value


# -- other bodies than a stream


async def test_an_answer_that_comes_at_once_is_read_as_a_stream_is_and_goes_back_the_same(
    server: WireServer, case: Case, router_for: RouterFor
) -> None:
    called = Reply(Thought("Rome it is"), Words("Looking."), Call("get_weather", {"location": "Rome"}))
    server.will(AtOnce(called), AtOnce(Reply(Words("Fog."))))
    result = await run(router_for(case.configure(server.url)), case.model, "Rome?", tools=[get_weather])
    assert result.final_output == "Fog."
    assert replayed(server.requests[1].body)[:2] == [
        ("user", ["text"]), ("assistant", [*["text"] * (case.name == "anthropic"), "text", "call get_weather Rome"]),
    ]  # fmt: skip
    assert "Rome it is" in json.dumps(server.requests[1].body)
    assert result.context_wrapper.usage.input_tokens == 40


async def test_an_error_in_a_body_that_says_200_is_that_error_with_the_servers_words(
    server: WireServer, case: Case, router_for: RouterFor
) -> None:
    said = Instead(json.dumps({"error": {"message": "Too many of you", "code": 429}}))
    error = await failure_of(case, router_for, server, said)
    assert isinstance(error, RateLimitError)
    assert "Too many of you" in str(error)


async def test_a_stream_whose_last_event_no_empty_line_ends_is_whole(
    server: WireServer, case: Case, router_for: RouterFor
) -> None:
    reply = Reply(Words("Hello."))
    pieces = list(case.protocol.pieces(reply, {"model": "m", "stream_options": {}}))
    for end in (b"", b"\n", b"\r\n"):
        server.forget().will(Raw((*pieces[:-1], pieces[-1].rstrip() + end)))
        answer = await ask(router_for(case.configure(server.url), NO_RETRY).get_model(case.model))
        assert (answer.text, answer.response.output[0].status) == ("Hello.", "completed")


async def test_answers_are_not_asked_for_compressed(model: Any, server: WireServer) -> None:
    """What is no stream would be read as an empty one."""
    server.will(Reply(Words("Hello.")))
    await ask(model)
    assert server.requests[0].headers["accept-encoding"] == "identity"


HTML = "<!DOCTYPE html><html><head><style>p {color: red}</style></head><body><h1>Bad gateway</h1>\n<p>It sleeps &amp; dreams."
TEXT = "Bad gateway: It sleeps & dreams."


@pytest.mark.parametrize("status", [200, 503])
async def test_a_page_or_a_text_instead_of_an_answer_is_trouble_in_the_servers_own_words(
    server: WireServer, case: Case, router_for: RouterFor, status: int
) -> None:
    for body, media_type in ((HTML, "text/html"), (TEXT, "text/plain"), (HTML, "text/event-stream")):
        server.forget()
        error = await failure_of(case, router_for, server, Instead(body, status, media_type))
        assert isinstance(error, ProviderUnavailableError)
        assert "It sleeps & dreams" in str(error)
        assert "Bad gateway" in str(error)
        assert "<" not in str(error)
        assert "color" not in str(error)


async def test_a_refusal_is_told_in_the_servers_words_in_whichever_form(
    server: WireServer, case: Case, router_for: RouterFor
) -> None:
    for body, words in (
        ({"detail": "The model is not loaded"}, "The model is not loaded"),
        ({"detail": [{"loc": ["body", "top_k"], "msg": "must be positive"}]}, "body.top_k: must be positive"),
        ({"message": "No such thing"}, "No such thing"),
        ({"error": "Plainly wrong"}, "Plainly wrong"),
        ([{"error": {"code": 422, "message": "From a list"}}], "From a list"),
    ):
        server.forget()
        error = await failure_of(case, router_for, server, Instead(json.dumps(body), 422))
        assert type(error) is ProviderRequestError
        assert words in str(error)
        assert "{" not in str(error)


@pytest.mark.parametrize(
    ("case", "body"),
    [
        (CHAT, {"error": {"message": "Too long", "type": "invalid_request_error", "code": "context_length_exceeded"}}),
        (
            OPENAI,
            {"error": {"message": "Too long", "type": "invalid_request_error", "code": "context_length_exceeded"}},
        ),
        (CHAT, {"error": {"code": 400, "message": "Too long", "type": "exceed_context_size_error", "n_ctx": 4096}}),
        (
            CHAT,
            {"object": "error", "message": "This model's maximum context length is 4096 tokens. Please", "code": 400},
        ),
        (
            ANTHROPIC,
            {
                "type": "error",
                "error": {
                    "type": "invalid_request_error",
                    "message": "prompt is too long: 208310 tokens > 200000 maximum",
                },
            },
        ),
        (OLLAMA, {"error": "the input length exceeds the context length"}),
    ],
    ids=["openai_chat", "openai_responses", "llama.cpp", "vllm", "anthropic", "ollama"],
)
async def test_a_conversation_that_is_too_long_has_a_code_of_its_own_and_says_what_to_do(
    server_for: ServerFor, router_for: RouterFor, case: Case, body: Any
) -> None:
    error = await failure_of(case, router_for, server_for(case.protocol), Instead(json.dumps(body), 400))
    assert isinstance(error, ContextLengthError)
    assert error.code == "context_length_exceeded"
    assert "Start a new thread" in error.next_step


# -- reasons


async def test_what_was_said_before_a_stream_closed_without_a_reason_is_kept_marked_incomplete_and_goes_back(
    server_for: ServerFor, router_for: RouterFor
) -> None:
    for case in (CHAT, ANTHROPIC):
        server = server_for(case.protocol).will(Reply(Words("Half of it"), stop="unsaid"), Reply(Words("Rest.")))
        router, session = router_for(case.configure(server.url)), SQLiteSession("a-thread")
        result = await run(router, case.model, "All of it?", session=session)
        assert result.final_output == "Half of it"
        assert [item.raw_item.status for item in result.new_items] == ["incomplete"]
        await run(router, case.model, "Go on.", session=session)
        assert "Half of it" in json.dumps(server.requests[1].body)


async def test_a_stream_that_closed_with_neither_a_reason_nor_a_word_is_a_cut_one(
    server_for: ServerFor, router_for: RouterFor
) -> None:
    error = await failure_of(CHAT, router_for, server_for(CHAT.protocol), Reply(stop="unsaid"))
    assert isinstance(error, StreamCutError)


async def test_an_answer_that_reached_its_limit_is_marked_incomplete(
    server_for: ServerFor, router_for: RouterFor
) -> None:
    for case in (CHAT, ANTHROPIC, OLLAMA):
        server = server_for(case.protocol).will(Reply(Words("Half of it"), stop="length"))
        answer = await ask(router_for(case.configure(server.url)).get_model(case.model))
        assert answer.response.output[0].status == "incomplete"
        assert answer.types[-1] == "response.completed"


@pytest.mark.parametrize("reason", ["error", "abort"])
async def test_a_server_that_says_it_could_not_finish_has_failed_and_what_came_is_kept(
    server_for: ServerFor, router_for: RouterFor, reason: Any
) -> None:
    so_far = Answer()
    step = Reply(Words("Half of it"), stop=reason)
    error = await failure_of(CHAT, router_for, server_for(CHAT.protocol), step, so_far)
    assert isinstance(error, ProviderUnavailableError)
    assert f"finish reason '{reason}'" in str(error)
    assert "response.output_text.delta" in so_far.types


async def test_text_that_claude_broke_off_to_refuse_is_a_refusal_after_an_unfinished_message(
    server_for: ServerFor, router_for: RouterFor
) -> None:
    server = server_for(ANTHROPIC.protocol).will(Reply(Words("First, take"), stop="refusal"), Reply(Words("Hello.")))
    router, session = router_for(ANTHROPIC.configure(server.url)), SQLiteSession("a-thread")
    answer = await ask(router.get_model(ANTHROPIC.model))
    assert [(item.status, item.content[0].type) for item in answer.response.output] == [
        ("incomplete", "output_text"), ("completed", "refusal"),
    ]  # fmt: skip
    server.forget().will(Reply(Words("First, take"), stop="refusal"), Reply(Words("Hello.")))
    with pytest.raises(ModelRefusalError):
        await run(router, ANTHROPIC.model, "How?", session=session)
    assert (await run(router, ANTHROPIC.model, "Then hello.", session=session)).final_output == "Hello."


# -- reasoning in other forms


@pytest.mark.parametrize("cut", range(1, 8))
async def test_think_tags_are_reasoning_wherever_the_pieces_are_cut_and_go_back_as_they_came(
    server_for: ServerFor, router_for: RouterFor, cut: int
) -> None:
    text = "<think>Rome, <b>it</b> is</think>\n\nLooking <think> hard."
    pieces = [text[at : at + cut] for at in range(0, len(text), cut)]
    call = {
        "index": 0,
        "id": "c",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"location": "Rome"}'},
    }
    chat = Reply(Deltas(*({"content": piece} for piece in pieces), {"tool_calls": [call]}))
    ollama = Reply(*(Words(piece) for piece in pieces), Call("get_weather", {"location": "Rome"}))
    for case, reply in ((CHAT, chat), (OLLAMA, ollama)):
        server = server_for(case.protocol).will(reply, Reply(Words("Fog.")))
        result = await run(router_for(case.configure(server.url)), case.model, "Rome?", tools=[get_weather])
        reasoning, message = (item.raw_item for item in result.new_items[:2])
        assert "".join(part.text for part in reasoning.summary) == "Rome, <b>it</b> is"
        assert message.content[0].text == "Looking <think> hard."
        [sent] = [one for one in server.requests[1].body["messages"] if one["role"] == "assistant"]
        assert sent["content"] == text
        assert result.final_output == "Fog."


async def test_thinking_that_is_a_part_of_the_content_goes_back_as_one(
    server_for: ServerFor, router_for: RouterFor
) -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}
    text = {"type": "text", "text": "Looking."}
    server = server_for(CHAT.protocol).will(Reply(Deltas({"content": [thinking]}, {"content": [text]}), stop="stop"))
    router, session = router_for(CHAT.configure(server.url)), SQLiteSession("a-thread")
    assert (await run(router, CHAT.model, "Rome?", session=session)).final_output == "Looking."
    await run(router, CHAT.model, "And?", session=session)
    assert server.requests[1].body["messages"][2]["content"] == [thinking, text]


async def test_what_another_model_thought_is_not_sent_to_openai(
    server: WireServer, case: Case, router_for: RouterFor
) -> None:
    """It knows reasoning by the id that it gave."""
    if case.name != "openai":
        return
    thought = {
        "type": "reasoning", "id": "reasoning_1", "summary": [{"type": "summary_text", "text": "Hm"}],
        "provider_data": {"model": "claude-haiku-4-5"},
    }  # fmt: skip
    server.will(Reply(Words("Hi")))
    await ask(
        router_for(case.configure(server.url)).get_model(case.model), [thought, {"role": "user", "content": "Hi"}]
    )
    assert [item.get("type", "message") for item in server.requests[0].body["input"]] == ["message"]
