"""Exports traces to a file; the extension selects the format."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timestep_lab.model.clock import iso, parse_iso, to_naive_utc, utc_now
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import UsageError
from timestep_lab.model.records import ScoreRecord
from timestep_lab.model.spans import SPAN_KINDS, SPAN_STATUSES, GenAI, Lab, OpenInference
from timestep_lab.runtime.interchange.conventions import EXPORTED_COLUMNS, PAYLOADS
from timestep_lab.runtime.interchange.span_events import with_events
from timestep_lab.store.base import Database, NamedRow
from timestep_lab.store.imported_trace import STATED, TraceStatement
from timestep_lab.store.spans import (
    AT,
    INPUT_IS_JSON,
    OUTPUT_IS_JSON,
    SPAN_COLUMNS,
    Row,
    StoredEvent,
    StoredLink,
    events_of,
)
from timestep_lab.store.store import Store
from timestep_lab.store.table import Table, clean, from_json, to_json
from timestep_lab.store.trace_import import SpanEvent, TraceImport
from timestep_lab.store.trace_selection import aware

if TYPE_CHECKING:
    import duckdb

# --- The lab's own formats: the store's columns unchanged, so that export and import lose nothing
#
# JSONL: one line per trace (`{"object": "timestep.trace", …}`), then one per span (`{"object": "timestep.span", …}`), times ISO 8601.
# Parquet: one row per span, with the trace's `workflow`, `thread_id`, `end_user` and `metadata`.
# DuckDB: tables with the names and columns of the lab's views, and `lab_spans`, the rows of the Parquet form, which is used for import.


# --- The output of a reader of any format: rows ready for the store


EVALUATION_RESULT = "gen_ai.evaluation.result"
"""An event of the GenAI conventions: the result of an evaluation of its span."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What the sender is told of decoded spans, and what decides whether they may be stored."""

    n_spans: int
    """With the events that came apart from their spans, and the scores."""
    n_traces: int
    rejected: int
    problem: str


@dataclass(slots=True)
class Decoded:
    """Decoded spans and what belongs to them. `spans` are tuples in the order of the store's `SPAN_COLUMNS`."""

    user_id: str
    spans: list[Row] = field(default_factory=list)
    statements: list[TraceStatement] = field(default_factory=list)
    events: list[SpanEvent] = field(default_factory=list)
    """Events that arrived separately from their spans."""
    scores: list[ScoreRecord] = field(default_factory=list)
    """Results of the sender's evaluations; a repeated result has the same id."""
    rejected: int = 0
    """Number of spans that could not be decoded; the others can be stored."""
    problem: str = ""
    """The problem with the first rejected span."""
    _about: dict[str, dict[str, tuple[int, object]]] = field(default_factory=dict)

    def store(self, db: Database, *, source: str | None = None) -> int:
        """Stores everything and returns the number of new spans. Durable on return. `source`: see `TraceImport`."""
        return store_together(db, self.user_id, [self], source=source)

    def evaluated(self, trace_id: str, span_id: str, events: Iterable[StoredEvent]) -> None:
        """Adds the evaluation results among the span's events as scores of the span."""
        for event in events:
            if event["name"] != EVALUATION_RESULT:
                continue
            attributes, time = event["attributes"], int(event["time_unix_nano"] or 0)
            value = attributes.get("gen_ai.evaluation.score.value")
            known = f"{trace_id}{span_id}{to_json(event)}"
            self.scores.append(ScoreRecord(
                id=f"score_{blake2b(known.encode(), digest_size=12).hexdigest()}", user_id=self.user_id, target="span", target_id=span_id,
                name=_lab_rows_text(attributes.get("gen_ai.evaluation.name")) or "evaluation",
                value=float(value) if isinstance(value, int | float) and isfinite(value) else None,
                label=_lab_rows_text(attributes.get("gen_ai.evaluation.score.label")),
                note=_lab_rows_text(attributes.get("gen_ai.evaluation.explanation", attributes.get("error.type"))), source="scorer",
                created_at=datetime.fromtimestamp(min(time, 1 << 64) / 1e9, UTC) if time else utc_now(),
            ))  # fmt: skip

    def summary(self) -> Summary:
        n_spans = len(self.spans) + len(self.events) + len(self.scores)
        return Summary(n_spans, len(self.trace_ids()), self.rejected, self.problem)

    def trace_ids(self) -> set[str]:
        return {row[AT["trace_id"]] for row in self.spans}

    def reject(self, problem: str) -> None:
        self.rejected += 1
        self.problem = self.problem or problem

    def learn(self, trace_id: str, key: int, fields: Mapping[str, object]) -> None:
        """Records fields of a whole trace: `workflow`, `thread_id`, `end_user`, `metadata`, if set. For each field the lowest key wins."""
        if not fields:
            return
        about = self._about.setdefault(trace_id, {})
        for name, value in fields.items():
            if value is not None and (name not in about or key < about[name][0]):
                about[name] = (key, value)

    def finish(self) -> Decoded:
        for trace_id, about in self._about.items():
            workflow_key, workflow = about.get("workflow", (STATED, None))
            thread_key, thread_id = about.get("thread_id", (STATED, None))
            end_user_key, end_user = about.get("end_user", (STATED, None))
            metadata = to_json(about["metadata"][1]) if "metadata" in about else "{}"
            trace = TraceStatement(
                trace_id, _lab_rows_text(workflow), workflow_key, _lab_rows_text(thread_id), thread_key, metadata=metadata,
                end_user=_lab_rows_text(end_user), end_user_key=end_user_key,
            )  # fmt: skip
            self.statements.append(trace)
        self._about.clear()
        return self


