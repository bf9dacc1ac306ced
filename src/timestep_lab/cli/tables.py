"""Rows on a terminal, and as plain tab-separated lines in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from timestep_lab.cli.context import printable, say
from timestep_lab.model.clock import iso

LEAST = 9
"""Characters below which a column says nothing. Where not all have that many, a row becomes a block of lines."""
GAP = 2


def print_rows(
    console: Console, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str = "No rows."
) -> None:
    """A table for people when the output is a terminal, a line a row; else a header and tab-separated values, whole."""
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
    """What is short stays whole: the widest columns give way, all to the same width."""
    most = max(widths)
    while sum(min(width, most) for width in widths) > room:
        most -= 1
    return [min(width, most) for width in widths]


def _print_table(
    console: Console, columns: Sequence[str], rows: Sequence[Sequence[Any]], widths: Sequence[int]
) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for index, (column, width) in enumerate(zip(columns, widths, strict=True)):
        numeric = all(isinstance(row[index], int | float | None) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True, overflow="ellipsis", width=width)
    for row in rows:
        table.add_row(*(Text(_shown(value)) for value in row))
    console.print(table)


def _print_blocks(console: Console, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A value a line, clipped to the window; an empty line between rows."""
    width = max(map(len, columns))
    for number, row in enumerate(rows):
        if number:
            console.print()
        for column, value in zip(columns, row, strict=True):
            line = Text.assemble((f"{column:<{width}}", "bold"), "  ", _shown(value))
            console.print(line, no_wrap=True, overflow="ellipsis", soft_wrap=False)


def cell_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def _shown(value: Any) -> str:
    """On a terminal: one line, moments to the second."""
    return f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else _one_line(cell_text(value))


def _one_line(text: str) -> str:
    return printable(text.replace("\t", " ").replace("\n", " "))
