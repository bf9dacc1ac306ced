"""One batch of trace events of one user, made ready for `Database.append`: every table it touches, in one transaction.

A tool call that waits for a person stays open when its process ends, and goes on in another one: rows with an approval are
therefore looked for in `open_spans`, while all other open spans are known to belong to the writer that opened them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from timestep_lab.model.ids import new_id
from timestep_lab.store.base import Change, Database, Dialect, Statement
from timestep_lab.store.message_bodies import BODY_COLUMNS, MessageBodies
from timestep_lab.store.span_rows import AT, OPEN_COLUMNS, SPAN_COLUMNS, TRACE_COLUMNS, Row, open_row
from timestep_lab.store.trace_deltas import DELTA_COLUMNS, trace_deltas

MANY_TRACES = 100
"""A batch over more traces than this is announced as one change with an empty id: read again whatever you show."""

SpanKey = tuple[str, str]
"""(trace_id, span_id)"""

DECIDED = ("pending", "approved", "rejected")
"""Approvals of calls that a person was asked about."""

_AMONG_KEYS: dict[Dialect, str] = {
    "duckdb": "user_id = $1 and list_contains(string_split($2, ' '), trace_id || span_id)",
    "postgres": "user_id = $1 and trace_id || span_id = any(string_to_array($2, ' '))",
}


@dataclass(slots=True)
class SpanBatch:
    """`opened_before`: keys of `ended` spans that have a row in `open_spans`, which this batch removes. `taken_over`: spans handed
    over as opened that have such a row already.

    Of an import: `deltas` is what it adds to its traces, `also` more tables, `then` what is done and looked at in the same transaction; no
    process of the lab keeps its open spans alive."""

    user_id: str
    starts: Sequence[Row] = ()
    opened: Sequence[Row] = ()
    ended: Sequence[Row] = ()
    opened_before: set[SpanKey] = field(default_factory=set)
    batch_id: str = field(default_factory=lambda: new_id("batch"))
    taken_over: list[Row] = field(default_factory=list)
    deltas: Sequence[Row] | None = None
    also: Mapping[str, tuple[Sequence[str], Sequence[Row]]] = field(default_factory=dict)
    then: Sequence[Statement] = ()
    _looked: bool = False

    def write(self, db: Database, bodies: MessageBodies) -> None:
        """Durable on return. May be called again after a `StoreError`: it is written once."""
        if self.deltas is None:
            self._take_over(db)
        slim, new_bodies = bodies.share(self.user_id, self.ended)
        deltas = self.deltas
        process_id = None
        if deltas is None:
            process_id = db.process_id
            deltas = trace_deltas(
                self.user_id,
                ended=self.ended,
                opened=self.opened,
                opened_before=self.opened_before,
                starts=self.starts,
            )
        tables: dict[str, tuple[Sequence[str], Sequence[Row]]] = {
            "traces_raw": (TRACE_COLUMNS, self.starts),
            "open_spans": (OPEN_COLUMNS, [open_row(row, process_of(row, process_id)) for row in self.opened]),
            "message_bodies": (BODY_COLUMNS, new_bodies),
            "spans_raw": (SPAN_COLUMNS, slim),
            "trace_deltas": (DELTA_COLUMNS, deltas),
            **self.also,
        }
        db.append(
            self.user_id,
            {name: table for name, table in tables.items() if table[1]},
            then=[*self._after(db), *self.then],
            changes=self._changes(delta[1] for delta in deltas),
            batch_id=self.batch_id,
        )
        bodies.written(new_bodies)

    def _take_over(self, db: Database) -> None:
        """Finds calls that another process, or this one before a pause, left open for a decision."""
        if self._looked:
            return
        decided = {
            span_key(row) for row in (*self.opened, *self.ended) if row[AT["approval"]] in DECIDED
        } - self.opened_before
        if decided:
            sql = f"select trace_id, span_id from core.open_spans where {_AMONG_KEYS[db.dialect]}"
            found = {(row[0], row[1]) for row in db.query(self.user_id, sql, [self.user_id, _joined(decided)]).rows}
            self.taken_over = [row for row in self.opened if span_key(row) in found]
            self.opened = [row for row in self.opened if span_key(row) not in found]
            self.opened_before |= found & {span_key(row) for row in self.ended}
        self._looked = True

    def _after(self, db: Database) -> list[Statement]:
        statements = [
            Statement(
                "update core.open_spans set process_id = $3, approval = $4, attributes = $5 where user_id = $1 and trace_id || span_id = $2",
                [
                    self.user_id,
                    "".join(span_key(row)),
                    process_of(row, db.process_id),
                    row[AT["approval"]],
                    row[AT["attributes"]],
                ],
            )
            for row in self.taken_over
        ]
        if self.opened_before:
            sql = f"delete from core.open_spans where {_AMONG_KEYS[db.dialect]}"
            statements.append(Statement(sql, [self.user_id, _joined(self.opened_before)]))
        return statements

    def _changes(self, trace_ids: Iterable[str]) -> list[Change]:
        ids = list(trace_ids)
        if len(ids) > MANY_TRACES:
            ids = [""]
        return [Change("traces", self.user_id, trace_id) for trace_id in ids]


def span_key(row: Row) -> SpanKey:
    return row[AT["trace_id"]], row[AT["span_id"]]


def process_of(row: Row, process_id: str | None) -> str | None:
    """Whose death ends the span. A call that waits for a person needs no process to live."""
    return None if row[AT["approval"]] == "pending" else process_id


def _joined(keys: Iterable[SpanKey]) -> str:
    return " ".join(trace_id + span_id for trace_id, span_id in keys)
