"""`TraceView`: one trace alone, live while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from timestep_lab.store.base import in_thread
from timestep_lab.types.records import Json
from timestep_lab.ui.sources import DiffRow, SpanColumns, TraceSource
from timestep_lab.ui.trace_reader import TraceReader, read_trace, read_with_spans
from timestep_lab.ui.trace_twin import trace_html
from timestep_lab.ui.updates import Updates
from timestep_lab.ui.view import Reply, handles

if TYPE_CHECKING:
    import pandas
    from panel.viewable import Viewable


OVER = ("completed", "failed", "cancelled", "interrupted")
"""Of a trace that is over, and whose row says what it said, the spans need not be read again."""


class TraceView(TraceReader):
    """Waterfall, handoff graph, conversation, comparison and JSON of one trace. Raises `NotFoundError`.

    `selection` is the id of the chosen span, both ways.
    """

    stem = "trace"

    def __init__(self, source: TraceSource, trace_id: str, **options: Any) -> None:
        super().__init__(source, **options)
        self.trace_id = trace_id
        self._selection: str | None = None
        source.trace(trace_id)
        self._read: tuple[Reply, SpanColumns | None] | None = None
        """What is shown, once somebody looks: by then the browser has been told to make ready. The spans are for the first static copy."""
        self._updates = Updates(self, self._refresh)
        self._end: Callable[[], None] | None = None

    @property
    def trace(self) -> dict[str, Json]:
        """The trace's row."""
        return dict(self.source.trace(self.trace_id))

    @property
    def sql(self) -> str:
        """The query whose rows are the spans of this trace."""
        return (
            f"select * from spans where trace_id = '{self.trace_id.replace(chr(39), chr(39) * 2)}' order by started_at"
        )

    def df(self) -> pandas.DataFrame:
        """The spans, one row each, with their payloads."""
        import pandas

        ids = list(self.source.spans(self.trace_id)["span_id"])
        return pandas.DataFrame([dict(span) for span in self.source.payloads(self.trace_id, ids)])

    def diff(self, other: str) -> list[DiffRow]:
        """This trace aligned with another, given by its id."""
        return list(self.source.diff(self.trace_id, other))

    @property
    def selection(self) -> str | None:
        """Id of the span that is selected; None for none."""
        return self._selection

    @selection.setter
    def selection(self, span_id: str | None) -> None:
        self._selection = span_id
        self.emit({"kind": "select", "span_id": span_id})

    def snapshot(self) -> Reply:
        if self._read is None:
            self._read = read_with_spans(self.source, self.trace_id)
        return self._read[0]

    def panel(self, **layout: Any) -> Viewable:
        self.snapshot()  # Here, and not when the page asks for it on the event loop.
        return super().panel(**layout)

    __panel__ = panel

    def twin_html(self) -> str:
        state = self.snapshot()
        assert self._read is not None
        spans = self._read[1]
        self._read = state, None
        return trace_html(self.source, self.trace_id, state.value["trace"], spans)

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
        if self._read is None:
            return
        shown, _ = self._read
        before = shown.value["trace"]
        started = time.perf_counter()
        if before["status"] in OVER and before == await in_thread(self.source.trace, self.trace_id):
            return
        state = await in_thread(read_trace, self.source, self.trace_id)
        self._updates.cost_s = time.perf_counter() - started
        if state.buffers == shown.buffers and state.value["trace"] == before:
            return
        self._read = state, None
        self.emit({"kind": "trace", "value": state.value}, state.buffers)
        self.refresh_twin()

    @handles("select")
    def _select(self, span_id: str | None) -> None:
        self._selection = span_id
