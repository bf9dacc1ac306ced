"""Whole traces into the store at once, from a file or another program. What is there already is not added again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b

from timestep_lab.store.base import Database, Dialect
from timestep_lab.store.message_bodies import MessageBodies
from timestep_lab.store.span_batch import SpanBatch, SpanKey
from timestep_lab.store.span_rows import AT, TRACE_COLUMNS, Row, span_row, trace_row
from timestep_lab.types.spans import SpanRecord, TraceStart

BATCH = 20_000
_SPAN_TRACE, _SPAN = AT["trace_id"], AT["span_id"]
UNNAMED = ""
"""Workflow of a trace whose root span has not come yet; a later start with a name stands beside it and wins."""
_TRACE_ID, _WORKFLOW = TRACE_COLUMNS.index("trace_id"), TRACE_COLUMNS.index("workflow")

_AMONG: dict[Dialect, str] = {
    "duckdb": "in (select unnest(string_split($2, ' ')))",
    "postgres": "= any(string_to_array($2, ' '))",
}


class TraceImport:
    """Keep one for a series of imports: it remembers which messages are stored. Blocks; not thread-safe."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._bodies = MessageBodies(db)

    def records(self, traces: Iterable[TraceStart], spans: Iterable[SpanRecord]) -> int:
        """`rows`, from records of any users."""
        starts: dict[str, list[Row]] = {}
        ended: dict[str, list[Row]] = {}
        for trace in traces:
            starts.setdefault(trace.user_id, []).append(trace_row(trace))
        for span in spans:
            ended.setdefault(span.user_id, []).append(span_row(span))
        return sum(self.rows(user, ended.get(user, []), starts.get(user, [])) for user in {**starts, **ended})

    def rows(self, user_id: str, spans: Sequence[Row], traces: Sequence[Row]) -> int:
        """How many spans were new. Durable on return; spans without an end are stored as they are.

        A trace of `spans` that is neither in `traces` nor in the store gets a start from its first span.
        """
        added = 0
        for first in range(0, max(len(spans), 1), BATCH):
            added += self._batch(user_id, spans[first : first + BATCH], traces if first == 0 else ())
        return added

    def _batch(self, user_id: str, spans: Sequence[Row], traces: Sequence[Row]) -> int:
        trace_ids = {row[AT["trace_id"]] for row in spans} | {row[_TRACE_ID] for row in traces}
        known = self._known_traces(user_id, trace_ids)
        stored = self._stored_spans(user_id, spans) if known else set()
        new: dict[SpanKey, Row] = {(row[_SPAN_TRACE], row[_SPAN]): row for row in spans}
        for key in stored:
            new.pop(key, None)
        starts = {row[_TRACE_ID]: row for row in traces if _tells_more(row[_WORKFLOW], known.get(row[_TRACE_ID]))}
        for row in _first_spans(new.values(), {*starts, *(trace_id for trace_id, name in known.items() if name)}):
            workflow = row[AT["name"]] if row[AT["parent_id"]] is None else UNNAMED
            if _tells_more(workflow, known.get(row[AT["trace_id"]])):
                starts[row[AT["trace_id"]]] = (
                    user_id, row[AT["trace_id"]], workflow, None, row[AT["started_at"]], "{}", None, None,
                )  # fmt: skip
        if not new and not starts:
            return 0
        # The same rows sent twice at the same time have the same batch id, and are written once.
        keys = "".join(map("".join, [*new, *((trace_id, "") for trace_id in starts)]))
        digest = blake2b(keys.encode(), digest_size=12).hexdigest()
        batch = SpanBatch(user_id, list(starts.values()), (), list(new.values()), batch_id=f"import_{digest}")
        batch.write(self._db, self._bodies)
        return len(new)

    def _known_traces(self, user_id: str, trace_ids: set[str]) -> dict[str, str]:
        """Id to workflow of those that have a start."""
        sql = (
            "select trace_id, max(workflow) from core.traces_raw "
            f"where user_id = $1 and trace_id {_AMONG[self._db.dialect]} group by trace_id"
        )
        return dict(self._db.query(user_id, sql, [user_id, " ".join(trace_ids)]).rows)

    def _stored_spans(self, user_id: str, spans: Sequence[Row]) -> set[SpanKey]:
        if not spans:
            return set()
        moments = [row[AT["started_at"]] for row in spans]
        sql = (
            "select trace_id, span_id from core.spans_raw where user_id = $1 and started_at between $3 and $4 "
            f"and trace_id {_AMONG[self._db.dialect]}"
        )
        ids = " ".join({row[AT["trace_id"]] for row in spans})
        found = self._db.query(user_id, sql, [user_id, ids, min(moments), max(moments)])
        return {(trace_id, span_id) for trace_id, span_id in found.rows}


def _first_spans(rows: Iterable[Row], except_traces: set[str]) -> list[Row]:
    """Of each other trace its root span, or the one that began first."""
    first: dict[str, Row] = {}
    for row in rows:
        trace_id = row[AT["trace_id"]]
        if trace_id not in except_traces and (trace_id not in first or _rank(row) < _rank(first[trace_id])):
            first[trace_id] = row
    return list(first.values())


def _rank(row: Row) -> tuple[bool, object]:
    return row[AT["parent_id"]] is not None, row[AT["started_at"]]


def _tells_more(workflow: str, known: str | None) -> bool:
    return known is None or (known == UNNAMED and workflow != UNNAMED)
