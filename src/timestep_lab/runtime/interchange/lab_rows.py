"""The lab's own formats: the store's columns unchanged, so that export and import lose nothing.

JSONL: one line per trace (`{"object": "timestep.trace", …}`), then one per span (`{"object": "timestep.span", …}`), times ISO 8601.
Parquet: one row per span, with the trace's `workflow`, `thread_id`, `end_user` and `metadata`.
DuckDB: tables with the names and columns of the lab's views, and `lab_spans`, the rows of the Parquet form, which is used for import.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from math import isfinite
from typing import Any

from timestep_lab.model.clock import iso, parse_iso, to_naive_utc, utc_now
from timestep_lab.model.records import ScoreRecord
from timestep_lab.model.spans import SPAN_KINDS, SPAN_STATUSES
from timestep_lab.runtime.interchange.conventions import with_events
from timestep_lab.store.base import Database
from timestep_lab.store.imported_trace import TOLD, TraceSaid
from timestep_lab.store.spans import AT, SPAN_COLUMNS, Row
from timestep_lab.store.table import Table, clean, to_json
from timestep_lab.store.trace_import import SpanEvent, TraceImport
from timestep_lab.store.trace_selection import aware

# --- The output of a reader of any format: rows ready for the store


EVALUATION_RESULT = "gen_ai.evaluation.result"
"""An event of the GenAI conventions: the result of an evaluation of its span."""


@dataclass(slots=True)
class Decoded:
    """Decoded spans and what belongs to them. `spans` are tuples in the order of the store's `SPAN_COLUMNS`."""

    user_id: str
    spans: list[Row] = field(default_factory=list)
    said: list[TraceSaid] = field(default_factory=list)
    events: list[SpanEvent] = field(default_factory=list)
    """Events that arrived separately from their spans."""
    scores: list[ScoreRecord] = field(default_factory=list)
    """Results of the sender's evaluations; a repeated result has the same id."""
    rejected: int = 0
    """Number of spans that could not be decoded; the others can be stored."""
    problem: str = ""
    """The problem with the first rejected span."""
    _about: dict[str, dict[str, tuple[int, Any]]] = field(default_factory=dict)

    def store(self, db: Database, *, source: str | None = None) -> int:
        """Stores everything and returns the number of new spans. Durable on return. `source`: see `TraceImport`."""
        return store_together(db, self.user_id, [self], source=source)

    def evaluated(self, trace_id: str, span_id: str, events: Iterable[Mapping[str, Any]]) -> None:
        """Adds the evaluation results among the span's events as scores of the span."""
        for event in events:
            if event["name"] != EVALUATION_RESULT:
                continue
            attributes, time = event["attributes"], int(event["time_unix_nano"] or 0)
            value = attributes.get("gen_ai.evaluation.score.value")
            known = f"{trace_id}{span_id}{to_json(event)}"
            self.scores.append(ScoreRecord(
                id=f"score_{blake2b(known.encode(), digest_size=12).hexdigest()}", user_id=self.user_id, target="span", target_id=span_id,
                name=_text(attributes.get("gen_ai.evaluation.name")) or "evaluation",
                value=float(value) if isinstance(value, int | float) and isfinite(value) else None,
                label=_text(attributes.get("gen_ai.evaluation.score.label")),
                note=_text(attributes.get("gen_ai.evaluation.explanation", attributes.get("error.type"))), source="scorer",
                created_at=datetime.fromtimestamp(min(time, 1 << 64) / 1e9, UTC) if time else utc_now(),
            ))  # fmt: skip

    def trace_ids(self) -> set[str]:
        return {row[AT["trace_id"]] for row in self.spans}

    def reject(self, problem: str) -> None:
        self.rejected += 1
        self.problem = self.problem or problem

    def learn(self, trace_id: str, key: int, told: Mapping[str, object]) -> None:
        """Records fields of a whole trace: `workflow`, `thread_id`, `end_user`, `metadata`, if set. For each field the lowest key wins."""
        about = self._about.setdefault(trace_id, {})
        for name, value in told.items():
            if value is not None and (name not in about or key < about[name][0]):
                about[name] = (key, value)

    def finish(self) -> Decoded:
        for trace_id, about in self._about.items():
            workflow_key, workflow = about.get("workflow", (TOLD, None))
            thread_key, thread_id = about.get("thread_id", (TOLD, None))
            end_user_key, end_user = about.get("end_user", (TOLD, None))
            metadata = to_json(about["metadata"][1]) if "metadata" in about else "{}"
            trace = TraceSaid(
                trace_id, _text(workflow), workflow_key, _text(thread_id), thread_key, metadata=metadata,
                end_user=_text(end_user), end_user_key=end_user_key,
            )  # fmt: skip
            self.said.append(trace)
        self._about.clear()
        return self


