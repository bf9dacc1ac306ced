"""A trace on a terminal: tree and waterfall in one, as wide as the window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from timestep_lab.cli.context import printable
from timestep_lab.model.clock import ms_between
from timestep_lab.model.numbers import cost_text, duration_text, tokens_text
from timestep_lab.model.spans import SpanRecord

COLOURS = {
    "agent": "blue", "generation": "yellow", "tool": "green", "handoff": "magenta", "guardrail": "dark_goldenrod",
    "retrieval": "cyan", "embedding": "cyan", "task": "white", "turn": "bright_black", "other": "bright_black",
}  # fmt: skip
SIGNS = {
    "agent": "●",
    "generation": "◆",
    "tool": "▪",
    "handoff": "⇢",
    "guardrail": "▲",
    "retrieval": "○",
    "embedding": "◇",
}
NAME_LEAST, NAME_MOST = 24, 60
BAR_LEAST, BAR_MOST = 12, 40
BLOCKS = " ▏▎▍▌▋▊▉█"


def print_trace(console: Console, trace: Mapping[str, Any], spans: Sequence[SpanRecord]) -> None:
    """The trace's facts in one line, then a row a span: name, bar (a `┊` marks the first token), time, tokens, cost."""
    facts = [
        str(trace["status"]).replace("_", " "), str(trace.get("agent_path") or trace.get("workflow") or ""),
        duration_text(trace.get("duration_ms")), tokens_text((trace.get("input_tokens") or 0) + (trace.get("output_tokens") or 0)),
        cost_text(trace.get("cost_usd"), trace.get("n_unpriced")),
    ]  # fmt: skip
    console.print(f"[bold]{escape(_first_line(trace.get('input')))}[/]")
    console.print(f"[dim]{escape(' · '.join(f for f in facts if f))}[/]")
    if not spans:
        return
    begin = min(span.started_at for span in spans)
    end = max(span.ended_at or span.started_at for span in spans)
    total = max(ms_between(begin, end), 0.001)
    rows = [_row(depth, span) for depth, span in _in_order(spans)]
    numbers = [max(len(row.numbers[i]) for row in rows) for i in range(3)]
    left = console.width - sum(numbers) - 2 * 4  # two columns between neighbours
    name_width = min(max(row.name.cell_len for row in rows), max(left - BAR_LEAST, NAME_LEAST), NAME_MOST)
    bar_width = min(max(left - name_width, BAR_LEAST), BAR_MOST)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False, expand=False)
    table.add_column(no_wrap=True, overflow="ellipsis", width=name_width)
    table.add_column(no_wrap=True, width=bar_width)
    for width in numbers:
        table.add_column(no_wrap=True, justify="right", width=width)
    for row in rows:
        offset = ms_between(begin, row.span.started_at)
        bar = _bar(offset, row.duration_ms, row.span.ttft_ms, total, bar_width)
        table.add_row(row.name, Text(bar, style=row.colour), *row.numbers)
    console.print(table)


class _Row(NamedTuple):
    span: SpanRecord
    name: Text
    colour: str
    duration_ms: float | None
    numbers: tuple[str, str, str]
    """Duration, tokens, cost."""


def _row(depth: int, span: SpanRecord) -> _Row:
    colour = COLOURS.get(span.kind, "white")
    name = Text("  " * depth + f"{SIGNS.get(span.kind, '·')} ", style=colour)
    name.append(printable(span.name), style="" if span.status != "error" else "red")
    if span.status == "error":
        name.append(f"  ✕ {_first_line(span.error)}", style="red")
    elif span.status == "rejected":
        name.append("  ✕ rejected", style="yellow")
    duration = ms_between(span.started_at, span.ended_at) if span.ended_at else None
    asked = span.kind == "generation"
    tokens = tokens_text((span.input_tokens or 0) + (span.output_tokens or 0)) if asked else ""
    cost = cost_text(span.cost_usd) if asked and span.cost_usd is not None else ""
    return _Row(span, name, colour, duration, (duration_text(duration) or "running", tokens, cost))


def _in_order(spans: Sequence[SpanRecord]) -> list[tuple[int, SpanRecord]]:
    """Parents before children, siblings by start; a span whose parent is missing stands at the root."""
    known = {span.span_id for span in spans}
    children: dict[str | None, list[SpanRecord]] = {}
    for span in sorted(spans, key=lambda s: (s.started_at, s.ended_at is None)):
        children.setdefault(span.parent_id if span.parent_id in known else None, []).append(span)
    found: list[tuple[int, SpanRecord]] = []
    seen: set[str] = set()

    def walk(roots: list[SpanRecord]) -> None:
        waiting = [(0, span) for span in reversed(roots)]
        while waiting:
            depth, span = waiting.pop()
            if span.span_id not in seen:
                seen.add(span.span_id)
                found.append((depth, span))
                waiting += [(depth + 1, child) for child in reversed(children.get(span.span_id, []))]

    walk(children.get(None, []))
    # Parents in a circle lead to no root: the circle is cut at its earliest span.
    for span in sorted(spans, key=lambda s: s.started_at):
        walk([span])
    return found


def _bar(offset_ms: float, duration_ms: float | None, ttft_ms: float | None, total_ms: float, width: int) -> str:
    start = min(int(offset_ms / total_ms * width), width - 1)
    eighths = max(1, round((duration_ms if duration_ms is not None else total_ms - offset_ms) / total_ms * width * 8))
    full, rest = divmod(min(eighths, (width - start) * 8), 8)
    bar = " " * start + "█" * full + (BLOCKS[rest] if rest else "")
    if ttft_ms is not None and duration_ms and full > 2:
        tick = start + min(int(ttft_ms / duration_ms * full), full - 1)
        bar = bar[:tick] + "┊" + bar[tick + 1 :]
    return bar


def _first_line(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else str(value)
    line = printable(text.strip().split("\n", 1)[0])
    return line if len(line) <= 100 else f"{line[:99]}…"
