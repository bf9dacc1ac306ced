"""`TraceView`: a single trace, live while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any, Unpack

from timestep_lab.model.arguments import trace_id_of
from timestep_lab.model.clock import to_aware_utc
from timestep_lab.model.codec import Json, object_of
from timestep_lab.model.display import cost_text, duration_text, tokens_text
from timestep_lab.service.traces import Row, SpanColumns, Traces
from timestep_lab.store.trace_diff import DiffRow
from timestep_lab.ui.columns import encode_spans, json_safe, parent_rows
from timestep_lab.ui.trace_reader import (
    Entry,
    TraceReader,
    part_of,
    read_about,
    read_conversation,
    read_trace,
    tree_rows,
)
from timestep_lab.ui.view import Reply, Updates, handles

if TYPE_CHECKING:
    import pandas

    from timestep_lab.ui.trace_reader import ReaderOptions


# --- A trace as plain HTML: a table of steps with bars of block characters, and its messages. Readable without stylesheets


MOST_ROWS = 120
MOST_STATIC_ENTRIES = 60
BAR_WIDTH = 32
MOST_TEXT = 2_000
DECIDED = ("approved", "rejected")
OUTCOMES = {
    "done": "✓ done",
    "stopped": "‖ stopped at a limit",
    "failed": "✗ failed",
    "running": "… running",
    "waiting": "‖ waiting",
}


def outcome_text(trace: Mapping[str, object]) -> str:
    """The outcome of a trace, in words."""
    if trace.get("outcome") == "steps_failed":
        failed = trace.get("n_errors") or 0
        return f"! done, {failed} {'step' if failed == 1 else 'steps'} failed"
    outcome = str(trace.get("outcome") or trace.get("status") or "")
    return OUTCOMES.get(outcome, outcome)


def trace_html(
    source: Traces,
    trace_id: str,
    trace: Row | None = None,
    spans: SpanColumns | None = None,
    rows: Sequence[tuple[int, int]] | None = None,
) -> str:
    """The static copy of one trace. `trace`, `spans`, `rows`: its row, its columns and their `tree_rows`, if already
    read.
    """
    trace = source.read(trace_id) if trace is None else trace
    spans = source.columns(trace_id) if spans is None else spans
    entries = read_conversation(source, trace_id, spans, MOST_STATIC_ENTRIES)["entries"]
    title = text(trace.get("input") or trace.get("workflow") or "Trace", 200)
    return "\n".join(
        [f"<p><strong>{title}</strong><br>{facts_line(trace)}</p>", steps_table(spans, rows), _messages(entries)]
    )


def facts_line(trace: Row) -> str:
    """`✓ done · A ⇢ B · 3 turns · 2.41 s · 1.2k tok · $0.0031`, escaped."""
    tokens = [trace.get(name) for name in ("input_tokens", "output_tokens")]
    known = [n for n in tokens if n is not None]
    turns = trace.get("turns")
    parts = [
        outcome_text(trace),
        trace.get("agent_path"),
        trace.get("model"),
        f"{turns} turn{'s' if turns != 1 else ''}" if turns else None,
        duration_text(trace.get("duration_ms")),
        tokens_text(sum(known) if known else None),
        cost_text(trace.get("cost_usd"), trace.get("n_unpriced")),
        moment(trace.get("started_at")),
    ]
    return " · ".join(text(part, 200) for part in parts if part)


def moment(when: datetime | None) -> str:
    """A time for display, in UTC."""
    return to_aware_utc(when).strftime("%Y-%m-%d %H:%M:%S UTC") if when is not None else ""


def text(value: object, most: int = MOST_TEXT) -> str:
    """A text escaped, shortened, and wrapped in `<bdi>`, so that right-to-left marks do not affect the surrounding
    text.
    """
    plain = str(json_safe(value)).replace("\0", "␀")
    shortened = plain if len(plain) <= most else f"{plain[:most]} … ({len(plain):,} characters)"
    return f'<bdi dir="auto">{escape(shortened)}</bdi>'


def steps_table(spans: SpanColumns, rows: Sequence[tuple[int, int]] | None = None) -> str:
    """The steps of a trace as a nested HTML table."""
    import numpy as np

    starts = np.array(spans["started_us"], dtype="f8")  # None becomes NaN.
    ends = np.array(spans.get("ended_us", ()), dtype="f8")
    start = float(starts.min()) if len(starts) else 0.0
    length = float(np.nanmax(np.append(ends, starts))) - start if len(starts) else 0.0
    rows = tree_rows(spans, MOST_ROWS) if rows is None else rows
    lines = [_step(spans, row, depth, start, length or 1.0) for row, depth in rows[:MOST_ROWS]]
    if len(starts) > MOST_ROWS:
        lines.append(f"<tr><td colspan='4'>… and {len(starts) - MOST_ROWS:,} more steps</td></tr>")
    head = "<tr><th align='left'>Step</th><th align='left'>When</th><th align='right'>Time</th><th align='right'>Tokens</th></tr>"
    return f"<table>{head}{''.join(lines)}</table>"


def _step(spans: SpanColumns, row: int, depth: int, start: float, length: float) -> str:
    begin, end = spans["started_us"][row], _value(spans, "ended_us", row)
    pending = spans["status"][row] == "pending"
    until = end if end is not None else start + length if pending else begin
    left = round((begin - start) / length * (BAR_WIDTH - 1))
    size = max(1, round((until - begin) / length * BAR_WIDTH))
    bar = "·" * left + ("▒" if pending else "█") * min(size, BAR_WIDTH - left)
    tokens = [n for n in (_value(spans, "input_tokens", row), _value(spans, "output_tokens", row)) if n is not None]
    mark = {"error": " ✗ failed", "rejected": " ✗ rejected"}.get(spans["status"][row], "")
    named = str(spans["name"][row])
    kind = "" if named.startswith(spans["kind"][row]) else f"{escape(spans['kind'][row])} "
    name = f"{'&nbsp;' * 3 * min(depth, 12)}{kind}{text(named, 80)}{mark}"
    time = "running" if pending else "" if end is None else duration_text((until - begin) / 1000)
    cells = f"<td align='left'>{name}</td><td align='left'><code>{bar.ljust(BAR_WIDTH, '·')}</code></td>"
    return f"<tr>{cells}<td align='right'>{time}</td><td align='right'>{int(sum(tokens)) if tokens else ''}</td></tr>"


def _value(spans: SpanColumns, name: str, row: int) -> Any:
    values = spans.get(name, ())
    value = values[row] if len(values) else None
    return None if value is None or value != value else value


def _messages(entries: Sequence[Entry]) -> str:
    lines = [line for entry in entries[:MOST_STATIC_ENTRIES] if (line := _entry(entry))]
    if not lines:
        return ""
    return f"<details><summary>Messages</summary>{''.join(lines)}</details>"


def _entry(entry: Entry) -> str:
    if entry["kind"] == "handoff":
        return f"<p><em>handed off from {text(entry['from'])} to {text(entry['to'])}</em></p>"
    if entry["kind"] == "error":
        return f"<p><strong>✗ {text(entry['name'], 100)} failed:</strong> {text(entry['error'])}</p>"
    if entry["kind"] == "tool":
        result = entry["error"] or entry["result"]
        call = f"{text(entry['name'], 100)}({text(entry['arguments'], 400)})"
        decided = f" ({entry['approval']})" if entry["approval"] in DECIDED else ""
        return f"<p><code>{call}</code>{decided} → <code>{text(result, 600)}</code></p>"
    if entry["role"] in ("system", "developer"):
        return ""
    words = "\n\n".join(part.get("text", "") for part in entry["parts"] if part["type"] == "text")
    who = entry.get("agent") or {"user": "User"}.get(entry["role"], "Assistant")
    return f"<p><strong>{text(who, 100)}:</strong> {text(words).replace(chr(10), '<br>')}</p>" if words else ""


MOST_PATH = 10_000
"""Maximum number of characters of an agent path in the first screen."""
OVER = ("completed", "stopped", "failed", "cancelled", "interrupted")
"""Final statuses: the spans of such a trace need not be read again."""


class _Read:
    """A trace as first read. Its row may be outdated; a connected view receives later changes."""

    def __init__(self, source: Traces, trace_id: str, trace: Row) -> None:
        self.spans = source.columns(trace_id)
        self.about = read_about(source, trace_id, self.spans, trace)
        self.parents = parent_rows(self.spans)
        self.rows = tree_rows(self.spans, MOST_ROWS, self.parents)

    def first_screen(self) -> Reply:
        """The first visible rows, as a trace. `partial`: the other rows follow."""
        part = part_of(self.spans, [row for row, _ in self.rows])
        partial = len(self.rows) < len(self.spans["span_id"])
        trace = object_of(self.about["trace"])
        if len(str(trace.get("agent_path") or "")) > MOST_PATH:
            trace = {**trace, "agent_path": None}
        return Reply({**self.about, "trace": trace, "partial": partial}, [encode_spans(part)])


def _trace_in(reply: Reply) -> Mapping[str, Json]:
    """The trace's row in the reply to `trace`."""
    return object_of(object_of(reply.value)["trace"])


