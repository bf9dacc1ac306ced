"""Answers may come in another order than they were asked for: what a reader asked for last is what is shown."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from playwright.sync_api import Page, expect

from tests.ui import sample_grid
from tests.ui.sample_traces import SampleSource, weather_run
from timestep_lab.evals.exports import grid_html
from timestep_lab.evals.results import cut
from timestep_lab.model.clock import utc_now
from timestep_lab.ui.explorer import TraceExplorer
from timestep_lab.ui.grid import GridView
from timestep_lab.ui.trace_view import TraceView
from timestep_lab.ui.view import View

Show = Callable[..., Page]


class Held:
    """The first answer of a view to `name` is on its way until `release()`; all others come at once."""

    def __init__(self, view: View, name: str) -> None:
        self._may_go, self.is_asked = threading.Event(), threading.Event()
        self._answered = threading.Event()
        answer = getattr(view, view._handlers[name])

        async def late(**args: Any) -> Any:
            is_first = not self.is_asked.is_set()
            self.is_asked.set()
            result = answer(**args)
            if inspect.isawaitable(result):
                result = await result
            if is_first:
                await asyncio.to_thread(self._may_go.wait, 10)
                self._answered.set()
            return result

        setattr(view, view._handlers[name], late)

    def wait(self) -> None:
        assert self.is_asked.wait(5)

    def release(self, page: Page) -> None:
        """And wait until the page has had it."""
        self._may_go.set()
        assert self._answered.wait(5)
        page.wait_for_timeout(300)


def steps(page: Page) -> Any:
    return page.locator(".tl-wf-row:visible")


def test_of_two_steps_chosen_quickly_the_second_is_told(show: Show) -> None:
    source = SampleSource.with_history(2)
    view = TraceView(source, list(source.rows)[1])
    held = Held(view, "span")
    page = show(view)
    steps(page).nth(2).click()
    held.wait()
    steps(page).nth(3).click()
    name = page.locator(".tl-details h3")
    expect(name).to_be_visible()
    told = name.inner_text()
    held.release(page)
    expect(name).to_have_text(told)


def test_of_two_traces_to_compare_with_the_second_is_shown(show: Show) -> None:
    source = SampleSource.with_history(8)
    ids = list(source.rows)
    view = TraceView(source, ids[0])
    held = Held(view, "diff")
    page = show(view)
    page.get_by_role("tab", name="Compare").click()
    page.get_by_label("Compare with").select_option(ids[1])
    held.wait()
    page.get_by_label("Compare with").select_option(ids[2])
    marked = page.locator(".tl-divergence mark")
    expect(marked.first).to_be_visible()
    told = marked.all_inner_texts()
    held.release(page)
    assert marked.all_inner_texts() == told


def test_the_graph_of_a_trace_that_was_left_is_not_drawn_into_the_next(show: Show) -> None:
    source = SampleSource.with_history(1)
    row, spans = weather_run(900, utc_now())
    alone = [{**span, "agent": "Lone Agent", "name": "Lone Agent" if span["kind"] == "agent" else span["name"]} for span in spans[:3]]  # fmt: skip
    source.add({**row, "agent_path": "Lone Agent", "workflow": "Lone Agent", "input": "Alone"}, alone)
    view = TraceExplorer(source)
    held = Held(view, "graph")
    page = show(view)
    page.locator(".tl-list-row").filter(has_text="Alone").click()
    page.get_by_role("tab", name="Graph").click()
    held.wait()
    page.get_by_role("grid", name="Traces").focus()
    page.keyboard.press("ArrowDown")
    graph = page.get_by_role("tabpanel", name="Graph")
    expect(graph).to_contain_text("Weather Assistant")
    held.release(page)
    expect(graph).to_contain_text("Weather Assistant")
    expect(graph).not_to_contain_text("Lone Agent")


def test_more_of_a_list_that_was_left_is_not_added_to_the_next(show: Show) -> None:
    view = TraceExplorer(SampleSource.with_history(60))
    held = Held(view, "more")
    page = show(view)
    rows = page.locator(".tl-list-row")
    expect(rows).to_have_count(50)
    page.get_by_role("button", name="Show more").click()
    held.wait()
    box = page.get_by_role("combobox", name="Filter")
    box.fill('status == "failed"')
    box.press("Enter")
    expect(rows).to_have_count(8)
    held.release(page)
    expect(rows).to_have_count(8)


def test_the_agents_of_a_filter_that_was_left_are_not_drawn(show: Show) -> None:
    source = SampleSource.with_history(12)
    view = TraceExplorer(source)
    held = Held(view, "graph_all")
    page = show(view)
    page.get_by_role("tab", name="Agents").click()
    held.wait()
    box = page.get_by_role("combobox", name="Filter")
    box.fill('status == "cancelled"')
    box.press("Enter")
    nothing = page.get_by_role("heading", name="No agents in these traces")
    expect(nothing).to_be_visible()
    held.release(page)
    expect(nothing).to_be_visible()


def test_a_query_refused_after_another_was_asked_says_nothing(show: Show) -> None:
    view = TraceExplorer(SampleSource.with_history(12))
    held = Held(view, "query")
    page = show(view)
    page.get_by_role("button", name="Slowest").click()
    held.wait()
    page.get_by_role("button", name="Dearest").click()
    expect(page.get_by_role("button", name="Dearest")).to_have_attribute("aria-pressed", "true")
    held.release(page)
    expect(page.get_by_role("button", name="Dearest")).to_have_attribute("aria-pressed", "true")
    assert view.order == "cost_usd desc"


def grid_of(cases: int = 12) -> GridView:
    grid = sample_grid.grid(cases=cases)
    grid.cases = tuple(
        replace(c, metadata={"topic": ["coats", "sun"][c.position % 2], "size": ["small", "large"][c.position % 3 > 0]})
        for c in grid.cases
    )
    return GridView(SampleSource.with_history(2), grid, static_copy=grid_html, cut=cut)


def test_of_two_cases_opened_quickly_the_second_is_shown_and_a_closed_one_does_not_come_back(show: Show) -> None:
    view = grid_of()
    held = Held(view, "case")
    page = show(view)
    page.get_by_label("Order").select_option("as given")
    cells = page.locator(".tl-mx-cell")
    cells.first.click()
    held.wait()
    page.get_by_role("grid").focus()
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    opened = page.get_by_role("region", name="Opened case")
    expect(opened).to_contain_text("Case 12 of 12")
    held.release(page)
    expect(opened).to_contain_text("Case 12 of 12")

    again = Held(view, "case")
    page.keyboard.press("Escape")
    page.get_by_role("grid").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    again.wait()
    page.keyboard.press("Enter")
    expect(opened).to_contain_text("Case 1 of 12")
    last = Held(view, "case")
    page.get_by_role("grid").focus()
    page.keyboard.press("ArrowDown")
    last.wait()
    page.keyboard.press("Escape")
    expect(opened).to_be_hidden()
    again.release(page)
    last.release(page)
    expect(opened).to_be_hidden()


def test_of_two_ways_to_slice_the_second_is_shown(show: Show) -> None:
    view = grid_of(60)
    held = Held(view, "slices")
    page = show(view)
    page.get_by_label("Slices").select_option("topic")
    held.wait()
    page.get_by_label("Slices").select_option("size")
    slices = page.locator(".tl-slices")
    expect(slices).to_contain_text("small")
    held.release(page)
    expect(slices).to_contain_text("small")
    expect(slices).not_to_contain_text("coats")
