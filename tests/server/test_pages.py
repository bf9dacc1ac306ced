"""The served app in a real browser, as a new user meets it. A console error or a request to elsewhere fails any test (`pages`)."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, WebSocketRoute, expect

from tests.browser.conftest import Pages
from tests.browser.giving_files import give
from tests.server.lab_process import LabProcess
from timestep_lab.model.ids import WEATHER_ASSISTANT

EVERY_PAGE = (
    "/", "/chat", "/traces", "/sql", "/playground", "/compare", "/agents", "/tools", "/files", "/approvals", "/settings",
)  # fmt: skip
AXE_RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice")

PATIENCE_MS = 45_000
"""A machine that runs many tests at once is slow; what works does not wait for this."""
expect.set_options(timeout=PATIENCE_MS)


def ready(page: Page) -> Page:
    """Wait until the page shows what it has."""
    page.set_default_timeout(PATIENCE_MS)
    page.locator(".tl-root[data-tl-state=ready]").first.wait_for()
    if page.locator(".tl-page").count():
        page.locator(".tl-page[data-tl-page=shown]").wait_for()
    return page


def go(page: Page, address: str) -> Page:
    page.goto(address)
    return ready(page)


def say(page: Page, text: str) -> None:
    page.get_by_role("textbox", name="Message").fill(text)
    page.keyboard.press("Enter")


def answered(page: Page, times: int = 1) -> None:
    """Wait until so many answers are finished: each then says what it took, with a link to its trace."""
    expect(page.locator(".tl-chat-trace")).to_have_count(times)


def serious(page: Page, only: Sequence[str] = AXE_RULES) -> list[str]:
    found = Axe().run(page, options={"runOnly": list(only), "resultTypes": ["violations"]}).response["violations"]
    return [
        f"{fault['id']}: {node['html'][:160]} {node['any'][0]['message'] if node['any'] else ''}"
        for fault in found if fault["impact"] != "minor" for node in fault["nodes"][:3]
    ]  # fmt: skip


HEADINGS = """() => {
  const within = (root) => [...root.querySelectorAll("*")].flatMap((e) => (e.shadowRoot ? [e, ...within(e.shadowRoot)] : [e]));
  return within(document).filter((e) => e.matches("h1") && e.checkVisibility()).map((e) => e.textContent); }"""

TOO_SMALL = """() => {
  const within = (root) => [...root.querySelectorAll("*")].flatMap((e) => (e.shadowRoot ? [e, ...within(e.shadowRoot)] : [e]));
  return within(document).filter((e) => e.matches("button, input, select, textarea, summary, a.tl-button, nav a"))
  .filter((e) => e.checkVisibility({visibilityProperty: true}) && !["checkbox", "radio"].includes(e.type))
  .map((e) => [e, e.getBoundingClientRect()]).filter(([, box]) => box.width && box.height && box.height < 43.5)
  .map(([e, box]) => `${e.outerHTML.slice(0, 120)}: ${Math.round(box.height)} px`); }"""
"""Buttons and fields that a finger would miss."""


def test_a_new_user_chats_approves_and_keeps_everything(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/chat"))
    page.get_by_role("button", name="What's the weather in Berkeley").click()
    approval = page.get_by_role("button", name="Approve", exact=True)
    approval.wait_for()
    expect(page.locator(".tl-chat-handoff").first).to_contain_text("Weather Assistant")
    waiting = page.locator('[data-page="approvals"]')
    expect(waiting).to_have_attribute("data-count", "1", timeout=10_000)
    approval.click()
    answered(page)
    expect(waiting).not_to_have_attribute("data-count", "1", timeout=10_000)
    expect(
        page.locator(".tl-chat-tool summary, .tl-chat-step summary").filter(has_text="get_weather").first
    ).to_be_visible()
    expect(page.locator(".tl-w-card").first).to_contain_text("Berkeley")

    say(page, "Switch to the dark theme, please.")
    expect(page.locator("html")).to_have_attribute("data-tl-theme", "dark")
    answered(page, 2)

    before = page.locator(".tl-chat-inner").inner_text()
    page.reload()
    ready(page)
    page.locator(".tl-w-card").first.wait_for()
    expect(page.locator("html")).to_have_attribute("data-tl-theme", "dark")
    assert words(page.locator(".tl-chat-inner").inner_text()) == words(before)


def words(text: str) -> str:
    """Without times of day and durations, which a reload may say anew."""
    return re.sub(r"\s+", " ", re.sub(r"\d+ (?:s|min) ago|now", "", text)).strip()


def test_a_page_takes_little_and_asks_again_for_nothing_that_it_has(lab: LabProcess) -> None:
    with lab.anonymous() as client:
        page = client.get("/traces")
        html = page.text
        assert page.headers["content-encoding"] == "gzip"
        assert int(page.headers["content-length"]) < 6_000, "with its style: nothing else is needed for the first paint"
        assert 'rel="stylesheet"' not in html
        assert "bokeh" not in html.lower()
        needed = re.findall(r'(?:src|href|data-module)="(/assets/[^"]+\?v=[^"]+)"', html)
        answers = [client.get(address) for address in dict.fromkeys(needed)]
        assert len(answers) == 3, "the scripts of page and keyboard, and the module of the view"
        assert {answer.headers["content-encoding"] for answer in answers} == {"gzip"}
        assert all("immutable" in answer.headers["cache-control"] for answer in answers)
        assert sum(int(answer.headers["content-length"]) for answer in answers) < 100_000
        stale = client.get(needed[0].partition("?")[0])
        assert stale.is_success
        assert "immutable" not in stale.headers["cache-control"]
        for odd in ("/assets/view/pages/%2e%2e/%2e%2e/x.js", "/assets/view/nowhere.js"):
            assert client.get(odd).status_code == 404, odd


def test_a_page_whose_websocket_does_not_open_at_first_tries_again(lab: LabProcess, pages: Pages) -> None:
    page = pages.open(f"{lab.url}/healthz")
    asked: list[WebSocketRoute] = []

    def second_only(socket: WebSocketRoute) -> None:
        asked.append(socket)
        if len(asked) == 1:
            socket.close()
        else:
            socket.connect_to_server()

    page.route_web_socket(re.compile("/views/"), second_only)
    go(page, f"{lab.url}/chat")
    assert page.locator(".shell-skeleton").count() == 0
    give(page)
    say(page, "Hello there")
    answered(page)
    expect(page.locator(".tl-chat-user .tl-chip")).to_have_count(3)


def test_a_page_whose_websocket_is_lost_underway_opens_it_again(lab: LabProcess, pages: Pages) -> None:
    page = pages.open(f"{lab.url}/healthz")
    sockets: list[WebSocketRoute] = []

    def pass_on(socket: WebSocketRoute) -> None:
        socket.connect_to_server()
        sockets.append(socket)

    page.route_web_socket(re.compile("/views/"), pass_on)
    go(page, f"{lab.url}/chat")
    say(page, "Hello there")
    answered(page)
    sockets[0].close()
    expect(page.get_by_text("Reconnecting to the server")).to_be_visible()
    expect(page.get_by_text("Reconnecting to the server")).to_be_hidden()
    assert len(sockets) == 2
    say(page, "And again")
    answered(page, 2)


def test_a_conversation_is_renamed_found_and_deleted(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/chat"))
    say(page, "Hello there")
    answered(page)
    expect(page).to_have_url(re.compile(r"/chat\?id=[\w-]+$"))
    conversations = page.get_by_role("navigation", name="Conversations")
    if not conversations.is_visible():
        page.get_by_role("button", name="Conversations").click()
    conversations.get_by_role("button", name=re.compile("^Rename")).first.click()
    page.get_by_role("textbox", name="New title").fill("A good talk")
    page.keyboard.press("Enter")
    conversations.get_by_text("A good talk").wait_for()
    conversations.get_by_role("searchbox").fill("good talk")
    conversations.get_by_text("A good talk").wait_for()
    conversations.get_by_role("button", name="Delete A good talk").click()
    conversations.get_by_role("button", name="Delete", exact=True).click()
    expect(conversations.get_by_text("A good talk")).to_have_count(0)
    expect(page).to_have_url(re.compile(r"/chat$"))


def test_files_come_into_a_chat_by_button_drop_and_paste_and_are_known_by_their_bytes(
    lab: LabProcess, pages: Pages
) -> None:
    page = ready(pages.open(f"{lab.url}/chat"))
    give(page)
    say(page, "What is in these?")
    answered(page)
    kept = page.evaluate(
        "async () => (await (await fetch('/openai/v1/files')).json()).data.map((file) => file.filename)"
    )
    assert sorted(kept) == ["note.txt", "red.png", "tea.md"]
    expect(page.locator(".tl-chat-user .tl-chip")).to_have_count(3)
    go(page, f"{lab.url}/files")
    expect(page.locator("main")).to_contain_text("red.png")
    assert page.locator("main").get_by_text("image/png").count() == 0


def test_what_waits_in_one_window_is_approved_on_another_page(lab: LabProcess, pages: Pages) -> None:
    chat = ready(pages.open(f"{lab.url}/chat"))
    say(chat, "What's the weather in Berkeley?")
    chat.get_by_role("button", name="Approve", exact=True).wait_for()
    other = chat.context.new_page()
    go(other, f"{lab.url}/approvals")
    waiting = other.get_by_role("listitem", name="get_weather waits for approval")
    expect(waiting).to_contain_text('location contains "berkeley"')
    waiting.get_by_role("button", name="Approve").click()
    expect(other.get_by_role("region", name="Decided here")).to_contain_text("done")
    expect(other.get_by_text("Nothing waits for you")).to_be_visible()
    chat.locator(".tl-w-card").wait_for()

    say(chat, "And in Berkeley tomorrow, how is the weather?")
    waiting.wait_for()  # It came by itself.
    waiting.get_by_role("button", name="Reject…").click()
    other.get_by_role("textbox", name="Reason for rejecting").fill("Not today")
    other.keyboard.press("Enter")
    expect(other.get_by_role("region", name="Decided here")).to_contain_text("rejected by you: Not today")


def test_the_overview_counts_what_ran_and_every_figure_leads_to_its_traces(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/"))
    expect(page.get_by_role("heading", name="Nothing has run yet")).to_be_visible()
    chat = page.context.new_page()
    go(chat, f"{lab.url}/chat")
    say(chat, "Hello there")
    answered(chat)
    runs = page.locator(".tl-tile", has_text="Runs")
    expect(runs).to_contain_text("1")  # Live: nobody reloaded.
    latest = page.get_by_role("region", name="Latest runs")
    expect(latest).to_contain_text("Hello there")

    plot = page.get_by_role("group", name="Model calls over time.")
    plot.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    whole = page.get_by_role("button", name="Show the whole period")
    whole.wait_for()
    href = runs.get_attribute("href")
    assert href is not None
    assert "started_at" in href
    whole.click()
    expect(runs).to_contain_text("1")
    for number in range(page.locator("a.tl-tile, a.tl-chart-figure").count()):
        target = page.locator("a.tl-tile, a.tl-chart-figure").nth(number).get_attribute("href")
        go(chat, f"{lab.url}{target}")
        assert (
            chat.locator(".tl-filter-problem").inner_text() == ""
            if chat.locator(".tl-filter-problem").count()
            else True
        )
    latest.get_by_role("link", name=re.compile("Hello there")).click()
    page.locator(".tl-wf-row").first.wait_for()


def test_a_query_is_asked_drawn_saved_and_stands_on_the_overview(lab: LabProcess, pages: Pages) -> None:
    chat = ready(pages.open(f"{lab.url}/chat"))
    say(chat, "Hello there")
    answered(chat)
    page = go(chat.context.new_page(), f"{lab.url}/sql")
    editor = page.get_by_role("textbox", name="Query")
    editor.fill("")
    editor.press_sequentially("select trace_id, duration_ms from tra")
    expect(page.get_by_role("listbox", name="Suggestions")).to_contain_text("traces")
    editor.press("Tab")
    editor.press("Control+Enter")
    result = page.get_by_role("region", name="Result")
    expect(result.get_by_role("link", name="Open this trace")).to_be_visible()
    page.get_by_role("textbox", name="Name").fill("How long")
    page.get_by_label("on the overview").check()
    result.get_by_role("button", name="Bars").click()
    expect(result.get_by_role("img", name="Result: duration_ms")).to_be_visible()
    result.get_by_role("button", name="Save").click()
    expect(page.get_by_role("region", name="Saved")).to_contain_text("How long")
    editor.fill("select nothing from nowhere")
    editor.press("Control+Enter")
    expect(page.get_by_role("alert")).to_contain_text("nowhere")
    go(page, f"{lab.url}/")
    expect(page.get_by_role("region", name="How long").get_by_role("img")).to_be_visible()
    assert serious(page) == []


def test_a_result_of_sql_is_exact_stays_in_its_card_and_does_not_outlive_a_query_that_fails(
    lab: LabProcess, pages: Pages
) -> None:
    page = go(pages.open(f"{lab.url}/healthz", width=1440, height=900), f"{lab.url}/sql")
    editor = page.get_by_role("textbox", name="Query")
    result = page.get_by_role("region", name="Result")
    columns = ", ".join(f"'{'w' * 60}' as column_{n}" for n in range(12))
    editor.fill(f"select 9007199254740993 as id, 1e308 as high, -1e308 as low, {columns}")
    editor.press("Control+Enter")
    result.get_by_role("button", name="Table").click()
    expect(result).to_contain_text("9007199254740993")
    expect(page.get_by_role("listbox", name="Suggestions")).to_be_hidden()
    card, aside = (found.bounding_box() for found in (result, page.get_by_role("region", name="Saved")))
    assert card is not None
    assert aside is not None
    save = result.get_by_role("button", name="Save").bounding_box()
    assert save is not None
    assert save["x"] + save["width"] <= card["x"] + card["width"] <= aside["x"]
    for look in ("Lines", "Bars"):  # What no axis can show is not drawn; a console error fails the test.
        result.get_by_role("button", name=look).click()
    editor.fill("select nothing from nowhere")
    editor.press("Control+Enter")
    expect(page.get_by_role("alert")).to_contain_text("nowhere")
    expect(result).to_be_hidden()


def test_a_slow_panel_holds_up_nothing_else_of_the_overview(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/chat"))
    say(page, "Hello there")
    answered(page)
    forever = (
        "with recursive r(n) as (select 1 union all select n + 1 from r where n < 100000000) select count(*) from r"
    )
    save = "async (body) => (await fetch('/api/v1/views', {method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body)})).status"
    for name, query in (("Slow", forever), ("Quick", "select status, count(*) as runs from traces group by 1")):
        body = {"query": query, "chart": "bar", "panel": True}
        assert page.evaluate(save, {"kind": "sql", "name": name, "body": body}) < 300
    go(page, f"{lab.url}/")
    expect(page.locator(".tl-tile").first).to_have_text("Runs1")
    expect(page.get_by_role("region", name="Quick").get_by_role("img")).to_be_visible()
    expect(page.get_by_role("region", name="Slow")).to_contain_text("Asking")
    for _ in range(2):
        page.get_by_role("button", name="Remove").first.click()


def test_enter_in_find_takes_what_was_typed_also_before_it_is_found(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/"))
    page.keyboard.press("Control+k")
    page.keyboard.type("weather assis")
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{lab.url}/agents?id={WEATHER_ASSISTANT}")
    ready(page)
    page.keyboard.press("Control+k")
    page.keyboard.type("no such thing at all")
    expect(page.get_by_role("dialog", name="Find").get_by_role("status")).to_have_text("Nothing found.")


def test_on_a_phone_menus_suggestions_and_the_form_of_a_score_are_seen_whole(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/chat", width=390, height=844, has_touch=True))
    say(page, "Hello there")
    answered(page)
    go(page, f"{lab.url}/traces")
    page.get_by_role("button", name="Saved").click()
    assert in_view(page, page.get_by_label("Name of the view"))
    page.keyboard.press("Escape")
    page.get_by_role("combobox", name="Filter").fill("mod")
    option = page.get_by_role("option", name="model")
    expect(option).to_be_visible()
    option.click(timeout=5_000)  # Nothing lies over it.
    page.keyboard.press("Escape")
    page.locator(".tl-list-row").first.click()
    page.get_by_role("button", name="Score this trace").click()
    for name in ("Name of the score", "Value", "Label", "Note"):
        assert in_view(page, page.get_by_label(name, exact=True)), name


def in_view(page: Page, found: Locator) -> bool:
    """Whether its left and right edges are within the window."""
    box, size = found.bounding_box(), page.viewport_size
    return box is not None and size is not None and box["x"] >= 0 and box["x"] + box["width"] <= size["width"]


def test_an_agent_is_created_changed_and_deleted(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/agents"))
    fields = page.get_by_role("region", name="Fields")
    cards = page.get_by_role("navigation", name="Agents")
    model = page.get_by_role("combobox", name="Model")
    page.get_by_role("button", name="New agent").click()
    page.get_by_label("Name", exact=True).fill("Poet")
    page.get_by_label("Instructions").fill("Answer in verse.")
    model.press_sequentially("echo")
    page.get_by_role("option", name="demo/echo").wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(model).to_have_value("demo/echo")
    page.get_by_role("checkbox", name="think").check()
    page.get_by_role("checkbox", name="Weather Assistant").check()
    page.get_by_text("Model settings").click()
    page.get_by_label("Temperature").fill("0.3")
    page.get_by_text("Limits of a run").click()
    page.get_by_label("Tool calls").fill("three")
    fields.get_by_role("button", name="Create").click()
    expect(page.get_by_role("alert")).to_contain_text("three is not a number")
    page.get_by_label("Tool calls").fill("3")
    fields.get_by_role("button", name="Create").click()
    expect(fields.get_by_role("status")).to_have_text("Created")
    expect(fields.get_by_role("button", name="Save")).to_be_focused()
    expect(cards.get_by_role("button", name=re.compile("Poet"))).to_have_attribute("aria-current", "true")
    page.get_by_role("tab", name="Handoffs").click()
    expect(page.get_by_role("region", name="Handoffs")).to_contain_text("Weather Assistant")

    page.get_by_role("tab", name="Fields").click()
    model.fill("nonsense/model")
    fields.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("nonsense")
    expect(page.get_by_role("alert")).to_be_in_viewport()
    expect(model).to_be_focused()
    expect(model).to_have_attribute("aria-invalid", "true")
    page.keyboard.type("x")
    expect(model).not_to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Instructions")).to_have_value("Answer in verse.")

    page.reload()  # What is opened is in the address, and what is written and not saved outlives it.
    ready(page)
    expect(model).to_have_value("nonsense/modelx")
    expect(fields.get_by_role("status")).to_have_text("Not saved yet")
    page.get_by_role("button", name="Close", exact=True).click()
    cards.get_by_role("button", name=re.compile("Poet")).click()
    expect(model).to_have_value("demo/echo")
    expect(page.get_by_role("checkbox", name="think")).to_be_checked()
    expect(page.get_by_label("Temperature")).to_have_value("0.3")
    expect(page.get_by_label("Tool calls")).to_have_value("3")
    expect(page.get_by_label("Seconds of work")).to_have_value("")
    fields.get_by_role("link", name="Chat with it").click()
    ready(page)
    expect(page.get_by_label("Agent", exact=True)).to_have_value("Poet")
    page.go_back()
    ready(page)
    fields.get_by_role("button", name="Delete").click()
    expect(fields).to_contain_text("Delete Poet?")
    fields.get_by_role("button", name="Delete", exact=True).click()
    expect(cards.get_by_role("button", name=re.compile("Weather Assistant"))).to_be_visible()
    expect(cards.get_by_text("Poet")).to_have_count(0)


def test_when_a_tool_asks_is_chosen_in_a_form_and_a_version_shows_what_it_changed(
    lab: LabProcess, pages: Pages
) -> None:
    page = ready(pages.open(f"{lab.url}/agents"))
    fields = page.get_by_role("region", name="Fields")
    page.get_by_role("navigation", name="Agents").get_by_role("button", name=re.compile("^Weather Assistant")).click()
    asking = page.get_by_role("group", name="Require approval for")
    expect(asking.get_by_label("Which calls")).to_have_value("contains")
    expect(asking.get_by_label("Argument")).to_have_value("location")
    asking.get_by_label("Value").fill("")
    fields.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("has no argument or no value")
    asking.get_by_label("Value").fill("Paris")
    page.get_by_label("Instructions").fill("Answer from the tool alone.")
    fields.get_by_role("button", name="Save").click()
    expect(fields.get_by_role("status")).to_have_text("Saved")

    page.get_by_role("tab", name="Versions").click()
    versions = page.get_by_role("region", name="Versions").locator("li")
    expect(versions).to_have_count(2)
    expect(versions.first).to_contain_text("instructions, approval of get_weather")
    versions.first.get_by_text("Differences").click()
    expect(versions.first.get_by_role("row", name=re.compile("approval of get_weather"))).to_contain_text("Paris")
    versions.last.get_by_role("button", name="Restore version 1").click()
    expect(versions).to_have_count(3)
    page.get_by_role("tab", name="Fields").click()
    expect(asking.get_by_label("Value")).to_have_value("berkeley")


def test_an_agent_is_tried_with_its_fields_as_they_stand_before_they_are_saved(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/agents", width=1500))
    trial = page.get_by_role("region", name="Try it")
    page.get_by_role("button", name="New agent").click()
    page.get_by_role("combobox", name="Model").fill("demo/echo")
    trial.get_by_role("textbox", name="Message").fill("Before it has a name")
    page.keyboard.press("Enter")
    expect(trial.locator(".tl-chat-answer")).to_contain_text("Echo (no language model): Before it has a name")

    page.get_by_role("navigation", name="Agents").get_by_role("button", name=re.compile("^Weather Assistant")).click()
    page.get_by_label("Tool calls").evaluate("(field) => { field.closest('details').open = true; }")
    page.get_by_label("Tool calls").fill("many")
    say(page, "Hello")
    expect(trial.get_by_role("alert")).to_contain_text("many is not a number")
    page.get_by_label("Tool calls").fill("")
    page.get_by_role("combobox", name="Model").fill("demo/echo")
    say(page, "Is it sunny?")
    expect(trial.locator(".tl-chat-answer")).to_contain_text("Echo (no language model): Is it sunny?")
    assert page.url.endswith("/agents?id=" + WEATHER_ASSISTANT)
    expect(page.get_by_role("region", name="Fields").get_by_role("status")).to_have_text("Not saved yet")
    page.reload()
    ready(page)
    expect(page.get_by_role("combobox", name="Model")).to_have_value("demo/echo")
    expect(page.get_by_role("region", name="Fields").get_by_role("status")).to_have_text("Not saved yet")
    expect(page.get_by_text(re.compile("^version 1"))).to_be_visible()


def test_a_tool_is_called_by_hand(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/tools"))
    page.get_by_label("Arguments").fill('{"location": "Oakland"}')
    page.get_by_role("button", name="Call", exact=True).click()
    expect(page.locator(".tl-result")).to_contain_text("Oakland")
    page.get_by_label("Arguments").fill("{oops")
    page.get_by_role("button", name="Call", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("cannot be read as a JSON object")
    expect(page.get_by_role("alert")).to_be_in_viewport()
    expect(page.get_by_label("Arguments")).to_be_focused()


def test_a_guest_is_offered_no_command_and_a_server_that_cannot_be_added_is_told_of_at_the_button(
    lab: LabProcess, pages: Pages
) -> None:
    page = ready(pages.open(f"{lab.url}/tools"))
    page.get_by_role("button", name="Add a server").click()
    adding = page.get_by_role("region", name="Add a server")
    assert page.get_by_label("or a command").count() == 0  # For who owns the machine only.
    adding.get_by_label("Address").fill("http://example.org/mcp")
    adding.get_by_role("button", name="Add", exact=True).click()
    expect(adding.get_by_role("alert")).to_contain_text("needs a name")
    expect(adding.get_by_label("Name")).to_be_focused()


def test_a_server_that_does_not_answer_is_told_of(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(lab.sign_in_link))
    go(page, f"{lab.url}/tools")
    page.get_by_role("button", name="Add a server").click()
    adding = page.get_by_role("region", name="Add a server")
    adding.get_by_label("Name").fill("nowhere")
    adding.get_by_label("Address").fill("http://127.0.0.1:9/mcp")
    adding.get_by_role("button", name="Add", exact=True).click()
    server = page.get_by_role("region", name="Servers").get_by_role("listitem").filter(has_text="nowhere")
    expect(server.get_by_label("does not answer")).to_be_visible()
    expect(page.get_by_role("button", name="Add a server")).to_be_focused()
    expect(page.get_by_role("status").filter(has_text="Added nowhere")).to_be_visible()
    server.get_by_role("button", name="Remove nowhere").click()
    server.get_by_role("button", name="Remove", exact=True).click()
    expect(server).to_have_count(0)


def test_the_labs_own_user_may_add_a_server_by_command(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(lab.sign_in_link))
    go(page, f"{lab.url}/tools")
    page.get_by_role("button", name="Add a server").click()
    expect(page.get_by_label("or a command")).to_be_visible()


def test_a_file_is_uploaded_searched_and_deleted(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/files"))
    expect(page.get_by_role("heading", name="No files yet")).to_be_visible()
    chooser = page.locator("input[type=file]")
    text = "The lighthouse keeper drinks tea at four. " * 60_000  # Several parts.
    chooser.set_input_files({"name": "../keeper.txt", "mimeType": "image/png", "buffer": text.encode()})
    files = page.get_by_role("region", name="Files", exact=True)
    expect(files).to_contain_text("keeper.txt")
    expect(files).to_contain_text("text/plain")
    files.get_by_role("button", name=re.compile("Delete")).click()
    files.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("heading", name="No files yet")).to_be_visible()

    chooser.set_input_files(
        {"name": "tea.md", "mimeType": "", "buffer": b"# Tea\n\nThe keeper drinks tea at four o'clock."}
    )
    expect(files).to_contain_text("tea.md")
    page.get_by_label("New store").fill("house")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("region", name="Vector stores", exact=True).get_by_role("status")).to_have_text(
        "Created house"
    )
    store = page.get_by_role("region", name="Vector store house")
    expect(store).to_contain_text("1 passage")
    store.get_by_role("searchbox").fill("when is tea")
    store.get_by_role("button", name="Search").click()
    expect(store.get_by_label("Score")).to_be_visible()
    expect(store).to_contain_text("four o'clock")


def test_a_file_over_the_limit_is_refused_before_it_is_sent(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/files"))
    page.evaluate(
        """() => {
            const root = document.querySelector(".shell-main").querySelector("*");
            const find = (node) => node.querySelector?.("input[type=file]") ?? [...node.querySelectorAll("*")].map((each) => each.shadowRoot && find(each.shadowRoot)).find(Boolean);
            const field = find(document);
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(50 * 2 ** 20 + 1)], "big.bin"));
            field.files = transfer.files;
            field.dispatchEvent(new Event("change"));
        }"""
    )
    expect(page.get_by_role("alert")).to_contain_text("the limit is 50 MB")
    expect(page.get_by_role("heading", name="No files yet")).to_be_visible()


def test_settings_say_what_is_ready_and_what_to_do_and_sign_out(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/settings"))
    providers = page.get_by_role("region", name="Providers")
    expect(providers).to_contain_text("Set OPENAI_API_KEY.")
    providers.get_by_role("button", name="List models of demo").click()
    expect(providers).to_contain_text("demo/assistant")
    assert "lab.duckdb" not in page.locator("main").inner_text()  # The place of the store is its owner's to know.
    page.get_by_role("button", name="Dark", exact=True).click()
    expect(page.locator("html")).to_have_attribute("data-tl-theme", "dark")
    name = page.get_by_role("region", name="You").locator("code").inner_text()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Sign out", exact=True).last.click()
    page.wait_for_url(f"{lab.url}/")
    go(page, f"{lab.url}/settings")
    assert page.get_by_role("region", name="You").locator("code").inner_text() != name


def test_a_comparison_has_its_page(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/compare"))
    expect(page.get_by_role("heading", name="No comparisons yet")).to_be_visible()
    made = page.evaluate(
        """async () => (await (await fetch("/api/v1/compare", {method: "POST", headers: {"Content-Type": "application/json"},
            body: JSON.stringify({cases: ["Say tea"], models: ["demo/echo", "demo/assistant"]})})).json()).id"""
    )
    page.get_by_role("link", name=re.compile("^demo.echo.* done")).click()
    expect(page).to_have_url(f"{lab.url}/compare?id={made}")
    expect(page.locator("main")).to_contain_text("Say tea")
    expect(page).to_have_title(re.compile("demo/echo against demo/assistant · Timestep Lab"))
    expect(page.get_by_role("heading", level=1)).to_have_text("demo/echo against demo/assistant")
    expect(page.locator(".shell-heading")).to_contain_text("1 case · just now")
    page.keyboard.press("d")  # Wherever the focus is.
    expect(page.get_by_role("button", name="Differ")).to_have_attribute("aria-pressed", "true")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert "Say tea" in download.value.path().read_text()
    page.get_by_role("link", name="All comparisons").click()
    expect(page).to_have_url(f"{lab.url}/compare")


COMPARE = """async () => (await (await fetch("/api/v1/compare", {method: "POST", headers: {"Content-Type": "application/json"},
    body: JSON.stringify({cases: ["Say tea"], models: ["demo/echo"]})})).json()).id"""


def test_a_row_that_changes_come_to_is_clicked_and_keeps_the_focus(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/compare"))
    rows = page.locator(".tl-compare-row")
    made = page.evaluate(COMPARE)
    row = rows.get_by_role("link", name=re.compile("done"))
    row.focus()
    page.evaluate(COMPARE)
    expect(rows).to_have_count(2)
    expect(row.last).to_be_focused()
    row.last.hover()
    page.mouse.down()
    page.evaluate(COMPARE)
    page.wait_for_timeout(500)
    assert rows.count() == 2  # Drawn when the button is released.
    page.mouse.up()
    expect(page).to_have_url(f"{lab.url}/compare?id={made}")


@pytest.mark.parametrize("look", ["desk", "phone"])
def test_every_page_stands_up_to_axe_and_to_thumbs(lab: LabProcess, pages: Pages, look: str) -> None:
    """In light and dark. 390 px wide: nothing is pushed sideways, and whatever is pressed is at least 44 px high."""
    size = {"width": 390, "height": 844, "has_touch": True} if look == "phone" else {}
    page = pages.open(f"{lab.url}/healthz", **size)
    seen: dict[str, list[str]] = {}
    for path in EVERY_PAGE:
        page.emulate_media(color_scheme="light")
        go(page, lab.url + path)
        faults = serious(page)
        if len(headings := page.evaluate(HEADINGS)) != 1:
            faults.append(f"headings: {headings}")
        if look == "phone":
            widths = page.evaluate(
                "[document.scrollingElement.scrollWidth, document.querySelector('main').scrollWidth]"
            )
            faults += page.evaluate(TOO_SMALL) + [f"{width} px wide" for width in widths if width > 390]
        page.emulate_media(color_scheme="dark")
        page.locator(".tl-root[data-tl-theme=dark]").first.wait_for()
        faults += [f"dark: {fault}" for fault in serious(page, only=["color-contrast"])]
        if faults:
            seen[path] = faults
    assert seen == {}


def test_a_trace_and_a_comparison_stand_up_to_thumbs(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/compare?new", width=390, height=844, has_touch=True))
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator(".tl-conclusion")).to_contain_text("No winner")
    assert page.evaluate(TOO_SMALL) == []
    trace_id = page.evaluate("async () => (await (await fetch('/api/v1/traces')).json()).data[0].trace_id")
    go(page, f"{lab.url}/traces?source=all&id={trace_id}")
    page.locator(".tl-wf-row").first.wait_for()
    assert page.evaluate(TOO_SMALL) == []
    assert page.evaluate("document.querySelector('main').scrollWidth") <= 390


def test_what_of_an_address_cannot_be_read_is_told_above_the_list_with_the_remedy(
    lab: LabProcess, pages: Pages
) -> None:
    page = ready(pages.open(f"{lab.url}/traces"))
    expect(page.get_by_role("alert").filter(has_text="URL parameters")).to_have_count(0)
    for asked, words in {
        "since=soon": "since=soon is not a valid time. Use a format like since=2026-11-29T10:00:00Z",
        "until=2026-99-01": "until=2026-99-01 is not a valid time.",
        "since_s=1e400": "since_s=1e400 is not a number of seconds. For example, use since_s=3600",
        "since_s=-5": "since_s=-5 is not a number of seconds.",
        "order=cst_usd desc": "Traces cannot be ordered by 'cst_usd'. Did you mean 'cost_usd'?",
        "order=cost_usd sideways": "Unknown direction 'sideways'. Use asc or desc",
        "source=liv": "Unknown source 'liv'. Did you mean 'live'?",
        "range=last wek": "Unknown time range 'last wek'. Did you mean 'last week'?",
        "fliter=x": "Unknown URL parameter 'fliter'. Did you mean 'filter'?",
        "since=2026-11-02T00:00:00Z&until=2026-11-01T00:00:00Z": "The time range ends before it starts",
    }.items():
        go(page, f"{lab.url}/traces?{asked}")
        expect(page.get_by_role("alert").filter(has_text="Some URL parameters are invalid.")).to_contain_text(words)
    page.get_by_role("button", name="Dismiss").click()
    expect(page.get_by_role("alert").filter(has_text="URL parameters")).to_have_count(0)


def test_traces_come_in_out_of_a_file_by_a_button_and_what_is_none_is_told(
    lab: LabProcess, pages: Pages, tmp_path: Path
) -> None:
    page = ready(pages.open(f"{lab.url}/traces"))
    expect(page.get_by_text("Import a file with Import, above")).to_be_visible()

    def give_file(name: str, content: str) -> None:
        (tmp_path / name).write_text(content)
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Import").click()
        chooser.value.set_files(tmp_path / name)

    give_file("one.json", json.dumps(OTLP))
    expect(page.get_by_text("1 trace of one.json imported.")).to_be_visible()
    expect(page.locator(".tl-list-row")).to_contain_text("Ask the shop")
    expect(page.get_by_label("Source")).to_have_value("imported")
    give_file("one.json", json.dumps(OTLP))
    expect(page.get_by_text("1 trace of one.json already existed.", exact=True)).to_be_visible()
    give_file("cut.jsonl", json.dumps(OTLP) + '\n{"resourceSpans": [')
    told = "1 trace of cut.jsonl already existed; 1 step could not be read: Line 2 of cut.jsonl is not JSON."
    expect(page.get_by_text(told, exact=True)).to_be_visible()
    give_file("shopping.txt", "milk, bread")
    expect(page.get_by_text("shopping.txt is not a file of traces.")).to_be_visible()
    assert pages.faults.pop().endswith("400 (Bad Request)")  # Chromium itself logs what the server refuses.


OTLP = {
    "resourceSpans": [{"scopeSpans": [{"spans": [{
        "traceId": "5b8aa5a2d2c872e8321cf37308d69df2", "spanId": "051581bf3cb55c13", "name": "Ask the shop", "kind": 1,
        "startTimeUnixNano": "1764410000000000000", "endTimeUnixNano": "1764410001000000000", "attributes": [],
    }]}]}]
}  # fmt: skip


def test_the_app_can_be_installed(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/settings"))
    manifest = page.evaluate("async () => (await fetch(document.querySelector('link[rel=manifest]').href)).json()")
    assert manifest["display"] == "standalone"
    assert {icon["sizes"] for icon in manifest["icons"]} >= {"192x192", "512x512"}
    for icon in manifest["icons"]:
        size = page.evaluate("async (src) => { const image = new Image(); image.src = src; await image.decode(); return image.naturalWidth; }", icon["src"])  # fmt: skip
        assert f"{size}x{size}" == icon["sizes"]
    assert page.evaluate("async () => Boolean((await navigator.serviceWorker.ready).active)")
    session = page.context.new_cdp_session(page)
    assert session.send("Page.getInstallabilityErrors")["installabilityErrors"] in ([], [{"errorId": "in-incognito", "errorArguments": []}])  # fmt: skip


def test_a_closed_page_leaves_no_session_behind(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/settings"))
    with lab.anonymous() as client:
        assert sessions(client.get("/metrics").text) >= 1
        page.context.close()
        deadline = time.monotonic() + 30
        while (left := sessions(client.get("/metrics").text)) and time.monotonic() < deadline:
            time.sleep(0.5)
    assert left == 0


def sessions(metrics: str) -> int:
    found = re.search(r"^timestep_lab_page_sessions(?:{[^}]*})? (\d+)", metrics, re.MULTILINE)
    assert found is not None, metrics
    return int(found.group(1))


# -- the flows of a day, counted in clicks


class Clicks:
    """Counts what a flow takes."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *found: Locator) -> None:
        for one in found:
            one.click()
            self.count += 1


