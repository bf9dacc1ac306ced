"""The chat of the served app is a page of its own: who opens it came to write."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Pages
from tests.server.lab_process import LabProcess, start

expect.set_options(timeout=45_000)


@pytest.fixture
def lab(served_lab: LabProcess) -> LabProcess:
    return served_lab


def test_who_opens_the_page_can_write_at_once_and_enter_answers_the_card(lab: LabProcess, pages: Pages) -> None:
    page = pages.open(f"{lab.url}/chat")
    message = page.get_by_role("textbox", name="Message")
    expect(message).to_be_focused(timeout=45_000)
    page.keyboard.type("What's the weather in Berkeley?")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Approve", exact=True)).to_be_focused(timeout=45_000)
    page.wait_for_timeout(500)
    page.keyboard.press("Enter")
    expect(page.locator(".tl-w-card").first).to_contain_text("Berkeley", timeout=45_000)
    expect(message).to_be_focused()


def test_on_a_touch_screen_no_keyboard_comes_up_by_itself(lab: LabProcess, pages: Pages) -> None:
    page = pages.open(f"{lab.url}/chat", width=390, has_touch=True, is_mobile=True)
    page.locator(".tl-root[data-tl-state=ready]").wait_for(timeout=45_000)
    expect(page.locator(".tl-chat-start")).to_be_visible(timeout=45_000)
    expect(page.get_by_role("textbox", name="Message")).not_to_be_focused()


# -- the server goes away and comes back. tests/benchmarks/bench_killed_server.py does each of these ten times


@pytest.fixture
def own_lab(tmp_path: Path, pages: Pages) -> Iterator[Restarted]:
    served = Restarted(tmp_path / "lab.duckdb")
    yield served
    pages.close()
    served.kill()
    # The browser's and Panel's own words for a server that is away.
    refused = re.compile("WebSocket|ERR_CONNECTION_(?:REFUSED|RESET)|Failed to fetch|not connected|Lost websocket")
    pages.faults[:] = [fault for fault in pages.faults if not refused.search(fault)]


class Restarted:
    """A served lab that is killed and started again at the same address."""

    def __init__(self, store: Path) -> None:
        self.now = start(store)

    def kill(self) -> None:
        self.now.process.kill()
        self.now.process.wait()

    def restart(self) -> None:
        self.now = start(self.now.store, port=int(self.now.url.rsplit(":", 1)[1]))


def opened(pages: Pages, lab: LabProcess, address: str = "/chat") -> Page:
    page = pages.open(f"{lab.url}{address}")
    expect(page.locator(".tl-root")).to_have_attribute("data-tl-state", "ready", timeout=45_000)
    return page


def field(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Message")


def choose_model(page: Page, name: str) -> None:
    page.get_by_role("combobox", name="Model", exact=True).select_option(label="Other…")
    page.get_by_role("combobox", name="Model as prefix").fill(name)
    page.keyboard.press("Enter")
    expect(page.get_by_role("combobox", name="Model", exact=True)).to_have_value(name)


def test_what_is_typed_while_the_server_is_away_is_kept_and_sent_when_it_is_back(
    own_lab: Restarted, pages: Pages
) -> None:
    page = opened(pages, own_lab.now)
    own_lab.kill()
    notice = page.get_by_text("Reconnecting to the server")
    expect(notice).to_be_visible(timeout=20_000)
    field(page).fill("Are you there?")
    page.keyboard.press("Enter")
    expect(field(page)).to_have_value("Are you there?")
    send = page.get_by_role("button", name="Send")
    expect(send).to_be_disabled()
    covered = page.locator(".shell-lost").bounding_box()
    below = page.locator(".tl-chat-composer").bounding_box()
    assert covered is not None and below is not None  # noqa: PT018
    assert covered["y"] + covered["height"] <= below["y"]
    own_lab.restart()
    expect(notice).to_be_hidden(timeout=45_000)
    expect(field(page)).to_have_value("Are you there?", timeout=45_000)
    expect(send).to_be_enabled(timeout=45_000)
    send.click()
    expect(page.locator(".tl-chat-bubble")).to_have_text("Are you there?", timeout=45_000)
    expect(page.locator(".tl-chat-answer")).to_have_count(1, timeout=45_000)


def test_a_draft_outlives_a_reload_of_the_page(lab: LabProcess, pages: Pages) -> None:
    page = opened(pages, lab)
    field(page).fill("Half a thou")
    page.reload()
    expect(field(page)).to_have_value("Half a thou", timeout=45_000)


def test_a_message_whose_fate_is_unknown_is_given_back_unless_it_was_stored(own_lab: Restarted, pages: Pages) -> None:
    page = opened(pages, own_lab.now)
    choose_model(page, "demo/slow?ttft=60000")
    field(page).fill("Take your time")
    page.keyboard.press("Enter")
    expect(page.locator(".tl-chat-bubble")).to_have_text("Take your time", timeout=20_000)
    own_lab.kill()
    own_lab.restart()
    expect(page.locator(".tl-chat-bubble")).to_have_text("Take your time", timeout=45_000)
    expect(field(page)).to_have_value("")


Round = Callable[[Restarted, Pages], None]


def begin(page: Page, text: str) -> Locator:
    """Ask what is answered slowly, and wait for some of the answer."""
    choose_model(page, "demo/slow?ttft=0&tps=60&n=4000")
    field(page).fill(text)
    page.keyboard.press("Enter")
    answer = page.locator(".tl-chat-answer .tl-md")
    expect(answer).to_contain_text(
        re.compile(r"(\S+\s+){150}"), timeout=45_000
    )  # Text is kept as it grows, not at every word.
    expect(page).to_have_url(re.compile("id="))
    return answer


def killed_while_typing(lab: Restarted, pages: Pages) -> None:
    page = opened(pages, lab.now)
    page.get_by_role("combobox", name="Agent").select_option("Weather Assistant")
    field(page).press_sequentially("Half of it before, ")
    lab.kill()
    field(page).press_sequentially("half of it while nobody listens")
    lab.restart()
    expect(page.get_by_text("Reconnecting to the server")).to_be_hidden(timeout=60_000)
    expect(page.get_by_role("button", name="Send")).to_be_enabled(timeout=60_000)
    expect(field(page)).to_have_value("Half of it before, half of it while nobody listens")
    expect(page.get_by_role("combobox", name="Agent")).to_have_value("Weather Assistant")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".tl-chat-answer")).to_have_count(1, timeout=60_000)


def killed_while_streaming(lab: Restarted, pages: Pages) -> None:
    page = opened(pages, lab.now)
    answer = begin(page, "Write")
    lab.kill()
    lab.restart()
    expect(page.get_by_text("incomplete", exact=True)).to_be_visible(timeout=60_000)
    expect(page.locator(".tl-chat-bubble")).to_have_text("Write")
    expect(answer).to_have_count(1)
    expect(answer).to_have_text(kept(page))
    assert kept(page).startswith("demo/slow (no language model)")
    expect(field(page)).to_have_value("")
    field(page).fill("Go on")
    page.keyboard.press("Enter")
    expect(page.locator(".tl-chat-bubble")).to_have_count(2, timeout=60_000)
    expect(answer).to_have_count(2, timeout=60_000)


def kept(page: Page) -> str:
    """The answer as the server has it."""
    thread = page.url.rsplit("=", 1)[1]
    read = f"async () => (await (await fetch('/api/v1/threads/{thread}/items')).json()).data"
    answers = [item for item in page.evaluate(read) if item["type"] == "assistant_message"]
    return str(answers[0]["data"]["text"]).strip()


def killed_while_uploading(lab: Restarted, pages: Pages) -> None:
    page = opened(pages, lab.now)
    field(page).fill("What is in it?")
    text = ("A line of a long file.\n" * 200_000).encode()
    page.evaluate(
        """() => {
            const { send } = WebSocket.prototype;
            WebSocket.prototype.send = function (data) { if (!(data instanceof Blob)) send.call(this, data); };
        }"""
    )
    page.locator(".tl-chat-composer input[type=file]").set_input_files(
        {"name": "long.txt", "mimeType": "text/plain", "buffer": text}
    )
    expect(page.get_by_text("Uploading 1")).to_be_visible()  # And never arrives.
    lab.kill()
    lab.restart()
    expect(page.get_by_role("button", name="Remove long.txt")).to_be_visible(timeout=60_000)
    expect(field(page)).to_have_value("What is in it?")
    expect(page.get_by_role("button", name="Send")).to_be_enabled(timeout=60_000)
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".tl-chat-user .tl-chip")).to_contain_text("long.txt", timeout=60_000)
    expect(page.locator(".tl-chat-answer")).to_have_count(1, timeout=60_000)


def killed_in_two_tabs(lab: Restarted, pages: Pages) -> None:
    first = opened(pages, lab.now)
    begin(first, "Write")
    second = first.context.new_page()
    second.goto(first.url)
    expect(second.locator(".tl-chat-answer .tl-md")).to_contain_text(re.compile(r"\w{3}"), timeout=60_000)
    field(first).fill("In the first tab")
    field(second).fill("In the second tab")
    lab.kill()
    lab.restart()
    for page, typed in ((first, "In the first tab"), (second, "In the second tab")):
        expect(page.get_by_text("incomplete", exact=True)).to_be_visible(timeout=60_000)
        expect(field(page)).to_have_value(typed)
        expect(page.locator(".tl-chat-answer .tl-md")).to_have_text(kept(page))
    field(second).press("Enter")
    for page in (first, second):
        expect(page.locator(".tl-chat-bubble")).to_have_text(["Write", "In the second tab"], timeout=60_000)
    expect(field(first)).to_have_value("In the first tab")


def killed_while_filling_in_a_form(lab: Restarted, pages: Pages) -> None:
    page = opened(pages, lab.now)
    page.goto(f"{lab.now.url}/agents?id={page.evaluate(AGENT)}")
    instructions = page.get_by_label("Instructions", exact=True)
    instructions.fill("Half of it before, ")
    lab.kill()
    instructions.press_sequentially("half of it while nobody listens")
    lab.restart()
    expect(page.get_by_text("Reconnecting").locator("visible=true")).to_have_count(0, timeout=60_000)
    expect(page.get_by_text("Not saved yet")).to_be_visible(timeout=60_000)
    expect(instructions).to_have_value("Half of it before, half of it while nobody listens", timeout=60_000)
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("status").filter(has_text="Saved")).to_be_visible(timeout=60_000)
    page.goto(f"{lab.now.url}/sql")
    query = page.get_by_role("textbox", name="Query")
    query.fill("select 1 as one")
    lab.kill()
    expect(page.get_by_text("Reconnecting").first).to_be_visible(timeout=60_000)
    lab.restart()
    expect(page.get_by_text("Reconnecting").locator("visible=true")).to_have_count(0, timeout=60_000)
    expect(query).to_have_value("select 1 as one", timeout=60_000)


AGENT = """async () => {
  const answer = await fetch('/api/v1/agents'), text = await answer.text();
  if (!answer.ok) throw new Error(`${answer.status}: ${text}`);
  return JSON.parse(text)[0].id;
}"""
KILLED = (
    killed_while_typing,
    killed_while_streaming,
    killed_while_uploading,
    killed_in_two_tabs,
    killed_while_filling_in_a_form,
)


@pytest.mark.parametrize("round", KILLED[1:], ids=lambda round: round.__name__)
def test_a_server_that_is_killed_loses_nothing(own_lab: Restarted, pages: Pages, round: Round) -> None:
    round(own_lab, pages)


def test_a_file_chosen_while_the_connection_is_closing_waits_for_the_next_one(lab: LabProcess, pages: Pages) -> None:
    page = opened(pages, lab)
    agent = page.get_by_role("combobox", name="Agent").get_by_role("option", name="Weather Assistant")
    expect(agent).to_be_attached(timeout=45_000)  # It has all that it asked for.
    page.evaluate(
        """() => {
            window.open_state = Object.getOwnPropertyDescriptor(WebSocket.prototype, "readyState");
            Object.defineProperty(WebSocket.prototype, "readyState", { configurable: true, get: () => WebSocket.CLOSING });
        }"""
    )
    field(page).fill("What is in it?")
    page.locator(".tl-chat-composer input[type=file]").set_input_files(
        {"name": "short.txt", "mimeType": "text/plain", "buffer": b"One line."}
    )
    expect(page.get_by_role("img", name="Waiting for the server")).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    page.evaluate("() => Object.defineProperty(WebSocket.prototype, 'readyState', window.open_state)")
    expect(page.get_by_role("button", name="Send")).to_be_enabled(timeout=45_000)
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".tl-chat-user .tl-chip")).to_contain_text("short.txt", timeout=45_000)


# -- a run goes on


def test_a_reopened_conversation_goes_on_with_its_agent_and_model(lab: LabProcess, pages: Pages) -> None:
    page = opened(pages, lab)
    page.get_by_role("combobox", name="Agent").select_option("Weather Assistant")
    choose_model(page, "demo/echo")
    field(page).fill("Hello there")
    page.keyboard.press("Enter")
    expect(page.locator(".tl-chat-facts")).to_contain_text("demo/echo", timeout=45_000)
    page.reload()
    expect(page.get_by_role("combobox", name="Agent")).to_have_value("Weather Assistant", timeout=45_000)
    expect(page.get_by_role("combobox", name="Model", exact=True)).to_have_value("demo/echo")


def test_every_page_of_a_conversation_says_who_works_stops_the_run_and_keeps_the_next_message_waiting(
    lab: LabProcess, pages: Pages
) -> None:
    page = opened(pages, lab)
    choose_model(page, "demo/slow?ttft=60000")
    field(page).fill("Write slowly")
    page.keyboard.press("Enter")
    at_work = page.locator(".tl-chat-working")
    expect(at_work).to_contain_text("Personal Assistant waits for demo/slow")
    expect(at_work).to_contain_text(" s", timeout=5_000)
    expect(page).to_have_url(re.compile("id="))
    second = page.context.new_page()  # Another tab of the same reader.
    second.goto(page.url)
    page.reload()
    for tab in (page, second):
        expect(tab.get_by_role("button", name="Stop", exact=True)).to_be_visible(timeout=45_000)
        expect(tab.locator(".tl-chat-working")).to_contain_text("Personal Assistant waits for demo/slow")
    choose_model(second, "demo/echo")
    field(second).fill("And then?")
    second.keyboard.press("Enter")
    expect(second.locator(".tl-chat-queue")).to_contain_text("And then?")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(second.locator(".tl-chat-queue")).to_be_hidden(timeout=45_000)
    expect(second.locator(".tl-chat-bubble").last).to_have_text("And then?")
    expect(second.locator(".tl-chat-answer").last).to_contain_text("And then?", timeout=45_000)
    expect(at_work).to_be_hidden()
