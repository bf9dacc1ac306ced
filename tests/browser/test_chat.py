"""The chat in a real browser, as somebody meets it who types faster than it answers. A console error or an outside request fails any test."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.giving_files import drop_and_send_at_once, give
from tests.browser.test_accessibility import serious
from tests.providers.test_conformance_answers import PIXEL
from tests.wire import Deltas, Reply, WireServer, chat_completions
from timestep_lab import Lab
from timestep_lab.model.records import RunRecord
from timestep_lab.runtime.settings import Settings
from timestep_lab.server.pages.approvals import ApprovalsPage

SETTINGS = Settings.load(env={"TIMESTEP_LAB_DEMO_DELAY_MS": "0", "WEATHER_MODE": "recorded"})
Show = Callable[..., Page]
PATIENCE_MS = 45_000
expect.set_options(timeout=PATIENCE_MS)
ASKS = "What's the weather in Berkeley?"
SLOWLY = "demo/assistant?delay=250"
"""Slow enough to type something before it asks."""
STANDS_STILL = "performance.now = () => 10_000"
MUCH_LATER = "performance.now = () => 20_000"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    opened = Lab(tmp_path / "lab.duckdb", settings=SETTINGS)
    yield opened
    close(opened)


def close(opened: Lab) -> None:
    """In a thread: Playwright's loop counts as running in this one."""
    closing = threading.Thread(target=opened.close)
    closing.start()
    closing.join(30)
    assert not closing.is_alive()


