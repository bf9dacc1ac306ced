"""Incremental state of one imported trace: the relevant facts of each span, without payloads, so that later parts can be added.

Spans arrive in any order and in any number of parts, usually before their parents. The root, name, input, output and usage of the trace are
therefore recomputed with each part, from the affected spans only.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import heappop, heappush
from typing import Any, NamedTuple

from timestep_lab.model.ids import new_id
from timestep_lab.store.base import SYSTEM_USER, Change, Database, Dialect, Statement
from timestep_lab.store.spans import (
    AT,
    BODY_COLUMNS,
    OPEN_COLUMNS,
    SPAN_COLUMNS,
    TRACE_COLUMNS,
    MessageBodies,
    Row,
    open_row,
)
from timestep_lab.store.trace_sums import DELTA_COLUMNS, Repeated, SpanFacts, Used, trace_deltas, used

# --- One batch of a user's trace events, prepared for `Database.append`: all affected tables, in one transaction
#
# A tool call that waits for approval stays open when its process ends and continues in another one. Rows with an approval are
# therefore looked up in `open_spans`; every other open span belongs to the writer that opened it.


MANY_TRACES = 100
"""A batch with more traces than this is published as one change with an empty id, which means to read everything again."""

Tables = dict[str, tuple[Sequence[str], Sequence[Row]]]
"""Maps a table name to its columns and the rows to append."""

SpanKey = tuple[str, str]
"""(trace_id, span_id)"""

DECIDED = ("pending", "approved", "rejected")
"""Approval states of calls that needed a decision."""

_AMONG_KEYS: dict[Dialect, str] = {
    "duckdb": "user_id = $1 and list_contains(string_split($2, ' '), trace_id || span_id)",
    "postgres": "user_id = $1 and trace_id || span_id = any(string_to_array($2, ' '))",
}


@dataclass(slots=True)
class SpanBatch:
    """One batch of spans to write. `opened_before`: keys of `ended` spans with a row in `open_spans`, which this batch removes.
    `taken_over`: opened spans that already have such a row.

    For an import, `deltas` are the changes of its traces' sums, `also` holds additional tables, and `then` are statements of the same
    transaction; its open spans belong to no process of the lab."""

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
        """Writes the batch, durably on return. Idempotent: can be repeated after a `StoreError`."""
        tables, changes = self._tables(db, bodies)
        then = [*self._taken_over(db), *_ended(db, [self]), *self.then]
        db.append(self.user_id, tables, then=then, changes=changes, batch_id=self.batch_id)
        bodies.written(tables.get("message_bodies", ((), ()))[1])

    def _tables(self, db: Database, bodies: MessageBodies) -> tuple[Tables, list[Change]]:
        """Returns the rows to append, and the changes to publish."""
        if self.deltas is None:
            self._take_over(db)
        slim, new_bodies = bodies.share(self.user_id, self.ended)
        deltas = self.deltas
        process_id = None
        if deltas is None:
            process_id = db.process_id
            deltas = trace_deltas(
                self.user_id, ended=self.ended, opened=self.opened, opened_before=self.opened_before, starts=self.starts
            )
        tables: Tables = {
            "traces_raw": (TRACE_COLUMNS, self.starts),
            "open_spans": (OPEN_COLUMNS, [open_row(row, process_of(row, process_id)) for row in self.opened]),
            "message_bodies": (BODY_COLUMNS, new_bodies),
            "spans_raw": (SPAN_COLUMNS, slim),
            "trace_deltas": (DELTA_COLUMNS, deltas),
            **self.also,
        }
        filled = {name: table for name, table in tables.items() if table[1]}
        return filled, self._changes(delta[1] for delta in deltas)

    def _take_over(self, db: Database) -> None:
        """Finds calls waiting for a decision that another process, or this one before a pause, left open."""
        if self._looked:
            return
        decided = {
            span_key(row) for row in (*self.opened, *self.ended) if row[AT["approval"]] in DECIDED
        } - self.opened_before
        if decided:
            sql = f"select trace_id, span_id from core.open_spans where {_AMONG_KEYS[db.dialect]}"
            open_keys = {(row[0], row[1]) for row in db.query(self.user_id, sql, [self.user_id, _joined(decided)]).rows}
            self.taken_over = [row for row in self.opened if span_key(row) in open_keys]
            self.opened = [row for row in self.opened if span_key(row) not in open_keys]
            self.opened_before |= open_keys & {span_key(row) for row in self.ended}
        self._looked = True

    def _taken_over(self, db: Database) -> list[Statement]:
        return [
            Statement(
                "update core.open_spans set process_id = $3, approval = $4, attributes = $5 where user_id = $1 and trace_id || span_id = $2",
                [self.user_id, "".join(span_key(row)), process_of(row, db.process_id), row[AT["approval"]], row[AT["attributes"]]],
            )
            for row in self.taken_over
        ]  # fmt: skip

    def _changes(self, trace_ids: Iterable[str]) -> list[Change]:
        ids = list(trace_ids)
        return [Change("traces", self.user_id, trace_id) for trace_id in (ids if len(ids) <= MANY_TRACES else [""])]


def write_together(db: Database, batches: Sequence[SpanBatch], bodies: MessageBodies) -> None:
    """Writes the batches of several users, in one transaction if the store supports it."""
    if len(batches) == 1 or db.dialect != "duckdb":
        for batch in batches:
            batch.write(db, bodies)
        return
    together: dict[str, tuple[Sequence[str], list[Row]]] = {}
    changes: list[Change] = []
    for batch in batches:
        tables, batch_changes = batch._tables(db, bodies)
        changes += batch_changes
        for name, (columns, rows) in tables.items():
            together.setdefault(name, (columns, []))[1].extend(rows)
    then = [statement for batch in batches for statement in (*batch._taken_over(db), *batch.then)]
    then += _ended(db, batches)
    db.append(SYSTEM_USER, together, then=then, changes=changes, batch_id=batches[0].batch_id)
    bodies.written(together.get("message_bodies", ((), []))[1])


def _ended(db: Database, batches: Sequence[SpanBatch]) -> list[Statement]:
    """Returns the statements that remove ended spans from `open_spans`."""
    open_before = [(batch.user_id, batch.opened_before) for batch in batches if batch.opened_before]
    if len(open_before) > 1:
        keys = "\x1e".join(user + trace + span for user, keys in open_before for trace, span in keys)
        among = "list_contains(string_split($1, chr(30)), user_id || trace_id || span_id)"
        return [Statement(f"delete from core.open_spans where {among}", [keys])]
    sql = f"delete from core.open_spans where {_AMONG_KEYS[db.dialect]}"
    return [Statement(sql, [user_id, _joined(keys)]) for user_id, keys in open_before]


def span_key(row: Row) -> SpanKey:
    return row[AT["trace_id"]], row[AT["span_id"]]


def process_of(row: Row, process_id: str | None) -> str | None:
    """Returns the process whose death ends the span; None for a call waiting for approval, which needs no process."""
    return None if row[AT["approval"]] == "pending" else process_id


def _joined(keys: Iterable[SpanKey]) -> str:
    return " ".join(trace_id + span_id for trace_id, span_id in keys)


ARROW = " → "
MOST_NAME, MOST_PATH = 160, 300
"""Maximum length of a trace's name and model, and of its agents, in listings; limited by the size of a Postgres index row."""
STATED, NAMED = 0, 3 << 61
"""Keys of a trace's name and thread, where the lowest wins: first what an export or a run states about the trace, then what spans state
about it (`statement_key`), and last the name of a span, minus the number of its part."""
_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_FAR = datetime.max
"""Subtracting a time from it sorts latest first."""
_MINOR = frozenset({"tool", "retrieval", "embedding", "guardrail", "handoff"})
"""Kinds whose input and output are used for the trace only when no other span has any."""
_AROUND = {"task": 0, "agent": 1, "turn": 2, "other": 2, "generation": 3}
"""Rank of span kinds that start at the same moment: the enclosing span comes first."""

