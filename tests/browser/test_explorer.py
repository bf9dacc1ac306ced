"""The explorer in the browser."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.ui.sample_traces import SampleSource, weather_run
from timestep_lab.model.clock import utc_now
from timestep_lab.service.traces import Facet, FacetValue
from timestep_lab.ui.explorer import TraceExplorer

Show = Callable[..., Page]


@pytest.fixture
def source() -> SampleSource:
    return SampleSource.with_history(60)


def listed(page: Page) -> Any:
    return page.locator(".tl-list-row")


def until(condition: Callable[[], bool]) -> None:
    for _ in range(150):
        if condition():
            return
        time.sleep(0.02)
    assert condition()


def test_the_list_tells_each_trace_in_one_look(show: Show, source: SampleSource) -> None:
    page = show(TraceExplorer(source))
    expect(page.locator(".tl-filter-facts")).to_contain_text("60 traces")
    first = listed(page).first
    for fact in (
        "What's the weather in Berkeley",
        "3 min ago",
        "Personal Assistant",
        "openai/gpt-4.1",
        "$0.0034",
        "33.5 s",
    ):
        expect(first).to_contain_text(fact)
    expect(listed(page)).to_have_count(50)
    page.get_by_role("button", name="Show more").click()
    expect(listed(page)).to_have_count(60)


def test_a_filter_typed_here_is_the_filter_sql_and_rows_there(show: Show, source: SampleSource) -> None:
    explorer = TraceExplorer(source)
    page = show(explorer)
    box = page.get_by_role("combobox", name="Filter")
    box.fill('status == "failed"')
    box.press("Enter")
    expect(page.locator(".tl-filter-facts")).to_contain_text("8 traces")
    assert explorer.filter == 'status == "failed"'
    assert 'status == "failed"' in explorer.sql
    assert len(explorer.df()) == 8
    page.get_by_role("button", name="SQL", exact=True).click()
    expect(page.locator(".tl-sql")).to_contain_text('status == "failed"')


def test_a_filter_set_in_python_is_drawn(show: Show, source: SampleSource) -> None:
    explorer = TraceExplorer(source)
    page = show(explorer)
    explorer.filter = 'model == "ollama/gpt-oss:20b"'
    expect(page.get_by_role("combobox", name="Filter")).to_have_value('model == "ollama/gpt-oss:20b"')
    expect(page.locator(".tl-filter-facts")).to_contain_text(f"{len(explorer)} traces")


def test_a_mistake_in_a_filter_is_explained_and_the_list_stays(show: Show, source: SampleSource) -> None:
    page = show(TraceExplorer(source))
    box = page.get_by_role("combobox", name="Filter")
    box.press_sequentially("modle == 3")
    box.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="modle")).to_be_visible()
    page.wait_for_timeout(300)
    expect(page.get_by_role("listbox", name="Suggestions")).to_be_hidden()
    expect(box).to_have_attribute("aria-invalid", "true")
    expect(listed(page)).to_have_count(50)


def test_opened_with_a_filter_that_cannot_be_read_it_says_so_beside_it_and_lists_all(
    show: Show, source: SampleSource
) -> None:
    explorer = TraceExplorer(source, filter='modl == "x"')
    explorer.snapshot()  # A page asks for this alone; a cell, which would also draw the static copy, is refused at once.
    page = show(explorer)
    box = page.get_by_role("combobox", name="Filter")
    expect(box).to_have_value('modl == "x"')
    expect(page.get_by_role("alert").filter(has_text="Did you mean 'model'?")).to_be_visible()
    expect(page.locator(".tl-filter-facts")).to_contain_text("60 traces")
    source.add(*weather_run(1004, utc_now()))
    expect(page.locator(".tl-filter-facts")).to_contain_text("61 traces")
    expect(box).to_have_value('modl == "x"')
    box.fill('model == "openai/gpt-4.1" and status == "done"')
    box.press("Enter")
    expect(box).not_to_have_attribute("aria-invalid", "true")
    expect(page.locator(".tl-filter-facts")).not_to_contain_text("61 traces")


def test_suggestions_are_taken_by_keyboard(show: Show, source: SampleSource) -> None:
    explorer = TraceExplorer(source)
    page = show(explorer)
    box = page.get_by_role("combobox", name="Filter")
    box.press_sequentially("model == ")
    expect(page.get_by_role("listbox", name="Suggestions")).to_contain_text("openai/gpt-4.1")
    box.press("ArrowDown")
    box.press("Enter")
    chosen = box.input_value()
    assert chosen.startswith('model == "')
    box.press("Escape")
    box.press("Enter")
    until(lambda: explorer.filter == chosen)


def test_words_are_found_in_inputs_and_outputs(show: Show, source: SampleSource) -> None:
    page = show(TraceExplorer(source))
    page.get_by_label("Find words in inputs and outputs").fill("kyoto")
    expect(listed(page).first).to_contain_text("Kyoto")
    expect(page.locator(".tl-filter-facts")).not_to_contain_text("60 traces")


def test_one_letter_of_a_word_leaves_the_list_as_it_is(show: Show, source: SampleSource) -> None:
    explorer = TraceExplorer(source)
    page = show(explorer)
    words = page.get_by_label("Find words in inputs and outputs")
    words.fill("kyoto x")
    page.wait_for_timeout(500)
    assert explorer.search == ""
    words.press("Enter")
    until(lambda: explorer.search == "kyoto x")
    expect(page.locator(".tl-list")).to_contain_text("the last one may be a prefix")


def test_agents_that_did_not_run_in_these_traces_are_not_said_to_have_never_run(
    show: Show, source: SampleSource
) -> None:
    page = show(TraceExplorer(source))
    page.get_by_role("tab", name="Agents").click()
    expect(page.get_by_role("button", name="Calendar Assistant, not in these traces")).to_be_visible()
    expect(page.locator(".tl-graph-key")).to_contain_text("Line width: number of handoffs")
    expect(page.locator(".tl-graph-key")).to_contain_text("declared, not observed in these traces")


def test_brushing_the_histogram_chooses_a_time_and_one_click_takes_it_back(show: Show, source: SampleSource) -> None:
    explorer = TraceExplorer(source)
    page = show(explorer)
    box = page.locator(".tl-histo-field").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"], box["y"] + 10, steps=4)
    page.mouse.up()
    expect(page.get_by_role("button", name="Show all time")).to_be_visible()
    until(lambda: explorer.since is not None)
    assert 0 < len(explorer) < 60
    page.get_by_role("button", name="Show all time").click()
    until(lambda: explorer.since is None)
    expect(page.locator(".tl-filter-facts")).to_contain_text("60 traces")


def test_a_trace_opens_beside_the_list_and_is_the_selection(show: Show, source: SampleSource) -> None:
    explorer = TraceExplorer(source)
    page = show(explorer)
    listed(page).nth(3).click()
    expect(page.locator(".tl-trace-head")).to_contain_text("failed")
    until(lambda: explorer.selection is not None)
    other = list(source.rows)[1]
    explorer.selection = other
    expect(page.locator(".tl-trace-head")).to_contain_text("Oakland")
    page.get_by_role("grid", name="Traces").focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".tl-trace-head")).to_contain_text("Reykjav")


def test_new_traces_come_in_live_but_never_under_the_readers_eyes(show: Show, source: SampleSource) -> None:
    page = show(TraceExplorer(source))
    expect(listed(page)).to_have_count(50)
    source.add(*weather_run(1001, utc_now()))
    expect(listed(page).first).to_contain_text("now")
    page.locator(".tl-list-scroll").evaluate("(node) => { node.scrollTop = 400; }")
    before = page.locator(".tl-list-scroll").evaluate("(node) => node.scrollTop")
    source.add(*weather_run(1002, utc_now()))
    news = page.get_by_role("button", name="1 new trace")
    expect(news).to_be_visible()
    assert page.locator(".tl-list-scroll").evaluate("(node) => node.scrollTop") == before
    news.click()
    expect(listed(page).first).to_contain_text("now")


def test_an_opened_trace_follows_its_run(show: Show, source: SampleSource) -> None:
    row, spans = weather_run(1003, utc_now() - timedelta(seconds=2))
    source.add({**row, "status": "running", "duration_ms": None}, spans[:3])
    page = show(TraceExplorer(source))
    listed(page).first.click()
    expect(page.locator(".tl-wf-row:visible")).to_have_count(3)
    page.wait_for_timeout(100)
    source.changed(row, spans)
    expect(page.locator(".tl-wf-row:visible")).to_have_count(10)
    expect(listed(page).first).not_to_contain_text("running")


def test_empty_views_say_how_to_fill_them(show: Show, source: SampleSource) -> None:
    page = show(TraceExplorer(SampleSource()))
    expect(page.locator(".tl-list")).to_contain_text("lab.run")
    other = show(TraceExplorer(source, search="nothing like this"))
    expect(other.locator(".tl-list")).to_contain_text("No trace matches")
    other.get_by_role("button", name="Show all traces").click()
    expect(listed(other)).to_have_count(50)


def test_on_a_phone_list_and_trace_are_two_screens_without_sideways_scroll(show: Show, source: SampleSource) -> None:
    page = show(TraceExplorer(source), width=390, height=844)
    expect(page.locator(".tl-trace-head")).to_be_hidden()
    listed(page).first.click()
    expect(page.locator(".tl-trace-head")).to_be_visible()
    expect(page.locator(".tl-list")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="Traces", exact=True).click()
    expect(page.locator(".tl-list")).to_be_visible()


KEEPS_PLACES = """() => {
  history.replaceState(null, "", "/traces");
  document.addEventListener("tl-place", ({detail: {id}}) => history.replaceState(history.state, "", id ? `/traces?id=${id}` : "/traces"));
}"""
"""What the served app's page does around the explorer."""


