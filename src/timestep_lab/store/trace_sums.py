"""Sums of a trace's usage, when several spans report the same call.

Programs with two instrumentations report a call twice: as a framework's span around the client's span, or as two sibling spans with the
same response id. An agent span may report the sum of its calls. Sums therefore use the outermost spans with a number, and a generation
inside a generation is the same call. What a span contributes depends on the spans above it and, if it has no price, on those below.
Siblings without a common response id are separate calls: by model, tokens and time they are not distinguishable from parallel calls.
Except the span of a client's HTTP request, which is part of the call whose sibling span encloses it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from timestep_lab.model.spans import GenAI
from timestep_lab.store.base import SYSTEM_USER, Database, Statement
from timestep_lab.store.spans import (
    AT,
    INPUT_IS_JSON,
    OUTPUT_IS_JSON,
    TRACE_COLUMNS,
    Row,
    answered,
    asked,
    payload_value,
)
from timestep_lab.store.table import clean, from_json

# --- Deltas: what one batch of spans adds to each trace, one row per trace, so that listings sum up rows instead of reading spans


DELTA_COLUMNS = (
    "user_id", "trace_id", "workflow", "workflow_key", "thread_id", "thread_key", "started_at", "ended_at", "n_spans", "n_open",
    "n_errors", "n_turns", "n_generations", "n_unpriced", "input_tokens", "output_tokens", "cost_usd", "agents", "agents_at",
    "model", "model_at", "input", "input_key", "output", "output_key", "root_error", "interrupted", "version", "end_user_key",
    "source", "first_token_at", "end_user", "tags", "failed_tools", "error_types",
)  # fmt: skip
ARROW = " → "
_LAST_RESORT = 1 << 60
"""Added to a key so that it loses against any root span's (for the input, the lowest key wins) or wins against others (output)."""
_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_TRACE_AT = {column: place for place, column in enumerate(TRACE_COLUMNS)}

_TRACE, _SPAN, _PARENT, _KIND, _AGENT = AT["trace_id"], AT["span_id"], AT["parent_id"], AT["kind"], AT["agent"]
_NAME, _TTFT, _ATTRIBUTES, _PROVIDER = AT["name"], AT["ttft_ms"], AT["attributes"], AT["provider"]
_TEXT_IN, _TEXT_OUT = AT["input"], AT["output"]
_STATUS, _MODEL, _STARTED, _ENDED = AT["status"], AT["model"], AT["started_at"], AT["ended_at"]
_IN_TOKENS, _OUT_TOKENS, _PRICE = AT["input_tokens"], AT["output_tokens"], AT["cost_usd"]


class _Trace:
    """Sums of one trace in a batch."""

    __slots__ = (
        "agents", "cost", "ended", "ended_at", "first", "in_tokens", "last", "model", "model_at", "n_errors", "n_generations",
        "n_open", "n_spans", "n_turns", "n_unpriced", "out_tokens", "root", "root_error", "start", "started_at",
    )  # fmt: skip

    def __init__(self) -> None:
        self.n_spans = self.n_open = self.n_errors = self.n_turns = self.n_generations = self.n_unpriced = 0
        self.in_tokens: int | None = None
        self.out_tokens: int | None = None
        self.cost: float | None = None
        self.started_at: datetime | None = None
        self.ended_at: datetime | None = None
        self.agents: list[tuple[datetime, str]] = []
        self.model: str | None = None
        self.model_at: datetime | None = None
        self.root: Row | None = None
        self.first: Row | None = None
        """The generation that started first; `last` is the one that ended last."""
        self.last: Row | None = None
        self.start: Row | None = None
        self.root_error = False
        self.ended: list[Row] = []
        """Spans that failed, and generations with a known time to first token."""


_LONGEST_WAIT_MS = 366 * 86_400_000
"""A longer, or negative, time to first token has a wrong unit or clock and is ignored."""


