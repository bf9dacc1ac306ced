"""What one batch of spans adds to each trace it touches: a row a trace, so that listings add up rows instead of reading spans."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from timestep_lab.store.payload_text import answered, asked
from timestep_lab.store.span_rows import AT, INPUT_IS_JSON, OUTPUT_IS_JSON, TRACE_COLUMNS, Row, payload_value

DELTA_COLUMNS = (
    "user_id", "trace_id", "workflow", "workflow_key", "thread_id", "thread_key", "started_at", "ended_at", "n_spans", "n_open",
    "n_errors", "n_turns", "n_generations", "n_unpriced", "input_tokens", "output_tokens", "cost_usd", "agents", "agents_at",
    "model", "model_at", "input", "input_key", "output", "output_key", "root_error", "interrupted", "version",
)  # fmt: skip
ARROW = " → "
_LAST_RESORT = 1 << 60
"""Added to a key that should lose against any root span's (input: least key wins) or win against all others (output)."""
_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_TRACE_AT = {column: place for place, column in enumerate(TRACE_COLUMNS)}

_TRACE, _SPAN, _PARENT, _KIND, _AGENT = AT["trace_id"], AT["span_id"], AT["parent_id"], AT["kind"], AT["agent"]
_NAME = AT["name"]
_STATUS, _MODEL, _STARTED, _ENDED = AT["status"], AT["model"], AT["started_at"], AT["ended_at"]
_IN_TOKENS, _OUT_TOKENS, _COST = AT["input_tokens"], AT["output_tokens"], AT["cost_usd"]


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
) -> list[Row]:
    """`ended` and `opened` are span rows, `starts` trace rows, all of this user, of the lab's own runs: these tell each call once, and
    are added as they come. Spans of other programs: see `imported_trace`.

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
        (start[_TRACE_AT["workflow"]] or None) if start else None, None, start[_TRACE_AT["thread_id"]] if start else None, None,
        trace.started_at, trace.ended_at, trace.n_spans, trace.n_open, trace.n_errors, trace.n_turns,
        trace.n_generations, trace.n_unpriced, trace.in_tokens, trace.out_tokens, trace.cost,
        path or None, trace.agents[0][0] if names else None, trace.model, trace.model_at,
        text_in, key_in, text_out, key_out, trace.root_error, False, None,
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
