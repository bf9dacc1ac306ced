"""Bulk import of traces from a file or another program. Existing spans are not added again.

An open span that arrives again as finished is closed. Finished versions of one span that differ are merged independently of their order:
the most complete one wins, with the earliest start, the latest end and the events of all versions.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from weakref import WeakKeyDictionary

from timestep_lab.model.clock import to_naive_utc, utc_now
from timestep_lab.model.errors import BusyError, ConflictError
from timestep_lab.model.ids import new_id
from timestep_lab.model.spans import Lab, SpanRecord, TraceStart
from timestep_lab.store.archive import bring_back
from timestep_lab.store.base import Database, Dialect, Statement
from timestep_lab.store.imported_trace import NAMED, ImportedTrace, SpanBatch, SpanKey, TraceStatement, is_open
from timestep_lab.store.spans import (
    AT,
    INPUT_IS_JSON,
    OUTPUT_IS_JSON,
    SPAN_COLUMNS,
    MessageBodies,
    Row,
    SpanReader,
    StoredEvent,
    answered,
    asked,
    events_of,
    payload_value,
    span_row,
)
from timestep_lab.store.table import clean, from_json, to_json
from timestep_lab.store.trace_sums import (
    DELTA_COLUMNS,
    INEXACT_TOTAL,
    REQUEST_OF_CLIENT,
    RESPONSE_ID,
    Facts,
    Repeated,
    SpanFacts,
    facts_of,
)

BATCH = 20_000
KEPT_SPANS = 100_000
"""Number of spans whose facts are cached, so that a trace sent in many parts is read from the store once."""
MOST_TRIES = 20
"""Attempts to write a part while other writers add to the same trace."""
_TRACE, _SPAN, _STARTED, _ENDED = AT["trace_id"], AT["span_id"], AT["started_at"], AT["ended_at"]
_STATUS, _AGENT, _ATTRIBUTES = AT["status"], AT["agent"], AT["attributes"]
_VALUES = SPAN_COLUMNS[3:]
_APART = frozenset(AT[name] for name in ("agent", "started_at", "ended_at", "io_json", "input_refs", "attributes"))
"""Columns that do not count towards a span's completeness. Its agent may be inherited."""
SpanEvent = tuple[str, str, StoredEvent]
"""(trace_id, span_id, event) for an event that was sent separately from its span."""
AddEvents = Callable[[Row, Sequence[StoredEvent]], Row]
"""Adds events to a span's row; returns the same row if it has them already."""
WAITING_COLUMNS = ("user_id", "trace_id", "span_id", "event", "received_at")
REPEATED_COLUMNS = (
    "user_id", "trace_id", "span_id", "started_at", "provider", "model", "calls", "input_tokens", "output_tokens", "cost_usd",
)  # fmt: skip

