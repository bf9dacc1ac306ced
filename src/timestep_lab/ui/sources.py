"""What the trace views need to know, and from whom: a `TraceSource`. The lab gives one over its store; an exported page has one
in the page; tests have one in memory. All methods block and are called on a thread, but `subscribe`.

A *trace row* is a dict with the columns of the view `traces`; a *span* a dict with the columns of the view `spans`, plus
`cached_tokens, reasoning_tokens, queue_ms, rate_limit_ms, ttft_ms, stop_reason` where known. Missing keys count as unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

from timestep_lab.types.graph import AgentGraph
from timestep_lab.types.records import ScoreRecord

if TYPE_CHECKING:
    import pandas

SpanColumns = Mapping[str, Sequence[Any]]
"""All spans of a trace without their payloads: column name to values, equally long, in any order.

Needed: `span_id, parent_id, kind, name, status, started_us` (int, microseconds since 1970 UTC). Optional: `ended_us` (None while
pending), `agent, model, input_tokens, output_tokens, cost_usd, ttft_ms`. Values may be lists or numpy arrays.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceQuery:
    """Which traces: a filter expression, words to find, and the time they started in (`since` inclusive, `until` exclusive)."""

    filter: str = ""
    search: str = ""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TracePage:
    rows: Sequence[Mapping[str, Any]]
    """Newest first."""
    total: int | None
    """How many traces match in all; None when counting would be slow."""
    sql: str
    """The query that answers the same, to read and to copy."""
    after: str | None = None
    """Pass it for the next page; None when there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """One bar of the histogram over time."""

    start: datetime
    end: datetime
    count: int
    errors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """Text that may replace `filter[start:end]`. `detail` says what it is (`field`, `model`, `42 traces` …)."""

    text: str
    start: int
    end: int
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffSide:
    span_id: str
    duration_ms: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffRow:
    """Two spans that were found to be the same step, or one that has no partner, in the order of a reader."""

    change: Literal["same", "changed", "only_left", "only_right"]
    depth: int
    kind: str
    name: str
    left: DiffSide | None = None
    right: DiffSide | None = None
    first_divergence: bool = False
    fields: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """What differs: name of the field to (left, right)."""


class TraceSource(Protocol):
    def list(self, query: TraceQuery, *, limit: int, after: str | None = None) -> TracePage:
        """A page of traces. Raises `FilterError` for a filter that cannot be read."""
        ...

    def frame(self, query: TraceQuery) -> pandas.DataFrame:
        """All traces that match, with the columns of the view `traces`."""
        ...

    def histogram(self, query: TraceQuery, *, buckets: int) -> Sequence[Bucket]:
        """Equal steps of time over the query's range, or over all that matches."""
        ...

    def suggest(self, text: str, cursor: int) -> Sequence[Suggestion]:
        """What may stand at `cursor` of a filter."""
        ...

    def trace(self, trace_id: str) -> Mapping[str, Any]:
        """A trace row. Raises `NotFoundError`."""
        ...

    def spans(self, trace_id: str) -> SpanColumns: ...

    def payloads(self, trace_id: str, span_ids: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        """Whole spans, with input, output and attributes. Unknown ids are left out."""
        ...

    def graph(self, *, trace_id: str | None = None, query: TraceQuery | None = None) -> AgentGraph:
        """Of one trace, or of all that match."""
        ...

    def diff(self, left: str, right: str) -> Sequence[DiffRow]:
        """Two traces aligned."""
        ...

    def scores(self, trace_id: str) -> Sequence[ScoreRecord]:
        """Annotations of a trace and of its spans."""
        ...

    def add_score(
        self,
        target: Literal["trace", "span"],
        target_id: str,
        *,
        name: str,
        value: float | None,
        label: str | None,
        note: str | None,
    ) -> ScoreRecord: ...

    def subscribe(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call back with a trace's id, on any thread, after it changed. Returns what ends it."""
        ...
