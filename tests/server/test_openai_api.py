"""The official `openai` client against a served lab, with models that need no key."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from tests.files.test_text_of_files import pdf
from tests.server.served import SETTINGS, Server, serve
from tests.wire import Reply, WireServer, Words, anthropic_messages
from timestep_lab.model.errors import UsageError
from timestep_lab.model.ids import new_uuid
from timestep_lab.server.openai_api.calling import passed_on

pytestmark = pytest.mark.asyncio(loop_scope="module")
WEATHER: dict[str, Any] = {
    "name": "get_weather", "description": "The weather in a place",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with serve(tmp_path_factory.mktemp("served") / "lab.duckdb") as server:
        yield server


def client_of(server: Server, user_id: str | None = None) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{server.url}/openai/v1", api_key=server.token(user_id or new_uuid()), max_retries=0
    )


async def sent(server: Server, path: str, body: str, content_type: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {server.token(new_uuid())}", "Content-Type": content_type}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as http:
        return await http.post(f"/openai/v1/{path}", content=body)


@pytest_asyncio.fixture(loop_scope="module")
async def client(server: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(server) as client:
        yield client


async def test_models_are_those_of_the_router(client: openai.AsyncOpenAI) -> None:
    names = [model.id async for model in client.models.list()]
    assert {"demo/assistant", "demo/echo"} <= set(names)
    assert (await client.models.retrieve("demo/echo")).owned_by == "demo"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("demo/nobody")


async def test_every_call_is_a_trace_of_its_caller(server: Server) -> None:
    user_id = new_uuid()
    async with client_of(server, user_id) as client:
        await client.chat.completions.create(model="demo/echo", messages=[{"role": "user", "content": "Hello there"}])
        async with client.responses.stream(model="demo/echo", input="And again") as stream:
            await stream.until_done()
        with pytest.raises(openai.APIError):
            await client.responses.create(model="demo/flaky?rate=1&error=auth", input="Fail")
    lab, _ = server.served.labs.hold(user_id)
    lab.flush()
    traces = sorted(lab.store.traces.list().data, key=lambda row: row["started_at"])
    assert [(row["workflow"], row["status"], row["model"]) for row in traces] == [
        ("chat.completions", "completed", "demo/echo"), ("responses", "completed", "demo/echo"),
        ("responses", "failed", "demo/flaky?rate=1&error=auth"),
    ]  # fmt: skip
    assert "Hello there" in traces[0]["input"]
    assert "Hello there" in traces[0]["output"]
    assert traces[0]["input_tokens"]
    assert lab.for_user(new_uuid()).store.traces.count() == 0


# -- chat completions


async def test_a_completion_answers_and_counts(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="demo/echo",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello there"}],
        temperature=0,
    )
    assert "Hello there" in str(answer.choices[0].message.content)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "demo/echo"
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": 5}, {"role": "user", "content": ["Hello"]}, {"role": "user", "content": {"type": "text", "text": "Hello"}},
        {"role": "system", "content": [5]}, {"role": "tool", "tool_call_id": "call_1", "content": 5},
        {"role": "user", "content": [{"type": "file", "file": "report.pdf"}]}, {"role": "user", "content": [{"type": "image_url", "image_url": 5}]},
        {"role": "assistant", "content": [5]}, {"role": "assistant", "tool_calls": "call_1"}, {"role": "assistant", "tool_calls": [5]},
        {"role": "assistant", "tool_calls": [{"id": "call_1", "function": "get_weather"}]},
        {"role": "user", "content": [{"type": "text"}]}, {"role": "user", "content": [{"type": "file", "file": {"filename": "a.pdf"}}]},
        {"role": "user", "content": "Hello", "name": 5}, {"role": "assistant", "content": [{"type": "text", "text": 5}]},
        {"role": "system", "content": [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]},
        {"role": "assistant", "content": [{"type": "image_url"}]}, {"role": "tool", "tool_call_id": 5, "content": "18"},
        {"role": "assistant", "tool_calls": [{"id": 5, "function": {"name": "look", "arguments": "{}"}}]},
    ],
)  # fmt: skip
async def test_a_message_of_a_wrong_shape_is_refused_by_both_apis(client: openai.AsyncOpenAI, message: Any) -> None:
    hello: Any = {"role": "user", "content": "Hello"}
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model="demo/echo", messages=[message, hello])
    if not isinstance(message.get("content", []), list | str):
        with pytest.raises(openai.BadRequestError):
            await client.responses.create(model="demo/echo", input=[message])


@pytest.mark.parametrize(
    "given",
    [{"text": {"format": "x"}}, {"text": {"format": {"type": []}}}, {"conversation": {"id": 5}}, {"conversation": {}}],
)
async def test_a_response_of_a_wrong_shape_is_refused(client: openai.AsyncOpenAI, given: Any) -> None:
    with pytest.raises(openai.BadRequestError):
        await client.responses.create(model="demo/echo", input="Hello", **given)


@pytest.mark.parametrize(
    ("item", "why"),
    [
        ({"type": "function_call"}, "a function_call needs its call_id"),
        ({"type": "function_call", "call_id": "a", "name": "f", "arguments": {}}, "arguments of a function_call is not a string"),
        ({"type": "function_call_output", "call_id": "a", "output": 5}, "output of a function_call_output is not a string or a list"),
        ({"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text"}]}, "text of its input_text is not a string"),
        ({"role": "user", "content": [{"type": "input_text", "text": 5}]}, "text of its input_text is not a string"),
        ({"role": "user", "content": [{"type": "input_image"}]}, "its input_image has no image_url or file_id"),
    ],
)  # fmt: skip
async def test_an_item_that_lacks_what_its_type_needs_is_refused_before_any_provider_is_asked(
    client: openai.AsyncOpenAI, item: Any, why: str
) -> None:
    hello: Any = {"role": "user", "content": "Hello"}
    with pytest.raises(openai.BadRequestError, match=f"Item 1 is invalid: {why}"):
        await client.responses.create(model="demo/echo", input=[hello, item])
    with pytest.raises(openai.BadRequestError, match=why):
        await client.conversations.create(items=[hello, item])


async def test_a_tool_choice_that_no_tool_can_meet_is_refused(client: openai.AsyncOpenAI) -> None:
    look: Any = {"name": "look", "parameters": {"type": "object", "properties": {}}}
    for tools, choice in (([], "required"), ([look], "find"), ([look], {"name": "find"})):
        named: Any = choice if isinstance(choice, str) else {"type": "function", "function": choice}
        in_chat: Any = [{"type": "function", "function": tool} for tool in tools]
        with pytest.raises(openai.BadRequestError, match="cannot be met: there") as refused:
            await client.chat.completions.create(
                model="demo/echo", messages=[{"role": "user", "content": "Hello"}], tools=in_chat, tool_choice=named
            )
        assert refused.value.param == "tool_choice"
    nameless: Any = {"type": "function", "function": 5}
    with pytest.raises(openai.BadRequestError, match="does not name a function"):
        await client.chat.completions.create(
            model="demo/echo", messages=[{"role": "user", "content": "Hello"}], tool_choice=nameless
        )
    for choice in ("auto", "none"):
        assert await client.chat.completions.create(
            model="demo/echo", messages=[{"role": "user", "content": "Hello"}], tools=[], tool_choice=choice
        )


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("responses", r'{"model": "demo/echo", "input": "half a \ud83d"}', "input"),
        ("responses", r'{"model": "demo/echo", "input": [{"role": "user", "content": "half a \ud83d"}]}', "input"),
        ("chat/completions", r'{"model": "demo/echo", "messages": [{"role": "user", "content": "half a \ud83d"}]}', "messages"),
        ("chat/completions", r'{"model": "demo/echo", "messages": [{"role": "user", "content": "Hi"}], "user": "\ud83d"}', "user"),
        ("conversations", r'{"metadata": {"a": "half a \ud83d"}}', "metadata"),
        ("conversations", '{"metadata": {"a": NaN}}', "metadata"),
        ("conversations", '{"items": [{"role": "user", "content": "Hi", "weight": Infinity}]}', "items"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("streamed", [False, True])
async def test_half_a_character_and_numbers_that_json_does_not_have_are_refused_by_the_name_of_their_field(
    server: Server, path: str, body: str, where: str, streamed: bool
) -> None:
    if streamed and path != "conversations":
        body = body.replace("{", '{"stream": true, ', 1)
    answer = await sent(server, path, body, "application/json")
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["param"].startswith(f"body.{where}")


async def test_a_body_that_is_not_sent_as_json_is_told_so(server: Server) -> None:
    answer = await sent(server, "chat/completions", '{"messages": []}', "application/x-www-form-urlencoded")
    assert answer.status_code == 422
    assert "was sent as application/x-www-form-urlencoded. Send JSON" in answer.json()["error"]["message"]


async def test_a_streamed_completion_is_the_same_text_in_pieces(client: openai.AsyncOpenAI) -> None:
    messages: Any = [{"role": "user", "content": "one two three four"}]
    whole = await client.chat.completions.create(model="demo/echo", messages=messages)
    stream = await client.chat.completions.create(
        model="demo/echo", messages=messages, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    pieces = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert len(pieces) > 2
    assert "".join(pieces) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert len({c.id for c in chunks}) == 1


async def test_functions_are_called_by_the_model_and_answered_by_the_caller(client: openai.AsyncOpenAI) -> None:
    tools: Any = [{"type": "function", "function": WEATHER}]
    messages: Any = [{"role": "user", "content": "Compare the weather in Oakland and Paris"}]
    asked = await client.chat.completions.create(model="demo/assistant", messages=messages, tools=tools)
    calls: Any = asked.choices[0].message.tool_calls
    assert asked.choices[0].finish_reason == "tool_calls"
    assert [call.function.arguments for call in calls] == ['{"location": "Oakland"}', '{"location": "Paris"}']

    async with client.chat.completions.stream(model="demo/assistant", messages=messages, tools=tools) as stream:
        streamed: Any = (await stream.get_final_completion()).choices[0].message.tool_calls
    assert [call.function.arguments for call in streamed] == [call.function.arguments for call in calls]

    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny, 20 °C"} for call in calls]
    said = asked.choices[0].message.model_dump(exclude_none=True)
    answer = await client.chat.completions.create(
        model="demo/assistant", messages=[*messages, said, *results], tools=tools
    )
    assert "sunny" in str(answer.choices[0].message.content)


async def test_an_answer_follows_a_schema(client: openai.AsyncOpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    answer = await client.chat.completions.create(
        model="demo/assistant", messages=[{"role": "user", "content": "How many?"}],
        response_format={"type": "json_schema", "json_schema": {"name": "count", "schema": schema, "strict": True}},
    )  # fmt: skip
    assert answer.choices[0].message.content == '{"n": 0}'


# -- responses


async def test_a_response_goes_on_from_another(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(
        model="demo/assistant", input="Umbrella in Oakland?", tools=[{"type": "function", **WEATHER}]
    )  # type: ignore[list-item,misc]
    [call] = [item for item in first.output if item.type == "function_call"]
    second = await client.responses.create(
        model="demo/assistant", previous_response_id=first.id, tools=[{"type": "function", **WEATHER}],  # type: ignore[list-item,misc]
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "rain, 12 °C"}],
    )  # fmt: skip
    assert "rain" in second.output_text
    assert second.previous_response_id == first.id
    assert (await client.responses.retrieve(second.id)).output_text == second.output_text
    items = [item async for item in client.responses.input_items.list(second.id)]
    assert [item.type for item in items] == ["function_call_output"]
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="demo/echo", previous_response_id=second.id, input="And now?")


async def test_an_item_that_is_only_referred_to_is_the_one_that_was_stored(
    server: Server, client: openai.AsyncOpenAI
) -> None:
    """As the Vercel AI SDK sends the earlier messages of a chat."""
    hello: Any = {"role": "user", "content": "Hello"}
    first = await client.responses.create(model="demo/echo", input=[hello])
    talk = await client.conversations.create(items=[{"role": "user", "content": "Kept elsewhere", "type": "message"}])
    [kept] = [item async for item in client.conversations.items.list(talk.id)]
    given: Any = [hello, {"type": "item_reference", "id": first.output[0].id}, {"id": kept.id}]
    second = await client.responses.create(model="demo/echo", input=given)
    assert second.output_text.endswith("Kept elsewhere")
    stored = [item async for item in client.responses.input_items.list(second.id, order="asc")]
    assert [item.id for item in stored[1:]] == [first.output[0].id, kept.id]
    assert stored[1].content[0].text == first.output_text  # type: ignore[union-attr]
    async with client_of(server) as other:
        with pytest.raises(openai.NotFoundError, match="no stored item"):
            await other.responses.create(model="demo/echo", input=given)
    await client.responses.delete(first.id)
    await client.responses.delete(second.id)
    with pytest.raises(
        openai.NotFoundError, match=f"There is no stored item '{first.output[0].id}'. Send the item itself."
    ):
        await client.responses.create(model="demo/echo", input=given)


async def test_a_streamed_response_is_kept_when_its_end_is_told(client: openai.AsyncOpenAI) -> None:
    text, kinds = "", []
    last: Any = None
    async for event in await client.responses.create(model="demo/echo", input="one two three", stream=True):
        kinds.append(event.type)
        text += event.delta if event.type == "response.output_text.delta" else ""
        last = event
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert last.response.output_text == text
    assert (await client.responses.retrieve(last.response.id)).output_text == text


async def test_a_response_that_is_not_to_be_stored_is_not(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model="demo/echo", input="Hush", store=False)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response.id)


async def test_responses_in_a_conversation_add_to_it_in_order(client: openai.AsyncOpenAI) -> None:
    conversation = await client.conversations.create(items=[{"type": "message", "role": "user", "content": "First"}])
    for text in ("Second", "Third"):
        response = await client.responses.create(model="demo/echo", conversation=conversation.id, input=text)
        assert text in response.output_text
    items: Any = [item async for item in client.conversations.items.list(conversation.id, order="asc", limit=2)]
    assert [(item.role, item.content[0].text) for item in items if item.role == "user"] == [
        ("user", "First"), ("user", "Second"), ("user", "Third"),
    ]  # fmt: skip
    assert [item.role for item in items] == ["user", "user", "assistant", "user", "assistant"]


# -- conversations


async def test_items_keep_their_order_their_ids_and_their_types(client: openai.AsyncOpenAI) -> None:
    conversation = await client.conversations.create(metadata={"topic": "order"})
    given: Any = [
        {"type": "message", "role": "user", "content": "Go", "id": f"msg_{new_uuid()}"},
        *({"type": "function_call", "call_id": f"c{n}", "name": "f", "arguments": "{}"} for n in range(5)),
        *({"type": "function_call_output", "call_id": f"c{n}", "output": str(n)} for n in range(5)),
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "thought"}]},
    ]
    await client.conversations.items.create(conversation.id, items=given)
    items: Any = [item async for item in client.conversations.items.list(conversation.id, order="asc", limit=3)]
    assert [item.type for item in items] == [item["type"] for item in given]
    assert [item.call_id for item in items[1:6]] == ["c0", "c1", "c2", "c3", "c4"]
    assert items[0].id == given[0]["id"]
    newest: Any = (await client.conversations.items.list(conversation.id, limit=1)).data[0]
    assert newest.type == "reasoning"

    await client.conversations.items.delete(items[0].id, conversation_id=conversation.id)
    with pytest.raises(openai.NotFoundError):
        await client.conversations.items.retrieve(items[0].id, conversation_id=conversation.id)
    assert (await client.conversations.update(conversation.id, metadata={"a": "b"})).metadata == {"a": "b"}
    await client.conversations.delete(conversation.id)
    with pytest.raises(openai.NotFoundError):
        await client.conversations.retrieve(conversation.id)


async def test_an_item_whose_id_is_taken_is_refused_and_nothing_is_lost(client: openai.AsyncOpenAI) -> None:
    item: Any = {"type": "message", "role": "user", "content": "Once", "id": f"msg_{new_uuid()}"}
    conversation = await client.conversations.create(items=[item])
    with pytest.raises(openai.ConflictError, match=r"with this id is already in a conversation\. Omit the ids"):
        await client.conversations.items.create(conversation.id, items=[{**item, "id": None, "content": "Twice"}, item])
    with pytest.raises(openai.ConflictError, match="with this id is already in a conversation"):
        await client.conversations.create(items=[item])
    assert len([i async for i in client.conversations.items.list(conversation.id)]) == 1


# -- files, uploads, vector stores, embeddings


async def test_a_file_comes_back_as_it_went(client: openai.AsyncOpenAI) -> None:
    content = bytes(range(256)) * 8192
    file = await client.files.create(file=("../../evil.bin", content), purpose="user_data")
    assert (file.filename, file.bytes) == ("evil.bin", len(content))
    back = await client.files.content(file.id)
    assert back.content == content
    assert back.response.headers["content-disposition"].startswith("attachment")
    assert [f.id async for f in client.files.list(purpose="user_data")] == [file.id]
    assert [f.id async for f in client.files.list(purpose="other")] == []
    await client.files.delete(file.id)
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(file.id)


async def test_a_file_named_by_its_id_is_read_by_the_model(client: openai.AsyncOpenAI) -> None:
    """Also one that a text-only model is told in words; an image must be one; what was deleted ends no conversation."""
    file = await client.files.create(file=("a.pdf", pdf("Fourteen herons")), purpose="user_data")
    part: Any = {"type": "input_file", "file_id": file.id}
    response = await client.responses.create(model="demo/echo", input=[{"role": "user", "content": [part]}])
    assert "Fourteen herons" in response.output_text
    chat_part: Any = {"type": "file", "file": {"file_id": file.id}}
    messages: Any = [{"role": "user", "content": [chat_part]}]
    completion = await client.chat.completions.create(model="demo/echo", messages=messages)
    assert "Fourteen herons" in str(completion.choices[0].message.content)

    image: Any = {"type": "input_image", "file_id": file.id, "detail": "auto"}
    with pytest.raises(openai.BadRequestError, match="not a supported image"):
        await client.responses.create(model="demo/echo", input=[{"role": "user", "content": [image]}])
    await client.files.delete(file.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="demo/echo", input=[{"role": "user", "content": [part]}])
    after = await client.responses.create(model="demo/echo", input="And now?", previous_response_id=response.id)
    assert "And now?" in after.output_text


async def test_an_image_named_by_its_id_goes_to_claude_as_its_data(tmp_path: Path) -> None:
    with WireServer(anthropic_messages) as provider:
        provider.will(Reply(Words("A dot.")))
        settings = replace(SETTINGS, anthropic_api_key="the-key", anthropic_base_url=provider.url)
        async with serve(tmp_path / "lab.duckdb", settings) as server, client_of(server) as client:
            file = await client.files.create(file=("a.png", b"\x89PNG\r\n\x1a\n..."), purpose="vision")
            part: Any = {"type": "input_image", "file_id": file.id, "detail": "auto"}
            await client.responses.create(
                model="anthropic/claude-haiku-4-5", input=[{"role": "user", "content": [part]}]
            )
        [sent] = provider.requests[0].body["messages"][0]["content"]
        assert sent["source"]["media_type"] == "image/png"


async def test_a_file_arrives_in_parts(client: openai.AsyncOpenAI) -> None:
    content = b"first half, " + b"second half"
    upload = await client.uploads.create(
        filename="note.txt", purpose="assistants", bytes=len(content), mime_type="text/plain"
    )
    parts = [await client.uploads.parts.create(upload.id, data=piece) for piece in (content[12:], content[:12])]
    done = await client.uploads.complete(
        upload.id, part_ids=[parts[1].id, parts[0].id], md5=hashlib.md5(content, usedforsecurity=False).hexdigest()
    )
    assert done.status == "completed"
    assert done.file is not None
    assert (await client.files.content(done.file.id)).content == content

    other = await client.uploads.create(filename="x.txt", purpose="assistants", bytes=3, mime_type="text/plain")
    assert (await client.uploads.cancel(other.id)).status == "cancelled"
    with pytest.raises(openai.ConflictError):
        await client.uploads.parts.create(other.id, data=b"abc")


async def test_a_vector_store_finds_the_passage_by_its_meaning(client: openai.AsyncOpenAI) -> None:
    boats = await client.files.create(file=("boats.txt", b"Ships and boats sail on the sea."), purpose="assistants")
    bread = await client.files.create(file=("bread.txt", b"Bread is baked from flour and yeast."), purpose="assistants")
    empty = await client.files.create(file=("empty.bin", bytes([0, 1, 2, 255]) * 20), purpose="assistants")
    store = await client.vector_stores.create(name="Things", file_ids=[boats.id], metadata={"a": "b"})
    assert store.file_counts.completed == 1
    added = await client.vector_stores.files.create(store.id, file_id=bread.id, attributes={"kind": "food"})
    assert added.status == "completed"
    failed = await client.vector_stores.files.create(store.id, file_id=empty.id)
    assert failed.status == "failed"
    assert failed.last_error is not None

    found = [
        hit async for hit in client.vector_stores.search(store.id, query="vessels on the ocean", max_num_results=2)
    ]
    assert found[0].file_id == boats.id
    assert 0 < found[0].score <= 1
    assert found[0].score > found[1].score
    food = [hit.file_id async for hit in client.vector_stores.search(
        store.id, query="vessels", filters={"type": "eq", "key": "kind", "value": "food"})]  # fmt: skip
    assert food == [bread.id]
    assert [
        f.id async for f in client.vector_stores.files.list(store.id, filter="completed", order="asc", limit=1)
    ] == [boats.id, bread.id]
    content: Any = [part async for part in client.vector_stores.files.content(bread.id, vector_store_id=store.id)]
    assert "yeast" in content[0].text

    assert (await client.vector_stores.update(store.id, name="Renamed")).name == "Renamed"
    await client.vector_stores.files.delete(bread.id, vector_store_id=store.id)
    assert (await client.vector_stores.retrieve(store.id)).file_counts.total == 2
    await client.vector_stores.delete(store.id)
    assert [s.id async for s in client.vector_stores.list()] == []
    assert (await client.files.retrieve(boats.id)).id == boats.id


async def test_a_vector_store_whose_files_cannot_be_cut_as_asked_is_not_made_and_a_file_in_one_stays_as_it_is(
    client: openai.AsyncOpenAI,
) -> None:
    file = await client.files.create(file=("house.txt", b"The house is green."), purpose="assistants")
    odd: Any = {"type": "static", "static": {"max_chunk_size_tokens": 1, "chunk_overlap_tokens": 10}}
    known = [store.id async for store in client.vector_stores.list()]
    with pytest.raises(openai.BadRequestError, match="Invalid chunk size 1"):
        await client.vector_stores.create(file_ids=[file.id], chunking_strategy=odd)
    assert [store.id async for store in client.vector_stores.list()] == known
    store = await client.vector_stores.create(file_ids=[file.id])
    with pytest.raises(openai.BadRequestError, match="Invalid chunk size 1"):
        await client.vector_stores.files.create(store.id, file_id=file.id, chunking_strategy=odd)
    with pytest.raises(openai.BadRequestError, match="Invalid chunk size 1"):
        await client.vector_stores.file_batches.create(
            store.id, files=[{"file_id": file.id, "attributes": {"a": 1}}, {"file_id": file.id, "chunking_strategy": odd}]
        )  # fmt: skip
    [member] = [member async for member in client.vector_stores.files.list(store.id)]
    assert (member.status, member.attributes) == ("completed", {})


@pytest.mark.parametrize(
    ("anchor", "seconds", "param"),
    [
        ("created_at", "²", "seconds"), ("created_at", "9" * 5000, "seconds"), ("created_at", "0", "seconds"),
        ("created_at", None, "seconds"), ("last_active_at", "3600", "anchor"),
    ],
)  # fmt: skip
async def test_a_file_expires_after_a_whole_number_of_seconds_from_its_creation(
    client: openai.AsyncOpenAI, anchor: str, seconds: str | None, param: str
) -> None:
    expiry: Any = {"anchor": anchor, **({} if seconds is None else {"seconds": seconds})}
    with pytest.raises(openai.BadRequestError) as refused:
        await client.files.create(file=("a.txt", b"a"), purpose="user_data", expires_after=expiry)
    assert refused.value.param == f"expires_after[{param}]"
    kept = await client.files.create(
        file=("a.txt", b"a"), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert kept.expires_at is not None
    assert abs(kept.expires_at - kept.created_at - 3600) <= 1


async def test_embeddings_come_as_floats_or_packed(client: openai.AsyncOpenAI) -> None:
    packed = await client.embeddings.create(model="local/wordllama", input=["sea", "bread"])
    plain = await client.embeddings.create(model="local/wordllama", input="sea", encoding_format="float")
    assert [item.index for item in packed.data] == [0, 1]
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert packed.usage.prompt_tokens > 0


# -- parameters


HELLO: Any = [{"role": "user", "content": "Hello"}]
HARMLESS: dict[str, Any] = {
    "service_tier": "auto", "safety_identifier": "u", "prompt_cache_key": "k", "user": "u", "store": False, "metadata": {"a": "b"},
}  # fmt: skip


async def test_parameters_that_change_no_answer_are_taken(client: openai.AsyncOpenAI) -> None:
    told = await client.chat.completions.create(
        model="demo/echo",
        messages=[{"role": "user", "content": "Hello"}],
        **HARMLESS,
        seed=7,
        n=1,
        logprobs=False,
        logit_bias={},
        modalities=["text"],
    )
    assert told.choices[0].message.content
    response = await client.responses.create(
        model="demo/echo", input="Hello", **HARMLESS, max_tool_calls=3, background=False, top_logprobs=0
    )
    assert response.output_text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stop", "END"), ("stop", ["END"]), ("logit_bias", {"50256": -100}), ("logprobs", True), ("top_logprobs", 2), ("n", 2),
        ("modalities", ["text", "audio"]), ("web_search_options", {}), ("tools", [{"type": "custom", "custom": {"name": "x"}}]),
    ],
)  # fmt: skip
async def test_a_parameter_of_a_completion_that_cannot_be_honoured_is_named(
    client: openai.AsyncOpenAI, name: str, value: Any
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match=name) as refused:
            await client.chat.completions.create(
                model="demo/echo", messages=[{"role": "user", "content": "Hello"}], stream=stream, **{name: value}
            )  # type: ignore[call-overload]
        assert (refused.value.code, refused.value.param) == ("unsupported_parameter", name)


@pytest.mark.parametrize(("name", "value"), [
    ("background", True), ("top_logprobs", 2), ("prompt", {"id": "pmpt_1"}),
    ("tools", [{"type": "file_search", "vector_store_ids": ["vs_1"]}]),
])  # fmt: skip
async def test_so_is_one_of_a_response(client: openai.AsyncOpenAI, name: str, value: Any) -> None:
    with pytest.raises(openai.BadRequestError, match=name) as refused:
        await client.responses.create(model="demo/echo", input="Hello", **{name: value})
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", name)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("openai_compatible/mine/m", {"extra_args": {"stop": "END", "seed": 7}}),
        ("openai/m", {"extra_args": {"stop": "END", "seed": 7}}),
        ("local/smollm2-135m", {"extra_body": {"stop": "END", "seed": 7}}),
        ("ollama/qwen3", {"extra_args": {"stop": ["END"], "seed": 7}}),
    ],
)
async def test_a_provider_that_has_a_word_for_it_is_told(model: str, settings: dict[str, Any]) -> None:
    assert passed_on({"stop": "END", "seed": 7, "logit_bias": None}, model, openai_elsewhere=True) == settings


async def test_a_provider_is_told_in_its_own_words() -> None:
    told = passed_on({"stop": "END"}, "anthropic/claude-sonnet-5", openai_elsewhere=False)
    assert told == {"extra_args": {"stop_sequences": ["END"]}}
    for name, model in (("seed", "anthropic/claude-sonnet-5"), ("stop", "openai/gpt-4.1"), ("logit_bias", "ollama/m")):
        with pytest.raises(UsageError, match=name):
            passed_on({name: {"1": 1}}, model, openai_elsewhere=False)


async def test_a_purpose_that_is_none_is_refused(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="'bogus' is not a valid purpose"):
        await client.files.create(file=("a.txt", b"a"), purpose="bogus")  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="'bogus' is not a valid purpose"):
        await client.uploads.create(filename="a", purpose="bogus", bytes=1, mime_type="text/plain")  # type: ignore[arg-type]


# -- what goes wrong


async def test_errors_have_openais_form_and_say_the_next_step(client: openai.AsyncOpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Hello"}]
    with pytest.raises(openai.BadRequestError, match="Known:") as unknown:
        await client.chat.completions.create(model="olama/qwen3", messages=messages)
    assert unknown.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="OPENAI_API_KEY"):
        await client.chat.completions.create(model="gpt-4.1", messages=messages)
    for stream in (True, False):
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(
                model="demo/flaky?rate=1&error=rate_limit", messages=messages, stream=stream
            )  # type: ignore[call-overload]
        with pytest.raises(openai.RateLimitError):
            await client.responses.create(model="demo/flaky?rate=1&error=rate_limit", input="Hello", stream=stream)  # type: ignore[call-overload]
    with pytest.raises(openai.UnprocessableEntityError):
        await client.chat.completions.create(model="demo/echo", messages=messages, extra_body={"no_such_field": 1})
    with pytest.raises(openai.BadRequestError, match="Message 0"):
        await client.chat.completions.create(model="demo/echo", messages=[{"role": "wizard", "content": "x"}])  # type: ignore[list-item]
    with pytest.raises(openai.BadRequestError):
        await client.responses.create(model="demo/echo", input="")
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="no token").models.list()


async def test_nothing_of_another_user_is_found(server: Server, client: openai.AsyncOpenAI) -> None:
    file = await client.files.create(file=("mine.txt", b"mine"), purpose="assistants")
    store = await client.vector_stores.create(name="mine", file_ids=[file.id])
    conversation = await client.conversations.create(items=[{"type": "message", "role": "user", "content": "mine"}])
    response = await client.responses.create(model="demo/echo", input="mine", conversation=conversation.id)
    upload = await client.uploads.create(filename="m", purpose="assistants", bytes=1, mime_type="text/plain")
    asks_about: Any = [{"role": "user", "content": [{"type": "input_file", "file_id": file.id}]}]
    async with client_of(server) as other:
        assert [f async for f in other.files.list()] == []
        assert [s async for s in other.vector_stores.list()] == []
        for attempt in (
            other.files.retrieve(file.id), other.files.content(file.id), other.files.delete(file.id),
            other.vector_stores.retrieve(store.id), other.vector_stores.delete(store.id),
            other.vector_stores.update(store.id, name="x"), other.vector_stores.files.create(store.id, file_id=file.id),
            other.vector_stores.create(name="x", file_ids=[file.id]), other.vector_stores.files.list(store.id),
            other.vector_stores.search(store.id, query="mine"), other.conversations.retrieve(conversation.id),
            other.conversations.items.list(conversation.id), other.conversations.delete(conversation.id),
            other.conversations.items.create(conversation.id, items=[{"type": "message", "role": "user", "content": "x"}]),
            other.responses.retrieve(response.id), other.responses.delete(response.id),
            other.responses.create(model="demo/echo", previous_response_id=response.id, input="x"),
            other.responses.create(model="demo/echo", conversation=conversation.id, input="x"),
            other.responses.create(model="demo/echo", input=asks_about),
            other.uploads.parts.create(upload.id, data=b"x"), other.uploads.cancel(upload.id),
        ):  # fmt: skip
            with pytest.raises(openai.NotFoundError):
                await attempt
    assert (await client.files.content(file.id)).content == b"mine"
