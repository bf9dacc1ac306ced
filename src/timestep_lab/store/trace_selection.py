"""Selection and order of traces, as parts of a query over the view `traces` (aliased `t`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.clock import to_aware_utc, to_naive_utc
from timestep_lab.model.errors import UsageError
from timestep_lab.store.base import Dialect, NamedRow
from timestep_lab.store.filters import CompiledFilter, compile_filter, read_filter, started_since

TRACE_COLUMNS = (
    "trace_id", "thread_id", "user_id", "workflow", "agent_path", "model", "status", "started_at", "ended_at",
    "duration_ms", "n_spans", "n_errors", "turns", "input_tokens", "output_tokens", "cost_usd", "input", "output", "n_unpriced",
    "end_user", "outcome", "source", "ttft_ms", "tags", "failed_tools", "error_types",
)  # fmt: skip
NEWEST_FIRST = "started_at desc"
COMPUTED = {
    "tokens": "coalesce(v.input_tokens, 0) + coalesce(v.output_tokens, 0)",
    "score": "(select avg(x.value) from scores x where x.target = 'trace' and x.target_id = v.trace_id)",
}
"""Columns to order by that the view lacks: total tokens, and the mean of a trace's scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A filter expression (see `filters`) and a range of start times: `since` inclusive, `until` exclusive."""

    filter: str = ""
    source: str = ""
    """`live`, `evaluation` or `imported`; empty for all."""
    since: datetime | None = None
    until: datetime | None = None

    def where(self, dialect: Dialect, first_param: int = 1) -> CompiledFilter:
        """Returns the selection as a condition. Raises `FilterError`."""
        compiled = compile_filter(self.filter, dialect, first_param=first_param)
        sql, params = compiled.sql, list(compiled.params)
        if self.source:
            params.append(self.source)
            sql += f" and t.source = ${first_param + len(params) - 1}"
        for bound, symbol in ((self.since, ">="), (self.until, "<")):
            if bound is not None:
                params.append(to_naive_utc(bound))
                sql += f" and t.started_at {symbol} ${first_param + len(params) - 1}"
        return CompiledFilter(sql, params)

    @property
    def earliest(self) -> datetime | None:
        """Lower bound of the start of matching traces; None if unbounded."""
        bounds = [started_since(read_filter(self.filter)), self.since]
        return max((to_aware_utc(bound) for bound in bounds if bound is not None), default=None)


@dataclass(frozen=True, slots=True)
class Order:
    column: str
    descending: bool

    @classmethod
    def read(cls, text: str) -> Order:
        """Parses `started_at desc`, or a column alone (ascending). Raises `UsageError`."""
        column, _, direction = text.strip().partition(" ")
        if column not in (*TRACE_COLUMNS, *COMPUTED):
            raise UsageError(
                f"Traces cannot be ordered by {column!r}.{did_you_mean(column, (*TRACE_COLUMNS, *COMPUTED))}",
                f"Order by one of: {', '.join((*TRACE_COLUMNS, *COMPUTED))}, followed by asc or desc.",
            )
        direction = direction.strip().lower() or "asc"
        if direction not in ("asc", "desc"):
            raise UsageError(f"Unknown direction {direction!r}.", "Use asc or desc after the column.")
        return cls(column, direction == "desc")

    @property
    def sql(self) -> str:
        """Order by clause. Unknown values are last in both directions; ties are ordered by trace id, so that pages never overlap."""
        direction = "desc" if self.descending else "asc"
        return f"order by t.{self.column} {direction} nulls last, t.trace_id {direction}"

    def after(self, value: object, trace_id: str, first_param: int) -> CompiledFilter:
        """Returns the condition for traces after the one with this value and id."""
        symbol = "<" if self.descending else ">"
        if value is None:
            return CompiledFilter(f"(t.{self.column} is null and t.trace_id {symbol} ${first_param})", [trace_id])
        first, second = f"${first_param}", f"${first_param + 1}"
        sql = (
            f"(t.{self.column} {symbol} {first} or t.{self.column} is null "
            f"or (t.{self.column} = {first} and t.trace_id {symbol} {second}))"
        )
        return CompiledFilter(sql, [value, trace_id])


def with_literals(found: CompiledFilter) -> str:
    """Returns the condition with literal parameters, to be read, copied and run."""
    # The SQL has only names and placeholders, so every `$n` is a placeholder.
    return re.sub(r"\$(\d+)", lambda place: literal(found.params[int(place[1]) - 1]), found.sql)


def literal(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"{value:.17g}" if isinstance(value, float) else str(value)
        case datetime():
            return f"timestamp '{to_aware_utc(value):%Y-%m-%d %H:%M:%S.%f}'"
    return "'" + str(value).replace("'", "''") + "'"


def aware(row: Sequence[object], columns: Sequence[str]) -> NamedRow:
    """Returns a row as a dict with aware UTC datetimes."""
    return {
        column: to_aware_utc(value) if isinstance(value, datetime) else value
        for column, value in zip(columns, row, strict=True)
    }
