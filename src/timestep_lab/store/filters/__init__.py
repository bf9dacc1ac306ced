"""The filter language of traces: a Python-like condition over a trace, its spans, and their parents and children.

    model == "gpt-4.1" and cost > 0.01
    "berkeley" in input or "oakland" in input.lower()
    any(s.kind == "tool" and s.status == "error" for s in spans)
    started_at > ago("24h") and 1000 < duration_ms < 5000
    len([s for s in spans if s.kind == "tool"]) > 3 and status in ("failed", "interrupted")
    any(s.kind == "tool" and s.parent.agent == "Weather Assistant" for s in spans)
    all(any(c.kind == "generation" for c in s.children) for s in spans if s.kind == "turn")
    any(s.attributes["gen_ai.tool.name"] == "think" for s in spans) and scores["quality"] > 0.5

Expressions are parsed with `ast` and never evaluated; SQL is built from known names and bound parameters only. Comparisons follow Python:
they are case-sensitive, can be chained, and `==`, `<` and `>` with a missing value are false.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from timestep_lab.store.base import Dialect
from timestep_lab.store.filters.evaluate import holds
from timestep_lab.store.filters.read import read_filter, started_since
from timestep_lab.store.filters.sql import CompiledFilter, to_sql

__all__ = ["CompiledFilter", "compile_filter", "evaluate", "read_filter", "started_since"]


def compile_filter(text: str, dialect: Dialect, *, first_param: int = 1, now: datetime | None = None) -> CompiledFilter:
    """Compiles a filter to a SQL condition for a query over `traces t`, with parameters numbered from `first_param`. Raises
    `FilterError`."""
    return to_sql(read_filter(text, now=now), dialect, first_param)


def evaluate(text: str, trace: Mapping[str, object], *, now: datetime | None = None) -> bool:
    """Returns whether one trace (see `evaluate.py` for its form) matches the filter. Raises `FilterError`."""
    return holds(read_filter(text, now=now), trace)
