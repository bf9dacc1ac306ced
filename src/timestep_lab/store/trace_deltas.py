"""What one batch of spans adds to each trace it touches: a row a trace, so that listings add up rows instead of reading spans."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from timestep_lab.store.payload_text import answered, asked
from timestep_lab.store.span_rows import AT, INPUT_IS_JSON, OUTPUT_IS_JSON, TRACE_COLUMNS, Row, payload_value

DELTA_COLUMNS = (
    "user_id", "trace_id", "workflow", "thread_id", "started_at", "ended_at", "n_spans", "n_open", "n_errors", "n_turns",
    "n_generations", "n_unpriced", "input_tokens", "output_tokens", "cost_usd", "agents", "agents_at", "model",
    "model_at", "input", "input_key", "output", "output_key", "root_error", "interrupted",
)  # fmt: skip
ARROW = " → "
_LAST_RESORT = 1 << 60
"""Added to a key that should lose against any root span's (input: least key wins) or win against all others (output)."""
_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_TRACE_AT = {column: place for place, column in enumerate(TRACE_COLUMNS)}

_TRACE, _SPAN, _PARENT, _KIND, _AGENT = AT["trace_id"], AT["span_id"], AT["parent_id"], AT["kind"], AT["agent"]
_NAME, _ATTRIBUTES = AT["name"], AT["attributes"]
_STATUS, _MODEL, _STARTED, _ENDED = AT["status"], AT["model"], AT["started_at"], AT["ended_at"]
_IN_TOKENS, _OUT_TOKENS, _COST = AT["input_tokens"], AT["output_tokens"], AT["cost_usd"]


RESPONSE_ID = r'"gen_ai\.response\.id":"([^"\\]+)"'
"""In a span's attributes as JSON: the provider's name of the answer."""
_response_id = re.compile(RESPONSE_ID).search


class Spent(NamedTuple):
    """What a span says was used, and where it stands in its trace."""

    parent_id: str | None
    is_generation: bool
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    response_id: str | None = None
    started_at: datetime = _EPOCH
    ended_at: datetime = _EPOCH


class _Sums(NamedTuple):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    n_generations: int = 0
    n_unpriced: int = 0


