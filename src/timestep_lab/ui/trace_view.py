"""`TraceView`: one trace alone, live while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from timestep_lab.model.arguments import trace_id_of
from timestep_lab.model.records import Json
from timestep_lab.service.traces import Traces
from timestep_lab.store.trace_diff import DiffRow
from timestep_lab.ui.columns import encode_spans, parent_rows
from timestep_lab.ui.trace_reader import TraceReader, read_about, read_trace
from timestep_lab.ui.trace_twin import MOST_ROWS, trace_html
from timestep_lab.ui.tree_rows import part_of, tree_rows
from timestep_lab.ui.view import Reply, Updates, handles

if TYPE_CHECKING:
    import pandas


MOST_PATH = 10_000
"""Characters of an agent path beyond which it comes with the rest, not with the first screen."""
OVER = ("completed", "stopped", "failed", "cancelled", "interrupted")
"""Of a trace that is over, and whose row says what it said, the spans need not be read again."""


class _Read:
    """A trace as it was when somebody first looked at the view. Its row may be older: who watches a view is told of what changed since."""

    def __init__(self, source: Traces, trace_id: str, trace: Mapping[str, Any]) -> None:
        self.spans = source.columns(trace_id)
        self.about = read_about(source, trace_id, self.spans, trace)
        self.parents = parent_rows(self.spans)
        self.rows = tree_rows(self.spans, MOST_ROWS, self.parents)

    def first_screen(self) -> Reply:
        """The rows that are seen first, as a trace of their own. `partial`: what is below them is still to come."""
        part = part_of(self.spans, [row for row, _ in self.rows])
        partial = len(self.rows) < len(self.spans["span_id"])
        trace = self.about["trace"]
        if len(trace.get("agent_path") or "") > MOST_PATH:
            trace = {**trace, "agent_path": None}
        return Reply({**self.about, "trace": trace, "partial": partial}, [encode_spans(part)])


class TraceView(TraceReader):
    """Waterfall, handoff graph, conversation, comparison and JSON of one trace. Raises `NotFoundError`.

    `selection` is the id of the chosen span, both ways.
    """

    stem = "trace"

    def __init__(self, source: Traces, trace_id: str, **options: Any) -> None:
        super().__init__(source, **options)
        self.trace_id = trace_id
        self._selection: str | None = None
        self._trace = source.read(trace_id)
        self._read: _Read | None = None
        """For the first screen and the first static copy."""
        self._state: Reply | None = None
        self._updates = Updates(self, self._refresh)
        self._end: Callable[[], None] | None = None

    @property
    def trace(self) -> dict[str, Json]:
        """The trace's row."""
        return dict(self.source.read(self.trace_id))

    @property
    def sql(self) -> str:
        """The query whose rows are the spans of this trace."""
        return (
            f"select * from spans where trace_id = '{self.trace_id.replace(chr(39), chr(39) * 2)}' order by started_at"
        )

    def df(self) -> pandas.DataFrame:
        """The spans, one row each, with their payloads."""
        import pandas

        ids = list(self.source.columns(self.trace_id)["span_id"])
        return pandas.DataFrame([dict(span) for span in self.source.payloads(self.trace_id, ids)])

    def diff(self, other: Any) -> list[DiffRow]:
        """This trace aligned with another: a run, a view of a trace, or a trace's id. Raises `UsageError`, `NotFoundError`."""
        return list(self.source.diff(self.trace_id, trace_id_of(other)))

    @property
    def selection(self) -> str | None:
        """Id of the span that is selected; None for none."""
        return self._selection

    @selection.setter
    def selection(self, span_id: str | None) -> None:
        self._selection = span_id
        self.emit({"kind": "select", "span_id": span_id})

    def first(self) -> Reply | None:
        if self._state is not None:
            return None
        self._read = _Read(self.source, self.trace_id, self._trace)
        return self._read.first_screen()

    def snapshot(self) -> Reply:
        if self._state is None:
            read = self._read = self._read or _Read(self.source, self.trace_id, self._trace)
            self._state = Reply(read.about, [encode_spans(read.spans, read.parents)])
        return self._state

    async def prepare(self) -> None:
        if self._state is None:
            await self.in_turn(self.snapshot)
            self._read = None  # A page has no static copy.

    def twin_html(self) -> str:
        self.snapshot()
        read, self._read = self._read, None
        if read is None:
            return trace_html(self.source, self.trace_id)
        return trace_html(self.source, self.trace_id, read.about["trace"], read.spans, read.rows)

    def watched(self, now: bool) -> None:
        if now and self._end is None:
            self._end = self.source.subscribe(self._changed)
            # What happened between construction and now was told to nobody.
            self._updates.soon()
        elif not now and self._end is not None:
            self._end()
            self._end = None

    def _changed(self, trace_id: str) -> None:
        if trace_id in ("", self.trace_id):
            self._updates.soon()

    async def _refresh(self) -> None:
        shown = await self.in_turn(self.snapshot)
        before = shown.value["trace"]
        started = time.perf_counter()
        if before["status"] in OVER and before == await self.in_turn(self.source.read, self.trace_id):
            return
        state = await self.in_turn(read_trace, self.source, self.trace_id)
        self._updates.cost_s = time.perf_counter() - started
        if state.buffers == shown.buffers and state.value["trace"] == before:
            return
        self._state, self._read = state, None
        self.emit({"kind": "trace", "value": state.value}, state.buffers)
        self.refresh_twin()

    @handles("select")
    def _select(self, span_id: str | None) -> None:
        self._selection = span_id
