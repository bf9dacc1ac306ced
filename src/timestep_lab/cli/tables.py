"""Rows on a terminal, and as plain tab-separated lines in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from timestep_lab.types.clock import iso


def print_rows(
    console: Console, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str = "No rows."
) -> None:
    """A table for people when the output is a terminal; else a header and tab-separated values."""
    rows = list(rows)
    if not console.is_terminal:
        click.echo("\t".join(columns))
        for row in rows:
            click.echo("\t".join(cell_text(value).replace("\t", " ").replace("\n", " ") for value in row))
        return
    if not rows:
        console.print(f"[dim]{escape(empty)}[/]")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float | None) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell_text(value)) for value in row))
    console.print(table)


def cell_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)
