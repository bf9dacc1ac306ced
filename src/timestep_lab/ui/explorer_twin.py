"""The list of traces as plain HTML, and below it the opened trace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timestep_lab.model.numbers import cost_text, count_text, duration_text
from timestep_lab.service.traces import TracePage, Traces
from timestep_lab.ui.trace_twin import SIGNS, moment, text, trace_html

MOST_ROWS = 50


def explorer_html(source: Traces, page: TracePage, selected: str | None) -> str:
    """The twin of the explorer: a table, and the opened trace if there is one."""
    if not page.data:
        return "<p>No traces. Every run is traced: <code>await lab.run(&quot;Umbrella in Oakland?&quot;)</code></p>"
    heads = ("Started", "Asked", "Agents", "Model", "Status")
    numbers = ("Turns", "Tokens", "Cost", "Time")
    head = "".join(f"<th align='left'>{name}</th>" for name in heads)
    head += "".join(f"<th align='right'>{name}</th>" for name in numbers)
    rows = "".join(_row(row) for row in page.data[:MOST_ROWS])
    total = page.total if page.total is not None else len(page.data)
    shown = min(len(page.data), MOST_ROWS)
    parts = [
        f"<p>{total:,} {'trace' if total == 1 else 'traces'}{f', the newest {shown} below' if total > shown else ''}</p>"
    ]
    parts.append(f"<table><tr>{head}</tr>{rows}</table>")
    if selected is not None:
        parts.append(trace_html(source, selected))
    return "\n".join(parts)


def _row(row: Mapping[str, Any]) -> str:
    known = [n for n in (row.get("input_tokens"), row.get("output_tokens")) if n is not None]
    status = SIGNS.get(str(row.get("status")), str(row.get("status") or ""))
    words = (moment(row.get("started_at")), row.get("input") or row.get("workflow") or "", row.get("agent_path") or "")
    cells = "".join(f"<td align='left'>{text(word, 120)}</td>" for word in (*words, row.get("model") or "", status))
    tokens = count_text(sum(known)) if known else "unknown"
    numbers = (
        row.get("turns") or "",
        tokens,
        cost_text(row.get("cost_usd"), row.get("n_unpriced")),
        duration_text(row.get("duration_ms")),
    )
    return f"<tr>{cells}{''.join(f'<td align=right>{text(number, 40)}</td>' for number in numbers)}</tr>"
