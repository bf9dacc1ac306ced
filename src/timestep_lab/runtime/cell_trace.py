"""One cell of a notebook as a trace: the cell is its root, and runs and spans of the Agents SDK that begin in it hang below."""

from __future__ import annotations

from dataclasses import replace

from agents import trace
from agents.tracing import Trace

from timestep_lab.model.clock import utc_now
from timestep_lab.model.ids import new_span_id, new_trace_id
from timestep_lab.model.spans import SpanRecord, TraceStart
from timestep_lab.runtime.span_records import sdk_trace_id
from timestep_lab.runtime.tracing import Route, StoreProcessor
from timestep_lab.store.trace_writer import TraceWriter


class CellTrace:
    """Begins in the context that the cell's code will run in. Nothing is written before a span comes, or `end` asks for it."""

    def __init__(self, processor: StoreProcessor, writer: TraceWriter, user_id: str, name: str, source: str) -> None:
        self.trace_id = new_trace_id()
        self.has_begun = False
        self._processor, self._writer = processor, writer
        self._root = SpanRecord(
            trace_id=self.trace_id, span_id=new_span_id(), parent_id=None, user_id=user_id, kind="task", name=name,
            started_at=utc_now(), input=source,
        )  # fmt: skip
        self._sdk_id = sdk_trace_id(self.trace_id)
        route = Route(writer, user_id, self.trace_id, root=self._root.span_id, begin=self._begin)
        processor.bind(self._sdk_id, route)
        self._trace: Trace = trace(name, trace_id=self._sdk_id)
        self._trace.start(mark_as_current=True)

    def _begin(self) -> None:
        self.has_begun = True
        root = self._root
        self._writer.trace_started(
            TraceStart(
                trace_id=root.trace_id, user_id=root.user_id, workflow=root.name, thread_id=None, started_at=root.started_at
            )
        )  # fmt: skip
        self._writer.span_started(root)

    def end(
        self, *, output: object = None, error: BaseException | None = None, is_wanted: bool, same_context: bool
    ) -> None:
        """The cell is over. A trace without spans is written only if it `is_wanted`.

        `same_context`: the caller is in the context that the trace began in (not so after a cell with `await`).
        """
        self._trace.finish(reset_current=same_context)
        if not self.has_begun:
            if not is_wanted:
                return
            self._begin()
        self._processor.release(self._sdk_id, "The cell ended before this step did.")
        said = output if output is None or isinstance(output, str | int | float) else repr(output)
        self._writer.span_ended(
            replace(
                self._root, ended_at=utc_now(), status="error" if error else "ok", output=said,
                error=f"{type(error).__name__}: {error}" if error else None,
            )
        )  # fmt: skip
