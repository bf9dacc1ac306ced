"""The session is the thread's append-only log, shown to the model in an order that every provider takes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from agents.memory import Session

from tests.providers.test_conformance_answers import PIXEL
from tests.runtime.bench import Bench, last, open_bench
from tests.wire import Raw, Reply, WireServer, Words, chat_completions
from tests.wire.server import sse
from timestep_lab.model.records import ThreadRecord
from timestep_lab.runtime.session import StoreSession, answers_behind_calls


def said(text: str, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": text}


def call(id: str) -> dict[str, Any]:
    return {"type": "function_call", "call_id": id, "name": "look", "arguments": "{}"}


def answer(id: str, output: str = "ok") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": id, "output": output}


@pytest.fixture
def session(bench: Bench) -> StoreSession:
    bench.store.threads.insert(ThreadRecord(id="thr_1", user_id=bench.store.user_id))
    return StoreSession(bench.store, "thr_1", "run_1")


async def test_it_is_an_sdk_session(session: StoreSession) -> None:
    assert isinstance(session, Session)
    assert await session.get_items() == []
    await session.add_items([said("one"), said("two", "assistant"), said("three")])  # type: ignore[list-item]
    assert await session.get_items(limit=2) == [said("two", "assistant"), said("three")]
    assert await session.get_items(limit=0) == []
    assert await session.pop_item() == said("three")
    await session.clear_session()
    assert await session.pop_item() is None


async def test_a_call_or_an_answer_that_is_there_is_not_added_again(session: StoreSession) -> None:
    await session.add_items([said("go"), call("a"), answer("a", "first")])  # type: ignore[list-item]
    await session.add_items([call("a"), answer("a", "second"), answer("b"), said("go")])  # type: ignore[list-item]
    assert await session.get_items() == [said("go"), call("a"), answer("a", "first"), answer("b"), said("go")]


async def test_the_stand_in_for_a_clients_answer_is_not_kept(session: StoreSession) -> None:
    session.unanswered.add("a")
    await session.add_items([call("a"), call("b"), answer("a", "stand-in"), answer("b")])  # type: ignore[list-item]
    assert await session.get_items() == [call("a"), call("b"), answer("b")]


def test_a_late_answer_is_shown_behind_its_call() -> None:
    log = [said("1"), call("a"), call("b"), answer("b"), said("2"), said("hi", "assistant"), answer("a")]
    assert answers_behind_calls(log) == [
        said("1"), call("a"), call("b"), answer("b"), answer("a"), said("2"), said("hi", "assistant"),
    ]  # fmt: skip


def test_a_log_in_order_is_left_alone() -> None:
    log = [said("1"), call("a"), call("b"), answer("a"), answer("b"), call("c"), answer("c"), said("x", "assistant")]
    assert answers_behind_calls(log) is log
    assert answers_behind_calls([said("1"), call("open"), said("2")]) == [said("1"), call("open"), said("2")]


async def test_an_image_of_an_answer_that_broke_off_is_shown_to_the_model_in_the_next_turn() -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    choice = {"index": 0, "finish_reason": None, "delta": {"images": [image]}}
    begun = sse({"id": "x", "created": 1, "model": "m", "choices": [choice]})
    with WireServer(chat_completions) as server:
        server.will(Raw((begun, begun), abrupt=True), Reply(Words("Red.")))
        async with open_bench(openai_compatible={"artist": f"{server.url}/v1"}) as bench:
            model = "openai_compatible/artist/m"
            first = last(await bench.run("Draw a dot.", model=model))
            assert first.run.status == "failed"
            second = last(await bench.run("Which color?", model=model, thread_id=first.run.thread_id))
            assert second.run.status == "completed"
        *_, asked = server.requests[-1].body["messages"]
        assert PIXEL in json.dumps(asked)
        assert "tool_calls" not in json.dumps(server.requests[-1].body["messages"])