def store_together(db: Database, user_id: str, decoded: Sequence[Decoded], *, source: str | None = None) -> int:
    """Stores several decoded inputs of one user in as few transactions as possible; see `Decoded.store`."""
    spans = [row for one in decoded for row in one.spans]
    said = [trace for one in decoded for trace in one.said]
    events = [event for one in decoded for event in one.events]
    added = TraceImport(db, with_events, source=source).rows(user_id, spans, said, events)
    scores = {score.id: score for one in decoded for score in one.scores}
    if scores:
        table = Table(db, user_id, "score_rows", ScoreRecord, noun="score", topic="scores")
        db.write(user_id, [table.upsert_statement(score) for score in scores.values()])
    return added


def _text(value: object) -> str | None:
    return None if value is None else clean(str(value))


TRACE_OBJECT, SPAN_OBJECT = "timestep.trace", "timestep.span"
OF_TRACE = ("workflow", "thread_id", "end_user", "metadata", "parent_trace_id", "fork_span_id")
_SHOWN = 3
"""How many of those the view `traces` has; the others are read from the start of the trace."""
FLAT_COLUMNS = (
    *(column for column in SPAN_COLUMNS if column not in ("user_id", "input_refs")),
    *(f"trace_{name}" for name in OF_TRACE),
)
_TIMES = ("started_at", "ended_at")
_NUMBERS = {
    "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "cost_usd", "queue_ms", "rate_limit_ms", "ttft_ms", "io_json",
}  # fmt: skip
BATCH = 200
"""Traces per query."""