_AMONG: dict[Dialect, str] = {
    "duckdb": "in (select unnest(string_split($2, ' ')))",
    "postgres": "= any(string_to_array($2, ' '))",
}
_WAITING = (
    " union all select trace_id, null, null, null, null, null, null, null, span_id, event "
    "from core.waiting_events where user_id = $1 and trace_id {0}"
)
_SUMS: dict[Dialect, str] = {
    "duckdb": "select trace_id, count(*), coalesce(max(version), 0), min(started_at), "
    "min(case when workflow is not null then coalesce(workflow_key, 0) end), "
    "min(case when thread_id is not null then coalesce(thread_key, 0) end), "
    "min(case when end_user is not null then coalesce(end_user_key, 0) end), max(ended_at), null, null "
    "from core.trace_deltas where user_id = $1 and trace_id {0} group by trace_id "
    "union all select null, max(delta_no), 0, (select max(day) + interval 1 day from core.archive_files), null, null, null, null, null, null "
    "from core.trace_deltas" + _WAITING,
    "postgres": "select trace_id, n_deltas, coalesce(version, 0), started_at, "
    "case when workflow is not null then coalesce(workflow_key, 0) end, "
    "case when thread_id is not null then coalesce(thread_key, 0) end, "
    "case when end_user is not null then coalesce(end_user_key, 0) end, ended_at, null, null "
    "from core.trace_rollups where user_id = $1 and trace_id {0}" + _WAITING,
}
"""Returns one row per trace; on DuckDB one row without a trace, with the number of the last delta and the end of the archived days; and
one per event waiting for its span."""
_UNDISTURBED: dict[Dialect, str] = {
    "duckdb": "select 1 from core.trace_deltas where delta_no > $4 and user_id = $1 and trace_id {0} having count(*) = $3",
    "postgres": "select 1 from core.trace_rollups where user_id = $1 and trace_id {0} having sum(n_deltas) = $3",
}
"""Returns a row unless other writers changed these traces since they were read."""
_ANSWER: dict[Dialect, str] = {
    "duckdb": f"nullif(regexp_extract(attributes, '{RESPONSE_ID}', 1), '')",
    "postgres": f"substring(attributes from '{RESPONSE_ID}')",
}
_INEXACT: dict[Dialect, str] = {
    "duckdb": f"(kind = 'agent' and regexp_matches(attributes, '{INEXACT_TOTAL}'))",
    "postgres": f"(kind = 'agent' and attributes ~ '{INEXACT_TOTAL}')",
}
_SAYS = "{0} is not null and {0} not in ('', '[]', 'null', '\"\"', '{{{{}}}}')"
_FACTS = (
    "select trace_id, span_id, parent_id, kind, name, agent, false, status = 'error', model, provider, started_at, "
    "coalesce(ended_at, started_at), input_tokens, output_tokens, cost_usd, "
    "case when kind = 'generation' then {1} end, "
    f"input_refs is not null or ({_SAYS.format('input')}), {_SAYS.format('output')}, "
    f"kind = 'generation' and strpos(attributes, '{REQUEST_OF_CLIENT}') > 0, {{2}} "
    "from core.spans_raw where user_id = $1 and started_at >= $3 and trace_id {0} union all "
    "select trace_id, span_id, parent_id, kind, name, agent, true, false, model, provider, started_at, started_at, "
    f"null, null, null, null, {_SAYS.format('input')}, false, false, false from core.open_spans where user_id = $1 and trace_id {{0}}"
)