def message(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Message")


def say(page: Page, text: str) -> None:
    message(page).fill(text)
    message(page).press("Enter")


def answered(page: Page, times: int = 1) -> None:
    expect(page.locator(".tl-chat-trace")).to_have_count(times)


def approve(page: Page) -> Locator:
    return page.get_by_role("button", name="Approve", exact=True)


def conversations(page: Page) -> Locator:
    return page.get_by_role("navigation", name="Conversations")


def waiting(lab: Lab) -> int:
    return len(list(lab.approvals))


# -- approvals and the focus


def test_with_nobody_typing_the_card_takes_the_focus_enter_approves_and_the_focus_goes_back(
    show: Show, lab: Lab
) -> None:
    page = show(lab.chat())
    say(page, ASKS)
    expect(approve(page)).to_be_focused()
    page.evaluate(MUCH_LATER)
    page.keyboard.press("Enter")
    expect(message(page)).to_be_focused()
    expect(page.locator(".tl-w-card").first).to_contain_text("Berkeley")


def test_who_begins_with_a_click_on_a_question_gets_the_card_too(show: Show, lab: Lab) -> None:
    page = show(lab.chat())
    page.get_by_role("button", name="What's the weather in Berkeley").click()
    expect(approve(page)).to_be_focused()


def test_who_types_ahead_keeps_the_focus_is_told_and_approves_nothing(show: Show, lab: Lab) -> None:
    page = show(lab.chat(model=SLOWLY))
    say(page, ASKS)
    page.keyboard.type("And tomorrow")
    expect(approve(page)).to_be_visible()
    page.keyboard.type(" or on Sunday")
    expect(message(page)).to_be_focused()
    expect(message(page)).to_have_value("And tomorrow or on Sunday")
    expect(page.get_by_role("status").filter(has_text="get_weather waits for your approval")).to_have_count(1)
    assert waiting(lab) == 1
    approve(page).click()
    expect(page.locator(".tl-w-card").first).to_contain_text("Berkeley")
    expect(message(page)).to_have_value("And tomorrow or on Sunday")


def test_a_key_a_moment_ago_is_writing_also_in_an_empty_field_and_one_long_ago_is_not(show: Show, lab: Lab) -> None:
    for then, focused in ((STANDS_STILL, False), (MUCH_LATER, True)):
        page = show(lab.chat(model=SLOWLY))
        page.evaluate(STANDS_STILL)
        say(page, ASKS)
        page.keyboard.press("x")
        page.keyboard.press("Backspace")
        page.evaluate(then)
        expect(approve(page)).to_be_visible()
        expect(approve(page) if focused else message(page)).to_be_focused()


def test_a_field_beside_the_conversation_keeps_the_focus_too(show: Show, lab: Lab) -> None:
    page = show(lab.chat(model=SLOWLY))
    page.get_by_role("button", name="Conversations").click()
    say(page, ASKS)
    conversations(page).get_by_role("searchbox").fill("weather")
    expect(approve(page)).to_be_visible()
    expect(conversations(page).get_by_role("searchbox")).to_be_focused()


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_a_key_right_after_the_card_took_the_focus_approves_nothing_but_a_click_does(
    show: Show, lab: Lab, key: str
) -> None:
    page = show(lab.chat())
    page.evaluate(STANDS_STILL)
    say(page, ASKS)
    expect(approve(page)).to_be_focused()
    page.keyboard.press(key)
    page.wait_for_timeout(200)
    expect(approve(page)).to_be_enabled()
    assert waiting(lab) == 1
    approve(page).click()
    expect(page.locator(".tl-w-card").first).to_contain_text("Berkeley")


def test_a_key_held_down_since_before_the_card_came_approves_nothing(show: Show, lab: Lab) -> None:
    page = show(lab.chat())
    message(page).fill(ASKS)
    message(page).focus()
    page.keyboard.down("Enter")
    expect(approve(page)).to_be_focused()
    page.evaluate(MUCH_LATER)
    page.keyboard.down("Enter")
    page.keyboard.up("Enter")
    page.wait_for_timeout(200)
    expect(approve(page)).to_be_enabled()
    page.keyboard.press("Space")
    expect(page.locator(".tl-w-card").first).to_contain_text("Berkeley")


def test_a_second_card_leaves_the_focus_at_the_first(show: Show, lab: Lab) -> None:
    page = show(lab.chat())
    say(page, "What's the weather in Berkeley and in North Berkeley?")
    expect(approve(page)).to_have_count(2)
    expect(approve(page).first).to_be_focused()


# -- editing, trying again


def test_an_edited_message_keeps_its_files_and_names_its_branch(show: Show, lab: Lab) -> None:
    page = show(lab.chat(model="demo/echo"))
    give(page)
    say(page, "What is in these?")
    answered(page)
    page.get_by_role("button", name="Edit and send again").click()
    chips = page.locator(".tl-chat-composer .tl-chat-file")
    expect(chips).to_have_count(3)
    expect(chips.locator(".tl-icon-clip")).to_have_count(3)
    page.get_by_role("button", name="Remove red.png").click()
    expect(message(page)).to_be_focused()
    say(page, "What is in these two?")
    expect(page.locator(".tl-chat-bubble")).to_have_text("What is in these two?")
    answered(page)
    expect(page.locator(".tl-chat-user .tl-chip")).to_have_count(2)
    expect(page.locator(".tl-chat-answer")).to_contain_text("The lighthouse is tall.")
    titles = {thread.title for thread in lab.threads.list()}
    assert titles == {"What is in these?", "What is in these two?"}


def test_who_gives_up_an_edit_does_not_send_its_files(show: Show, lab: Lab) -> None:
    page = show(lab.chat(model="demo/echo"))
    give(page)
    say(page, "What is in these?")
    answered(page)
    page.get_by_role("button", name="Edit and send again").click()
    page.get_by_role("button", name="Stop editing").click()
    expect(page.locator(".tl-chat-composer .tl-chat-file")).to_have_count(0)
    expect(message(page)).to_have_value("")


def test_a_failed_turn_has_its_trace_and_can_be_tried_again(show: Show, lab: Lab) -> None:
    page = show(lab.chat(model="demo/flaky?rate=1&error=rate_limit", trace_base="/traces/"))
    say(page, "Hello there")
    failed = page.locator(".tl-chat-ended")
    answered(page)
    [run] = _runs(lab)
    expect(failed.get_by_role("link", name="trace")).to_have_attribute("href", f"/traces/{run.trace_id}")
    expect(failed).to_contain_text("demo/flaky")
    expect(failed).not_to_contain_text("0 tok")
    assert serious(page) == []
    failed.get_by_role("button", name="Try again from here").click()
    expect(page.locator(".tl-chat-bubble")).to_have_text("Hello there")
    _until(lambda: len(_runs(lab)) == 2)
    assert [thread.title for thread in lab.threads.list()] == ["Hello there"] * 2


@pytest.mark.parametrize(("ttft", "begun"), [("0", True), ("20000", False)], ids=["underway", "before an answer"])
def test_a_stopped_turn_has_its_trace_can_be_tried_again_and_claims_no_tokens(
    show: Show, lab: Lab, ttft: str, begun: bool
) -> None:
    model = f"demo/slow?ttft={ttft}&tps=10&n=1000"
    chat = lab.chat(model=model)
    page = show(chat)
    say(page, "Count")
    expect(page.locator(".tl-chat-bubble")).to_be_visible()
    if begun:
        expect(page.locator(".tl-chat-answer")).to_contain_text("3")
    page.get_by_role("button", name="Stop").click()
    answered(page)
    for _ in range(2):
        turn = page.locator(".tl-chat-answer" if begun else ".tl-chat-ended")
        expect(turn).to_contain_text("incomplete" if begun else "Stopped before an answer.")
        expect(turn).to_contain_text("tokens and cost unknown")
        expect(turn.get_by_role("button", name="Try again from here")).to_have_count(1)
        expect(turn.get_by_role("button", name="trace")).to_have_count(1)
        page = show(lab.chat(model=model, thread=chat.thread_id))
    turn = page.locator(".tl-chat-answer" if begun else ".tl-chat-ended")
    turn.get_by_role("button", name="Try again from here").click()
    _until(lambda: len(_runs(lab)) == 2)
    page.get_by_role("button", name="Stop").click()
    _until(lambda: {run.status for run in _runs(lab)} == {"cancelled"})


def _runs(lab: Lab) -> list[RunRecord]:
    return list(lab.store.runs.find())


def _until(true: Callable[[], bool]) -> None:
    for _ in range(int(PATIENCE_MS / 50)):
        if true():
            return
        threading.Event().wait(0.05)
    raise AssertionError("It did not come to be.")


# -- the list of conversations


@pytest.fixture
def three(lab: Lab) -> Lab:
    for title in ("First", "Second", "Third"):
        lab.threads.create(title)
    return lab


def test_a_closed_list_forgets_its_search(show: Show, three: Lab) -> None:
    page = show(three.chat())
    button = page.get_by_role("button", name="Conversations")
    rows = conversations(page).get_by_role("listitem")
    button.click()
    conversations(page).get_by_role("searchbox").fill("zzzz")
    conversations(page).get_by_text("No conversation matches.").wait_for()
    page.keyboard.press("Escape")
    expect(button).to_be_focused()
    button.click()
    expect(conversations(page).get_by_role("searchbox")).to_have_value("")
    expect(rows).to_have_count(3)


def test_a_row_says_with_whom_and_how_it_stands_while_that_changes_elsewhere(show: Show, lab: Lab) -> None:
    lab.agents.create(name="Breaker", model="demo/flaky?rate=1")
    page = show(lab.chat())
    page.get_by_role("button", name="Conversations").click()
    other = show(lab.chat("Weather Assistant"))
    say(other, ASKS)
    row = conversations(page).get_by_role("listitem").filter(has_text="Berkeley")
    expect(row).to_contain_text("Weather Assistant")
    expect(row).to_contain_text("waits for you")
    approve(other).click()
    answered(other)
    expect(row).not_to_contain_text("waits for you")
    failing = show(lab.chat("Breaker"))
    say(failing, "Hello")
    expect(conversations(page).get_by_role("listitem").filter(has_text="Breaker")).to_contain_text("failed")


def test_after_a_rename_the_focus_is_at_the_row_and_an_empty_title_changes_nothing(show: Show, three: Lab) -> None:
    page = show(three.chat())
    page.get_by_role("button", name="Conversations").click()
    title = page.get_by_role("textbox", name="New title")
    conversations(page).get_by_role("button", name="Rename Second").click()
    title.fill("  ")
    page.keyboard.press("Enter")
    expect(conversations(page).get_by_role("button", name="Second", exact=False).first).to_be_focused()
    expect(conversations(page).get_by_text("Untitled")).to_have_count(0)
    conversations(page).get_by_role("button", name="Rename Second").click()
    title.fill("Another")
    page.keyboard.press("Enter")
    expect(conversations(page).get_by_role("button", name=re.compile("^Another"))).to_be_focused()
    assert {thread.title for thread in three.threads.list()} == {"First", "Another", "Third"}


def test_a_click_elsewhere_ends_a_rename_and_does_what_it_was_meant_for(show: Show, three: Lab) -> None:
    page = show(three.chat())
    page.get_by_role("button", name="Conversations").click()
    conversations(page).get_by_role("button", name="Rename Third").click()
    conversations(page).get_by_role("button", name="Rename First").click()
    expect(page.get_by_role("textbox", name="New title")).to_have_value("First")
    page.get_by_role("textbox", name="New title").fill("Number one")
    message(page).click()
    conversations(page).get_by_text("Number one").wait_for()
    expect(message(page)).to_be_focused()


def test_after_a_deletion_the_focus_is_at_the_next_row_and_at_last_in_the_search(show: Show, three: Lab) -> None:
    page = show(three.chat())
    page.get_by_role("button", name="Conversations").click()
    expect(conversations(page).get_by_role("listitem")).to_have_count(3)
    order = [text.splitlines()[0] for text in conversations(page).get_by_role("listitem").all_inner_texts()]
    for gone, next_one in ((order[1], order[2]), (order[2], order[0]), (order[0], None)):
        conversations(page).get_by_role("button", name=f"Delete {gone}").press("Enter")
        expect(conversations(page).get_by_role("button", name="Delete", exact=True)).to_be_focused()
        page.keyboard.press("Enter")
        expect(conversations(page).get_by_text(gone)).to_have_count(0)
        there = (
            conversations(page).get_by_role("button", name=re.compile(f"^{next_one}"))
            if next_one
            else conversations(page).get_by_role("searchbox")
        )
        expect(there).to_be_focused()


def test_the_question_whether_to_delete_takes_the_focus_from_nobody_who_went_on(show: Show, three: Lab) -> None:
    page = show(three.chat(model="demo/echo"))
    page.get_by_role("button", name="Conversations").click()
    conversations(page).get_by_role("button", name="Delete Second").click()
    say(page, "Hello there")
    answered(page)
    expect(conversations(page).get_by_role("listitem")).to_have_count(4)
    expect(conversations(page).get_by_text("Delete this conversation?")).to_be_visible()
    expect(message(page)).to_be_focused()


# -- who answers


def test_what_is_said_and_offered_at_the_beginning_is_that_of_who_answers(show: Show, lab: Lab) -> None:
    lab.agents.create(name="Librarian", instructions="You know books.")
    page = show(lab.chat())
    start = page.locator(".tl-chat-start")
    expect(start).to_contain_text("No key is set, so demo/assistant answers")
    expect(start).to_contain_text("weather in Oakland")
    page.get_by_role("combobox", name="Agent").select_option("Librarian")
    expect(start).not_to_contain_text("weather")
    expect(start).to_contain_text("No key is set")
    page.get_by_role("combobox", name="Agent").select_option("Weather Assistant")
    expect(start).to_contain_text("weather")
    expect(start).not_to_contain_text("theme")
    page.get_by_role("combobox", name="Model", exact=True).select_option("demo/echo")
    expect(start).to_contain_text("demo/echo answers")
    expect(start).not_to_contain_text("No key is set")
    expect(start).not_to_contain_text("weather")


def test_any_model_that_the_router_knows_can_be_chosen_and_a_wrong_one_says_why(show: Show, lab: Lab) -> None:
    page = show(lab.chat())
    model = page.get_by_role("combobox", name="Model", exact=True)
    model.select_option("Other…")
    field = page.get_by_role("combobox", name="Model as prefix/name")
    expect(field).to_be_focused()
    field.fill("dmeo/slow")
    field.press("Enter")
    wrong = page.locator(".tl-chat-other").get_by_role("alert")
    expect(wrong).to_contain_text("There is no provider 'dmeo'")
    assert serious(page) == []
    field.fill("demo/slow?ttft=0&tps=100&n=7")
    expect(wrong).to_be_hidden()
    field.press("Enter")
    expect(field).to_be_hidden()
    expect(model).to_be_focused()
    expect(model).to_have_value("demo/slow?ttft=0&tps=100&n=7")
    say(page, "Count")
    expect(page.locator(".tl-chat-answer")).to_contain_text("5 6")
    model.select_option("Other…")
    expect(field).to_have_value("demo/slow?ttft=0&tps=100&n=7")
    field.press("Escape")
    expect(model).to_have_value("demo/slow?ttft=0&tps=100&n=7")


def test_on_a_phone_everything_of_the_picker_is_large_enough(show: Show, lab: Lab) -> None:
    page = show(lab.chat(), width=390, has_touch=True)
    page.get_by_role("combobox", name="Model", exact=True).select_option("Other…")
    parts = page.locator(".tl-chat-other").locator("input, button")
    assert all(box["height"] >= 44 for box in (part.bounding_box() for part in parts.all()) if box)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390


# -- the composer


def test_what_is_written_from_right_to_left_begins_at_the_right_and_long_code_stays_in_its_bubble(
    show: Show, lab: Lab
) -> None:
    page = show(lab.chat(model="demo/echo"), width=390, height=844)
    code = f"```python\nlong = '{'x' * 400}'\n```"
    say(
        page,
        f"\u05e9\u05dc\u05d5\u05dd\n\n1. \u05d0\u05d7\u05ea\n2. \u05e9\u05ea\u05d9\u05d9\u05dd\n\n> one\n>> two\n\n<https://example.com/a>\n\n{code}",
    )
    answered(page)
    bubble = page.locator(".tl-chat-bubble")
    place = "e => { const s = getComputedStyle(e); return [s.direction, s.textAlign, s.marginRight, s.marginLeft]; }"
    assert bubble.locator("li").first.evaluate(place) == ["rtl", "start", "22px", "0px"]
    assert bubble.locator("p").first.evaluate(place)[:2] == ["rtl", "start"]
    assert bubble.locator("blockquote blockquote").inner_text() == "two"
    assert bubble.get_by_role("link").inner_text() == "https://example.com/a"
    expect(bubble).not_to_contain_text("<")
    box = bubble.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390


def test_a_message_sent_while_its_file_is_on_its_way_goes_out_with_the_file(show: Show, lab: Lab) -> None:
    page = show(lab.chat())
    message(page).fill("What is in this?")
    drop_and_send_at_once(page, "tea.md", "Tea is at four.")
    answered(page)
    expect(message(page)).to_have_value("")
    expect(page.locator(".tl-chat-user")).to_contain_text("tea.md")


def test_a_file_that_was_attached_leaves_the_focus_in_the_message_and_shows_a_clip(show: Show, lab: Lab) -> None:
    page = show(lab.chat(model="demo/echo"))
    expect(message(page)).not_to_be_focused()  # A view beside others does not take it by itself.
    note = {"name": "tea.md", "mimeType": "text/markdown", "buffer": b"Tea is at four."}
    page.locator(".tl-chat-composer input[type=file]").set_input_files(note)  # type: ignore[arg-type]
    expect(page.locator(".tl-chat-file .tl-icon-clip")).to_have_count(1)
    expect(message(page)).to_be_focused()
    page.keyboard.type("What is this?")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".tl-chat-user .tl-icon-clip")).to_have_count(1)
    expect(message(page)).to_be_focused()


