"""Messages of every provider are read into one form."""

from __future__ import annotations

from typing import Any

import pytest

from timestep_lab.ui.messages import plain_text, read_messages

CALL = {"type": "call", "name": "get_weather", "arguments": '{"location": "Oakland"}', "call_id": "c1"}
RESULT = {"type": "result", "call_id": "c1", "text": "14 C"}
FORMS: dict[str, list[Any]] = {
    "responses": [
        {"role": "user", "content": "Weather?"},
        {"type": "function_call", "name": "get_weather", "arguments": '{"location": "Oakland"}', "call_id": "c1"},
        {"type": "function_call_output", "call_id": "c1", "output": "14 C"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "It is 14 C."}]},
    ],
    "chat completions": [
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"location": "Oakland"}'}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "14 C"},
        {"role": "assistant", "content": "It is 14 C."},
    ],
    "anthropic": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "get_weather", "input": {"location": "Oakland"}}]},
        {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "14 C"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "It is 14 C."}]},
    ],
    "opentelemetry": [
        {"role": "user", "parts": [{"type": "text", "content": "Weather?"}]},
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "c1", "name": "get_weather", "arguments": {"location": "Oakland"}}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "result": "14 C"}]},
        {"role": "assistant", "parts": [{"type": "text", "content": "It is 14 C."}]},
    ],
    "openinference": [
        {"message": {"role": "user", "content": "Weather?"}},
        {"message": {"role": "assistant", "tool_calls": [{"tool_call": {"id": "c1", "function": {"name": "get_weather", "arguments": '{"location": "Oakland"}'}}}]}},
        {"message": {"role": "tool", "tool_call_id": "c1", "content": "14 C"}},
        {"message": {"role": "assistant", "content": "It is 14 C."}},
    ],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_question_a_call_its_result_and_the_answer_read_alike(form: str) -> None:
    messages = read_messages(FORMS[form])
    assert messages is not None
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert [message["parts"] for message in messages] == [
        [{"type": "text", "text": "Weather?"}], [CALL], [RESULT], [{"type": "text", "text": "It is 14 C."}],
    ]  # fmt: skip


def test_a_list_that_is_no_conversation_is_said_to_be_none() -> None:
    assert read_messages([{"id": "doc1", "score": 0.9}]) is None
    assert read_messages({"triggered": False}) is None


def test_plain_text_is_one_message_of_the_given_role() -> None:
    assert read_messages("Hello", role="assistant") == [
        {"role": "assistant", "parts": [{"type": "text", "text": "Hello"}]}
    ]


def test_reasoning_and_text_of_one_answer_are_one_message() -> None:
    output = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Think."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Done."}]},
    ]
    [message] = read_messages(output, role="assistant") or []
    assert [part["type"] for part in message["parts"]] == ["reasoning", "text"]
    assert plain_text([message]) == "Done."


def test_a_picture_is_named_and_not_shown() -> None:
    [message] = read_messages([{"role": "user", "content": [{"type": "input_image", "image_url": "data:…"}]}]) or []
    assert message["parts"] == [{"type": "media", "what": "input_image"}]


def test_a_result_that_is_a_list_of_json_schemas_is_shown_as_it_is() -> None:
    schema = {"type": ["string", "null"]}
    [message] = read_messages([{"role": "tool", "tool_call_id": "c1", "content": [schema]}]) or []
    assert message["parts"] == [{"type": "result", "call_id": "c1", "text": '[{"type": ["string", "null"]}]'}]


@pytest.mark.parametrize("odd", [True, 5, "text", {"a": 1}, [None], [[]]])
def test_a_field_of_another_kind_than_its_name_says_hides_no_conversation(odd: Any) -> None:
    for item in (
        {"role": "assistant", "content": "Hello", "tool_calls": odd},
        {"role": "assistant", "content": [{"type": "reasoning", "summary": odd}, {"type": "text", "text": "Hello"}]},
    ):
        [message] = read_messages([item]) or []
        assert {"type": "text", "text": "Hello"} in message["parts"]


def test_a_refusal_is_the_text_of_its_message() -> None:
    [message] = read_messages([{"role": "assistant", "content": None, "refusal": "I cannot do that."}]) or []
    assert plain_text([message]) == "I cannot do that."


def test_a_summary_that_was_sent_as_json_text_is_shown_as_what_it_says() -> None:
    summary = '[{"text": "Think.", "type": "summary_text"}]'
    [message] = read_messages([{"role": "assistant", "parts": [{"type": "reasoning", "content": summary}]}]) or []
    assert message["parts"] == [{"type": "reasoning", "text": "Think."}]