class Facts(NamedTuple):
    """Facts of one batch by which traces are searched and counted. Lists are text with one entry per line."""

    source: str | None = None
    """None means live."""
    first_token_at: datetime | None = None
    end_user: str | None = None
    tags: str | None = None
    failed_tools: str | None = None
    error_types: str | None = None

    @classmethod
    def of(
        cls, ended: Iterable[Row], metadata: Mapping[str, object], *, source: str | None = None, is_fork: bool = False
    ) -> Facts:
        """`is_fork`: the trace is a fork. A fork without a run is an experiment, not a user's question."""
        first = [
            row[_STARTED] + timedelta(milliseconds=row[_TTFT])
            for row in ended
            if row[_KIND] == "generation" and row[_TTFT] is not None and 0 <= row[_TTFT] < _LONGEST_WAIT_MS
        ]
        failed = [row for row in ended if row[_STATUS] == "error"]
        if "comparison_id" in metadata or (is_fork and "run_id" not in metadata):
            source = "evaluation"
        user, tags = metadata.get("user", metadata.get("user_id")), metadata.get("tags")
        return cls(
            source,
            min(first, default=None),
            _lines([user] if user is not None else ()),
            _lines(tags if isinstance(tags, list) else ()),
            _lines(row[_NAME] for row in failed if row[_KIND] == "tool"),
            _lines(
                kind
                for row in failed
                if row[_ATTRIBUTES] and (kind := from_json(row[_ATTRIBUTES]).get(GenAI.ERROR_TYPE)) is not None
            ),
        )


def _lines(values: Iterable[object]) -> str | None:
    values = list(values)
    return None if not values else "\n".join(sorted({" ".join(clean(str(value)).split()) for value in values})) or None


def trace_deltas(
    user_id: str,
    *,
    ended: Sequence[Row] = (),
    opened: Sequence[Row] = (),
    opened_before: Collection[tuple[str, str]] = (),
    starts: Iterable[Row] = (),
) -> list[Row]:
    """Returns the deltas of a user's own runs, in which each call is reported once. `ended` and `opened` are span rows, `starts` trace
    rows. For spans of other programs see `imported_trace`.

    `opened_before` holds the (trace_id, span_id) of ended spans that an earlier batch counted when they started.
    """
    traces: dict[str, _Trace] = {}
    for start in starts:
        trace = traces.setdefault(start[_TRACE_AT["trace_id"]], _Trace())
        trace.start = start
        trace.started_at = start[_TRACE_AT["started_at"]]
    for row in opened:
        trace = _at(traces, row)
        trace.n_open += 1
        _begun(trace, row)
    for row in ended:
        trace = _at(traces, row)
        if opened_before and (row[_TRACE], row[_SPAN]) in opened_before:
            trace.n_open -= 1
        else:
            _begun(trace, row)
        _ended(trace, row)
    return [_delta(user_id, trace_id, trace) for trace_id, trace in traces.items()]


def _at(traces: dict[str, _Trace], row: Row) -> _Trace:
    trace = traces.get(row[_TRACE])
    if trace is None:
        trace = traces[row[_TRACE]] = _Trace()
    return trace


def _begun(trace: _Trace, row: Row) -> None:
    trace.n_spans += 1
    kind, started_at = row[_KIND], row[_STARTED]
    if trace.started_at is None or started_at < trace.started_at:
        trace.started_at = started_at
    if kind == "agent":
        trace.agents.append((started_at, row[_AGENT] or row[_NAME]))
    elif kind == "turn":
        trace.n_turns += 1
    elif kind == "generation":
        trace.n_generations += 1
        if trace.first is None or started_at < trace.first[_STARTED]:
            trace.first = row
        if row[_MODEL] is not None and (trace.model_at is None or started_at >= trace.model_at):
            trace.model, trace.model_at = row[_MODEL], started_at
    if row[_PARENT] is None:
        trace.root = row


