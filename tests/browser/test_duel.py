"""A live duel in a real browser, against models of this machine. A console error or an outside request fails any test."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_accessibility import serious
from timestep_lab import Lab
from timestep_lab.model.errors import UsageError
from timestep_lab.runtime.settings import Settings
from timestep_lab.server.pages.compare import ComparePage

SETTINGS = Settings.load(env={"TIMESTEP_LAB_DEMO_DELAY_MS": "0", "WEATHER_MODE": "recorded"})
Show = Callable[..., Page]
MODELS = ["demo/echo", "demo/slow?ttft=0&tps=200&n=12"]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    opened = Lab(tmp_path / "lab.duckdb", settings=SETTINGS)
    yield opened
    # Playwright's loop counts as running in this thread.
    closing = threading.Thread(target=opened.close)
    closing.start()
    closing.join(30)
    assert not closing.is_alive()


def say(page: Page, text: str) -> None:
    page.get_by_role("textbox", name="Message").fill(text)
    page.keyboard.press("Enter")


def test_two_models_answer_side_by_side_without_names_until_the_vote(show: Show, lab: Lab) -> None:
    duel = lab.chat(models=MODELS)
    page = show(duel)
    say(page, "Which model are you? Say demo/echo or demo/slow.")
    page.get_by_role("button", name="A is better").wait_for(timeout=30_000)
    answers = page.get_by_label(re.compile("^Answer [AB]$"))
    expect(answers).to_have_count(2)
    read = " ".join(answers.all_inner_texts())
    assert not re.search(r"demo|echo|slow|language model|trace| ms", read, re.IGNORECASE), read
    assert serious(page) == []

    page.keyboard.press("Escape")
    page.locator(".tl-chat-log").focus()
    page.keyboard.press("2")
    page.get_by_text("You preferred B.").wait_for()
    assert {"demo/echo", "demo/slow"} <= set(re.findall(r"demo/\w+", " ".join(answers.all_inner_texts())))
    expect(page.locator(".tl-chat-trace")).to_have_count(2)
    assert page.get_by_role("button", name="Tie").count() == 0

    [vote] = duel.votes
    assert vote.outcome == "right"
    assert duel.comparison_id is not None
    ranking = lab.arena(duel.comparison_id).ranking()
    assert (ranking.votes, ranking.ratings[0].name) == (1, vote.right_candidate)
    grid = lab.comparison(duel.comparison_id)
    assert {cell.candidate for cell in grid.cells} == {vote.left_candidate, vote.right_candidate}
    assert all(cell.trace_id for cell in grid.cells)


def test_a_named_duel_says_who_is_who_and_goes_on_in_both_conversations(show: Show, lab: Lab) -> None:
    page = show(lab.chat(models=MODELS, blind=False), width=390)
    for number in (1, 2):
        say(page, f"Message {number}")
        expect(page.get_by_role("button", name="Both bad")).to_have_count(number, timeout=30_000)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    left = page.get_by_role("article", name="Answer A")
    assert [text.splitlines()[1] for text in left.all_inner_texts()] == ["demo/echo", "demo/echo"]
    assert [len([i for i in thread.items if i.type == "user_message"]) for thread in lab.threads.list()] == [2, 2]


def test_an_approval_is_given_inside_its_column(show: Show, lab: Lab) -> None:
    page = show(lab.chat(models=["demo/assistant", "demo/echo"]))
    say(page, "What's the weather in Berkeley?")
    page.get_by_role("button", name="Approve", exact=True).click(timeout=30_000)
    page.get_by_role("button", name="Tie").click(timeout=30_000)
    page.get_by_text("You called it a tie.").wait_for()
    expect(page.locator(".tl-w-card").first).to_contain_text("Berkeley")


def test_the_questions_of_a_data_set_are_asked_one_after_the_other_and_all_votes_are_counted(
    show: Show, lab: Lab
) -> None:
    lab.datasets.save("tea", ["When is tea?", "Who brings cake?"])
    duel = lab.chat(models=MODELS, questions=lambda: [case.input for case in lab.datasets.find("tea") or ()])
    page = show(duel)
    for n, left in ((1, "Ask the next of 1 question"), (2, None)):
        page.get_by_role("button", name=re.compile("^Ask the next of")).click()
        page.get_by_role("button", name="A is better").last.click()
        expect(page.get_by_text("You preferred A.")).to_have_count(n)
        if left:
            expect(page.get_by_role("button", name=left)).to_be_enabled()
    expect(page.get_by_role("button", name=re.compile("^Ask the next of"))).to_have_count(0)
    grid = lab.comparison(duel.comparison_id or "")
    assert {case.input for case in grid.cases} == {"When is tea?", "Who brings cake?"}
    assert lab.comparisons.ratings().votes == 2

    again = show(lab.chat(models=MODELS))
    say(again, "And now?")
    again.get_by_role("button", name="Tie").click()
    page = show(ComparePage(lab))
    expect(page.get_by_role("region", name="Ratings")).to_contain_text("Ranking after 3 votes")
    expect(page.get_by_role("region", name="Ratings")).to_contain_text("demo/echo")
    group = page.get_by_role("list", name="Duels so far").get_by_role("group")
    expect(group).to_have_count(1)
    expect(group).to_contain_text("2 duels, 3 questions")
    expect(group).to_contain_text("of 3 votes")
    assert page.get_by_role("link", name=re.compile("1 question, 1 vote")).is_hidden()
    group.locator("summary").first.click()
    expect(page.get_by_role("link", name=re.compile("1 question, 1 vote"))).to_be_visible()
    assert serious(page) == []


def test_a_duel_takes_two_different_models(lab: Lab) -> None:
    with pytest.raises(UsageError, match="two different models"):
        lab.chat(models=["demo/echo"])
    with pytest.raises(UsageError, match="always starts a new conversation"):
        lab.chat(models=MODELS, model="demo/echo")  # type: ignore[call-overload]