def test_an_agent_with_a_tool_and_a_handoff_is_made_and_talked_to_in_eight_clicks(
    lab: LabProcess, pages: Pages
) -> None:
    page = ready(pages.open(f"{lab.url}/", width=1440, height=900))
    fields = page.get_by_role("region", name="Fields")
    click = Clicks()
    click(page.get_by_role("link", name="Agents", exact=True).first)
    ready(page)
    click(page.get_by_role("button", name="New agent"), page.get_by_label("Name", exact=True))
    page.keyboard.type("Herald")
    click(page.get_by_role("checkbox", name="think"), page.get_by_role("checkbox", name="Weather Assistant"))
    click(fields.get_by_role("button", name="Create"))
    click(fields.get_by_role("link", name="Chat with it"))
    ready(page)
    say(page, "hand off to Weather Assistant")
    expect(page.locator("main")).to_contain_text("handed off to Weather Assistant")
    assert click.count <= 8


def test_the_slowest_trace_of_yesterday_and_a_failed_tool_are_found_in_the_served_app(
    lab: LabProcess, pages: Pages
) -> None:
    page = ready(pages.open(f"{lab.url}/", width=1440, height=900))
    noon = datetime.now(UTC).replace(hour=12) - timedelta(days=1)
    page.evaluate("async (body) => (await fetch('/v1/traces', {method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body)})).status", of_yesterday(noon))  # fmt: skip
    click = Clicks()
    click(page.get_by_role("link", name="Traces", exact=True).first)
    ready(page)
    page.get_by_label("Source").select_option("")
    click.count += 1
    page.get_by_label("Time", exact=True).select_option("yesterday")
    click.count += 1
    click(page.get_by_role("button", name="Slowest"))
    expect(page.get_by_role("columnheader", name="Time")).to_have_attribute("aria-sort", "descending")
    first = page.locator(".tl-list-row").first
    expect(first).to_contain_text("Ask 3")
    page.locator("body").press("j")
    page.keyboard.press("Enter")
    expect(page.locator(".tl-trace-head")).to_contain_text("Ask 3")
    expect(page.locator(".tl-wf-row").filter(has_text="lookup")).to_contain_text("3.00 s")
    assert click.count <= 4

    go(page, f"{lab.url}/")
    failed = Clicks()
    failed(page.get_by_role("link", name="Traces", exact=True).first)
    ready(page)
    page.get_by_label("Source").select_option("")
    failed(page.get_by_role("button", name="Failed tools"))
    expect(page.locator(".tl-list-row")).to_have_count(1)
    expect(page.locator(".tl-list-row")).to_contain_text("Ask 2")
    assert failed.count <= 2