def _ended(trace: _Trace, row: Row) -> None:
    if trace.started_at is None or row[_STARTED] < trace.started_at:
        # Also when the span was counted at its start: reading by time skips a delta without a start.
        trace.started_at = row[_STARTED]
    ended_at = (
        row[_ENDED] or row[_STARTED]
    )  # An imported span may have no end; no span of a trace starts after its end.
    if trace.ended_at is None or ended_at > trace.ended_at:
        trace.ended_at = ended_at
    failed = row[_STATUS] == "error"
    if failed or row[_TTFT] is not None:
        trace.ended.append(row)
    if failed:
        trace.n_errors += 1
    if row[_PARENT] is None:
        trace.root = row
        trace.root_error = trace.root_error or failed
    if row[_KIND] != "generation":
        return
    in_tokens, out_tokens, cost = row[_IN_TOKENS], row[_OUT_TOKENS], row[_PRICE]
    if in_tokens is not None:
        trace.in_tokens = (trace.in_tokens or 0) + in_tokens
    if out_tokens is not None:
        trace.out_tokens = (trace.out_tokens or 0) + out_tokens
    if cost is not None:
        trace.cost = (trace.cost or 0.0) + cost
    elif in_tokens or out_tokens:
        trace.n_unpriced += 1
    if row[_MODEL] is not None and (trace.model_at is None or row[_STARTED] >= trace.model_at):
        trace.model, trace.model_at = row[_MODEL], row[_STARTED]
    if trace.last is None or ended_at >= (trace.last[_ENDED] or trace.last[_STARTED]):
        trace.last = row


def _delta(user_id: str, trace_id: str, trace: _Trace) -> Row:
    start = trace.start
    trace.agents.sort(key=lambda entry: entry[0])
    names = [name for _, name in trace.agents]
    path = ARROW.join(name for place, name in enumerate(names) if place == 0 or names[place - 1] != name)
    text_in, key_in = _input(trace)
    text_out, key_out = _output(trace)
    metadata = from_json(start[_TRACE_AT["metadata"]]) if start else {}
    is_fork = start is not None and start[_TRACE_AT["parent_trace_id"]] is not None
    facts = Facts.of(trace.ended, metadata, is_fork=is_fork)
    return (
        user_id, trace_id,
        (start[_TRACE_AT["workflow"]] or None) if start else None, None, start[_TRACE_AT["thread_id"]] if start else None, None,
        trace.started_at, trace.ended_at, trace.n_spans, trace.n_open, trace.n_errors, trace.n_turns,
        trace.n_generations, trace.n_unpriced, trace.in_tokens, trace.out_tokens, trace.cost,
        path or None, trace.agents[0][0] if names else None, trace.model, trace.model_at,
        text_in, key_in, text_out, key_out, trace.root_error, False, None, None, *facts,
    )  # fmt: skip


def _input(trace: _Trace) -> tuple[str | None, int | None]:
    for row, handicap in ((trace.root, 0), (trace.first, _LAST_RESORT)):
        if row is not None:
            text = asked(payload_value(row[AT["input"]], bool(row[AT["io_json"]] & INPUT_IS_JSON)))
            if text is not None:
                return text, _micros(row[_STARTED]) + handicap
    return None, None


def _output(trace: _Trace) -> tuple[str | None, int | None]:
    for row, lead in ((trace.root, _LAST_RESORT), (trace.last, 0)):
        if row is not None and row[_ENDED] is not None:
            text = answered(payload_value(row[AT["output"]], bool(row[AT["io_json"]] & OUTPUT_IS_JSON)))
            if text is not None:
                return text, _micros(row[_ENDED]) + lead
    return None, None


