"""What is written in Python and again in JavaScript: number formats and the filter language. One table of cases holds each pair together.

Of the filter language the page may know less, and says so; it never answers otherwise than Python does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Route

from timestep_lab.model.clock import parse_iso
from timestep_lab.model.display import ago_text, cost_text, count_text, duration_text, tokens_text
from timestep_lab.model.errors import FilterError
from timestep_lab.store.filters import evaluate
from timestep_lab.store.filters import suggestions as fields
from timestep_lab.ui import assets

TABLE = json.loads(Path(__file__).with_name("written_twice.json").read_text("utf-8"))
IN_PYTHON = {"duration": duration_text, "count": count_text, "tokens": tokens_text, "cost": cost_text, "ago": ago_text}
IN_THE_PAGE = """async ({numbers, traces, filters}) => {
  const {duration, short, tokens, cost, ago} = await import("/shared/format.js");
  const {compile, ...filter} = await import("/offline/filter.js");
  const texts = {duration, count: short, tokens, cost, ago: (s) => ago(0, s * 1000)};
  const answer = (text) => {
    try {
      const passes = compile(text, Object.keys(traces[0]));
      return traces.filter((trace) => passes(trace, () => trace.spans)).map((trace) => trace.trace_id);
    } catch (error) { if (!error.nextStep) throw error; return "refused"; }
  };
  return {
    numbers: Object.fromEntries(Object.entries(numbers).map(([kind, cases]) => [kind, cases.map(([n]) => [n, texts[kind](n)])])),
    filters: filters.map(([text]) => [text, answer(text)]), fields: filter,
  };
}"""


@dataclass(frozen=True)
class Page:
    numbers: Mapping[str, Any]
    filters: list[tuple[str, Any]]
    fields: Mapping[str, Any]


@pytest.fixture(scope="module")
def page(browser: Browser) -> Page:
    def answer(route: Route) -> None:
        path = route.request.url.removeprefix("http://modules.test/")
        if path.endswith(".js"):
            route.fulfill(body=assets.sources()[(assets.STATIC / path).resolve()], content_type="text/javascript")
        else:
            route.fulfill(body="<!doctype html><title>Modules</title>", content_type="text/html")

    opened = browser.new_page()
    opened.route("**/*", answer)
    opened.goto("http://modules.test/")
    return Page(**opened.evaluate(IN_THE_PAGE, TABLE))


@pytest.mark.parametrize("kind", TABLE["numbers"])
def test_a_number_has_the_text_of_the_table(kind: str) -> None:
    assert [[n, IN_PYTHON[kind](n)] for n, _ in TABLE["numbers"][kind]] == TABLE["numbers"][kind]


@pytest.mark.parametrize("kind", TABLE["numbers"])
def test_a_number_has_the_same_text_in_the_browser(page: Page, kind: str) -> None:
    assert page.numbers[kind] == TABLE["numbers"][kind]


def with_times(row: Mapping[str, Any]) -> dict[str, Any]:
    """As a row of the store: its times are moments."""
    read = {
        name: parse_iso(value) if name in ("started_at", "ended_at") and value else value for name, value in row.items()
    }
    return {**read, "spans": [with_times(span) for span in row["spans"]]} if "spans" in row else read


@pytest.mark.parametrize(("text", "expected"), TABLE["filters"])
def test_a_filter_chooses_the_traces_of_the_table(text: str, expected: Any) -> None:
    try:
        chosen: Any = [row["trace_id"] for row in TABLE["traces"] if evaluate(text, with_times(row))]
    except FilterError:
        chosen = "refused"
    assert chosen == expected


def test_a_filter_chooses_the_same_traces_in_an_exported_page(page: Page) -> None:
    assert [list(case) for case in page.filters] == TABLE["filters"]


def test_an_exported_page_knows_the_fields_and_words_of_the_filter_language(page: Page) -> None:
    def plain(value: Any) -> Any:
        return json.loads(json.dumps(value))

    assert page.fields == {
        "TRACE_KINDS": plain(fields.TRACE_FIELDS), "SPAN_KINDS": plain(fields.SPAN_FIELDS),
        "TRACE_ALIASES": plain(fields.TRACE_ALIASES), "SPAN_ALIASES": plain(fields.SPAN_ALIASES),
        "TRACE_CHOICES": plain(fields.TRACE_CHOICES), "SPAN_CHOICES": plain(fields.SPAN_CHOICES),
        "TRACE_WORDS": plain(fields.TRACE_WORDS), "SPAN_WORDS": plain(fields.SPAN_WORDS),
        "TRACE_LISTS": plain(fields.TRACE_LISTS),
    }  # fmt: skip