def store_together(db: Database, user_id: str, decoded: Sequence[Decoded], *, source: str | None = None) -> int:
    """Stores several decoded inputs of one user in as few transactions as possible; see `Decoded.store`."""
    spans = [row for one in decoded for row in one.spans]
    statements = [trace for one in decoded for trace in one.statements]
    events = [event for one in decoded for event in one.events]
    added = TraceImport(db, with_events, source=source).rows(user_id, spans, statements, events)
    scores = {score.id: score for one in decoded for score in one.scores}
    if scores:
        table = Table(db, user_id, "score_rows", ScoreRecord, noun="score", topic="scores")
        db.write(user_id, [table.upsert_statement(score) for score in scores.values()])
    return added


def _lab_rows_text(value: object) -> str | None:
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


def flat_rows(db: Database, user_id: str, trace_ids: Sequence[str]) -> Iterator[Row]:
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


def json_objects(rows: Iterable[Row]) -> Iterator[dict[str, object]]:
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
                decoded.statements.append(_trace(entry, ""))
            else:
                decoded.spans.append(_lab_rows_span(entry, user_id))
        except (KeyError, ValueError, TypeError) as error:
            decoded.reject(f"A row could not be read: {error!r}")
    return decoded


def read_flat_rows(columns: Sequence[str], rows: Iterable[Row], user_id: str) -> Decoded:
    """Decodes the rows of the Parquet form."""
    decoded = Decoded(user_id)
    seen: set[str] = set()
    for row in rows:
        entry = dict(zip(columns, row, strict=True))
        try:
            decoded.spans.append(_lab_rows_span(entry, user_id))
            if entry["trace_id"] not in seen:
                seen.add(entry["trace_id"])
                decoded.statements.append(_trace(entry, "trace_"))
        except (KeyError, ValueError, TypeError) as error:
            decoded.reject(f"A row could not be read: {error!r}")
    return decoded


def _lab_rows_span(found: Mapping[str, Any], user_id: str) -> Row:
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


