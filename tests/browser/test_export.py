"""One .html file that opens by a double click."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.ui.sample_traces import SampleSource
from timestep_lab.model.errors import UsageError
from timestep_lab.service.traces import TraceQuery
from timestep_lab.store.filters import evaluate
from timestep_lab.ui.html_export import export_html

SPAN_FILTERS = (
    'any(s.kind == "tool" and s.status == "error" for s in spans)',
    'all(s.status != "error" for s in spans if s.kind == "tool") and status in ("completed", "running")',
    'any(s.kind == "generation" and s.parent.agent == "Weather Assistant" and any(c.kind == "tool" for c in s.parent.children) for s in spans)'
    ' and not "kyoto" in input.lower()',
    'any("Kyoto" in s.input and s.ttft_ms is None and 1 < s.duration_ms < 1e9 for s in spans) or input.startswith("Compare")',
)


def whole(source: SampleSource, trace_id: str) -> Any:
    return source.payloads(trace_id, source.columns(trace_id)["span_id"])


def test_an_exported_explorer_filters_searches_and_opens_traces_from_a_file(pages: Any, tmp_path: Path) -> None:
    source = SampleSource.with_history(30)
    page = pages.open(export_html(source, tmp_path / "traces.html").as_uri())
    rows = page.locator(".tl-list-row")
    expect(rows).to_have_count(30)
    box = page.get_by_role("combobox", name="Filter")
    box.fill('status == "failed" and (cost > 0.001 or model == "ollama/gpt-oss:20b")')
    box.press("Enter")
    expect(rows).to_have_count(4)
    rows.first.click()
    page.locator(".tl-wf-row:visible:has-text('get_weather')").click()
    expect(page.locator(".tl-details")).to_contain_text("ConnectTimeout")
    for text in SPAN_FILTERS:
        box.fill(text)
        box.press("Enter")
        expected = sum(evaluate(text, {**row, "spans": whole(source, id)}) for id, row in source.rows.items())
        assert 0 < expected < 30
        expect(rows).to_have_count(expected)
    box.fill("any(s.x == 1 for s in spans)")
    box.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="In the lab, every filter works")).to_be_visible()
    box.fill("")
    box.press("Enter")
    page.get_by_label("Find words in inputs and outputs").fill("kyoto")
    expect(rows.first).to_contain_text("Kyoto")


def test_one_exported_trace_is_a_page_of_that_trace(pages: Any, tmp_path: Path) -> None:
    source = SampleSource.with_history(3)
    page = pages.open(export_html(source, tmp_path / "run.html", trace_ids=[next(iter(source.rows))]).as_uri())
    expect(page.locator(".tl-trace-head")).to_contain_text("Berkeley")
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    page.get_by_role("tab", name="Conversation").click()
    expect(page.locator(".tl-conversation")).to_contain_text("14 °C with fog")


def test_nothing_to_export_is_said_and_no_file_is_left(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to export"):
        export_html(SampleSource.with_history(3), tmp_path / "x.html", query=TraceQuery(search="no such words"))
    assert list(tmp_path.iterdir()) == []
