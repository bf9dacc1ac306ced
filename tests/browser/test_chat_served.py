"""The chat of the served app is a page of its own: who opens it came to write."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.app.lab_process import LabProcess, start, stop
from tests.browser.conftest import Pages


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabProcess]:
    served = start(tmp_path_factory.mktemp("lab") / "lab.duckdb")
    yield served
    stop(served)


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
