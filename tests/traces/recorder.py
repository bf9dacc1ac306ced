"""Spans of made-up runs, as the tracer would hand them over."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from timestep_lab.model.ids import LOCAL_USER, new_span_id, new_trace_id
from timestep_lab.model.spans import Lab, SpanRecord, TraceStart
from timestep_lab.store.base import Database
from timestep_lab.store.trace_writer import TraceWriter

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Recorder:
    def __init__(self, db: Database, user_id: str = LOCAL_USER) -> None:
        self.writer = TraceWriter(db)
        self.user_id = user_id

    def start(
        self, *, at: datetime = NOON, thread_id: str | None = "thr_1", workflow: str = "Agent workflow", **fields: Any
    ) -> str:
        trace_id = new_trace_id()
        self.writer.trace_started(
            TraceStart(
                trace_id=trace_id, user_id=self.user_id, workflow=workflow, thread_id=thread_id, started_at=at, **fields
            )
        )
        return trace_id

    def span(
        self,
        trace_id: str,
        kind: str,
        name: str,
        *,
        at: datetime = NOON,
        ms: float = 100,
        parent: str | None = None,
        **fields: Any,
    ) -> SpanRecord:
        """A finished span, not handed over."""
        return SpanRecord(
            trace_id=trace_id, span_id=new_span_id(), parent_id=parent, user_id=self.user_id, kind=kind, name=name, started_at=at,
            ended_at=at + timedelta(milliseconds=ms), **{"status": "ok", **fields},
        )  # fmt: skip

    def ended(self, *args: Any, **fields: Any) -> SpanRecord:
        span = self.span(*args, **fields)
        self.writer.span_ended(span)
        return span

    def opened(self, *args: Any, **fields: Any) -> SpanRecord:
        span = replace(self.span(*args, **fields), ended_at=None, status="pending")
        self.writer.span_started(span)
        return span

    def weather_run(
        self,
        *,
        at: datetime = NOON,
        question: str = "Umbrella in Berkeley?",
        model: str = "gpt-4.1",
        location: str = "Berkeley",
        fails: bool = False,
        thread_id: str = "thr_1",
    ) -> str:
        """Two agents, a handoff, a tool and two generations."""

        def then(ms: int) -> datetime:
            return at + timedelta(milliseconds=ms)

        trace_id = self.start(at=at, thread_id=thread_id)
        task = self.ended(trace_id, "task", "Agent workflow", at=at, ms=2000)
        first = self.ended(
            trace_id, "agent", "Personal Assistant", at=then(1), ms=500, parent=task.span_id, agent="Personal Assistant"
        )
        spoken = {
            "model": model,
            "provider": "openai",
            "input_tokens": 100,
            "output_tokens": 20,
            "cost_usd": 0.01,
            "ttft_ms": 40.0,
        }
        self.ended(
            trace_id, "generation", model, at=then(2), ms=300, parent=first.span_id, agent="Personal Assistant",
            input=[{"role": "user", "content": question}], output=[], **spoken,
        )  # fmt: skip
        handoff = {Lab.FROM_AGENT: "Personal Assistant", Lab.TO_AGENT: "Weather Assistant"}
        self.ended(
            trace_id,
            "handoff",
            "handoff",
            at=then(310),
            ms=1,
            parent=first.span_id,
            agent="Personal Assistant",
            attributes=handoff,
        )
        second = self.ended(
            trace_id,
            "agent",
            "Weather Assistant",
            at=then(600),
            ms=1000,
            parent=task.span_id,
            agent="Weather Assistant",
        )
        self.ended(
            trace_id, "tool", "get_weather", at=then(700), ms=50, parent=second.span_id, agent="Weather Assistant",
            input={"location": location}, output="sunny", attributes={Lab.SERVER: "weather", Lab.APPROVAL: "approved", "place": 7},
            status="error" if fails else "ok", error="no such place" if fails else None,
        )  # fmt: skip
        self.ended(
            trace_id, "generation", model, at=then(800), ms=700, parent=second.span_id, agent="Weather Assistant",
            input=[{"role": "user", "content": question}], output=[{"role": "assistant", "content": "No umbrella needed."}],
            stop_reason="stop", **spoken,
        )  # fmt: skip
        return trace_id