class TraceView(TraceReader):
    """Waterfall, handoff graph, conversation, comparison and JSON of one trace. Raises `NotFoundError`.

    `selection` is the id of the selected span, synchronised with the view in both directions.

    Example:
        run = await lab.run("Say 4.", model="demo/echo")
        assert isinstance(run.trace, TraceView)
        print(run.trace.df()[["name", "duration_ms"]])
    """

    stem = "trace"

    def __init__(self, source: Traces, trace_id: str, **options: Unpack[ReaderOptions]) -> None:
        super().__init__(source, **options)
        self.trace_id = trace_id
        self._selection: str | None = None
        self._trace = source.read(trace_id)
        self._read: _Read | None = None
        """For the first screen and the first static copy."""
        self._state: Reply | None = None
        self._updates = Updates(self, self._refresh)
        self._end: Callable[[], None] | None = None

    @property
    def trace(self) -> dict[str, Json]:
        """The trace's row."""
        return dict(self.source.read(self.trace_id))

    @property
    def sql(self) -> str:
        """The SQL query of the spans of this trace."""
        return (
            f"select * from spans where trace_id = '{self.trace_id.replace(chr(39), chr(39) * 2)}' order by started_at"
        )

    def df(self) -> pandas.DataFrame:
        """The spans, one row each, with their payloads."""
        import pandas

        ids = list(self.source.columns(self.trace_id)["span_id"])
        return pandas.DataFrame([dict(span) for span in self.source.payloads(self.trace_id, ids)])

    def diff(self, other: object) -> list[DiffRow]:
        """Align this trace with another: a run, a trace view, or a trace id. Raises `UsageError`, `NotFoundError`."""
        return list(self.source.diff(self.trace_id, trace_id_of(other)))

    @property
    def selection(self) -> str | None:
        """Id of the selected span, or None."""
        return self._selection

    @selection.setter
    def selection(self, span_id: str | None) -> None:
        self._selection = span_id
        self.emit({"kind": "select", "span_id": span_id})

    def first(self) -> Reply | None:
        if self._state is not None:
            return None
        self._read = _Read(self.source, self.trace_id, self._trace)
        return self._read.first_screen()

    def snapshot(self) -> Reply:
        if self._state is None:
            read = self._read = self._read or _Read(self.source, self.trace_id, self._trace)
            self._state = Reply(read.about, [encode_spans(read.spans, read.parents)])
        return self._state

    async def prepare(self) -> None:
        if self._state is None:
            await self.in_turn(self.snapshot)
            self._read = None  # A served page has no static copy.

    def static_html(self) -> str:
        self.snapshot()
        read, self._read = self._read, None
        if read is None:
            return trace_html(self.source, self.trace_id)
        return trace_html(self.source, self.trace_id, object_of(read.about["trace"]), read.spans, read.rows)

    def watched(self, now: bool) -> None:
        if now and self._end is None:
            self._end = self.source.subscribe(self._changed)
            # Changes between construction and now were not received.
            self._updates.soon()
        elif not now and self._end is not None:
            self._end()
            self._end = None

    def _changed(self, trace_id: str) -> None:
        if trace_id in ("", self.trace_id):
            self._updates.soon()

    async def _refresh(self) -> None:
        shown = await self.in_turn(self.snapshot)
        before = _trace_in(shown)
        started = time.perf_counter()
        if before["status"] in OVER and before == await self.in_turn(self.source.read, self.trace_id):
            return
        state = await self.in_turn(read_trace, self.source, self.trace_id)
        self._updates.cost_s = time.perf_counter() - started
        if state.buffers == shown.buffers and _trace_in(state) == before:
            return
        self._state, self._read = state, None
        self.emit({"kind": "trace", "value": state.value}, state.buffers)
        self.refresh_static()

    @handles("select")
    def _select(self, span_id: str | None) -> None:
        self._selection = span_id
