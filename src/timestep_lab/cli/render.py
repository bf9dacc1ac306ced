"""Terminal output: tables, traces, and the events of a run; and the JSON object of `--json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from timestep_lab.cli.context import console, printable, say
from timestep_lab.model.clock import iso, ms_between
from timestep_lab.model.codec import Json
from timestep_lab.model.display import cost_text, duration_text, tokens_text
from timestep_lab.model.events import (
    AgentUpdated,
    Event,
    ItemAdded,
    ItemDone,
    ItemReplaced,
    ItemUpdated,
    Progress,
    RunEnded,
    RunFailed,
    RunPaused,
    RunStopped,
)
from timestep_lab.model.records import RunRecord, ThreadItem
from timestep_lab.model.spans import SpanRecord

if TYPE_CHECKING:
    from timestep_lab.lab import Run


# --- Rows as a table on a terminal, and as tab-separated lines in a pipe


LEAST = 9
"""Minimum useful column width in characters. If some column cannot have it, each row becomes a block of lines."""
GAP = 2


def print_rows(
    console: Console, columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "No rows."
) -> None:
    """A table on a terminal, one line per row; otherwise a header and complete tab-separated values."""
    rows = list(rows)
    if not console.is_terminal:
        say("\t".join(columns))
        for row in rows:
            say("\t".join(_one_line(cell_text(value)) for value in row))
    elif not rows:
        console.print(f"[dim]{escape(empty)}[/]")
    else:
        widths = [max(len(column), *(len(_shown(row[index])) for row in rows)) for index, column in enumerate(columns)]
        room = console.width - GAP * (len(columns) - 1)
        if sum(min(LEAST, width) for width in widths) > room:
            _print_blocks(console, columns, rows)
        else:
            _print_table(console, columns, rows, _shared(widths, room))


def _shared(widths: Sequence[int], room: int) -> list[int]:
    """Column widths that fit into `room`: narrow columns keep their width, the widest are cut to the same width."""
    most = max(widths)
    while sum(min(width, most) for width in widths) > room:
        most -= 1
    return [min(width, most) for width in widths]


def _print_table(
    console: Console, columns: Sequence[str], rows: Sequence[Sequence[object]], widths: Sequence[int]
) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for index, (column, width) in enumerate(zip(columns, widths, strict=True)):
        numeric = all(isinstance(row[index], int | float | None) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True, overflow="ellipsis", width=width)
    for row in rows:
        table.add_row(*(Text(_shown(value)) for value in row))
    console.print(table)


def _print_blocks(console: Console, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """One line per value, cut to the window's width, with an empty line between rows."""
    width = max(map(len, columns))
    for number, row in enumerate(rows):
        if number:
            console.print()
        for column, value in zip(columns, row, strict=True):
            line = Text.assemble((f"{column:<{width}}", "bold"), "  ", _shown(value))
            console.print(line, no_wrap=True, overflow="ellipsis", soft_wrap=False)


def cell_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def _shown(value: object) -> str:
    """A value for a terminal: on one line, times without fractions of a second."""
    return f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else _one_line(cell_text(value))


def _one_line(text: str) -> str:
    return printable(text.replace("\t", " ").replace("\n", " "))


# --- A trace on a terminal: tree and waterfall combined, as wide as the window


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
    """A summary line, then one row per span: name, bar (`┊` marks the first token), duration, tokens, cost."""
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
    left = console.width - sum(numbers) - 2 * 4  # two columns of space between neighbours
    name_width = min(max(row.name.cell_len for row in rows), max(left - BAR_LEAST, NAME_LEAST), NAME_MOST)
    bar_width = min(max(left - name_width, BAR_LEAST), BAR_MOST)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False, expand=False)
    table.add_column(no_wrap=True, overflow="ellipsis", width=name_width)
    table.add_column(no_wrap=True, width=bar_width)
    for width in numbers:
        table.add_column(no_wrap=True, justify="right", width=width)
    for row in rows:
        offset = ms_between(begin, row.span.started_at)
        length = row.duration_ms if row.span.status == "pending" else row.duration_ms or 0.0
        bar = _bar(offset, length, row.span.ttft_ms, total, bar_width)
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
    took = "running" if span.status == "pending" else duration_text(duration)
    return _Row(span, name, colour, duration, (took, tokens, cost))


def _in_order(spans: Sequence[SpanRecord]) -> list[tuple[int, SpanRecord]]:
    """Spans with their depth, parents before children, siblings by start time. A span whose parent is missing is a
    root.
    """
    known = {span.span_id for span in spans}
    children: dict[str | None, list[SpanRecord]] = {}
    for span in sorted(spans, key=lambda s: (s.started_at, s.ended_at is None)):
        children.setdefault(span.parent_id if span.parent_id in known else None, []).append(span)
    ordered: list[tuple[int, SpanRecord]] = []
    seen: set[str] = set()

    def walk(roots: list[SpanRecord]) -> None:
        waiting = [(0, span) for span in reversed(roots)]
        while waiting:
            depth, span = waiting.pop()
            if span.span_id not in seen:
                seen.add(span.span_id)
                ordered.append((depth, span))
                waiting += [(depth + 1, child) for child in reversed(children.get(span.span_id, []))]

    walk(children.get(None, []))
    # A cycle of parents has no root: cut it at its earliest span.
    for span in sorted(spans, key=lambda s: s.started_at):
        walk([span])
    return ordered