def flat_rows(db: Database, user_id: str, trace_ids: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yields every span of these traces ordered by trace, then start, with `FLAT_COLUMNS`. Payloads are complete; open spans are
    included."""
    spans = ", ".join(
        f"s.{column}" for column in FLAT_COLUMNS if not column.startswith("trace_") or column == "trace_id"
    )
    starts = ", ".join([*(f"n.{name}" for name in OF_TRACE[:_SHOWN]), *(f"t.{name}" for name in OF_TRACE[_SHOWN:])])
    for first in range(0, len(trace_ids), BATCH):
        ids = trace_ids[first : first + BATCH]
        places = ", ".join(f"${n}" for n in range(2, len(ids) + 2))
        result = db.query(
            user_id,
            f"select {spans.replace('s.io_json', 'coalesce(r.io_json, o.io_json) as io_json')}, {starts} from core.all_spans s "
            "left join (select trace_id, span_id, max(io_json) as io_json from core.spans_raw where user_id = $1 "
            f"and trace_id in ({places}) group by trace_id, span_id) r on r.trace_id = s.trace_id and r.span_id = s.span_id "
            "left join (select trace_id, span_id, max(io_json) as io_json from core.open_spans where user_id = $1 "
            f"and trace_id in ({places}) group by trace_id, span_id) o on o.trace_id = s.trace_id and o.span_id = s.span_id "
            f"left join (select trace_id, {', '.join(f'max({name}) as {name}' for name in OF_TRACE[_SHOWN:])} "
            f"from core.traces_raw where user_id = $1 and trace_id in ({places}) group by trace_id) t on t.trace_id = s.trace_id "
            f"left join (select trace_id, {', '.join(OF_TRACE[:_SHOWN])} from traces where trace_id in ({places})) n on n.trace_id = s.trace_id "
            f"where s.user_id = $1 and s.trace_id in ({places}) order by s.trace_id, s.started_at",
            [user_id, *ids],
        )
        yield from result.rows


def json_objects(rows: Iterable[tuple[object, ...]]) -> Iterator[dict[str, Any]]:
    """Yields the lines of the JSONL form."""
    last = None
    for row in rows:
        values = {
            name: iso(value) if isinstance(value, datetime) else value
            for name, value in aware(row, FLAT_COLUMNS).items()
        }
        of_trace = {name: values.pop(f"trace_{name}") for name in OF_TRACE}
        if values["trace_id"] != last:
            last = values["trace_id"]
            trace_values = {name: value for name, value in of_trace.items() if value is not None}
            yield {"object": TRACE_OBJECT, "trace_id": last, "started_at": values["started_at"], **trace_values}
        yield {"object": SPAN_OBJECT, **{name: value for name, value in values.items() if value is not None}}


def is_lab_row(value: object) -> bool:
    return isinstance(value, Mapping) and value.get("object") in (TRACE_OBJECT, SPAN_OBJECT)


def read_lab_rows(objects: Iterable[Mapping[str, object]], user_id: str) -> Decoded:
    """Decodes the lines of the JSONL form."""
    decoded = Decoded(user_id)
    for entry in objects:
        try:
            if entry.get("object") == TRACE_OBJECT:
                decoded.said.append(_trace(entry, ""))
            else:
                decoded.spans.append(_span(entry, user_id))
        except (KeyError, ValueError, TypeError) as error:
            decoded.reject(f"A row could not be read: {error!r}")
    return decoded


def read_flat_rows(columns: Sequence[str], rows: Iterable[tuple[Any, ...]], user_id: str) -> Decoded:
    """Decodes the rows of the Parquet form."""
    decoded = Decoded(user_id)
    seen: set[str] = set()
    for row in rows:
        entry = dict(zip(columns, row, strict=True))
        try:
            decoded.spans.append(_span(entry, user_id))
            if entry["trace_id"] not in seen:
                seen.add(entry["trace_id"])
                decoded.said.append(_trace(entry, "trace_"))
        except (KeyError, ValueError, TypeError) as error:
            decoded.reject(f"A row could not be read: {error!r}")
    return decoded


def _span(found: Mapping[str, Any], user_id: str) -> Row:
    values = [_value(name, found.get(name)) for name in SPAN_COLUMNS]
    values[AT["user_id"]] = user_id
    values[AT["input_refs"]] = None
    values[AT["io_json"]] = int(found.get("io_json") or 0) & 3
    values[AT["attributes"]] = found.get("attributes") or "{}"
    if found["kind"] not in SPAN_KINDS or found["status"] not in SPAN_STATUSES:
        raise ValueError(f"a span of kind {found['kind']!r} and status {found['status']!r}")
    for name, length in (("trace_id", 32), ("span_id", 16)):
        bytes.fromhex(found[name])
        if len(found[name]) != length:
            raise ValueError(f"{name} {found[name]!r} does not have {length} hexadecimal digits")
    return tuple(values)


def _trace(found: Mapping[str, Any], prefix: str) -> TraceSaid:
    values = {name: found.get(f"{prefix}{name}") for name in OF_TRACE}
    return TraceSaid(
        found["trace_id"], clean(str(values["workflow"])) if values["workflow"] else None, thread_id=_value("thread_id", values["thread_id"]),
        started_at=_value("started_at", found["started_at"]), metadata=values["metadata"] or "{}",
        parent_trace_id=values["parent_trace_id"], fork_span_id=values["fork_span_id"],
        end_user=_value("end_user", values["end_user"]),
    )  # fmt: skip


def _value(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _TIMES:
        return to_naive_utc(value if isinstance(value, datetime) else parse_iso(value))
    if name in _NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} {value!r} is not a number")
        return value
    return clean(str(value))
