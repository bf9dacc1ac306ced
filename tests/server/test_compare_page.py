"""A comparison begun in the browser: what it would take, its live matrix, its verdict, and refusals that lose nothing."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.browser.conftest import Pages
from tests.server.lab_process import LabProcess
from tests.server.test_pages import go, ready

CASES = """What's the weather in Oakland?
{"input": "What's the weather in Tokyo?", "expected": "°F"}"""


def form(lab: LabProcess, pages: Pages) -> Page:
    page = ready(pages.open(f"{lab.url}/compare"))
    page.get_by_role("button", name="New comparison").click()
    expect(page.get_by_label("Cases", exact=True)).to_be_focused()
    page.get_by_label("Cases", exact=True).fill(CASES)
    expect(page.get_by_label("Personal Assistant")).to_be_checked()  # The bare model would have no tools.
    return page


def test_a_comparison_is_planned_started_and_opened(lab: LabProcess, pages: Pages) -> None:
    page = form(lab, pages)
    page.get_by_label("Scorers", exact=True).fill("tool_used:get_weather")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Remove contains").click()
    page.get_by_role("button", name="Estimate cost").click()
    expect(page.get_by_role("status").filter(has_text="calls")).to_be_visible()
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page).to_have_url(re.compile(r"/compare\?id=cmp_\w+$"))
    expect(page.locator("body")).to_contain_text("demo/echo")
    expect(page.locator("body")).to_contain_text("is ahead of demo/echo", timeout=40_000)

    page.goto(f"{lab.url}/compare")
    link = ready(page).get_by_role("link", name=re.compile("against"))
    expect(link.first).to_contain_text("No winner: ")
    expect(link.first).to_contain_text("2 cases")
    expect(link.first).to_contain_text("done")


def test_on_a_phone_the_message_is_where_the_focus_is(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/compare", width=390, height=844, has_touch=True))
    page.get_by_role("button", name="New comparison").click()
    cases = page.get_by_label("Cases", exact=True)
    cases.fill("{oops")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(cases).to_be_focused()
    expect(page.get_by_role("alert")).to_be_in_viewport(ratio=1)
    cases.fill("better")
    page.get_by_role("button", name="Estimate cost").click()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_what_cannot_be_understood_is_told_and_nothing_typed_is_lost(lab: LabProcess, pages: Pages) -> None:
    page = form(lab, pages)
    page.get_by_label("Cases", exact=True).fill('fine\n{"input": ')
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Line 2")
    expect(page.get_by_role("alert")).to_be_in_viewport()
    expect(page.get_by_label("Cases", exact=True)).to_be_focused()
    page.get_by_label("Cases", exact=True).fill("fine")
    page.get_by_label("Scorers", exact=True).fill("contans")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("contains")
    expect(page.get_by_label("Cases", exact=True)).to_have_value("fine")


COUNT = "addEventListener('pointerdown', () => sessionStorage.clicks = 1 + Number(sessionStorage.clicks || 0), true)"
SUPPORT = b"Question;Answer;topic\r\nWhat is the capital of Norway?;Oslo;places\r\nWhat is 2 + 2?;4;sums\r\n"


def test_an_own_csv_is_compared_on_two_models_in_six_clicks(lab: LabProcess, pages: Pages) -> None:
    page = ready(pages.open(f"{lab.url}/"))
    page.add_init_script(COUNT)
    page.evaluate(COUNT)
    page.get_by_role("link", name="Compare", exact=True).first.click()
    ready(page).get_by_role("button", name="New comparison").click()
    page.get_by_text("File", exact=True).first.click()
    with page.expect_file_chooser() as chooser:
        page.get_by_label("File", exact=True).last.click()
    chooser.value.set_files({"name": "support.csv", "mimeType": "text/csv", "buffer": SUPPORT})  # type: ignore[arg-type]
    preview = page.get_by_role("status", name="Preview")
    for fact in ("2 cases", "asked", "expected", "topic", "What is the capital of Norway?", "Oslo", "places"):
        expect(preview).to_contain_text(fact)
    expect(page.get_by_role("status", name="Estimated cost")).to_contain_text("4 calls")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page).to_have_url(re.compile(r"/compare\?id=cmp_\w+$"))
    expect(page.locator(".tl-conclusion")).to_contain_text("No winner", timeout=40_000)
    assert int(page.evaluate("sessionStorage.clicks")) <= 6


def test_a_pasted_table_is_shown_as_it_is_understood(lab: LabProcess, pages: Pages) -> None:
    page = form(lab, pages)
    page.get_by_label("Cases", exact=True).fill("input\texpected\nWhat is 2 + 2?\t4\nWhat is 3 + 3?\t6")
    preview = page.get_by_role("status", name="Preview")
    for fact in ("2 cases · the first line names the columns", "What is 3 + 3?", "6"):
        expect(preview).to_contain_text(fact)
    page.get_by_text("Failures of last week").click()
    expect(preview).to_contain_text("No trace of the last seven days failed.")


def test_prompts_and_settings_are_candidates(lab: LabProcess, pages: Pages) -> None:
    page = form(lab, pages)
    page.get_by_label("Cases", exact=True).fill("What is 2 + 2?")
    page.get_by_label("Personal Assistant").uncheck()
    page.get_by_role("button", name="Remove demo/echo").click()
    page.get_by_text("Prompts and settings as candidates").click()
    page.get_by_label("Prompts", exact=True).fill("Briefly: {{input}}\n---\nAt length: {{input}}")
    page.get_by_label("Settings", exact=True).fill('{"temperature": 0}\n{"temperature": 1}')
    expect(page.get_by_role("status", name="Estimated cost")).to_contain_text("4 calls")
    page.get_by_label("Settings", exact=True).fill('{"temperature": ')
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Line 1 of the settings cannot be read")
    expect(page.get_by_label("Settings", exact=True)).to_be_focused()


def test_answers_of_a_comparison_are_voted_on_without_names_and_a_duel_begins_with_a_data_set(
    lab: LabProcess, pages: Pages
) -> None:
    page = form(lab, pages)
    page.get_by_label("Cases", exact=True).fill("Hello")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page).to_have_url(re.compile(r"/compare\?id=cmp_\w+$"))
    go(page, f"{lab.url}/compare")
    page.get_by_role("link", name=re.compile("^Vote on")).click()
    ready(page)
    expect(page.get_by_role("heading", level=1)).to_contain_text("Arena: ")
    expect(page.get_by_role("article", name="Answer B")).to_be_visible()
    page.get_by_role("button", name="Both bad").click()
    expect(page.get_by_role("status").filter(has_text="You found both bad")).to_be_visible()
    expect(page.get_by_role("region", name="Ranking")).to_contain_text("Ranking after 1 vote")

    go(page, f"{lab.url}/compare")
    expect(page.get_by_role("region", name="Ratings")).to_contain_text("Ranking after 1 vote")
    page.get_by_label("First model").fill("demo/echo")
    page.get_by_label("Second model").fill("demo/slow?ttft=0&tps=500&n=5")
    page.get_by_role("button", name="Start a duel").click()
    ready(page)
    expect(page.get_by_role("textbox", name="Message")).to_be_visible()
    assert "This comparison does not exist" in page.request.get(f"{lab.url}/compare?arena=nope").text()
