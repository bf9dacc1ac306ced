"""Read access to one user's traces, for the explorer, the command line and the HTTP API. Methods block and are thread-safe."""

from __future__ import annotations

import builtins
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from timestep_lab.model.arguments import refuse_both
from timestep_lab.model.clock import to_aware_utc, to_naive_utc
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import ConflictError, NotFoundError
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import AgentGraph, Page, ScoreRecord
from timestep_lab.model.spans import Lab, SpanRecord, TraceStart
from timestep_lab.store import agent_graphs, trace_stats, trace_sums
from timestep_lab.store.archive import forget_sql
from timestep_lab.store.base import Change, Columns, Database, Dialect, NamedRow, Rows, Statement
from timestep_lab.store.filters import CompiledFilter
from timestep_lab.store.search import ALL, FEW, by_reading, find_traces, forget_words, read_search
from timestep_lab.store.spans import SpanReader, no_trace
from timestep_lab.store.table import Table, from_json
from timestep_lab.store.trace_diff import DiffRow, diff_traces
from timestep_lab.store.trace_selection import (
    COMPUTED,
    NEWEST_FIRST,
    TRACE_COLUMNS,
    Order,
    Selection,
    aware,
    literal,
    with_literals,
)

if TYPE_CHECKING:
    import pandas

_COLUMNS = ", ".join(f"t.{column}" for column in TRACE_COLUMNS)

EARLY = timedelta(days=1)
"""How much earlier than its trace's start a late span may have started."""
FOLD_EVERY_S = 1.0
_STARTS: Mapping[Dialect, str] = {
    "duckdb": "(select trace_id, min(started_at) as started_at from core.traces_raw where user_id = getvariable('tl_user') group by trace_id)",
    "postgres": "core.trace_rollups",
}
"""Sufficient for a listing by time without other conditions."""
_NEWEST_STARTS = (
    "(select trace_id, min(started_at) as started_at from (select trace_id, started_at from core.traces_raw "
    "where user_id = getvariable('tl_user') order by started_at desc limit {0}) group by trace_id)"
)


