"""Whatever a span holds is shown, and does nothing: in the widget, in the export, and in the static copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from tests.ui.hostile import hostile_source
from timestep_lab.ui.explorer import TraceExplorer
from timestep_lab.ui.html_export import export_html
from timestep_lab.ui.trace_view import TraceView

Show = Callable[..., Page]
TABS = ("Graph", "Conversation", "Compare", "JSON", "Waterfall")


def visit(page: Page, tabs: Sequence[str] = TABS) -> None:
    """Open every tab and the details of every step."""
    for tab in tabs:
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(150)
    for kind in ("agent", "generation", "tool", "handoff"):
        page.locator(f".tl-wf-row:visible:has(.tl-wf-kind.tl-kind-{kind})").first.click()
        page.wait_for_timeout(150)
        page.locator(".tl-details").evaluate(
            "(node) => node.querySelectorAll('details').forEach((d) => { d.open = true; })"
        )
    page.wait_for_timeout(100)


def assert_harmless(page: Page) -> None:
    assert page.evaluate("window.hacked") is None
    for element in (
        "img",
        "iframe",
        "object",
        "form[action]",
        "svg[onload]",
        "[onerror]",
        "[onmouseover]",
        'a[href^="javascript"]',
    ):
        assert page.locator(f"main {element}").count() == 0, element


def test_the_trace_view_shows_hostile_contents_harmlessly(show: Show) -> None:
    source = hostile_source()
    page = show(TraceView(source, next(iter(source.rows))))
    visit(page)
    assert_harmless(page)
    expect(page.locator(".tl-trace-head")).to_contain_text("<img src=x onerror=")


def test_the_explorer_shows_hostile_contents_harmlessly(show: Show) -> None:
    page = show(TraceExplorer(hostile_source()))
    page.locator(".tl-list-row").first.click()
    page.locator(".tl-wf-row").first.wait_for()
    assert_harmless(page)


def test_a_megabyte_is_shown_in_part_and_whole_when_asked(show: Show) -> None:
    source = hostile_source()
    page = show(TraceView(source, next(iter(source.rows))))
    page.locator(".tl-wf-row:has(.tl-wf-kind.tl-kind-tool)").first.click()
    more = page.locator(".tl-details .tl-more", has_text="Show all (1.0 MB)")
    more.click()
    assert page.locator(".tl-details .tl-plain").last.evaluate("(node) => node.textContent.length") == 1_000_000


def test_an_export_opens_from_a_file_and_shows_hostile_contents_harmlessly(pages: Any, tmp_path: Path) -> None:
    path = export_html(hostile_source(), tmp_path / "run.html")
    page = pages.open(path.as_uri())
    page.wait_for_selector(".tl-root[data-tl-state=ready]")
    assert page.get_by_role("tab", name="Compare").count() == 0, "a copy has nothing to compare with"
    visit(page, [tab for tab in TABS if tab != "Compare"])
    assert_harmless(page)


def test_the_static_copy_is_readable_and_harmless_without_javascript(pages: Any, tmp_path: Path) -> None:
    path = export_html(hostile_source(), tmp_path / "run.html")
    page = pages.open(path.as_uri(), java_script_enabled=False)
    expect(page.locator("noscript table")).to_be_visible()
    expect(page.locator("noscript table")).to_contain_text("<img src=x onerror=")
