"""What a chat asks of the lab behind it is answered alike by one in this process and by a served one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from tests.server.lab_process import LabProcess
from tests.server.remote import Both
from timestep_lab import Lab
from timestep_lab.model.errors import LabError
from timestep_lab.model.records import Json, RunRecord, ThreadRecord, Usage
from timestep_lab.service.threads import ThreadPage
from timestep_lab.ui.chat import Chat
from timestep_lab.ui.chat_state import run_json
from timestep_lab.ui.view import View


@pytest.fixture(params=["local", "remote"])
async def chat(served_lab: LabProcess, request: pytest.FixtureRequest) -> AsyncIterator[Chat]:
    both = Both(served_lab)
    yield getattr(both, request.param).chat(model="demo/echo")
    await both.aclose()


def titles(chat: Chat) -> set[str | None]:
    return {thread.title for thread in chat._threads.data if thread.title}


async def test_an_edited_message_names_its_branch_and_one_tried_again_does_not(chat: Chat) -> None:
    await chat.ask("The first question")
    await chat.ask("A later question")
    original = chat.thread_id
    [first, answer, *_, last] = chat._items.values()
    await chat._edit(first.id, "Another question\nwith a second line", [])
    assert chat._turn is not None
    await chat._turn
    assert chat._thread is not None
    assert chat._thread.title == "Another question"
    await chat._open(str(original))
    await chat._retry(last.id)
    await chat._turn
    assert chat._thread.title == "The first question"
    assert [i.data["text"] for i in chat._items.values() if i.type == "user_message"][-1] == "A later question"
    await chat._open(str(original))
    await chat._retry(first.id)
    await chat._turn
    said = [i.data["text"] for i in chat._items.values() if i.type == "user_message"]
    assert said == ["The first question"], "A message itself can be tried again."
    assert answer.type == "assistant_message"


async def test_of_two_conversations_opened_quickly_the_second_is_shown_whole(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    await chat.ask("The first one")
    first = str(chat.thread_id)
    await chat._fresh()
    await chat.ask("The second one")
    second = str(chat.thread_id)
    source, may_go = chat._source, asyncio.Event()
    read = source.thread

    async def late(thread_id: str) -> ThreadRecord:
        thread = await read(thread_id)
        if thread_id == first:
            await may_go.wait()
        return thread

    monkeypatch.setattr(source, "thread", late)
    opening = asyncio.create_task(chat._open(first))
    await asyncio.sleep(0)
    await chat._open(second)
    may_go.set()
    await opening
    assert chat._thread is not None
    assert (chat.thread_id, chat._thread.id) == (second, second)
    assert {item.thread_id for item in chat._items.values()} == {second}
    assert {run.thread_id for run in chat._runs.values()} == {second}


async def test_an_empty_title_leaves_a_conversation_its_old_one(chat: Chat) -> None:
    await chat.ask("Keep my name")
    await chat._rename(str(chat.thread_id), "   ")
    assert "Keep my name" in titles(chat)
    await chat._rename(str(chat.thread_id), "A new name")
    assert "A new name" in titles(chat)


async def test_a_model_that_is_in_no_list_can_be_chosen_if_its_provider_is_known(chat: Chat) -> None:
    await chat._ensure_loaded()
    await chat._choose(model="demo/slow?ttft=0&tps=1000&n=4")
    assert "1 2 3" in await chat.ask("Count")
    assert chat._runs[next(reversed(chat._runs))].model == "demo/slow?ttft=0&tps=1000&n=4"
    with pytest.raises(LabError, match="There is no provider 'dmeo'"):
        await chat._choose(model="dmeo/slow")
    assert chat._model == "demo/slow?ttft=0&tps=1000&n=4"
    await chat._choose(model="")
    assert chat._model is None


def test_what_a_stopped_run_took_is_unknown_and_not_nothing() -> None:
    run = RunRecord(
        id="run_1", user_id="u", thread_id="thr_1", trace_id="0" * 32, agent_id=None, agent="A", cost_usd=0.0
    )
    assert (run_json(run)["tokens"], run_json(run)["cost_usd"]) == (None, None)
    told = replace(run, usage=Usage(input_tokens=3, output_tokens=4))
    assert (run_json(told)["tokens"], run_json(told)["cost_usd"]) == (7, 0.0)


async def test_a_chat_that_is_read_on_one_event_loop_is_written_to_on_another() -> None:
    """As in JupyterLab, whose messages reach the kernel's loop first and that of a subshell later."""
    lab = Lab(":memory:")
    chat = lab.chat(model="demo/echo")
    go_on, read = asyncio.Event(), chat._source.models

    async def models() -> Sequence[str]:
        await go_on.wait()
        return await read()

    chat._source.models = models  # type: ignore[method-assign]
    other = asyncio.new_event_loop()
    thread = threading.Thread(target=other.run_forever, daemon=True)
    thread.start()
    opened = asyncio.run_coroutine_threadsafe(chat._ensure_loaded(), other)
    async with asyncio.timeout(20):
        while chat._loaded is None:
            await asyncio.sleep(0.01)
        other.call_soon_threadsafe(other.call_later, 0.2, go_on.set)
        assert await chat.ask("hello") == "Echo (no language model): hello"
        await asyncio.wrap_future(opened)
    other.call_soon_threadsafe(other.stop)
    await asyncio.to_thread(thread.join, 10)
    other.close()
    await lab.aclose()


async def test_work_begins_at_once_where_the_last_message_came_on_another_event_loop_that_sleeps() -> None:
    class PipelineAnswer(View):
        stem = "told"

        def snapshot(self) -> Json:
            return {}

    view, begun = PipelineAnswer(), asyncio.Event()
    other = asyncio.new_event_loop()
    thread = threading.Thread(target=other.run_forever, daemon=True)
    thread.start()
    other.call_soon_threadsafe(view._remember_loop)
    await asyncio.sleep(0.2)  # It sleeps until something wakes it.

    async def work() -> None:
        here.call_soon_threadsafe(begun.set)

    here = asyncio.get_running_loop()
    view.start(work())
    await asyncio.wait_for(begun.wait(), 5)
    begun.clear()
    await asyncio.to_thread(view.start, work())
    await asyncio.wait_for(begun.wait(), 5)
    other.call_soon_threadsafe(other.stop)
    await asyncio.to_thread(thread.join, 10)
    other.close()


async def test_the_list_of_conversations_is_read_after_an_answer_only_where_it_is_shown(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    await chat.ask("The first one")
    read, times = chat._source.threads, list[str]()

    async def counted(search: str = "", limit: int = 50) -> ThreadPage:
        times.append(search)
        return await read(search, limit)

    monkeypatch.setattr(chat._source, "threads", counted)
    await chat._fresh()
    await chat.ask("The second one")
    await asyncio.sleep(0.5)
    assert times == []
    assert chat._thread is not None
    assert chat._thread.title == "The second one"
    await chat._show_list(True)
    assert {"The first one", "The second one"} <= titles(chat)
    await chat._fresh()
    await chat.ask("The third one")
    async with asyncio.timeout(20):
        while "The third one" not in titles(chat):
            await asyncio.sleep(0.05)
