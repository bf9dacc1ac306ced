"""The blind arena in the browser."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_accessibility import serious
from tests.ui import sample_grid
from tests.ui.sample_grid import MODELS
from timestep_lab.evals.arena import Arena
from timestep_lab.evals.results import ComparisonRows
from timestep_lab.store.store import open_store
from timestep_lab.ui.duel import ArenaView
from timestep_lab.ui.view import handles

Show = Callable[..., Page]


def sample_rows() -> ComparisonRows:
    store = open_store(":memory:")
    return ComparisonRows(store.db, store.user_id)


@pytest.fixture
def arena() -> ArenaView:
    return ArenaView(Arena(sample_rows(), sample_grid.grid(MODELS[:3], cases=4), seed=1))


def test_nothing_tells_who_answers_before_the_vote_and_everything_after(show: Show, arena: ArenaView) -> None:
    page = show(arena)
    expect(page.get_by_role("article", name="Answer A")).to_contain_text("In ")
    duel = page.get_by_role("region", name="Duel")
    for name in MODELS[:3]:
        assert name not in duel.inner_text()
    duel.focus()
    page.keyboard.press("1")
    told = page.get_by_role("status")
    expect(told).to_contain_text("You preferred A.")
    [vote] = arena.votes
    assert vote.outcome == "left"
    expect(told).to_contain_text(f"A was {vote.left_candidate}, B was {vote.right_candidate}.")
    expect(page.get_by_role("region", name="Ranking")).to_contain_text("Ranking after 1 vote")
    assert arena.ranking().votes == 1


def test_a_session_of_votes_needs_only_the_keyboard(show: Show, arena: ArenaView) -> None:
    page = show(arena)
    page.get_by_role("region", name="Duel").focus()
    for n, key in enumerate(("1", "2", "3", "4")):
        page.keyboard.press(key)
        expect(page.get_by_role("status")).to_be_visible()
        assert len(arena.votes) == n + 1
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Tie")).to_be_visible()
    assert [vote.outcome for vote in arena.votes] == ["left", "right", "tie", "both_bad"]


class SlowToReply(ArenaView):
    @handles("next")
    async def _next_in_browser(self) -> None:
        await super()._next_in_browser()
        await asyncio.sleep(2)


def test_a_key_counts_as_soon_as_its_pair_is_shown(show: Show) -> None:
    view = SlowToReply(Arena(sample_rows(), sample_grid.grid(MODELS[:3], cases=4), seed=1))
    page = show(view)
    page.get_by_role("region", name="Duel").focus()
    page.keyboard.press("1")
    expect(page.get_by_role("status")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Tie")).to_be_visible()
    page.keyboard.press("2")
    expect(page.get_by_role("status")).to_be_visible()
    assert [vote.outcome for vote in view.votes] == ["left", "right"]


def test_after_the_last_pair_the_ranking_remains(show: Show, arena: ArenaView) -> None:
    while arena.snapshot()["duel"] is not None:
        arena.vote("tie")
        arena._next()
    page = show(arena)
    expect(page.get_by_text("Every pair is voted on")).to_be_visible()
    expect(page.get_by_role("region", name="Ranking").locator("tbody tr")).to_have_count(3)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_no_serious_fault_of_accessibility(show: Show, arena: ArenaView, dark: bool) -> None:
    page = show(arena, dark=dark, width=390)
    assert serious(page) == []
    page.get_by_role("button", name="Both bad").click()
    page.get_by_role("button", name="Next pair").wait_for()
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