def _trace(found: Mapping[str, Any], prefix: str) -> TraceStatement:
    values = {name: found.get(f"{prefix}{name}") for name in OF_TRACE}
    return TraceStatement(
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


# --- Spans as an OTLP/JSON trace request for other tools: GenAI and OpenInference attributes, and the lab's own for the rest


_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_KIND_WORDS = {
    "agent": "AGENT", "generation": "LLM", "tool": "TOOL", "handoff": "TOOL", "guardrail": "GUARDRAIL", "retrieval": "RETRIEVER", "embedding": "EMBEDDING",
    "task": "CHAIN", "turn": "CHAIN", "other": "CHAIN",
}  # fmt: skip


def otlp_request(rows: Iterable[Row]) -> dict[str, Json]:
    """Builds the request from rows with `FLAT_COLUMNS`. An open span has no end."""
    spans = [_span(dict(zip(FLAT_COLUMNS, row, strict=True))) for row in rows]
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": [_pair("service.name", "timestep-lab")]},
                "scopeSpans": [{"scope": {"name": "timestep_lab"}, "spans": spans}],
            }
        ]
    }


def _span(row: NamedRow) -> dict[str, Json]:
    attributes = _attributes(row)
    events, links = events_of(attributes), _links_of(attributes)
    for name, entries in ((Lab.EVENTS, events), (Lab.LINKS, links)):
        if attributes.get(name) == entries:
            del attributes[name]
    span: dict[str, Json] = {
        "traceId": row["trace_id"], "spanId": row["span_id"], "name": row["name"], "kind": 3 if row["kind"] == "generation" else 1,
        "startTimeUnixNano": _nanos(row["started_at"]),
        "attributes": _pairs(attributes),
        "status": {"code": 2, "message": row["error"] or "error"} if row["status"] == "error" else {"code": 1 if row["ended_at"] else 0},
    }  # fmt: skip
    if events:
        span["events"] = [
            {"name": event["name"], "timeUnixNano": event["time_unix_nano"], "attributes": _pairs(event["attributes"])}
            for event in events
        ]
    if links:
        span["links"] = [
            {"traceId": link["trace_id"], "spanId": link["span_id"], "attributes": _pairs(link["attributes"])}
            for link in links
        ]
    if row["parent_id"]:
        span["parentSpanId"] = row["parent_id"]
    if row["ended_at"]:
        span["endTimeUnixNano"] = _nanos(row["ended_at"])
    return span


def _links_of(attributes: Mapping[str, object]) -> list[StoredLink]:
    given = attributes.get(Lab.LINKS)
    return [link for link in given if _is_link(link)] if isinstance(given, list) else []


def _is_link(link: object) -> bool:
    return (
        isinstance(link, dict)
        and isinstance(link.get("attributes"), dict)
        and all(isinstance(link.get(name), str) for name in ("trace_id", "span_id"))
    )


def _attributes(row: NamedRow) -> dict[str, object]:
    """Returns the sender's attributes unchanged, plus attributes for those columns that have values."""
    kind, io_json = row["kind"], row["io_json"] or 0
    generation = kind == "generation"
    known = {
        OpenInference.KIND: _KIND_WORDS[kind],
        GenAI.OPERATION: GenAI.OPERATION_OF.get(kind),
        GenAI.AGENT_NAME: row["agent"],
        GenAI.TOOL_NAME: row["name"] if kind == "tool" else None,
        GenAI.CONVERSATION_ID: row["trace_thread_id"],
        OpenInference.SESSION: row["trace_thread_id"],
        OpenInference.USER: row["trace_end_user"],
        GenAI.REQUEST_MODEL: row["model"],
        OpenInference.MODEL: row["model"],
        GenAI.PROVIDER: row["provider"],
        GenAI.INPUT_TOKENS: row["input_tokens"],
        OpenInference.PROMPT_TOKENS: row["input_tokens"],
        GenAI.OUTPUT_TOKENS: row["output_tokens"],
        OpenInference.COMPLETION_TOKENS: row["output_tokens"],
        GenAI.CACHE_READ_TOKENS: row["cached_tokens"],
        GenAI.REASONING_TOKENS: row["reasoning_tokens"],
        OpenInference.COST_TOTAL: row["cost_usd"],
        GenAI.FINISH_REASONS: [row["stop_reason"]] if row["stop_reason"] and generation else None,
    }
    ours = {
        Lab.KIND: kind,
        Lab.QUEUE_MS: row["queue_ms"],
        Lab.RATE_LIMIT_MS: row["rate_limit_ms"],
        Lab.TTFT_MS: row["ttft_ms"],
        Lab.SERVER: row["server"],
        Lab.APPROVAL: row["approval"],
        Lab.FROM_AGENT: row["agent"] if kind == "handoff" else None,
        Lab.TO_AGENT: row["to_agent"],
        OpenInference.INPUT: row["input"],
        OpenInference.INPUT_MIME: _mime(row["input"], io_json & INPUT_IS_JSON),
        OpenInference.OUTPUT: row["output"],
        OpenInference.OUTPUT_MIME: _mime(row["output"], io_json & OUTPUT_IS_JSON),
    }
    given = from_json(row["attributes"] or "{}")
    attributes = {name: value for name, value in known.items() if value is not None and given.get(name) is None}
    attributes.update((name, value) for name, value in ours.items() if value is not None)
    replaced = {name: given[name] for name, value in attributes.items() if name in given and given[name] != value}
    empty = [column for column, name in PAYLOADS.items() if row[column] is None and name in given]
    exported = {
        **{column: row[column] for column in EXPORTED_COLUMNS if row[column] is not None},
        "added": [name for name in attributes if name not in given],
        **({"replaced": replaced} if replaced else {}),
        **({"empty": empty} if empty else {}),
    }
    return {**given, **attributes, Lab.EXPORTED: to_json(exported)}