def _micros(moment: datetime) -> int:
    return int((moment - _EPOCH) // _MICROSECOND)


# --- Folding: one row of sums per trace, for databases that do not maintain it themselves


FOLD_FROM = 2_000
"""Number of new deltas from which folding is worthwhile."""
_UPTO = "(select max(delta_no) from core.trace_sums_upto)"
_FRESH = f"from core.trace_deltas where delta_no > {_UPTO}"


def fold(db: Database, *, whole: bool = False) -> None:
    """DuckDB: maintains one row of sums per trace, so that listings need not add up deltas. Postgres does so with every write."""
    if db.dialect == "postgres":
        return
    [n] = db.query(SYSTEM_USER, f"select count(*) {_FRESH}").one() or (0,)
    if n < (1 if whole else FOLD_FROM):
        return
    db.write(
        SYSTEM_USER,
        [
            Statement(f"delete from core.trace_sums where (user_id, trace_id) in (select user_id, trace_id {_FRESH})"),
            Statement(f"insert into core.trace_sums select * from core.added_up(timestamp '-infinity', {_UPTO})"),
            Statement("update core.trace_sums_upto set delta_no = (select max(delta_no) from core.trace_deltas)"),
        ],
    )


# --- Usage of spans, when several report the same call


RESPONSE_ID = r'"gen_ai\.response\.id":"([^"\\]+)"'
"""Matches the provider's response id in a span's attributes as JSON."""
REQUEST_OF_CLIENT = '"http.request.method":'
"""In a span's attributes as JSON: marks the HTTP requests that the clients `mistralai` 1.x and `anthropic` 2 report themselves."""
INEXACT_TOTAL = r'"gen_ai\.(?:system|provider\.name)":"strands-agents"'
"""Matches the attributes of an agent's span whose usage is not the sum of its calls, but of all since the agent was made, those of earlier
traces too."""
_EMPTY = frozenset({"", "[]", "null", '""', "{}"})
"""Inputs and outputs that say nothing."""
_response_id = re.compile(RESPONSE_ID).search
_is_inexact_total = re.compile(INEXACT_TOTAL).search


class SpanFacts(NamedTuple):
    """The facts of a span that matter to other spans of its trace."""

    parent_id: str | None
    kind: str
    name: str = ""
    agent: str | None = None
    is_open: bool = False
    failed: bool = False
    model: str | None = None
    provider: str | None = None
    started_at: datetime = datetime.min
    ended_at: datetime = datetime.min
    """Its start while it is open, because its usage is not known yet."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    response_id: str | None = None
    has_input: bool = False
    has_output: bool = False
    is_request: bool = False
    """Whether it is the HTTP request of a call, reported by the provider's client."""
    is_inexact: bool = False
    """Whether its usage counts only where no span below it reports any."""

    @property
    def knows(self) -> bool:
        """Whether it changes how the spans below it are counted."""
        return (
            self.kind == "generation"
            or self.input_tokens is not None
            or self.output_tokens is not None
            or self.cost_usd is not None
        )

    @property
    def used(self) -> bool:
        return self.cost_usd is not None or bool(self.input_tokens or self.output_tokens)


def facts_of(row: Row) -> SpanFacts:
    status, kind, started_at, ended_at = row[_STATUS], row[_KIND], row[_STARTED], row[_ENDED]
    text_in, text_out = row[_TEXT_IN], row[_TEXT_OUT]
    has_input = text_in is not None and text_in not in _EMPTY
    if status == "pending" and ended_at is None:
        return SpanFacts(
            row[_PARENT], kind, row[_NAME], row[_AGENT], True, False, row[_MODEL], row[_PROVIDER], started_at, started_at,
            has_input=has_input,
        )  # fmt: skip
    answer, is_request, is_inexact = None, False, False
    if kind == "generation" and (attributes := row[_ATTRIBUTES]):
        answer, is_request = response_id(attributes), REQUEST_OF_CLIENT in attributes
    elif kind == "agent" and row[_IN_TOKENS] is not None:
        is_inexact = _is_inexact_total(row[_ATTRIBUTES] or "") is not None
    return SpanFacts(
        row[_PARENT], kind, row[_NAME], row[_AGENT], False, status == "error", row[_MODEL], row[_PROVIDER], started_at,
        ended_at or started_at, row[_IN_TOKENS], row[_OUT_TOKENS], row[_PRICE], answer, has_input,
        text_out is not None and text_out not in _EMPTY, is_request, is_inexact,
    )  # fmt: skip


class Used(NamedTuple):
    """Usage of spans. None where no span has a value."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    n_generations: int = 0
    n_unpriced: int = 0
    """Calls with known tokens and unknown cost."""

    def since(self, before: Used) -> Used:
        """Returns the difference to `before`."""
        cost = None if self.cost_usd is None else round(self.cost_usd - (before.cost_usd or 0.0), 15)
        return Used(
            None if self.input_tokens is None else self.input_tokens - (before.input_tokens or 0),
            None if self.output_tokens is None else self.output_tokens - (before.output_tokens or 0),
            cost,
            self.n_generations - before.n_generations,
            self.n_unpriced - before.n_unpriced,
        )


Repeated = tuple[int, int, int, float]
"""Calls, input tokens, output tokens and cost of a generation that duplicate another generation's."""

_INPUT, _OUTPUT, _COST, _CALL, _CALL_INPUT, _CALL_OUTPUT, _CALL_COST = (1 << bit for bit in range(7))
"""Flags for what a span or one above it reports; the last three for what a generation among them reports."""


def response_id(attributes: str | None) -> str | None:
    """Returns the response id in a span's attributes as JSON."""
    match = _response_id(attributes) if attributes else None
    return match[1] if match else None


def used(spans: Mapping[str, SpanFacts]) -> tuple[Used, dict[str, Repeated]]:
    """Returns the usage of these spans of one trace, and the generations among them that duplicate others."""
    if inexact := [span_id for span_id, span in spans.items() if span.is_inexact]:
        exact = _above_usage(spans)
        spans = {**spans}
        for span_id in inexact:
            if span_id in exact:
                spans[span_id] = spans[span_id]._replace(input_tokens=None, output_tokens=None, cost_usd=None)
    parents = {span_id: span.parent_id for span_id, span in spans.items()}
    _join_answers(spans, parents)
    _join_requests(spans, parents)
    known: dict[str, int] = {}
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost: float | None = None
    n_generations = 0
    unpriced: list[str] = []
    repeated: dict[str, Repeated] = {}
    path: list[str] = []
    for first in spans:
        at: str | None = first
        while at is not None and at in parents and at not in known:
            known[at] = 0  # Ends a cycle of parents.
            path.append(at)
            at = parents[at]
        flags = known.get(at, 0) if at is not None else 0
        while path:
            span_id = path.pop()
            span = spans[span_id]
            generation = span.kind == "generation"
            above = flags
            if generation:
                flags |= _CALL
                n_generations += not above & _CALL
                if above & _CALL:
                    repeated[span_id] = _repeated(span, above)
            if span.input_tokens is not None:
                if not above & _INPUT:
                    tokens_in = (tokens_in or 0) + span.input_tokens
                flags |= _INPUT | _CALL_INPUT if generation else _INPUT
            if span.output_tokens is not None:
                if not above & _OUTPUT:
                    tokens_out = (tokens_out or 0) + span.output_tokens
                flags |= _OUTPUT | _CALL_OUTPUT if generation else _OUTPUT
            if span.cost_usd is not None:
                if not above & _COST:
                    cost = (cost or 0.0) + span.cost_usd
                flags |= _COST | _CALL_COST if generation else _COST
            elif not above & _COST and (span.input_tokens or span.output_tokens):
                unpriced.append(span_id)
            known[span_id] = flags
    n_unpriced = len(set(unpriced) - _above_usage(spans)) if unpriced else 0
    return Used(tokens_in, tokens_out, cost, n_generations, n_unpriced), repeated


def _above_usage(spans: Mapping[str, SpanFacts]) -> set[str]:
    """Returns the spans below which usage was reported."""
    tells: set[str] = set()
    for span in spans.values():
        if span.used:
            up = span.parent_id
            while up is not None and up in spans and up not in tells:
                tells.add(up)
                up = spans[up].parent_id
    return tells


def _repeated(span: SpanFacts, above: int) -> Repeated:
    return (
        1,
        (span.input_tokens or 0) if above & _CALL_INPUT else 0,
        (span.output_tokens or 0) if above & _CALL_OUTPUT else 0,
        (span.cost_usd or 0.0) if above & _CALL_COST else 0.0,
    )


def _join_answers(spans: Mapping[str, SpanFacts], parents: dict[str, str | None]) -> None:
    """Treats sibling generations with the same response id and overlapping times as parts of the one with the most information."""
    same: dict[str, list[str]] = {}
    for span_id, span in spans.items():
        if span.response_id is not None:
            same.setdefault(span.response_id, []).append(span_id)
    for span_ids in same.values():
        if len(span_ids) < 2:
            continue
        outermost = _outermost(span_ids, parents)
        outermost.sort(key=lambda i: (spans[i].cost_usd is None, spans[i].input_tokens is None, i))
        calls: list[tuple[datetime, str]] = []
        """In order of start. They do not overlap, so only the last one that started before a span can overlap it."""
        for span_id in outermost:
            began, place = spans[span_id].started_at, bisect_right(calls, (spans[span_id].started_at, "~"))
            near = [other for _, other in calls[max(place - 1, 0) : place + 1]]
            call = next((other for other in near if overlap(spans[other], spans[span_id])), None)
            if call is None:
                calls.insert(place, (began, span_id))
            elif span_id not in _above(call, parents):
                parents[span_id] = call


_NEAR = 100
"""How many parallel calls are considered."""


def _join_requests(spans: Mapping[str, SpanFacts], parents: dict[str, str | None]) -> None:
    """Treats each request of a client, unless its response id tells its call, as part of the sibling call that encloses it, at most one
    request per call."""
    found = [(span.started_at, span_id) for span_id, span in spans.items() if span.is_request]
    if not found:
        return
    answers = Counter(span.response_id for span in spans.values())
    requests = sorted(one for one in found if (answer := spans[one[1]].response_id) is None or answers[answer] == 1)
    siblings: dict[str | None, list[tuple[datetime, str]]] = {}
    for span_id, span in spans.items():
        if span.kind == "generation" and not span.is_request:
            siblings.setdefault(span.parent_id, []).append((span.started_at, span_id))
    for calls in siblings.values():
        calls.sort()
    joined: set[str] = set()
    for began, span_id in requests:
        calls = siblings.get(spans[span_id].parent_id, [])
        place = bisect_right(calls, (began, "~"))
        around = [
            (spans[call].ended_at, call)
            for _, call in calls[max(place - _NEAR, 0) : place]
            if call not in joined and _encloses(spans[call], spans[span_id]) and span_id not in _above(call, parents)
        ]
        if around:  # The call that ends first; those that end later may enclose later requests.
            _, parents[span_id] = min(around)
            joined.add(min(around)[1])


def _encloses(call: SpanFacts, request: SpanFacts) -> bool:
    """Whether the times, and the numbers or else the model, are those of one call. A streamed or failed call may state no numbers."""
    tokens = call.input_tokens, call.output_tokens
    if call.response_id is not None and request.response_id is not None:
        return False
    same = (
        call.model in (None, request.model)
        if tokens == (None, None)
        else tokens == (request.input_tokens, request.output_tokens)
    )
    return request.ended_at <= call.ended_at and same


def overlap(one: SpanFacts, other: SpanFacts) -> bool:
    return one.started_at <= other.ended_at and other.started_at <= one.ended_at


def _outermost(span_ids: Sequence[str], parents: Mapping[str, str | None]) -> list[str]:
    """Returns the spans without another one of them above. Visits each span once, at any depth."""
    among = set(span_ids)
    inside: dict[str, bool] = {}
    """Whether a span, or one above it, is among them."""
    for first in span_ids:
        path: list[str] = []
        at: str | None = first
        while at is not None and at not in inside:
            inside[at] = False  # Ends a cycle of parents.
            path.append(at)
            at = parents.get(at)
        is_inside = at is not None and inside[at]
        for span_id in reversed(path):
            is_inside = inside[span_id] = is_inside or span_id in among
    return [span_id for span_id in span_ids if not inside.get(parents.get(span_id) or "", False)]


def _above(span_id: str, parents: Mapping[str, str | None]) -> set[str]:
    ancestors: set[str] = set()
    at = parents.get(span_id)
    while at is not None and at != span_id and at not in ancestors:
        ancestors.add(at)
        at = parents.get(at)
    return ancestors