def test_an_image_that_the_model_makes_is_seen_without_opening_anything(show: Show, tmp_path: Path) -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    with WireServer(chat_completions) as server:
        server.will(Reply(Deltas({"content": "A dot."}, {"images": [image]})))
        settings = Settings(openai_compatible={"artist": f"{server.url}/v1"})
        lab = Lab(tmp_path / "images.duckdb", settings=settings)
        page = show(lab.chat(model="openai_compatible/artist/a-model"))
        say(page, "Draw a dot.")
        answered(page)
        picture = page.get_by_role("img", name="Image of image_generation")
        expect(picture).to_be_visible()
        assert picture.evaluate("image => image.naturalWidth") == 1
        page.get_by_text("image_generation", exact=True).click()
        expect(page.locator(".tl-chat-tool-body")).to_contain_text("(shown above)")
        expect(page.locator(".tl-chat-tool-body")).not_to_contain_text("base64,")
        close(lab)


# -- what a tool's server asks while it works


@pytest.fixture
def host(lab: Lab) -> Lab:
    server = Path(__file__).parent.parent / "mcp" / "servers" / "asking.py"
    lab.mcp.add("asking", command=[sys.executable, str(server)])
    lab.agents.create(name="Host", tools=["asking.dine", "asking.consult", "asking.book"], model="demo/assistant")
    return lab