def _mime(text: str | None, is_json: int) -> str | None:
    return None if text is None else "application/json" if is_json else "text/plain"


def _pairs(attributes: Mapping[str, object]) -> list[dict[str, Json]]:
    return [_pair(name, value) for name, value in attributes.items()]


def _pair(name: str, value: object) -> dict[str, Json]:
    return {"key": name, "value": _any_value(value)}


def _any_value(value: object) -> dict[str, Json]:
    match value:
        case bool():
            return {"boolValue": value}
        case int() if abs(value) < 2**63:
            return {"intValue": str(value)}
        case float() | int():
            return {"doubleValue": float(value)}
        case str():
            return {"stringValue": value}
        case list():
            return {"arrayValue": {"values": [_any_value(inner) for inner in value]}}
        case dict():
            return {"kvlistValue": {"values": [_pair(str(key), inner) for key, inner in value.items()]}}
    return {"stringValue": json.dumps(value)} if value is not None else {}


def _nanos(moment: datetime) -> str:
    return str((moment - _EPOCH) // _MICROSECOND * 1000)


_VIEWS = ("traces", "spans", "generations", "tool_calls", "handoffs", "scores")
_TYPES = {"started_at": "timestamp", "ended_at": "timestamp", "cost_usd": "double", "queue_ms": "double", "rate_limit_ms": "double",
          "ttft_ms": "double", "input_tokens": "bigint", "output_tokens": "bigint", "cached_tokens": "bigint",
          "reasoning_tokens": "bigint", "io_json": "utinyint"}  # fmt: skip


def export_file(path: str | Path, store: Store, trace_ids: Sequence[str] | None = None) -> int:
    """Writes traces (None: all) as `.json` (OTLP), `.jsonl`, `.parquet` or `.duckdb`; returns the number of spans. Blocks.

    The file is written atomically; an existing one is replaced. Raises `UsageError` for another extension and for an
    existing `.duckdb` file that is not such an export, `NotFoundError` for an unknown trace.
    """
    target = Path(path)
    write = EXPORT_FORMATS.get(target.suffix.lower())
    if write is None:
        raise UsageError(
            f"Traces cannot be exported as {target.suffix or 'a file without an extension'!r}.",
            f"Use one of the extensions {', '.join(EXPORT_FORMATS)}, .html.",
        )
    _spare_labs(target, store)
    if trace_ids is None:
        ids = [
            row[0] for row in store.db.query(store.user_id, "select trace_id from traces order by started_at", []).rows
        ]
    else:
        ids = [store.traces.get(trace_id)["trace_id"] for trace_id in trace_ids]
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        n = write(draft, store, ids)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return n


def _spare_labs(target: Path, store: Store) -> None:
    """Raises `UsageError` if the existing file may be a lab. An export replaces a file of the same name, but a lab has more than traces."""
    if target.suffix.lower() != ".duckdb" or not target.exists():
        return
    # The open lab is recognized by its name only: opening its file again could release this process's lock on it.
    if target.resolve() == Path(store.db.url).resolve() or not _is_export(target):
        raise UsageError(
            f"{target} already exists and is not an export of traces; it may be a lab.", "Choose another name."
        )


def _is_export(file: Path) -> bool:
    import duckdb

    try:
        with duckdb.connect(str(file), read_only=True) as connection:
            row = connection.execute("select count(*) from duckdb_tables() where table_name = 'lab_spans'").fetchone()
    except duckdb.Error:  # Not a database, or locked by a process, as labs are.
        return False
    return bool(row and row[0])


def _otlp_json(target: Path, store: Store, ids: Sequence[str]) -> int:
    rows = list(flat_rows(store.db, store.user_id, ids))
    target.write_text(json.dumps(otlp_request(rows), ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    return len(rows)


def _jsonl(target: Path, store: Store, ids: Sequence[str]) -> int:
    n = 0
    with target.open("w", encoding="utf-8") as file:
        for entry in json_objects(flat_rows(store.db, store.user_id, ids)):
            file.write(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n")
            n += "span_id" in entry
    return n


def _parquet(target: Path, store: Store, ids: Sequence[str]) -> int:
    import duckdb

    with duckdb.connect(":memory:") as connection:
        n = _fill(connection, "lab_spans", flat_rows(store.db, store.user_id, ids))
        connection.execute(f"copy lab_spans to {_text(target)} (format parquet, compression zstd)")
    return n


def _duckdb(target: Path, store: Store, ids: Sequence[str]) -> int:
    import duckdb

    with duckdb.connect(str(target)) as connection:
        n = _fill(connection, "lab_spans", flat_rows(store.db, store.user_id, ids))
        for view in _VIEWS:
            _copy_view(connection, view, store, ids)
    return n


def _copy_view(connection: duckdb.DuckDBPyConnection, view: str, store: Store, ids: Sequence[str]) -> None:
    """Copies the rows of a documented view that belong to these traces to a table of the same name."""
    places = ", ".join(f"${n}" for n in range(1, len(ids) + 1)) or "null"
    key = f"trace_id in ({places})"
    if view == "scores":
        key = f"(target = 'trace' and target_id in ({places})) or (target = 'span' and target_id in (select span_id from spans where trace_id in ({places})))"
    result = store.db.query(store.user_id, f"select * from {view} where {key}", list(ids))
    described = ", ".join(f'"{column}" {_column_type(column)}' for column in result.columns)
    connection.execute(f"create table {view} ({described})")
    if result.rows:
        with connection.appender(view) as appender:
            appender.append_rows(result.rows)


def _fill(connection: duckdb.DuckDBPyConnection, table: str, rows: Iterable[Row]) -> int:
    connection.execute("set TimeZone = 'UTC'")
    connection.execute(
        f"create table {table} ({', '.join(f'{column} {_column_type(column)}' for column in FLAT_COLUMNS)})"
    )
    with connection.appender(table) as appender:
        appender.append_rows(rows)
    [(count,)] = connection.execute(f"select count(*) from {table}").fetchall()
    return int(count)


def _column_type(column: str) -> str:
    if column in ("duration_ms", "value"):
        return "double"
    if column in ("n_spans", "n_errors", "turns", "n_unpriced"):
        return "bigint"
    if column == "created_at":
        return "timestamp"
    return _TYPES.get(column, "varchar")


def _text(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


EXPORT_FORMATS: Mapping[str, Callable[[Path, Store, Sequence[str]], int]] = {
    ".json": _otlp_json, ".jsonl": _jsonl, ".parquet": _parquet, ".duckdb": _duckdb,
}  # fmt: skip