class _Shared:
    """State shared by all imports into one database: traces being written, and cached facts of recent traces."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._claimed: set[tuple[str, str]] = set()
        self._kept: OrderedDict[tuple[str, str], ImportedTrace] = OrderedDict()
        self._n_spans = 0

    @contextmanager
    def claimed(self, keys: set[tuple[str, str]]) -> Iterator[None]:
        """Context manager that reserves these (user, trace) keys for one import of this process."""
        with self._free:
            while not keys.isdisjoint(self._claimed):
                self._free.wait()
            self._claimed |= keys
        try:
            yield
        finally:
            with self._free:
                self._claimed -= keys
                self._free.notify_all()

    def take(self, key: tuple[str, str]) -> ImportedTrace | None:
        with self._free:
            trace = self._kept.pop(key, None)
            if trace is not None:
                self._n_spans -= len(trace.spans)
        return trace

    def keep(self, user_id: str, traces: Iterable[ImportedTrace]) -> None:
        with self._free:
            for trace in traces:
                self._kept[user_id, trace.trace_id] = trace
                self._n_spans += len(trace.spans)
            while self._n_spans > KEPT_SPANS and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self._n_spans -= len(oldest.spans)


_shared_lock = threading.Lock()
_shared: WeakKeyDictionary[Database, _Shared] = WeakKeyDictionary()


def _shared_of(db: Database) -> _Shared:
    with _shared_lock:
        return _shared.setdefault(db, _Shared())


class TraceImport:
    """Imports traces. Keep one instance for a series of imports: it remembers which messages are stored. Blocks; not thread-safe."""

    def __init__(self, db: Database, add_events: AddEvents = lambda row, _: row, *, source: str | None = None) -> None:
        """`source`: origin of the traces; None for live traces."""
        self._db, self._add_events, self._source = db, add_events, source
        self._bodies = MessageBodies(db)
        self._shared = _shared_of(db)

    def records(self, traces: Iterable[TraceStart], spans: Iterable[SpanRecord]) -> int:
        """Same as `rows`, for records of any users."""
        starts: dict[str, list[TraceStatement]] = {}
        ended: dict[str, list[Row]] = {}
        for trace in traces:
            starts.setdefault(trace.user_id, []).append(_statement(trace))
        for span in spans:
            ended.setdefault(span.user_id, []).append(span_row(span))
        return sum(self.rows(user, ended.get(user, []), starts.get(user, [])) for user in {**starts, **ended})

    def rows(
        self, user_id: str, spans: Sequence[Row], statements: Sequence[TraceStatement], events: Sequence[SpanEvent] = ()
    ) -> int:
        """Imports spans and returns how many were added or closed. Durable on return. Pending spans without an end are open; events wait
        for their span."""
        added = 0
        for first in range(0, max(len(spans), 1), BATCH):
            added += self._batch(
                user_id, spans[first : first + BATCH], statements if first == 0 else (), events if first == 0 else ()
            )
        return added

    def _batch(
        self, user_id: str, spans: Sequence[Row], statements: Sequence[TraceStatement], events: Sequence[SpanEvent]
    ) -> int:
        rows: dict[str, list[Row]] = {one.trace_id: [] for one in statements}
        rows.update((trace_id, []) for trace_id, _, _ in events)
        for row in spans:
            rows.setdefault(row[_TRACE], []).append(row)
        by_trace: dict[str, TraceStatement] = {}
        for one in statements:
            by_trace[one.trace_id] = one if one.trace_id not in by_trace else by_trace[one.trace_id].merged_with(one)
        with self._shared.claimed({(user_id, trace_id) for trace_id in rows}):
            for _ in range(MOST_TRIES):
                traces, seen, waiting = self._look_up(user_id, rows)
                part = _Part(self._db, user_id, self._add_events, waiting, events, self._source)
                for trace_id in sorted(rows):  # A fixed order avoids deadlocks between concurrent writers.
                    part.add(traces[trace_id], rows[trace_id], by_trace.get(trace_id))
                if part.has_something:
                    try:
                        part.write(self._bodies, seen)
                    except ConflictError:
                        time.sleep(0.01)
                        continue
                self._shared.keep(user_id, traces.values())
                return part.n_new
        raise BusyError("Other clients keep writing parts of the same traces.", "Retry the request.", retry_after=1.0)

    def _look_up(self, user_id: str, trace_ids: Iterable[str]) -> tuple[dict[str, ImportedTrace], int, list[SpanEvent]]:
        """Returns the stored state of these traces, the number of the last delta, and the events waiting for their spans."""
        dialect = self._db.dialect
        among = _AMONG[dialect]
        rows = self._db.query(user_id, _SUMS[dialect].format(among), [user_id, " ".join(trace_ids)]).rows
        seen, archived_to = next(((row[1] or 0, row[3]) for row in rows if row[0] is None), (0, None))
        waiting = [(row[0], row[8], from_json(row[9])) for row in rows if row[9] is not None]
        sums = {row[0]: row[1:8] for row in rows if row[0] is not None and row[9] is None}
        if archived_to is not None:
            starts = {trace_id: one[2] for trace_id, one in sums.items() if one[2] is not None and one[2] < archived_to}
            bring_back(self._db, user_id, starts)
        traces: dict[str, ImportedTrace] = {}
        to_read: list[ImportedTrace] = []
        for trace_id in trace_ids:
            cached = self._shared.take((user_id, trace_id))
            if trace_id not in sums:
                traces[trace_id] = ImportedTrace(trace_id)
                continue
            n_parts, version, started_at, workflow_key, thread_key, end_user_key, ended_at = sums[trace_id]
            if cached is not None and cached.n_parts == n_parts:
                traces[trace_id] = cached
                continue
            trace = traces[trace_id] = ImportedTrace(trace_id)
            trace.is_known, trace.n_parts, trace.version, trace.started_at = True, n_parts, version, started_at
            trace.workflow_key, trace.thread_key, trace.end_user_key = workflow_key, thread_key, end_user_key
            trace.has_end = ended_at is not None
            to_read.append(trace)
        if to_read:
            self._read(user_id, to_read)
        return traces, seen, waiting

    def _read(self, user_id: str, traces: Sequence[ImportedTrace]) -> None:
        starts = [trace.started_at for trace in traces if trace.started_at is not None]
        if not starts:
            return
        dialect = self._db.dialect
        sql = _FACTS.format(_AMONG[dialect], _ANSWER[dialect], _INEXACT[dialect])
        params = [user_id, " ".join(trace.trace_id for trace in traces), min(starts)]
        stored: dict[str, dict[str, SpanFacts]] = {}
        for trace_id, span_id, *facts in self._db.query(user_id, sql, params).rows:
            stored.setdefault(trace_id, {})[span_id] = SpanFacts(*facts)
        for trace in traces:
            trace.load(stored.get(trace.trace_id, {}))


class _Part:
    """The writes of one batch."""

    def __init__(
        self,
        db: Database,
        user_id: str,
        add_events: AddEvents,
        waiting: Iterable[SpanEvent],
        events: Iterable[SpanEvent],
        source: str | None,
    ) -> None:
        self._db, self._user_id, self._add_events, self._source = db, user_id, add_events, source
        self._events: dict[str, dict[str, list[StoredEvent]]] = {}
        """Events by trace and span: those waiting in the store, then the new ones."""
        self._n_waiting: dict[SpanKey, int] = {}
        for trace_id, span_id, event in waiting:
            self._events.setdefault(trace_id, {}).setdefault(span_id, []).append(event)
            self._n_waiting[trace_id, span_id] = self._n_waiting.get((trace_id, span_id), 0) + 1
        for trace_id, span_id, event in events:
            of_span = self._events.setdefault(trace_id, {}).setdefault(span_id, [])
            if event not in of_span:
                of_span.append(event)
        self._to_wait: list[Row] = []
        self._arrived: list[SpanKey] = []
        self._changed: list[tuple[Row, datetime | None]] = []
        """Stored spans with new information, and the start of their trace."""
        self.n_new = 0
        self.deltas: list[Row] = []
        self._starts: list[Row] = []
        self._opened: list[Row] = []
        self._ended: list[Row] = []
        self._opened_before: set[SpanKey] = set()
        self._repeated: list[Row] = []
        self._agents: dict[tuple[str, datetime | None, str], list[str]] = {}
        """(trace, its start, agent): stored spans to be assigned to the agent."""
        self._n_parts = 0

    def add(self, trace: ImportedTrace, rows: Sequence[Row], stated: TraceStatement | None) -> None:
        new, again = self._new(trace, rows)
        changed = self._completed(trace, again) if again else {}
        if trace.trace_id in self._events:
            self._with_events(trace, new, changed)
        adds_more = stated is not None and _adds_more(trace, stated)
        if not new and not changed and not adds_more and (trace.is_known or stated is None):
            return
        closed = {span_id for span_id in new if span_id in trace.spans}
        facts = {span_id: facts_of(row) for span_id, row in new.items()}
        facts.update((span_id, facts_of(row)) for span_id, row in changed.items())
        self._changed += [(row, trace.started_at) for row in changed.values()]
        n_failed = sum(row[_STATUS] == "error" for row in changed.values()) - sum(
            trace.spans[i].failed for i in changed
        )
        added = trace.add(facts)
        for span_id, agent in added.agents.items():
            if span_id in new:
                row = new[span_id]
                new[span_id] = (*row[:_AGENT], agent, *row[_AGENT + 1 :])
            else:
                self._agents.setdefault((trace.trace_id, trace.started_at, agent), []).append(span_id)
        opened = [row for row in new.values() if row[_ENDED] is None and is_open(row)]
        ended = [row for row in new.values() if not is_open(row)] if opened else list(new.values())
        self.n_new += len(new)
        self._opened += opened
        self._ended += ended
        self._opened_before.update((trace.trace_id, span_id) for span_id in closed)
        self._repeated += [self._repeated_row(trace, *one) for one in added.repeated]

        started_at = min(
            (row[_STARTED] for row in new.values()),
            default=trace.started_at or (stated.started_at if stated else None),
        )
        for row in changed.values():
            started_at = row[_STARTED] if started_at is None else min(started_at, row[_STARTED])
        if stated is not None and stated.started_at is not None and started_at is not None and not trace.is_known:
            started_at = min(started_at, stated.started_at)
        ended_at = self._end(trace, [*ended, *changed.values()])
        if started_at is None:
            return
        earlier = trace.started_at is None or started_at < trace.started_at
        if stated is None:
            stated = TraceStatement(trace.trace_id)
        if adds_more or earlier or not trace.is_known:
            self._starts.append((
                self._user_id, trace.trace_id, (stated.workflow or "") if adds_more else "", stated.thread_id if adds_more else None,
                started_at, stated.metadata, stated.parent_trace_id, stated.fork_span_id,
            ))  # fmt: skip
        self._n_parts += trace.n_parts
        trace.version = max(trace.version, trace.n_parts) + 1
        workflow, workflow_key = self._workflow(trace, stated)
        thread_id, thread_key = (
            (stated.thread_id, stated.thread_key) if adds_more and stated.thread_id else (None, None)
        )
        if thread_key is not None and (trace.thread_key is None or thread_key < trace.thread_key):
            trace.thread_key = thread_key
        end_user, end_user_key = (
            (stated.end_user, stated.end_user_key) if adds_more and stated.end_user else (None, None)
        )
        if end_user_key is not None and (trace.end_user_key is None or end_user_key < trace.end_user_key):
            trace.end_user_key = end_user_key
        text_in, in_key, text_out, out_key = self._payloads(trace, {**new, **changed})
        values: dict[str, object] = {
            "user_id": self._user_id, "trace_id": trace.trace_id, "workflow": workflow, "workflow_key": workflow_key, "thread_id": thread_id,
            "thread_key": thread_key, "started_at": started_at, "ended_at": ended_at, "n_spans": len(new) - len(closed),
            "n_open": len(opened) - len(closed), "n_errors": sum(row[_STATUS] == "error" for row in ended) + n_failed, "n_turns": added.n_turns,
            "agents": trace.agents(), "model": trace.model(), "input": text_in, "input_key": in_key, "output": text_out,
            "output_key": out_key, "root_error": trace.failed(), "interrupted": False, "version": trace.version,
            **Facts.of([*ended, *changed.values()], from_json(stated.metadata), source=self._source)._asdict(),
            "end_user": end_user, "end_user_key": end_user_key, **added.used._asdict(),
        }  # fmt: skip
        self.deltas.append(tuple(map(values.get, DELTA_COLUMNS)))
        trace.started_at = started_at if earlier else trace.started_at
        trace.is_known, trace.n_parts = True, trace.n_parts + 1

    @staticmethod
    def _end(trace: ImportedTrace, finished: Sequence[Row]) -> datetime | None:
        """Returns the end of these spans. A trace of spans without an end has none; in others, such a span ends at its start."""
        is_timed = any(row[_ENDED] is not None for row in finished)
        if not is_timed and not trace.has_end:
            return None
        ends = [row[_ENDED] or row[_STARTED] for row in finished]
        if not trace.has_end:
            trace.has_end = True
            ends += [facts.ended_at for facts in trace.spans.values() if not facts.is_open]
        return max(ends, default=None)

    @property
    def has_something(self) -> bool:
        return bool(self.deltas or self._to_wait)

    def _new(self, trace: ImportedTrace, rows: Sequence[Row]) -> tuple[dict[str, Row], dict[str, Row]]:
        """Returns by id: new or previously open spans; and finished spans that arrive again."""
        new = {row[_SPAN]: row for row in rows}
        if not trace.spans and len(new) == len(rows):
            return new, {}
        new.clear()
        again: dict[str, Row] = {}
        for row in rows:
            span_id, opened = row[_SPAN], is_open(row)
            known = trace.spans.get(span_id)
            if known is not None and (opened or not known.is_open):
                if not opened:
                    again[span_id] = row if span_id not in again else self._merged(again[span_id], row)
                continue
            other = new.get(span_id)
            if other is None or (is_open(other) and not opened):
                new[span_id] = row
            elif not opened:
                new[span_id] = self._merged(other, row)
        return new, again

    def _completed(self, trace: ImportedTrace, again: Mapping[str, Row]) -> dict[str, Row]:
        """Returns the stored spans, among those that arrive again, to which the new version adds information."""
        changed: dict[str, Row] = {}
        for span_id, stored in self._finished(trace, again).items():
            merged = self._merged(stored, again[span_id])
            if merged is not stored:
                changed[span_id] = merged
        return changed

    def _merged(self, one: Row, other: Row) -> Row:
        """Merges two finished versions of a span; returns `one` itself when the other adds nothing."""
        most, least = (one, other) if _completeness(one) >= _completeness(other) else (other, one)
        times = _times(one, other)
        if (most[_STARTED], most[_ENDED]) != times:
            most = (*most[:_STARTED], *times, *most[_ENDED + 1 :])
        if Lab.EVENTS in (least[_ATTRIBUTES] or ""):
            most = self._add_events(most, events_of(from_json(least[_ATTRIBUTES])))
        return most

    def _finished(self, trace: ImportedTrace, span_ids: Iterable[str]) -> dict[str, Row]:
        return SpanReader(self._db, self._user_id).finished(trace.trace_id, span_ids, trace.started_at)

    def _with_events(self, trace: ImportedTrace, new: dict[str, Row], changed: dict[str, Row]) -> None:
        """Adds events to their spans, in `new` or (for stored spans) in `changed`. Events of other spans wait until the span ends."""
        for span_id, events in self._events[trace.trace_id].items():
            key, known = (trace.trace_id, span_id), trace.spans.get(span_id)
            if span_id in new and not is_open(new[span_id]):
                new[span_id] = self._add_events(new[span_id], events)
            elif span_id not in new and known is not None and not known.is_open:
                row = changed.get(span_id) or self._finished(trace, [span_id]).get(span_id)
                if row is not None and (with_them := self._add_events(row, events)) is not row:
                    changed[span_id] = with_them
            else:
                moment = to_naive_utc(utc_now())
                fresh = events[self._n_waiting.get(key, 0) :]
                self._to_wait += [(self._user_id, *key, to_json(event), moment) for event in fresh]
                continue
            if key in self._n_waiting:
                self._arrived.append(key)

    def _change_statements(self) -> Iterator[Statement]:
        number = (
            ", span_no = nextval('core.span_numbers')" if self._db.dialect == "duckdb" else ""
        )  # A new number makes the search index process it again.
        for row, since in self._changed:
            sets = ", ".join(f"{column} = ${place}" for place, column in enumerate(_VALUES, 4))
            sql = f"update core.spans_raw set {sets}{number} where user_id = $1 and trace_id = $2 and span_id = $3"
            sql += f" and started_at >= ${4 + len(_VALUES)}"
            yield Statement(sql, [*row[:3], *(row[AT[column]] for column in _VALUES), since])
        for trace_id, span_id in self._arrived:
            sql = "delete from core.waiting_events where user_id = $1 and trace_id = $2 and span_id = $3"
            yield Statement(sql, [self._user_id, trace_id, span_id])

    def write(self, bodies: MessageBodies, seen: int) -> None:
        """Writes the batch. Raises `ConflictError` when another writer changed these traces meanwhile."""
        dialect, trace_ids = self._db.dialect, [delta[1] for delta in self.deltas]
        n_rows = self._n_parts + len(trace_ids) if dialect == "postgres" else len(trace_ids)
        params = [self._user_id, " ".join(trace_ids), n_rows, *([seen] if dialect == "duckdb" else [])]
        undisturbed = Statement(_UNDISTURBED[dialect].format(_AMONG[dialect]), params, expect=1)
        SpanBatch(
            self._user_id, self._starts, self._opened, self._ended, self._opened_before, new_id("batch"), deltas=self.deltas,
            also={"repeated_calls": (REPEATED_COLUMNS, self._repeated), "waiting_events": (WAITING_COLUMNS, self._to_wait)},
            then=[*([undisturbed] if trace_ids else []), *self._change_statements(), *self._agent_statements()],
        ).write(self._db, bodies)  # fmt: skip

    def _agent_statements(self) -> Iterator[Statement]:
        among = _AMONG[self._db.dialect]
        for (trace_id, started_at, agent), span_ids in self._agents.items():
            for table in ("spans_raw", "open_spans"):
                sql = f"update core.{table} set agent = $4 where user_id = $1 and started_at >= $5 and trace_id = $3 and span_id {among}"
                yield Statement(sql, [self._user_id, " ".join(span_ids), trace_id, agent, started_at])

    def _repeated_row(self, trace: ImportedTrace, span_id: str, facts: SpanFacts, counted: Repeated) -> Row:
        return (
            self._user_id, trace.trace_id, span_id, facts.started_at, facts.provider, facts.model, *counted,
        )  # fmt: skip

    def _workflow(self, trace: ImportedTrace, stated: TraceStatement) -> tuple[str | None, int | None]:
        """Returns the stated name, or else the name of the root; a newer root replaces an older one, since parents may arrive later."""
        key = trace.workflow_key
        if stated.workflow and (key is None or stated.workflow_key < key):
            trace.workflow_key = stated.workflow_key
            return stated.workflow[:160], stated.workflow_key
        name = trace.name() if key is None or key > NAMED - (1 << 60) else None
        if name is None:
            return None, None
        trace.workflow_key = NAMED - trace.version
        return name, trace.workflow_key

    def _payloads(
        self, trace: ImportedTrace, new: Mapping[str, Row]
    ) -> tuple[str | None, int | None, str | None, int | None]:
        """Returns the trace's input and output, with their keys, if they now come from another span."""
        first, last = trace.input(), trace.output()
        text_in = text_out = None
        if first is not None and (first != trace.input_of or first in new):
            value = self._stored(trace, first, "input") if first not in new else _input(new[first])
            text_in, trace.input_of = asked(value), first
        if last is not None and (last != trace.output_of or last in new):
            value = self._stored(trace, last, "output") if last not in new else _output(new[last])
            text_out, trace.output_of = answered(value), last
        in_key = None if text_in is None else -trace.version
        return text_in, in_key, text_out, None if text_out is None else (1 << 61) + trace.version

    def _stored(self, trace: ImportedTrace, span_id: str, name: str) -> object:
        spans = SpanReader(self._db, self._user_id).whole(trace.trace_id, [span_id])
        return spans[0][name] if spans else None


