"""A call of a model as a trace of its own, without an agent or a run around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agents.tracing import trace

from timestep_lab.model.records import Json
from timestep_lab.runtime.span_records import otel_trace_id
from timestep_lab.runtime.tracing import Route, install, uninstall

if TYPE_CHECKING:
    from timestep_lab.store.trace_writer import TraceWriter


@contextmanager
def traced_call(
    writer: TraceWriter, user_id: str, workflow: str, metadata: Mapping[str, Json] | None = None
) -> Iterator[None]:
    """What is called inside is traced for `user_id` under the name `workflow`, with `metadata`. Enter and leave it in one task."""
    processor = install(writer)
    try:
        begun = trace(workflow, metadata=dict(metadata or {}) or None)
        processor.bind(begun.trace_id, Route(writer, user_id, otel_trace_id(begun.trace_id)))
        with begun:
            yield
        processor.release(begun.trace_id, "The call ended before its answer was complete.")
    finally:
        uninstall(writer)
