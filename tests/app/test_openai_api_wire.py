"""What reaches the provider behind `/openai/v1`, and what comes back: a served lab between the official client and a model server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest
import pytest_asyncio

from tests.app.served import SETTINGS, Server, serve
from tests.wire import Call, Instead, Reply, Thought, WireServer, Words, chat_completions
from timestep_lab.types.ids import new_uuid

pytestmark = pytest.mark.asyncio(loop_scope="module")
MODEL = "openai_compatible/mine/some-model"


@pytest.fixture(scope="module")
def running() -> Iterator[WireServer]:
    with WireServer(chat_completions) as server:
        yield server


@pytest.fixture
def provider(running: WireServer) -> WireServer:
    return running.forget()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory, running: WireServer) -> AsyncIterator[Server]:
    settings = replace(SETTINGS, openai_compatible={"mine": f"{running.url}/v1"})
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