class _Trace:
    """The sums of one trace while a batch is read."""

    __slots__ = (
        "agents", "cost", "ended_at", "first", "in_tokens", "last", "model", "model_at", "n_errors", "n_generations",
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
        """The generation that began first, and the one that ended last."""
        self.last: Row | None = None
        self.start: Row | None = None
        self.root_error = False


def trace_deltas(
    user_id: str,
    *,
    ended: Sequence[Row] = (),
    opened: Sequence[Row] = (),
    opened_before: Collection[tuple[str, str]] = (),
    starts: Iterable[Row] = (),
    stored: Mapping[str, Mapping[str, Spent]] | None = None,
) -> list[Row]:
    """`ended` and `opened` are span rows, `starts` trace rows, all of this user.

    `stored` is given for spans of other programs, in which a call may be told twice, by a framework and by the client that it uses, and
    an agent may tell the sum of its calls: by trace and span id, what is in the store of the traces touched. Sums are then over the
    outermost spans that know a number. Spans of the lab's own runs tell each call once, and are added as they come.

    `opened_before` holds the (trace_id, span_id) of ended spans that an earlier batch counted when they began.
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
    if stored is not None:
        _count_calls_once(traces, [*opened, *ended], stored)
    return [_delta(user_id, trace_id, trace) for trace_id, trace in traces.items()]


def _count_calls_once(
    traces: Mapping[str, _Trace], rows: Iterable[Row], stored: Mapping[str, Mapping[str, Spent]]
) -> None:
    spans: dict[str, dict[str, Spent]] = {}
    for row in rows:
        trace_id = row[_TRACE]
        if trace_id not in spans:
            spans[trace_id] = dict(stored.get(trace_id, {}))
        is_generation = row[_KIND] == "generation"
        if row[_ENDED] is None and row[_STATUS] == "pending":
            # What an open span used is not stored: it counts once it has ended.
            spans[trace_id][row[_SPAN]] = Spent(
                row[_PARENT], is_generation, started_at=row[_STARTED], ended_at=row[_STARTED]
            )
            continue
        found = _response_id(row[_ATTRIBUTES] or "") if is_generation else None
        spans[trace_id][row[_SPAN]] = Spent(
            row[_PARENT],
            is_generation,
            row[_IN_TOKENS],
            row[_OUT_TOKENS],
            row[_COST],
            found[1] if found else None,
            row[_STARTED],
            row[_ENDED] or row[_STARTED],
        )
    for trace_id, of_trace in spans.items():
        trace, before, after = traces[trace_id], _sums(stored.get(trace_id, {})), _sums(of_trace)
        trace.in_tokens = _more(after.input_tokens, before.input_tokens)
        trace.out_tokens = _more(after.output_tokens, before.output_tokens)
        cost = _more(after.cost_usd, before.cost_usd)
        trace.cost = None if cost is None else round(cost, 15)
        trace.n_generations = after.n_generations - before.n_generations
        trace.n_unpriced = after.n_unpriced - before.n_unpriced


def _more(after: Any, before: Any) -> Any:
    return None if after is None else after - (before or 0)


def _sums(spans: Mapping[str, Spent]) -> _Sums:
    """Over the outermost spans that know a number; a generation within another, or with the same answer, is the same call."""
    if not spans:
        return _Sums()
    parents = {span_id: span.parent_id for span_id, span in spans.items()}
    _join_answers(spans, parents)
    known: dict[str | None, tuple[bool, bool, bool, bool]] = {}
    """By span: whether it or one above it knows its input tokens, its output tokens, its cost, and whether one is a generation."""
    tells: set[str] = set()
    """Spans below which something was used."""
    tokens_in: list[int] = []
    tokens_out: list[int] = []
    costs: list[float] = []
    n_generations = 0
    path: list[str] = []
    for first in spans:
        at: str | None = first
        while at is not None and at in parents and at not in known:
            known[at] = (False, False, False, False)  # A circle of parents ends here.
            path.append(at)
            at = parents[at]
        while path:
            span_id = path.pop()
            span, above = spans[span_id], known.get(parents[span_id], (False, False, False, False))
            if span.input_tokens is not None and not above[0]:
                tokens_in.append(span.input_tokens)
            if span.output_tokens is not None and not above[1]:
                tokens_out.append(span.output_tokens)
            if span.cost_usd is not None and not above[2]:
                costs.append(span.cost_usd)
            n_generations += span.is_generation and not above[3]
            known[span_id] = (
                above[0] or span.input_tokens is not None, above[1] or span.output_tokens is not None,
                above[2] or span.cost_usd is not None, above[3] or span.is_generation,
            )  # fmt: skip
            if span.cost_usd is not None or span.input_tokens or span.output_tokens:
                up = parents[span_id]
                while up is not None and up in parents and up not in tells:
                    tells.add(up)
                    up = parents[up]
    n_unpriced = sum(
        1
        for span_id, span in spans.items()
        if (span.input_tokens or span.output_tokens) and span_id not in tells and not known[span_id][2]
    )
    return _Sums(
        sum(tokens_in) if tokens_in else None, sum(tokens_out) if tokens_out else None, sum(costs) if costs else None,
        n_generations, n_unpriced,
    )  # fmt: skip


def _join_answers(spans: Mapping[str, Spent], parents: dict[str, str | None]) -> None:
    """Generations side by side that tell of the same answer at the same time: the others count as parts of the one that knows most."""
    same: dict[str, list[str]] = {}
    for span_id, span in spans.items():
        if span.response_id is not None:
            same.setdefault(span.response_id, []).append(span_id)
    for span_ids in same.values():
        if len(span_ids) < 2:
            continue
        among = set(span_ids)
        outermost = [span_id for span_id in span_ids if among.isdisjoint(_above(span_id, parents))]
        outermost.sort(key=lambda i: (spans[i].cost_usd is None, spans[i].input_tokens is None, i))
        calls: list[str] = []
        for span_id in outermost:
            call = next((call for call in calls if _overlap(spans[call], spans[span_id])), None)
            if call is None:
                calls.append(span_id)
            elif span_id not in _above(call, parents):
                parents[span_id] = call


def _overlap(one: Spent, other: Spent) -> bool:
    return one.started_at <= other.ended_at and other.started_at <= one.ended_at


def _above(span_id: str, parents: Mapping[str, str | None]) -> set[str]:
    found: set[str] = set()
    at = parents.get(span_id)
    while at is not None and at != span_id and at not in found:
        found.add(at)
        at = parents.get(at)
    return found


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
        # Also when the span was counted as it began: reading by time leaves out a row of sums that knows none.
        trace.started_at = row[_STARTED]
    ended_at = row[_ENDED] or row[_STARTED]  # An import may know no end; no span of a trace begins after its end.
    if trace.ended_at is None or ended_at > trace.ended_at:
        trace.ended_at = ended_at
    failed = row[_STATUS] == "error"
    if failed:
        trace.n_errors += 1
    if row[_PARENT] is None:
        trace.root = row
        trace.root_error = trace.root_error or failed
    if row[_KIND] != "generation":
        return
    in_tokens, out_tokens, cost = row[_IN_TOKENS], row[_OUT_TOKENS], row[_COST]
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
    return (
        user_id, trace_id,
        (start[_TRACE_AT["workflow"]] or None) if start else None, start[_TRACE_AT["thread_id"]] if start else None,
        trace.started_at, trace.ended_at, trace.n_spans, trace.n_open, trace.n_errors, trace.n_turns,
        trace.n_generations, trace.n_unpriced, trace.in_tokens, trace.out_tokens, trace.cost,
        path or None, trace.agents[0][0] if names else None, trace.model, trace.model_at,
        text_in, key_in, text_out, key_out, trace.root_error, False,
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


def _micros(moment: Any) -> int:
    return int((moment - _EPOCH) // _MICROSECOND)
