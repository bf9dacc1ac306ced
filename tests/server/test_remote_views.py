"""Chat, traces and approvals are live on both sides: in a notebook that is remote, and in what looks at the lab's own file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.server.lab_process import LabProcess
from tests.server.remote import ANSWERS, ASKS, Both, Watcher
from timestep_lab.ui.chat import Chat
from timestep_lab.ui.view import View


@pytest.fixture
async def both(lab: LabProcess) -> AsyncIterator[Both]:
    opened = Both(lab)
    yield opened
    await opened.aclose()


def press(watcher: Watcher, name: str, **args: Any) -> None:
    """What a browser sends for a button."""
    watcher.view.receive(watcher, {"op": "call", "id": 1, "name": name, "args": args})


def texts(state: Any, kind: str = "assistant_message") -> list[str]:
    return [item["data"]["text"] for item in state["items"] if item["type"] == kind]


def decisions(state: Any) -> list[Any]:
    return [item["data"].get("decision") for item in state["items"] if item["type"] == "approval"]


@pytest.mark.parametrize("speaker", ["remote", "local"])
async def test_what_is_said_and_decided_on_one_side_is_seen_on_the_other(both: Both, speaker: str) -> None:
    first, second = (both.remote, both.local) if speaker == "remote" else (both.local, both.remote)
    thread = first.threads.create("together")
    speaking, listening = Watcher(first.chat(thread=thread.id)), Watcher(second.chat(thread=thread.id))
    press(speaking, "send", text=ASKS, attachments=[])
    state = await listening.until(lambda state: decisions(state) == [None])
    assert texts(state, "user_message") == [ASKS]
    asked = next(item for item in state["items"] if item["type"] == "approval")
    await speaking.until(lambda state: not state["busy"])
    press(listening, "decide", run_id=asked["run_id"], call_id=asked["data"]["call_id"], decision="approved")
    for side in (listening, speaking):
        await side.until(lambda state: decisions(state) == ["approved"] and "67 °F" in "".join(texts(state)[-1:]))
    assert texts(await speaking.until(lambda state: texts(state) == texts(listening.state())))
    for side in (speaking, listening):
        side.leave()


async def test_the_chat_of_a_remote_lab_does_all_that_a_local_one_does(both: Both) -> None:
    chat = both.remote.chat()
    view = Watcher(chat)
    assert "69 °F" in await chat.ask(ANSWERS)
    await chat.ask("Switch to the dark theme, please.")
    await view.until(lambda state: not state["busy"] and chat.theme == "dark" and len(texts(state)) >= 2)
    state = await view.until(lambda state: not state["busy"] and texts(state)[-1] != "")
    first = next(item for item in state["items"] if item["type"] == "user_message")
    press(view, "edit", item_id=first["id"], text="What's the weather in Paris?", attachments=[])
    await view.until(
        lambda state: (
            not state["busy"]
            and texts(state, "user_message") == ["What's the weather in Paris?"]
            and bool(texts(state))
        )
    )
    assert chat.thread_id is not None
    branch = both.local.threads[chat.thread_id]
    assert branch.record.metadata["branch_of"]
    weather = [
        item for item in view.state()["items"] if item["type"] == "tool_call" and item["data"]["name"] == "get_weather"
    ]
    assert weather[0]["widget"]["root"]
    press(view, "rename", thread_id=branch.id, title="Renamed")
    await view.until(lambda state: any(row["title"] == "Renamed" for row in state["threads"]))
    press(view, "search", text="Oakland")
    await view.until(
        lambda state: (
            [row["title"] for row in state["threads"]] != []
            and all(row["title"] != "Renamed" for row in state["threads"])
        )
    )
    described = await both.remote.chat_source.attach("note.txt", "text/plain", b"hello")
    assert described["mime_type"] == "text/plain"
    view.leave()


async def test_traces_are_live_on_both_sides(both: Both) -> None:
    views: list[View] = [both.remote.traces, both.local.traces]
    explorers = [Watcher(view) for view in views]
    run = await both.remote.run(ASKS)
    for explorer in explorers:
        state = await explorer.until(
            lambda state: [row["status"] for row in state["page"]["rows"]] == ["needs_approval"]
        )
        assert state["page"]["rows"][0]["trace_id"] == run.trace_id
    traces = [Watcher(lab.trace(run)) for lab in (both.remote, both.local)]
    await both.local.approvals[run.id].approve()
    for watcher in traces:
        await watcher.until(lambda state: state["trace"]["status"] == "completed")
    for explorer in explorers:
        await explorer.until(lambda state: [row["status"] for row in state["page"]["rows"]] == ["completed"])
    for watcher in (*explorers, *traces):
        watcher.leave()


async def test_stop_in_a_remote_chat_stops_the_run_there(both: Both) -> None:
    chat = both.remote.chat(model="demo/slow?ttft=0&tps=20&n=400")
    assert isinstance(chat, Chat)
    view = Watcher(chat)
    press(view, "send", text="A long story, please.", attachments=[])
    await view.until(lambda state: any(len(text) > 10 for text in texts(state)))
    press(view, "stop")
    state = await view.until(lambda state: not state["busy"])
    assert [run["status"] for run in state["runs"]] == ["cancelled"]
    view.leave()
