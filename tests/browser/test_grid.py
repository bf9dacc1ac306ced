"""The comparison matrix in the browser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Pages
from tests.browser.test_accessibility import serious
from tests.ui import sample_grid
from tests.ui.hostile import HOSTILE
from tests.ui.sample_grid import MODELS, cell, running
from tests.ui.sample_traces import SampleSource
from timestep_lab.evals.exports import grid_html
from timestep_lab.evals.grid import Grid
from timestep_lab.evals.results import cut
from timestep_lab.model.comparison import (
    CellDelta,
    CellDone,
    CellStarted,
    ComparisonEnded,
    ComparisonProgress,
    ComparisonStarted,
    GridLike,
    ProgressRow,
    ScoreValue,
)
from timestep_lab.ui.grid import GridView
from timestep_lab.ui.hosts import aligned

Show = Callable[..., Page]


def view_of(grid: GridLike, **options: Any) -> GridView:
    return GridView(SampleSource.with_history(2), grid, static_copy=grid_html, **options)


def as_given(page: Page) -> Page:
    """What has ended is shown with its failing cases first."""
    page.get_by_label("Order").select_option("as given")
    return page


def cells(page: Page) -> Any:
    return page.locator(".tl-mx-cell")


def active(page: Page) -> tuple[str | None, str | None]:
    on = page.locator(".tl-mx-cell.tl-on")
    return on.get_attribute("data-at"), on.get_attribute("data-column")


def test_the_first_question_is_answered_without_a_click(show: Show) -> None:
    page = show(view_of(sample_grid.grid(cases=60)))
    expect(page.locator(".tl-verdict")).to_contain_text("openai/gpt-4.1 beats anthropic/claude-sonnet-4 by")
    expect(page.get_by_role("img", name="points")).to_have_attribute(
        "aria-label", "−28.8 points (−41.4 to −18.8), settled"
    )
    expect(page.get_by_role("img", name="openai/gpt-4.1: 0.85 at $0.0004")).to_be_visible()
    expect(page.locator(".tl-conclusion")).to_have_text("openai/gpt-4.1 wins: anthropic/claude-sonnet-4 is worse.")
    second = page.locator(".tl-rank tbody tr").nth(1)
    for fact in (
        "anthropic/claude-sonnet-4",
        "0.567",
        "0.44–0.68",
        "$0.0480",
        "▼ worse +$0.0004 a case",
        "1.67 s",
        "▼ worse 1.15 ×",
    ):
        expect(second).to_contain_text(fact)


def test_candidates_are_ranked_and_every_number_is_one_click_away(show: Show) -> None:
    page = show(view_of(sample_grid.grid(MODELS[:3], cases=60)))
    ranked = page.locator(".tl-rank tbody th").all_inner_texts()
    assert [words.split("\n")[-1] for words in ranked] == [
        "ollama/gpt-oss:20b",
        "openai/gpt-4.1",
        "anthropic/claude-sonnet-4",
    ]
    expect(page.locator(".tl-conclusion")).to_have_text(
        "No winner: openai/gpt-4.1 and ollama/gpt-oss:20b tie; anthropic/claude-sonnet-4 is worse."
    )
    first_token = page.locator(".tl-sum-all tbody tr").nth(1).get_by_text("110 ms", exact=True)
    expect(first_token).to_be_hidden()
    page.get_by_text("Every score, first token and tokens").click()
    expect(first_token).to_be_visible()


def test_failing_cases_come_first_with_their_trace_one_key_away(show: Show) -> None:
    grid = sample_grid.grid(cases=40)
    view = view_of(grid)
    trace_id = next(iter(view.source.rows))  # type: ignore[attr-defined]
    grid.cells = tuple(replace(c, trace_id=trace_id) for c in grid.cells)
    page = show(view_of(grid))
    asked = page.locator(".tl-mx-row .tl-mx-case .tl-num")
    assert [text.strip() for text in asked.all_inner_texts()][:4] == [
        "1",
        "4",
        "6",
        "7",
    ]  # as given, 2 and 3 are between
    page.get_by_role("grid").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("t")
    expect(page.locator(".tl-wf-row:visible").first).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("grid")).to_be_focused()
    page.get_by_label("Order").select_option("as given")
    expect(asked.nth(1)).to_have_text("2")


def test_a_comparison_is_cut_into_slices(show: Show) -> None:
    grid = sample_grid.grid(cases=60)
    grid.cases = tuple(replace(c, metadata={"topic": ["coats", "sun"][c.position % 3 > 0]}) for c in grid.cases)
    page = show(view_of(grid, cut=cut))
    expect(page.locator(".tl-slices")).to_be_hidden()
    page.get_by_label("Slices").select_option("topic")
    expect(page.locator(".tl-slices tr").filter(has_text="coats")).to_contain_text(
        "openai/gpt-4.1 better than anthropic/claude-sonnet-4"
    )
    expect(page.locator(".tl-slices tr").filter(has_text="sun")).to_contain_text("not settled")


def test_a_candidate_that_scores_nothing_leaves_the_axis_readable(show: Show) -> None:
    wrong = (ScoreValue(scorer="contains", value=0.0),)
    made = [cell(place, column, scores=wrong, status="done") for place in range(6) for column in range(2)]
    page = show(view_of(Grid(sample_grid.record(cases=6), [sample_grid.case(place) for place in range(6)], made)))
    dots = [dot.bounding_box() for dot in page.locator(".tl-quality .tl-dot").all()]
    words = [text.bounding_box() for text in page.locator(".tl-quality text:not(.tl-dot-letter)").all()]
    assert len(dots) == 2
    assert [(dot, word) for dot in dots for word in words if overlap(dot, word)] == []


def overlap(a: Any, b: Any) -> bool:
    return all(a[at] < b[at] + b[size] and b[at] < a[at] + a[size] for at, size in (("x", "width"), ("y", "height")))


@pytest.mark.parametrize(("width", "dark"), [(1190, False), (934, True), (800, False)])
def test_the_comparison_is_a_card_in_which_nothing_is_cut_at_the_widths_of_notebooks(
    show: Show, width: int, dark: bool
) -> None:
    page = show(view_of(sample_grid.grid(cases=60)), width=width, dark=dark)
    for each in page.locator(".tl-sum").all():
        assert each.evaluate("e => e.scrollWidth <= e.clientWidth")
    table, chart = page.locator(".tl-rank").bounding_box(), page.locator(".tl-quality").bounding_box()
    assert not overlap(table, chart)
    assert chart is not None
    assert chart["x"] + chart["width"] <= width
    assert page.locator(".tl-comparison").evaluate("e => getComputedStyle(e).borderTopWidth") == "1px"


def test_names_that_begin_with_the_same_words_are_told_apart_in_a_narrow_cell(show: Show) -> None:
    names = ["Weather Assistant · demo/assistant", "Weather Assistant · demo/echo"]
    page = show(view_of(sample_grid.grid(names, cases=6)), width=934)
    for place in (".tl-rank tbody th .tl-clip", ".tl-mx-name .tl-clip", ".tl-rank thead th"):
        for text in page.locator(place).all():
            assert text.evaluate("e => e.scrollWidth <= e.clientWidth + 1 && e.scrollHeight <= e.clientHeight + 1")


def test_a_long_name_in_the_ranking_takes_as_many_lines_as_it_needs(show: Show) -> None:
    names = [f"Assistant of the {team} team for returns and refunds · demo/assistant" for team in ("first", "second")]
    page = show(view_of(sample_grid.grid(names, cases=6)), width=840)
    for text in page.locator(".tl-rank tbody th .tl-clip").all():
        assert text.evaluate("e => e.scrollHeight <= e.clientHeight + 1")


def test_the_rest_of_a_long_verdict_is_offered_where_its_last_line_ends(show: Show) -> None:
    page = show(view_of(sample_grid.grid(cases=60)), width=800)
    more = page.locator(".tl-verdict-more")
    more.evaluate("e => { e.hidden = false; }")
    button, card = more.bounding_box(), page.locator(".tl-comparison").bounding_box()
    assert button is not None
    assert card is not None
    assert button["x"] > card["x"] + card["width"] / 2


@pytest.mark.parametrize("width", [854, 683])
def test_the_answers_of_three_candidates_stand_beside_each_other_in_a_narrow_cell(show: Show, width: int) -> None:
    """As wide as a notebook is at 1024 px, and at 1280 px enlarged by half. A number is there whole, or not at all."""
    page = show(view_of(sample_grid.grid(MODELS[:3], cases=6)), width=width)
    assert page.locator(".tl-mx").evaluate("e => e.scrollWidth <= e.clientWidth")
    for said in page.locator(".tl-mx-said").all():
        [time, *_] = said.locator("span").all()
        assert time.evaluate("e => e.offsetLeft >= 0 && e.scrollWidth <= e.clientWidth + 1")
        assert said.evaluate("e => e.scrollWidth <= e.clientWidth")


def test_words_are_marked_only_where_two_answers_are_at_least_half_alike(show: Show) -> None:
    page = as_given(show(view_of(sample_grid.grid(cases=60))))
    unlike, alike = cells(page).nth(1), cells(page).nth(3)
    expect(unlike).to_contain_text("bright sun")
    expect(unlike.locator("mark")).to_have_count(0)
    expect(alike.locator("mark")).to_have_text(["the", "one"])


def test_a_cell_says_its_answer_its_scores_with_a_sign_and_what_it_took(show: Show) -> None:
    page = as_given(show(view_of(sample_grid.grid())))
    wrong = cells(page).nth(1)
    for fact in ("In Berkeley there is", "✕", "contains", "0", "580 ms", "270 tok"):
        expect(wrong).to_contain_text(fact)
    assert "a" in cells(page).nth(2).locator("mark").first.inner_text()
    failed = page.locator("[data-at='5'][data-column='0'].tl-mx-cell")
    expect(failed).to_contain_text("No answer within 120 s.")
    expect(failed.get_by_role("img", name="failed")).to_be_visible()


def test_repeats_are_counted_in_one_cell(show: Show) -> None:
    page = show(view_of(sample_grid.grid(cases=4, epochs=3)))
    expect(cells(page).nth(0)).to_contain_text("3/3")
    expect(cells(page).nth(1)).to_contain_text("0/3")


def test_a_cell_opens_to_the_whole_answers_with_their_traces(show: Show) -> None:
    grid = sample_grid.grid()
    view = view_of(grid)
    trace_id = next(iter(view.source.rows))  # type: ignore[attr-defined]
    long = "word " * 2000 + "the end"
    grid.cells = tuple(
        replace(c, trace_id=trace_id, output=long if c.key == ("case0", MODELS[0], 0) else c.output) for c in grid.cells
    )
    page = as_given(show(view_of(grid)))
    cells(page).nth(1).click()
    opened = page.get_by_role("region", name="Opened case")
    expect(opened).to_contain_text("Case 1 of 12")
    expect(opened.get_by_role("article", name=MODELS[1])).to_contain_text("contains: The city is missing.")
    opened.get_by_role("button", name="Show all").click()
    expect(opened).to_contain_text("the end")
    opened.get_by_text("2 steps").first.click()
    expect(opened).to_contain_text('get_weather {"location":"Berkeley"}')
    opened.get_by_role("button", name="Next case").click()
    expect(opened).to_contain_text("Case 2 of 12")
    opened.get_by_role("button", name="Trace").first.click()
    expect(page.locator(".tl-wf-row:visible").first).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".tl-wf-row:visible")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(opened).to_be_hidden()
    assert active(page) == ("1", "1")


def test_everything_is_reached_by_keys(show: Show) -> None:
    page = show(view_of(sample_grid.grid(cases=40)))
    page.get_by_role("grid").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert active(page) == ("1", "1")
    page.keyboard.press("End")
    assert active(page) == ("39", "1")
    expect(page.locator(".tl-mx-cell.tl-on")).to_be_in_viewport()
    described = page.get_by_role("grid").get_attribute("aria-activedescendant")
    assert page.locator(f"#{described}").count() == 1
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Opened case")).to_contain_text("Case 1 of 40")
    page.keyboard.press("Escape")
    page.keyboard.press("f")
    # Every third case of one candidate, every seventh of both, and the one that failed.
    expect(page.locator(".tl-grid-tools")).to_contain_text("19 of 40 cases")
    page.keyboard.press("f")
    page.keyboard.press("d")
    expect(page.locator(".tl-grid-tools")).to_contain_text("13 of 40 cases")
    expect(page.get_by_role("button", name="Differ")).to_have_attribute("aria-pressed", "true")


def test_answers_arrive_without_moving_what_the_reader_looks_at(show: Show) -> None:
    started = running(cases=60)
    view = view_of(started.empty, stop=lambda: None)
    page = show(view, height=1000)
    view.apply(ComparisonStarted(comparison=started.record, cases=started.cases))
    grid = page.get_by_role("grid")
    expect(grid).to_have_attribute("aria-rowcount", "61")
    grid.evaluate("(element) => { element.scrollTop = 1500; }")
    row = page.locator("[data-at='16'].tl-mx-cell").first
    expect(row).to_contain_text("waiting")
    before = row.bounding_box()
    view.apply(CellStarted(case_id="case16", candidate=MODELS[0], epoch=0))
    for word in ("In", " Tromsø", " there", " is", " fog."):
        view.apply(CellDelta(case_id="case16", candidate=MODELS[0], epoch=0, delta=word))
    expect(row).to_have_text("In Tromsø there is fog.")
    for place in range(60):
        view.apply(CellDone(cell=cell(place, place % 2)))
    view.apply(ComparisonProgress(progress=ProgressRow(total=120, done=60, errors=0, cached=3, calls=57, spent_usd=0.02, expected_usd=0.04)))  # fmt: skip
    expect(row).to_contain_text("contains")
    progress = page.locator(".tl-prog")
    for fact in ("60 of 120 answers", "57 calls", "3 cache hits", "$0.0200 spent", "$0.0400 expected"):
        expect(progress).to_contain_text(fact)
    assert grid.evaluate("(element) => element.scrollTop") == 1500
    assert row.bounding_box() == before
    assert page.locator(".tl-mx-row").count() < 20


def test_the_end_brings_the_verdict_and_leaves_the_matrix_where_it_is(show: Show) -> None:
    started = running(cases=12)
    view = view_of(started.empty, stop=lambda: None)
    for place in range(12):
        for column in range(2):
            view.apply(CellDone(cell=cell(place, column)))
    view.apply(ComparisonProgress(progress=ProgressRow(total=24, done=24, calls=24)))
    page = show(view, height=1100)
    expect(page.locator(".tl-verdict")).to_have_text(
        "Still running. 1 of 12 calls of openai/gpt-4.1 failed: No answer within 120 s."
        " 2 of 24 answers from the cache, with their original timings."
    )
    before = page.get_by_role("grid").bounding_box()
    whole = sample_grid.grid()
    view.apply(ComparisonEnded(comparison=whole.record, candidates=tuple(whole.candidate_rows), pairs=tuple(whole.pair_rows), verdict=whole.verdict))  # fmt: skip
    expect(page.locator(".tl-verdict")).to_contain_text("is ahead of")
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    expect(page.get_by_role("progressbar")).to_be_hidden()
    assert page.get_by_role("grid").bounding_box() == before


def test_stop_asks_once_and_an_ended_comparison_has_no_stop(show: Show) -> None:
    asked: list[str] = []
    started = running()
    view = view_of(started.empty, stop=lambda: asked.append("stop"))
    page = show(view)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Stopping")).to_be_disabled()
    view.apply(
        ComparisonEnded(comparison=replace(started.record, status="cancelled"), candidates=(), pairs=(), verdict="")
    )
    expect(page.locator(".tl-verdict")).to_have_text("Stopped early. No answers yet.")
    assert asked == ["stop"]
    expect(page.locator(".tl-prog")).to_be_hidden()


def test_what_comes_while_a_filter_is_on_waits_until_asked_for(show: Show) -> None:
    started = running(cases=12)
    view = view_of(started.empty)
    page = show(view)
    view.apply(CellDone(cell=cell(0, 1)))
    expect(cells(page).nth(1)).to_contain_text("contains")
    page.get_by_role("button", name="Failures").click()
    expect(page.locator(".tl-mx-row")).to_have_count(1)
    view.apply(CellDone(cell=cell(3, 1)))
    view.apply(ComparisonProgress(progress=ProgressRow(total=24, done=2)))
    expect(page.get_by_role("button", name="Check for updates")).to_be_visible()
    expect(page.locator(".tl-mx-row")).to_have_count(1)
    page.get_by_role("button", name="Check for updates").click()
    expect(page.locator(".tl-mx-row")).to_have_count(2)


def test_six_thousand_cells_are_there_in_a_second_and_scroll_smoothly(show: Show) -> None:
    view = view_of(_large())
    page = show(view)
    expect(page.get_by_role("grid")).to_have_attribute("aria-rowcount", "1001")
    first = page.evaluate(
        "() => new Promise((done) => { const look = () => document.querySelector('.tl-mx-cell') ? done(performance.now() - window.mounted) : requestAnimationFrame(look); look(); })"
    )
    assert first < 10_000
    # The work of one frame is what counts: frames themselves are late on a busy machine without a graphics card.
    work = page.get_by_role("grid").evaluate(
        """async (grid) => {
          const costs = [];
          for (let k = 0; k < 60; k += 1) {
            grid.scrollTop += 340;
            await new Promise(requestAnimationFrame);
            const began = performance.now();
            grid.getBoundingClientRect();
            costs.push(performance.now() - began);
          }
          return costs.sort((a, b) => a - b)[30];
        }"""
    )
    assert work < 16.7
    assert page.locator(".tl-mx-row").count() < 20
    expect(page.locator(".tl-mx-row").last).to_be_attached()


def _large() -> GridLike:
    from timestep_lab.ui.grid import GridState

    whole = sample_grid.grid(MODELS, cases=1)
    state = GridState(
        record=sample_grid.record(MODELS, cases=1000), candidate_rows=tuple(whole.candidate_rows), verdict="A verdict."
    )
    state._begin([sample_grid.case(k) for k in range(1000)], [cell(k, c, candidates=MODELS) for k in range(1000) for c in range(6)])  # fmt: skip
    return state


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_no_serious_fault_of_accessibility(show: Show, dark: bool) -> None:
    page = show(view_of(sample_grid.grid(MODELS[:3], epochs=2)), dark=dark)
    assert serious(page) == []
    cells(page).nth(4).click()
    page.get_by_role("region", name="Opened case").get_by_role("article").first.wait_for()
    assert serious(page) == []


def test_a_phone_shows_the_verdict_and_the_opened_case_as_a_screen_of_its_own(show: Show) -> None:
    page = show(view_of(sample_grid.grid()), width=390, height=844)
    expect(page.get_by_role("img", name="points")).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    cells(page).first.click()
    expect(page.get_by_role("region", name="Opened case")).to_be_visible()
    expect(page.get_by_role("grid")).to_be_hidden()
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_role("grid")).to_be_visible()


def test_hostile_contents_are_only_text(show: Show) -> None:
    text = "".join(str(value) for name, value in HOSTILE.items() if name not in ("a megabyte", "not a number"))
    candidates = (text, "other")
    grid = Grid(
        sample_grid.record(candidates, cases=1),
        [sample_grid.case(0, input=text, expected=HOSTILE["not a number"])],
        [
            cell(0, 0, candidates=candidates, output=text + HOSTILE["a megabyte"], scores=(ScoreValue(scorer=text, value=0.0, note=text),)),
            cell(0, 1, candidates=candidates, status="error", output=None, error=text, error_type=text, steps=({"type": "tool", "name": text, "arguments": HOSTILE},)),
        ],
    )  # fmt: skip
    page = show(view_of(grid))
    cells(page).first.click()
    opened = page.get_by_role("region", name="Opened case")
    expect(opened).to_contain_text("<img src=x onerror=")
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script, main a").count() == 0


def test_a_missed_change_is_made_up_for(show: Show) -> None:
    started = running()
    view = view_of(started.empty)
    page = show(view)
    page.evaluate("window.dropBatches = 1")
    view.apply(CellDone(cell=cell(0, 0)))
    page.wait_for_function("window.dropped === 1")
    view.apply(CellDone(cell=cell(1, 0)))
    expect(cells(page).nth(0)).to_contain_text("Berkeley")
    expect(cells(page).nth(2)).to_contain_text("Oakland")


def test_candidates_are_held_against_the_one_that_is_chosen(show: Show) -> None:
    page = show(view_of(sample_grid.grid(MODELS[:3], cases=40)))
    heading = page.locator(".tl-rank thead")
    expect(heading).to_contain_text("Difference to openai/gpt-4.1")
    page.get_by_label("Compare with").select_option("1")
    expect(heading).to_contain_text("Difference to anthropic/claude-sonnet-4")
    assert page.locator(".tl-mx-row").nth(1).locator(".tl-mx-cell").nth(1).locator("mark").count() == 0
    assert page.locator(".tl-mx-row").nth(1).locator(".tl-mx-cell").nth(0).locator("mark").count() > 0


def test_one_candidate_is_shown_without_comparing(show: Show) -> None:
    page = show(view_of(sample_grid.grid(MODELS[:1])))
    expect(page.locator(".tl-verdict")).to_contain_text("One candidate: nothing to compare with.")
    expect(page.get_by_role("button", name="Differ")).to_be_disabled()
    expect(page.get_by_label("Compare with")).to_be_hidden()


def test_candidate_rows_of_a_running_comparison_are_means_so_far(show: Show) -> None:
    started = running(cases=12)
    view = view_of(started.empty)
    for place in (0, 1):
        view.apply(CellDone(cell=cell(place, 1)))
    page = show(view)
    row = page.locator(".tl-rank tbody tr").nth(1)
    expect(row).to_contain_text("0.500")
    expect(row).to_contain_text("at the end")


def test_the_static_copy_keeps_its_intervals_drawn_and_its_numbers_whole_where_it_is_narrow(pages: Pages) -> None:
    """Jupyter's style sheet lets pictures shrink to nothing in a table's column."""
    page = pages.open("about:blank", width=700)
    jupyter = "svg{max-width:100%;height:auto}table{table-layout:auto}td,th{white-space:normal}"
    page.set_content(f"<style>{jupyter}</style>{aligned(grid_html(sample_grid.grid(MODELS[:3], cases=6)))}")
    drawn = page.locator("svg")
    assert drawn.count() == 3
    assert all(
        each.evaluate("e => e.getBoundingClientRect().width >= 130 && e.viewBox.baseVal.width > 0")
        for each in drawn.all()
    )
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
