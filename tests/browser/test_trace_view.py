"""One trace in the browser: what a reader sees, clicks and types."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.ui.sample_traces import Recorder, SampleSource, big_trace, weather_run
from timestep_lab.model.clock import utc_now
from timestep_lab.ui.trace_view import TraceView

Show = Callable[..., Page]


@pytest.fixture(scope="module")
def source() -> SampleSource:
    return SampleSource.with_history(12)


@pytest.fixture
def view(source: SampleSource) -> TraceView:
    return TraceView(source, next(iter(source.rows)))


def rows(page: Page) -> Any:
    return page.locator(".tl-wf-row:visible")


def label(page: Page) -> Any:
    return page.locator('.tl-wf-row[aria-selected="true"] .tl-wf-label')


def test_the_first_look_answers_what_who_how_long_and_how_much(show: Show, view: TraceView) -> None:
    page = show(view)
    head = page.locator(".tl-trace-head")
    for fact in (
        "What's the weather in Berkeley",
        "done",
        "Personal Assistant",
        "Weather Assistant",
        "3 turns",
        "33.5 s",
        "$0.0034",
    ):
        expect(head).to_contain_text(fact)
    expect(rows(page)).to_have_count(10)
    expect(rows(page).nth(0)).to_contain_text("Personal Assistant")


def test_the_row_of_the_whole_trace_says_what_the_header_says_and_its_own_on_hover(show: Show) -> None:
    """A run begins before its first step: what passed until then is the trace's, and the first row's."""
    trace, spans = weather_run(1, utc_now() - timedelta(minutes=5))
    whole = {**spans[0], "span_id": "f" * 16, "kind": "task", "name": "Desk", "ended_at": trace["ended_at"]}
    below = [{**span, "parent_id": span["parent_id"] or whole["span_id"]} for span in spans]
    early = {"started_at": trace["started_at"] - timedelta(seconds=2), "duration_ms": trace["duration_ms"] + 2000}
    source = SampleSource([({**trace, **early}, [whole, *below])])
    page = show(TraceView(source, trace["trace_id"]))
    head = page.locator(".tl-trace-head")
    took = head.locator(".tl-figure").filter(has_text="Duration").locator("strong").inner_text()
    expect(rows(page).nth(0)).to_contain_text(took)
    used = head.locator(".tl-figure").filter(has_text="Tokens").locator("strong").inner_text().removesuffix(" tok")
    expect(rows(page).nth(0)).to_contain_text(used)
    time_cell = rows(page).nth(0).locator(".tl-wf-number").first
    time_cell.hover()
    expect(time_cell).to_have_attribute("title", re.compile(r"The whole trace, from its start\. Itself: .* long"))


def test_finished_steps_without_a_known_end_show_no_duration(show: Show) -> None:
    trace, spans = weather_run(1, utc_now() - timedelta(minutes=5))
    unknown = [{**span, "ended_at": None, "duration_ms": None} for span in spans]
    page = show(TraceView(SampleSource([({**trace, "duration_ms": None}, unknown)]), trace["trace_id"]))
    leaf = rows(page).filter(has_text="get_weather").last
    expect(leaf).to_be_visible()
    expect(leaf.locator(".tl-wf-number").first).to_have_text("")
    expect(leaf.locator(".tl-is-pending")).to_have_count(0)
    expect(page.locator(".tl-figure").filter(has_text="Duration").locator("strong")).to_have_text("unknown")


def test_a_long_wait_is_folded_and_says_how_long_it_was_and_for_what(show: Show, view: TraceView) -> None:
    page = show(view)
    expect(page.locator(".tl-fold-label")).to_have_text("waited 31.0 s for approval")
    expect(page.locator(".tl-fold-label")).to_have_attribute("title", "31.0 s until get_weather was approved")
    tool = page.locator(".tl-wf-row:has-text('get_weather') .tl-wf-bar")
    folded = tool.bounding_box()
    page.get_by_role("button", name="Fold idle time").click()
    page.wait_for_timeout(100)
    assert tool.bounding_box()["width"] < folded["width"] / 5


def test_a_row_opens_its_contents(show: Show, view: TraceView) -> None:
    page = show(view)
    page.locator(".tl-wf-row:visible:has-text('get_weather')").click()
    details = page.locator(".tl-details")
    expect(details).to_contain_text("location")
    expect(details).to_contain_text("temperature_c")
    page.locator(".tl-wf-row:has-text('openai/gpt-4.1')").last.click()
    expect(details).to_contain_text("To first token")
    expect(details.locator("strong")).to_contain_text("14 °C with fog")


def test_the_tree_is_walked_closed_and_opened_by_keyboard(show: Show, view: TraceView) -> None:
    page = show(view)
    page.get_by_role("treegrid").focus()
    page.keyboard.press("ArrowDown")
    expect(label(page)).to_have_text("Personal Assistant")
    page.keyboard.press("ArrowLeft")
    expect(rows(page)).to_have_count(7)
    page.keyboard.press("ArrowRight")
    expect(rows(page)).to_have_count(10)
    page.keyboard.press("ArrowRight")
    expect(label(page)).to_have_text("turn 1")
    page.keyboard.press("End")
    expect(label(page)).to_have_text("openai/gpt-4.1")
    page.keyboard.press("Enter")
    expect(page.locator(".tl-details")).to_be_focused()


def test_zooming_keeps_the_place_under_the_pointer_and_zero_shows_all(show: Show, view: TraceView) -> None:
    page = show(view)
    bar = page.locator(".tl-wf-row:has-text('get_weather') .tl-wf-bar")
    box = bar.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 5)
    page.keyboard.down("Control")
    for _ in range(4):
        page.mouse.wheel(0, -40)
    page.keyboard.up("Control")
    page.wait_for_timeout(100)
    zoomed = bar.bounding_box()
    assert zoomed["width"] > 2 * box["width"]
    assert abs(zoomed["x"] + zoomed["width"] / 2 - box["x"] - box["width"] / 2) < 6
    page.get_by_role("treegrid").focus()
    page.keyboard.press("0")
    page.wait_for_timeout(100)
    assert abs(bar.bounding_box()["width"] - box["width"]) < 1


def test_search_finds_names_and_contents_and_opens_what_hides_them(show: Show, view: TraceView) -> None:
    page = show(view)
    page.get_by_role("button", name="Close or open all branches").click()
    expect(rows(page)).to_have_count(2)
    field = page.get_by_label("Find in this trace")
    field.fill("umbrella at home")
    expect(page.locator(".tl-wf-tools [role=status]")).to_have_text("1 found")
    field.press("Enter")
    expect(label(page)).to_have_text("openai/gpt-4.1")
    expect(page.locator(".tl-wf-tools [role=status]")).to_have_text("1 of 1")


def test_the_critical_path_is_marked(show: Show, view: TraceView) -> None:
    page = show(view)
    page.get_by_role("button", name="Critical path").click()
    expect(page.locator(".tl-wf-path:visible")).to_have_count(10)
    parallel = TraceView(view.source, list(view.source.rows)[4])  # type: ignore[attr-defined]
    other = show(parallel)
    other.get_by_role("button", name="Critical path").click()
    marked = other.locator(".tl-wf-row:has(.tl-wf-path:not([hidden])) .tl-wf-label")
    expect(marked.filter(has_text="Researcher")).to_have_count(1)


def test_the_name_column_is_dragged_and_moved_by_arrow_keys(show: Show, view: TraceView) -> None:
    page = show(view)
    divider = page.get_by_role("separator")
    before = page.locator(".tl-wf-head > .tl-wf-name").bounding_box()["width"]
    box = divider.bounding_box()
    page.mouse.move(box["x"] + 4, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + 84, box["y"] + 10)
    page.mouse.up()
    assert page.locator(".tl-wf-head > .tl-wf-name").bounding_box()["width"] == pytest.approx(before + 80, abs=2)
    divider.focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator(".tl-wf-head > .tl-wf-name").bounding_box()["width"] == pytest.approx(before + 64, abs=2)


def test_the_graph_shows_ways_travelled_and_ways_only_declared(show: Show, view: TraceView) -> None:
    page = show(view)
    page.get_by_role("tab", name="Graph").click()
    expect(page.locator(".tl-card")).to_have_count(3)
    expect(page.locator(".tl-edge-travelled.tl-edge")).to_have_count(1)
    expect(page.locator(".tl-edge-declared.tl-edge")).to_have_count(2)
    expect(page.get_by_role("button", name="Calendar Assistant, not in this trace")).to_be_visible()


def test_the_play_head_drives_graph_waterfall_and_conversation(show: Show, view: TraceView) -> None:
    page = show(view)
    page.get_by_role("tab", name="Graph").click()
    page.get_by_role("button", name="Play the run").click()
    slider = page.get_by_role("slider", name="Playback position")
    slider.fill("100")
    expect(page.locator(".tl-card.tl-is-active")).to_have_text("Personal Assistant1 ×659 ms$0.0020")
    slider.fill("900")
    expect(page.locator(".tl-card.tl-is-active")).to_contain_text("Weather Assistant")
    page.get_by_role("tab", name="Conversation").click()
    slider.fill("300")
    expect(page.locator(".tl-entry.tl-is-later")).not_to_have_count(0)
    page.get_by_role("tab", name="Waterfall").click()
    expect(page.locator(".tl-lines em")).to_have_count(1)


def test_the_conversation_reads_in_order(show: Show, view: TraceView) -> None:
    page = show(view)
    page.get_by_role("tab", name="Conversation").click()
    expect(page.locator(".tl-entry").last).to_contain_text("14 °C")
    texts = page.locator(".tl-entry").all_inner_texts()
    order = [
        "Instructions",
        "umbrella?",
        "handed off from Personal Assistant to Weather Assistant",
        'get_weather(location="Berkeley")',
        "14 °C",
    ]
    expect(page.locator(".tl-entry-tool")).to_contain_text("approved")
    assert [next(i for i, text in enumerate(texts) if part in text) for part in order] == [0, 1, 2, 3, 4]


def test_comparing_shows_the_first_difference_word_by_word(show: Show, source: SampleSource) -> None:
    ids = list(source.rows)
    page = show(TraceView(source, ids[0]))
    page.get_by_role("tab", name="Compare").click()
    page.get_by_label("Compare with").select_option(ids[1])
    expect(page.locator(".tl-divergence")).to_contain_text("First difference: get_weather")
    expect(page.locator(".tl-divergence mark")).to_have_text(["Berkeley", "Oakland"])
    expect(page.locator("tr.tl-is-first")).to_have_count(1)


def test_a_row_stays_in_sight_when_its_details_open_below_it_and_escape_leads_back(show: Show, view: TraceView) -> None:
    page = show(view, width=760, height=640)
    rows(page).last.click()
    expect(page.locator(".tl-details")).to_contain_text("14 °C")
    page.evaluate(IDLE)
    row, around = (page.locator(one).bounding_box() for one in ('.tl-wf-row[aria-selected="true"]', ".tl-wf-scroll"))
    assert around["y"] <= row["y"]
    assert row["y"] + row["height"] <= around["y"] + around["height"] + 1
    page.keyboard.press("Escape")
    expect(page.locator(".tl-details")).to_be_hidden()
    expect(page.get_by_role("treegrid")).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(label(page)).to_have_text("turn 3")
    page.keyboard.press("Enter")
    expect(page.locator(".tl-details")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("treegrid")).to_be_focused()


def test_details_of_a_step_do_not_stand_over_the_comparison(show: Show, view: TraceView) -> None:
    page = show(view)
    rows(page).nth(3).click()
    expect(page.locator(".tl-details")).to_be_visible()
    page.get_by_role("tab", name="Compare").click()
    expect(page.locator(".tl-details")).to_be_hidden()
    page.get_by_role("tab", name="Waterfall").click()
    expect(page.locator(".tl-details")).to_be_visible()


def test_a_failed_trace_says_why_above_its_tabs_and_leads_to_the_step(show: Show, source: SampleSource) -> None:
    page = show(TraceView(source, list(source.rows)[3]))
    why = page.locator(".tl-trace-failure")
    expect(why).to_contain_text("get_weather: ConnectTimeout: the weather server did not answer within 5 s.")
    why.click()
    expect(label(page)).to_have_text("get_weather")


def test_a_conversation_that_a_model_broke_off_ends_with_its_error(show: Show) -> None:
    row, spans = weather_run(1, utc_now())
    refused = {**spans[2], "output": None, "status": "error", "error": "401: the key was refused."}
    around = {**spans[0], "status": "error", "error": "Error in agent run: 401: the key was refused."}
    source = SampleSource([({**row, "status": "failed", "n_errors": 2}, [around, spans[1], refused])])
    page = show(TraceView(source, row["trace_id"]))
    expect(page.locator(".tl-trace-failure")).to_contain_text("openai/gpt-4.1: 401: the key was refused.")
    page.get_by_role("tab", name="Conversation").click()
    expect(page.locator(".tl-entry").last).to_contain_text("openai/gpt-4.1: 401: the key was refused.")
    expect(page.locator(".tl-entry-error")).to_have_count(1)


def test_on_a_phone_all_tabs_are_in_sight_or_fade_out_where_they_go_on(show: Show, view: TraceView) -> None:
    page = show(view, width=390, height=844)
    tabs = page.get_by_role("tablist")
    assert tabs.evaluate("(node) => node.scrollWidth <= node.clientWidth")
    page.set_viewport_size({"width": 300, "height": 844})
    expect(tabs).to_have_class("tl-tabs tl-goes-on")
    tabs.evaluate("(node) => { node.scrollLeft = 1000; }")
    expect(tabs).to_have_class("tl-tabs tl-goes-back")
    page.set_viewport_size({"width": 390, "height": 844})
    rows(page).nth(4).click()
    close = page.get_by_role("button", name="Close the details").bounding_box()
    card = page.locator(".tl-details").bounding_box()
    assert close["x"] + close["width"] <= card["x"] + card["width"] - 8


def test_a_score_given_here_is_a_row_there(show: Show, source: SampleSource) -> None:
    trace_id = list(source.rows)[2]
    page = show(TraceView(source, trace_id))
    page.locator(".tl-trace-head").get_by_role("button", name="Score").click()
    page.get_by_label("Value").fill("0.8")
    page.get_by_label("Note").fill("good answer")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".tl-trace-head .tl-chip")).to_contain_text("0.8")
    [score] = source.scores(trace_id)
    assert (score.target, score.name, score.value, score.note) == ("trace", "quality", 0.8, "good answer")


def test_selection_goes_both_ways(show: Show, view: TraceView) -> None:
    page = show(view)
    tool = view.df().query("kind == 'tool'")["span_id"].iloc[0]
    view.selection = tool
    expect(label(page)).to_have_text("get_weather")
    page.locator(".tl-wf-row").first.click()
    for _ in range(100):
        if view.selection != tool:
            break
        time.sleep(0.02)
    assert view.selection == view.df()["span_id"].iloc[0]


def test_spans_appear_and_grow_while_the_run_goes_on(show: Show) -> None:
    row, spans = weather_run(1, utc_now() - timedelta(seconds=1))
    running = {**row, "status": "running", "duration_ms": None}
    pending = {**spans[0], "status": "pending", "ended_at": None}
    source = SampleSource([(running, [pending])])
    page = show(TraceView(source, row["trace_id"]))
    expect(rows(page)).to_have_count(1)
    time_cell = page.locator(".tl-wf-row .tl-wf-number").first
    before = time_cell.inner_text()
    expect(time_cell).not_to_have_text(before)
    assert before.endswith("…")
    source.changed(running, [pending, {**spans[1], "status": "pending", "ended_at": None}])
    expect(rows(page)).to_have_count(2)
    source.changed(row, spans)
    expect(rows(page)).to_have_count(10)
    expect(page.locator(".tl-trace-head")).to_contain_text("done")


def test_an_update_keeps_what_was_closed_and_chosen(show: Show) -> None:
    row, spans = weather_run(2, utc_now() - timedelta(seconds=30))
    source = SampleSource([({**row, "status": "running"}, spans[:-1])])
    page = show(TraceView(source, row["trace_id"]))
    page.locator(".tl-wf-toggle").first.click()
    expect(page.locator('.tl-wf-row[aria-expanded="false"]')).to_have_count(1)
    page.locator(".tl-wf-row:visible:has-text('get_weather')").click()
    source.changed(row, spans)
    expect(page.locator(".tl-trace-head")).to_contain_text("done")
    expect(rows(page)).to_have_count(7)
    expect(label(page)).to_have_text("get_weather")


def test_parents_in_a_ring_and_very_deep_trees_are_drawn(show: Show) -> None:
    row, spans = weather_run(4, utc_now())
    ring = [{**spans[0], "parent_id": spans[1]["span_id"]}, {**spans[1], "parent_id": spans[0]["span_id"]}]
    rec = Recorder(row["trace_id"], utc_now(), "openai/gpt-4.1", __import__("random").Random(0))
    parent = None
    for depth in range(60):
        parent = rec.open("agent", f"level {depth}", parent, agent="A")
    source = SampleSource([(row, [*ring, *rec.spans])])
    page = show(TraceView(source, row["trace_id"]))
    expect(page.get_by_role("treegrid")).to_have_attribute("aria-rowcount", "63")
    page.get_by_role("treegrid").focus()
    page.keyboard.press("End")
    assert label(page).evaluate("(node) => node.scrollWidth <= node.clientWidth"), "the deepest name is cut"


def test_a_hundred_thousand_spans_are_rows_of_one_screen(show: Show) -> None:
    row, spans = weather_run(5, utc_now())
    source = SampleSource([(row, spans)])
    source.spans_of[row["trace_id"]] = big_trace(100_000)
    page = show(TraceView(source, row["trace_id"]))
    expect(page.get_by_role("treegrid")).to_have_attribute("aria-rowcount", "100001")
    assert page.locator(".tl-wf-row").count() < 60
    page.get_by_role("treegrid").focus()
    page.keyboard.press("End")
    expect(page.locator('.tl-wf-row[aria-selected="true"]')).to_have_attribute("aria-rowindex", "100001")


def test_scrolled_rows_stand_in_the_order_of_the_document_each_where_its_number_says(show: Show) -> None:
    row, spans = weather_run(5, utc_now())
    source = SampleSource([(row, spans)])
    source.spans_of[row["trace_id"]] = big_trace(10_000)
    page = show(TraceView(source, row["trace_id"]))
    rows(page).first.wait_for()
    for top in (48, 140, 90, 4_000, 3_900, 120_000, 2_000, 10**9, 0):
        page.evaluate("(top) => document.querySelector('.tl-wf-scroll').scrollTop = top", top)
        page.evaluate(IDLE)
        numbers, tops = zip(*page.evaluate(PLACES), strict=True)
        assert list(numbers) == list(range(numbers[0], numbers[0] + len(numbers)))
        assert list(tops) == [24 * (number - 2) for number in numbers]
        assert "" not in rows(page).locator(".tl-wf-bars + .tl-wf-number").all_inner_texts()


def test_a_flung_list_shows_names_and_bars_and_its_numbers_when_it_comes_to_rest(show: Show) -> None:
    row, spans = weather_run(5, utc_now())
    source = SampleSource([(row, spans)])
    source.spans_of[row["trace_id"]] = big_trace(10_000)
    page = show(TraceView(source, row["trace_id"]))
    rows(page).first.wait_for()
    for _ in range(10):  # On a busy machine the list may have come to rest between two of the jumps.
        numbers_shown, names, waited_ms = page.evaluate(FLING)
        if max(waited_ms[1:]) < RESTS_AFTER_MS:
            break
        page.evaluate(IDLE)
    assert numbers_shown == [True, False, False]
    assert len(set(names)) == 3
    expect(rows(page).first.locator(".tl-wf-number").first).to_have_css("visibility", "visible")
    expect(rows(page).first).to_have_attribute("aria-rowindex", "4999")


RESTS_AFTER_MS = 60
IDLE = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 120))))"
PLACES = """() => [...document.querySelectorAll(".tl-wf-row:not([hidden])")].map((row) =>
  [Number(row.getAttribute("aria-rowindex")), parseFloat(row.style.top)])"""
FLING = """async () => {
  const shown = [], names = [], waited = [], box = document.querySelector(".tl-wf-scroll"), row = document.querySelector(".tl-wf-row");
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  for (const index of [1000, 3000, 4999]) {
    const began = performance.now();
    box.scrollTop = index * 24;
    await frame(); await frame();
    waited.push(performance.now() - began);
    shown.push(getComputedStyle(row.querySelector(".tl-wf-number")).visibility === "visible");
    names.push(row.querySelector(".tl-wf-label").innerText);
  }
  return [shown, names, waited]; }"""