_STATUS, _ENDED = AT["status"], AT["ended_at"]

Key = tuple[Any, ...]


class TraceStatement(NamedTuple):
    """What one part states about the trace as a whole. The lowest key wins, regardless of order."""

    trace_id: str
    workflow: str | None = None
    workflow_key: int = STATED
    thread_id: str | None = None
    thread_key: int = STATED
    started_at: datetime | None = None
    metadata: str = "{}"
    parent_trace_id: str | None = None
    fork_span_id: str | None = None
    end_user: str | None = None
    end_user_key: int = STATED

    def merged_with(self, other: TraceStatement) -> TraceStatement:
        """Merges two statements about a trace. The order matters only for fields without a key, for which the first value wins."""

        def least(value: str | None, key: int, others: str | None, others_key: int) -> tuple[str | None, int]:
            return (others, others_key) if others and (not value or others_key < key) else (value, key)

        starts = [start for start in (self.started_at, other.started_at) if start is not None]
        return TraceStatement(
            self.trace_id, *least(self.workflow, self.workflow_key, other.workflow, other.workflow_key),
            *least(self.thread_id, self.thread_key, other.thread_id, other.thread_key), min(starts, default=None),
            self.metadata if self.metadata != "{}" else other.metadata, self.parent_trace_id or other.parent_trace_id,
            self.fork_span_id or other.fork_span_id,
            *least(self.end_user, self.end_user_key, other.end_user, other.end_user_key),
        )  # fmt: skip