class Traces:
    """A user's traces. `filter` is an expression of the filter language (see `store.filters`; raises `FilterError`), `search` are words
    (see `store.search`), `since` and `until` limit the start of a trace. A trace is a dict with the columns of the view
    `traces`; times are aware UTC."""

    def __init__(self, db: Database, user_id: str) -> None:
        self._db, self._user_id = db, user_id
        self._folded_at = float("-inf")
        self._spans = SpanReader(db, user_id)
        self._scores = Table(db, user_id, "score_rows", ScoreRecord, noun="score", topic="scores")

    # -- many traces

    def list(
        self,
        filter: str = "",
        search: str = "",
        *,
        source: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
        order: str = NEWEST_FIRST,
        limit: int = 50,
        after: str | None = None,
    ) -> Page[NamedRow]:
        """Returns one page. `order` is a column and a direction; `after` is the cursor of the previous page. Raises `UsageError` for an
        invalid order."""
        self._fold()
        selection = Selection(filter=filter, source=source, since=since, until=until)
        ordering = Order.read(order)
        page = self._page(selection, search, ordering, limit, after)
        rows = self._rows(
            [trace_id for trace_id, _ in page[:limit]], since=min((start for _, start in page), default=None)
        )
        has_more = len(page) > limit
        return Page(data=tuple(rows), has_more=has_more, after=page[limit - 1][0] if has_more else None)

    def count(
        self,
        filter: str = "",
        search: str = "",
        *,
        source: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> int:
        where = self._where(Selection(filter=filter, source=source, since=since, until=until), search)
        [count] = self._query(f"select count(*) from traces t where {where.sql}", where).one() or (0,)
        return int(count)

    def sql(
        self,
        filter: str = "",
        search: str = "",
        *,
        source: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
        order: str = NEWEST_FIRST,
        limit: int | None = None,
    ) -> str:
        """Returns the query behind `list`, over the documented views, to be adapted and run with `lab.sql`."""
        where = Selection(filter=filter, source=source, since=since, until=until).where(self._db.dialect)
        if words := read_search(search):
            where = _both(where, by_reading(words, self._db.dialect, len(where.params) + 1))
        condition = "" if where.sql == "true" else f"\nwhere {with_literals(where)}"
        tail = "" if limit is None else f"\nlimit {int(limit)}"
        column = Order.read(order).column
        table = f"(select v.*, {COMPUTED[column]} as {column} from traces v)" if column in COMPUTED else "traces"
        return f"select {', '.join(TRACE_COLUMNS)}\nfrom {table} t{condition}\n{Order.read(order).sql}{tail}"

    def frame(
        self,
        filter: str = "",
        search: str = "",
        *,
        source: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
        order: str = NEWEST_FIRST,
    ) -> pandas.DataFrame:
        """Returns all matching traces as a DataFrame."""
        where = self._where(Selection(filter=filter, source=source, since=since, until=until), search)
        return self._query(f"select {_COLUMNS} from traces t where {where.sql} {Order.read(order).sql}", where).df()

    def histogram(
        self,
        buckets: int = 60,
        filter: str = "",
        search: str = "",
        *,
        source: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> builtins.list[trace_stats.TimeBucket]:
        where = self._where(Selection(filter=filter, source=source, since=since, until=until), search)
        return trace_stats.histogram(self._db, self._user_id, where, buckets=buckets, since=since, until=until)

    def facets(
        self,
        filter: str = "",
        search: str = "",
        *,
        source: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> dict[trace_stats.FacetField, builtins.list[trace_stats.FacetValue]]:
        """Maps each field to its most frequent values, with the number of traces that have each."""
        return trace_stats.facets(
            self._db,
            self._user_id,
            self._where(Selection(filter=filter, source=source, since=since, until=until), search),
        )

    def series(
        self,
        steps: int = 48,
        by: str | None = None,
        filter: str = "",
        search: str = "",
        *,
        source: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> builtins.list[trace_stats.Step]:
        where = self._where(Selection(filter=filter, source=source, since=since, until=until), search)
        return trace_stats.series(self._db, self._user_id, where, steps=steps, by=by, since=since, until=until)

    def scores_of(self, trace_ids: Sequence[str]) -> dict[str, dict[str, float | str]]:
        """Maps a trace id to its latest scores by name: the value, or the label."""
        if not trace_ids:
            return {}
        places = ", ".join(f"${n + 1}" for n in range(len(trace_ids)))
        rows = self._db.query(
            self._user_id,
            f"select target_id, name, value, label from scores where target = 'trace' and target_id in ({places}) order by created_at",
            [*trace_ids],
        ).rows
        scores: dict[str, dict[str, float | str]] = {}
        for trace_id, name, value, label in rows:
            if (score := label if value is None else value) is not None:
                scores.setdefault(trace_id, {})[name] = score
        return scores

    def latency(self, *, since: datetime | None = None, until: datetime | None = None) -> Rows:
        """Returns calls, errors, p50_ms, p95_ms and ttft_p50_ms by hour and model."""
        return trace_stats.latency(self._db, self._user_id, since=since, until=until)

    def graph(
        self,
        trace_ids: Sequence[str] | None = None,
        filter: str = "",
        search: str = "",
        *,
        source: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AgentGraph:
        """Returns the observed handoffs in the given traces, or in all that match. Raises `NotFoundError`."""
        if trace_ids is None:
            where = self._where(Selection(filter=filter, source=source, since=since, until=until), search)
        else:
            refuse_both(trace_ids, filter)
            where = _among(trace_ids)
            known = {id for (id,) in self._query(f"select t.trace_id from traces t where {where.sql}", where).rows}
            for trace_id in trace_ids:
                if trace_id not in known:
                    raise no_trace(trace_id)
        return agent_graphs.agent_graph(self._db, self._user_id, where)

    # -- one trace

    def get(self, trace_id: str) -> NamedRow:
        """Returns one trace. Raises `NotFoundError`."""
        rows = self._rows([trace_id])
        if not rows:
            raise no_trace(trace_id)
        return rows[0]

    def start(self, trace_id: str) -> TraceStart:
        """Returns the start of a trace, with metadata and fork origin. Raises `NotFoundError`."""
        columns = ("metadata", "parent_trace_id", "fork_span_id")
        rows = self._db.query(
            self._user_id,
            f"select {', '.join(columns)} from core.traces_raw where user_id = $1 and trace_id = $2 "
            "order by started_at desc, metadata",
            [self._user_id, trace_id],
        ).rows
        named = self._db.query(
            self._user_id, "select workflow, thread_id, started_at from traces where trace_id = $1", [trace_id]
        ).one()
        if not rows or named is None:
            raise no_trace(trace_id)
        workflow, thread_id, started_at = named
        metadata: dict[str, Json] = {}
        for row in rows:  # An import may have several rows; for the same key the earliest one wins.
            metadata.update(from_json(row[0]))
        parent, fork = ([row[place] for row in rows if row[place] is not None] for place in (1, 2))
        return TraceStart(
            trace_id=trace_id, user_id=self._user_id, workflow=workflow, thread_id=thread_id, started_at=to_aware_utc(started_at),
            metadata=metadata, parent_trace_id=parent[0] if parent else None, fork_span_id=fork[0] if fork else None,
        )  # fmt: skip

    def forks(self, trace_id: str) -> builtins.list[str]:
        """Returns the ids of forks of this trace, oldest first."""
        rows = self._db.query(
            self._user_id,
            "select trace_id from core.traces_raw where user_id = $1 and parent_trace_id = $2 order by started_at",
            [self._user_id, trace_id],
        ).rows
        return [row[0] for row in rows]

    def kept_replays(self) -> set[str]:
        """Returns the ids of all traces that a search kept of its replays: they branch from another trace, and are no runs."""
        rows = self._db.query(
            self._user_id,
            "select trace_id from core.traces_raw where user_id = $1 and parent_trace_id is not null and metadata not like $2",
            [self._user_id, '%"run_id"%'],
        ).rows
        return {row[0] for row in rows}

    def spans(self, trace_id: str) -> builtins.list[SpanRecord]:
        """Returns spans in order of start, finished and open, without attributes, input and output. Raises `NotFoundError`."""
        return self._spans.records(trace_id)

    def columns(self, trace_id: str) -> Columns:
        """Returns spans by column, for traces with many spans: `span_id, parent_id, kind, name, status, agent, model, input_tokens,
        output_tokens, cost_usd, ttft_ms`, and `started_us`, `ended_us` in microseconds since 1970. Text columns are sequences, numbers
        numpy arrays (NaN: unknown). Raises `NotFoundError`."""
        return self._spans.columns(trace_id)

    def payload(self, trace_id: str, span_id: str) -> NamedRow:
        """Returns one complete span: `input` and `output` exactly as recorded, and `attributes`. Raises `NotFoundError`."""
        spans = self._spans.whole(trace_id, [span_id])
        if not spans:
            raise NotFoundError(
                f"There is no span {span_id!r} in trace {trace_id!r}.",
                f"See: lab.trace({trace_id!r}).df()",
                command=f"See: timestep-lab traces show {trace_id}",
            )
        return spans[0]

    def payloads(self, trace_id: str, span_ids: Sequence[str]) -> builtins.list[NamedRow]:
        """Returns several complete spans in the order of `span_ids`; unknown ids are omitted."""
        return self._spans.whole(trace_id, span_ids)

    def diff(self, left: str, right: str) -> builtins.list[DiffRow]:
        """Returns two traces aligned, with the first divergence marked; see `trace_diff`. Raises `NotFoundError`."""
        a, b = (self._spans.whole(trace_id, self._spans.columns(trace_id)["span_id"]) for trace_id in (left, right))
        return diff_traces(a, b, {*_skipped(self.start(left), b), *_skipped(self.start(right), a)})

    # -- annotations

    def score(
        self,
        target: Literal["trace", "span", "case"],
        target_id: str,
        name: str,
        value: float | None = None,
        *,
        label: str | None = None,
        note: str | None = None,
        source: Literal["human", "scorer", "judge"] = "human",
    ) -> ScoreRecord:
        """Annotates a trace, a span or a comparison's case. Raises `NotFoundError` if it does not exist for this user."""
        self._check_target(target, target_id)
        record = ScoreRecord(
            id=new_id("score"), user_id=self._user_id, target=target, target_id=target_id, name=name, value=value, label=label,
            note=note, source=source,
        )  # fmt: skip
        return self._scores.insert(record)

    def _check_target(self, target: str, target_id: str) -> None:
        if target == "trace":
            self.get(target_id)
            return
        rows = (
            "core.all_spans where user_id = $1 and span_id"
            if target == "span"
            else "comparison_cases where user_id = $1 and case_id"
        )
        if not self._db.query(self._user_id, f"select 1 from {rows} = $2 limit 1", [self._user_id, target_id]).rows:
            raise NotFoundError(
                f"There is no {target} {target_id!r} to annotate.", "Look it up in the explorer or the comparison."
            )

    def scores(self, trace_id: str) -> builtins.list[ScoreRecord]:
        """Returns the scores of a trace and its spans, oldest first."""
        columns = ", ".join(self._scores.columns)
        rows = self._db.query(
            self._user_id,
            f"select {columns} from score_rows where user_id = $1 and ((target = 'trace' and target_id = $2) or (target = 'span' "
            "and target_id in (select span_id from core.span_rows where user_id = $1 and trace_id = $2))) order by created_at, id",
            [self._user_id, trace_id],
        ).rows
        return [self._scores.from_row(row) for row in rows]

    # -- deleting

    def delete(self, trace_ids: Sequence[str]) -> None:
        """Deletes traces with their spans, annotations and shared links, and the messages that no other trace uses. Unknown ids are
        ignored.

        Raises `ConflictError`, without deleting anything, when a trace is running or waits for approval.
        """
        for start in range(0, len(trace_ids), MOST_DELETED):
            self._check_over(trace_ids[start : start + MOST_DELETED])
        for start in range(0, len(trace_ids), MOST_DELETED):
            ids = trace_ids[start : start + MOST_DELETED]
            gone = [Change("traces", self._user_id, trace_id) for trace_id in ids]
            self._db.write(
                self._user_id,
                delete_statements(self._db.dialect, self._user_id, ids),
                # The last change also tells writers that messages they know to be stored may have been deleted.
                changes=[*gone, Change("traces", self._user_id, "")],
            )
        if trace_ids:
            forget_words(self._db, self._user_id)

    def _check_over(self, trace_ids: Sequence[str]) -> None:
        where = _among(trace_ids)
        going_on = self._query(
            f"select t.trace_id, t.status from traces t where {where.sql} and t.status in ('running', 'needs_approval')",
            where,
        ).rows
        for trace_id, status in going_on:
            how = "is still running" if status == "running" else "waits for approval"
            raise ConflictError(f"Trace {trace_id} {how}.", "Decide or cancel it first, then delete it.")

    # -- parts

    def _page(
        self, selection: Selection, search: str, order: Order, limit: int, after: str | None
    ) -> builtins.list[tuple[str, datetime]]:
        """Returns id and start of up to `limit` + 1 traces."""
        newest_first = order == Order.read(NEWEST_FIRST)
        if newest_first and not search and not after and selection == Selection() and self._db.dialect == "duckdb":
            # A trace rarely has more than one start, so twice the number of starts contains enough traces, or there are no more.
            page = self._ids(_NEWEST_STARTS.format(2 * limit + 2), CompiledFilter("true", []), order, limit)
            if len(page) > limit:
                return page
        hits = FEW if newest_first else ALL
        while True:
            where = selection.where(self._db.dialect)
            matched = find_traces(self._db, self._user_id, search, len(where.params) + 1, most=hits)
            if matched:
                where = _both(where, matched.condition)
            source, where = self._source(selection, order, where)
            if after is not None:
                value = self._value(after, order.column, source)
                where = _both(where, order.after(value, after, len(where.params) + 1))
            page = self._ids(source, where, order, limit)
            if matched is None or not matched.more:
                return page
            if len(page) > limit and (matched.rest_before is None or page[limit][1] >= matched.rest_before):
                return page
            hits *= 10  # The newest hits do not fill the page, or may not be the newest traces.

    def _ids(self, source: str, where: CompiledFilter, order: Order, limit: int) -> builtins.list[tuple[str, datetime]]:
        sql = f"select t.trace_id, t.started_at from {source} t where {where.sql} {order.sql} limit {int(limit) + 1}"
        return [(trace_id, started_at) for trace_id, started_at in self._query(sql, where).rows]

    def _source(self, selection: Selection, order: Order, where: CompiledFilter) -> tuple[str, CompiledFilter]:
        """Returns a source that gives the same result as the view `traces`, but faster."""
        if order.column in COMPUTED:
            return f"(select v.*, {COMPUTED[order.column]} as {order.column} from traces v)", where
        if not selection.filter and not selection.source and order.column == "started_at":
            return _STARTS[self._db.dialect], where
        earliest = selection.earliest
        if self._db.dialect == "duckdb" and earliest is not None:
            bound = CompiledFilter(
                f"t.trace_id in (select trace_id from core.traces_raw where started_at >= ${len(where.params) + 1}) "
                # A trace that arrived in parts has later parts with later starts.
                f"and t.trace_id not in (select trace_id from core.traces_raw where started_at < ${len(where.params) + 1} "
                f"and started_at >= ${len(where.params) + 2})",
                [to_naive_utc(earliest), to_naive_utc(earliest) - EARLY],
            )
            return f"core.traces_since({literal(earliest)})", _both(where, bound)
        return "traces", where

    def _where(self, selection: Selection, search: str) -> CompiledFilter:
        self._fold()
        where = selection.where(self._db.dialect)
        matched = find_traces(self._db, self._user_id, search, len(where.params) + 1, most=ALL)
        return _both(where, matched.condition) if matched else where

    def _fold(self) -> None:
        now = time.monotonic()
        if now - self._folded_at > FOLD_EVERY_S:
            self._folded_at = now
            trace_sums.fold(self._db)

    def _query(self, sql: str, where: CompiledFilter) -> Rows:
        return self._db.query(self._user_id, sql, where.params)

    def _rows(self, ids: Sequence[str], *, since: datetime | None = None) -> builtins.list[NamedRow]:
        """`since`: start of the earliest trace according to the starts; spans of an import may have started earlier."""
        if not ids:
            return []
        where = _among(ids)
        source = "traces"
        if since is not None and self._db.dialect == "duckdb":
            source = f"core.traces_since({literal(since - EARLY)})"
        result = self._query(f"select {_COLUMNS} from {source} t where {where.sql}", where)
        by_id = {row["trace_id"]: row for row in (aware(row, TRACE_COLUMNS) for row in result.rows)}
        return [by_id[trace_id] for trace_id in ids if trace_id in by_id]

    def _value(self, trace_id: str, column: str, source: str) -> object:
        row = self._db.query(
            self._user_id, f"select t.{column} from {source} t where t.trace_id = $1", [trace_id]
        ).one()
        if row is None:
            raise no_trace(trace_id)
        return row[0]


MOST_DELETED = 500
"""Maximum number of traces deleted in one transaction."""


def delete_statements(dialect: Dialect, user_id: str, trace_ids: Sequence[str] | None = None) -> list[Statement]:
    """Returns the statements that delete these traces of a user; None deletes all of them."""
    params = [user_id, *(trace_ids or ())]
    places = ", ".join(f"${n}" for n in range(2, len(params) + 1))
    gone = "true" if trace_ids is None else f"trace_id in ({places})"
    split = {"duckdb": "string_split", "postgres": "string_to_array"}[dialect]
    hashes = (
        f"select unnest({split}(input_refs, ' ')) from core.spans_raw where user_id = $1 and input_refs is not null and"
    )
    archived = [forget_sql(f"user_id = $1 and {gone}")] if dialect == "duckdb" else []
    statements = [
        *archived,
        # An open span may refer to messages that are known to be stored.
        f"delete from core.message_bodies where user_id = $1 and hash in ({hashes} {gone}) and hash not in ({hashes} not {gone}) "
        "and not exists (select 1 from core.open_spans where user_id = $1)",
        f"delete from core.score_rows where user_id = $1 and target = 'span' and target_id in "
        f"(select span_id from core.spans_raw where user_id = $1 and {gone})",
        "delete from core.score_rows where user_id = $1 and target = 'trace' and "
        + ("true" if trace_ids is None else f"target_id in ({places})"),
    ]
    tables = ["spans_raw", "open_spans", "traces_raw", "repeated_calls", "waiting_events", "trace_shares"]
    tables.append("trace_rollups" if dialect == "postgres" else "trace_deltas")
    statements += [f"delete from core.{table} where user_id = $1 and {gone}" for table in tables]
    return [Statement(sql, params) for sql in statements]


def _skipped(start: TraceStart, other: Sequence[NamedRow]) -> Iterator[str]:
    """Yields the ids of the spans of the other trace that ended before this one's start, if it replays the other from there on."""
    point = next((span for span in other if span["span_id"] == start.fork_span_id), None)
    if point is not None and start.metadata.get(Lab.WARM_START):
        yield from (span["span_id"] for span in other if span["ended_at"] and span["ended_at"] <= point["started_at"])


def _among(ids: Sequence[str]) -> CompiledFilter:
    return CompiledFilter(
        f"t.trace_id in ({', '.join(f'${n}' for n in range(1, len(ids) + 1))})" if ids else "false", [*ids]
    )


def _both(first: CompiledFilter, second: CompiledFilter) -> CompiledFilter:
    return CompiledFilter(f"{first.sql} and {second.sql}", [*first.params, *second.params])
