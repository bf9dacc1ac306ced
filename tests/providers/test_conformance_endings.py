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
from tests.wire import (
    AtOnce,
    Call,
    Counted,
    Deltas,
    FaultInStream,
    Instead,
    Raw,
    Reply,
    Thought,
    WireServer,
    Words,
    openai_responses,
)
from tests.wire.server import sse
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


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "input length and `max_tokens` exceed context limit: 199000 + 8192 > 200000"),
        (400, "The prompt is too long: 140000, model maximum context length: 131071"),
        (400, "Input is too long for requested model."),
        (400, "Your input exceeds the context window of this model."),
        (400, "You passed 5000 input tokens and requested 1 output tokens. However, the model's context length is only 4096 tokens"),
        (400, "The decoder prompt (length 5000) is longer than the maximum model length of 4096."),
        (400, "The prompt (total length 25938) is too long to fit into the model (context length 4096)."),
        (400, "The input (5000 tokens) is longer than the model's context length (4096 tokens)."),
        (400, "Requested token count exceeds the model's maximum context length of 4096 tokens."),
        (500, "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens"),
        (400, "The number of tokens to keep from the initial prompt is greater than the context length."),
        (400, "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length"),
        (400, "This model's maximum prompt length is 131072 but the request contains 200000 tokens."),
        (400, "Invalid request: Your request exceeded model token limit: 8192"),
        (400, "Unable to submit request because the input token count is 40000 but model only supports up to 32768."),
        (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000"),
        (422, "Input validation error: `inputs` must have less than 4095 tokens. Given: 5000"),
        (400, "Please reduce the length of the messages or completion."),
        (400, "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]"),
        (400, "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 5000."),
        (400, "invalid params, context window exceeds limit (2013)"),
    ],
)  # fmt: skip
async def test_the_sentence_by_which_a_server_says_that_a_conversation_is_too_long_is_known(
    server_for: ServerFor, router_for: RouterFor, status: int, words: str
) -> None:
    error = await failure_of(
        CHAT, router_for, server_for(CHAT.protocol), Instead(json.dumps({"error": {"message": words}}), status)
    )
    assert isinstance(error, ContextLengthError)
    assert words.rstrip(".") in str(error)


@pytest.mark.parametrize(
    "words",
    [
        "Rate limit reached: too many tokens per minute",
        "max_tokens is too large: 9000",
        "Invalid 'user': string too long",
    ],
)
async def test_other_limits_are_not_taken_for_the_length_of_the_conversation(
    server_for: ServerFor, router_for: RouterFor, words: str
) -> None:
    error = await failure_of(
        CHAT, router_for, server_for(CHAT.protocol), Instead(json.dumps({"error": {"message": words}}), 400)
    )
    assert not isinstance(error, ContextLengthError)


@pytest.mark.parametrize(
    ("status", "said", "message", "step"),
    [
        (402, {"message": "Insufficient Balance"}, "has no credit left (402)", "billing"),
        (429, {"message": "x", "type": "exceeded_current_quota_error"}, "has no credit left (429)", "billing"),
        (400, {"message": "x", "code": "content_filter"}, "content policy (400)", "Rephrase"),
        (403, {"message": "x", "code": 403, "metadata": {"flagged_input": "y", "reasons": ["violence"]}}, "content policy (403)", "Rephrase"),
        (403, {"message": "x"}, "denied the request (403)", "permits"),
        (401, {"message": "x"}, "rejected the key (401)", "Check"),
    ],
)  # fmt: skip
async def test_why_a_request_was_refused_decides_what_to_do(
    server_for: ServerFor, router_for: RouterFor, status: int, said: dict[str, Any], message: str, step: str
) -> None:
    error = await failure_of(CHAT, router_for, server_for(CHAT.protocol), Instead(json.dumps({"error": said}), status))
    assert message in error.message
    assert step in error.next_step
    assert not error.retryable


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