def statement_key(is_root: bool, started_at: datetime, span_id: str) -> int:
    """Returns the key of what a span states about its trace: the root wins, then the span that started first."""
    return (0 if is_root else 1 << 61) + (max(micros(started_at), 0) << 8) + int(span_id[-2:], 16) + 1


def micros(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def is_open(row: Row) -> bool:
    return row[_ENDED] is None and row[_STATUS] == "pending"


class Added(NamedTuple):
    """Result of adding a part."""

    used: Used
    n_turns: int
    repeated: list[tuple[str, SpanFacts, Repeated]]
    """Generations that duplicate other ones: the change in what to subtract, per call."""
    agents: dict[str, str]
    """Maps a span id to the agent inherited from a span above it."""


class _Best:
    """Tracks the span with the lowest key while keys change as parents arrive. A key of None never wins."""

    def __init__(self, key_of: Callable[[str], Key | None]) -> None:
        self._key_of = key_of
        self._heap: list[tuple[Key, str]] = []
        self._offered: dict[str, None] = {}

    def offer(self, span_id: str) -> None:
        """Adds a span, or marks its key as changed. The key is computed once all spans of the part are present."""
        self._offered[span_id] = None

    def get(self) -> str | None:
        offered = [(key, span_id) for span_id in self._offered if (key := self._key_of(span_id)) is not None]
        self._offered.clear()
        for entry in offered:
            heappush(self._heap, entry)
        while self._heap:
            key, span_id = self._heap[0]
            if self._key_of(span_id) == key:
                return span_id
            heappop(self._heap)
        return None


class _Index:
    """What is maintained of a trace's spans while further parts arrive."""

    def __init__(self, trace: ImportedTrace) -> None:
        self.below: dict[str, dict[str, None]] = {}
        """Maps a span id, present or not, to the spans that name it as their parent."""
        self.answers: dict[str, list[str]] = {}
        """Maps a response id to its spans."""
        self.with_requests: set[str] = set()
        """Parents of requests of a client."""
        self.agents: list[tuple[datetime, str, str]] = []
        self.tops, self.failed_tops = [0, 0, 0], [0, 0, 0]
        """Counts of roots, of spans without a present parent, and of the latter with a minor kind; in total and failed."""
        self.name, self.model = _Best(trace._name_key), _Best(trace._model_key)
        self.input, self.output = _Best(trace._input_key), _Best(trace._output_key)


class ImportedTrace:
    """An imported trace. Not thread-safe: belongs to the import that claimed it."""

    def __init__(self, trace_id: str) -> None:
        self.trace_id = trace_id
        self.is_known = False
        """Whether the store has any part of it."""
        self.n_parts = 0
        """Number of delta rows in the store; any other number means that another writer was active."""
        self.version = 0
        """Version of the last part; the next one is higher."""
        self.started_at: datetime | None = None
        self.has_end = False
        """Whether the end of any of its spans is known."""
        self.workflow_key: int | None = None
        self.thread_key: int | None = None
        self.end_user_key: int | None = None
        self.input_of: str | None = None
        """The span whose input is stored as the trace's input, if known; similarly `output_of`."""
        self.output_of: str | None = None
        self.spans: dict[str, SpanFacts] = {}
        self._topmost: list[str] = []
        """The spans without a present parent, until a second part arrives, which needs the index. Most traces come as a whole."""
        self._index: _Index | None = None

    # -- adding

    def add(self, new: Mapping[str, SpanFacts]) -> Added:
        """Adds spans that are new, or known only as open."""
        n_turns = sum(facts.kind == "turn" for facts in new.values())
        if not self.spans:
            self._take(new)
            agents = {} if all(facts.agent is not None for facts in new.values()) else self._with_agents(new)
            after, repeated = used(self.spans)
            return Added(after, n_turns, [(i, new[i], counted) for i, counted in repeated.items()], agents)
        index = self._indexed()
        before = {span_id: self.spans[span_id] for span_id in new if span_id in self.spans}
        for span_id, facts in new.items():
            self._put(index, span_id, facts)
        agents = self._with_agents(new)
        n_turns -= sum(facts.kind == "turn" for facts in before.values())
        region = self._region(new, before)
        was, repeated_before = used(
            {i: before.get(i, facts) for i, facts in region.items() if i not in new or i in before}
        )
        now, repeated = used(region)
        changed = [(i, self.spans[i], counted) for i, counted in repeated.items() if i not in repeated_before]
        for span_id, (calls, tokens_in, tokens_out, cost) in repeated_before.items():
            old, facts = before.get(span_id, self.spans[span_id]), self.spans[span_id]
            more = repeated.get(span_id, (0, 0, 0, 0.0))
            if (old.provider, old.model, old.started_at) != (facts.provider, facts.model, facts.started_at):
                changed += [(span_id, old, (-calls, -tokens_in, -tokens_out, -cost)), (span_id, facts, more)]
            else:
                rest = more[0] - calls, more[1] - tokens_in, more[2] - tokens_out, more[3] - cost
                changed.append((span_id, facts, rest))
        return Added(now.since(was), n_turns, [one for one in changed if any(one[2])], agents)

    def load(self, stored: Mapping[str, SpanFacts]) -> None:
        """Loads the facts that the store has."""
        self._take(stored)
        if self.version:  # Otherwise it was not imported here, and another span's input may be shown.
            self.input_of, self.output_of = self.input(), self.output()

    def _take(self, spans: Mapping[str, SpanFacts]) -> None:
        self.spans = dict(spans)
        self._topmost = [span_id for span_id in spans if self._top(span_id) is not None]

    def _indexed(self) -> _Index:
        if self._index is None:
            self._index = _Index(self)
            spans, self.spans = self.spans, {}
            for span_id, facts in spans.items():
                self._put(self._index, span_id, facts)
        return self._index

    def _put(self, index: _Index, span_id: str, facts: SpanFacts) -> None:
        old = self.spans.get(span_id)
        if old is not None:
            self._count_top(index, span_id, -1)
            if old.kind == "agent":
                index.agents.remove(_agent_at(span_id, old))
            del index.below[old.parent_id or ""][span_id]
        below = list(index.below.get(span_id, ())) if old is None else []
        for child in below:  # They are no longer topmost.
            self._count_top(index, child, -1)
        self.spans[span_id] = facts
        index.below.setdefault(facts.parent_id or "", {})[span_id] = None
        self._count_top(index, span_id, 1)
        if facts.kind == "agent":
            insort(index.agents, _agent_at(span_id, facts))
        if facts.response_id is not None:
            index.answers.setdefault(facts.response_id, []).append(span_id)
        if facts.is_request:
            index.with_requests.add(facts.parent_id or "")
        for changed in (span_id, *below):
            index.name.offer(changed)
            if self.spans[changed].has_input:
                index.input.offer(changed)
            if self.spans[changed].has_output:
                index.output.offer(changed)
        if facts.kind == "generation" and facts.model:
            index.model.offer(span_id)

    def _with_agents(self, new: Iterable[str]) -> dict[str, str]:
        """Assigns spans without an agent to the agent of the nearest span above them that has one; returns the changes."""
        filled: dict[str, str] = {}
        nowhere: set[str] = set()
        for span_id in new:
            path: list[str] = []
            at: str | None = span_id
            agent: str | None = None
            while at is not None and at in self.spans and at not in nowhere:
                agent = self.spans[at].agent
                if agent is not None:
                    break
                nowhere.add(at)  # Ends a cycle of parents.
                path.append(at)
                at = self.spans[at].parent_id
            if agent is not None:
                nowhere.difference_update(path)
                self._fill(path, agent, filled)
        index = self._index
        for span_id in new if index is not None else ():  # In a first part, every span above another is new.
            agent = self.spans[span_id].agent
            waiting = [] if agent is None else [span_id]
            while waiting and agent is not None and index is not None:
                below = [child for child in index.below.get(waiting.pop(), ()) if self.spans[child].agent is None]
                self._fill(below, agent, filled)
                waiting.extend(below)
        return filled

    def _fill(self, span_ids: Iterable[str], agent: str, filled: dict[str, str]) -> None:
        for span_id in span_ids:
            old = self.spans[span_id]
            facts = self.spans[span_id] = old._replace(agent=agent)
            filled[span_id] = agent
            if self._index is not None and old.kind == "agent":
                self._index.agents.remove(_agent_at(span_id, old))
                insort(self._index.agents, _agent_at(span_id, facts))

    # -- calls

    def _region(self, new: Mapping[str, SpanFacts], before: Mapping[str, SpanFacts]) -> dict[str, SpanFacts]:
        """Returns the spans whose usage may have changed: those below the outermost span with usage, those with the same response id,
        and the siblings of a client's request."""
        index = self._indexed()
        apart = set(index.with_requests)
        region: dict[str, SpanFacts] = {}
        knows_nothing: set[str] = set()
        same_response: dict[str, list[str]] = {}
        waiting = list(new)
        while waiting:
            at = waiting.pop()
            if at in region:
                continue
            top = self._outermost_that_knows(at, before, knows_nothing)
            inside = [at if top is None else top]
            while inside:
                span_id = inside.pop()
                if span_id in region:
                    continue
                facts = region[span_id] = self.spans[span_id]
                if facts.response_id is not None:
                    if span_id not in same_response:
                        same_response.update(self._overlapping(index.answers[facts.response_id]))
                    waiting.extend(same_response[span_id])
                    same_response[span_id].clear()  # The list is shared by the whole group, which is queued now.
                if facts.kind == "generation" and (parent := facts.parent_id or "") in apart:
                    apart.remove(parent)
                    waiting.extend(index.below.get(parent, ()))
                if top is not None:
                    inside.extend(index.below.get(span_id, ()))
        return region

    def _overlapping(self, span_ids: Iterable[str]) -> dict[str, list[str]]:
        """Groups spans with one response id that follow each other without a gap."""
        groups: dict[str, list[str]] = {}
        group: list[str] = []
        until = datetime.min
        for span_id in sorted(set(span_ids), key=lambda i: self.spans[i].started_at):
            facts = self.spans[span_id]
            if facts.started_at > until:
                group = []
            group.append(span_id)
            groups[span_id] = group
            until = max(until, facts.ended_at)
        return groups

    def _outermost_that_knows(
        self, span_id: str, before: Mapping[str, SpanFacts], knows_nothing: set[str]
    ) -> str | None:
        outermost: str | None = None
        path: set[str] = set()
        at: str | None = span_id
        while at is not None and at in self.spans and at not in path and at not in knows_nothing:
            path.add(at)
            if self.spans[at].knows or (at in before and before[at].knows):
                outermost = at
            at = self.spans[at].parent_id
        if outermost is None:
            knows_nothing |= path
        return outermost

    # -- what the trace shows

    def name(self) -> str | None:
        span_id = self._index.name.get() if self._index else self._least(self._name_key, self._topmost)
        if span_id is None and self.spans:  # All spans are in cycles.
            span_id = min(self.spans, key=self._begins)
        return None if span_id is None else self.spans[span_id].name[:MOST_NAME] or None

    def model(self) -> str | None:
        """Returns the model of the generation that started last."""
        span_id = self._index.model.get() if self._index else self._least(self._model_key, self.spans)
        return None if span_id is None else (self.spans[span_id].model or "")[:MOST_NAME]

    def input(self) -> str | None:
        """Returns the span whose input is the trace's input; similarly `output`."""
        return self._index.input.get() if self._index else self._payload_of(self._input_key)

    def output(self) -> str | None:
        return self._index.output.get() if self._index else self._payload_of(self._output_key)

    def failed(self) -> bool:
        """Returns whether a root failed; without a root, whether one of the topmost spans did."""
        if self._index:
            counts = zip(self._index.tops, self._index.failed_tops, strict=True)
            return next((bool(failed) for n, failed in counts if n), False)
        tops = [(self._top(span_id) or 0, span_id) for span_id in self._topmost]
        first = min(tops, default=(0, ""))[0]
        return any(self.spans[span_id].failed for top, span_id in tops if top == first)

    def agents(self) -> str | None:
        """Returns the agents in order of start, as 'A → B → C'."""
        whole = () if self._index else (one for one in self.spans.items() if one[1].kind == "agent")
        path, last = "", None
        for _, _, name in self._index.agents if self._index else sorted(_agent_at(*one) for one in whole):
            if name != last:
                path, last = (f"{path}{ARROW}{name}" if last is not None else name), name
                if len(path) > MOST_PATH:
                    return path[: MOST_PATH - 1] + "…"
        return path or None

    # -- keys

    @staticmethod
    def _least(key_of: Callable[[str], Key | None], span_ids: Iterable[str]) -> str | None:
        keys = [(key, span_id) for span_id in span_ids if (key := key_of(span_id)) is not None]
        return min(keys)[1] if keys else None

    def _payload_of(self, key_of: Callable[[str], Key | None]) -> str | None:
        top = self._least(key_of, self._topmost)
        return self._least(key_of, self.spans) if top is None or self.spans[top].kind in _MINOR else top

    def _top(self, span_id: str) -> int | None:
        facts = self.spans[span_id]
        if facts.parent_id is None:
            return 0
        if facts.parent_id in self.spans and facts.parent_id != span_id:
            return None
        return 2 if facts.kind in _MINOR else 1

    def _count_top(self, index: _Index, span_id: str, n: int) -> None:
        top = self._top(span_id)
        if top is not None:
            index.tops[top] += n
            index.failed_tops[top] += n * self.spans[span_id].failed

    def _name_key(self, span_id: str) -> Key | None:
        top = self._top(span_id)
        return None if top is None else (top, *self._begins(span_id))

    def _begins(self, span_id: str) -> Key:
        facts = self.spans[span_id]
        return facts.started_at, _AROUND.get(facts.kind, 4), span_id

    def _model_key(self, span_id: str) -> Key | None:
        facts = self.spans[span_id]
        return (_FAR - facts.started_at, span_id) if facts.kind == "generation" and facts.model else None

    def _input_key(self, span_id: str) -> Key | None:
        facts = self.spans[span_id]
        if not facts.has_input:
            return None
        return self._payload_rank(span_id, facts), facts.started_at, _AROUND.get(facts.kind, 4), span_id

    def _output_key(self, span_id: str) -> Key | None:
        facts = self.spans[span_id]
        if not facts.has_output:
            return None
        return self._payload_rank(span_id, facts), _FAR - facts.ended_at, _AROUND.get(facts.kind, 4), span_id

    def _payload_rank(self, span_id: str, facts: SpanFacts) -> int:
        top = self._top(span_id)
        if top is None:
            return 4 if facts.kind in _MINOR else 2
        return 3 if top == 2 else top


def _agent_at(span_id: str, facts: SpanFacts) -> tuple[datetime, str, str]:
    return facts.started_at, span_id, facts.agent or facts.name