def _bar(offset_ms: float, duration_ms: float | None, ttft_ms: float | None, total_ms: float, width: int) -> str:
    start = min(int(offset_ms / total_ms * width), width - 1)
    eighths = max(1, round((duration_ms if duration_ms is not None else total_ms - offset_ms) / total_ms * width * 8))
    full, rest = divmod(min(eighths, (width - start) * 8), 8)
    bar = " " * start + "█" * full + (BLOCKS[rest] if rest else "")
    if ttft_ms is not None and duration_ms and full > 2:
        tick = start + min(int(ttft_ms / duration_ms * full), full - 1)
        bar = bar[:tick] + "┊" + bar[tick + 1 :]
    return bar


def _first_line(value: object) -> str:
    text = value if isinstance(value, str) else "" if value is None else str(value)
    line = printable(text.strip().split("\n", 1)[0])
    return line if len(line) <= 100 else f"{line[:99]}…"


class Renderer:
    """Prints each event as it arrives. Streamed text continues on the line; every other event is one line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._open_text = False
        self._streams: dict[str, str] = {}
        self._shown: set[str] = set()

    def show(self, event: Event) -> None:
        if isinstance(event, AgentUpdated) and event.previous is None:
            self._line(f"[bold blue]{escape(event.agent)}[/] [dim]{escape(event.model)}[/]")
        elif isinstance(event, ItemAdded):
            self._streams[event.item.id] = event.item.type
        elif isinstance(event, ItemUpdated):
            self._delta(event)
        elif isinstance(event, ItemDone | ItemReplaced):
            self._item(event.item)
        elif isinstance(event, Progress):
            self._line(f"  [dim]… {escape(event.text)}[/]")
        elif isinstance(event, RunPaused):
            for waiting in event.interruptions:
                if waiting.asks:
                    self._line(f"  [bold yellow]? {escape(waiting.name)}[/] asks: {escape(waiting.reason)}")
                    continue
                reason = f" [dim]because {escape(waiting.reason)}[/]" if waiting.reason else ""
                self._line(f"  [bold yellow]? {escape(waiting.name)}[/] wants {_arguments(waiting.arguments)}{reason}")
        elif isinstance(event, RunFailed | RunStopped):
            self._line(f"  [red]✕ {escape(str(event.error.get('message', '')))}[/]")
        if isinstance(event, RunEnded):
            self._line(f"  [dim]{escape(_facts(event.run))}[/]")

    def _delta(self, event: ItemUpdated) -> None:
        if event.field == "text" and self._streams.get(event.item_id) == "assistant_message":
            if not self._open_text:
                self._console.print("  ", end="")
            self._open_text = True
            self._console.print(escape(event.delta), end="")

    def _item(self, item: ThreadItem) -> None:
        data = item.data
        if item.type == "handoff":
            self._line(
                f"  [magenta]⇢ {escape(str(data.get('from_agent')))} handed off to[/] "
                f"[bold blue]{escape(str(data.get('to_agent')))}[/]"
            )
        elif item.type == "tool_call" and data.get("status") not in ("in_progress", "needs_approval"):
            if item.id in self._shown:
                return
            self._shown.add(item.id)
            sign = {"completed": "[green]✓[/]", "rejected": "[yellow]✕ rejected[/]"}.get(
                str(data.get("status")), "[red]✕[/]"
            )
            where = f" [dim]{escape(str(data['server']))}[/]" if data.get("server") else ""
            took = (
                f" [dim]{duration_text(cast('float | None', data.get('duration_ms')))}[/]"
                if data.get("duration_ms") is not None
                else ""
            )
            self._line(
                f"  [green]{escape(str(data.get('name')))}[/]({_arguments(str(data.get('arguments') or ''))}){where}{took} {sign}"
            )
        elif item.type == "user_message":
            self._line(f"[bold]> {escape(str(data.get('text', '')))}[/]")
        elif item.type == "client_tool_call":
            self._line(
                f"  [green]{escape(str(data.get('name')))}[/]({escape(json.dumps(data.get('arguments')))}) [dim]client tool[/]"
            )

    def _line(self, markup: str) -> None:
        if self._open_text:
            self._console.print()
            self._open_text = False
        self._console.print(markup)


def _arguments(text: str) -> str:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return escape(text)
    if not isinstance(value, Mapping):
        return escape(text)
    return escape(", ".join(f"{name}={json.dumps(inner, ensure_ascii=False)}" for name, inner in value.items()))


def _facts(run: RunRecord) -> str:
    duration = (run.ended_at - run.started_at).total_seconds() * 1000 if run.ended_at else None
    first = f"first token {duration_text(run.ttft_ms)}" if run.ttft_ms is not None else ""
    tokens = tokens_text(run.usage.input_tokens + run.usage.output_tokens)
    return " · ".join(p for p in (run.model, duration_text(duration), first, tokens, cost_text(run.cost_usd)) if p)


def run_object(run: Run) -> dict[str, Json]:
    """The object of `timestep-lab run --json`."""
    usage = run.usage
    return {
        "output": run.output,
        "status": run.status,
        "thread_id": run.thread_id,
        "trace_id": run.trace_id,
        "run_id": run.id,
        "agent": run.agent,
        "model": run.model,
        "usage": {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "requests": usage.requests,
        },
        "cost_usd": run.cost,
        "ttft_ms": run.record.ttft_ms,
        "duration_ms": run.duration_ms,
        "error": run.error,
        "interruptions": [
            {
                "call_id": i.call_id,
                "name": i.name,
                "server": i.server,
                "arguments": i.arguments,
                "agent": i.agent,
                "reason": i.reason,
            }
            for i in run.interruptions
        ],
    }


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int, str, str | None], None]]:
    """A progress bar on stderr. Call it with the number done, the total, a note, and another description if that changed."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None, note="")

        def update(done: int, total: int, note: str, description: str | None = None) -> None:
            bar.update(task, completed=done, total=total, note=note, description=description)

        yield update
