"""What a reader of any format makes of its input: rows ready for the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from math import isfinite
from typing import Any

from timestep_lab.model.clock import utc_now
from timestep_lab.model.records import ScoreRecord
from timestep_lab.runtime.interchange.events import with_events
from timestep_lab.store.base import Database
from timestep_lab.store.imported_trace import TOLD, TraceSaid
from timestep_lab.store.json_text import clean, to_json
from timestep_lab.store.span_rows import AT, Row
from timestep_lab.store.table import Table
from timestep_lab.store.trace_import import SpanEvent, TraceImport

EVALUATION_RESULT = "gen_ai.evaluation.result"
"""An event of the GenAI conventions: its span was evaluated."""


@dataclass(slots=True)
class Decoded:
    """`spans` are tuples in the order of `SPAN_COLUMNS` of the store."""

    user_id: str
    spans: list[Row] = field(default_factory=list)
    said: list[TraceSaid] = field(default_factory=list)
    events: list[SpanEvent] = field(default_factory=list)
    """That came apart from their spans."""
    scores: list[ScoreRecord] = field(default_factory=list)
    """What the sender's evaluations found; told twice, they are the same ones."""
    rejected: int = 0
    """Spans that could not be read; the others can be stored."""
    problem: str = ""
    """What was wrong with the first of them."""
    _about: dict[str, dict[str, tuple[int, Any]]] = field(default_factory=dict)

    def store(self, db: Database) -> int:
        """How many spans were new. Durable on return."""
        added = TraceImport(db, with_events).rows(self.user_id, self.spans, self.said, self.events)
        if self.scores:
            table = Table(db, self.user_id, "score_rows", ScoreRecord, noun="score", topic="scores")
            db.write(self.user_id, [table.upsert_statement(score) for score in self.scores])
        return added

    def evaluated(self, trace_id: str, span_id: str, events: Iterable[Mapping[str, Any]]) -> None:
        """The span's events that are results of evaluations, as scores of the span."""
        for event in events:
            if event["name"] != EVALUATION_RESULT:
                continue
            said, time = event["attributes"], int(event["time_unix_nano"] or 0)
            value = said.get("gen_ai.evaluation.score.value")
            known = f"{trace_id}{span_id}{to_json(event)}"
            self.scores.append(ScoreRecord(
                id=f"score_{blake2b(known.encode(), digest_size=12).hexdigest()}", user_id=self.user_id, target="span", target_id=span_id,
                name=_text(said.get("gen_ai.evaluation.name")) or "evaluation",
                value=float(value) if isinstance(value, int | float) and isfinite(value) else None,
                label=_text(said.get("gen_ai.evaluation.score.label")),
                note=_text(said.get("gen_ai.evaluation.explanation", said.get("error.type"))), source="scorer",
                created_at=datetime.fromtimestamp(min(time, 1 << 64) / 1e9, UTC) if time else utc_now(),
            ))  # fmt: skip

    def trace_ids(self) -> set[str]:
        return {row[AT["trace_id"]] for row in self.spans}

    def reject(self, problem: str) -> None:
        self.rejected += 1
        self.problem = self.problem or problem

    def learn(self, trace_id: str, key: int, told: Mapping[str, Any]) -> None:
        """What is said of a whole trace: `workflow`, `thread_id`, `metadata`, where they are told. Of each the least key counts."""
        about = self._about.setdefault(trace_id, {})
        for name, value in told.items():
            if value is not None and (name not in about or key < about[name][0]):
                about[name] = (key, value)

    def finish(self) -> Decoded:
        for trace_id, about in self._about.items():
            workflow_key, workflow = about.get("workflow", (TOLD, None))
            thread_key, thread_id = about.get("thread_id", (TOLD, None))
            metadata = to_json(about["metadata"][1]) if "metadata" in about else "{}"
            said = TraceSaid(trace_id, _text(workflow), workflow_key, _text(thread_id), thread_key, metadata=metadata)
            self.said.append(said)
        self._about.clear()
        return self


def _text(value: Any) -> str | None:
    return None if value is None else clean(str(value))