def test_in_the_served_page_back_leads_from_a_trace_to_the_list_and_forward_to_it_again(
    show: Show, source: SampleSource
) -> None:
    explorer = TraceExplorer(source)
    page = show(explorer, width=390, height=844)
    page.evaluate(KEEPS_PLACES)
    listed(page).nth(1).click()
    expect(page.locator(".tl-trace-head")).to_contain_text("Oakland")
    page.go_back()
    expect(page.locator(".tl-list")).to_be_visible()
    expect(page.locator(".tl-trace-head")).to_be_hidden()
    until(lambda: explorer.selection is None)
    page.go_forward()
    expect(page.locator(".tl-trace-head")).to_contain_text("Oakland")
    page.get_by_role("button", name="Traces", exact=True).click()
    expect(page.get_by_role("grid", name="Traces")).to_be_focused()
    assert page.evaluate("location.pathname + location.search") == "/traces"


def test_walking_along_the_list_is_one_step_back(show: Show, source: SampleSource) -> None:
    page = show(TraceExplorer(source))
    page.evaluate(KEEPS_PLACES)
    page.get_by_role("grid", name="Traces").focus()
    for key in ("ArrowDown", "Enter", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    expect(page.locator(".tl-trace-head")).to_contain_text("Reykjav")
    page.go_back()
    expect(page.locator(".tl-trace-head")).to_be_hidden()
    expect(page.locator('.tl-list-row[aria-selected="true"]')).to_have_count(0)


def test_anywhere_else_opening_a_trace_leaves_the_history_alone(show: Show, source: SampleSource) -> None:
    page = show(TraceExplorer(source))
    before = page.evaluate("history.length")
    listed(page).first.click()
    expect(page.locator(".tl-trace-head")).to_contain_text("Berkeley")
    page.evaluate("history.pushState(null, '', '#cell')")
    page.go_back()
    page.wait_for_timeout(200)
    expect(page.locator(".tl-trace-head")).to_contain_text("Berkeley")
    assert page.evaluate("history.length") == before + 1


def test_the_slowest_trace_of_yesterday_and_why_are_three_clicks_away(show: Show) -> None:
    noon = utc_now().astimezone().replace(hour=12, minute=0) - timedelta(days=1)
    source = SampleSource(
        [weather_run(n, noon + timedelta(minutes=n), approval_ms=60_000 * (n == 2)) for n in range(5)]
    )
    source.add(*weather_run(9, utc_now(), approval_ms=90_000))
    page = show(TraceExplorer(source))
    page.get_by_label("Time", exact=True).select_option("yesterday")
    page.get_by_role("button", name="Slowest").click()
    expect(page.locator(".tl-filter-facts")).to_contain_text("5 traces")
    expect(page.get_by_role("columnheader", name="Time")).to_have_attribute("aria-sort", "descending")
    expect(listed(page).first).to_contain_text("Reykjav")
    listed(page).first.click()
    expect(page.locator(".tl-trace-head")).to_contain_text("Reykjav")
    expect(page.locator(".tl-wf-row:visible").first).to_be_visible()


def test_the_runs_in_which_a_tool_failed_are_one_click_away_and_the_address_says_which(
    show: Show, source: SampleSource
) -> None:
    explorer = TraceExplorer(source)
    page = show(explorer)
    page.evaluate(KEEPS_PLACES)
    page.get_by_role("complementary", name="Narrow by").get_by_role("button", name="get_weather").click()
    until(lambda: explorer.filter == '"get_weather" in failed_tools')
    expect(page.locator(".tl-filter-facts")).to_contain_text(f"{len(explorer)} traces")
    page.get_by_role("columnheader", name="Cost").get_by_role("button").click()
    until(lambda: explorer.order == "cost_usd desc")
    address = {"filter": '"get_weather" in failed_tools', "source": "all", "order": "cost_usd desc"}
    until(lambda: page.evaluate("Object.fromEntries(new URL(location.href).searchParams)") == address)
    page.go_back()
    until(lambda: explorer.order == "started_at desc")
    page.go_back()
    until(lambda: explorer.filter == "")


def test_a_column_of_scores_is_there_once_a_trace_has_one(show: Show, source: SampleSource) -> None:
    page = show(TraceExplorer(source))
    expect(page.get_by_role("columnheader", name="Cost")).to_be_visible()
    expect(page.get_by_role("columnheader", name="Score")).to_have_count(0)
    facets = source.facets
    scored = Facet(name="score", values=[FacetValue(value="quality < 0.5", count=1, filter='scores["quality"] < 0.5')])
    source.facets = lambda **words: [*facets(**words), scored]  # type: ignore[method-assign]
    source.add(*weather_run(98, utc_now()))
    expect(page.get_by_role("columnheader", name="Score")).to_be_visible()


def test_what_was_saved_by_name_is_asked_again(show: Show, source: SampleSource) -> None:
    explorer = TraceExplorer(source)
    page = show(explorer)
    page.get_by_role("button", name="Dearest").click()
    page.get_by_role("button", name="Saved").click()
    page.get_by_label("Name of the view").fill("what it costs")
    page.keyboard.press("Enter")
    until(lambda: len(source.saved) == 1)
    page.get_by_role("button", name="Dearest").click()
    until(lambda: explorer.order == "started_at desc")
    page.get_by_role("button", name="Saved").click()
    page.get_by_role("button", name="what it costs", exact=True).click()
    until(lambda: explorer.order == "cost_usd desc")