def of_yesterday(noon: datetime) -> dict[str, Any]:
    """Three traces: the third is the slowest, for its tool; in the second the tool fails."""
    spans = []
    for n in (1, 2, 3):
        at = int((noon + timedelta(minutes=n)).timestamp()) * 10**9
        trace_id = f"{n:032x}"
        root = {
            "traceId": trace_id,
            "spanId": f"{n:016x}",
            "name": f"Ask {n}",
            "kind": 1,
            "startTimeUnixNano": str(at),
            "endTimeUnixNano": str(at + n * 10**9),
            "attributes": [],
        }
        tool = {
            **root,
            "spanId": f"{n + 16:016x}",
            "parentSpanId": root["spanId"],
            "name": "lookup",
            "attributes": [
                {"key": "gen_ai.operation.name", "value": {"stringValue": "execute_tool"}},
                {"key": "gen_ai.tool.name", "value": {"stringValue": "lookup"}},
            ],
            **({"status": {"code": 2, "message": "no such order"}} if n == 2 else {}),
        }
        spans += [root, tool]
    return {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}


def test_a_trace_is_shared_in_two_clicks_approved_on_a_phone_in_three_and_all_of_mine_deleted_in_three(
    lab: LabProcess, pages: Pages
) -> None:
    page = ready(pages.open(f"{lab.url}/chat", width=390, height=844, has_touch=True))
    say(page, "What's the weather in Berkeley?")
    page.get_by_role("button", name="Approve", exact=True).wait_for()
    go(page, f"{lab.url}/")
    approve = Clicks()
    approve(page.get_by_role("link", name="Approvals"), page.get_by_role("button", name="Approve", exact=True))
    expect(page.get_by_role("region", name="Decided here")).to_contain_text("done")
    assert approve.count <= 3
    assert page.evaluate(
        "document.querySelector('.shell-links').scrollWidth <= document.querySelector('.shell-links').clientWidth"
    )
    assert serious(page) == []

    trace_id = page.evaluate("async () => (await (await fetch('/api/v1/traces')).json()).data[0].trace_id")
    page.set_viewport_size({"width": 1440, "height": 900})
    go(page, f"{lab.url}/traces?id={trace_id}")
    expect(page.locator(".tl-glance")).to_contain_text("Berkeley")
    share = Clicks()
    share(page.get_by_role("button", name="Share"), page.get_by_role("button", name="Create link"))
    link = page.get_by_role("textbox", name="The link").input_value()
    assert share.count <= 2
    assert serious(page) == []
    other = pages.open(link)
    expect(other.locator(".tl-trace-title")).to_contain_text("What's the weather in Berkeley?")
    assert other.get_by_role("button", name="Share").count() == 0
    assert serious(other) == []
    of_earlier_versions = link.replace("/share/", "/shared/")
    expect(pages.open(of_earlier_versions).locator(".tl-trace-title")).to_contain_text("in Berkeley?")

    page.keyboard.press("Escape")
    page.keyboard.press("Control+k")
    page.get_by_role("combobox", name="Find").fill("berkeley")
    expect(page.get_by_role("option", name=re.compile("Berkeley.*trace"))).to_be_visible()
    assert serious(page) == []
    page.keyboard.press("Escape")

    delete = Clicks()
    delete(page.get_by_role("link", name="Settings"))
    ready(page)
    assert serious(page) == []
    delete(page.get_by_role("button", name="Delete everything"), page.get_by_role("button", name="Delete everything"))
    expect(page.get_by_text("No traces are shared.")).to_be_visible()
    assert delete.count <= 3
    assert page.evaluate("async () => (await (await fetch('/api/v1/traces')).json()).data") == []
    assert other.evaluate("location.href").startswith(f"{lab.url}/share/")
    assert pages.open(f"{lab.url}/healthz").request.get(link).status == 404