def question(page: Page) -> Locator:
    return page.get_by_role("region", name="asking asks you")


def fill_in(card: Locator) -> None:
    """As somebody who overlooks things at first: nothing is sent until all of it fits."""
    expect(card).to_contain_text("What shall we prepare?")
    card.get_by_role("button", name="Send answer").click()
    expect(card.get_by_role("alert").filter(has_text="This field is required.")).to_have_count(2)
    expect(card.get_by_label("Your name")).to_be_focused()
    card.get_by_label("Your name").fill("Ada")
    card.get_by_label("guests").fill("9")
    card.get_by_label("meal").select_option("pasta")
    card.get_by_role("button", name="Send answer").click()
    expect(card.get_by_role("alert").filter(has_text="At most 8.")).to_be_visible()
    card.get_by_label("guests").fill("3")
    card.get_by_label("In the garden").check()
    assert serious(card.page) == []
    card.get_by_role("button", name="Send answer").click()


ORDERED = '{"name":"Ada","guests":3,"meal":"pasta","garden":true,"note":null}'


def test_a_form_that_a_server_asks_for_is_filled_in_in_the_chat_and_keeps_what_is_typed_over_a_reload(
    show: Show, host: Lab
) -> None:
    page = show(host.chat("Host"))
    say(page, "call dine {}")
    question(page).get_by_label("meal").select_option("fish")
    question(page).get_by_label("note").fill("No nuts, please")
    page.reload()
    expect(question(page).get_by_label("meal")).to_have_value("0")
    expect(question(page).get_by_label("note")).to_have_value("No nuts, please")
    question(page).get_by_label("note").fill("")
    question(page).get_by_label("meal").select_option("")
    question(page).get_by_label("meal").select_option("fish")
    fill_in(question(page))
    answered(page)
    expect(page.locator(".tl-chat-approval")).to_contain_text("dine was answered")
    [call] = [i for thread in host.threads.list() for i in host.threads[thread.id].items if i.type == "tool_call"]
    assert call.data["output"] == ORDERED