def _completeness(row: Row) -> tuple[int, int, list[str]]:
    """Returns a total order of finished versions of a span: number of filled columns, amount of text, and content."""
    filled = [value for place, value in enumerate(row) if place not in _APART and value is not None]
    payload = [row[place] or "" for place in (_ATTRIBUTES, AT["input"], AT["output"])]
    return len(filled), sum(map(len, payload)), [*map(str, filled), *payload]


def _times(one: Row, other: Row) -> tuple[datetime, datetime | None]:
    """Returns the merged start and end. A version without an end was sent without a valid start either."""
    timed = [row for row in (one, other) if row[_ENDED] is not None]
    if not timed:
        return min(one[_STARTED], other[_STARTED]), None
    return min(row[_STARTED] for row in timed), max(row[_ENDED] for row in timed)


def _adds_more(trace: ImportedTrace, stated: TraceStatement) -> bool:
    return bool(
        (stated.workflow and (trace.workflow_key is None or stated.workflow_key < trace.workflow_key))
        or (stated.thread_id and (trace.thread_key is None or stated.thread_key < trace.thread_key))
        or (stated.end_user and (trace.end_user_key is None or stated.end_user_key < trace.end_user_key))
    )


def _statement(trace: TraceStart) -> TraceStatement:
    return TraceStatement(
        trace.trace_id, clean(trace.workflow), thread_id=None if trace.thread_id is None else clean(str(trace.thread_id)),
        started_at=to_naive_utc(trace.started_at), metadata=to_json(trace.metadata), parent_trace_id=trace.parent_trace_id,
        fork_span_id=trace.fork_span_id,
    )  # fmt: skip


def _input(row: Row) -> object:
    return payload_value(row[AT["input"]], bool(row[AT["io_json"]] & INPUT_IS_JSON))


def _output(row: Row) -> object:
    return payload_value(row[AT["output"]], bool(row[AT["io_json"]] & OUTPUT_IS_JSON))
