"""What people do in a chat, over HTTP with the ChatKit protocol and server-sent events."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.server.served import SETTINGS, ChatKitClient, Server, buttons, last_shown, serve, text_of, thread_of
from timestep_lab.model.ids import LOCAL_USER, WEATHER_ASSISTANT

BERKELEY = "What is the weather in Berkeley?"


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with serve(tmp_path_factory.mktemp("served") / "lab.duckdb") as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def chat(server: Server) -> AsyncIterator[ChatKitClient]:
    async with server.client() as chat:
        yield chat


async def test_a_conversation_streams_a_handoff_a_tool_the_weather_widget_and_then_the_answer(
    chat: ChatKitClient,
) -> None:
    events = await chat.say("Umbrella in Oakland?")

    assert [e["type"] for e in events[:3]] == ["thread.created", "thread.item.done", "stream_options"]
    assert "error" not in {e["type"] for e in events}
    [handoff] = last_shown(events, "task")
    assert handoff["task"]["title"] == "Personal Assistant handed off to Weather Assistant"
    [widget] = last_shown(events, "widget")
    assert widget["widget"]["type"] == "Card"
    assert "Oakland" in widget["copy_text"]
    [answer] = last_shown(events, "assistant_message")
    assert answer["content"][0]["text"] == text_of(events)
    assert events[-1]["item"] == answer


async def test_a_thread_read_again_shows_what_was_streamed_and_each_item_once(chat: ChatKitClient) -> None:
    events = await chat.say("Umbrella in Oakland?")
    thread_id = thread_of(events)
    more = await chat.say("And the weather in Paris?", thread_id)

    kept = await chat.items(thread_id)
    assert len({item["id"] for item in kept}) == len(kept)
    for kind in ("user_message", "task", "workflow", "widget", "assistant_message"):
        assert [i for i in kept if i["type"] == kind] == last_shown([*events, *more], kind)
    thread = await chat.ask("threads.get_by_id", thread_id=thread_id)
    assert thread["title"] == "Umbrella in Oakland?"
    assert thread["items"]["data"][0]["content"][0]["text"] == "Umbrella in Oakland?"


async def test_the_theme_is_switched_by_the_client_and_the_model_hears_of_it(chat: ChatKitClient) -> None:
    events = await chat.say("Please switch to the dark theme")
    thread_id = thread_of(events)
    [call] = last_shown(events, "client_tool_call")
    assert (call["status"], call["name"], call["arguments"]) == ("pending", "switch_theme", {"theme": "dark"})

    after = await chat.stream("threads.add_client_tool_output", thread_id=thread_id, result={"theme": "dark"})

    assert text_of(after) == "Switched to the dark theme."
    [kept] = [i for i in await chat.items(thread_id) if i["type"] == "client_tool_call"]
    assert (kept["status"], kept["output"]) == ("completed", {"theme": "dark"})
    again = await chat.http.post(
        chat.path, json={"type": "threads.add_client_tool_output", "params": {"thread_id": thread_id, "result": {}}}
    )
    assert again.status_code == 400


async def test_a_call_that_needs_approval_waits_on_a_card_and_goes_on_when_approved(chat: ChatKitClient) -> None:
    events = await chat.say(BERKELEY)
    thread_id = thread_of(events)
    [card] = last_shown(events, "widget")
    assert text_of(events) == ""

    after = await chat.stream(
        "threads.custom_action", thread_id=thread_id, item_id=card["id"], action=buttons(card)["Approve"]
    )

    shown = {widget["widget"]["key"]: widget for widget in last_shown(after, "widget")}
    frozen, weather = shown["approval"], shown["weather"]
    assert frozen["id"] == card["id"]
    assert buttons(frozen) == {}
    assert "Approved" in str(frozen)
    assert "Berkeley" in weather["copy_text"]
    assert "Berkeley" in text_of(after)
    assert "Paris" in text_of(await chat.say("And the weather in Paris?", thread_id))


async def test_a_rejected_call_is_not_made_and_the_model_says_so(chat: ChatKitClient) -> None:
    events = await chat.say(BERKELEY)
    [card] = last_shown(events, "widget")

    after = await chat.stream(
        "threads.custom_action", thread_id=thread_of(events), item_id=card["id"], action=buttons(card)["Reject"]
    )

    assert [w["widget"]["key"] for w in last_shown(after, "widget")] == ["approval"]
    assert text_of(after)


async def test_always_approves_the_tool_in_this_thread_from_now_on(chat: ChatKitClient) -> None:
    events = await chat.say(BERKELEY)
    thread_id = thread_of(events)
    [card] = last_shown(events, "widget")
    await chat.stream("threads.custom_action", thread_id=thread_id, item_id=card["id"], action=buttons(card)["Always"])
    await chat.ask("threads.update", thread_id=thread_id, title="Kept")

    again = await chat.say(BERKELEY, thread_id)

    assert {w["widget"]["key"] for w in last_shown(again, "widget")} == {"weather", "approval"}
    assert buttons(last_shown(again, "widget")) == {}


async def test_a_decision_counts_once_and_an_action_can_only_name_what_waits(chat: ChatKitClient) -> None:
    events = await chat.say(BERKELEY)
    thread_id = thread_of(events)
    [card] = last_shown(events, "widget")
    approve = buttons(card)["Approve"]
    elsewhere = thread_of(await chat.say("Hello"))

    async def act(action: dict[str, object], thread: str = thread_id) -> list[dict[str, object]]:
        return await chat.stream("threads.custom_action", thread_id=thread, action=action)

    for action, thread in (
        ({**approve, "payload": {**approve["payload"], "call_id": "call_made_up"}}, thread_id),
        ({**approve, "payload": {"run_id": "run_made_up", "call_id": "x"}}, thread_id),
        ({**approve, "payload": "not an object"}, thread_id),
        ({**approve, "type": "approval.everything"}, thread_id),
        (approve, elsewhere),
    ):
        assert (await act(action, thread))[-1]["type"] == "error"
    assert buttons(last_shown([{"type": "thread.item.done", "item": i} for i in await chat.items(thread_id)], "widget"))

    twice = await asyncio.gather(act(approve), act(approve))
    assert sorted(events[-1]["type"] == "error" for events in twice) == [False, True]
    tools = [i for i in await chat.items(thread_id) if i["type"] == "widget" and i["widget"]["key"] == "weather"]
    assert len(tools) == 1


async def test_parallel_cards_are_decided_in_any_order_and_the_text_comes_after_the_last(chat: ChatKitClient) -> None:
    events = await chat.say("Compare the weather in Oakland, Berkeley and West Berkeley")
    thread_id = thread_of(events)
    cards = [w for w in last_shown(events, "widget") if w["widget"]["key"] == "approval"]
    assert len(cards) == 2

    first = await chat.stream(
        "threads.custom_action", thread_id=thread_id, item_id=cards[1]["id"], action=buttons(cards[1])["Approve"]
    )
    second = await chat.stream(
        "threads.custom_action", thread_id=thread_id, item_id=cards[0]["id"], action=buttons(cards[0])["Approve"]
    )

    assert text_of(first) == ""
    assert text_of(second)
    kept = [i["widget"] for i in await chat.items(thread_id) if i["type"] == "widget"]
    assert [widget["key"] for widget in kept].count("approval") == 2
    assert buttons(kept) == {}


async def test_a_card_approved_in_another_process_is_decided_here(tmp_path: Path) -> None:
    path = tmp_path / "lab.duckdb"
    async with serve(path) as server, server.client(LOCAL_USER) as chat:
        thread_id = thread_of(await chat.say(BERKELEY))
        [waiting] = chat.lab.store.run_states.find()
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "timestep_lab", "approve", waiting.run_id, "--store", str(path),
            env={"TIMESTEP_LAB_DEMO_DELAY_MS": "0", "WEATHER_GEOCODING_URL": "http://127.0.0.1:9/none", "HOME": str(tmp_path)},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=tmp_path,
        )  # fmt: skip
        said, _ = await other.communicate()
        assert other.returncode == 0, said.decode()

        items = await chat.items(thread_id)
        assert [i["widget"]["key"] for i in items if i["type"] == "widget"] == ["weather", "approval"]
        assert not any(buttons(i.get("widget")) for i in items)
        assert items[-1]["type"] == "assistant_message"


async def test_a_run_paused_in_a_notebook_is_approved_over_chatkit(chat: ChatKitClient) -> None:
    run = await chat.lab.run(BERKELEY)
    assert run.status == "needs_approval"
    [card] = [i for i in await chat.items(run.thread_id) if i["type"] == "widget"]

    after = await chat.stream(
        "threads.custom_action", thread_id=run.thread_id, item_id=card["id"], action=buttons(card)["Approve"]
    )

    assert "Berkeley" in text_of(after)
    assert chat.lab.get_run(run.id).status == "completed"


async def test_who_leaves_in_the_middle_leaves_the_answer_so_far(chat: ChatKitClient) -> None:
    said = {
        "content": [{"type": "input_text", "text": "Count"}], "attachments": [],
        "inference_options": {"model": "demo/slow?ttft=1&tps=20&n=200"},
    }  # fmt: skip
    heard = []
    thread_id = ""
    async for event in chat.events("threads.create", input=said):
        thread_id = thread_id or event["thread"]["id"]
        heard += [event] if event["type"] == "thread.item.updated" else []
        if len(heard) == 5:
            break
    run = chat.lab.store.runs.find(thread_id=thread_id)[0]
    for _ in range(200):
        if (run := chat.lab.store.runs.get(run.id)).status != "running":
            break
        await asyncio.sleep(0.05)

    assert run.status == "cancelled"
    kept = [i for i in await chat.items(thread_id) if i["type"] == "assistant_message"]
    assert kept[0]["content"][0]["text"].startswith(text_of(heard))
    assert "199" not in kept[0]["content"][0]["text"]
    assert "error" not in {e["type"] for e in await chat.say("Hello again", thread_id)}


async def test_a_message_is_answered_anew_and_the_model_has_forgotten_the_first_answer(chat: ChatKitClient) -> None:
    events = await chat.say("First")
    thread_id = thread_of(events)
    asked = next(e["item"] for e in await chat.say("Second", thread_id) if e["type"] == "thread.item.done")
    await chat.say("Third", thread_id)

    again = await chat.stream("threads.retry_after_item", thread_id=thread_id, item_id=asked["id"])

    assert text_of(again)
    said = [i["content"][0]["text"] for i in await chat.items(thread_id) if i["type"] == "user_message"]
    assert said == ["First", "Second"]
    session = chat.lab.store.threads.session_items(thread_id)
    assert [i["content"] for i in session if i.get("role") == "user"] == ["First", "Second"]


async def test_a_form_that_was_filled_in_is_answered(chat: ChatKitClient) -> None:
    thread_id = thread_of(await chat.say("Hello"))
    from chatkit import types as ck

    from timestep_lab.server.chatkit.items import to_record

    form = ck.StructuredInputItem(
        id="form_1", thread_id=thread_id, created_at=ck.datetime.now(),
        inputs=[ck.StructuredInputFreeform(id="q", question="Which city's weather?")],
    )  # fmt: skip
    chat.lab.store.threads.append_items(thread_id, [to_record(form, chat.lab.store.user_id)])

    events = await chat.stream(
        "threads.add_structured_input", thread_id=thread_id, item_id="form_1",
        input={"status": "answered", "answers": {"q": {"values": ["Oakland"]}}},
    )  # fmt: skip

    assert last_shown(events, "structured_input")[0]["status"] == "answered"
    assert "Oakland" in text_of(events)


async def test_threads_are_listed_renamed_paged_and_deleted(chat: ChatKitClient) -> None:
    ids = [thread_of(await chat.say(f"Hello {n}")) for n in range(3)]
    first = await chat.ask("threads.list", limit=2)
    second = await chat.ask("threads.list", limit=2, after=first["after"])
    assert [t["id"] for t in (*first["data"], *second["data"])] == list(reversed(ids))
    assert (first["has_more"], second["has_more"]) == (True, False)

    await chat.ask("threads.update", thread_id=ids[0], title="Renamed")
    assert (await chat.ask("threads.get_by_id", thread_id=ids[0]))["title"] == "Renamed"
    await chat.ask("threads.delete", thread_id=ids[0])
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        await chat.ask("threads.get_by_id", thread_id=ids[0])


async def test_feedback_is_kept_and_can_be_changed(chat: ChatKitClient) -> None:
    events = await chat.say("Hello")
    thread_id, item_id = thread_of(events), events[-1]["item"]["id"]
    for kind in ("positive", "negative"):
        await chat.ask("items.feedback", thread_id=thread_id, item_ids=[item_id], kind=kind)

    store = chat.lab.store
    rows = store.db.query(store.user_id, "select item_id, kind from feedback where user_id = $1", [store.user_id]).rows
    assert [tuple(row) for row in rows] == [(item_id, "negative")]
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        await chat.ask("items.feedback", thread_id=thread_id, item_ids=["msg_made_up"], kind="positive")


async def test_another_user_finds_nothing_of_a_thread(server: Server, chat: ChatKitClient) -> None:
    events = await chat.say(BERKELEY)
    thread_id, item_id = thread_of(events), events[1]["item"]["id"]
    [card] = last_shown(events, "widget")
    async with server.client("somebody-else") as other:
        assert (await other.ask("threads.list"))["data"] == []
        for kind, params in (
            ("items.list", {}),
            ("threads.get_by_id", {}),
            ("threads.update", {"title": "mine"}),
            ("threads.delete", {}),
            ("threads.retry_after_item", {"item_id": item_id}),
            ("threads.add_client_tool_output", {"result": 1}),
            ("threads.custom_action", {"item_id": card["id"], "action": buttons(card)["Approve"]}),
            ("items.feedback", {"item_ids": [item_id], "kind": "positive"}),
        ):
            answer = await other.http.post(
                other.path, json={"type": kind, "params": {"thread_id": thread_id, **params}}
            )
            assert answer.status_code == 404, (kind, answer.text)
        mine = thread_of(await other.say("Hello"))
        acted = await other.stream("threads.custom_action", thread_id=mine, action=buttons(card)["Approve"])
        assert acted[-1]["type"] == "error"


@pytest.mark.parametrize("limit", [-1, 1001, 10**30])
async def test_a_page_of_a_size_that_is_none_is_refused(chat: ChatKitClient, limit: int) -> None:
    thread_id = thread_of(await chat.say("Hello"))
    for kind, params in (("threads.list", {}), ("items.list", {"thread_id": thread_id})):
        answer = await chat.http.post(chat.path, json={"type": kind, "params": {"limit": limit, **params}})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "params.limit"


async def test_what_is_not_there_is_said_to_be_missing_and_not_to_be_empty(chat: ChatKitClient) -> None:
    first, second = [await chat.say("Hello") for _ in range(2)]
    elsewhere = second[1]["item"]["id"]
    for kind, params in (
        ("items.list", {"thread_id": "thread_made_up"}),
        ("items.feedback", {"thread_id": "thread_made_up", "item_ids": [], "kind": "positive"}),
        ("threads.retry_after_item", {"thread_id": thread_of(first), "item_id": "msg_made_up"}),
        ("threads.retry_after_item", {"thread_id": thread_of(first), "item_id": elsewhere}),
        ("threads.retry_after_item", {"thread_id": "thread_made_up", "item_id": elsewhere}),
    ):
        answer = await chat.http.post(chat.path, json={"type": kind, "params": params})
        assert answer.status_code == 404, (kind, answer.text)
        assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_what_is_no_chatkit_request_is_refused_in_openais_form(chat: ChatKitClient) -> None:
    for body in (
        b"",
        b"[]",
        b'{"type": "threads.action", "params": {}}',
        b'{"type": "threads.get_by_id", "params": {}}',
    ):
        answer = await chat.http.post(chat.path, content=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"
    missing = await chat.http.post("/api/v1/agents/nobody/chatkit", content=b"{}")
    assert missing.status_code == 404
    speech = await chat.http.post(
        chat.path, json={"type": "input.transcribe", "params": {"audio_base64": "", "mime_type": "audio/webm"}}
    )
    assert speech.status_code == 400


async def test_the_path_names_the_agent_and_the_message_may_name_the_model_and_a_tool(server: Server) -> None:
    async with server.client() as chat:
        weather = ChatKitClient(chat.http, chat.lab, WEATHER_ASSISTANT)
        events = await weather.say(
            "Weather in Oakland", inference_options={"model": "demo/assistant", "tool_choice": {"id": "get_weather"}}
        )
        assert last_shown(events, "task") == []
        assert [w["workflow"]["tasks"][0]["title"] for w in last_shown(events, "workflow")] == []
        unknown = await chat.say("Hello", inference_options={"model": "nobody/nothing"})
        [error] = [event for event in unknown if event["type"] == "error"]
        assert "nobody" in error["message"]


async def test_threads_and_cards_outlive_the_server(tmp_path: Path) -> None:
    path = tmp_path / "lab.duckdb"
    async with serve(path) as server, server.client(LOCAL_USER) as chat:
        thread_id = thread_of(await chat.say(BERKELEY))
        before = await chat.items(thread_id)
    async with serve(path, SETTINGS) as server, server.client(LOCAL_USER) as chat:
        assert await chat.items(thread_id) == before
        [card] = [i for i in before if i["type"] == "widget"]
        after = await chat.stream(
            "threads.custom_action", thread_id=thread_id, item_id=card["id"], action=buttons(card)["Approve"]
        )
        assert "Berkeley" in text_of(after)
