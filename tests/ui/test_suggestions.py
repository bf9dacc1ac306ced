"""Typeahead of the filter. `|` marks the cursor; what is suggested is put in its place."""

from __future__ import annotations

import pytest

from timestep_lab.store.filters.suggestions import suggest

FACETS = {"model": [("openai/gpt-4.1", 12), ("ollama/qwen3", 3)], "status": [("failed", 2)]}


def taken(marked: str) -> list[str]:
    """The filter after taking each suggestion."""
    text, cursor = marked.replace("|", ""), marked.index("|")
    return [text[: s.start] + s.text + text[s.end :] for s in suggest(text, cursor, FACETS)]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("mod|", "model"),
        ("cos|", "cost_usd"),
        ("model == |", 'model == "openai/gpt-4.1"'),
        ('model == "q|"', 'model == "ollama/qwen3"'),
        ('model == "gpt|', 'model == "openai/gpt-4.1"'),
        ("status != |", 'status != "needs_approval"'),
        ("model |", "model == "),
        ("cost |", "cost > "),
        ("cost > 0.01 |", "cost > 0.01 and "),
        ("any(s.ki|", "any(s.kind"),
        ('any(s.kind == "to|', 'any(s.kind == "tool"'),
        ('status == "failed" and |', 'status == "failed" and model'),
    ],
)
def test_taking_a_suggestion_continues_the_filter(typed: str, expected: str) -> None:
    assert expected in taken(typed)


def test_values_say_how_many_traces_have_them() -> None:
    [first, *_] = suggest("model == ", 9, FACETS)
    assert first.detail == "12 traces"


def test_an_empty_filter_offers_fields_and_ready_conditions() -> None:
    texts = taken("|")
    assert "model" in texts
    assert any(text.startswith("any(") for text in texts)