def test_the_same_form_is_on_the_page_of_approvals(show: Show, host: Lab) -> None:
    chat = show(host.chat("Host"))
    say(chat, "call dine {}")
    question(chat).wait_for()
    page = show(ApprovalsPage(host))
    card = page.get_by_role("listitem", name="asking asks you")
    fill_in(card)
    expect(card).to_have_count(0)
    expect(page.get_by_role("region", name="Decided here")).to_contain_text("answered by you, asked by Host")
    answered(chat)
    expect(chat.locator(".tl-chat-approval")).to_contain_text("dine was answered")


def test_what_a_server_would_send_to_the_model_is_seen_before_it_is_allowed(show: Show, host: Lab) -> None:
    page = show(host.chat("Host"))
    say(page, "call consult {}")
    expect(question(page)).to_contain_text("wants to send this to the model")
    for words in ("demo/assistant", "Say yes.", "50 tokens"):
        expect(question(page)).to_contain_text(words)
    question(page).get_by_role("button", name="Decline").click()
    answered(page)
    expect(page.locator(".tl-chat-approval")).to_contain_text("consult was declined")
    say(page, "call consult {}")
    question(page).get_by_role("button", name="Allow").click()
    expect(page.locator(".tl-chat-answer").last).to_contain_text("it said I am demo/assistant")
    say(page, "call book {}")
    question(page).get_by_role("button", name="Dismiss").click()
    expect(page.locator(".tl-chat-answer").last).to_contain_text("nothing booked (cancel)")
    expect(page.locator(".tl-chat-approval").last).to_contain_text("book was dismissed")