async def test_reasoning_that_is_a_signed_part_of_the_content_goes_back_with_its_signature(
    server_for: ServerFor, router_for: RouterFor
) -> None:
    """As Databricks sends Claude's."""

    def reasoned(text: str, signature: str = "") -> dict[str, Any]:
        summary = [{"type": "summary_text", "text": text, "signature": signature}]
        return {"content": [{"type": "reasoning", "summary": summary}]}

    call = {"index": 0, "id": "c", "function": {"name": "get_weather", "arguments": '{"location": "Rome"}'}}
    text = {"type": "text", "text": "Looking."}
    deltas = (reasoned("H"), reasoned("m"), reasoned("", "c2ln"), {"content": [text]}, {"tool_calls": [call]})
    server = server_for(CHAT.protocol).will(
        Reply(Deltas(*deltas)), Reply(Deltas(reasoned("Ah", "bmV3"), {"content": [text]}), stop="stop")
    )
    router, session = router_for(CHAT.configure(server.url)), SQLiteSession("a-thread")
    for _ in range(2):
        result = await run(router, CHAT.model, "Rome?", session=session, tools=[get_weather])
        assert result.final_output == "Looking."
    said = [one["content"] for one in server.requests[-1].body["messages"] if one["role"] == "assistant"]
    assert said == [[*reasoned("Hm", "c2ln")["content"], text], [*reasoned("Ah", "bmV3")["content"], text]]


@pytest.mark.parametrize(
    "told",
    [
        {"citations": ["https://a.b", "https://c.d"], "search_results": [{"title": "A", "url": "https://a.b", "date": None}, {"title": "C", "url": "https://c.d"}]},
        {"citations": [{"title": "A", "url": "https://a.b"}, {"title": "C", "url": "https://c.d"}]},
    ],
    ids=["perplexity", "objects"],
)  # fmt: skip
async def test_sources_that_a_server_tells_beside_its_answer_are_citations_of_it_each_once(
    server_for: ServerFor, router_for: RouterFor, told: dict[str, Any]
) -> None:
    pieces = []
    for piece in CHAT.protocol.pieces(Reply(Words("Fog [1] and sun [2].")), {"model": "m"}):
        data = piece.decode().removeprefix("data: ").strip()
        pieces.append(piece if data == "[DONE]" else sse({**json.loads(data), **told}))
    server = server_for(CHAT.protocol).will(Raw(tuple(pieces)))
    answer = await ask(router_for(CHAT.configure(server.url)).get_model(CHAT.model))
    [message] = answer.response.output
    assert [(note.url, note.title) for note in message.content[0].annotations] == [
        ("https://a.b", "A"),
        ("https://c.d", "C"),
    ]
    assert answer.types.count("response.output_text.annotation.added") == 2


async def test_tokens_that_a_server_did_not_count_are_unknown_and_not_zero(
    server_for: ServerFor, router_for: RouterFor
) -> None:
    for case in (CHAT, ANTHROPIC, OPENAI, OLLAMA):
        reply = Reply(Words("Hello."), counted=Counted(0, 0))
        pieces = case.protocol.pieces(reply, {"model": "m", "stream_options": {"include_usage": True}})
        server = server_for(case.protocol).will(Raw(tuple(one.replace(b'"output_tokens": 1,', b"") for one in pieces)))
        answer = await ask(router_for(case.configure(server.url)).get_model(case.model))
        assert (answer.text, answer.response.usage) == ("Hello.", None), case


async def test_zeros_behind_a_count_do_not_replace_it(server_for: ServerFor, router_for: RouterFor) -> None:
    pieces = ANTHROPIC.protocol.pieces(Reply(Words("Hello."), counted=Counted(20, 5, cached=3)), {"model": "m"})
    zeros = b'"usage": {"input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 5}'
    server = server_for(ANTHROPIC.protocol).will(
        Raw(tuple(one.replace(b'"usage": {"output_tokens": 5}', zeros) for one in pieces))
    )
    usage = (await ask(router_for(ANTHROPIC.configure(server.url)).get_model(ANTHROPIC.model))).response.usage
    assert (usage.input_tokens, usage.input_tokens_details.cached_tokens, usage.output_tokens) == (20, 3, 5)


async def test_a_responses_server_ends_an_answer_by_its_status_whatever_the_event_is_called(
    server_for: ServerFor, router_for: RouterFor
) -> None:
    """vLLM sends `response.completed` for every answer."""
    server = server_for(OPENAI.protocol)
    model = router_for(OPENAI.configure(server.url), NO_RETRY).get_model(OPENAI.model)
    cut = openai_responses.pieces(Reply(Words("Half of it"), stop="length"), {"model": "m"})
    server.will(Raw(tuple(piece.replace(b"response.incomplete", b"response.completed") for piece in cut)))
    answer = await ask(model)
    assert (answer.text, answer.response.metadata["stop_reason"]) == ("Half of it", "length")
    failed = openai_responses.fault_piece(FaultInStream(Reply(), 0)).replace(b"response.failed", b"response.completed")
    server.forget().will(Raw((failed,)))
    with pytest.raises(ProviderUnavailableError, match="This came in the middle"):
        await ask(model)


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
