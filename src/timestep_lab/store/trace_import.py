"""Whole traces into the store at once, from a file or another program. What is there already is not added again.

A span that came open and comes again finished is then finished; one that is finished stays as it is, whatever comes later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b

from timestep_lab.store.base import Database, Dialect
from timestep_lab.store.message_bodies import MessageBodies
from timestep_lab.store.span_batch import SpanBatch, SpanKey
from timestep_lab.store.span_rows import AT, TRACE_COLUMNS, Row, span_row, trace_row
from timestep_lab.store.trace_deltas import RESPONSE_ID, Spent
from timestep_lab.types.spans import SpanRecord, TraceStart

BATCH = 20_000
_SPAN_TRACE, _SPAN, _ENDED, _STATUS = AT["trace_id"], AT["span_id"], AT["ended_at"], AT["status"]
UNNAMED = ""
"""Workflow of a trace whose root span has not come yet; a later start with a name stands beside it and wins."""
_TRACE_ID, _WORKFLOW = TRACE_COLUMNS.index("trace_id"), TRACE_COLUMNS.index("workflow")

_AMONG: dict[Dialect, str] = {
    "duckdb": "in (select unnest(string_split($2, ' ')))",
    "postgres": "= any(string_to_array($2, ' '))",
}


_STARTED_FROM: dict[Dialect, str] = {"duckdb": "trace_deltas", "postgres": "trace_rollups"}
_ANSWER: dict[Dialect, str] = {
    "duckdb": f"regexp_extract(attributes, '{RESPONSE_ID}', 1)",
    "postgres": f"substring(attributes from '{RESPONSE_ID}')",
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
        """How many spans were new, or are finished now. Durable on return; pending spans without an end are open.

        A trace of `spans` that is neither in `traces` nor in the store gets a start from its first span.
        """
        added = 0
        for first in range(0, max(len(spans), 1), BATCH):
            added += self._batch(user_id, spans[first : first + BATCH], traces if first == 0 else ())
        return added

    def _batch(self, user_id: str, spans: Sequence[Row], traces: Sequence[Row]) -> int:
        trace_ids = {row[AT["trace_id"]] for row in spans} | {row[_TRACE_ID] for row in traces}
        known = self._known_traces(user_id, trace_ids)
        stored, open_before = self._stored_spans(user_id, known) if known and spans else ({}, set())
        new: dict[SpanKey, Row] = {}
        for row in spans:
            key = (row[_SPAN_TRACE], row[_SPAN])
            if key[1] in stored.get(key[0], {}) and (key not in open_before or _is_open(row)):
                continue
            if not (_is_open(row) and key in new):
                new[key] = row
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
        opened = [row for row in new.values() if _is_open(row)]
        ended = [row for row in new.values() if not _is_open(row)] if opened else list(new.values())
        keys = "".join(map("".join, [*new, *((trace_id, "") for trace_id in starts)]))
        if opened:
            keys += "".join(["open", *(row[_SPAN] for row in opened)])
        digest = blake2b(keys.encode(), digest_size=12).hexdigest()
        batch = SpanBatch(
            user_id, list(starts.values()), opened, ended, open_before & new.keys(), f"import_{digest}", stored=stored
        )
        batch.write(self._db, self._bodies)
        return len(new)

    def _known_traces(self, user_id: str, trace_ids: set[str]) -> dict[str, str]:
        """Id to workflow of those that have a start."""
        sql = (
            "select trace_id, max(workflow) from core.traces_raw "
            f"where user_id = $1 and trace_id {_AMONG[self._db.dialect]} group by trace_id"
        )
        return dict(self._db.query(user_id, sql, [user_id, " ".join(trace_ids)]).rows)

    def _stored_spans(self, user_id: str, trace_ids: Iterable[str]) -> tuple[dict[str, dict[str, Spent]], set[SpanKey]]:
        """What is in the store of these traces, by trace and span id; and which of the spans are open."""
        among, params = _AMONG[self._db.dialect], [user_id, " ".join(trace_ids)]
        table = _STARTED_FROM[self._db.dialect]
        first = self._db.query(
            user_id, f"select min(started_at) from core.{table} where user_id = $1 and trace_id {among}", params
        ).one()
        if first is None or first[0] is None:
            return {}, set()
        sql = (
            "select trace_id, span_id, true as finished, parent_id, kind = 'generation' as is_generation, input_tokens, output_tokens, "
            f"cost_usd, case when kind = 'generation' then nullif({_ANSWER[self._db.dialect]}, '') end as answer, started_at, coalesce(ended_at, started_at) as ended_at from core.spans_raw "
            f"where user_id = $1 and started_at >= $3 and trace_id {among} union all "
            "select trace_id, span_id, false, parent_id, kind = 'generation', null, null, null, null, started_at, started_at from core.open_spans "
            f"where user_id = $1 and trace_id {among}"
        )
        stored: dict[str, dict[str, Spent]] = {}
        is_open: set[SpanKey] = set()
        for trace_id, span_id, ended, *spent in self._db.query(user_id, sql, [*params, first[0]]).rows:
            stored.setdefault(trace_id, {})[span_id] = Spent(*spent)
            if not ended:
                is_open.add((trace_id, span_id))
        return stored, is_open


def _is_open(row: Row) -> bool:
    return row[_ENDED] is None and row[_STATUS] == "pending"


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
