"""What reaches the provider behind `/openai/v1`, and what comes back: a served lab between the official client and a model server."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

from tests.server.served import SETTINGS, Server, serve
from tests.wire import Call, Deltas, Instead, Reply, Thought, WireServer, Words, chat_completions, openai_responses
from timestep_lab import Lab
from timestep_lab.model.ids import new_uuid
from timestep_lab.runtime.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")
MODEL = "openai_compatible/mine/some-model"


@pytest.fixture(scope="module")
def running() -> Iterator[WireServer]:
    with WireServer(chat_completions) as server:
        yield server


@pytest.fixture(scope="module")
def running_openai() -> Iterator[WireServer]:
    with WireServer(openai_responses) as server:
        yield server


@pytest.fixture
def provider(running: WireServer) -> WireServer:
    return running.forget()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(
    tmp_path_factory: pytest.TempPathFactory, running: WireServer, running_openai: WireServer
) -> AsyncIterator[Server]:
    settings = replace(
        SETTINGS, openai_compatible={"mine": f"{running.url}/v1"}, anthropic_api_key="a-key", openai_api_key="a-key",
        openai_base_url=f"{running_openai.url}/v1", openai_responses=True,
    )  # fmt: skip
    async with serve(tmp_path_factory.mktemp("served") / "lab.duckdb", settings) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def client(lab: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    url, key = f"{lab.url}/openai/v1", lab.token(new_uuid())
    async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
        yield client


LOOK: Any = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"k": {"type": "string"}}}},
}


@pytest.mark.parametrize("streamed", [False, True])
async def test_reasoning_goes_out_to_the_caller_and_back_to_the_server_that_needs_it(
    client: openai.AsyncOpenAI, provider: WireServer, streamed: bool
) -> None:
    provider.will(Reply(Thought("It is A"), Call("look", {"k": "A"})), Reply(Words("Seen.")))
    messages: list[Any] = [{"role": "user", "content": "Look."}]
    asked: Any = {"model": MODEL, "messages": messages, "tools": [LOOK]}
    if streamed:
        thought, called = "", {}
        async for chunk in await client.chat.completions.create(**asked, stream=True):
            delta: Any = chunk.choices[0].delta
            thought += getattr(delta, "reasoning_content", None) or ""
            for call in delta.tool_calls or ():
                called = called or {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": "look", "arguments": '{"k": "A"}'},
                }
    else:
        message: Any = (await client.chat.completions.create(**asked)).choices[0].message
        thought, called = message.reasoning_content, message.tool_calls[0].model_dump()
    assert thought == "It is A"
    messages += [
        {"role": "assistant", "content": None, "reasoning_content": thought, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": called["id"], "content": "seen"},
    ]
    await client.chat.completions.create(**asked)
    sent = provider.requests[1].body["messages"][1]
    assert sent["reasoning_content"] == "It is A"
    assert sent["tool_calls"][0]["id"] == "call_1"


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_a_server_signs_with_a_call_goes_out_to_the_caller_and_back(
    client: openai.AsyncOpenAI, provider: WireServer, streamed: bool
) -> None:
    signed = {"google": {"thought_signature": "U0lH"}}
    details = [{"type": "reasoning.encrypted", "data": "RU5D"}]
    piece = {"index": 0, "id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    provider.will(
        Reply(Deltas({"reasoning_details": details}, {"tool_calls": [{**piece, "extra_content": signed}]})), Reply(Words("Seen.")),
    )  # fmt: skip
    asked: Any = {"model": MODEL, "messages": [{"role": "user", "content": "Look."}], "tools": [LOOK]}
    if streamed:
        deltas = [
            c.choices[0].delta.model_dump() async for c in await client.chat.completions.create(**asked, stream=True)
        ]
        told = {name: value for delta in deltas for name, value in delta.items() if value}
        [extra] = [c["extra_content"] for d in deltas for c in d.get("tool_calls") or () if "extra_content" in c]
        call_id = next(c["id"] for d in deltas for c in d.get("tool_calls") or () if c["id"])
        message = {
            "reasoning_details": told["reasoning_details"],
            "tool_calls": [{**piece, "id": call_id, "extra_content": extra}],
        }
    else:
        message = (await client.chat.completions.create(**asked)).choices[0].message.model_dump(exclude_none=True)
        call_id = message["tool_calls"][0]["id"]
    result = {"role": "tool", "tool_call_id": call_id, "content": "seen"}
    asked["messages"] += [{"role": "assistant", **message}, result]
    await client.chat.completions.create(**asked)
    sent = provider.requests[1].body["messages"][1]
    assert (sent["tool_calls"][0]["extra_content"], sent["reasoning_details"]) == (signed, details)


async def test_an_answer_without_a_reason_is_told_as_cut_and_an_overflow_by_openais_code(
    client: openai.AsyncOpenAI, provider: WireServer
) -> None:
    asked: Any = {"model": MODEL, "messages": [{"role": "user", "content": "All of it?"}]}
    provider.will(Reply(Words("Half of it"), stop="unsaid"))
    choice = (await client.chat.completions.create(**asked)).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("Half of it", "length")
    answer = await client.responses.create(model=MODEL, input="All of it?")
    assert (answer.output_text, answer.status, answer.output[0].status) == ("Half of it", "incomplete", "incomplete")  # type: ignore[union-attr]
    provider.forget().will(
        Instead('{"detail": "This model\'s maximum context length is 9 tokens. You asked for 10."}', 400)
    )
    with pytest.raises(openai.BadRequestError, match="You asked for 10") as refused:
        await client.chat.completions.create(**asked)
    assert (refused.value.code, refused.value.type) == ("context_length_exceeded", "invalid_request_error")


@pytest.mark.parametrize(
    ("wanted", "sent"),
    [
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "json_schema": {"name": "place", "description": "Where.", "schema": {"type": "object"}}},
            {"type": "json_schema", "json_schema": {"name": "place", "description": "Where.", "schema": {"type": "object"}, "strict": False}},
        ),
    ],
    ids=["json_object", "json_schema"],
)  # fmt: skip
async def test_the_form_of_an_answer_is_asked_for_as_the_caller_said_it(
    client: openai.AsyncOpenAI, provider: WireServer, wanted: Any, sent: Any
) -> None:
    provider.will(Reply(Words("{}")))
    await client.chat.completions.create(model=MODEL, messages=HELLO, response_format=wanted)
    flat = {"type": "json_schema", **wanted["json_schema"]} if "json_schema" in wanted else wanted
    answer = await client.responses.create(model=MODEL, input="Hello", text={"format": flat})
    assert [request.body["response_format"] for request in provider.requests] == [sent, sent]
    assert answer.text is not None
    assert answer.text.format is not None
    assert answer.text.format.type == wanted["type"]


async def test_a_form_that_nobody_knows_and_one_that_claude_lacks_are_refused(client: openai.AsyncOpenAI) -> None:
    for format in ({"type": "yaml"}, {"type": "json_schema", "name": "x"}, {"type": "json_object", "more": 1}):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model="demo/echo", input="Hello", text={"format": format})  # type: ignore[typeddict-item]
        assert refused.value.param == "text.format"
    with pytest.raises(openai.BadRequestError, match=r"text\.more is not supported"):
        await client.responses.create(model="demo/echo", input="Hello", text={"more": 1})  # type: ignore[typeddict-unknown-key]
    with pytest.raises(openai.BadRequestError, match="unspecified JSON object"):
        await client.chat.completions.create(
            model="anthropic/claude-haiku-4-5", messages=HELLO, response_format={"type": "json_object"}
        )


HELLO: Any = [{"role": "user", "content": "Hello"}]
CLAUDE = "anthropic/claude-haiku-4-5"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"verbosity": "low"}, "verbosity"), ({"frequency_penalty": 0.5}, "frequency_penalty"), ({"seed": 7}, "seed"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"reasoning_effort": "low", "tool_choice": "required", "tools": [LOOK]}, "tool_choice"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("streamed", [False, True])
async def test_what_a_provider_has_no_word_for_is_refused_by_the_name_that_the_caller_gave_it(
    client: openai.AsyncOpenAI, given: Any, name: str, streamed: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model=CLAUDE, messages=HELLO, stream=streamed, **given)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", name)


async def test_what_a_provider_has_no_word_for_is_refused_in_the_words_of_the_responses_api(
    client: openai.AsyncOpenAI,
) -> None:
    for given, name in (
        ({"text": {"verbosity": "low"}}, "text.verbosity"), ({"text": {"format": {"type": "json_object"}}}, "text.format"),
    ):  # fmt: skip
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model=CLAUDE, input="Hello", **given)  # type: ignore[call-overload]
        assert (refused.value.code, refused.value.param) == ("unsupported_parameter", name)
    with pytest.raises(openai.BadRequestError) as wrong:
        await client.responses.create(model=CLAUDE, input="Hello", temperature=9)
    assert (wrong.value.code, wrong.value.param) == (None, "temperature")


async def test_who_asks_and_hints_are_told_to_a_provider_that_has_words_for_them_and_kept_with_the_trace(
    client: openai.AsyncOpenAI, provider: WireServer
) -> None:
    provider.will(Reply(Words("Hi")))
    more: Any = {"user": "ada", "service_tier": "flex", "prompt_cache_key": "k"}
    await client.chat.completions.create(model=MODEL, messages=HELLO, metadata={"team": "a"}, seed=7, **more)
    assert {**more, "seed": 7}.items() <= provider.requests[0].body.items()
    answer = await client.responses.create(model=MODEL, input="Hello", parallel_tool_calls=False, **more)
    assert (answer.parallel_tool_calls, answer.user, answer.service_tier) == (False, "ada", "flex")
    with pytest.raises(openai.BadRequestError, match="service_tier"):
        await client.responses.create(model="demo/echo", input="Hello", service_tier="flex")


async def test_what_is_not_to_be_stored_is_not_stored_by_the_provider_either(
    client: openai.AsyncOpenAI, provider: WireServer, running_openai: WireServer
) -> None:
    for model, server in ((MODEL, provider), ("openai/gpt-4.1", running_openai)):
        server.forget().will(Reply(Words("Hi")))
        for store in (False, True):
            await client.responses.create(model=model, input="Hello", store=store)
            await client.chat.completions.create(model=model, messages=HELLO, store=store)
        await client.chat.completions.create(model=model, messages=HELLO)
        assert [request.body.get("store") for request in server.requests] == [False, False, True, True, None]
    answer = await client.responses.create(model="demo/echo", input="Hello", store=False)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(answer.id)


@pytest.mark.parametrize(
    ("name", "value"),
    [("truncation", "auto"), ("include", ["nonsense"]), ("include", ["message.output_text.logprobs"])],
)
async def test_what_a_response_cannot_do_is_refused_by_its_name(
    client: openai.AsyncOpenAI, name: str, value: Any
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="demo/echo", input="Hello", **{name: value})
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", name)
    taken: Any = {"truncation": "disabled", "include": ["reasoning.encrypted_content"]}
    assert (await client.responses.create(model="demo/echo", input="Hello", **taken)).output_text


async def test_a_kept_response_is_streamed_again_and_none_can_be_cancelled(
    client: openai.AsyncOpenAI, provider: WireServer
) -> None:
    provider.will(Reply(Thought("It is A"), Words("Looking now."), Call("look", {"k": "A"})))
    tool: Any = {"type": "function", **LOOK["function"], "strict": False}
    answer = await client.responses.create(model=MODEL, input="Look.", tools=[tool])
    events = [event async for event in await client.responses.retrieve(answer.id, stream=True)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "Looking now."
    assert "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta") == '{"k": "A"}'
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output == answer.output
    rest = [event async for event in await client.responses.retrieve(answer.id, stream=True, starting_after=3)]
    assert rest[0].sequence_number == 4
    with pytest.raises(openai.BadRequestError, match="is complete"):
        await client.responses.cancel(answer.id)


async def test_old_programs_get_completions(client: openai.AsyncOpenAI, provider: WireServer) -> None:
    provider.will(Reply(Words("Hello to you")))
    answer = await client.completions.create(model=MODEL, prompt=["One", "Two"], max_tokens=9, stop=["END"])
    assert [(choice.index, choice.text, choice.finish_reason) for choice in answer.choices] == [
        (0, "Hello to you", "stop"), (1, "Hello to you", "stop"),
    ]  # fmt: skip
    assert answer.usage is not None
    assert answer.usage.total_tokens == 50
    assert provider.requests[0].body["stop"] == ["END"]
    pieces = [piece async for piece in await client.completions.create(model=MODEL, prompt="One", stream=True)]
    assert "".join(piece.choices[0].text for piece in pieces) == "Hello to you"
    with pytest.raises(openai.BadRequestError, match="suffix"):
        await client.completions.create(model=MODEL, prompt="One", suffix="end")


async def test_files_are_added_in_a_batch_and_a_search_weighs_meaning_and_words(client: openai.AsyncOpenAI) -> None:
    texts = {"sea.txt": b"Waves roll over the ocean.", "bread.txt": b"Flour, water and salt make bread."}
    files = [(await client.files.create(file=item, purpose="assistants")).id for item in texts.items()]
    store = await client.vector_stores.create(name="both")
    batch = await client.vector_stores.file_batches.create_and_poll(store.id, file_ids=files)
    assert (batch.status, batch.file_counts.completed, batch.file_counts.total) == ("completed", 2, 2)
    listed = client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id)
    assert {file.id async for file in listed} == set(files)
    assert (await client.vector_stores.file_batches.cancel(batch.id, vector_store_id=store.id)).status == "completed"
    with pytest.raises(openai.NotFoundError):
        await client.vector_stores.file_batches.retrieve("vsfb_1", vector_store_id=store.id)
    scores = {}
    for embedding, text in ((1.0, 0.0), (0.0, 1.0)):
        ranking: Any = {"ranker": "auto", "hybrid_search": {"embedding_weight": embedding, "text_weight": text}}
        found = [hit async for hit in client.vector_stores.search(store.id, query="bread", ranking_options=ranking)]
        assert found[0].filename == "bread.txt"
        scores[embedding] = [hit.score for hit in found]
    assert scores[0.0] == [1.0, 0.0]
    assert 0 < scores[1.0][0] < 1
    with pytest.raises(openai.BadRequestError, match="rewrite"):
        await client.vector_stores.search(store.id, query="bread", rewrite_query=True)


async def test_vectors_have_the_length_that_is_asked_for_or_none(client: openai.AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model="local/wordllama", input="sea", dimensions=64)
    vector = answer.data[0].embedding
    assert len(vector) == 64
    assert sum(number * number for number in vector) == pytest.approx(1)
    with pytest.raises(openai.BadRequestError, match="64, 128, 256"):
        await client.embeddings.create(model="local/wordllama", input="sea", dimensions=65)


async def test_two_labs_in_a_row_behave_as_one(lab: Server, provider: WireServer, tmp_path: Path) -> None:
    """`OPENAI_BASE_URL` of one lab is the other: what an agent does, says and keeps is what it would be without the one between."""
    key = lab.token(new_uuid())
    beyond = replace(SETTINGS, openai_base_url=f"{lab.url}/openai/v1", openai_api_key=key)
    near = replace(SETTINGS, openai_compatible={"mine": f"{provider.url}/v1"})
    turns = ("Hello.", "What is the weather in Berkeley?", "Thank you.")
    weather = Call("get_weather", {"location": "Berkeley"}, "functions.get_weather:0")

    async def talk(settings: Settings, model: str) -> list[Any]:
        provider.forget().will(
            Reply(Words("Hi. Ask me.")), Reply(Thought("Berkeley"), weather), Reply(Words("Fog.")), Reply(Words("Welcome."))
        )  # fmt: skip
        heard: list[Any] = []
        async with Lab(tmp_path / f"{len(model)}.duckdb", settings=settings) as here:
            thread = None
            for turn in turns:
                run = await here.run(turn, agent="Weather Assistant", model=model, thread=thread)
                heard.append(run.status)
                if run.status == "needs_approval":
                    run = await run.approve()
                thread = run.thread
                heard.append((run.status, run.output, run.usage.input_tokens, run.usage.output_tokens))
            heard += [
                (item.type, item.data.get("text"), item.data.get("output"))
                for item in thread.items
                if item.type != "reasoning"
            ]
            too_long = {"error": {"message": "Too much was said.", "code": "context_length_exceeded"}}
            provider.forget().will(Instead(json.dumps(too_long), 400))
            failed = await here.run("And now?", model=model, agent="Weather Assistant")
            heard.append((failed.status, failed.record.error_type, "Too much was said" in (failed.error or "")))
        return heard

    one, two = await talk(near, MODEL), await talk(beyond, f"openai/{MODEL}")
    assert one == two
    assert "needs_approval" in one
    assert one[-1] == ("failed", "ContextLengthError", True)


# -- every parameter of the official client is known here: done, passed on, or refused by its name

OF_THE_CLIENT = ("extra_headers", "extra_query", "extra_body", "timeout")
REFERENCE = Path(__file__).parents[2] / ".github/OPENAI_API.md"


def parameters(method: Any) -> set[str]:
    return set(inspect.signature(method).parameters) - {"self", *OF_THE_CLIENT}


def fields_of(method: str, path: str) -> set[str]:
    """What an endpoint takes: in its path, its query, and its body."""
    described = openapi()["paths"][f"/openai/v1{path}"][method]
    body = described.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    refs = [one.get("$ref", "") for one in (body, *body.get("anyOf", []))]
    names = [ref.rpartition("/")[2] for ref in refs if ref]
    in_body = {field for name in names for field in openapi()["components"]["schemas"][name]["properties"]}
    return in_body | {given["name"].removesuffix("[]") for given in described.get("parameters", [])}


@functools.cache
def openapi() -> dict[str, Any]:
    from fastapi import FastAPI

    from timestep_lab.server.openai_api import router

    app = FastAPI()
    app.include_router(router)
    return app.openapi()


@pytest.mark.parametrize(
    ("name", "method", "path"),
    [
        ("chat.completions.create", "post", "/chat/completions"), ("completions.create", "post", "/completions"),
        ("responses.create", "post", "/responses"), ("responses.retrieve", "get", "/responses/{response_id}"),
        ("responses.delete", "delete", "/responses/{response_id}"), ("responses.cancel", "post", "/responses/{response_id}/cancel"),
        ("responses.input_items.list", "get", "/responses/{response_id}/input_items"),
        ("conversations.create", "post", "/conversations"), ("conversations.update", "post", "/conversations/{conversation_id}"),
        ("conversations.retrieve", "get", "/conversations/{conversation_id}"),
        ("conversations.items.create", "post", "/conversations/{conversation_id}/items"),
        ("conversations.items.list", "get", "/conversations/{conversation_id}/items"),
        ("conversations.items.retrieve", "get", "/conversations/{conversation_id}/items/{item_id}"),
        ("embeddings.create", "post", "/embeddings"), ("files.list", "get", "/files"), ("files.content", "get", "/files/{file_id}/content"),
        ("uploads.create", "post", "/uploads"), ("uploads.complete", "post", "/uploads/{upload_id}/complete"),
        ("vector_stores.create", "post", "/vector_stores"), ("vector_stores.list", "get", "/vector_stores"),
        ("vector_stores.update", "post", "/vector_stores/{store_id}"), ("vector_stores.search", "post", "/vector_stores/{store_id}/search"),
        ("vector_stores.files.create", "post", "/vector_stores/{store_id}/files"),
        ("vector_stores.files.list", "get", "/vector_stores/{store_id}/files"),
        ("vector_stores.files.update", "post", "/vector_stores/{store_id}/files/{file_id}"),
        ("vector_stores.files.content", "get", "/vector_stores/{store_id}/files/{file_id}/content"),
        ("vector_stores.file_batches.create", "post", "/vector_stores/{store_id}/file_batches"),
        ("vector_stores.file_batches.list_files", "get", "/vector_stores/{store_id}/file_batches/{batch_id}/files"),
    ],
)  # fmt: skip
async def test_every_parameter_of_the_official_client_is_known(name: str, method: str, path: str) -> None:
    asked = parameters(
        functools.reduce(getattr, name.split("."), openai.OpenAI(api_key="none", base_url="http://127.0.0.1:9"))
    )
    taken = fields_of(method, path) | ({"vector_store_id"} if "{store_id}" in path else set())
    assert asked <= taken, (
        f"{name} has parameters that the lab neither takes nor refuses by name: {sorted(asked - taken)}"
    )


@pytest.mark.parametrize("path", ["/chat/completions", "/completions", "/responses"])
async def test_every_parameter_is_in_the_reference(path: str) -> None:
    told = set(re.findall(r"`([a-z_]+)", REFERENCE.read_text("utf-8")))
    assert fields_of("post", path) - told - {"model", "messages", "prompt"} == set()


REFUSED: list[tuple[str, str, Any]] = [
    *(("chat.completions", name, {"x": 1}) for name in ("moderation", "audio", "function_call")),
    ("chat.completions", "functions", [{"name": "look"}]),
    *(("responses", name, {"x": 1}) for name in ("moderation", "image", "access_programs", "background_options")),
    ("responses", "context_management", [{"type": "compaction"}]),
]


@pytest.mark.parametrize(("api", "name", "value"), REFUSED, ids=str)
async def test_what_only_openai_can_do_is_refused_by_its_name(
    client: openai.AsyncOpenAI, api: str, name: str, value: Any
) -> None:
    create = functools.reduce(getattr, api.split("."), client).create  # type: ignore[attr-defined]
    asked = {"messages": HELLO} if api == "chat.completions" else {"input": "Hello"}
    with pytest.raises(openai.BadRequestError, match=name) as refused:
        await create(model="demo/echo", **asked, extra_body={name: value})
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", name)
    assert await create(model="demo/echo", **asked, extra_body={name: None})


async def test_an_unknown_parameter_of_a_url_or_a_form_is_refused_by_its_name(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="'sort' is no parameter of this endpoint") as refused:
        await client.files.list(extra_query={"sort": "name"})
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "sort")
    with pytest.raises(openai.BadRequestError, match="unknown field 'tag'"):
        await client.files.create(file=("a.txt", b"a"), purpose="user_data", extra_body={"tag": "x"})
    conversation = await client.conversations.create()
    with pytest.raises(openai.BadRequestError, match="include"):
        await client.conversations.items.list(conversation.id, include=["nonsense"])  # type: ignore[list-item]
    with pytest.raises(
        openai.NotFoundError, match=r"POST /openai/v1/moderations is no endpoint of this API"
    ) as nowhere:
        await client.moderations.create(input="Hello")
    assert nowhere.value.code == "unknown_url"


async def test_who_speaks_and_how_closely_an_image_is_looked_at_reach_a_server_that_has_words_for_them(
    client: openai.AsyncOpenAI, provider: WireServer, running_openai: WireServer
) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}}
    messages: Any = [
        {"role": "user", "name": "ada", "content": "Hello"},
        {"role": "assistant", "name": "bob", "content": "Hello, Ada."},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", **LOOK, "function": {"name": "look", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "seen"},
        {"role": "user", "content": "And?"},
        {"role": "user", "name": "eve", "content": [{"type": "text", "text": "This?"}, image]},
    ]  # fmt: skip
    provider.will(Reply(Words("Hi")))
    await client.chat.completions.create(model=MODEL, messages=messages)
    sent = provider.requests[0].body["messages"]
    assert [(one["role"], one.get("name")) for one in sent] == [
        ("user", "ada"), ("assistant", "bob"), ("tool", None), ("user", None), ("user", "eve"),
    ]  # fmt: skip
    assert sent[-1]["content"][1] == image
    running_openai.forget().will(Reply(Words("Hi")))
    await client.chat.completions.create(model="openai/gpt-4.1", messages=messages)
    assert "name" not in {key for item in running_openai.requests[0].body["input"] if "role" in item for key in item}
    assert running_openai.requests[0].body["input"][-1]["content"][1]["detail"] == "low"


async def test_vector_stores_are_paged_in_both_directions_and_keep_their_description(
    client: openai.AsyncOpenAI,
) -> None:
    ids = [(await client.vector_stores.create(name=str(n), description=f"no. {n}")).id for n in range(5)]
    listed = await client.vector_stores.list(order="asc", limit=2, before=ids[3])
    assert [store.id for store in listed.data] == ids[1:3]
    assert listed.has_more
    between = await client.vector_stores.list(order="asc", after=ids[0], before=ids[3])
    assert [store.id for store in between.data] == ids[1:3]
    assert (await client.vector_stores.retrieve(ids[0])).metadata == {"description": "no. 0"}
