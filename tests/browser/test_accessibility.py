"""No serious fault that axe-core knows, in either theme, on any view."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.ui.sample_traces import SampleSource
from timestep_lab.ui.explorer import TraceExplorer
from timestep_lab.ui.trace_view import TraceView

Show = Callable[..., Page]
# A component on a blank test page is not a whole document: landmarks and headings are the host page's.
OPTIONS = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"], "resultTypes": ["violations"],
    "rules": {"region": {"enabled": False}, "page-has-heading-one": {"enabled": False}},
}  # fmt: skip


def serious(page: Page) -> list[str]:
    found = Axe().run(page, options=OPTIONS).response["violations"]
    return [
        f"{fault['id']}: {node['html'][:160]} {node['any'][0]['message'] if node['any'] else ''}"
        for fault in found if fault["impact"] in ("serious", "critical") for node in fault["nodes"][:3]
    ]  # fmt: skip


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_tab_of_a_trace(show: Show, dark: bool) -> None:
    source = SampleSource.with_history(6)
    page = show(TraceView(source, list(source.rows)[3]), dark=dark)
    page.locator(".tl-wf-row:visible:has-text('get_weather')").click()
    page.locator(".tl-details .tl-notice").wait_for()
    page.get_by_role("button", name="Critical path").click()
    assert serious(page) == []
    for tab, sign in (
        ("Graph", ".tl-card"),
        ("Conversation", ".tl-entry"),
        ("Compare", "select:visible"),
        ("JSON", ".tl-json"),
    ):
        page.get_by_role("tab", name=tab).click()
        page.locator(sign).first.wait_for()
        if tab == "Compare":
            page.get_by_label("Compare with").select_option(next(iter(source.rows)))
            page.locator(".tl-divergence").wait_for()
        assert serious(page) == [], tab


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_explorer_with_suggestions_and_an_error(show: Show, dark: bool) -> None:
    page = show(TraceExplorer(SampleSource.with_history(12)), dark=dark)
    page.locator(".tl-list-row").first.wait_for()
    box = page.get_by_role("combobox", name="Filter")
    box.fill("mod")
    page.locator(".tl-choices li").first.wait_for()
    assert serious(page) == []
    box.fill("modle == 3")
    box.press("Enter")
    page.get_by_role("alert").filter(has_text="modle").wait_for()
    page.get_by_role("button", name="SQL", exact=True).click()
    assert serious(page) == []
