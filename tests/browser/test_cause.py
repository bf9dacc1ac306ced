"""Why a run went wrong, on its page: what is asked, the outlook above the waterfall, the suspects, and the branch beside the trace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import asdict
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.ui.sample_traces import SampleSource
from timestep_lab.evals.cause.findings import Decision, Outlook, Share, Suspect, Why, WhyPlan
from timestep_lab.model.errors import UsageError
from timestep_lab.model.events import CauseFound, CauseProgress, Event
from timestep_lab.model.records import DatasetRecord
from timestep_lab.ui.trace_view import TraceView

Show = Callable[..., Page]


class Found:
    """A search that finds the same each time; it waits where it is told to."""

    def __init__(self, why: Why) -> None:
        self.why_found, self.asked, self.kept, self.waits = why, list[Any](), list[Any](), False

    async def plan(self, trace_id: str, **asked: Any) -> WhyPlan:
        if asked.get("wrong") == "contains:nothing":
            raise UsageError("By this criterion the recorded run succeeded.", "Pass a criterion that its answer fails.")
        return WhyPlan(decisions=3, repairs=4, replays=352, cost_usd=1.2)

    async def why(self, trace_id: str, **asked: Any) -> AsyncGenerator[Event, None]:
        self.asked.append(asked)
        if asked.get("budget_usd") == 0:
            raise UsageError("budget_usd=0 is not a valid limit.", "Pass a number above 0.", param="budget_usd")
        yield CauseProgress(done=20, planned=352, spent_usd=0.42)
        while self.waits:
            await asyncio.sleep(0.02)
        yield CauseFound(found=asdict(self.why_found))

    def keep(self, trace_id: str, name: str, **said: Any) -> DatasetRecord:
        self.kept.append((trace_id, name, said))
        return DatasetRecord(id="d", user_id="u", name=name, version=2, hash="h", n_cases=5)


@pytest.fixture
def source() -> SampleSource:
    return SampleSource.with_history(12)


@pytest.fixture
def search(source: SampleSource) -> Found:
    trace_id, branch = list(source.rows)[:2]
    spans = [s for s in source.by_trace[trace_id] if s["kind"] == "generation"]
    decisions = tuple(
        Decision(step=n + 1, span_id=span["span_id"], agent=span["agent"], what=what)
        for n, (span, what) in enumerate(zip(spans, ("→ Weather Assistant", "get_weather", "answer"), strict=False))
    )
    shares = (Share(7, 8), Share(6, 8), Share(0, 8))[: len(decisions)]
    common = {"repaired": Share(9, 10), "held": Share(0, 10), "resampled": Share(1, 10), "start": Share(1, 10)}
    found = (
        Suspect(decision=decisions[1], kind="argument", repair="get_weather: unit is none of its choices, 'celsius'", p=0.0004,
                verdict="proven", branch=branch, **common),
        Suspect(decision=decisions[0], kind="handoff", repair="to Billing instead", **{**common, "repaired": Share(0, 4)}),
    )  # fmt: skip
    why = Why(
        trace_id=trace_id, found=found, outlook=Outlook(trace_id, decisions, shares, False), replays=120, spent_usd=0.4
    )
    search = Found(why)
    source.causes = lambda: search  # type: ignore[assignment, return-value]
    return search


def ask(page: Page, text: str = "°F") -> None:
    page.get_by_text("Why did it go wrong?").click()
    page.get_by_label("Text", exact=True).fill(text)
    page.get_by_role("button", name="Find the step").click()


def test_what_it_takes_is_said_before_it_starts_and_a_budget_can_be_set(
    show: Show, source: SampleSource, search: Found
) -> None:
    page = show(TraceView(source, search.why_found.trace_id))
    ask(page)
    expect(page.locator(".tl-cause-found")).to_contain_text("at most 352 replays for about $1.20")
    assert search.asked == []
    page.get_by_label("Budget in US dollars").fill("0.5")
    page.get_by_role("button", name="Replay").click()
    expect(page.locator(".tl-cause-verdict")).to_contain_text("step 2 · get_weather · PROVEN")
    assert search.asked == [{"tools": "tape", "budget_usd": 0.5, "wrong": "contains:°F"}]


def test_the_outlook_stands_above_the_waterfall_and_leads_to_its_steps(
    show: Show, source: SampleSource, search: Found
) -> None:
    page = show(TraceView(source, search.why_found.trace_id))
    ask(page)
    page.get_by_role("button", name="Replay").click()
    point = page.get_by_role("button", name="Step 2, get_weather: 6 of 8 come out right")
    expect(point).to_have_attribute(
        "aria-label",
        "Step 2, get_weather: 6 of 8 come out right (95 % from 41 % to 93 %); the recorded step made it fall by 75 points",
    )
    plot, waterfall = page.locator(".tl-cause-plot"), page.locator(".tl-wf-row:visible").first
    assert plot.bounding_box()["y"] < waterfall.bounding_box()["y"]
    point.click()
    expect(page.locator('.tl-wf-row[aria-selected="true"]')).to_have_count(1)
    expect(page.locator(".tl-details")).to_be_visible()


def test_a_suspect_opens_its_branch_beside_the_trace(show: Show, source: SampleSource, search: Found) -> None:
    page = show(TraceView(source, search.why_found.trace_id))
    ask(page)
    page.get_by_role("button", name="Replay").click()
    first = page.locator(".tl-cause-suspects tbody tr").first
    expect(first).to_contain_text("9 of 10")
    expect(first).to_contain_text("proven")
    first.get_by_role("button", name="Beside").click()
    expect(page.locator(".tl-compare-result .tl-steps")).to_be_visible()
    expect(page.get_by_label("Compare with")).to_have_value(search.why_found.found[0].branch or "")


def test_the_case_can_be_kept_as_a_test(show: Show, source: SampleSource, search: Found) -> None:
    page = show(TraceView(source, search.why_found.trace_id))
    ask(page)
    page.get_by_role("button", name="Replay").click()
    page.get_by_label("Data set").fill("regressions")
    page.get_by_role("button", name="Save as a test").click()
    expect(page.locator(".tl-cause-keep")).to_contain_text("Kept in regressions@2: 5 cases")
    assert search.kept == [(search.why_found.trace_id, "regressions", {"wrong": "contains:°F"})]


def test_a_search_shows_how_far_it_is_and_can_be_stopped(show: Show, source: SampleSource, search: Found) -> None:
    search.waits = True
    page = show(TraceView(source, search.why_found.trace_id))
    ask(page)
    page.get_by_role("button", name="Replay").click()
    expect(page.locator(".tl-cause-progress")).to_contain_text("20 of at most 352 replays · $0.42")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".tl-cause-found")).to_contain_text("Stopped. Finished replays are kept")


def test_what_cannot_be_asked_is_said(show: Show, source: SampleSource, search: Found) -> None:
    page = show(TraceView(source, search.why_found.trace_id))
    ask(page, "nothing")
    expect(page.get_by_role("alert")).to_contain_text("By this criterion the recorded run succeeded.")


def test_a_budget_of_nothing_is_no_search_without_a_limit(show: Show, source: SampleSource, search: Found) -> None:
    page = show(TraceView(source, search.why_found.trace_id))
    ask(page)
    page.get_by_label("Budget in US dollars").fill("0")
    page.get_by_role("button", name="Replay").click()
    expect(page.get_by_role("alert")).to_contain_text("budget_usd=0 is not a valid limit.")
    assert [asked["budget_usd"] for asked in search.asked] == [0]


def test_without_a_lab_behind_it_nothing_is_offered(show: Show, source: SampleSource) -> None:
    page = show(TraceView(source, next(iter(source.rows))))
    expect(page.locator(".tl-wf-row:visible").first).to_be_visible()
    expect(page.get_by_text("Why did it go wrong?")).to_be_hidden()
